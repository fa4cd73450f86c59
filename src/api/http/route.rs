//! What a route is: its address, what it may do, what it takes and answers; and the checks before its endpoint
//! is called.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::bodies::{Cursor, body};
use super::failure::Failure;
use super::query::{Field, Query};
use super::request::{Method, Request};
use super::response::Response;
use super::shared::Shared;
use crate::api::operations::Operation;
use crate::api::session::Session;
use crate::model::error::Result;

pub(super) type Answer = std::result::Result<Response, Failure>;

/// What a route may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Shows nothing that is secret: needs no token.
    Open,
    Reads,
    /// Reads, and waits for the broker.
    ReadsLog,
    /// The same, with a method that changes something elsewhere.
    Previews,
    Changes,
    /// Changes something, unless `dry_run` is set.
    MayChange,
}

/// One address with one method.
pub(super) struct Route {
    pub method: Method,
    /// At most one part of it is in braces: any one part of a path fits there.
    pub path: &'static str,
    pub effect: Effect,
    /// `operationId` and `summary` in the API's description.
    pub id: &'static str,
    pub summary: &'static str,
    /// The fields that its query may have; `None` if the query is not looked at.
    pub query: Option<&'static [Field]>,
    pub endpoint: &'static dyn Endpoint,
}

/// What a route answers with.
pub(super) trait Endpoint: Sync {
    fn answer(&self, call: &mut Call<'_>) -> Answer;

    /// The content type of the answer, and its schema if it is JSON.
    fn content(&self) -> Content;

    /// The schema of the body that it takes; `None` if it takes none.
    fn body(&self) -> Option<Describe> {
        None
    }
}

/// Describes a type.
pub(super) type Describe = fn(&mut SchemaGenerator) -> Schema;

#[derive(Clone, Copy)]
pub(super) enum Content {
    Json(Describe),
    /// Something else, of this type, for people.
    Other {
        content_type: &'static str,
        about: &'static str,
    },
    /// The page, or a file of it, which a browser may have already.
    Page {
        content_type: &'static str,
    },
    /// The form's way to the page: no content.
    SignIn,
    /// Ready or not: JSON with status 200 or 503.
    Readiness(Describe),
}

/// An endpoint that answers JSON.
pub(super) struct Json<A>(pub fn(&mut Call<'_>) -> Result<A, Failure>);

impl<A: Serialize + JsonSchema> Endpoint for Json<A> {
    fn answer(&self, call: &mut Call<'_>) -> Answer {
        Ok(Response::json(200, &(self.0)(call)?))
    }

    fn content(&self) -> Content {
        Content::Json(SchemaGenerator::subschema_for::<A>)
    }
}

/// An endpoint that takes JSON and answers JSON.
pub(super) struct Posted<B, A>(pub fn(&mut Call<'_>, B) -> Result<A, Failure>);

impl<B: DeserializeOwned + JsonSchema, A: Serialize + JsonSchema> Endpoint for Posted<B, A> {
    fn answer(&self, call: &mut Call<'_>) -> Answer {
        let body = body(call.request)?;
        Ok(Response::json(200, &(self.0)(call, body)?))
    }

    fn content(&self) -> Content {
        Content::Json(SchemaGenerator::subschema_for::<A>)
    }

    fn body(&self) -> Option<Describe> {
        Some(SchemaGenerator::subschema_for::<B>)
    }
}

/// An endpoint that answers something else.
pub(super) struct Other {
    pub content: Content,
    pub answer: fn(&mut Call<'_>) -> Answer,
}

impl Endpoint for Other {
    fn answer(&self, call: &mut Call<'_>) -> Answer {
        (self.answer)(call)
    }

    fn content(&self) -> Content {
        self.content
    }
}

/// A request on its way to its answer.
pub(super) struct Call<'a> {
    pub shared: &'a Shared,
    pub session: &'a mut Session,
    pub request: &'a Request,
    pub route: &'a Route,
    /// What stands at the part in braces of the route's path.
    pub part: &'a str,
    pub routes: &'static [Route],
}

impl Call<'_> {
    /// Checks whether the request may be answered, and answers it.
    pub fn answer(&mut self) -> Answer {
        let route = self.route;
        let guard = &self.shared.guard;
        // A program that watches over processes may reach this one under any name.
        if route.path != "/healthz" {
            guard.check_host(self.request).map_err(Failure::forbidden)?;
        }
        if route.path.starts_with("/api/") || route.path == "/metrics" {
            guard.check_read(self.request).map_err(Failure::forbidden)?;
        }
        if route.method != Method::Get {
            guard.check_change(self.request).map_err(Failure::forbidden)?;
        }
        if route.effect != Effect::Open && !guard.is_signed_in(self.request) {
            return Ok(no_token());
        }
        if route.method != Method::Get && route.effect != Effect::Open {
            let checked = guard.check_json(self.request);
            checked.map_err(|refusal| Failure::new(415, "content_type", refusal.message))?;
        }
        let changes = match route.effect {
            Effect::Open | Effect::Reads | Effect::ReadsLog | Effect::Previews => false,
            Effect::Changes => true,
            Effect::MayChange => !body::<Cursor>(self.request)?.dry_run,
        };
        if changes && guard.read_only {
            let message = "mb was started with --read-only: the page and the API change nothing";
            return Err(Failure::new(403, "read_only", message));
        }
        let _long = match route.effect {
            Effect::Open | Effect::Reads => None,
            _ => Some(self.shared.begin_long().ok_or_else(|| {
                Failure::new(503, "busy", "too many such requests at once; try again soon")
            })?),
        };
        if route.query.is_some() {
            self.query()?;
        }
        let answer = route.endpoint.answer(self).map_err(|failure| match failure.status {
            // A request that only reads conflicts with nothing: what it reads is not there now.
            409 if route.method == Method::Get => {
                Failure { status: 503, kind: "unavailable", ..failure }
            }
            _ => failure,
        });
        if changes && answer.is_ok() {
            log::info!("{} {}: done, on request over HTTP", route.method.name(), self.request.path);
        }
        answer
    }

    /// The fields of the query.
    pub fn query(&self) -> Result<Query> {
        Query::of(self.request, self.route.query.unwrap_or_default())
    }

    pub fn perform<O: Operation>(&mut self, operation: O) -> Result<O::Answer, Failure> {
        let context = &self.shared.context;
        operation.perform(context, self.session).map_err(|error| {
            let mut failure = Failure::from(error);
            // Until a pipeline runs, nearly everything fails for this one reason.
            if failure.status != 400 && !context.is_attached() {
                (failure.status, failure.kind) = (503, "starting");
            }
            failure
        })
    }

    /// The number in the path.
    pub fn id(&self, what: &str) -> Result<i64, Failure> {
        let is_number = self.part.bytes().all(|byte| byte.is_ascii_digit());
        let id = self.part.parse().ok().filter(|_| is_number);
        id.ok_or_else(|| Failure::not_found(what, self.part))
    }

    /// `found`, if there is such a thing.
    pub fn found<T>(&self, what: &str, found: Option<T>) -> Result<T, Failure> {
        found.ok_or_else(|| Failure::not_found(what, self.part))
    }
}

fn no_token() -> Response {
    let message = "sign in at /login, or send the token as Authorization: Bearer";
    Response::error(401, "no_token", message).header("WWW-Authenticate", "Bearer".to_owned())
}

//! What is answered: the table of routes, who may ask for each, and how an error of mb becomes a
//! status. The answers themselves are `control::requests`', the same as on the control socket.

use serde_json::{Value, json};

use super::assets;
use super::bodies::{Cursor, Letters, Note, Nothing, Query, Span, body};
use super::pages;
use super::request::{Method, Request};
use super::response::Response;
use super::server::Shared;
use crate::api::control::requests::{self as control, Context, Session};
use crate::api::control::steer::Change;
use crate::api::control::watch::shared_overview;
use crate::api::metrics;
use crate::history::requests::Replay;
use crate::kafka::{Backend, Watermarks};
use crate::model::error::{Error, Result};
use crate::model::offset::Offset;
use crate::model::run::RunState;

/// A request on its way to its answer.
struct Call<'a> {
    shared: &'a Shared,
    session: &'a mut Session,
    request: &'a Request,
    /// What stands at `{id}` or `{name}` in the route's path.
    part: &'a str,
}

/// Why there is no answer.
struct Failure {
    status: u16,
    kind: &'static str,
    message: String,
}

type Answer = Result<Response, Failure>;

/// What a route may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// It says nothing that is secret: no token is needed.
    Open,
    Reads,
    /// Reads, and waits for the broker.
    Asks,
    /// Reads and waits for the broker, by a method that changes elsewhere.
    Previews,
    Changes,
    /// Changes, or with `dry_run` only says what would be.
    MayChange,
}

struct Route {
    method: Method,
    path: &'static str,
    effect: Effect,
    answer: fn(&mut Call<'_>) -> Answer,
}

const fn get(path: &'static str, effect: Effect, answer: fn(&mut Call<'_>) -> Answer) -> Route {
    Route { method: Method::Get, path, effect, answer }
}

const fn post(path: &'static str, effect: Effect, answer: fn(&mut Call<'_>) -> Answer) -> Route {
    Route { method: Method::Post, path, effect, answer }
}

/// All that is answered; a fixed path comes before one with a part that it would fit.
const ROUTES: &[Route] = &[
    get("/healthz", Effect::Open, |_| Ok(Response::text(200, "ok\n"))),
    get("/readyz", Effect::Open, ready),
    get("/metrics", Effect::Reads, metrics),
    get("/login", Effect::Open, |call| Ok(pages::form(200, call.request, ""))),
    post("/login", Effect::Open, |call| Ok(pages::sign_in(&call.shared.guard, call.request)?)),
    get("/assets/{name}", Effect::Open, |call| {
        assets::asset(call.part, call.request).ok_or_else(|| not_found("asset", call.part))
    }),
    get("/", Effect::Open, page),
    get("/runs", Effect::Open, page),
    get("/runs/{id}", Effect::Open, page),
    get("/ticks", Effect::Open, page),
    get("/dead-letters", Effect::Open, page),
    get("/dead-letters/{id}", Effect::Open, page),
    get("/lag", Effect::Open, page),
    get("/api/v1/openapi.json", Effect::Open, |_| {
        let text = include_bytes!("openapi.json");
        Ok(Response::new(200, "application/json", &text[..]))
    }),
    get("/api/v1/session", Effect::Reads, |call| {
        let guard = &call.shared.guard;
        let value = json!({ "read_only": guard.read_only, "token": guard.needs_token() });
        Ok(Response::json(200, &value))
    }),
    get("/api/v1/events", Effect::Reads, |call| {
        call.query(&[])?;
        Ok(Response::events())
    }),
    get("/api/v1/status", Effect::Reads, |call| call.plain(control::Request::Overview)),
    get("/api/v1/series", Effect::Reads, |call| call.plain(control::Request::Series)),
    get("/api/v1/lag", Effect::Reads, |call| call.plain(control::Request::Lag)),
    get("/api/v1/ticks", Effect::Reads, ticks),
    get("/api/v1/runs", Effect::Reads, runs),
    get("/api/v1/runs/counts", Effect::Reads, |call| call.plain(control::Request::RunCounts)),
    get("/api/v1/runs/{id}", Effect::Reads, |call| {
        let id = call.id("run")?;
        let run = call.handle(control::Request::Run { id })?;
        call.found("run", &run)
    }),
    get("/api/v1/runs/{id}/records", Effect::Asks, |call| {
        let run = call.known_run()?;
        call.plain(control::Request::Records { run })
    }),
    get("/api/v1/dead-letters", Effect::Reads, dead_letters),
    get("/api/v1/dead-letters/errors", Effect::Reads, dead_letter_errors),
    get("/api/v1/dead-letters/{id}", Effect::Reads, |call| {
        let id = call.id("dead letter")?;
        let letter = call.handle(control::Request::DeadLetter { id })?;
        call.found("dead letter", &letter)
    }),
    get("/api/v1/requests", Effect::Reads, |call| {
        let query = call.query(&["state", "limit"])?;
        let selection = json!({ "state": query.text("state"), "limit": query.limit()? });
        let rows = call.handle(control::Request::Requests(selected(selection)?))?;
        Ok(Response::json(200, &json!({ "requests": rows })))
    }),
    post("/api/v1/sensor/pause", Effect::Changes, |call| call.order(control::Request::Pause)),
    post("/api/v1/sensor/resume", Effect::Changes, |call| call.order(control::Request::Resume)),
    post("/api/v1/sensor/tick", Effect::Changes, |call| call.order(control::Request::Tick)),
    post("/api/v1/sensor/preview", Effect::Previews, |call| {
        body::<Nothing>(call.request)?;
        call.plain(control::Request::Preview)
    }),
    post("/api/v1/sensor/cursor", Effect::MayChange, |call| {
        let target = body::<Cursor>(call.request)?.target()?;
        let moves = call.handle(control::Request::MoveCursor(target))?;
        Ok(Response::json(200, &json!({ "moves": moves })))
    }),
    post("/api/v1/runs/{id}/cancel", Effect::Changes, |call| {
        let Note { note } = body(call.request)?;
        let id = call.known_run()?;
        call.act(control::Request::CancelRun { id, note })
    }),
    post("/api/v1/runs/{id}/again", Effect::Changes, |call| {
        body::<Nothing>(call.request)?;
        let id = call.known_run()?;
        call.act(control::Request::RunAgain { id })
    }),
    post("/api/v1/dead-letters/redrive", Effect::Changes, |call| {
        let asked = body::<Letters>(call.request)?.redrive()?;
        let requests = call.handle(asked)?;
        Ok(Response::json(200, &json!({ "requests": requests })))
    }),
    post("/api/v1/dead-letters/discard", Effect::Changes, |call| {
        let asked = body::<Letters>(call.request)?.discard()?;
        let discarded = call.handle(asked)?;
        Ok(Response::json(200, &json!({ "discarded": discarded })))
    }),
    post("/api/v1/replay", Effect::Changes, |call| {
        let span = body(call.request)?;
        let replay = replay(&call.shared.context, &span)?;
        let requests = call.handle(control::Request::Replay(replay))?;
        Ok(Response::json(200, &json!({ "requests": requests })))
    }),
    post("/api/v1/requests/{id}/cancel", Effect::Changes, |call| {
        let Note { note } = body(call.request)?;
        let ids = vec![call.id("request")?];
        call.handle(control::Request::CancelRequests { ids, note })?;
        Ok(Response::json(200, &json!({})))
    }),
    Route {
        method: Method::Patch,
        path: "/api/v1/settings",
        effect: Effect::Changes,
        answer: |call| {
            let change: Change = body(call.request)?;
            if change == Change::default() {
                let message = "body: got no setting, expected rate, max_batch, \
                     max_concurrent_runs or tick_interval_s";
                return Err(Error::Usage(message.into()).into());
            }
            call.plain(control::Request::Set(change))
        },
    },
];

/// The answer to a request, an error's included.
pub fn answer(shared: &Shared, session: &mut Session, request: &Request) -> Response {
    let fits = |route: &&Route| part_of(route.path, &request.path).is_some();
    let mut methods = Vec::new();
    for route in ROUTES.iter().filter(fits) {
        let is_head = request.method == Method::Head && route.method == Method::Get;
        if route.method != request.method && !is_head {
            // A fixed path may fit one with a part too.
            if !methods.contains(&route.method) {
                methods.push(route.method);
            }
            continue;
        }
        let part = part_of(route.path, &request.path).unwrap_or_default();
        let mut call = Call { shared, session, request, part };
        return call.answer(route).unwrap_or_else(|failure| {
            log::debug!("{} {}: {}", request.method.name(), request.path, failure.message);
            failure.into()
        });
    }
    if let Err(refusal) = shared.guard.check_host(request) {
        return refusal.into();
    }
    if methods.is_empty() {
        return Failure::new(404, "not_found", "nothing is at this address").into();
    }
    let mut allowed = Vec::new();
    for method in methods {
        allowed.push(method.name());
        if method == Method::Get {
            allowed.push(Method::Head.name());
        }
    }
    let allowed = allowed.join(", ");
    let message = format!("this address takes {allowed}");
    Response::error(405, "method", &message).header("Allow", allowed)
}

/// What of `path` stands at the part of `pattern` that is in braces, empty where it has none; `None`
/// where they do not fit.
fn part_of<'a>(pattern: &str, path: &'a str) -> Option<&'a str> {
    let Some((before, rest)) = pattern.split_once('{') else {
        return (pattern == path).then_some("");
    };
    let (_, behind) = rest.split_once('}')?;
    let part = path.strip_prefix(before)?.strip_suffix(behind)?;
    (!part.is_empty() && !part.contains('/')).then_some(part)
}

impl Call<'_> {
    fn answer(&mut self, route: &Route) -> Answer {
        let guard = &self.shared.guard;
        // Whoever looks after processes may know this one by any name.
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
            Effect::Open | Effect::Reads | Effect::Asks | Effect::Previews => false,
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
        let answer = (route.answer)(self).map_err(|failure| match failure.status {
            // Nothing that is only read can be in the way of something.
            409 if route.method == Method::Get => {
                Failure { status: 503, kind: "unavailable", ..failure }
            }
            _ => failure,
        });
        if changes && answer.is_ok() {
            log::info!("{} {}: done, as asked over HTTP", route.method.name(), self.request.path);
        }
        answer
    }

    fn query(&self, known: &'static [&'static str]) -> Result<Query> {
        Query::of(self.request, known)
    }

    /// What mb answers.
    fn handle(&mut self, request: control::Request) -> Result<Value, Failure> {
        let context = &self.shared.context;
        control::handle(context, self.session, request).map_err(|error| {
            let mut failure = Failure::from(error);
            // Before the pipeline runs nearly everything fails, for this one reason.
            if failure.status != 400 && !context.is_attached() {
                (failure.status, failure.kind) = (503, "starting");
            }
            failure
        })
    }

    /// The answer as it is, to a request without a query.
    fn plain(&mut self, request: control::Request) -> Answer {
        self.query(&[])?;
        Ok(Response::json(200, &self.handle(request)?))
    }

    /// For what has nothing to say but that it was done.
    fn order(&mut self, request: control::Request) -> Answer {
        body::<Nothing>(self.request)?;
        self.handle(request)?;
        Ok(Response::json(200, &json!({})))
    }

    /// What is asked about a run that there is: where it cannot be done, that is no error of the
    /// request's words.
    fn act(&mut self, request: control::Request) -> Answer {
        let answer = self.handle(request).map_err(|mut failure| {
            if failure.status == 400 {
                (failure.status, failure.kind) = (409, "conflict");
            }
            failure
        })?;
        Ok(Response::json(200, &answer))
    }

    fn id(&self, what: &str) -> Result<i64, Failure> {
        let is_number = self.part.bytes().all(|byte| byte.is_ascii_digit());
        let id = self.part.parse().ok().filter(|_| is_number);
        id.ok_or_else(|| not_found(what, self.part))
    }

    /// The number of a run that the history has.
    fn known_run(&mut self) -> Result<i64, Failure> {
        let id = self.id("run")?;
        match self.handle(control::Request::Run { id })? {
            Value::Null => Err(not_found("run", self.part)),
            _ => Ok(id),
        }
    }

    fn found(&self, what: &str, value: &Value) -> Answer {
        self.query(&[])?;
        if value.is_null() {
            return Err(not_found(what, self.part));
        }
        Ok(Response::json(200, value))
    }
}

/// A selection of the history's by its fields; what is null is as if it were not there.
fn selected<T: serde::de::DeserializeOwned>(fields: Value) -> Result<T> {
    serde_json::from_value(fields)
        .map_err(|cause| Error::Other(format!("a selection that cannot be made: {cause}")))
}

/// A page of rows, of which one more was read than it has: whether there is a next one.
fn page_of(mut rows: Value, limit: u32) -> (Value, bool) {
    let mut is_more = false;
    if let Some(rows) = rows.as_array_mut() {
        is_more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
    }
    (rows, is_more)
}

/// The number of the last row, which the next page goes on below.
fn last_id(rows: &Value) -> Value {
    let last = rows.as_array().and_then(|rows| rows.last());
    last.map_or(Value::Null, |row| row["id"].clone())
}

fn ticks(call: &mut Call<'_>) -> Answer {
    let query = call.query(&["ended_by", "busy", "before", "limit"])?;
    let limit = query.limit()?;
    let selection = json!({
        "ended_by": query.text("ended_by"),
        "busy": query.is_set("busy")?,
        "before": query.number::<i64>("before")?,
        "limit": limit + 1,
    });
    let rows = call.handle(control::Request::Ticks(selected(selection)?))?;
    let (rows, is_more) = page_of(rows, limit);
    let next = if is_more { last_id(&rows) } else { Value::Null };
    Ok(Response::json(200, &json!({ "ticks": rows, "next": next })))
}

const RUN_FIELDS: &[&str] = &[
    "state",
    "partition",
    "error",
    "since",
    "until",
    "request",
    "sort",
    "order",
    "before",
    "skip",
    "limit",
];
const RUN_SORTS: &[&str] = &["id", "records", "bytes", "attempts", "queued", "wait", "run_time"];

fn runs(call: &mut Call<'_>) -> Answer {
    let query = call.query(RUN_FIELDS)?;
    let limit = query.limit()?;
    let states: Vec<&str> =
        RunState::ALL.iter().map(|state| state.name()).chain(["running"]).collect();
    let request = query.number::<i64>("request")?;
    let sort = query.choice("sort", RUN_SORTS)?.unwrap_or_else(|| "id".to_owned());
    let order = query.choice("order", &["asc", "desc"])?.unwrap_or_else(|| "desc".to_owned());
    let before = query.number::<i64>("before")?;
    let skip = query.number::<u32>("skip")?;
    let is_newest_first = sort == "id" && order == "desc";
    if !is_newest_first && before.is_some() {
        let message = "before: only the newest first are paged so; others by skip";
        return Err(Error::Usage(message.into()).into());
    }
    let selection = json!({
        "state": query.choice("state", &states)?,
        "partition": query.number::<i32>("partition")?,
        "error": query.text("error"),
        "since": query.number::<i64>("since")?,
        "until": query.number::<i64>("until")?,
        "of_request": request,
        "sort": sort,
        "order": order,
        "before": before,
        "skip": skip.unwrap_or_default(),
        "limit": limit + 1,
    });
    let rows = call.handle(control::Request::Runs(selected(selection)?)).map_err(|failure| {
        // The one thing that is looked for before the rows are.
        if request.is_some() && failure.status == 409 {
            return Failure { status: 404, kind: "not_found", ..failure };
        }
        failure
    })?;
    let (rows, is_more) = page_of(rows, limit);
    let next = match (is_more, is_newest_first) {
        (false, _) => Value::Null,
        (true, true) => json!({ "before": last_id(&rows) }),
        (true, false) => json!({ "skip": skip.unwrap_or_default().saturating_add(limit) }),
    };
    Ok(Response::json(200, &json!({ "runs": rows, "next": next })))
}

fn dead_letters(call: &mut Call<'_>) -> Answer {
    let query = call.query(&["state", "error", "before", "limit"])?;
    let limit = query.limit()?;
    let selection = json!({
        "state": query.text("state").unwrap_or_else(|| "open".to_owned()),
        "error": query.text("error"),
        "before": query.number::<i64>("before")?,
        "limit": limit + 1,
    });
    let rows = call.handle(control::Request::DeadLetters(selected(selection)?))?;
    let (rows, is_more) = page_of(rows, limit);
    let next = if is_more { last_id(&rows) } else { Value::Null };
    Ok(Response::json(200, &json!({ "dead_letters": rows, "next": next })))
}

fn dead_letter_errors(call: &mut Call<'_>) -> Answer {
    let query = call.query(&["state", "skip", "limit"])?;
    let selection = json!({
        "state": query.text("state").unwrap_or_else(|| "open".to_owned()),
        "skip": query.number::<u32>("skip")?.unwrap_or_default(),
        "limit": query.limit()?,
    });
    let rows = call.handle(control::Request::DeadLetterErrors(selected(selection)?))?;
    Ok(Response::json(200, &json!({ "errors": rows })))
}

/// What is replayed of the offsets that are asked for: those that the log has.
fn replay(context: &Context, span: &Span) -> Result<Replay> {
    let Span { partition, from, to } = *span;
    if !(0..=to).contains(&from) {
        return Err(Error::Usage(format!(
            "from, to: got {from} and {to}, expected offsets from 0 on, the lower one first"
        )));
    }
    context.with_pipeline(|pipeline| {
        let topic = &pipeline.topic;
        if !topic.partitions.contains(&partition) {
            return Err(Error::Usage(format!(
                "partition: got {partition}, topic {} has no such one",
                topic.name
            )));
        }
        let Watermarks { beginning, end } =
            pipeline.broker.watermarks_of(&topic.name, partition)?;
        let (first, last) = (from.max(beginning.get()), to.min(end.get() - 1));
        if first > last {
            return Err(Error::Config(format!(
                "nothing of {}/{partition} {from}-{to} is in the log, which has {beginning} to {}",
                topic.name,
                Offset::new((end.get() - 1).max(0))
            )));
        }
        Ok(Replay {
            embedded: pipeline.broker.backend() == Backend::Embedded,
            cluster_id: topic.cluster_id.clone().unwrap_or_default(),
            group: pipeline.config.connection.group.clone(),
            topic: topic.name.clone(),
            topic_id: topic.id.clone().unwrap_or_default(),
            ranges: vec![(partition, first, last)],
        })
    })
}

/// Ready or not; why, in words, only for who may read the rest too.
fn ready(call: &mut Call<'_>) -> Answer {
    let mut health = shared_overview(&call.shared.context)?.health.clone();
    if !call.shared.guard.is_signed_in(call.request) {
        for reason in &mut health.reasons {
            "said to those who send the token".clone_into(&mut reason.detail);
        }
    }
    let status = if health.ready { 200 } else { 503 };
    Ok(Response::json(status, &json!(health)))
}

fn metrics(call: &mut Call<'_>) -> Answer {
    let text = metrics::exposition(&call.shared.context)?;
    Ok(Response::new(200, metrics::CONTENT_TYPE, text.into_bytes()))
}

fn page(call: &mut Call<'_>) -> Answer {
    Ok(pages::page(&call.shared.guard, call.request))
}

fn no_token() -> Response {
    let message = "sign in at /login, or send the token as Authorization: Bearer";
    Response::error(401, "no_token", message).header("WWW-Authenticate", "Bearer".to_owned())
}

fn not_found(what: &str, part: &str) -> Failure {
    Failure::new(404, "not_found", format!("there is no {what} {part}"))
}

impl Failure {
    fn new(status: u16, kind: &'static str, message: impl Into<String>) -> Failure {
        Failure { status, kind, message: message.into() }
    }

    fn forbidden(refusal: super::request::Refusal) -> Failure {
        Failure::new(refusal.status, "forbidden", refusal.message)
    }
}

impl From<Failure> for Response {
    fn from(failure: Failure) -> Response {
        Response::error(failure.status, failure.kind, &failure.message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let (status, kind) = match &error {
            Error::Usage(_) => (400, "usage"),
            Error::Config(_)
            | Error::Unsupported { .. }
            | Error::UnknownTopic { .. }
            | Error::OffsetOutOfRange { .. }
            | Error::LogReplaced(_)
            | Error::Halt(_) => (409, "conflict"),
            Error::Broker { .. }
            | Error::NoLeader { .. }
            | Error::Storage { .. }
            | Error::Unreadable { .. } => (503, "unavailable"),
            Error::Panic { .. } | Error::Forced(_) => (500, "internal"),
            // What somebody asked for does not fit what is there.
            Error::Other(_) => (409, "conflict"),
        };
        // Fields have no dashes, as flags do.
        let message = error.to_string();
        let message = message.strip_prefix("--").map(str::to_owned).unwrap_or(message);
        Failure { status, kind, message }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_openapi_file_has_every_route_and_no_other() {
        let file: Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
        let mut described = BTreeSet::new();
        for (path, operations) in file["paths"].as_object().unwrap() {
            for method in operations.as_object().unwrap().keys() {
                described.insert(format!("{} {path}", method.to_uppercase()));
            }
        }
        let name = |route: &Route| format!("{} {}", route.method.name(), route.path);
        let served: BTreeSet<_> = ROUTES.iter().map(name).collect();
        assert_eq!(served.len(), ROUTES.len(), "none is there twice");
        assert_eq!(served, described, "src/api/http/openapi.json");
    }

    #[test]
    fn a_path_with_a_part_fits_one_part() {
        assert_eq!(part_of("/runs/{id}", "/runs/7"), Some("7"));
        assert_eq!(part_of("/runs/{id}/again", "/runs/7/again"), Some("7"));
        assert_eq!(part_of("/runs", "/runs"), Some(""));
        for path in ["/runs/", "/runs", "/runs/7/again", "/runs/7/8"] {
            assert_eq!(part_of("/runs/{id}", path), None, "{path}");
        }
        assert_eq!(part_of("/runs/{id}/again", "/runs//again"), None);
        assert_eq!(part_of("/runs/{id}/again", "/runs/again"), None);
    }
}

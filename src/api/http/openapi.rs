//! The API's description (OpenAPI 3.1), made from the table of routes and the types of bodies and answers.

use std::sync::OnceLock;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::query::{Field, Kind};
use super::request::Method;
use super::route::{Content, Effect, Route};
use crate::config::limits;
use crate::observe::overview::Overview;

const ABOUT: &str = "What a running mb shows, and how it is controlled. Times are milliseconds since 1970 (UTC). \
     Changes are sent as JSON (Content-Type: application/json) from the same origin. With --read-only they are \
     refused, except for a preview and a dry run; with --token-file everything under /api needs the token. \
     Fields may be added.";

/// An error's answer.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Error")]
struct ErrorAnswer {
    error: ErrorBody,
}

#[derive(Serialize, JsonSchema)]
struct ErrorBody {
    /// A word for programs.
    kind: String,
    /// One line for people.
    message: String,
}

/// The schema of the description itself.
pub(super) fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object" })
}

/// The description as JSON; made once.
pub(super) fn json(routes: &[Route], cookie: &str) -> &'static [u8] {
    static MADE: OnceLock<Vec<u8>> = OnceLock::new();
    MADE.get_or_init(|| document(routes, cookie).to_string().into_bytes())
}

fn document(routes: &[Route], cookie: &str) -> Value {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    for route in routes {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.name().to_lowercase()] = operation(route, &mut schemas);
    }
    let mut responses = Map::new();
    for (status, about) in ERRORS {
        let error = schemas.answers.subschema_for::<ErrorAnswer>();
        let content = json!({ "application/json": { "schema": error } });
        responses
            .insert(format!("Error{status}"), json!({ "description": about, "content": content }));
    }
    // The data of an event.
    schemas.answers.subschema_for::<Overview>();
    json!({
        "openapi": "3.1.0",
        "info": { "title": "mb", "version": "1", "description": ABOUT },
        "security": [{}, { "bearer": [] }, { "cookie": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer" },
                "cookie": { "type": "apiKey", "in": "cookie", "name": cookie }
            },
            "responses": responses,
            "schemas": schemas.into_definitions()
        }
    })
}

/// Generators of schemas: what mb reads and what it writes differ in which fields are required.
struct Schemas {
    bodies: SchemaGenerator,
    answers: SchemaGenerator,
}

impl Schemas {
    fn new() -> Schemas {
        let mut settings = SchemaSettings::draft2020_12();
        settings.definitions_path = "/components/schemas".into();
        Schemas {
            bodies: settings.clone().for_deserialize().into_generator(),
            answers: settings.for_serialize().into_generator(),
        }
    }

    fn into_definitions(mut self) -> Map<String, Value> {
        let mut all = self.bodies.take_definitions(true);
        all.append(&mut self.answers.take_definitions(true));
        all
    }
}

const ERRORS: [(u16, &str); 9] = [
    (400, "A field or the body is wrong."),
    (401, "No token, and --token-file asks for one."),
    (403, "Another host or origin, or --read-only."),
    (404, "There is no such thing."),
    (409, "Not possible as things are."),
    (411, "A body in chunks."),
    (413, "The body is too large."),
    (415, "The body is not declared as JSON."),
    (503, "mb is still waiting for its broker, or cannot answer now."),
];

fn operation(route: &Route, schemas: &mut Schemas) -> Value {
    let mut operation = Map::new();
    operation.insert("operationId".into(), json!(route.id));
    operation.insert("summary".into(), json!(route.summary));
    if route.effect == Effect::Open {
        operation.insert("security".into(), json!([]));
    }
    let parameters = parameters(route);
    if !parameters.is_empty() {
        operation.insert("parameters".into(), json!(parameters));
    }
    if let Some(body) = route.endpoint.body() {
        let schema = body(&mut schemas.bodies);
        let is_required = required_fields(&schemas.bodies, &schema);
        let content = json!({ "application/json": { "schema": schema } });
        operation
            .insert("requestBody".into(), json!({ "required": is_required, "content": content }));
    }
    let mut responses = answers(route, schemas);
    for status in errors(route) {
        let place = format!("#/components/responses/Error{status}");
        responses.insert(status.to_string(), json!({ "$ref": place }));
    }
    if let Content::SignIn = route.endpoint.content() {
        let form = json!({
            "type": "object",
            "properties": { "token": { "type": "string" } },
            "required": ["token"]
        });
        let content = json!({ "application/x-www-form-urlencoded": { "schema": form } });
        operation.insert("requestBody".into(), json!({ "required": true, "content": content }));
    }
    operation.insert("responses".into(), Value::Object(responses));
    Value::Object(operation)
}

/// Whether a body must be sent: one without required fields may be left out.
fn required_fields(generator: &SchemaGenerator, schema: &Schema) -> bool {
    let name =
        schema.get("$ref").and_then(Value::as_str).and_then(|place| place.rsplit('/').next());
    let definition = name.and_then(|name| generator.definitions().get(name));
    definition.is_some_and(|definition| definition.get("required").is_some())
}

fn parameters(route: &Route) -> Vec<Value> {
    let mut parameters = Vec::new();
    if let Some((name, _)) = route.path.split_once('{').and_then(|(_, rest)| rest.split_once('}')) {
        let kind = if name == "id" { "integer" } else { "string" };
        parameters.push(
            json!({ "name": name, "in": "path", "required": true, "schema": { "type": kind } }),
        );
    }
    for Field { name, kind, about, default } in route.query.unwrap_or_default() {
        let mut schema = match kind {
            Kind::Text => json!({ "type": "string" }),
            Kind::Integer => json!({ "type": "integer" }),
            Kind::Boolean => json!({ "type": "boolean" }),
            Kind::Choice(choices) => json!({ "type": "string", "enum": choices }),
            Kind::PageRows => json!({
                "type": "integer",
                "minimum": 1,
                "maximum": limits::HTTP_PAGE_ROWS_MAX,
                "default": limits::HTTP_PAGE_ROWS
            }),
        };
        if let Some(default) = default {
            schema["default"] = json!(default);
        }
        parameters.push(json!({
            "name": name, "in": "query", "required": false, "description": about, "schema": schema
        }));
    }
    parameters
}

/// The answers that are no errors, by their status.
fn answers(route: &Route, schemas: &mut Schemas) -> Map<String, Value> {
    let text = |about: &str, content_type: &str| {
        let content = json!({ content_type: { "schema": { "type": "string" } } });
        json!({ "description": about, "content": content })
    };
    let mut json_of = |about: &str, describe: super::route::Describe| {
        let content = json!({ "application/json": { "schema": describe(&mut schemas.answers) } });
        json!({ "description": about, "content": content })
    };
    let answers = match route.endpoint.content() {
        Content::Json(describe) => vec![(200, json_of("Done; or what was asked for.", describe))],
        Content::Other { content_type, about } => vec![(200, text(about, content_type))],
        Content::Page { content_type } => vec![
            (200, text("The page, or its file.", content_type)),
            (303, json!({ "description": "To /login, if a token is needed." })),
            (304, json!({ "description": "As before (If-None-Match)." })),
        ],
        Content::SignIn => vec![
            (303, json!({ "description": "Signed in: the cookie, and where to go." })),
            (401, text("Not the token: the form once more.", "text/html")),
        ],
        Content::Readiness(describe) => vec![
            (200, json_of("Ready.", describe)),
            (
                503,
                json_of(
                    "Not ready, and why; for clients without the token only in words for programs.",
                    describe,
                ),
            ),
        ],
    };
    answers.into_iter().map(|(status, answer)| (status.to_string(), answer)).collect()
}

/// The errors that a route can answer with, which follow from what it does and takes.
fn errors(route: &Route) -> Vec<u16> {
    if route.path == "/healthz" {
        return Vec::new();
    }
    let mut errors = vec![403];
    if route.path.contains('{') && !matches!(route.path, "/runs/{id}" | "/dead-letters/{id}") {
        errors.push(404);
    }
    if route.method != Method::Get || route.query.is_some() {
        errors.push(400);
    }
    if route.effect != Effect::Open {
        errors.extend([401, 503]);
        if route.method != Method::Get {
            errors.extend([409, 411, 413, 415]);
        }
        // Runs of a request that there is not.
        let fields = route.query.unwrap_or_default();
        if fields.iter().any(|field| field.name == "request") {
            errors.push(404);
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::table::ROUTES;
    use super::*;

    #[test]
    fn every_route_is_described_once() {
        let document = document(ROUTES, "mb_session_3000");
        let mut ids = BTreeSet::new();
        for route in ROUTES {
            let operation = &document["paths"][route.path][route.method.name().to_lowercase()];
            assert_eq!(operation["operationId"], route.id, "{} is there twice", route.path);
            assert!(ids.insert(route.id), "{} is another operation's", route.id);
        }
    }

    #[test]
    fn answers_require_each_field_and_bodies_only_those_without_a_default() {
        let document = document(ROUTES, "mb_session_3000");
        let schemas = &document["components"]["schemas"];
        let required =
            |name: &str| schemas[name]["required"].as_array().cloned().unwrap_or_default();
        assert!(required("Run").contains(&json!("error")), "an answer has it, null or not");
        assert_eq!(required("CursorBody"), [json!("offsets")]);
        assert_eq!(schemas["CursorBody"]["additionalProperties"], false);
        assert_eq!(
            document["paths"]["/api/v1/sensor/cursor"]["post"]["requestBody"]["required"],
            true
        );
        assert_eq!(
            document["paths"]["/api/v1/sensor/pause"]["post"]["requestBody"]["required"],
            false
        );
    }
}

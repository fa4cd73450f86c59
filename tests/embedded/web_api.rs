//! The API held against its description: every operation of the OpenAPI file is asked for, answers
//! with a status that it names, and a body that fits its schema.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::http::Http;
use crate::support::mb::Mb;

const LIMIT: Duration = Duration::from_secs(60);
const JSON: &str = "Content-Type: application/json\r\n";

/// An mb of which every run fails, with dead letters.
fn failing() -> (Mb, Http) {
    let mb = Mb::start(&[
        "--client",
        "embedded",
        "--rate",
        "max",
        "--count",
        "200",
        "--max-batch",
        "20",
        "--max-attempts",
        "1",
        "--on-outage",
        "dead-letter",
        "--exec",
        "echo cannot >&2; exit 1",
        "--listen",
        "127.0.0.1:0",
    ]);
    let http = Http::of(&mb);
    mb.wait_for_line("worker(s), batches of", LIMIT);
    eventually(LIMIT, "all are dead letters", || {
        let errors = http.get("/api/v1/dead-letters/errors");
        let counts = errors.json();
        counts["errors"].as_array().is_some_and(|errors| {
            errors.iter().filter_map(|error| error["letters"].as_i64()).sum::<i64>() == 200
        })
    });
    (mb, http)
}

fn description(http: Http) -> Value {
    let file = http.get("/api/v1/openapi.json");
    assert_eq!(file.status, 200);
    file.json()
}

/// Where `value` does not fit `schema`, as far as the file uses JSON Schema; a word of it that is not
/// known here is a failure too.
fn misfit(file: &Value, schema: &Value, value: &Value, at: &str) -> Option<String> {
    let schema = resolved(file, schema);
    for (word, rule) in schema.as_object().expect("a schema is an object") {
        let found = match word.as_str() {
            "description" | "default" | "format" | "title" => None,
            "const" => (value != rule).then(|| format!("{at}: {value} is not {rule}")),
            "type" => {
                let types = rule.as_array().cloned().unwrap_or_else(|| vec![rule.clone()]);
                let fits = types.iter().any(|kind| is_of_type(value, kind.as_str().unwrap()));
                (!fits).then(|| format!("{at}: {value} is not {rule}"))
            }
            "enum" => {
                let fits = rule.as_array().unwrap().contains(value);
                (!fits).then(|| format!("{at}: {value} is none of {rule}"))
            }
            "minimum" => value
                .as_f64()
                .is_some_and(|value| Some(value) < rule.as_f64())
                .then(|| format!("{at}: below {rule}")),
            "maximum" => value
                .as_f64()
                .is_some_and(|value| Some(value) > rule.as_f64())
                .then(|| format!("{at}: above {rule}")),
            "anyOf" => {
                let mut rules = rule.as_array().unwrap().iter();
                let fits = rules.any(|rule| misfit(file, rule, value, at).is_none());
                (!fits).then(|| format!("{at}: {value} fits none of {rule}"))
            }
            "oneOf" => {
                let rules = rule.as_array().unwrap().iter();
                let fitting = rules.filter(|rule| misfit(file, rule, value, at).is_none()).count();
                (fitting != 1).then(|| format!("{at}: {value} fits {fitting} of {rule}"))
            }
            "items" => value
                .as_array()
                .into_iter()
                .flatten()
                .enumerate()
                .find_map(|(index, item)| misfit(file, rule, item, &format!("{at}[{index}]"))),
            "required" => rule.as_array().unwrap().iter().find_map(|name| {
                let name = name.as_str().unwrap();
                let is_missing = value.is_object() && value.get(name).is_none();
                is_missing.then(|| format!("{at}: no {name}"))
            }),
            "properties" => rule
                .as_object()
                .unwrap()
                .iter()
                .find_map(|(name, rule)| {
                    let part = value.get(name)?;
                    misfit(file, rule, part, &format!("{at}.{name}"))
                })
                .or_else(|| {
                    // The description allows fields to be added. Here each one must be described.
                    let has = |name: &String| rule.get(name).is_some();
                    let fields = value.as_object().into_iter().flatten();
                    let is_open = schema.get("additionalProperties").is_some();
                    let mut unknown = fields.map(|(name, _)| name).filter(|name| !has(name));
                    unknown
                        .next()
                        .filter(|_| !is_open)
                        .map(|name| format!("{at}: {name} is not described"))
                }),
            "additionalProperties" => {
                value.as_object().into_iter().flatten().find_map(|(name, part)| {
                    let is_named = schema["properties"].get(name).is_some();
                    match rule {
                        _ if is_named => None,
                        Value::Bool(true) => None,
                        Value::Bool(false) => Some(format!("{at}: {name} is not described")),
                        rule => misfit(file, rule, part, &format!("{at}.{name}")),
                    }
                })
            }
            other => Some(format!("{at}: this test does not know {other}")),
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

fn is_of_type(value: &Value, kind: &str) -> bool {
    match kind {
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "null" => value.is_null(),
        other => panic!("no type {other}"),
    }
}

/// What a `$ref` points to.
fn resolved<'a>(file: &'a Value, value: &'a Value) -> &'a Value {
    match value.get("$ref").and_then(Value::as_str) {
        Some(place) => file.pointer(&place[1..]).unwrap_or_else(|| panic!("no {place}")),
        None => value,
    }
}

/// Asks, and holds the answer against the operation at `template`; its status and its JSON.
fn ask(
    file: &Value,
    http: Http,
    method: &str,
    template: &str,
    path: &str,
    body: &str,
) -> (u16, Value) {
    let what = format!("{method} {path} {body}");
    let operation = &file["paths"][template][method.to_lowercase()];
    assert!(operation.is_object(), "{what}: not described");
    if let Some(schema) = operation.pointer("/requestBody/content/application~1json/schema") {
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(misfit(file, schema, &body, "body"), None, "{what}");
    }
    let answer = http.ask(method, path, if method == "GET" { "" } else { JSON }, body);
    let response = &operation["responses"][answer.status.to_string()];
    assert!(response.is_object(), "{what}: {} is not described: {answer:?}", answer.status);
    let content = &resolved(file, response)["content"];
    let Some(content) = content.as_object() else { return (answer.status, Value::Null) };
    let kind = answer.header("Content-Type").unwrap_or_default().split(';').next().unwrap();
    assert!(content.contains_key(kind) || content.contains_key("*/*"), "{what}: is {kind}");
    if kind != "application/json" {
        return (answer.status, Value::Null);
    }
    let value = answer.json();
    let misfit = misfit(file, &content[kind]["schema"], &value, "answer");
    assert_eq!(misfit, None, "{what}: {value}");
    (answer.status, value)
}

/// What each operation is asked with, and whether it may fail here: method, its path in the file,
/// the path, the body, the statuses that are right. They follow one another.
const ASKED: &[(&str, &str, &str, &str, &[u16])] = &[
    ("GET", "/healthz", "/healthz", "", &[200]),
    ("GET", "/readyz", "/readyz", "", &[200, 503]),
    ("GET", "/metrics", "/metrics", "", &[200]),
    ("GET", "/login", "/login", "", &[200]),
    ("POST", "/login", "/login", "token=x", &[303]),
    ("GET", "/assets/{name}", "/assets/index.html", "", &[200]),
    ("GET", "/", "/", "", &[200]),
    ("GET", "/runs", "/runs?state=failed", "", &[200]),
    ("GET", "/runs/{id}", "/runs/1", "", &[200]),
    ("GET", "/ticks", "/ticks", "", &[200]),
    ("GET", "/dead-letters", "/dead-letters", "", &[200]),
    ("GET", "/dead-letters/{id}", "/dead-letters/1", "", &[200]),
    ("GET", "/lag", "/lag", "", &[200]),
    ("GET", "/help", "/help", "", &[200]),
    ("GET", "/api/v1/openapi.json", "/api/v1/openapi.json", "", &[200]),
    ("GET", "/api/v1/session", "/api/v1/session", "", &[200]),
    ("POST", "/api/v1/logout", "/api/v1/logout", "{}", &[200]),
    ("GET", "/api/v1/status", "/api/v1/status", "", &[200]),
    ("GET", "/api/v1/series", "/api/v1/series", "", &[200]),
    ("GET", "/api/v1/lag", "/api/v1/lag", "", &[200]),
    ("GET", "/api/v1/ticks", "/api/v1/ticks?busy=true&limit=1", "", &[200]),
    ("GET", "/api/v1/runs", "/api/v1/runs?state=failed&limit=3", "", &[200]),
    ("GET", "/api/v1/runs", "/api/v1/runs?sort=records&order=asc&limit=3", "", &[200]),
    ("GET", "/api/v1/runs", "/api/v1/runs?state=lost", "", &[400]),
    ("GET", "/api/v1/runs", "/api/v1/runs?request=99", "", &[404]),
    ("GET", "/api/v1/runs/counts", "/api/v1/runs/counts", "", &[200]),
    ("GET", "/api/v1/runs/{id}", "/api/v1/runs/1", "", &[200]),
    ("GET", "/api/v1/runs/{id}", "/api/v1/runs/99999", "", &[404]),
    ("GET", "/api/v1/runs/{id}", "/api/v1/runs/x", "", &[404]),
    ("GET", "/api/v1/runs/{id}/records", "/api/v1/runs/1/records", "", &[200]),
    ("GET", "/api/v1/runs/{id}/records", "/api/v1/runs/99999/records", "", &[404]),
    ("GET", "/api/v1/dead-letters", "/api/v1/dead-letters?limit=3", "", &[200]),
    ("GET", "/api/v1/dead-letters", "/api/v1/dead-letters?state=lost", "", &[400]),
    (
        "GET",
        "/api/v1/dead-letters",
        "/api/v1/dead-letters?search=x&sort=oldest&limit=3",
        "",
        &[200],
    ),
    ("GET", "/api/v1/dead-letters", "/api/v1/dead-letters?sort=error&before=3", "", &[400]),
    ("GET", "/api/v1/dead-letters/errors", "/api/v1/dead-letters/errors", "", &[200]),
    (
        "POST",
        "/api/v1/dead-letters/{id}/edit",
        "/api/v1/dead-letters/1/edit",
        r#"{"value_base64":"/wA=","key":null}"#,
        &[200],
    ),
    ("POST", "/api/v1/dead-letters/{id}/edit", "/api/v1/dead-letters/1/edit", "{}", &[400]),
    (
        "POST",
        "/api/v1/dead-letters/{id}/edit",
        "/api/v1/dead-letters/1/edit",
        r#"{"value":"a","value_base64":"YQ=="}"#,
        &[400],
    ),
    (
        "POST",
        "/api/v1/dead-letters/{id}/edit",
        "/api/v1/dead-letters/99999/edit",
        r#"{"value":"a"}"#,
        &[404],
    ),
    ("GET", "/api/v1/dead-letters/{id}", "/api/v1/dead-letters/1", "", &[200]),
    ("POST", "/api/v1/dead-letters/{id}/revert", "/api/v1/dead-letters/1/revert", "{}", &[200]),
    ("POST", "/api/v1/dead-letters/{id}/revert", "/api/v1/dead-letters/1/revert", "{}", &[409]),
    (
        "POST",
        "/api/v1/dead-letters/{id}/edit",
        "/api/v1/dead-letters/9/edit",
        r#"{"value":"mended","redrive":true}"#,
        &[200],
    ),
    ("GET", "/api/v1/dead-letters/{id}", "/api/v1/dead-letters/99999", "", &[404]),
    (
        "POST",
        "/api/v1/dead-letters/redrive",
        "/api/v1/dead-letters/redrive",
        r#"{"ids":[1,2]}"#,
        &[200],
    ),
    ("POST", "/api/v1/dead-letters/redrive", "/api/v1/dead-letters/redrive", "{}", &[400]),
    (
        "POST",
        "/api/v1/dead-letters/redrive",
        "/api/v1/dead-letters/redrive",
        r#"{"ids":[99999]}"#,
        &[409],
    ),
    (
        "POST",
        "/api/v1/dead-letters/discard",
        "/api/v1/dead-letters/discard",
        r#"{"ids":[3],"reason":"old"}"#,
        &[200],
    ),
    ("GET", "/api/v1/requests", "/api/v1/requests?state=all", "", &[200]),
    ("GET", "/api/v1/requests", "/api/v1/requests?id=1", "", &[200]),
    ("POST", "/api/v1/replay", "/api/v1/replay", r#"{"partition":0,"from":0,"to":5}"#, &[200]),
    ("POST", "/api/v1/replay", "/api/v1/replay", r#"{"partition":99,"from":0,"to":5}"#, &[400]),
    ("POST", "/api/v1/replay", "/api/v1/replay", r#"{"partition":0,"from":5,"to":0}"#, &[400]),
    (
        "POST",
        "/api/v1/replay",
        "/api/v1/replay",
        r#"{"partition":0,"from":900000,"to":900001}"#,
        &[409],
    ),
    // It may be done already.
    ("POST", "/api/v1/requests/{id}/cancel", "/api/v1/requests/1/cancel", "{}", &[200, 409]),
    ("POST", "/api/v1/sensor/pause", "/api/v1/sensor/pause", "{}", &[200]),
    ("POST", "/api/v1/sensor/tick", "/api/v1/sensor/tick", "{}", &[200]),
    ("POST", "/api/v1/hold/retry-now", "/api/v1/hold/retry-now", "{}", &[200]),
    ("POST", "/api/v1/hold/give-up", "/api/v1/hold/give-up", "{}", &[200]),
    ("POST", "/api/v1/sensor/preview", "/api/v1/sensor/preview", "{}", &[200]),
    ("POST", "/api/v1/sensor/resume", "/api/v1/sensor/resume", "{}", &[200]),
    (
        "POST",
        "/api/v1/sensor/cursor",
        "/api/v1/sensor/cursor",
        r#"{"offsets":{"0":0},"dry_run":true}"#,
        &[200],
    ),
    ("POST", "/api/v1/sensor/cursor", "/api/v1/sensor/cursor", r#"{"offsets":{}}"#, &[400]),
    ("GET", "/api/v1/sensor/cursor", "/api/v1/sensor/cursor", "", &[200]),
    ("POST", "/api/v1/sensor/cursor/call-off", "/api/v1/sensor/cursor/call-off", "{}", &[200]),
    // That run has ended.
    ("POST", "/api/v1/runs/{id}/cancel", "/api/v1/runs/1/cancel", r#"{"note":"no"}"#, &[409]),
    ("POST", "/api/v1/runs/{id}/cancel", "/api/v1/runs/99999/cancel", "{}", &[404]),
    ("POST", "/api/v1/runs/{id}/replay", "/api/v1/runs/1/replay", "{}", &[200]),
    ("POST", "/api/v1/runs/{id}/replay", "/api/v1/runs/99999/replay", "{}", &[404]),
    ("POST", "/api/v1/runs/{id}/again", "/api/v1/runs/1/again", "{}", &[200]),
    ("POST", "/api/v1/runs/{id}/again", "/api/v1/runs/99999/again", "{}", &[404]),
    ("PATCH", "/api/v1/settings", "/api/v1/settings", r#"{"max_batch":10}"#, &[200]),
    ("PATCH", "/api/v1/settings", "/api/v1/settings", "{}", &[400]),
];

#[test]
fn every_operation_answers_as_the_openapi_file_says() {
    let (mb, http) = failing();
    let file = description(http);
    let mut asked = BTreeSet::from(["GET /api/v1/events".to_owned()]);
    for (method, template, path, body, right) in ASKED {
        asked.insert(format!("{method} {template}"));
        let (status, value) = ask(&file, http, method, template, path, body);
        assert!(right.contains(&status), "{method} {path} {body}: {status}: {value}");
    }
    let mut described = BTreeSet::new();
    for (path, operations) in file["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            described.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    assert_eq!(asked, described, "every operation is asked for");
    assert!(!mb.stderr().join("\n").contains("panicked"));
}

#[test]
fn the_openapi_file_points_only_to_what_it_has() {
    let (_mb, http) = failing();
    let file = description(http);
    fn walk(file: &Value, value: &Value) {
        match value {
            Value::Object(fields) => {
                resolved(file, value);
                fields.values().for_each(|field| walk(file, field));
            }
            Value::Array(items) => items.iter().for_each(|item| walk(file, item)),
            _ => {}
        }
    }
    walk(&file, &file);
    let mut ids = BTreeMap::new();
    for (path, operations) in file["paths"].as_object().unwrap() {
        for operation in operations.as_object().unwrap().values() {
            let id = operation["operationId"].as_str().expect(path).to_owned();
            assert_eq!(ids.insert(id, path.clone()), None, "{path}: an id of its own");
        }
    }
}

#[test]
fn pages_of_lists_have_each_row_once() {
    let (_mb, http) = failing();
    for (list, name) in [("/api/v1/runs?", "runs"), ("/api/v1/dead-letters?", "dead_letters")] {
        let whole = http.get(&format!("{list}limit=200")).json();
        assert_eq!(whole["next"], Value::Null, "{list}");
        let whole = whole[name].as_array().unwrap().clone();
        assert!(whole.len() >= 10, "{list}");
        let mut paged = Vec::new();
        let mut path = format!("{list}limit=3");
        loop {
            let page = http.get(&path).json();
            paged.extend(page[name].as_array().unwrap().iter().cloned());
            let before = page["next"].get("before").unwrap_or(&page["next"]);
            if before.is_null() {
                break;
            }
            path = format!("{list}limit=3&before={before}");
        }
        let ids = |rows: &[Value]| rows.iter().map(|row| row["id"].clone()).collect::<Vec<_>>();
        assert_eq!(ids(&paged), ids(&whole), "{list}");
    }
    // The same in every order, and for what a search finds.
    for sort in ["newest", "oldest", "error"] {
        for search in ["", "&search=CANNOT"] {
            let list = format!("/api/v1/dead-letters?sort={sort}{search}");
            let mut path = format!("{list}&limit=7");
            let mut seen = Vec::new();
            loop {
                let page = http.get(&path).json();
                let rows = page["dead_letters"].as_array().unwrap();
                seen.extend(rows.iter().map(|row| row["id"].as_i64().unwrap()));
                let Some(next) = page["next"].as_i64() else { break };
                let place = if sort == "newest" { "before" } else { "after" };
                path = format!("{list}&limit=7&{place}={next}");
            }
            assert_eq!(seen.len(), 200, "{list}");
            assert!(
                seen.is_sorted_by(|a, b| if sort == "oldest" { a < b } else { a > b }),
                "{list}"
            );
        }
    }
    // A full last page has no next one.
    let letters = http.get("/api/v1/dead-letters?limit=200").json();
    assert_eq!(
        (letters["dead_letters"].as_array().unwrap().len(), &letters["next"]),
        (200, &json!(null))
    );
    let error = http.get("/api/v1/runs?before=1&sort=records");
    assert_eq!((error.status, error.kind().as_str()), (400, "usage"));
    for path in ["/api/v1/runs?limit=0", "/api/v1/runs?sate=failed", "/api/v1/status?x=1"] {
        assert_eq!(http.get(path).status, 400, "{path}");
    }
}

#[test]
fn what_changes_is_asked_for_strictly() {
    let (_mb, http) = failing();
    for body in ["", "[]", "nonsense", r#"{"ids":[]}"#, r#"{"ids":[1],"all":true}"#, r#"{"id":1}"#]
    {
        let answer = http.post("/api/v1/dead-letters/redrive", body);
        assert_eq!((answer.status, answer.kind().as_str()), (400, "usage"), "{body}");
    }
    let open = || http.get("/api/v1/dead-letters?limit=200").json()["dead_letters"].clone();
    assert_eq!(open().as_array().unwrap().len(), 200, "nothing was redriven by that");
    assert_eq!(http.post("/api/v1/dead-letters/discard", r#"{"all":true}"#).status, 400);
    let discarded = http.post("/api/v1/dead-letters/discard", r#"{"error":"exit","reason":"old"}"#);
    assert_eq!(discarded.json(), json!({ "discarded": 200 }), "{discarded:?}");
    assert_eq!(open(), json!([]));
    let again = http.post("/api/v1/dead-letters/discard", r#"{"all":true,"reason":"old"}"#);
    assert_eq!((again.status, again.kind().as_str()), (409, "conflict"));
}

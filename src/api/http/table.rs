//! Everything that is answered over HTTP, a route a line or two. The API's description is made from this
//! table (`openapi`).

use schemars::JsonSchema;
use serde::Serialize;

use super::bodies::{Cursor, DiscardBody, EditBody, Empty, Note, RedriveBody, Span};
use super::failure::Failure;
use super::lists::{
    DEAD_LETTER_ERROR_FIELDS, DEAD_LETTER_FIELDS, REQUEST_FIELDS, RUN_FIELDS, TICK_FIELDS,
    dead_letter_errors, dead_letters, requests, runs, ticks,
};
use super::query::Field;
use super::request::Method;
use super::response::Response;
use super::route::{Answer, Call, Content, Effect, Endpoint, Json, Other, Posted, Route};
use super::{assets, openapi, pages};
use crate::api::metrics::{self, GetMetrics};
use crate::api::operations::Done;
use crate::api::operations::cancel_run::CancelRun;
use crate::api::operations::cursor::{CallOffCursorMove, CursorMove, GetCursorMove};
use crate::api::operations::dead_letters::{GetDeadLetter, RevertDeadLetter};
use crate::api::operations::hold::{GiveUp, RetryNow};
use crate::api::operations::overview::{GetLag, GetOverview, GetSeries, shared_overview};
use crate::api::operations::preview::PreviewTick;
use crate::api::operations::records::ReadRecords;
use crate::api::operations::requests::{CancelRequests, ReplayOffsets, RequestNumbers};
use crate::api::operations::runs::{
    CountRuns, GetRun, RanAgain, ReplayRequested, ReplayRun, RunAgain,
};
use crate::api::operations::sensor::{Pause, Resume, Tick};
use crate::api::operations::settings::ChangeSettings;
use crate::config::steering::SettingsView;
use crate::history::dead_letters::RedriveRequest;
use crate::model::error::{Error, Result};
use crate::observe::overview::Verdict;

const HTML: &str = "text/html";

/// All routes; a fixed path comes before one with a part in braces that it would fit.
pub(super) static ROUTES: &[Route] = &[
    open(
        "/healthz",
        "healthz",
        "Whether the process is alive",
        &Other {
            content: Content::Other { content_type: "text/plain", about: "It is." },
            answer: |_| Ok(Response::text(200, "ok\n")),
        },
    ),
    open(
        "/readyz",
        "readyz",
        "Whether mb keeps up",
        &Other {
            content: Content::Readiness(schemars::SchemaGenerator::subschema_for::<Verdict>),
            answer: ready,
        },
    ),
    Route {
        query: None,
        ..get(
            "/metrics",
            "metrics",
            "Metrics for Prometheus",
            &[],
            &Other {
                content: Content::Other {
                    content_type: "text/plain",
                    about: "The text format 0.0.4.",
                },
                answer: |call| {
                    let text = call.perform(GetMetrics {})?;
                    Ok(Response::new(200, metrics::CONTENT_TYPE, text.into_bytes()))
                },
            },
        )
    },
    open(
        "/login",
        "loginPage",
        "The form that asks for the token",
        &Other {
            content: Content::Other { content_type: HTML, about: "The form." },
            answer: |call| Ok(pages::form(200, call.request, "")),
        },
    ),
    Route {
        method: Method::Post,
        ..open(
            "/login",
            "login",
            "Signs a browser in",
            &Other {
                content: Content::SignIn,
                answer: |call| Ok(pages::sign_in(&call.shared.guard, call.request)?),
            },
        )
    },
    open(
        "/assets/{name}",
        "asset",
        "A file of the page",
        &Other {
            content: Content::Page { content_type: "*/*" },
            answer: |call| call.found("asset", assets::asset(call.part, call.request)),
        },
    ),
    open("/", "page", "The page", PAGE),
    open("/runs", "pageRuns", "The page: runs", PAGE),
    open("/runs/{id}", "pageRun", "The page: one run", PAGE),
    open("/ticks", "pageTicks", "The page: ticks", PAGE),
    open("/dead-letters", "pageDeadLetters", "The page: dead letters", PAGE),
    open("/dead-letters/{id}", "pageDeadLetter", "The page: one dead letter", PAGE),
    open("/lag", "pageLag", "The page: lag", PAGE),
    open("/help", "pageHelp", "The page: its words", PAGE),
    open(
        "/api/v1/openapi.json",
        "openapi",
        "This description",
        &Other {
            content: Content::Json(openapi::any_object),
            answer: |call| {
                let text = openapi::json(call.routes, call.shared.guard.sessions.cookie());
                Ok(Response::new(200, "application/json", text))
            },
        },
    ),
    Route {
        query: None,
        ..get("/api/v1/session", "session", "What this client may do", &[], &Json(pages::session))
    },
    Route {
        method: Method::Post,
        ..open(
            "/api/v1/logout",
            "logout",
            "Signs a browser out",
            &Other {
                content: Content::Json(schemars::SchemaGenerator::subschema_for::<Done>),
                answer: |call| Ok(pages::sign_out(&call.shared.guard, call.request)),
            },
        )
    },
    get(
        "/api/v1/events",
        "events",
        "The overview, at once and each second",
        &[],
        &Other {
            content: Content::Other {
                content_type: "text/event-stream",
                about: "Server-sent events: `overview` with an Overview as its data, or `failure` with an \
                    Error if it could not be made.",
            },
            answer: |_| Ok(Response::events()),
        },
    ),
    get(
        "/api/v1/status",
        "status",
        "The overview",
        &[],
        &Json(|call| call.perform(GetOverview {})),
    ),
    get(
        "/api/v1/series",
        "series",
        "The last 15 minutes",
        &[],
        &Json(|call| call.perform(GetSeries {})),
    ),
    get("/api/v1/lag", "lag", "Every partition's lag", &[], &Json(|call| call.perform(GetLag {}))),
    get("/api/v1/ticks", "ticks", "Ticks, the newest first", TICK_FIELDS, &Json(ticks)),
    get("/api/v1/runs", "runs", "Runs", RUN_FIELDS, &Json(runs)),
    get(
        "/api/v1/runs/counts",
        "runCounts",
        "How many runs are in each state",
        &[],
        &Json(|call| call.perform(CountRuns {})),
    ),
    get(
        "/api/v1/runs/{id}",
        "run",
        "One run with its failed attempts and output",
        &[],
        &Json(|call| {
            let id = call.id("run")?;
            let run = call.perform(GetRun { id })?;
            call.found("run", run)
        }),
    ),
    Route {
        effect: Effect::ReadsLog,
        ..get(
            "/api/v1/runs/{id}/records",
            "records",
            "The run's first records, read from the log once more",
            &[],
            &Json(|call| {
                let run = known_run(call)?;
                call.perform(ReadRecords { run })
            }),
        )
    },
    get(
        "/api/v1/dead-letters",
        "deadLetters",
        "Dead letters",
        DEAD_LETTER_FIELDS,
        &Json(dead_letters),
    ),
    get(
        "/api/v1/dead-letters/errors",
        "deadLetterErrors",
        "How many dead letters have which error",
        DEAD_LETTER_ERROR_FIELDS,
        &Json(dead_letter_errors),
    ),
    get(
        "/api/v1/dead-letters/{id}",
        "deadLetter",
        "One dead letter with its payload",
        &[],
        &Json(|call| {
            let id = call.id("dead letter")?;
            let letter = call.perform(GetDeadLetter { id })?;
            call.found("dead letter", letter)
        }),
    ),
    get(
        "/api/v1/requests",
        "requests",
        "Redrives and replays, the newest first",
        REQUEST_FIELDS,
        &Json(requests),
    ),
    post(
        "/api/v1/sensor/pause",
        "pause",
        "Stops ticks from beginning by themselves",
        &Posted(|call, Empty {}| call.perform(Pause {})),
    ),
    post(
        "/api/v1/sensor/resume",
        "resume",
        "Lets ticks begin by themselves again",
        &Posted(|call, Empty {}| call.perform(Resume {})),
    ),
    post(
        "/api/v1/sensor/tick",
        "tick",
        "Begins a tick now",
        &Posted(|call, Empty {}| call.perform(Tick {})),
    ),
    post(
        "/api/v1/hold/retry-now",
        "retryNow",
        "During a hold: tries the step now",
        &Posted(|call, Empty {}| call.perform(RetryNow {})),
    ),
    post(
        "/api/v1/hold/give-up",
        "giveUp",
        "During a hold: makes the records of all runs that have failed dead letters",
        &Posted(|call, Empty {}| call.perform(GiveUp {})),
    ),
    Route {
        effect: Effect::Previews,
        query: Some(&[]),
        ..post(
            "/api/v1/sensor/preview",
            "preview",
            "What a tick would read now; nothing is queued",
            &Posted(|call, Empty {}| call.perform(PreviewTick {})),
        )
    },
    Route {
        effect: Effect::MayChange,
        ..post(
            "/api/v1/sensor/cursor",
            "moveCursor",
            "Moves the cursor and the committed offsets",
            &Posted(|call, body: Cursor| {
                let moves = call.perform(body.operation()?)?;
                Ok(CursorMoves { moves })
            }),
        )
    },
    get(
        "/api/v1/sensor/cursor",
        "cursorMove",
        "The partitions whose running runs a cursor move waits for",
        &[],
        &Json(|call| call.perform(GetCursorMove {})),
    ),
    post(
        "/api/v1/sensor/cursor/call-off",
        "callOffCursorMove",
        "Calls off a cursor move that waits for running runs",
        &Posted(|call, Empty {}| call.perform(CallOffCursorMove {})),
    ),
    post(
        "/api/v1/runs/{id}/cancel",
        "cancelRun",
        "Cancels a run; its records become dead letters",
        &Posted(|call, Note { note }| {
            let id = known_run(call)?;
            call.perform(CancelRun { id, note }).map_err(conflict)
        }),
    ),
    post(
        "/api/v1/runs/{id}/again",
        "runAgain",
        "Redrives the run's open dead letters, or replays its offsets if it has none",
        &Posted(run_again),
    ),
    post("/api/v1/runs/{id}/replay", "replayRun", "Replays the run's offsets", &Posted(replay_run)),
    post(
        "/api/v1/dead-letters/redrive",
        "redrive",
        "Makes new runs of dead letters",
        &Posted(|call, body: RedriveBody| {
            let requests = call.perform(body.operation()?)?;
            Ok(RedriveRequests { requests })
        }),
    ),
    post(
        "/api/v1/dead-letters/discard",
        "discard",
        "Discards dead letters that are not needed",
        &Posted(|call, body: DiscardBody| {
            let discarded = call.perform(body.operation()?)?;
            Ok(Discarded { discarded })
        }),
    ),
    post(
        "/api/v1/dead-letters/{id}/edit",
        "editDeadLetter",
        "Edits the record of an open dead letter, for its redrive; the original stays",
        &Posted(|call, body: EditBody| {
            let id = known_dead_letter(call)?;
            call.perform(body.operation(id))
        }),
    ),
    post(
        "/api/v1/dead-letters/{id}/revert",
        "revertDeadLetter",
        "Takes the edit of an open dead letter back",
        &Posted(|call, Empty {}| {
            let id = known_dead_letter(call)?;
            call.perform(RevertDeadLetter { id })
        }),
    ),
    post(
        "/api/v1/replay",
        "replay",
        "Makes new runs of offsets that the log still has",
        &Posted(|call, span: Span| {
            let Span { partition, from, to } = span;
            let requests = call.perform(ReplayOffsets { partition, from, to })?;
            Ok(RequestNumbers { requests })
        }),
    ),
    post(
        "/api/v1/requests/{id}/cancel",
        "cancelRequest",
        "Cancels an open redrive or replay",
        &Posted(|call, Note { note }| {
            let ids = vec![call.id("request")?];
            call.perform(CancelRequests { ids, note })?;
            Ok(Done {})
        }),
    ),
    Route {
        method: Method::Patch,
        ..post(
            "/api/v1/settings",
            "set",
            "Changes settings while mb runs",
            &Posted(change_settings),
        )
    },
];

/// A route of the API that reads.
const fn get(
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    fields: &'static [Field],
    endpoint: &'static dyn Endpoint,
) -> Route {
    let (method, effect, query) = (Method::Get, Effect::Reads, Some(fields));
    Route { method, path, effect, id, summary, query, endpoint }
}

/// A route of the API that changes something.
const fn post(
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    endpoint: &'static dyn Endpoint,
) -> Route {
    let (method, effect, query) = (Method::Post, Effect::Changes, None);
    Route { method, path, effect, id, summary, query, endpoint }
}

/// A route that needs no token.
const fn open(
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    endpoint: &'static dyn Endpoint,
) -> Route {
    let (method, effect, query) = (Method::Get, Effect::Open, None);
    Route { method, path, effect, id, summary, query, endpoint }
}

const PAGE: &dyn Endpoint = &Other {
    content: Content::Page { content_type: HTML },
    answer: |call| Ok(pages::page(&call.shared.guard, call.request)),
};

/// The verdict. The words are for those alone who may read the rest too.
fn ready(call: &mut Call<'_>) -> Answer {
    const HIDDEN: &str = "sent to clients with the token only";
    let mut verdict = shared_overview(&call.shared.context)?.verdict.clone();
    if !call.shared.guard.is_signed_in(call.request) {
        (verdict.headline, verdict.advice) = (HIDDEN.to_owned(), None);
        verdict.brief = verdict.state.name().to_owned();
        for reason in &mut verdict.reasons {
            HIDDEN.clone_into(&mut reason.detail);
        }
    }
    let status = if verdict.ready { 200 } else { 503 };
    Ok(Response::json(status, &verdict))
}

/// The number of a run that the history has.
fn known_run(call: &mut Call<'_>) -> Result<i64, Failure> {
    let id = call.id("run")?;
    let run = call.perform(GetRun { id })?;
    call.found("run", run).map(|_| id)
}

/// The number of a dead letter that the history has.
fn known_dead_letter(call: &mut Call<'_>) -> Result<i64, Failure> {
    let id = call.id("dead letter")?;
    let letter = call.perform(GetDeadLetter { id })?;
    call.found("dead letter", letter).map(|_| id)
}

/// If a run is there but what is asked for cannot be done to it, nothing is wrong with the request itself.
fn conflict(failure: Failure) -> Failure {
    match failure.status {
        400 => Failure { status: 409, kind: "conflict", ..failure },
        _ => failure,
    }
}

fn run_again(call: &mut Call<'_>, Empty {}: Empty) -> Result<RanAgain, Failure> {
    let id = known_run(call)?;
    call.perform(RunAgain { id }).map_err(conflict)
}

fn replay_run(call: &mut Call<'_>, Empty {}: Empty) -> Result<ReplayRequested, Failure> {
    let id = known_run(call)?;
    call.perform(ReplayRun { id }).map_err(conflict)
}

fn change_settings(call: &mut Call<'_>, change: ChangeSettings) -> Result<SettingsView, Failure> {
    if change == ChangeSettings::default() {
        let message = "body: got no setting, expected rate, max_batch, max_concurrent_runs, max_wait_s or tick_interval_s";
        return Err(Error::Usage(message.into()).into());
    }
    call.perform(change)
}

#[derive(Serialize, JsonSchema)]
struct CursorMoves {
    moves: Vec<CursorMove>,
}

/// A request for each topic and group of the dead letters.
#[derive(Serialize, JsonSchema)]
struct RedriveRequests {
    requests: Vec<RedriveRequest>,
}

#[derive(Serialize, JsonSchema)]
struct Discarded {
    /// How many dead letters were discarded.
    discarded: u64,
}

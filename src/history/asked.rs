//! Redrives and replays as people see them: listed, and cancelled.
//!
//! What of them is still to be made is in `requests`; the thread that makes it, in `again`.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::letters::LetterState;
use super::requests::{CANCELLED, DONE, OPEN, UNFINISHED};
use super::schema::{self, KIND_REDRIVE};
use crate::model::clock;
use crate::model::error::{Error, Result};
use crate::model::run::{RunId, RunState};

/// States of requests by their names, as in `requests.state`.
pub const STATES: [(&str, i64); 3] = [("open", OPEN), ("done", DONE), ("cancelled", CANCELLED)];

/// Which requests are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// A name of `STATES`; without it all.
    pub state: Option<String>,
    pub topic: Option<String>,
    pub group: Option<String>,
    pub limit: u32,
}

/// A redrive or replay as `mb requests` shows it; times in milliseconds since 1970 (UTC). Runs and
/// records are counted of those runs that the history still has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Request")]
pub struct RequestRow {
    pub id: i64,
    /// `redrive` or `replay`.
    pub kind: String,
    pub state: String,
    pub topic: String,
    pub group: String,
    /// Of a replay: what is read again, both offsets included.
    pub partition: Option<i32>,
    pub first_offset: Option<i64>,
    pub last_offset: Option<i64>,
    pub runs_succeeded: u64,
    pub runs_failed: u64,
    /// Runs that have their identity and are not at their end.
    pub runs_left: u64,
    /// Records of the runs that succeeded.
    pub records: u64,
    /// Of a redrive: dead letters that it has and is not through with.
    pub letters_left: u64,
    pub asked_ms: i64,
    pub ended_ms: Option<i64>,
    /// What there is to say of it: why it waits, what was passed over, why it was cancelled.
    pub note: Option<String>,
}

/// The newest requests first; `waiting` says of open ones why they do.
///
/// # Errors
/// `Usage` for a state that there is not; `Storage` where the file cannot be read.
pub fn list(
    db: &Connection,
    selection: &Selection,
    waiting: &BTreeMap<i64, String>,
) -> Result<Vec<RequestRow>> {
    let state = match selection.state.as_deref().filter(|name| *name != "all") {
        None => None,
        Some(name) => Some(code(name)?),
    };
    let Selection { topic, group, limit, .. } = selection;
    let read = || -> rusqlite::Result<Vec<RequestRow>> {
        db.prepare(
            "SELECT q.id, q.kind, q.state, s.topic, s.group_name, q.partition, q.first_offset, \
             q.last_offset, \
             (SELECT count(*) FROM runs WHERE request = q.id AND state = ?5), \
             (SELECT count(*) FROM runs WHERE request = q.id AND state = ?6), \
             (SELECT count(*) FROM runs WHERE request = q.id AND state IN (?7, ?8, ?9)), \
             (SELECT ifnull(sum(records), 0) FROM runs WHERE request = q.id AND state = ?5), \
             (SELECT count(*) FROM dead_letters WHERE request = q.id), \
             q.asked_ms, q.ended_ms, q.note \
             FROM requests q JOIN scopes s ON s.id = q.scope \
             WHERE (?1 IS NULL OR q.state = ?1) AND ifnull(s.topic = ?2, true) \
             AND ifnull(s.group_name = ?3, true) ORDER BY q.id DESC LIMIT ?4",
        )?
        .query_map(
            params![
                state,
                topic,
                group,
                limit,
                RunState::Succeeded.code(),
                RunState::Failed.code(),
                UNFINISHED[0],
                UNFINISHED[1],
                UNFINISHED[2]
            ],
            row,
        )?
        .collect()
    };
    let mut rows = read().map_err(storage)?;
    for row in rows.iter_mut().filter(|row| row.state == "open") {
        row.note = waiting.get(&row.id).cloned().or(row.note.take());
    }
    Ok(rows)
}

fn row(row: &Row<'_>) -> rusqlite::Result<RequestRow> {
    let kind = if row.get::<_, i64>(1)? == KIND_REDRIVE { "redrive" } else { "replay" };
    Ok(RequestRow {
        id: row.get(0)?,
        kind: kind.to_owned(),
        state: name(row.get(2)?).to_owned(),
        topic: row.get(3)?,
        group: row.get(4)?,
        partition: row.get(5)?,
        first_offset: row.get(6)?,
        last_offset: row.get(7)?,
        runs_succeeded: row.get(8)?,
        runs_failed: row.get(9)?,
        runs_left: row.get(10)?,
        records: row.get(11)?,
        letters_left: row.get(12)?,
        asked_ms: row.get(13)?,
        ended_ms: row.get(14)?,
        note: row.get(15)?,
    })
}

fn name(code: i64) -> &'static str {
    STATES.iter().find(|(_, known)| *known == code).map_or("unknown", |(name, _)| name)
}

fn code(name: &str) -> Result<i64> {
    STATES.iter().find(|(known, _)| *known == name).map(|(_, code)| *code).ok_or_else(|| {
        let names: Vec<_> = STATES.iter().map(|(name, _)| *name).collect();
        Error::Usage(format!("--state: got {name:?}, expected {} or all", names.join(", ")))
    })
}

/// # Errors
/// `Other` where there is no such request; `Storage`.
pub fn check_known(db: &Connection, request: i64) -> Result<()> {
    state_of(db, request).map(drop)
}

/// Whether all of them can be cancelled.
///
/// # Errors
/// `Other` for a request that there is not, or that is over already; `Storage`.
pub fn check_open(db: &Connection, requests: &[i64]) -> Result<()> {
    for request in requests {
        match state_of(db, *request)? {
            OPEN => {}
            state => {
                let state = name(state);
                return Err(Error::Other(format!(
                    "nothing is cancelled: request {request} is {state} already"
                )));
            }
        }
    }
    Ok(())
}

fn state_of(db: &Connection, request: i64) -> Result<i64> {
    let select = "SELECT state FROM requests WHERE id = ?1";
    let state = db.query_row(select, [request], |row| row.get(0)).optional().map_err(storage)?;
    state.ok_or_else(|| {
        Error::Other(format!(
            "request {request} is not in the history (mb requests list shows every one)"
        ))
    })
}

/// Cancels open requests, all of them or none, while no mb runs.
///
/// # Errors
/// As `check_open`.
pub fn cancel(db: &mut Connection, requests: &[i64], note: &str) -> Result<()> {
    let change = db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(storage)?;
    check_open(&change, requests)?;
    for request in requests {
        end(&change, *request, &[], note).map_err(storage)?;
    }
    change.commit().map_err(storage)
}

/// An open request is over. Its runs that have not started are void, and the letters of those open
/// again; `started` end as they end.
pub(super) fn end(
    db: &Connection,
    request: i64,
    started: &[RunId],
    note: &str,
) -> rusqlite::Result<()> {
    db.execute(
        "UPDATE requests SET state = ?2, ended_ms = ?3, note = ?4 WHERE id = ?1 AND state = ?5",
        params![request, CANCELLED, clock::now_ms(), note, OPEN],
    )?;
    end_runs(db, Some(request), started)
}

/// The history, for a change while no mb runs: what one that was killed has left of cancelled requests
/// is ended first.
///
/// # Errors
/// As `schema::open`; `Storage`.
pub fn open(path: &Path) -> Result<Connection> {
    let db = schema::open(path)?;
    end_left_over(&db)?;
    Ok(db)
}

/// Ends what a process that was killed, or halted, has left of requests that were cancelled. No run
/// may be under way.
///
/// # Errors
/// `Storage`.
pub fn end_left_over(db: &Connection) -> Result<()> {
    end_runs(db, None, &[]).map_err(storage)
}

fn end_runs(db: &Connection, request: Option<i64>, started: &[RunId]) -> rusqlite::Result<()> {
    let started: Vec<String> = started.iter().map(ToString::to_string).collect();
    let started = started.join(", ");
    let cancelled = "(SELECT id FROM requests WHERE state = ?1 AND ifnull(id = ?2, true))";
    db.execute(
        &format!(
            "UPDATE runs SET state = ?3, error = ifnull(error, ?4) WHERE request IN {cancelled} \
             AND state IN (?5, ?6, ?7) AND id NOT IN ({started})"
        ),
        params![
            CANCELLED,
            request,
            RunState::Voided.code(),
            CAUSE,
            UNFINISHED[0],
            UNFINISHED[1],
            UNFINISHED[2]
        ],
    )?;
    db.execute(
        &format!(
            "UPDATE dead_letters SET state = ?3, request = NULL, redrive_run = NULL \
             WHERE request IN {cancelled} AND state = ?4 \
             AND (redrive_run IS NULL OR redrive_run NOT IN ({started}))"
        ),
        params![CANCELLED, request, LetterState::Open.code(), LetterState::Redriving.code()],
    )?;
    Ok(())
}

/// A run of a cancelled request that came to a worker later: it does not start.
pub(super) fn end_run(db: &Connection, run: RunId) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE runs SET state = ?2, error = ifnull(error, ?3) WHERE id = ?1 \
         AND state IN (?4, ?5, ?6)",
    )?
    .execute(params![
        run.0,
        RunState::Voided.code(),
        CAUSE,
        UNFINISHED[0],
        UNFINISHED[1],
        UNFINISHED[2]
    ])?;
    db.prepare_cached(
        "UPDATE dead_letters SET state = ?2, request = NULL, redrive_run = NULL \
         WHERE redrive_run = ?1 AND state = ?3",
    )?
    .execute(params![run.0, LetterState::Open.code(), LetterState::Redriving.code()])?;
    Ok(())
}

const CAUSE: &str = "its request was cancelled";

fn storage(cause: rusqlite::Error) -> Error {
    Error::storage("use the requests in the history", cause)
}

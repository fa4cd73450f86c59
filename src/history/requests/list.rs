//! Lists of requests, for people.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row, params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::state::{NAMES, OPEN, UNFINISHED};
use crate::history::migrations::KIND_REDRIVE;
use crate::model::error::{Error, Result};
use crate::model::run::RunState;

/// Which requests to list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// `open`, `done` or `cancelled`; all requests if not set.
    pub state: Option<String>,
    pub topic: Option<String>,
    pub group: Option<String>,
    pub limit: u32,
}

/// A redrive or replay as `mb requests` shows it. Times are in milliseconds since 1970 (UTC). Runs and records
/// are counted over the runs that the history still has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Request")]
pub struct RequestRow {
    pub id: i64,
    /// `redrive` or `replay`.
    pub kind: String,
    pub state: String,
    pub topic: String,
    pub group: String,
    /// What a replay reads; both offsets are included.
    pub partition: Option<i32>,
    pub first_offset: Option<i64>,
    pub last_offset: Option<i64>,
    pub runs_succeeded: u64,
    pub runs_failed: u64,
    /// Runs that were planned and have not ended.
    pub runs_left: u64,
    /// Records of the runs that succeeded.
    pub records: u64,
    /// Dead letters that a redrive has still to process.
    pub letters_left: u64,
    pub asked_ms: i64,
    pub ended_ms: Option<i64>,
    /// For people: why the request waits, what it passed over, or why it was cancelled.
    pub note: Option<String>,
}

/// The selected requests, the newest first. `waiting` says why open ones wait, by their number.
///
/// # Errors
/// `Usage` for an unknown state; `Storage` if the file cannot be read.
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
    NAMES.iter().find(|(_, known)| *known == code).map_or("unknown", |(name, _)| name)
}

fn code(name: &str) -> Result<i64> {
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, code)| *code).ok_or_else(|| {
        let names: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
        Error::Usage(format!("--state: got {name:?}, expected {} or all", names.join(", ")))
    })
}

/// Whether there is such a request.
///
/// # Errors
/// `Other` if there is none; `Storage`.
pub fn check_known(db: &Connection, request: i64) -> Result<()> {
    state_of(db, request).map(drop)
}

/// Whether all of these requests can be cancelled.
///
/// # Errors
/// `Other` if one does not exist or has ended; `Storage`.
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

fn storage(cause: rusqlite::Error) -> Error {
    Error::storage("use the requests in the history", cause)
}

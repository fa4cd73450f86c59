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
    /// This request only.
    #[serde(default)]
    pub id: Option<i64>,
    /// `open`, `done` or `cancelled`; all requests if not set.
    pub state: Option<String>,
    pub topic: Option<String>,
    pub group: Option<String>,
    pub limit: u32,
}

/// A redrive or replay as `mb requests` shows it. Times are in milliseconds since 1970 (UTC). Runs and records
/// are counted over the runs that the history still has, each record once, also if its run was split.
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
    /// Records that were processed. A run that failed has processed those that its step did not name as failed.
    pub records: u64,
    /// Records that were given up on.
    #[serde(default)]
    pub records_failed: u64,
    /// Records of runs that have not ended, and of dead letters that have no run yet.
    #[serde(default)]
    pub records_left: u64,
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
    let Selection { id, topic, group, limit, .. } = selection;
    let read = || -> rusqlite::Result<Vec<RequestRow>> {
        let mut rows = db
            .prepare_cached(
                "SELECT q.id, q.kind, q.state, s.topic, s.group_name, q.partition, q.first_offset, \
                 q.last_offset, q.asked_ms, q.ended_ms, q.note \
                 FROM requests q JOIN scopes s ON s.id = q.scope \
                 WHERE (?1 IS NULL OR q.state = ?1) AND ifnull(s.topic = ?2, true) \
                 AND ifnull(s.group_name = ?3, true) AND ifnull(q.id = ?5, true) \
                 ORDER BY q.id DESC LIMIT ?4",
            )?
            .query_map(params![state, topic, group, limit, id], row)?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        rows.iter_mut().try_for_each(|row| count(db, row))?;
        Ok(rows)
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
        runs_succeeded: 0,
        runs_failed: 0,
        runs_left: 0,
        records: 0,
        records_failed: 0,
        records_left: 0,
        letters_left: 0,
        asked_ms: row.get(8)?,
        ended_ms: row.get(9)?,
        note: row.get(10)?,
    })
}

/// Counts the request's runs and records. A run that was split has processed what it did not pass on to its pieces.
fn count(db: &Connection, row: &mut RequestRow) -> rusqlite::Result<()> {
    let (succeeded, failed) = (RunState::Succeeded.code(), RunState::Failed.code());
    let split = RunState::Split.code();
    // Before version 6 the history did not say what a run passed on; halves have all of it.
    let passed_on = format!("iif(state = {split}, ifnull(passed_on, records), 0)");
    let unfinished = UNFINISHED.map(|state| state.to_string()).join(", ");
    let select = format!(
        "SELECT ifnull(sum(state = {succeeded}), 0), ifnull(sum(state = {failed}), 0), \
         ifnull(sum(state IN ({unfinished})), 0), \
         ifnull(sum(records - iif(state = {failed}, dead_letters, 0) - {passed_on}) \
             FILTER (WHERE state IN ({succeeded}, {failed}, {split})), 0), \
         ifnull(sum(dead_letters) FILTER (WHERE state = {failed}), 0), \
         ifnull(sum(records) FILTER (WHERE state IN ({unfinished})), 0) \
         FROM runs WHERE request = ?1"
    );
    db.prepare_cached(&select)?.query_row([row.id], |counts| {
        row.runs_succeeded = counts.get(0)?;
        row.runs_failed = counts.get(1)?;
        row.runs_left = counts.get(2)?;
        row.records = counts.get::<_, i64>(3)?.try_into().unwrap_or_default();
        row.records_failed = counts.get(4)?;
        row.records_left = counts.get(5)?;
        Ok(())
    })?;
    let letters = "SELECT count(*), ifnull(sum(redrive_run IS NULL), 0) FROM dead_letters \
         WHERE request = ?1";
    let (left, without_run): (u64, u64) =
        db.prepare_cached(letters)?.query_row([row.id], |row| Ok((row.get(0)?, row.get(1)?)))?;
    row.letters_left = left;
    row.records_left += without_run;
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::schema;

    /// Request 1 redrives 116 dead letters: one run succeeded, one failed at 1 of 10 records, one was halved (its second
    /// half named 1 record, which has a run of its own and failed), one is queued; 6 dead letters have no run.
    #[test]
    fn records_are_counted_once_at_the_leaves_of_a_split() {
        let folder = tempfile::tempdir().unwrap();
        let db = schema::open(&folder.path().join(crate::history::FILE)).unwrap();
        db.execute_batch(
            "INSERT INTO scopes VALUES (1, 'kafka', '', 'g', 'orders', '', 0);
             INSERT INTO requests(scope, kind, asked_ms) VALUES (1, 1, 5);",
        )
        .unwrap();
        let succeeded = RunState::Succeeded.code();
        let (failed, split) = (RunState::Failed.code(), RunState::Split.code());
        for (id, parent, state, records, dead_letters, passed_on) in [
            (1, None, succeeded, 50, 0, None),
            (2, None, failed, 10, 1, None),
            // As an earlier version left it.
            (3, None, split, 40, 0, None),
            (4, Some(3), succeeded, 20, 0, None),
            (5, Some(3), split, 20, 0, Some(1)),
            (6, Some(5), failed, 1, 1, None),
            (7, None, RunState::Queued.code(), 10, 0, None),
            (8, None, RunState::Voided.code(), 30, 0, None),
            (9, Some(8), RunState::Voided.code(), 15, 0, None),
        ] {
            db.execute(
                "INSERT INTO runs(id, scope, client, partition, first_offset, last_offset, records, \
                 bytes, state, queued_ms, parent, request, kind, dead_letters, passed_on) \
                 VALUES (?1, 1, 'c', 0, 0, 9, ?4, 1, ?3, 0, ?2, 1, 1, ?5, ?6)",
                params![id, parent, state, records, dead_letters, passed_on],
            )
            .unwrap();
        }
        for (offset, run) in (0..16).map(|offset| (offset, (offset < 10).then_some(7))) {
            db.execute(
                "INSERT INTO dead_letters(scope, run, run_key, topic, partition, record_offset, error, \
                 attempts, at_ms, state, request, redrive_run) \
                 VALUES (1, 1, 'k', 'orders', 0, ?1, 'e', 1, 6, 1, 1, ?2)",
                params![offset, run],
            )
            .unwrap();
        }
        let selection = Selection { limit: 9, ..Selection::default() };
        let found = list(&db, &selection, &BTreeMap::new()).unwrap();
        let row = &found[0];
        assert_eq!((row.runs_succeeded, row.runs_failed, row.runs_left), (2, 2, 1));
        assert_eq!((row.records, row.records_failed), (50 + 9 + 20 + 19, 2));
        assert_eq!((row.records_left, row.letters_left), (10 + 6, 16));
    }
}

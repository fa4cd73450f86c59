//! Cancelled requests: what becomes of their runs and dead letters.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior, params};

use super::list::check_open;
use super::state::{CANCELLED, OPEN, UNFINISHED};
use crate::history::dead_letters::DeadLetterState;
use crate::history::schema;
use crate::model::clock;
use crate::model::error::{Error, Result};
use crate::model::run::{RunId, RunState};

/// Cancels open requests, all of them or none, in a history that no mb has open.
///
/// # Errors
/// As `check_open`.
pub fn cancel(db: &mut Connection, requests: &[i64], note: &str) -> Result<()> {
    let change = db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(storage)?;
    check_open(&change, requests)?;
    for request in requests {
        end_cancelled(&change, *request, &[], note).map_err(storage)?;
    }
    change.commit().map_err(storage)
}

/// Marks a request as cancelled. Its runs that have not started become void, and their dead letters are open
/// again. Those that have `started` end as they would have.
pub fn end_cancelled(
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

/// Opens a history that no mb has open, in order to change requests or dead letters. First ends what an mb
/// that was killed has left of cancelled requests.
///
/// # Errors
/// As `schema::open`; `Storage`.
pub fn open(path: &Path) -> Result<Connection> {
    let db = schema::open(path)?;
    end_left_over(&db)?;
    Ok(db)
}

/// Ends the runs that a killed or halted mb has left of cancelled requests. No run may be under way.
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
        params![
            CANCELLED,
            request,
            DeadLetterState::Open.code(),
            DeadLetterState::Redriving.code()
        ],
    )?;
    Ok(())
}

pub fn is_cancelled(db: &Connection, request: i64) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT EXISTS (SELECT 1 FROM requests WHERE id = ?1 AND state = ?2)")?
        .query_row([request, CANCELLED], |row| row.get(0))
}

/// Ends a run of a cancelled request that was planned or taken by a worker afterwards, and did not start.
pub fn end_cancelled_run(db: &Connection, run: RunId) -> rusqlite::Result<()> {
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
    .execute(params![
        run.0,
        DeadLetterState::Open.code(),
        DeadLetterState::Redriving.code()
    ])?;
    Ok(())
}

const CAUSE: &str = "its request was cancelled";

fn storage(cause: rusqlite::Error) -> Error {
    Error::storage("use the requests in the history", cause)
}

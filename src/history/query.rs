//! Reads the history for people: lists of runs, one run with its attempts. Never writes.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use super::asked;
use super::schema::{KIND_REDRIVE, KIND_REPLAY};
use crate::error::{Error, Result};
use crate::offset::{Again, Lane, Offset, OffsetRange, RunKey};
use crate::run::RunState;

/// A run as `mb runs` shows it; times in milliseconds since 1970 (UTC), durations in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRow {
    pub id: i64,
    pub key: String,
    pub state: String,
    pub topic: String,
    pub group: String,
    pub client: String,
    pub partition: i32,
    pub first_offset: i64,
    pub last_offset: i64,
    pub records: u64,
    pub bytes: u64,
    /// Attempts that ended.
    pub attempts: u32,
    pub queued_ms: i64,
    pub started_ms: Option<i64>,
    pub ended_ms: Option<i64>,
    /// Time in the step at the last attempt.
    pub run_ms: Option<f64>,
    pub worker: Option<u32>,
    pub error: Option<String>,
    /// The run that it was split from.
    pub parent: Option<i64>,
}

/// One run whole: its row, what it printed, and its failed attempts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunDetail {
    #[serde(flatten)]
    pub run: RunRow,
    pub output: Option<String>,
    pub failed_attempts: Vec<AttemptRow>,
    /// Records kept as dead letters.
    pub dead_letters: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttemptRow {
    pub number: u32,
    pub started_ms: i64,
    pub run_ms: f64,
    pub worker: u32,
    pub error: String,
    pub output: Option<String>,
}

/// A tick as people see it; times in milliseconds since 1970 (UTC), durations in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TickRow {
    pub id: i64,
    pub topic: String,
    pub group: String,
    pub sensor: u32,
    pub started_ms: i64,
    pub run_ms: f64,
    pub records: u64,
    pub bytes: u64,
    pub batches: u64,
    pub ended_by: String,
    pub error: Option<String>,
}

const COLUMNS: &str = "runs.id, scopes.topic, scopes.group_name, client, partition, first_offset, \
     last_offset, lane, lanes, kind, request, records, bytes, state, attempts, queued_ms, started_ms, ended_ms, \
     run_us, worker, error, parent";

/// Which runs are asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// As in `RunState::name`, where "failed" means halted ones too; any without it.
    pub state: Option<String>,
    pub topic: Option<String>,
    pub group: Option<String>,
    /// Runs of this redrive or replay. (On the control socket `request` says what is asked.)
    pub of_request: Option<i64>,
    /// Runs below this number only: those that follow on a list's page that ended there.
    #[serde(default)]
    pub before: Option<i64>,
    pub limit: u32,
}

/// The newest runs first.
///
/// # Errors
/// `Usage` for a state that there is not; `Other` for a request that there is not; `Storage` where
/// the file cannot be read.
pub fn runs(db: &Connection, selection: &Selection) -> Result<Vec<RunRow>> {
    let states = match selection.state.as_deref() {
        None => RunState::ALL.to_vec(),
        Some(name) => {
            let state = RunState::from_name(name).ok_or_else(|| unknown_state(name))?;
            match state {
                RunState::Failed => vec![RunState::Failed, RunState::Halted],
                state => vec![state],
            }
        }
    };
    if let Some(request) = selection.of_request {
        asked::check_known(db, request)?;
    }
    let codes: Vec<String> = states.iter().map(|state| state.code().to_string()).collect();
    let select = format!(
        "SELECT {COLUMNS} FROM runs JOIN scopes ON scopes.id = runs.scope \
         WHERE state IN ({}) AND ifnull(scopes.topic = ?2, true) \
         AND ifnull(scopes.group_name = ?3, true) AND (?4 IS NULL OR request = ?4) \
         AND runs.id < ?5 ORDER BY runs.id DESC LIMIT ?1",
        codes.join(", ")
    );
    let read = || -> rusqlite::Result<Vec<RunRow>> {
        let Selection { topic, group, of_request, limit, .. } = selection;
        let before = selection.before.unwrap_or(i64::MAX);
        let chosen = params![limit, topic, group, of_request, before];
        db.prepare_cached(&select)?.query_map(chosen, run_row)?.collect()
    };
    read().map_err(storage)
}

/// Those of `ids`, which run now, that are asked for: the newest first.
///
/// # Errors
/// As `runs`.
pub fn running(db: &Connection, selection: &Selection, ids: &[i64]) -> Result<Vec<RunRow>> {
    let queued = Selection { state: Some("queued".to_owned()), ..selection.clone() };
    let mut rows = Vec::new();
    for id in ids.iter().filter(|id| selection.before.is_none_or(|before| **id < before)) {
        let one = Selection { before: Some(id + 1), limit: 1, ..queued.clone() };
        rows.extend(runs(db, &one)?.into_iter().filter(|row| row.id == *id));
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row.id));
    rows.truncate(selection.limit as usize);
    for row in &mut rows {
        "running".clone_into(&mut row.state);
    }
    Ok(rows)
}

/// One run by its number; `None` where the history has none such (any more).
///
/// # Errors
/// `Storage` where the file cannot be read.
pub fn run(db: &Connection, id: i64) -> Result<Option<RunDetail>> {
    let select = format!(
        "SELECT {COLUMNS}, output FROM runs JOIN scopes ON scopes.id = runs.scope WHERE runs.id = ?1"
    );
    let read = || -> rusqlite::Result<Option<RunDetail>> {
        let found =
            db.query_row(&select, [id], |row| Ok((run_row(row)?, row.get(22)?))).optional()?;
        let Some((run, output)) = found else { return Ok(None) };
        let mut attempts = db.prepare(
            "SELECT number, started_ms, run_us, worker, error, output FROM attempts \
             WHERE run = ?1 ORDER BY rowid",
        )?;
        let failed_attempts = attempts.query_map([id], attempt_row)?.collect::<Result<_, _>>()?;
        let dead_letters = db.query_row(
            "SELECT max(dead_letters, (SELECT count(*) FROM dead_letters WHERE run = ?1)) \
                 FROM runs WHERE id = ?1",
            params![id],
            |row| row.get(0),
        )?;
        Ok(Some(RunDetail { run, output, failed_attempts, dead_letters }))
    };
    read().map_err(storage)
}

fn run_row(row: &Row<'_>) -> rusqlite::Result<RunRow> {
    let (partition, first, last): (i32, i64, i64) = (row.get(4)?, row.get(5)?, row.get(6)?);
    let request = row.get::<_, Option<i64>>(10)?.unwrap_or_default();
    let key = RunKey {
        lane: Lane { index: row.get(7)?, count: row.get(8)? },
        again: match row.get(9)? {
            KIND_REDRIVE => Some(Again::Redrive(request)),
            KIND_REPLAY => Some(Again::Replay(request)),
            _ => None,
        },
        ..RunKey::new(
            row.get::<_, String>(1)?,
            partition,
            OffsetRange::new(Offset::new(first), Offset::new(last)),
        )
    };
    let state = RunState::from_code(row.get(13)?).map_or("unknown", RunState::name);
    Ok(RunRow {
        id: row.get(0)?,
        key: key.to_string(),
        state: state.to_owned(),
        topic: key.topic.to_string(),
        group: row.get(2)?,
        client: row.get(3)?,
        partition,
        first_offset: first,
        last_offset: last,
        records: row.get(11)?,
        bytes: row.get(12)?,
        attempts: row.get(14)?,
        queued_ms: row.get(15)?,
        started_ms: row.get(16)?,
        ended_ms: row.get(17)?,
        run_ms: row.get::<_, Option<i64>>(18)?.map(millis),
        worker: row.get(19)?,
        error: row.get(20)?,
        parent: row.get(21)?,
    })
}

fn attempt_row(row: &Row<'_>) -> rusqlite::Result<AttemptRow> {
    Ok(AttemptRow {
        number: row.get(0)?,
        started_ms: row.get(1)?,
        run_ms: millis(row.get(2)?),
        worker: row.get(3)?,
        error: row.get(4)?,
        output: row.get(5)?,
    })
}

fn millis(micros: i64) -> f64 {
    micros as f64 / 1000.0
}

fn unknown_state(name: &str) -> Error {
    let known: Vec<_> = RunState::ALL.iter().map(|state| state.name()).collect();
    Error::Usage(format!("--state: got {name:?}, expected one of {}", known.join(", ")))
}

fn storage(cause: rusqlite::Error) -> Error {
    Error::storage("read the history", cause)
}

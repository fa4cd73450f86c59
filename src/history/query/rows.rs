//! A run as people see it, and one run with its attempts.

use rusqlite::{Connection, OptionalExtension, Row, params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::history::dead_letters::FAMILY;
use crate::history::migrations::{KIND_REDRIVE, KIND_REPLAY};
use crate::model::clock;
use crate::model::error::{Error, Result};
use crate::model::live::Running;
use crate::model::offset::{Lane, Offset, OffsetRange, Reprocess, RunKey};
use crate::model::run::RunState;

/// A run as `mb runs` shows it. Times are in milliseconds since 1970 (UTC), durations in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Run")]
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
    /// How many attempts have ended.
    pub attempts: u32,
    pub queued_ms: i64,
    pub started_ms: Option<i64>,
    pub ended_ms: Option<i64>,
    /// From the arrival of the batch's first record to the run's entry into the queue; null for a redrive, for a piece of a
    /// split run, and for runs of an older mb.
    #[serde(default)]
    pub read_ms: Option<f64>,
    /// From the run's entry into the queue to the start of its last attempt.
    #[serde(default)]
    pub wait_ms: Option<f64>,
    /// Time in the step during the last attempt.
    pub run_ms: Option<f64>,
    pub worker: Option<u32>,
    pub error: Option<String>,
    /// The run that this one was split from.
    pub parent: Option<i64>,
}

/// A run with its output and its failed attempts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunDetail {
    #[serde(flatten)]
    pub run: RunRow,
    /// What the last attempt printed; of a run that is under way, what its command has printed so far.
    pub output: Option<String>,
    pub failed_attempts: Vec<AttemptRow>,
    /// How many of its records became dead letters, in this run or in those that it was split into.
    pub dead_letters: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "FailedAttempt")]
pub struct AttemptRow {
    pub number: u32,
    pub started_ms: i64,
    pub run_ms: f64,
    pub worker: u32,
    pub error: String,
    pub output: Option<String>,
}

/// The columns that `run_row` reads.
pub(super) const COLUMNS: &str = "runs.id, scopes.topic, scopes.group_name, client, partition, first_offset, \
     last_offset, lane, lanes, kind, request, records, bytes, state, attempts, queued_ms, started_ms, ended_ms, \
     run_us, worker, error, parent, read_us";

/// What the run printed; if it failed, in its last attempt.
const OUTPUT: &str = "coalesce(runs.output, (SELECT output FROM outputs WHERE run = runs.id), \
     iif(runs.error IS NULL, NULL, (SELECT output FROM attempts WHERE run = runs.id ORDER BY rowid DESC LIMIT 1)))";

impl RunRow {
    /// A worker has the run now, which the file does not say.
    pub fn mark_running(&mut self, running: &Running) {
        RunState::Running.name().clone_into(&mut self.state);
        self.worker = u32::try_from(running.worker).ok();
        let since = i64::try_from(running.since.elapsed().as_millis()).unwrap_or(i64::MAX);
        let started = clock::now_ms().saturating_sub(since);
        self.started_ms = Some(started);
        self.wait_ms = Some((started - self.queued_ms).max(0) as f64);
        (self.ended_ms, self.run_ms) = (None, None);
    }
}

/// One run by its number; `None` if the history has no such run (any more).
///
/// # Errors
/// `Storage` if the file cannot be read.
pub fn run(db: &Connection, id: i64) -> Result<Option<RunDetail>> {
    let select = format!(
        "SELECT {COLUMNS}, {OUTPUT} FROM runs JOIN scopes ON scopes.id = runs.scope WHERE runs.id = ?1"
    );
    let read = || -> rusqlite::Result<Option<RunDetail>> {
        let found =
            db.query_row(&select, [id], |row| Ok((run_row(row)?, row.get(23)?))).optional()?;
        let Some((run, output)) = found else { return Ok(None) };
        let mut attempts = db.prepare(
            "SELECT number, started_ms, run_us, worker, error, output FROM attempts \
             WHERE run = ?1 ORDER BY rowid",
        )?;
        let failed_attempts = attempts.query_map([id], attempt_row)?.collect::<Result<_, _>>()?;
        let select = format!(
            "{FAMILY} SELECT max((SELECT ifnull(sum(dead_letters), 0) FROM runs WHERE id IN family), \
             (SELECT count(*) FROM dead_letters WHERE run IN family))"
        );
        let dead_letters = db.query_row(&select, params![id], |row| row.get(0))?;
        Ok(Some(RunDetail { run, output, failed_attempts, dead_letters }))
    };
    read().map_err(storage)
}

pub(super) fn run_row(row: &Row<'_>) -> rusqlite::Result<RunRow> {
    let (partition, first, last): (i32, i64, i64) = (row.get(4)?, row.get(5)?, row.get(6)?);
    let request = row.get::<_, Option<i64>>(10)?.unwrap_or_default();
    let key = RunKey {
        lane: Lane { index: row.get(7)?, count: row.get(8)? },
        reprocess: match row.get(9)? {
            KIND_REDRIVE => Some(Reprocess::Redrive(request)),
            KIND_REPLAY => Some(Reprocess::Replay(request)),
            _ => None,
        },
        ..RunKey::new(
            row.get::<_, String>(1)?,
            partition,
            OffsetRange::new(Offset::new(first), Offset::new(last)),
        )
    };
    let state = RunState::from_code(row.get(13)?).map_or("unknown", RunState::name);
    let (queued_ms, started_ms): (i64, Option<i64>) = (row.get(15)?, row.get(16)?);
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
        queued_ms,
        started_ms,
        ended_ms: row.get(17)?,
        wait_ms: started_ms.map(|started| (started - queued_ms).max(0) as f64),
        read_ms: row.get::<_, Option<i64>>(22)?.map(millis),
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

/// Milliseconds of microseconds.
pub(super) fn millis(micros: i64) -> f64 {
    micros as f64 / 1000.0
}

fn storage(cause: rusqlite::Error) -> Error {
    Error::storage("read the history", cause)
}

//! Reads the history for people: lists of runs, one run with its attempts. Never writes.

use rusqlite::types::Value as SqlValue;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::asked;
use super::letters::LetterState;
use super::schema::{KIND_REDRIVE, KIND_REPLAY};
use crate::config::limits;
use crate::model::clock;
use crate::model::error::{Error, Result};
use crate::model::live::Running;
use crate::model::offset::{Again, Lane, Offset, OffsetRange, RunKey};
use crate::model::run::RunState;

/// A run as `mb runs` shows it; times in milliseconds since 1970 (UTC), durations in milliseconds.
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
    /// Attempts that ended.
    pub attempts: u32,
    pub queued_ms: i64,
    pub started_ms: Option<i64>,
    pub ended_ms: Option<i64>,
    /// From the queue to the start of the last attempt.
    #[serde(default)]
    pub wait_ms: Option<f64>,
    /// Time in the step at the last attempt.
    pub run_ms: Option<f64>,
    pub worker: Option<u32>,
    pub error: Option<String>,
    /// The run that it was split from.
    pub parent: Option<i64>,
}

/// One run whole: its row, what it printed, and its failed attempts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunDetail {
    #[serde(flatten)]
    pub run: RunRow,
    pub output: Option<String>,
    pub failed_attempts: Vec<AttemptRow>,
    /// Records kept as dead letters.
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

/// A tick as people see it; times in milliseconds since 1970 (UTC), durations in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Tick")]
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
    pub partition: Option<i32>,
    /// A part of the run's error; of ASCII letters the case does not count.
    pub error: Option<String>,
    /// Runs queued at or after this time, in ms since 1970.
    pub since: Option<i64>,
    /// Runs queued before this time.
    pub until: Option<i64>,
    /// One of `SORTS`; `id` without it.
    pub sort: Option<String>,
    /// `asc` or `desc`, which it is without it.
    pub order: Option<String>,
    /// Runs below this number only: those that follow on a list's page that ended there, where that
    /// is sorted by number.
    #[serde(default)]
    pub before: Option<i64>,
    /// So many were there already, where the list is sorted in another way.
    #[serde(default)]
    pub skip: u32,
    pub limit: u32,
}

/// What runs are sorted by, and that in SQL.
pub const SORTS: [(&str, &str); 7] = [
    ("id", "id"),
    ("records", "records"),
    ("bytes", "bytes"),
    ("attempts", "attempts"),
    ("queued", "queued_ms"),
    ("wait", "started_ms - queued_ms"),
    ("run_time", "run_us"),
];

/// The runs that are asked for, the newest first where nothing else is said.
///
/// # Errors
/// `Usage` for a state, sort or order that there is not; `Other` for a request that there is not;
/// `Storage` where the file cannot be read.
#[cfg(feature = "testing")]
pub fn runs(db: &Connection, selection: &Selection) -> Result<Vec<RunRow>> {
    runs_now(db, selection, &[])
}

/// `runs`, of a history whose mb has `running` with its workers: the file has them as queued ones.
///
/// # Errors
/// As `runs`.
pub fn runs_now(
    db: &Connection,
    selection: &Selection,
    running: &[Running],
) -> Result<Vec<RunRow>> {
    if let Some(request) = selection.of_request {
        asked::check_known(db, request)?;
    }
    let (chosen, values) = chosen(selection, running)?;
    let (by, descending) = order(selection)?;
    let read = || -> rusqlite::Result<Vec<RunRow>> {
        let ids = match by {
            "id" => page_by_id(db, selection, &chosen, values, descending)?,
            by => sorted_page(db, selection, &chosen, values, by, descending)?,
        };
        whole_rows(db, &ids)
    };
    let mut rows = read().map_err(storage)?;
    for running in running {
        for row in rows.iter_mut().filter(|row| row.id == running.id.0) {
            row.mark_running(running);
        }
    }
    Ok(rows)
}

/// A condition for `runs`, and the values of its parameters.
fn chosen(selection: &Selection, running: &[Running]) -> Result<(String, Vec<SqlValue>)> {
    let mut conditions = vec!["true".to_owned()];
    let mut values = Vec::new();
    let mut add = |condition: &str, value: SqlValue| {
        values.push(value);
        conditions.push(condition.replace('?', &format!("?{}", values.len())));
    };
    let Selection { topic, group, of_request, partition, error, since, until, before, .. } =
        selection;
    if let Some(topic) = topic {
        add("scope IN (SELECT id FROM scopes WHERE topic = ?)", topic.clone().into());
    }
    if let Some(group) = group {
        add("scope IN (SELECT id FROM scopes WHERE group_name = ?)", group.clone().into());
    }
    if let Some(request) = of_request {
        add("request = ?", (*request).into());
    }
    if let Some(partition) = partition {
        add("partition = ?", (*partition).into());
    }
    if let Some(error) = error {
        add("instr(lower(error), lower(?)) > 0", error.clone().into());
    }
    if let Some(since) = since {
        add("queued_ms >= ?", (*since).into());
    }
    if let Some(until) = until {
        add("queued_ms < ?", (*until).into());
    }
    if let Some(before) = before {
        add("id < ?", (*before).into());
    }
    let ids: Vec<String> = running.iter().map(|run| run.id.to_string()).collect();
    let ids = ids.join(", ");
    if let Some(name) = selection.state.as_deref() {
        let state = RunState::from_name(name).ok_or_else(|| unknown_state(name))?;
        let (queued, code) = (RunState::Queued.code(), state.code());
        conditions.push(match state {
            RunState::Failed => format!("state IN ({code}, {})", RunState::Halted.code()),
            RunState::Running => format!("state IN ({queued}, {code}) AND id IN ({ids})"),
            RunState::Queued => format!("state = {code} AND id NOT IN ({ids})"),
            _ => format!("state = {code}"),
        });
    }
    Ok((conditions.join(" AND "), values))
}

/// What is sorted by, in SQL, and whether the largest comes first.
fn order(selection: &Selection) -> Result<(&'static str, bool)> {
    let name = selection.sort.as_deref().unwrap_or("id");
    let by =
        SORTS.iter().find(|(known, _)| *known == name).map(|(_, by)| *by).ok_or_else(|| {
            let known = SORTS.map(|(known, _)| known).join(", ");
            Error::Usage(format!("sort: got {name:?}, expected one of {known}"))
        })?;
    match selection.order.as_deref() {
        None | Some("desc") => Ok((by, true)),
        Some("asc") => Ok((by, false)),
        Some(other) => Err(Error::Usage(format!("order: got {other:?}, expected asc or desc"))),
    }
}

/// The numbers of a page's runs in the table's own order.
fn page_by_id(
    db: &Connection,
    selection: &Selection,
    chosen: &str,
    values: Vec<SqlValue>,
    descending: bool,
) -> rusqlite::Result<Vec<i64>> {
    let way = if descending { "DESC" } else { "ASC" };
    let (limit, skip) = (selection.limit, selection.skip);
    let select =
        format!("SELECT id FROM runs WHERE {chosen} ORDER BY id {way} LIMIT {limit} OFFSET {skip}");
    let mut select = db.prepare_cached(&select)?;
    select.query_map(params_from_iter(values), |row| row.get(0))?.collect()
}

/// The same in another order. No index is kept for it, which each run would pay for: all figures
/// are read, and never many more of them kept than lie up to the page's end. (SQLite's own sorter
/// took up to three times as long.)
fn sorted_page(
    db: &Connection,
    selection: &Selection,
    chosen: &str,
    values: Vec<SqlValue>,
    by: &str,
    descending: bool,
) -> rusqlite::Result<Vec<i64>> {
    let select = format!("SELECT id, {by} FROM runs WHERE {chosen}");
    let mut select = db.prepare_cached(&select)?;
    let mut rows = select.query(params_from_iter(values))?;
    let end = selection.skip as usize + selection.limit as usize;
    // What has no figure yet is no help at the top, whichever way.
    let mut keys: Vec<(bool, i64, i64)> = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, figure): (i64, Option<i64>) = (row.get(0)?, row.get(1)?);
        let (figure_key, id_key) = match descending {
            true => (figure.map(|figure| -figure), -id),
            false => (figure, id),
        };
        keys.push((figure.is_none(), figure_key.unwrap_or_default(), id_key));
        if keys.len() >= 2 * end + limits::LIST_ROWS as usize {
            keys.select_nth_unstable(end);
            keys.truncate(end);
        }
    }
    keys.sort_unstable();
    let page = keys.into_iter().take(end).skip(selection.skip as usize);
    Ok(page.map(|(_, _, id)| id.abs()).collect())
}

/// The rows of these runs, in their order. Only those that are shown are read whole: outputs make
/// them long.
fn whole_rows(db: &Connection, ids: &[i64]) -> rusqlite::Result<Vec<RunRow>> {
    let mut select = db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM runs JOIN scopes ON scopes.id = runs.scope WHERE runs.id = ?1"
    ))?;
    let mut rows = Vec::with_capacity(ids.len());
    for id in ids {
        // One that is removed just now is not shown.
        rows.extend(select.query_row([id], run_row).optional()?);
    }
    Ok(rows)
}

/// How many runs the history has in each state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunCounts {
    pub queued: u64,
    pub running: u64,
    pub succeeded: u64,
    /// Failed and halted runs together.
    pub failed: u64,
    pub split: u64,
}

/// How many runs are in which state, `running` among them as in `runs_now`; "failed" counts halted
/// ones too.
///
/// # Errors
/// `Storage` where the file cannot be read.
pub fn counts(db: &Connection, running: &[Running]) -> Result<RunCounts> {
    let ids: Vec<String> = running.iter().map(|run| run.id.to_string()).collect();
    let queued = RunState::Queued.code();
    let states = [
        RunState::Queued,
        RunState::Succeeded,
        RunState::Failed,
        RunState::Halted,
        RunState::Split,
    ];
    // One pass, which needs no sorting by state.
    let sums = states.map(|state| format!("ifnull(sum(state = {}), 0)", state.code()));
    let select = format!(
        "SELECT {}, (SELECT count(*) FROM runs WHERE state = {queued} AND id IN ({})) FROM runs",
        sums.join(", "),
        ids.join(", ")
    );
    let read = || -> rusqlite::Result<[u64; 6]> {
        let mut found = [0; 6];
        db.query_row(&select, [], |row| {
            for (column, runs) in found.iter_mut().enumerate() {
                *runs = row.get(column)?;
            }
            Ok(())
        })?;
        Ok(found)
    };
    let [queued, succeeded, failed, halted, split, running] = read().map_err(storage)?;
    Ok(RunCounts {
        queued: queued.saturating_sub(running),
        running,
        succeeded,
        failed: failed + halted,
        split,
    })
}

/// Dead letters that are neither redriven nor discarded.
///
/// # Errors
/// `Storage` where the file cannot be read.
pub fn open_dead_letters(db: &Connection) -> Result<u64> {
    let open = [LetterState::Open, LetterState::Redriving].map(LetterState::code);
    let count = || -> rusqlite::Result<u64> {
        db.prepare_cached("SELECT count(*) FROM dead_letters WHERE state IN (?1, ?2)")?
            .query_row(open, |row| row.get(0))
    };
    count().map_err(storage)
}

/// Which ticks are listed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TickSelection {
    /// As in the list: `runtime`, `queue-full`, `memory-full`, `paused`, `interrupted`, `stop`, `error`.
    pub ended_by: Option<String>,
    /// Ticks that found something, or failed.
    #[serde(default)]
    pub busy: bool,
    /// Ticks below this number only.
    #[serde(default)]
    pub before: Option<i64>,
    pub limit: u32,
}

/// The newest ticks first.
///
/// # Errors
/// `Storage` where the file cannot be read.
pub fn ticks(db: &Connection, selection: &TickSelection) -> Result<Vec<TickRow>> {
    let TickSelection { ended_by, busy, before, limit } = selection;
    let read = || -> rusqlite::Result<Vec<TickRow>> {
        db.prepare_cached(
            "SELECT ticks.id, scopes.topic, scopes.group_name, sensor, started_ms, run_us, records, \
             bytes, batches, ended_by, error FROM ticks JOIN scopes ON scopes.id = ticks.scope \
             WHERE ticks.id < ?1 AND (?2 IS NULL OR ended_by = ?2) \
             AND (NOT ?3 OR records > 0 OR error IS NOT NULL) ORDER BY ticks.id DESC LIMIT ?4",
        )?
        .query_map(params![before.unwrap_or(i64::MAX), ended_by, busy, limit], tick_row)?
        .collect()
    };
    read().map_err(storage)
}

fn tick_row(row: &Row<'_>) -> rusqlite::Result<TickRow> {
    Ok(TickRow {
        id: row.get(0)?,
        topic: row.get(1)?,
        group: row.get(2)?,
        sensor: row.get(3)?,
        started_ms: row.get(4)?,
        run_ms: millis(row.get(5)?),
        records: row.get(6)?,
        bytes: row.get(7)?,
        batches: row.get(8)?,
        ended_by: row.get(9)?,
        error: row.get(10)?,
    })
}

impl RunRow {
    /// The run is with a worker now, which the file does not know.
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

#[cfg(test)]
mod tests;

//! The dead letters in the history: lists for people, and what becomes of them: redriven, back again,
//! or discarded.
//!
//! The thread that makes runs of redriven ones is `again`; how they get here, in `writer`.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema::KIND_REDRIVE;
use super::{DeadLetters, Outcome, Planned};
use crate::model::batch::Record;
use crate::model::clock;
use crate::model::error::{Error, Result};
use crate::model::headers::Headers;
use crate::model::offset::Offset;
use crate::step::record_json::{HeaderJson, RecordJson};

/// How a dead letter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetterState {
    /// Nothing has become of it yet.
    Open,
    /// A request that is not done yet has it.
    Redriving,
    /// A run of a request has processed it.
    Redriven,
    /// Somebody decided that it is not needed.
    Discarded,
}

impl LetterState {
    pub const ALL: [LetterState; 4] =
        [LetterState::Open, LetterState::Redriving, LetterState::Redriven, LetterState::Discarded];

    pub fn name(self) -> &'static str {
        match self {
            LetterState::Open => "open",
            LetterState::Redriving => "redriving",
            LetterState::Redriven => "redriven",
            LetterState::Discarded => "discarded",
        }
    }

    pub fn from_name(name: &str) -> Option<LetterState> {
        LetterState::ALL.into_iter().find(|state| state.name() == name)
    }

    /// The number in the history file.
    pub fn code(self) -> i64 {
        match self {
            LetterState::Open => 0,
            LetterState::Redriving => 1,
            LetterState::Redriven => 2,
            LetterState::Discarded => 3,
        }
    }

    fn from_code(code: i64) -> Option<LetterState> {
        LetterState::ALL.into_iter().find(|state| state.code() == code)
    }
}

/// A dead letter as `mb dead-letters` lists it; times in milliseconds since 1970 (UTC).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "DeadLetter")]
pub struct LetterRow {
    pub id: i64,
    pub state: String,
    pub topic: String,
    pub group: String,
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: Option<i64>,
    /// The run that gave up on it first.
    pub run: i64,
    pub run_key: String,
    /// Why, at the last time.
    pub error: String,
    /// Attempts, those of redrives included.
    pub attempts: u32,
    pub at_ms: i64,
    /// The request that has it.
    pub request: Option<i64>,
    /// The run that redrives it, or did last.
    pub redrive_run: Option<i64>,
    pub resolved_ms: Option<i64>,
    /// Why it was discarded.
    pub note: Option<String>,
}

/// One dead letter whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "DeadLetterDetail")]
pub struct LetterDetail {
    #[serde(flatten)]
    pub letter: LetterRow,
    /// As in every JSON of mb: `key`, `value`, or `key_base64`, `value_base64`.
    #[schemars(with = "RecordJson<'static>")]
    pub record: serde_json::Value,
    /// In their order, each as `name`, `value`, or `name_base64`, `value_base64`.
    #[schemars(with = "Vec<HeaderJson<'static>>")]
    pub headers: Vec<serde_json::Value>,
}

/// How many letters have one error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorCount {
    pub letters: i64,
    pub topic: String,
    pub group: String,
    pub error: String,
}

/// Which letters are listed; no field selects all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    pub state: Option<String>,
    pub topic: Option<String>,
    pub group: Option<String>,
    /// A part of the error.
    pub error: Option<String>,
    /// Letters below this number only: those that follow on a list's page that ended there.
    #[serde(default)]
    pub before: Option<i64>,
    /// The same of a list of errors: so many were there already.
    #[serde(default)]
    pub skip: u32,
    pub limit: u32,
}

/// Which open letters something is done to: those named, or where none is named all that the rest
/// selects.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pick {
    pub ids: Vec<i64>,
    pub topic: Option<String>,
    pub group: Option<String>,
    pub error: Option<String>,
}

/// A redrive that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "RedriveRequest")]
pub struct Asked {
    pub request: i64,
    pub topic: String,
    pub group: String,
    pub letters: u64,
    /// Letters that stay open: another one of the same offset has other bytes, and goes first.
    pub left: u64,
}

const COLUMNS: &str = "d.id, d.state, d.topic, s.group_name, d.partition, d.record_offset, \
     d.timestamp_ms, d.run, d.run_key, d.error, d.attempts, d.at_ms, d.request, d.redrive_run, \
     d.resolved_ms, d.note";

const SELECTED: &str = "(?1 IS NULL OR d.state = ?1) AND ifnull(d.topic = ?2, true) \
     AND ifnull(s.group_name = ?3, true) AND ifnull(instr(d.error, ?4) > 0, true)";

/// The newest letters first.
///
/// # Errors
/// `Usage` for a state that there is not; `Storage` where the file cannot be read.
pub fn list(db: &Connection, selection: &Selection) -> Result<Vec<LetterRow>> {
    let state = state(selection)?;
    let select = format!(
        "SELECT {COLUMNS} FROM dead_letters d JOIN scopes s ON s.id = d.scope WHERE {SELECTED} \
         AND d.id < ?6 ORDER BY d.id DESC LIMIT ?5"
    );
    let Selection { topic, group, error, limit, .. } = selection;
    let before = selection.before.unwrap_or(i64::MAX);
    let read = || -> rusqlite::Result<Vec<LetterRow>> {
        let chosen = params![state, topic, group, error, limit, before];
        db.prepare_cached(&select)?.query_map(chosen, row)?.collect()
    };
    read().map_err(storage)
}

/// How many of the selected letters have which error, the most frequent first.
///
/// # Errors
/// As `list`.
pub fn errors(db: &Connection, selection: &Selection) -> Result<Vec<ErrorCount>> {
    let state = state(selection)?;
    let select = format!(
        "SELECT count(*) AS letters, d.topic, s.group_name, d.error FROM dead_letters d \
         JOIN scopes s ON s.id = d.scope WHERE {SELECTED} GROUP BY 2, 3, 4 \
         ORDER BY letters DESC, 2, 3, 4 LIMIT ?5 OFFSET ?6"
    );
    let Selection { topic, group, error, limit, skip, .. } = selection;
    let count = |row: &Row<'_>| {
        Ok(ErrorCount {
            letters: row.get(0)?,
            topic: row.get(1)?,
            group: row.get(2)?,
            error: row.get(3)?,
        })
    };
    let read = || -> rusqlite::Result<Vec<ErrorCount>> {
        let chosen = params![state, topic, group, error, limit, skip];
        db.prepare(&select)?.query_map(chosen, count)?.collect()
    };
    read().map_err(storage)
}

fn state(selection: &Selection) -> Result<Option<i64>> {
    let Some(name) = selection.state.as_deref().filter(|name| *name != "all") else {
        return Ok(None);
    };
    let state = LetterState::from_name(name).ok_or_else(|| {
        let known: Vec<_> = LetterState::ALL.iter().map(|state| state.name()).collect();
        Error::Usage(format!("--state: got {name:?}, expected {} or all", known.join(", ")))
    })?;
    Ok(Some(state.code()))
}

/// One letter by its number.
///
/// # Errors
/// `Storage` where the file cannot be read.
pub fn letter(db: &Connection, id: i64) -> Result<Option<LetterDetail>> {
    let select = format!(
        "SELECT {COLUMNS}, d.key, d.value, d.headers FROM dead_letters d \
         JOIN scopes s ON s.id = d.scope WHERE d.id = ?1"
    );
    let detail = |found: &Row<'_>| -> rusqlite::Result<LetterDetail> {
        let letter = row(found)?;
        let bytes = |column| found.get::<_, Option<Vec<u8>>>(column);
        let (key, value, headers) = (bytes(16)?, bytes(17)?, bytes(18)?.unwrap_or_default());
        let record = Record {
            offset: Offset::new(letter.offset),
            timestamp: letter.timestamp_ms,
            key: key.as_deref(),
            value: value.as_deref(),
            headers: Headers::NONE,
        };
        let record = serde_json::to_value(RecordJson { partition: letter.partition, record });
        let headers = Headers::decode(&headers).unwrap_or(Headers::NONE).iter();
        let headers = headers.map(|(name, value)| {
            serde_json::to_value(HeaderJson { name, value }).unwrap_or_default()
        });
        let headers = headers.collect();
        Ok(LetterDetail { letter, record: record.unwrap_or_default(), headers })
    };
    db.query_row(&select, [id], detail).optional().map_err(storage)
}

fn row(row: &Row<'_>) -> rusqlite::Result<LetterRow> {
    let state = LetterState::from_code(row.get(1)?).map_or("unknown", LetterState::name);
    Ok(LetterRow {
        id: row.get(0)?,
        state: state.to_owned(),
        topic: row.get(2)?,
        group: row.get(3)?,
        partition: row.get(4)?,
        offset: row.get(5)?,
        timestamp_ms: row.get(6)?,
        run: row.get(7)?,
        run_key: row.get(8)?,
        error: row.get(9)?,
        attempts: row.get(10)?,
        at_ms: row.get(11)?,
        request: row.get(12)?,
        redrive_run: row.get(13)?,
        resolved_ms: row.get(14)?,
        note: row.get(15)?,
    })
}

/// Asks for open letters to be redriven: one request for each topic and group that they are of, all of
/// them or none.
///
/// # Errors
/// `Other` for letters that there are not, or that are not open, and where none is selected;
/// `Storage` where the file cannot be written.
pub fn redrive(db: &mut Connection, pick: &Pick) -> Result<Vec<Asked>> {
    let change = begin(db)?;
    let groups = pick_marked(&change, pick, "redriven")?;
    let ask = || -> rusqlite::Result<Vec<Asked>> {
        let mut asked = Vec::new();
        for (topic, group) in groups {
            change.execute(
                "INSERT INTO requests(scope, kind, asked_ms) \
                 SELECT max(id), ?3, ?4 FROM scopes WHERE topic = ?1 AND group_name = ?2",
                params![topic, group, KIND_REDRIVE, clock::now_ms()],
            )?;
            let request = change.last_insert_rowid();
            let letters = change.execute(
                "UPDATE dead_letters SET state = ?3, request = ?4, redrive_run = NULL \
                 WHERE id IN (SELECT id FROM picked) AND topic = ?1 AND scope IN \
                 (SELECT id FROM scopes WHERE topic = ?1 AND group_name = ?2)",
                params![topic, group, LetterState::Redriving.code(), request],
            )?;
            // A run has one record of an offset. Other bytes under the same offset would need the
            // same run key, and a step that is idempotent by it would pass over them.
            let left = change.execute(
                "UPDATE dead_letters SET state = ?2, request = NULL WHERE request = ?1 AND EXISTS \
                 (SELECT 1 FROM dead_letters other WHERE other.request = ?1 \
                     AND other.partition = dead_letters.partition \
                     AND other.record_offset = dead_letters.record_offset \
                     AND other.id < dead_letters.id \
                     AND (other.key IS NOT dead_letters.key OR other.value IS NOT dead_letters.value \
                         OR other.headers IS NOT dead_letters.headers))",
                params![request, LetterState::Open.code()],
            )?;
            let letters = (letters - left) as u64;
            asked.push(Asked { request, topic, group, letters, left: left as u64 });
        }
        Ok(asked)
    };
    let asked = ask().map_err(storage)?;
    end(change)?;
    Ok(asked)
}

/// Marks open letters as not needed, for the reason `note`; how many.
///
/// # Errors
/// As `redrive`.
pub fn discard(db: &mut Connection, pick: &Pick, note: &str) -> Result<u64> {
    let change = begin(db)?;
    pick_marked(&change, pick, "discarded")?;
    let discarded = change
        .execute(
            "UPDATE dead_letters SET state = ?1, resolved_ms = ?2, note = ?3 \
             WHERE id IN (SELECT id FROM picked)",
            params![LetterState::Discarded.code(), clock::now_ms(), note],
        )
        .map_err(storage)?;
    end(change)?;
    Ok(discarded as u64)
}

fn begin(db: &mut Connection) -> Result<Transaction<'_>> {
    db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(storage)
}

fn end(change: Transaction<'_>) -> Result<()> {
    change.execute("DELETE FROM picked", []).map_err(storage)?;
    change.commit().map_err(storage)
}

/// Fills the temporary table `picked` with the letters that are meant; the topics and groups that
/// they are of. `done` is what would be done to them.
fn pick_marked(change: &Transaction<'_>, pick: &Pick, done: &str) -> Result<Vec<(String, String)>> {
    change
        .execute_batch(
            "CREATE TEMP TABLE IF NOT EXISTS picked(id INTEGER PRIMARY KEY); DELETE FROM picked;",
        )
        .map_err(storage)?;
    // Each one that is named is looked up: one statement for both would read all of them for each.
    let select = |which: &str| {
        format!(
            "INSERT OR IGNORE INTO picked SELECT d.id FROM dead_letters d \
             JOIN scopes s ON s.id = d.scope WHERE d.state = 0 AND {which} \
             AND ifnull(d.topic = ?2, true) AND ifnull(s.group_name = ?3, true) \
             AND ifnull(instr(d.error, ?4) > 0, true)"
        )
    };
    let (named, any) = (select("d.id = ?1"), select("?1 IS NULL"));
    let Pick { ids, topic, group, error } = pick;
    let insert = |id: Option<i64>| {
        let select = if id.is_some() { &named } else { &any };
        change
            .prepare_cached(select)
            .and_then(|mut insert| insert.execute(params![id, topic, group, error]))
            .map_err(storage)
    };
    for id in ids {
        if insert(Some(*id))? == 0 {
            explain(change, *id, done)?;
        }
    }
    if ids.is_empty() && insert(None)? == 0 {
        return Err(Error::Other(format!(
            "no dead letter is {done}: no open one fits (mb dead-letters list --state all shows \
             every one)"
        )));
    }
    let mut groups = change
        .prepare(
            "SELECT DISTINCT s.topic, s.group_name FROM picked p JOIN dead_letters d ON d.id = p.id \
             JOIN scopes s ON s.id = d.scope ORDER BY 1, 2",
        )
        .map_err(storage)?;
    let groups = groups.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(storage)?;
    groups.collect::<rusqlite::Result<_>>().map_err(storage)
}

/// Why a letter that was named was not picked; none where it was, named twice.
fn explain(change: &Transaction<'_>, id: i64, done: &str) -> Result<()> {
    let found = change
        .query_row("SELECT state, request FROM dead_letters WHERE id = ?1", [id], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?))
        })
        .optional()
        .map_err(storage)?;
    let cause = match found.map(|(state, request)| (LetterState::from_code(state), request)) {
        None => {
            "is not in the history (mb dead-letters list --state all shows every one)".to_owned()
        }
        Some((Some(LetterState::Open), _)) => {
            let picked = change
                .query_row("SELECT 1 FROM picked WHERE id = ?1", [id], |_| Ok(()))
                .optional()
                .map_err(storage)?;
            match picked {
                Some(()) => return Ok(()),
                None => "is of another topic, group or error than was asked for".to_owned(),
            }
        }
        Some((Some(LetterState::Redriving), Some(request))) => {
            format!("is being redriven, by request {request}")
        }
        Some((state, _)) => {
            format!("is {} already", state.map_or("resolved", LetterState::name))
        }
    };
    Err(Error::Other(format!("nothing is {done}: dead letter {id} {cause}")))
}

/// Gives the letters of a redrive's new run to it; in the transaction that holds the run.
pub(super) fn take(change: &Transaction<'_>, run: &Planned, request: i64) -> rusqlite::Result<()> {
    let (first, last) = (run.key.range.first.get(), run.key.range.last.get());
    let state = LetterState::Redriving.code();
    match run.parent {
        None => change
            .prepare_cached(
                "UPDATE dead_letters SET redrive_run = ?1 WHERE request = ?2 AND partition = ?3 \
                 AND record_offset BETWEEN ?4 AND ?5 AND state = ?6 AND redrive_run IS NULL",
            )?
            .execute(params![run.id.0, request, run.key.partition, first, last, state])?,
        Some(parent) => change
            .prepare_cached(
                "UPDATE dead_letters SET redrive_run = ?1 WHERE redrive_run = ?2 \
                 AND record_offset BETWEEN ?3 AND ?4 AND state = ?5",
            )?
            .execute(params![run.id.0, parent.0, first, last, state])?,
    };
    Ok(())
}

/// A redrive's run has ended, or became others that have their letters by now: those that failed
/// again are open again, the rest is redriven. In the transaction of its outcome.
pub(super) fn settle(
    change: &Transaction<'_>,
    outcome: &Outcome,
    request: i64,
) -> rusqlite::Result<()> {
    let attempt = &outcome.attempt;
    let now = attempt.started_ms + attempt.run_us / 1000;
    let redriving = LetterState::Redriving.code();
    if let Some(DeadLetters { batch, reasons, .. }) = &outcome.dead_letters {
        let mut reopen = change.prepare_cached(
            "UPDATE dead_letters SET state = ?3, request = NULL, error = ?4, \
             attempts = attempts + ?5, at_ms = ?6 \
             WHERE redrive_run = ?1 AND record_offset = ?2 AND state = ?7",
        )?;
        for record in batch.records() {
            reopen.execute(params![
                outcome.id.0,
                record.offset.get(),
                LetterState::Open.code(),
                reasons.get(&record.offset).or(attempt.error.as_ref()),
                attempt.number,
                now,
                redriving
            ])?;
        }
    }
    change
        .prepare_cached(
            "UPDATE dead_letters SET state = ?2, request = NULL, resolved_ms = ?3 \
             WHERE redrive_run = ?1 AND state = ?4",
        )?
        .execute(params![outcome.id.0, LetterState::Redriven.code(), now, redriving])?;
    change
        .prepare_cached(
            "UPDATE requests SET state = 1, ended_ms = ?2 WHERE id = ?1 AND state = 0 \
             AND NOT EXISTS (SELECT 1 FROM dead_letters WHERE request = ?1)",
        )?
        .execute(params![request, now])?;
    Ok(())
}

fn storage(cause: rusqlite::Error) -> Error {
    Error::storage("use the dead letters in the history", cause)
}

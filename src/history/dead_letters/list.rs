//! Lists of dead letters, for people.

use rusqlite::{Connection, OptionalExtension, Row, params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::state::DeadLetterState;
use crate::model::batch::Record;
use crate::model::error::{Error, Result};
use crate::model::headers::Headers;
use crate::model::offset::Offset;
use crate::step::record_json::RecordJson;

/// A dead letter as `mb dead-letters` lists it. Times are in milliseconds since 1970 (UTC).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "DeadLetter")]
pub struct DeadLetterRow {
    pub id: i64,
    pub state: String,
    pub topic: String,
    pub group: String,
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: Option<i64>,
    /// The run that first gave up on the record.
    pub run: i64,
    pub run_key: String,
    /// The error of the last attempt.
    pub error: String,
    /// How many attempts failed, those of redrives included.
    pub attempts: u32,
    pub at_ms: i64,
    /// The open request that redrives it.
    pub request: Option<i64>,
    /// The run that redrives it, or did so last.
    pub redrive_run: Option<i64>,
    pub resolved_ms: Option<i64>,
    /// Why it was discarded.
    pub note: Option<String>,
}

/// A dead letter with its record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "DeadLetterDetail")]
pub struct DeadLetterDetail {
    #[serde(flatten)]
    pub letter: DeadLetterRow,
    #[schemars(with = "RecordJson<'static>")]
    pub record: serde_json::Value,
}

/// How many dead letters have the same error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorCount {
    pub letters: i64,
    pub topic: String,
    pub group: String,
    pub error: String,
}

/// Which dead letters to list. A field that is not set selects all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    pub state: Option<String>,
    pub topic: Option<String>,
    pub group: Option<String>,
    /// Part of the error's text.
    pub error: Option<String>,
    /// Dead letters with a lower number only: the page that follows one that ended there.
    #[serde(default)]
    pub before: Option<i64>,
    /// For the list of errors, the same: how many earlier pages have shown.
    #[serde(default)]
    pub skip: u32,
    pub limit: u32,
}

const COLUMNS: &str = "d.id, d.state, d.topic, s.group_name, d.partition, d.record_offset, \
     d.timestamp_ms, d.run, d.run_key, d.error, d.attempts, d.at_ms, d.request, d.redrive_run, \
     d.resolved_ms, d.note";

const SELECTED: &str = "(?1 IS NULL OR d.state = ?1) AND ifnull(d.topic = ?2, true) \
     AND ifnull(s.group_name = ?3, true) AND ifnull(instr(d.error, ?4) > 0, true)";

/// The selected dead letters, the newest first.
///
/// # Errors
/// `Usage` for an unknown state; `Storage` if the file cannot be read.
pub fn list(db: &Connection, selection: &Selection) -> Result<Vec<DeadLetterRow>> {
    let state = state(selection)?;
    let select = format!(
        "SELECT {COLUMNS} FROM dead_letters d JOIN scopes s ON s.id = d.scope WHERE {SELECTED} \
         AND d.id < ?6 ORDER BY d.id DESC LIMIT ?5"
    );
    let Selection { topic, group, error, limit, .. } = selection;
    let before = selection.before.unwrap_or(i64::MAX);
    let read = || -> rusqlite::Result<Vec<DeadLetterRow>> {
        let chosen = params![state, topic, group, error, limit, before];
        db.prepare_cached(&select)?.query_map(chosen, row)?.collect()
    };
    read().map_err(storage)
}

/// How many of the selected dead letters have which error, the most frequent error first.
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
    let state = DeadLetterState::from_name(name).ok_or_else(|| {
        let known: Vec<_> = DeadLetterState::ALL.iter().map(|state| state.name()).collect();
        Error::Usage(format!("--state: got {name:?}, expected {} or all", known.join(", ")))
    })?;
    Ok(Some(state.code()))
}

/// One dead letter by its number.
///
/// # Errors
/// `Storage` if the file cannot be read.
pub fn find(db: &Connection, id: i64) -> Result<Option<DeadLetterDetail>> {
    let select = format!(
        "SELECT {COLUMNS}, d.key, d.value, d.headers FROM dead_letters d \
         JOIN scopes s ON s.id = d.scope WHERE d.id = ?1"
    );
    let detail = |found: &Row<'_>| -> rusqlite::Result<DeadLetterDetail> {
        let letter = row(found)?;
        let bytes = |column| found.get::<_, Option<Vec<u8>>>(column);
        let (key, value, headers) = (bytes(16)?, bytes(17)?, bytes(18)?.unwrap_or_default());
        let record = Record {
            offset: Offset::new(letter.offset),
            timestamp: letter.timestamp_ms,
            key: key.as_deref(),
            value: value.as_deref(),
            headers: Headers::decode(&headers).unwrap_or(Headers::NONE),
        };
        let record = serde_json::to_value(RecordJson { partition: letter.partition, record });
        Ok(DeadLetterDetail { letter, record: record.unwrap_or_default() })
    };
    db.query_row(&select, [id], detail).optional().map_err(storage)
}

fn row(row: &Row<'_>) -> rusqlite::Result<DeadLetterRow> {
    let state = DeadLetterState::from_code(row.get(1)?).map_or("unknown", DeadLetterState::name);
    Ok(DeadLetterRow {
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

fn storage(cause: rusqlite::Error) -> Error {
    Error::storage("use the dead letters in the history", cause)
}

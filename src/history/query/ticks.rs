//! Lists of ticks, for people.

use rusqlite::{Connection, Row, params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rows::millis;
use crate::model::error::{Error, Result};

/// A tick as people see it. Times are in milliseconds since 1970 (UTC), durations in milliseconds.
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

/// Which ticks to list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TickSelection {
    /// How the tick ended: `runtime`, `queue-full`, `memory-full`, `paused`, `interrupted`, `stop`,
    /// `error`.
    pub ended_by: Option<String>,
    /// Only ticks that found records, or failed.
    #[serde(default)]
    pub busy: bool,
    /// Ticks with a lower number only.
    #[serde(default)]
    pub before: Option<i64>,
    pub limit: u32,
}

/// The selected ticks, the newest first.
///
/// # Errors
/// `Storage` if the file cannot be read.
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

fn storage(cause: rusqlite::Error) -> Error {
    Error::storage("read the history", cause)
}

//! Finds where a run's records are (log, partition, range), for replaying or showing them.

use rusqlite::{Connection, OptionalExtension, Row};

use super::state::{UNFINISHED, range};
use crate::history::migrations::KIND_REDRIVE;
use crate::history::scope::ScopeId;
use crate::model::error::{Error, Result};
use crate::model::offset::{Lane, OffsetRange, Partition};

/// Where the records of a run are: in which log, partition and range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub scope: ScopeId,
    pub cluster_id: String,
    pub group: String,
    pub topic: String,
    pub topic_id: String,
    pub embedded: bool,
    pub partition: Partition,
    pub range: OffsetRange,
    pub lane: Lane,
    pub is_redrive: bool,
    pub records: u64,
    /// As in `RunState::code`.
    pub state: i64,
}

impl Place {
    pub fn is_unfinished(&self) -> bool {
        UNFINISHED.contains(&self.state)
    }
}

/// Finds the place of a run by its number.
///
/// # Errors
/// `Usage` if the history has no such run (any more); `Storage`.
pub fn place(db: &Connection, run: i64) -> Result<Place> {
    let row = |row: &Row<'_>| -> rusqlite::Result<Place> {
        Ok(Place {
            scope: ScopeId(row.get(0)?),
            cluster_id: row.get(1)?,
            group: row.get(2)?,
            topic: row.get(3)?,
            topic_id: row.get(4)?,
            embedded: row.get::<_, String>(5)? == "embedded",
            partition: row.get(6)?,
            range: range(row, 7)?,
            lane: Lane { index: row.get(9)?, count: row.get(10)? },
            is_redrive: row.get::<_, i64>(11)? == KIND_REDRIVE,
            records: row.get(12)?,
            state: row.get(13)?,
        })
    };
    let select = "SELECT scope, cluster_id, group_name, topic, topic_id, log, partition, \
         first_offset, last_offset, lane, lanes, kind, records, state \
         FROM runs JOIN scopes ON scopes.id = runs.scope WHERE runs.id = ?1";
    let found =
        db.prepare_cached(select).and_then(|mut place| place.query_row([run], row).optional());
    found.map_err(storage)?.ok_or_else(|| {
        Error::Usage(format!("run {run}: the history has no run of this number (any more)"))
    })
}

fn storage(cause: rusqlite::Error) -> Error {
    Error::storage("use the requests in the history", cause)
}

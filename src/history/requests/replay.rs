//! Writes new replays to the history.

use rusqlite::{Connection, TransactionBehavior, params};
use serde::{Deserialize, Serialize};

use crate::history::migrations::KIND_REPLAY;
use crate::history::scope::{self, ScopeKey};
use crate::model::clock;
use crate::model::error::{Error, Result};
use crate::model::offset::Partition;

/// A replay that is requested. Its scope is given as in `ScopeKey`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    pub embedded: bool,
    pub cluster_id: String,
    pub group: String,
    pub topic: String,
    pub topic_id: String,
    /// The partition, first and last offset of each range; both offsets are included.
    pub ranges: Vec<(Partition, i64, i64)>,
}

/// Adds a replay's ranges to the history, each as a request of its own. Returns the requests' numbers.
///
/// # Errors
/// `Storage` if the file cannot be written.
pub fn add_replay(db: &mut Connection, replay: &Replay) -> Result<Vec<i64>> {
    let key = ScopeKey {
        log: if replay.embedded { "embedded" } else { "kafka" },
        cluster_id: replay.cluster_id.clone(),
        group: replay.group.clone(),
        topic: replay.topic.clone(),
        topic_id: replay.topic_id.clone(),
    };
    let change = db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(storage)?;
    let scope = scope::find_or_add(&change, &key)?;
    let mut numbers = Vec::new();
    for (partition, first, last) in &replay.ranges {
        change
            .execute(
                "INSERT INTO requests(scope, kind, partition, first_offset, last_offset, asked_ms) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![scope.0, KIND_REPLAY, partition, first, last, clock::now_ms()],
            )
            .map_err(storage)?;
        numbers.push(change.last_insert_rowid());
    }
    change.commit().map_err(storage)?;
    Ok(numbers)
}

fn storage(cause: rusqlite::Error) -> Error {
    Error::storage("use the requests in the history", cause)
}

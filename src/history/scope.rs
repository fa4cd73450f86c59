//! What ranges belong to: one group's offsets of one topic, on one log. Any difference is another scope, and
//! ranges never cross scopes.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};

use crate::kafka::{Backend, TopicInfo};
use crate::model::clock;
use crate::model::error::{Error, Result};
use crate::model::offset::{Offset, Partition};

/// The number of a scope: which row of `scopes` a process works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScopeId(pub i64);

/// What tells one scope from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeKey {
    /// "kafka" or "embedded".
    pub log: &'static str,
    pub cluster_id: String,
    pub group: String,
    pub topic: String,
    /// Empty if the broker has no topic ids.
    pub topic_id: String,
}

impl ScopeKey {
    /// The scope of one group's ranges of one topic, on the log that `backend` reads.
    pub fn of(backend: Backend, group: &str, topic: &TopicInfo) -> ScopeKey {
        ScopeKey {
            log: if backend == Backend::Embedded { "embedded" } else { "kafka" },
            cluster_id: topic.cluster_id.clone().unwrap_or_default(),
            group: group.to_owned(),
            topic: topic.name.clone(),
            topic_id: topic.id.clone().unwrap_or_default(),
        }
    }
}

/// The scope's number; a new scope gets one.
///
/// # Errors
/// `Storage` if the file cannot be read or written.
pub fn find_or_add(db: &Connection, key: &ScopeKey) -> Result<ScopeId> {
    let names = params![key.log, key.cluster_id, key.group, key.topic, key.topic_id];
    let find = "SELECT id FROM scopes WHERE log = ?1 AND cluster_id = ?2 AND group_name = ?3 \
                AND topic = ?4 AND topic_id = ?5";
    let found = || {
        db.prepare_cached(find)
            .and_then(|mut find| find.query_row(names, |row| row.get(0)).optional())
            .map_err(storage)
    };
    if let Some(id) = found()? {
        return Ok(ScopeId(id));
    }
    // A command may add it at the same time.
    db.execute(
        "INSERT OR IGNORE INTO scopes(log, cluster_id, group_name, topic, topic_id, created_ms) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![key.log, key.cluster_id, key.group, key.topic, key.topic_id, clock::now_ms()],
    )
    .map_err(storage)?;
    found()?
        .map(ScopeId)
        .ok_or_else(|| Error::storage("use the history", "a row that was just written is gone"))
}

/// The number of the next commit. No number is given twice, so of two commits in the log the one with the lower number
/// is the older one.
pub(super) fn next_sequence(change: &Connection) -> rusqlite::Result<i64> {
    change
        .prepare_cached("UPDATE instance SET sequence = sequence + 1 RETURNING sequence")?
        .query_row([], |row| row.get(0))
}

/// Whose commits those of this history are; see `mark`.
#[derive(Clone, Debug)]
pub struct Instance {
    pub id: String,
    /// The number of the newest commit that was sent, or was about to be.
    pub newest: i64,
}

/// This history's instance.
///
/// # Errors
/// `Storage` if the file cannot be read.
pub fn instance(db: &Connection) -> Result<Instance> {
    db.query_row("SELECT id, sequence FROM instance", [], |row| {
        Ok(Instance { id: row.get(0)?, newest: row.get(1)? })
    })
    .map_err(storage)
}

/// What this group committed, by partition, to earlier topics of the same name and another id.
///
/// A commit that arrives after its topic was deleted and created again stands in the log as if it were the
/// new topic's: followed, it would skip the new topic's first records.
///
/// # Errors
/// `Storage` if the file cannot be read.
pub fn committed_to_predecessors(
    db: &Connection,
    key: &ScopeKey,
) -> Result<BTreeMap<Partition, Vec<Offset>>> {
    let read = || -> rusqlite::Result<BTreeMap<Partition, Vec<Offset>>> {
        let mut committed = BTreeMap::<_, Vec<_>>::new();
        let mut rows = db.prepare_cached(
            "WITH gone AS (SELECT id FROM scopes WHERE log = ?1 AND cluster_id = ?2 \
                 AND group_name = ?3 AND topic = ?4 AND topic_id NOT IN ('', ?5) AND ?5 <> '') \
             SELECT partition, confirmed FROM partitions \
                 WHERE scope IN gone AND confirmed IS NOT NULL \
             UNION SELECT partition, committing FROM intents WHERE scope IN gone",
        )?;
        let mut rows =
            rows.query(params![key.log, key.cluster_id, key.group, key.topic, key.topic_id])?;
        while let Some(row) = rows.next()? {
            committed.entry(row.get(0)?).or_default().push(Offset::new(row.get(1)?));
        }
        Ok(committed)
    };
    read().map_err(storage)
}

fn storage(cause: rusqlite::Error) -> Error {
    Error::storage("use the history", cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::schema;

    fn at(offset: i64) -> Offset {
        Offset::new(offset)
    }

    fn key(topic: &str, topic_id: &str) -> ScopeKey {
        ScopeKey {
            log: "kafka",
            cluster_id: "c".into(),
            group: "g".into(),
            topic: topic.into(),
            topic_id: topic_id.into(),
        }
    }

    #[test]
    fn scopes_are_kept_apart_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let db = schema::open(&folder.path().join("history.db")).unwrap();
        let key = key("t", "i");
        let first = find_or_add(&db, &key).unwrap();
        for other in [
            ScopeKey { log: "embedded", ..key.clone() },
            ScopeKey { cluster_id: "d".into(), ..key.clone() },
            ScopeKey { group: "h".into(), ..key.clone() },
            ScopeKey { topic: "u".into(), ..key.clone() },
            ScopeKey { topic_id: "j".into(), ..key.clone() },
        ] {
            assert_ne!(find_or_add(&db, &other), Ok(first), "{other:?}");
        }
        assert_eq!(find_or_add(&db, &key), Ok(first));
    }

    #[test]
    fn commits_to_a_topic_that_was_deleted_are_known() {
        let folder = tempfile::tempdir().unwrap();
        let db = schema::open(&folder.path().join("history.db")).unwrap();
        for (topic, id, committed) in [("t", "old", 20), ("t", "new", 30), ("other", "old", 40)] {
            let scope = find_or_add(&db, &key(topic, id)).unwrap();
            db.execute(
                "INSERT INTO partitions(scope, partition, start_offset, confirmed) \
                 VALUES (?1, 1, 0, ?2)",
                params![scope.0, committed],
            )
            .unwrap();
            db.execute("INSERT INTO intents VALUES (?1, 1, ?2)", params![scope.0, committed + 5])
                .unwrap();
        }
        let gone = committed_to_predecessors(&db, &key("t", "new")).unwrap();
        assert_eq!(gone, [(1, vec![at(20), at(25)])].into());
        // Without ids, nothing tells one topic from another.
        assert_eq!(committed_to_predecessors(&db, &key("t", "")).unwrap(), [].into());
    }
}

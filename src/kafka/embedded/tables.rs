//! Queries and changes of the topic file's tables that several parts of this backend need.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::store::failed;
use crate::kafka::Watermarks;
use crate::model::error::{Error, Result};
use crate::model::offset::{Offset, Partition};

/// A partition's row.
#[derive(Clone, Copy)]
pub(super) struct PartitionRow {
    pub(super) id: i64,
    pub(super) marks: Watermarks,
}

pub(super) fn watermarks(
    connection: &Connection,
    topic: i64,
) -> rusqlite::Result<BTreeMap<Partition, PartitionRow>> {
    let mut statement = connection.prepare_cached(
        "SELECT partition, id, beginning, next_offset FROM partitions WHERE topic = ?1",
    )?;
    let rows = statement.query_map([topic], |row| {
        let marks =
            Watermarks { beginning: Offset::new(row.get(2)?), end: Offset::new(row.get(3)?) };
        Ok((row.get(0)?, PartitionRow { id: row.get(1)?, marks }))
    })?;
    rows.collect()
}

/// The topic's row id and its topic id (a UUID).
pub(super) fn find_topic(
    connection: &Connection,
    topic: &str,
    doing: &str,
) -> Result<(i64, String)> {
    connection
        .prepare_cached("SELECT id, uuid FROM topics WHERE name = ?1")
        .and_then(|mut statement| {
            statement.query_row([topic], |row| Ok((row.get(0)?, row.get(1)?))).optional()
        })
        .map_err(failed(doing))?
        .ok_or_else(|| Error::UnknownTopic { topic: topic.to_owned() })
}

pub(super) fn insert_partitions(
    connection: &Connection,
    topic: i64,
    partitions: std::ops::Range<u32>,
) -> rusqlite::Result<()> {
    let mut statement =
        connection.prepare_cached("INSERT INTO partitions (topic, partition) VALUES (?1, ?2)")?;
    for partition in partitions {
        statement.execute(params![topic, partition])?;
    }
    Ok(())
}

/// Writes the group's offsets; after an error the transaction must not be committed.
pub(super) fn insert_commits(
    tx: &Connection,
    group: &str,
    topic: &str,
    offsets: &[(Partition, Offset)],
    doing: &str,
) -> Result<()> {
    let (id, _) = find_topic(tx, topic, doing)?;
    for (partition, offset) in offsets {
        let inserted = tx
            .prepare_cached(
                "INSERT INTO commits (partition, group_name, next_offset)
                 SELECT id, ?3, ?4 FROM partitions WHERE topic = ?1 AND partition = ?2
                 ON CONFLICT DO UPDATE SET next_offset = excluded.next_offset",
            )
            .and_then(|mut statement| {
                statement.execute(params![id, partition, group, offset.get()])
            })
            .map_err(failed(doing))?;
        if inserted == 0 {
            return Err(no_partition(doing, topic, *partition));
        }
    }
    Ok(())
}

pub(super) fn no_partition(doing: &str, topic: &str, partition: Partition) -> Error {
    Error::broker(doing, format!("topic {topic} has no partition {partition}"))
}

//! Queries and changes of the topic file's tables that several parts of this backend need.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::store::failed;
use crate::kafka::{Commit, EpochEnd, Watermarks};
use crate::model::error::{Error, Result};
use crate::model::offset::{Epoch, Offset, Partition};

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
    commits: &[Commit],
    doing: &str,
) -> Result<()> {
    let (id, _) = find_topic(tx, topic, doing)?;
    for Commit { partition, offset, epoch, metadata } in commits {
        let inserted = tx
            .prepare_cached(
                "INSERT INTO commits (partition, group_name, next_offset, epoch, metadata)
                 SELECT id, ?3, ?4, ?5, ?6 FROM partitions WHERE topic = ?1 AND partition = ?2
                 ON CONFLICT DO UPDATE SET next_offset = excluded.next_offset, epoch = excluded.epoch,
                 metadata = excluded.metadata",
            )
            .and_then(|mut statement| {
                let epoch = epoch.map(Epoch::get);
                statement.execute(params![id, partition, group, offset.get(), epoch, metadata])
            })
            .map_err(failed(doing))?;
        if inserted == 0 {
            return Err(no_partition(doing, topic, *partition));
        }
    }
    Ok(())
}

/// A partition's epochs, ascending, each with its first offset; the last one is its leader's. All records below the
/// second one's first offset have the first one.
pub(super) type Epochs = Vec<(Epoch, Offset)>;

/// The epochs of the topic's partitions.
pub(super) fn epochs(
    connection: &Connection,
    topic: i64,
) -> rusqlite::Result<BTreeMap<Partition, Epochs>> {
    let mut statement = connection.prepare_cached(
        "SELECT p.partition, e.epoch, e.start_offset FROM partitions p
         LEFT JOIN epochs e ON e.partition = p.id WHERE p.topic = ?1 ORDER BY e.epoch",
    )?;
    let mut rows = statement.query([topic])?;
    let mut all = BTreeMap::<Partition, Epochs>::new();
    while let Some(row) = rows.next()? {
        let of = all.entry(row.get(0)?).or_insert_with(|| vec![(Epoch::FIRST, Offset::ZERO)]);
        if let Some(epoch) = row.get::<_, Option<i32>>(1)?.and_then(Epoch::checked) {
            of.push((epoch, Offset::new(row.get(2)?)));
        }
    }
    Ok(all)
}

/// The epoch of the record at `offset`.
pub(super) fn epoch_at(epochs: &[(Epoch, Offset)], offset: Offset) -> Epoch {
    let above = epochs.partition_point(|(_, start)| *start <= offset);
    above.checked_sub(1).map_or(Epoch::FIRST, |at| epochs[at].0)
}

/// Where the records of `epoch` end in a log that ends at `end`; as Kafka's `LeaderEpochFileCache.endOffsetFor`.
pub(super) fn epoch_end(epochs: &[(Epoch, Offset)], epoch: Epoch, end: Offset) -> Option<EpochEnd> {
    let above = epochs.partition_point(|(known, _)| *known <= epoch);
    let found = above.checked_sub(1).map_or(Epoch::FIRST, |at| epochs[at].0);
    match epochs.get(above) {
        Some((_, start)) => Some(EpochEnd { epoch: found, end: *start }),
        None => (found == epoch).then_some(EpochEnd { epoch, end }),
    }
}

/// Removes what the partition has from `end` on; its leader has a higher epoch from then on.
#[cfg(feature = "testing")]
pub(super) fn cut_off(tx: &Connection, row: &PartitionRow, end: Offset) -> rusqlite::Result<()> {
    let leader: i32 = tx.query_row(
        "SELECT ifnull(max(epoch), 0) FROM epochs WHERE partition = ?1",
        [row.id],
        |row| row.get(0),
    )?;
    tx.execute(
        "DELETE FROM chunks WHERE partition = ?1 AND first_offset >= ?2",
        params![row.id, end.get()],
    )?;
    let whole: bool = tx.query_row(
        "SELECT NOT EXISTS (SELECT 1 FROM chunks WHERE partition = ?1 AND last_offset >= ?2)",
        params![row.id, end.get()],
        |row| row.get(0),
    )?;
    assert!(whole, "a chunk has records on both sides of {end}");
    tx.execute(
        "UPDATE partitions SET next_offset = ?2, beginning = min(beginning, ?2), \
         bytes = (SELECT ifnull(sum(bytes), 0) FROM chunks WHERE partition = ?1) WHERE id = ?1",
        params![row.id, end.get()],
    )?;
    tx.execute(
        "DELETE FROM epochs WHERE partition = ?1 AND start_offset >= ?2",
        params![row.id, end.get()],
    )?;
    tx.execute(
        "INSERT INTO epochs (partition, epoch, start_offset) VALUES (?1, ?2, ?3)",
        params![row.id, leader + 1, end.get()],
    )?;
    Ok(())
}

pub(super) fn no_partition(doing: &str, topic: &str, partition: Partition) -> Error {
    Error::broker(doing, format!("topic {topic} has no partition {partition}"))
}

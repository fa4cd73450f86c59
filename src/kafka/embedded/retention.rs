//! Which records may be removed from the embedded topic, and which group prevents the removal of the others.
//!
//! A chunk may be removed when every group that has commits on its topic has committed past its last record. A topic
//! without any commit counts as unread. The oldest chunks are removed first, and only when room is needed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rusqlite::{OptionalExtension, Transaction, params};

/// The bytes of a chunk's row beyond its records: row and index entry, rounded up.
pub(super) const CHUNK_OVERHEAD_BYTES: u64 = 64;

/// How many bytes all records of the file count as.
pub(super) fn used(tx: &Transaction<'_>) -> rusqlite::Result<u64> {
    tx.prepare_cached("SELECT coalesce(sum(bytes), 0) FROM partitions")?
        .query_row([], |row| row.get(0))
}

/// The lowest committed offset of each partition that has records: every group is done with those below it. A group
/// that has commits on the topic but none on a partition keeps all of that partition.
fn floors(tx: &Transaction<'_>) -> rusqlite::Result<Vec<(i64, i64)>> {
    tx.prepare_cached(
        "SELECT p.id, (
             SELECT min(coalesce(c.next_offset, 0))
             FROM (SELECT DISTINCT group_name FROM commits
                   WHERE partition IN (SELECT id FROM partitions WHERE topic = p.topic)) g
             LEFT JOIN commits c ON c.group_name = g.group_name AND c.partition = p.id)
         FROM partitions p WHERE p.bytes > 0",
    )?
    .query_map([], |row| Ok((row.get(0)?, row.get::<_, Option<i64>>(1)?.unwrap_or(0))))?
    .collect()
}

struct Oldest {
    chunk: i64,
    last_offset: i64,
    bytes: u64,
}

fn oldest(tx: &Transaction<'_>, partition: i64, floor: i64) -> rusqlite::Result<Option<Oldest>> {
    tx.prepare_cached(
        "SELECT id, last_offset, bytes FROM chunks WHERE partition = ?1 AND last_offset < ?2
         ORDER BY last_offset LIMIT 1",
    )?
    .query_row([partition, floor], |row| {
        Ok(Oldest { chunk: row.get(0)?, last_offset: row.get(1)?, bytes: row.get(2)? })
    })
    .optional()
}

/// Removes the oldest chunks that may be removed, until `wanted` bytes are free or none is left; returns the bytes
/// removed. Chunks are ordered by age through their ids.
pub(super) fn remove(tx: &Transaction<'_>, wanted: u64) -> rusqlite::Result<u64> {
    let mut heads = BinaryHeap::new();
    for (partition, floor) in floors(tx)? {
        if let Some(head) = oldest(tx, partition, floor)? {
            heads.push(Reverse((head.chunk, head.last_offset, head.bytes, partition, floor)));
        }
    }
    let mut removed = 0;
    while removed < wanted
        && let Some(Reverse((chunk, last_offset, bytes, partition, floor))) = heads.pop()
    {
        assert!(last_offset < floor, "an unread record is never removed");
        tx.prepare_cached("DELETE FROM chunks WHERE id = ?1")?.execute([chunk])?;
        tx.prepare_cached(
            "UPDATE partitions SET beginning = ?2 + 1, bytes = bytes - ?3 WHERE id = ?1",
        )?
        .execute(params![partition, last_offset, bytes])?;
        removed += bytes;
        if let Some(head) = oldest(tx, partition, floor)? {
            heads.push(Reverse((head.chunk, head.last_offset, head.bytes, partition, floor)));
        }
    }
    Ok(removed)
}

/// The topic that takes the most bytes, and the group that has committed least of it, if there is one.
pub(super) fn holder(tx: &Transaction<'_>) -> rusqlite::Result<(String, Option<String>)> {
    let (topic, name): (i64, String) = tx.query_row(
        "SELECT t.id, t.name FROM partitions p JOIN topics t ON t.id = p.topic
         GROUP BY t.id ORDER BY sum(p.bytes) DESC LIMIT 1",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let group = tx
        .query_row(
            "SELECT group_name FROM commits
             WHERE partition IN (SELECT id FROM partitions WHERE topic = ?1)
             GROUP BY group_name ORDER BY sum(next_offset), group_name LIMIT 1",
            [topic],
            |row| row.get(0),
        )
        .optional()?;
    Ok((name, group))
}

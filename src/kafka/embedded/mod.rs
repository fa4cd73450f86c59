//! The embedded topic: a Kafka topic in miniature in one SQLite file of the data directory.
//!
//! Partitions, dense offsets, group commits and retention as Kafka has them, for trying mb out, for
//! tests, and (with `Faults`) as a broker that fails on demand. Not here: who may open the data
//! directory (its lock), and when this backend is chosen (`select`).

mod chunk;
mod consumer;
mod faults;
mod producer;
mod retention;
mod store;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

pub use self::faults::{Call, Faults};

use self::faults::{is_leaderless, under};
use self::producer::Outbox;
use self::store::{failed, immediate};
use super::topic::found_or_end;
use super::{
    Backend, Broker, Capabilities, CommitError, Consumer, FetchSettings, PerPartition, Producer,
    TopicInfo, Watermarks,
};
use crate::model::error::{Error, Result};
use crate::model::offset::{Offset, Partition};

/// Connections for reading that are kept for the next consumer.
const IDLE_READERS: usize = 8;

/// The topics' file in the data directory.
pub const FILE: &str = "topic.db";

/// The embedded topic of a data directory. Clones share the file and wake each other's consumers;
/// of several processes (or separate `open`s) only one at a time may write.
#[derive(Clone)]
pub struct Embedded {
    shared: Arc<Shared>,
    faults: Option<Faults>,
}

/// What all handles, consumers and producers of one file share.
struct Shared {
    path: PathBuf,
    retention_bytes: u64,
    writer: Mutex<Connection>,
    readers: Mutex<Vec<Connection>>,
    /// Rises with every change that somebody may wait for; `changed` tells.
    version: Mutex<u64>,
    changed: Condvar,
    /// What producers have gathered but not written; readers write it when it is due.
    outboxes: Mutex<Vec<Weak<Mutex<Outbox>>>>,
    /// The topic and group that were named in the log as what holds the retention back.
    held_back: Mutex<Option<(String, Option<String>)>>,
}

impl Embedded {
    /// Opens the topic file of `data_dir`, and makes both where they are missing. At most
    /// `retention_bytes` of records are kept.
    ///
    /// # Errors
    /// `Config` where the file cannot be used: another program's, a newer mb's, damaged, not
    /// writable; `Storage` for what may pass (disk full, locked).
    pub fn open(data_dir: &Path, retention_bytes: u64) -> Result<Embedded> {
        fs::create_dir_all(data_dir).map_err(|cause| {
            Error::Config(format!(
                "cannot create {} ({cause}); name a --data-dir that can be written",
                data_dir.display()
            ))
        })?;
        let path = store::file(data_dir);
        let writer = store::open_writer(&path)?;
        Ok(Embedded {
            shared: Arc::new(Shared {
                path,
                retention_bytes,
                writer: Mutex::new(writer),
                readers: Mutex::default(),
                version: Mutex::new(0),
                changed: Condvar::new(),
                outboxes: Mutex::default(),
                held_back: Mutex::default(),
            }),
            faults: None,
        })
    }

    /// This topic under a plan of faults; other handles on the file stay without.
    pub fn with_faults(&self, faults: Faults) -> Embedded {
        Embedded { shared: Arc::clone(&self.shared), faults: Some(faults) }
    }

    /// Raises the topic's partitions to `partitions`, each new one empty.
    ///
    /// # Errors
    /// `UnknownTopic`; `Config` where it has more already: partitions are never taken away.
    pub fn add_partitions(&self, topic: &str, partitions: u32) -> Result<()> {
        let doing = format!("add partitions to topic {topic}");
        let mut writer = lock(&self.shared.writer);
        let tx = immediate(&mut writer).map_err(failed(&doing))?;
        let (id, _) = find_topic(&tx, topic, &doing)?;
        let now: u32 = tx
            .query_row("SELECT count(*) FROM partitions WHERE topic = ?1", [id], |row| row.get(0))
            .map_err(failed(&doing))?;
        if partitions < now {
            return Err(Error::Config(format!(
                "cannot {doing}: it has {now}, and {partitions} would be fewer"
            )));
        }
        insert_partitions(&tx, id, now..partitions).map_err(failed(&doing))?;
        tx.commit().map_err(failed(&doing))?;
        drop(writer);
        self.shared.notify();
        Ok(())
    }

    fn under<T>(&self, call: Call, doing: &str, body: impl FnOnce() -> Result<T>) -> Result<T> {
        under(self.faults.as_ref(), call, doing, body)
    }
}

impl Broker for Embedded {
    fn backend(&self) -> Backend {
        Backend::Embedded
    }

    /// Compression is Kafka's matter: nothing is compressed here. Nothing is ever aborted either,
    /// so all that is read is committed.
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            null_values: true,
            timestamps: true,
            headers: true,
            read_committed: true,
            codecs: &["none"],
            membership: false,
        }
    }

    fn describe(&self) -> String {
        format!("the embedded topic in {}", self.shared.path.display())
    }

    fn topic(&self, topic: &str) -> Result<TopicInfo> {
        let doing = format!("look up topic {topic}");
        self.under(Call::Topic, &doing, || {
            self.shared.read(&doing, |reader| {
                let (id, uuid) = find_topic(reader, topic, &doing)?;
                let cluster = reader
                    .query_row("SELECT id FROM cluster", [], |row| row.get(0))
                    .map_err(failed(&doing))?;
                let marks = watermarks(reader, id).map_err(failed(&doing))?;
                Ok(TopicInfo {
                    name: topic.to_owned(),
                    id: Some(uuid),
                    cluster_id: Some(cluster),
                    partitions: marks.into_keys().collect(),
                })
            })
        })
    }

    fn create_topic(&self, topic: &str, partitions: u32) -> Result<()> {
        let doing = format!("create topic {topic}");
        if partitions == 0 {
            return Err(Error::Config(format!("cannot {doing}: it needs one partition or more")));
        }
        self.under(Call::Topic, &doing, || {
            let mut writer = lock(&self.shared.writer);
            let create = |writer: &mut Connection| -> rusqlite::Result<()> {
                let tx = immediate(writer)?;
                let id = tx
                    .query_row(
                        "INSERT INTO topics (name, uuid) VALUES (?1, ?2)
                         ON CONFLICT DO NOTHING RETURNING id",
                        params![topic, Uuid::new_v4().to_string()],
                        |row| row.get(0),
                    )
                    .optional()?;
                if let Some(id) = id {
                    insert_partitions(&tx, id, 0..partitions)?;
                }
                tx.commit()
            };
            create(&mut writer).map_err(failed(&doing))
        })
    }

    fn watermarks(
        &self,
        topic: &str,
        partitions: &[Partition],
    ) -> Result<PerPartition<Watermarks>> {
        let doing = format!("read the beginning and end of topic {topic}");
        self.under(Call::Watermarks, &doing, || {
            self.shared.settle();
            self.shared.read(&doing, |reader| {
                let (id, _) = find_topic(reader, topic, &doing)?;
                let all = watermarks(reader, id).map_err(failed(&doing))?;
                let marks = |partition: Partition| match all.get(&partition) {
                    _ if is_leaderless(self.faults.as_ref(), partition) => {
                        Err(Error::NoLeader { topic: topic.to_owned(), partition })
                    }
                    Some(row) => Ok(row.marks),
                    None => Err(no_partition(&doing, topic, partition)),
                };
                Ok(partitions.iter().map(|partition| (*partition, marks(*partition))).collect())
            })
        })
    }

    /// Looks at every record from the beginning on: timestamps need not ascend.
    fn offsets_at(
        &self,
        topic: &str,
        partitions: &[Partition],
        timestamp_ms: i64,
    ) -> Result<PerPartition<Offset>> {
        let doing = format!("find offsets of topic {topic} by their time");
        let marks = self.watermarks(topic, partitions)?;
        self.under(Call::Watermarks, &doing, || {
            self.shared.read(&doing, |reader| {
                let (id, _) = find_topic(reader, topic, &doing)?;
                let rows = watermarks(reader, id).map_err(failed(&doing))?;
                let mut found = BTreeMap::new();
                for (partition, _) in marks.iter().filter(|(_, marks)| marks.is_ok()) {
                    let row = rows.get(partition);
                    let row = row.ok_or_else(|| no_partition(&doing, topic, *partition))?;
                    let first = chunk::first_at(reader, row.id, timestamp_ms);
                    found.insert(*partition, Ok(first.map_err(failed(&doing))?));
                }
                let ends = marks
                    .into_iter()
                    .map(|(partition, marks)| (partition, marks.map(|marks| marks.end)));
                Ok(found_or_end(ends.collect(), found))
            })
        })
    }

    fn committed(
        &self,
        group: &str,
        topic: &str,
        partitions: &[Partition],
    ) -> Result<PerPartition<Option<Offset>>> {
        let doing = format!("read the offsets of group {group} on topic {topic}");
        self.under(Call::Committed, &doing, || {
            self.shared.read(&doing, |reader| {
                let (id, _) = find_topic(reader, topic, &doing)?;
                let mut offsets = BTreeMap::new();
                let mut read = || -> rusqlite::Result<()> {
                    let mut statement = reader.prepare_cached(
                        "SELECT c.next_offset FROM commits c JOIN partitions p ON p.id = c.partition
                         WHERE p.topic = ?1 AND p.partition = ?2 AND c.group_name = ?3",
                    )?;
                    for partition in partitions {
                        let offset: Option<i64> = statement
                            .query_row(params![id, partition, group], |row| row.get(0))
                            .optional()?;
                        offsets.insert(*partition, Ok(offset.map(Offset::new)));
                    }
                    Ok(())
                };
                read().map_err(failed(&doing))?;
                Ok(offsets)
            })
        })
    }

    fn commit(
        &self,
        group: &str,
        topic: &str,
        offsets: &[(Partition, Offset)],
    ) -> Result<(), CommitError> {
        let doing = format!("commit offsets of group {group} on topic {topic}");
        let refused = |error| CommitError::all_refused(offsets, error);
        if self.faults.as_ref().is_some_and(Faults::refuses_commits) {
            return Err(refused(Error::broker(doing, "injected fault: no permission")));
        }
        let mut refusal = None;
        let committed = self.under(Call::Commit, &doing, || {
            let mut writer = lock(&self.shared.writer);
            let tx = immediate(&mut writer).map_err(failed(&doing))?;
            if let Err(error) = insert_commits(&tx, group, topic, offsets, &doing) {
                refusal = Some(error);
                return Ok(());
            }
            tx.commit().map_err(failed(&doing))?;
            drop(writer);
            // There may be room now for what a producer holds.
            self.shared.settle_all();
            self.shared.notify();
            Ok(())
        });
        match refusal {
            // The transaction was rolled back as a whole.
            Some(error) => Err(refused(error)),
            None => committed.map_err(CommitError::Unknown),
        }
    }

    fn consumer(
        &self,
        topic: &str,
        from: &[(Partition, Offset)],
        settings: &FetchSettings,
    ) -> Result<Box<dyn Consumer>> {
        let doing = format!("read topic {topic}");
        self.under(Call::Open, &doing, || {
            let consumer = consumer::EmbeddedConsumer::new(self, topic, from, settings, &doing)?;
            Ok(Box::new(consumer) as Box<dyn Consumer>)
        })
    }

    fn producer(&self, topic: &str) -> Result<Box<dyn Producer>> {
        let doing = format!("write to topic {topic}");
        self.under(Call::Open, &doing, || {
            let producer = producer::EmbeddedProducer::new(self, topic, &doing)?;
            Ok(Box::new(producer) as Box<dyn Producer>)
        })
    }
}

impl Shared {
    /// Runs `body` on a connection that reads; after an error the connection is not used again.
    fn read<T>(&self, doing: &str, body: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let reader = self.take_reader(doing)?;
        let result = body(&reader)?;
        self.give_reader(reader);
        Ok(result)
    }

    fn take_reader(&self, doing: &str) -> Result<Connection> {
        let idle = lock(&self.readers).pop();
        match idle {
            Some(reader) => Ok(reader),
            None => store::open_reader(&self.path).map_err(failed(doing)),
        }
    }

    fn give_reader(&self, reader: Connection) {
        let mut readers = lock(&self.readers);
        if readers.len() < IDLE_READERS {
            readers.push(reader);
        }
    }

    fn version(&self) -> u64 {
        *lock(&self.version)
    }

    /// Wakes whoever waits: records, partitions or commits are new.
    fn notify(&self) {
        *lock(&self.version) += 1;
        self.changed.notify_all();
    }

    /// Waits until something has changed since `seen`, or `until` is there.
    fn wait(&self, seen: u64, until: Instant) {
        let mut version = lock(&self.version);
        while *version == seen {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.changed.wait_timeout(version, left);
            version = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Writes what producers have held for long enough; returns when the next write is due. So a
    /// lone message is seen in time though no thread stands by to write it: whoever looks, writes.
    fn settle(&self) -> Option<Instant> {
        self.each_outbox(|outbox| outbox.write_if_due(self, Instant::now()))
    }

    /// Writes all that producers hold.
    fn settle_all(&self) {
        self.each_outbox(|outbox| {
            outbox.write(self);
            None
        });
    }

    fn each_outbox(
        &self,
        mut visit: impl FnMut(&mut Outbox) -> Option<Instant>,
    ) -> Option<Instant> {
        let outboxes: Vec<_> = lock(&self.outboxes).iter().filter_map(Weak::upgrade).collect();
        outboxes.iter().filter_map(|outbox| visit(&mut lock(outbox))).min()
    }
}

/// A partition as its row has it.
#[derive(Clone, Copy)]
struct PartitionRow {
    id: i64,
    marks: Watermarks,
}

fn watermarks(
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

/// The row id and the topic id (a UUID).
fn find_topic(connection: &Connection, topic: &str, doing: &str) -> Result<(i64, String)> {
    connection
        .prepare_cached("SELECT id, uuid FROM topics WHERE name = ?1")
        .and_then(|mut statement| {
            statement.query_row([topic], |row| Ok((row.get(0)?, row.get(1)?))).optional()
        })
        .map_err(failed(doing))?
        .ok_or_else(|| Error::UnknownTopic { topic: topic.to_owned() })
}

fn insert_partitions(
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
fn insert_commits(
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

fn no_partition(doing: &str, topic: &str, partition: Partition) -> Error {
    Error::broker(doing, format!("topic {topic} has no partition {partition}"))
}

/// Locks, also where another thread panicked with the lock: what it guards is whole at any time
/// (SQLite rolls a transaction back when it is dropped).
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

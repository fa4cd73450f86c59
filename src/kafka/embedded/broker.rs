//! The embedded topic as a broker: topics, offsets and commits.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::chunk;
use super::consumer::EmbeddedConsumer;
use super::faults::{Call, Faults, is_leaderless, under};
use super::producer::EmbeddedProducer;
use super::shared::Shared;
use super::store::{self, failed, immediate};
use super::tables::{
    Epochs, epoch_at, epoch_end, epochs, find_topic, insert_commits, insert_partitions,
    no_partition, watermarks,
};
use crate::config::own_files;
use crate::kafka::topic::found_or_end;
use crate::kafka::{
    Backend, Broker, Capabilities, Commit, CommitError, Committed, Consumer, EpochEnd,
    FetchSettings, PerPartition, Producer, TopicInfo, Watermarks,
};
use crate::model::error::{Error, Result};
use crate::model::offset::{Epoch, Offset, Partition};

/// The embedded topic of a data directory. Clones share the file and wake each other's consumers. Of several
/// processes (or separate `open`s) only one at a time may write.
#[derive(Clone)]
pub struct Embedded {
    pub(super) shared: Arc<Shared>,
    faults: Option<Faults>,
}

impl Embedded {
    /// Opens the topic file of `data_dir`, and creates both if they are missing. At most `retention_bytes` of
    /// records are kept.
    ///
    /// # Errors
    /// `Config` if the file cannot be used: it belongs to another program or a newer mb, is damaged, or is not
    /// writable; `Storage` for causes that may pass (disk full, locked).
    pub fn open(data_dir: &Path, retention_bytes: u64) -> Result<Embedded> {
        own_files::make_folder(data_dir).map_err(|cause| {
            Error::Config(format!(
                "cannot create {} ({cause}); name a --data-dir that can be written",
                data_dir.display()
            ))
        })?;
        let path = store::file(data_dir);
        let shared = Arc::new(Shared::open(&path, retention_bytes)?);
        Ok(Embedded { shared, faults: None })
    }

    /// This topic under a plan of faults. Other handles on the file have none.
    #[cfg(feature = "testing")]
    pub fn with_faults(&self, faults: Faults) -> Embedded {
        Embedded { shared: Arc::clone(&self.shared), faults: Some(faults) }
    }

    /// Raises the topic's number of partitions to `partitions`; the new ones are empty.
    ///
    /// # Errors
    /// `UnknownTopic`; `Config` if the topic has more: partitions are never removed.
    #[cfg(feature = "testing")]
    pub fn add_partitions(&self, topic: &str, partitions: u32) -> Result<()> {
        let doing = format!("add partitions to topic {topic}");
        let mut writer = self.shared.writer.lock();
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

    /// Takes the records of the partition from `end` on away, and gives it another leader, as an unclean election
    /// does; records that are written from then on have the new leader's epoch.
    ///
    /// # Errors
    /// `UnknownTopic`; `Broker` if there is no such partition.
    #[cfg(feature = "testing")]
    pub fn cut_off(&self, topic: &str, partition: Partition, end: Offset) -> Result<()> {
        let doing = format!("cut off {topic}/{partition}");
        let mut writer = self.shared.writer.lock();
        let tx = immediate(&mut writer).map_err(failed(&doing))?;
        let (id, _) = find_topic(&tx, topic, &doing)?;
        let rows = watermarks(&tx, id).map_err(failed(&doing))?;
        let row = rows.get(&partition).ok_or_else(|| no_partition(&doing, topic, partition))?;
        super::tables::cut_off(&tx, row, end).map_err(failed(&doing))?;
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

    /// Nothing is compressed here. There are no transactions either, so everything that is read is committed.
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            null_values: true,
            timestamps: true,
            headers: true,
            read_committed: true,
            codecs: &["none"],
            membership: false,
            leader_epochs: true,
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
                let epochs = epochs(reader, id).map_err(failed(&doing))?.into_iter();
                let leader = |(partition, epochs): (Partition, Epochs)| {
                    epochs.last().map(|(epoch, _)| (partition, *epoch))
                };
                Ok(TopicInfo {
                    leader_epochs: epochs.filter_map(leader).collect(),
                    name: topic.to_owned(),
                    id: Some(uuid),
                    cluster_id: Some(cluster),
                    is_internal: false,
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
            let mut writer = self.shared.writer.lock();
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

    /// Reads every record from the beginning on, because timestamps need not ascend.
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

    fn epoch_ends(
        &self,
        topic: &str,
        wanted: &[(Partition, Epoch)],
    ) -> Result<PerPartition<Option<EpochEnd>>> {
        let doing = format!("ask where leader epochs end in topic {topic}");
        self.under(Call::Watermarks, &doing, || {
            self.shared.read(&doing, |reader| {
                let (id, _) = find_topic(reader, topic, &doing)?;
                let rows = watermarks(reader, id).map_err(failed(&doing))?;
                let epochs = epochs(reader, id).map_err(failed(&doing))?;
                let end = |(partition, epoch): &(Partition, Epoch)| {
                    let end = match (rows.get(partition), epochs.get(partition)) {
                        _ if is_leaderless(self.faults.as_ref(), *partition) => {
                            Err(Error::NoLeader { topic: topic.to_owned(), partition: *partition })
                        }
                        (Some(row), Some(epochs)) => Ok(epoch_end(epochs, *epoch, row.marks.end)),
                        _ => Err(no_partition(&doing, topic, *partition)),
                    };
                    (*partition, end)
                };
                Ok(wanted.iter().map(end).collect())
            })
        })
    }

    fn epochs_at(
        &self,
        topic: &str,
        places: &[(Partition, Offset)],
    ) -> PerPartition<Option<Epoch>> {
        let doing = format!("ask for leader epochs of topic {topic}");
        let find = |partition: Partition, offset: Offset| {
            self.shared.read(&doing, |reader| {
                let (id, _) = find_topic(reader, topic, &doing)?;
                let rows = watermarks(reader, id).map_err(failed(&doing))?;
                let epochs = epochs(reader, id).map_err(failed(&doing))?;
                let (Some(row), Some(epochs)) = (rows.get(&partition), epochs.get(&partition))
                else {
                    return Err(no_partition(&doing, topic, partition));
                };
                let is_there = row.marks.beginning <= offset && offset < row.marks.end;
                Ok(is_there.then(|| epoch_at(epochs, offset)))
            })
        };
        places.iter().map(|&(partition, offset)| (partition, find(partition, offset))).collect()
    }

    fn group_offsets(
        &self,
        group: &str,
        topic: &str,
        partitions: &[Partition],
    ) -> Result<PerPartition<Option<Committed>>> {
        let doing = format!("read the offsets of group {group} on topic {topic}");
        self.under(Call::Committed, &doing, || {
            self.shared.read(&doing, |reader| {
                let (id, _) = find_topic(reader, topic, &doing)?;
                let mut offsets = BTreeMap::new();
                let mut read = || -> rusqlite::Result<()> {
                    let mut statement = reader.prepare_cached(
                        "SELECT c.next_offset, c.epoch, ifnull(c.metadata, '')
                         FROM commits c JOIN partitions p ON p.id = c.partition
                         WHERE p.topic = ?1 AND p.partition = ?2 AND c.group_name = ?3",
                    )?;
                    for partition in partitions {
                        let committed = |row: &rusqlite::Row<'_>| {
                            Ok(Committed {
                                offset: Offset::new(row.get(0)?),
                                epoch: row.get::<_, Option<i32>>(1)?.and_then(Epoch::checked),
                                metadata: row.get(2)?,
                            })
                        };
                        let found = statement.query_row(params![id, partition, group], committed);
                        let faults = self.faults.as_ref();
                        let expired = faults.is_some_and(|f| f.has_expired(group, *partition));
                        offsets.insert(*partition, Ok(found.optional()?.filter(|_| !expired)));
                    }
                    Ok(())
                };
                read().map_err(failed(&doing))?;
                Ok(offsets)
            })
        })
    }

    fn offsets_retention(&self, _: &str) -> Result<Option<Duration>> {
        Ok(self.faults.as_ref().and_then(Faults::offsets_kept))
    }

    fn commit_all(&self, group: &str, topic: &str, commits: &[Commit]) -> Result<(), CommitError> {
        let doing = format!("commit offsets of group {group} on topic {topic}");
        let refused = |error| CommitError::all_refused(commits, error);
        if self.faults.as_ref().is_some_and(Faults::refuses_commits) {
            return Err(refused(Error::broker(doing, "injected fault: no permission")));
        }
        let mut refusal = None;
        let committed = self.under(Call::Commit, &doing, || {
            let mut writer = self.shared.writer.lock();
            let tx = immediate(&mut writer).map_err(failed(&doing))?;
            if let Err(error) = insert_commits(&tx, group, topic, commits, &doing) {
                refusal = Some(error);
                return Ok(());
            }
            tx.commit().map_err(failed(&doing))?;
            drop(writer);
            if let Some(faults) = &self.faults {
                faults.committed(group, commits.iter().map(|commit| commit.partition));
            }
            // Retention may have room now for what a producer holds.
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
            let consumer =
                EmbeddedConsumer::new(&self.shared, self.faults.clone(), topic, from, settings)?;
            Ok(Box::new(consumer) as Box<dyn Consumer>)
        })
    }

    fn producer(&self, topic: &str) -> Result<Box<dyn Producer>> {
        let doing = format!("write to topic {topic}");
        self.under(Call::Open, &doing, || {
            let producer = EmbeddedProducer::new(&self.shared, self.faults.clone(), topic)?;
            Ok(Box::new(producer) as Box<dyn Producer>)
        })
    }
}

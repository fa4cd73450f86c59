//! What a broker answers about a topic and its partitions.

use std::collections::BTreeMap;

use crate::model::error::{Error, Result};
use crate::model::offset::{Epoch, Offset, Partition};

/// An answer for each requested partition. A partition without a leader, or one that does not exist, is an
/// error of that partition alone.
pub type PerPartition<T> = BTreeMap<Partition, Result<T>>;

/// The answers of all partitions, for callers that cannot use only some of them.
///
/// # Errors
/// The error of the first partition that has one.
pub fn require_all<T>(answers: PerPartition<T>) -> Result<BTreeMap<Partition, T>> {
    answers.into_iter().map(|(partition, answer)| Ok((partition, answer?))).collect()
}

/// A topic as the log describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInfo {
    pub name: String,
    /// The topic's own id (Kafka 2.8 and later, KIP-516). A different id under the same name means that
    /// the topic was deleted and created again.
    pub id: Option<String>,
    /// The cluster that the topic is in.
    pub cluster_id: Option<String>,
    /// The cluster keeps its own state in it, such as the groups' offsets.
    pub is_internal: bool,
    /// Ascending; partitions without a leader included.
    pub partitions: Vec<Partition>,
    /// The epoch of each partition's leader, which rises with every election (KIP-320). A partition whose epoch is
    /// not known is left out: its broker is older than 2.4 (KAFKA-9212).
    pub leader_epochs: BTreeMap<Partition, Epoch>,
}

impl TopicInfo {
    /// # Errors
    /// `Config` if only the cluster itself may write to the topic.
    pub fn check_written(&self) -> Result<()> {
        if !self.is_internal {
            return Ok(());
        }
        Err(Error::Config(format!(
            "topic {} is internal, and only the cluster itself writes to it: name another topic",
            self.name
        )))
    }

    /// Compares the topic's id with the one it had before. A missing id, on either side, proves nothing.
    ///
    /// # Errors
    /// `LogReplaced` if another topic has this name now.
    pub fn check_id(&self, before: Option<&str>) -> Result<()> {
        match (before, &self.id) {
            (Some(before), Some(now)) if before != now => Err(Error::LogReplaced(format!(
                "topic {} was deleted and created again (its id was {before} and is {now}): its \
                 offsets mean other records now",
                self.name
            ))),
            _ => Ok(()),
        }
    }
}

/// Where a partition's log begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// The lowest offset that can still be read.
    pub beginning: Offset,
    /// The offset that the next record gets.
    pub end: Offset,
}

/// Where the records of a leader epoch end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEnd {
    /// The highest epoch of the log's records that is not above the one that was asked for.
    pub epoch: Epoch,
    /// The offset after the last record of `epoch`: the first offset of a higher epoch, or the log's end.
    pub end: Offset,
}

/// A transaction that holds back readers of committed records: they see nothing behind its first record until it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenTransaction {
    /// The offset of its first record: the partition's last stable offset.
    pub first: Offset,
    /// `None` if the broker does not say whose it is.
    pub producer: Option<TransactionProducer>,
}

/// Who has begun a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionProducer {
    /// Kafka's producer id.
    pub id: i64,
    /// The timestamp of the newest record that it has written to the partition, in ms since 1970.
    pub written_ms: Option<i64>,
}

/// A group's offset in one partition, as the log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    pub offset: Offset,
    /// The leader epoch of the record below `offset`, if whoever committed it gave one.
    pub epoch: Option<Epoch>,
    /// Whatever whoever committed it wrote beside it. mb's own is a mark (`history::mark`).
    pub metadata: String,
}

impl Committed {
    /// An offset without epoch and metadata, as Kafka's tools commit it.
    pub fn plain(offset: Offset) -> Committed {
        Committed { offset, epoch: None, metadata: String::new() }
    }
}

/// An offset that is to be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    pub partition: Partition,
    pub offset: Offset,
    /// The leader epoch of the record below `offset`, or a higher one; see `Committed`.
    pub epoch: Option<Epoch>,
    pub metadata: String,
}

impl Commit {
    /// An offset without epoch and metadata, as Kafka's tools commit it.
    pub fn plain((partition, offset): (Partition, Offset)) -> Commit {
        Commit { partition, offset, epoch: None, metadata: String::new() }
    }
}

/// The offsets for `Broker::offsets_at`: what was found for a time, or the log's end if no record is that
/// young.
///
/// The ends must be requested before the search. If a record arrives between the two requests, it may be
/// found; with the opposite order its offset would lie below the end that stands for "nothing found", and
/// it would be skipped.
pub(super) fn found_or_end(
    ends: PerPartition<Offset>,
    mut found: PerPartition<Option<Offset>>,
) -> PerPartition<Offset> {
    let or_end = |(partition, end): (Partition, Result<Offset>)| {
        let offset = end.and_then(|end| match found.remove(&partition) {
            Some(found) => found.map(|found| found.unwrap_or(end)),
            None => Ok(end),
        });
        (partition, offset)
    };
    ends.into_iter().map(or_end).collect()
}

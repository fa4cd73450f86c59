//! The seam to the log: the traits that every client library, and the embedded topic, implement.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::backend::{Backend, Capabilities};
use super::topic::{
    Commit, Committed, EpochEnd, OpenTransaction, PerPartition, TopicInfo, Watermarks,
};
use crate::config::Isolation;
use crate::model::batch::Record;
use crate::model::error::{Error, Result};
use crate::model::offset::{Epoch, Offset, Partition};

/// How a consumer fetches.
#[derive(Clone, Debug)]
pub struct FetchSettings {
    /// How many bytes the broker collects before it answers (Kafka's `fetch.min.bytes`).
    pub min_bytes: usize,
    /// The largest record, in bytes of key, value and headers, that the caller can hold. A fetch grows
    /// up to this size if a record needs it.
    pub max_record_bytes: usize,
    /// `None`: the backend's default (`Capabilities::isolation`).
    pub isolation: Option<Isolation>,
    /// About how many bytes an answer may bring of one partition before it is another one's turn; `None`: as many as suit the
    /// client. Only a hint: a stored batch comes whole, and the embedded topic and crate kafka have turns of their own.
    pub turn_bytes: Option<usize>,
}

/// Answers questions about topics and offsets, and creates consumers and producers.
///
/// Every call returns within about `limits::BROKER_CALL_LIMIT`, with an error if the broker has not
/// answered by then. Implementations recover by themselves: after an error they use a new connection.
pub trait Broker: Send + Sync {
    fn backend(&self) -> Backend;

    fn capabilities(&self) -> Capabilities;

    /// For the log and the page, for example "Kafka at localhost:9092, client rdkafka (librdkafka 2.12.1)".
    fn describe(&self) -> String;

    /// # Errors
    /// `UnknownTopic`; `Broker` if no broker answers.
    fn topic(&self, topic: &str) -> Result<TopicInfo>;

    /// Creates the topic with `partitions` partitions; does nothing if it exists.
    fn create_topic(&self, topic: &str, partitions: u32) -> Result<()>;

    /// Beginning and end of each of `partitions`; every one of them has an entry.
    ///
    /// # Errors
    /// `UnknownTopic`, or `Broker` if no broker answers. A partition's own error is in its entry:
    /// `NoLeader`, or `Broker` if it does not exist or its leader cannot be reached.
    fn watermarks(&self, topic: &str, partitions: &[Partition])
    -> Result<PerPartition<Watermarks>>;

    /// Beginning and end of one partition.
    ///
    /// # Errors
    /// As `watermarks`.
    fn watermarks_of(&self, topic: &str, partition: Partition) -> Result<Watermarks> {
        let answer = self.watermarks(topic, &[partition])?.remove(&partition);
        answer.unwrap_or_else(|| {
            let doing = format!("read the beginning and end offsets of {topic}/{partition}");
            Err(Error::broker(doing, "the answer does not mention the partition"))
        })
    }

    /// For each of `partitions` the first offset whose record's timestamp (ms since 1970) is at or after
    /// `timestamp_ms`, or the log's end if there is no such record; every partition has an entry.
    ///
    /// # Errors
    /// As `watermarks`.
    fn offsets_at(
        &self,
        topic: &str,
        partitions: &[Partition],
        timestamp_ms: i64,
    ) -> Result<PerPartition<Offset>>;

    /// For each of `epochs` where the records of that leader epoch end in the log as it is now; `None` if the log
    /// cannot say: its broker is too old (before 2.3), or knows no epoch. Every partition has an entry.
    ///
    /// A log that was cut off and has grown past the cut looks like any other by its ends. By its epochs it does
    /// not: the records above the cut have a higher epoch, so the old one ends at the cut (KIP-320).
    ///
    /// # Errors
    /// As `watermarks`.
    fn epoch_ends(
        &self,
        topic: &str,
        epochs: &[(Partition, Epoch)],
    ) -> Result<PerPartition<Option<EpochEnd>>> {
        let _ = topic;
        Ok(epochs.iter().map(|(partition, _)| (*partition, Ok(None))).collect())
    }

    /// For each of `places` the leader epoch of the batch that the log has at that offset; `None` if it has none
    /// there, or cannot say. For what a client does not tell by `Sink::epoch`: a request for each partition.
    fn epochs_at(
        &self,
        topic: &str,
        places: &[(Partition, Offset)],
    ) -> PerPartition<Option<Epoch>> {
        let _ = topic;
        places.iter().map(|(partition, _)| (*partition, Ok(None))).collect()
    }

    /// For each of `partitions` the open transaction that holds back readers of committed records; `None` if there is
    /// none, or the log knows no transactions. Every partition has an entry.
    ///
    /// # Errors
    /// As `watermarks`.
    fn open_transactions(
        &self,
        topic: &str,
        partitions: &[Partition],
    ) -> Result<PerPartition<Option<OpenTransaction>>> {
        let _ = topic;
        Ok(partitions.iter().map(|partition| (*partition, Ok(None))).collect())
    }

    /// What the group has committed in each of `partitions`, `None` if nothing; every partition has an entry.
    ///
    /// # Errors
    /// `Broker` if the group's coordinator cannot be asked or refuses the whole request.
    fn group_offsets(
        &self,
        group: &str,
        topic: &str,
        partitions: &[Partition],
    ) -> Result<PerPartition<Option<Committed>>>;

    /// `group_offsets`, of which the caller needs the offsets alone.
    ///
    /// # Errors
    /// As `group_offsets`.
    fn committed(
        &self,
        group: &str,
        topic: &str,
        partitions: &[Partition],
    ) -> Result<PerPartition<Option<Offset>>> {
        let found = self.group_offsets(group, topic, partitions)?.into_iter();
        let offset = |found: Option<Committed>| found.map(|found| found.offset);
        Ok(found.map(|(partition, found)| (partition, found.map(offset))).collect())
    }

    /// How long the group's offsets are kept after their last commit; `None` if that is not known. Only a hint
    /// for how often to commit them again.
    ///
    /// # Errors
    /// `Broker` if it cannot be asked, or does not let mb read it.
    fn offsets_retention(&self, _group: &str) -> Result<Option<Duration>> {
        Ok(None)
    }

    /// Commits, and returns when the broker has confirmed every offset.
    ///
    /// # Errors
    /// `CommitError`, which says whether the offsets may have been stored all the same.
    fn commit_all(&self, group: &str, topic: &str, commits: &[Commit]) -> Result<(), CommitError>;

    /// `commit_all` without epochs and metadata, as Kafka's tools commit.
    ///
    /// # Errors
    /// As `commit_all`.
    fn commit(
        &self,
        group: &str,
        topic: &str,
        offsets: &[(Partition, Offset)],
    ) -> Result<(), CommitError> {
        let commits: Vec<Commit> = offsets.iter().copied().map(Commit::plain).collect();
        self.commit_all(group, topic, &commits)
    }

    /// A fresh consumer that reads each partition from the given offset, never from a place that the
    /// client library chose.
    ///
    /// # Errors
    /// `Unsupported` for an isolation level that the backend does not have; `Broker` if it cannot start.
    fn consumer(
        &self,
        topic: &str,
        from: &[(Partition, Offset)],
        settings: &FetchSettings,
    ) -> Result<Box<dyn Consumer>>;

    /// A producer for the topic, which must exist.
    fn producer(&self, topic: &str) -> Result<Box<dyn Producer>>;
}

/// Why offsets were not confirmed.
#[derive(Clone, Debug, PartialEq)]
pub enum CommitError {
    /// The offsets of `partitions` were not stored and never will be by this call: the broker refused them
    /// (no permission, the group has members, …), or no request was sent at all. The offsets of the call's
    /// other partitions were stored.
    Refused { partitions: Vec<Partition>, error: Error },
    /// A request was sent and its fate is unknown: no answer came, or one that the broker also gives after
    /// it has written the offsets. Each offset of the call may have been stored, or may still be.
    Unknown(Error),
}

impl CommitError {
    /// No offset of the call was stored.
    pub fn all_refused(commits: &[Commit], error: Error) -> CommitError {
        let partitions = commits.iter().map(|commit| commit.partition).collect();
        CommitError::Refused { partitions, error }
    }

    pub fn error(&self) -> &Error {
        match self {
            CommitError::Refused { error, .. } | CommitError::Unknown(error) => error,
        }
    }
}

impl From<CommitError> for Error {
    fn from(failed: CommitError) -> Error {
        match failed {
            CommitError::Refused { error, .. } | CommitError::Unknown(error) => error,
        }
    }
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error().fmt(f)
    }
}

impl std::error::Error for CommitError {}

/// Whether a sink takes more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Continue,
    /// The consumer hands over nothing more and returns. A later consumer reads what this one still holds.
    Stop,
}

/// Receives the records that a consumer polls.
pub trait Sink {
    /// Takes a record. The records of one partition come in offset order, each once. May block.
    fn record(&mut self, partition: Partition, record: Record<'_>) -> Flow;

    /// The records of the partition that are handed over next are in batches of this leader epoch. Called before
    /// the first one, and whenever the epoch is another; never by a client that does not see the batches' headers.
    fn epoch(&mut self, partition: Partition, epoch: Epoch) {
        let _ = (partition, epoch);
    }

    /// Every record of the partition below `next` was handed over, does not exist, or is invisible under
    /// read_committed. Called when the log shows this without a record, for example behind a transaction's
    /// marker.
    fn position(&mut self, partition: Partition, next: Offset);

    /// The partition cannot be read on, for a reason of its own: `Unreadable`, `OffsetOutOfRange`,
    /// `NoLeader`, or `Broker` for an error code of this partition. The consumer has paused it, as `pause`
    /// does, and goes on with the others; `Consumer::resume` takes it up again. If the sink answers `Stop`, the
    /// poll ends early, but nothing is lost: the consumer may be polled again.
    fn failed(&mut self, partition: Partition, error: Error) -> Flow;
}

/// One tick's consumer.
pub trait Consumer: Send {
    /// Waits at most `wait` for records and hands over what came. It may return early with nothing; that
    /// does not mean that the log is empty.
    ///
    /// # Errors
    /// Errors that concern the consumer as a whole: `UnknownTopic`, or `Broker` if the cluster cannot be
    /// reached. The consumer must be closed then. An error of one partition goes to `Sink::failed`
    /// instead. A client that waits for a partition's leader by itself (librdkafka) reports nothing
    /// meanwhile.
    fn poll(&mut self, wait: Duration, sink: &mut dyn Sink) -> Result<()>;

    /// Whether so many records arrive that more are available now, or will be in a moment.
    fn has_more(&self) -> bool {
        false
    }

    /// Hands over nothing more of the partition, and fetches nothing more of it, until it is resumed; the
    /// others go on. Records of it that the client holds are dropped. Pausing a paused partition does
    /// nothing.
    ///
    /// # Errors
    /// `Broker` if the consumer does not read the partition, or the client refuses.
    fn pause(&mut self, partition: Partition) -> Result<()>;

    /// Continues a paused partition at `from`, which may lie anywhere in its log. Does nothing for a
    /// partition that is not paused.
    ///
    /// # Errors
    /// As for `pause`. An offset outside the log is reported by a later `poll`, through `Sink::failed`.
    fn resume(&mut self, partition: Partition, from: Offset) -> Result<()>;

    /// Ends it, within `limits::CONSUMER_CLOSE_LIMIT`.
    fn close(self: Box<Self>);
}

/// The error for a partition that the consumer was not created for.
pub(super) fn not_read(topic: &str, partition: Partition) -> Error {
    Error::broker(format!("pause or resume {topic}/{partition}"), "this consumer does not read it")
}

/// A message to be written.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub partition: Partition,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    /// Names, each with a value or null.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
}

/// What a producer did with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is in the producer's buffer; `Producer::delivery` counts it once its fate is known.
    Accepted,
    /// The buffer stayed full for the whole wait: send the message again.
    Full,
}

/// What became of the messages accepted so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Acknowledged by the broker (all in-sync replicas).
    pub acknowledged: u64,
    /// Given up on.
    pub failed: u64,
    /// The cause of the newest failure or problem.
    pub last_error: Option<String>,
}

/// Writes messages to one topic, with acks=all. Its buffer is bounded; messages of one partition keep
/// their order.
pub trait Producer: Send {
    /// Takes a message; if the buffer is full, waits at most `wait` for room.
    ///
    /// # Errors
    /// `Unsupported` for headers or a null value if the backend has none; `Broker` if the message can
    /// never be sent (too large, no such partition).
    fn send(&mut self, message: Message<'_>, wait: Duration) -> Result<Sent>;

    /// What is known by now; never waits.
    fn delivery(&mut self) -> Delivery;

    /// Waits until every accepted message was acknowledged or has failed, or until `limit` has passed;
    /// returns how many are still under way.
    fn flush(&mut self, limit: Duration) -> Result<u64>;
}

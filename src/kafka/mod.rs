//! The seam to the log: what mb asks of a broker, whichever client library or stand-in answers.
//!
//! Three backends stand behind it: `rdkafka` (librdkafka), `pure` (crate kafka) and `embedded` (a
//! topic in a SQLite file). Nothing outside this folder knows which is in use; each says what it
//! can do (`Capabilities`), and refuses the rest by name.

pub mod crate_kafka;
pub mod embedded;
#[cfg(feature = "rdkafka")]
pub mod librdkafka;
pub mod partitioner;
pub mod select;
pub mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Isolation;
use crate::model::batch::Record;
use crate::model::error::{Error, Result};
use crate::model::offset::{Offset, Partition};

/// Which implementation speaks to the log. Ranges in the history carry it: an unfinished run is
/// read again by the same backend or a richer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Rdkafka,
    /// Crate kafka, the pure-Rust client.
    Kafka,
    Embedded,
}

impl Backend {
    /// The name in `--client`, in the history and in logs.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Rdkafka => "rdkafka",
            Backend::Kafka => "kafka",
            Backend::Embedded => "embedded",
        }
    }

    pub fn from_name(name: &str) -> Option<Backend> {
        [Backend::Rdkafka, Backend::Kafka, Backend::Embedded]
            .into_iter()
            .find(|backend| backend.name() == name)
    }

    /// Whether this backend reads every record that `other` read, and reads it the same.
    pub fn reads_all_of(self, other: Backend) -> bool {
        self == other || (self == Backend::Rdkafka && other == Backend::Kafka)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a backend can do; the conformance suite asserts what is there and the refusal of the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Null values are told from empty ones, both ways.
    pub null_values: bool,
    /// Records come with their timestamp.
    pub timestamps: bool,
    /// Records are read with their headers, and can be produced with some.
    pub headers: bool,
    /// Records of aborted transactions are not seen, unless they are asked for.
    pub read_committed: bool,
    /// Compression codecs that it reads, by Kafka's names.
    pub codecs: &'static [&'static str],
    /// Consumer-group membership.
    pub membership: bool,
}

impl Capabilities {
    /// How to read, where `asked` was asked for: read_committed by default, where it is there.
    ///
    /// # Errors
    /// `Unsupported` for a read_committed that is not.
    pub fn isolation(&self, asked: Option<Isolation>) -> Result<Isolation> {
        match (asked, self.read_committed) {
            (Some(Isolation::ReadCommitted), false) => Err(Error::Unsupported {
                what: "--isolation read_committed: this client reads the records of aborted \
                       transactions too, and cannot tell them"
                    .to_owned(),
                hint: "use --client rdkafka, or --isolation read_uncommitted".to_owned(),
            }),
            (Some(asked), _) => Ok(asked),
            (None, true) => Ok(Isolation::ReadCommitted),
            (None, false) => Ok(Isolation::ReadUncommitted),
        }
    }
}

/// A topic as the log describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInfo {
    pub name: String,
    /// The topic's own id (Kafka 2.8 and later); another id under the same name is another topic.
    pub id: Option<String>,
    /// The cluster it is on.
    pub cluster_id: Option<String>,
    /// Ascending.
    pub partitions: Vec<Partition>,
}

impl TopicInfo {
    /// Holds the topic against the id that it had before; no id says nothing.
    ///
    /// # Errors
    /// `LogReplaced` where another topic has its name now.
    pub fn check_id(&self, before: Option<&str>) -> Result<()> {
        match (before, &self.id) {
            (Some(before), Some(now)) if before != now => Err(Error::LogReplaced(format!(
                "topic {} was deleted and made again (its id was {before} and is {now}): its \
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

/// What `Broker::offsets_at` answers, from a log's ends and what was found in it. The ends are to be
/// asked first: a record that comes between the two questions may be found, but not passed over.
fn found_or_end(
    ends: &BTreeMap<Partition, Watermarks>,
    found: &BTreeMap<Partition, Option<Offset>>,
) -> BTreeMap<Partition, Offset> {
    let or_end = |(partition, marks): (&Partition, &Watermarks)| {
        (*partition, found.get(partition).copied().flatten().unwrap_or(marks.end))
    };
    ends.iter().map(or_end).collect()
}

/// How a consumer fetches.
#[derive(Clone, Debug)]
pub struct FetchSettings {
    /// Bytes that the broker gathers before it answers (Kafka's `fetch.min.bytes`).
    pub min_bytes: usize,
    /// The largest record, in bytes, that the caller can hold; a fetch grows up to it.
    pub max_record_bytes: usize,
    /// `None`: what the backend's capabilities say.
    pub isolation: Option<Isolation>,
}

/// A connection's owner: asks about topics and offsets, makes consumers and producers.
///
/// Every call ends within `limits::BROKER_CALL_LIMIT` or so, with an error where the answer is
/// not there. Implementations recover by themselves: after an error they use a new client.
pub trait Broker: Send + Sync {
    fn backend(&self) -> Backend;

    fn capabilities(&self) -> Capabilities;

    /// For the log and the page, as in "Kafka at localhost:9092, client rdkafka (librdkafka 2.12.1)".
    fn describe(&self) -> String;

    /// # Errors
    /// `UnknownTopic`; `Broker` where it cannot be asked.
    fn topic(&self, topic: &str) -> Result<TopicInfo>;

    /// Creates the topic with `partitions` partitions; fine where it exists already.
    fn create_topic(&self, topic: &str, partitions: u32) -> Result<()>;

    /// Beginning and end of each of `partitions`; the answer has every one of them.
    fn watermarks(
        &self,
        topic: &str,
        partitions: &[Partition],
    ) -> Result<BTreeMap<Partition, Watermarks>>;

    /// For each of `partitions` the first offset whose record's timestamp (ms since 1970) is at or
    /// after `timestamp_ms`, the log's end where there is none; the answer has every one of them.
    fn offsets_at(
        &self,
        topic: &str,
        partitions: &[Partition],
        timestamp_ms: i64,
    ) -> Result<BTreeMap<Partition, Offset>>;

    /// The group's committed offsets; a partition without one is absent.
    fn committed(
        &self,
        group: &str,
        topic: &str,
        partitions: &[Partition],
    ) -> Result<BTreeMap<Partition, Offset>>;

    /// Commits, and returns when the broker has confirmed every offset. After an error the
    /// offsets may or may not have been committed.
    fn commit(&self, group: &str, topic: &str, offsets: &[(Partition, Offset)]) -> Result<()>;

    /// A fresh consumer that reads each partition from the offset given; never from a place that
    /// the client library chose.
    ///
    /// # Errors
    /// `Unsupported` for an isolation that the backend has not; `Broker` where it cannot begin.
    fn consumer(
        &self,
        topic: &str,
        from: &[(Partition, Offset)],
        settings: &FetchSettings,
    ) -> Result<Box<dyn Consumer>>;

    /// A producer for the topic, which must exist.
    fn producer(&self, topic: &str) -> Result<Box<dyn Producer>>;
}

/// Whether the sink takes more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Continue,
    /// The consumer hands over nothing more and returns: what it still holds is read again by a
    /// later consumer.
    Stop,
}

/// Who takes the records that a consumer polls.
pub trait Sink {
    /// Takes a record; those of one partition come in offset order, none twice. May wait.
    fn record(&mut self, partition: Partition, record: Record<'_>) -> Flow;

    /// Every record of the partition below `next` was handed over, or is not in the log (or, under
    /// read_committed, is not to be seen). Called where the log itself shows this without a record.
    fn position(&mut self, partition: Partition, next: Offset);
}

/// One tick's consumer.
pub trait Consumer: Send {
    /// Waits at most `wait` for records and hands over what came. An early return with nothing is
    /// no sign of an empty log.
    ///
    /// # Errors
    /// After any error the consumer is to be closed. `OffsetOutOfRange` where the log has not (or
    /// no longer) what was asked for; `Unreadable` where a record cannot be read.
    fn poll(&mut self, wait: Duration, sink: &mut dyn Sink) -> Result<()>;

    /// Whether records come in such numbers that more are at hand, or will be in a moment.
    fn has_more(&self) -> bool {
        false
    }

    /// Hands over nothing more of the partition, and fetches nothing more of it, until it is
    /// resumed; the others go on. What the client holds of it is dropped. A partition that is
    /// paused already stays so.
    ///
    /// # Errors
    /// `Broker` where the consumer does not read the partition, or the client refuses.
    fn pause(&mut self, partition: Partition) -> Result<()>;

    /// Goes on with a paused partition at `from`, which may lie anywhere in its log. Nothing
    /// changes for one that is not paused.
    ///
    /// # Errors
    /// As for `pause`. An offset outside the log is an error of a later `poll`.
    fn resume(&mut self, partition: Partition, from: Offset) -> Result<()>;

    /// Ends it, within `limits::CONSUMER_CLOSE_LIMIT`.
    fn close(self: Box<Self>);
}

/// The answer to a consumer's owner who names a partition that it does not read.
fn not_read(topic: &str, partition: Partition) -> Error {
    Error::broker(format!("pause or resume {topic}/{partition}"), "this consumer does not read it")
}

/// A message to be written.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub partition: Partition,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    /// Names, and values or nulls.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
}

/// What became of a message that was handed to a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    Accepted,
    /// The producer's buffer stayed full for the whole wait: try again.
    Full,
}

/// What became of the messages accepted so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Acknowledged by the broker (all in-sync replicas).
    pub acknowledged: u64,
    /// Given up on.
    pub failed: u64,
    /// Why, for the newest failure or trouble.
    pub last_error: Option<String>,
}

/// Writes messages to one topic, with acks=all. Its buffer is bounded; messages of one partition
/// keep their order.
pub trait Producer: Send {
    /// Takes a message; where the buffer is full it waits at most `wait` for room.
    ///
    /// # Errors
    /// `Unsupported` for headers or a null value where the backend has none; `Broker` where the
    /// message can never be sent (too large, no such partition).
    fn send(&mut self, message: Message<'_>, wait: Duration) -> Result<Sent>;

    /// What is known by now; never waits.
    fn delivery(&mut self) -> Delivery;

    /// Waits until every accepted message was acknowledged or failed, or `limit` is over; returns
    /// how many are still under way.
    fn flush(&mut self, limit: Duration) -> Result<u64>;
}

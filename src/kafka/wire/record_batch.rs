//! Reads the header of the record batch at an offset of a partition's log, without its records. The backend
//! `crate_kafka` needs it, because crate kafka drops records in a way that looks like a gap in the log.
//!
//! A record batch is Kafka's unit of storage, and has nothing to do with the batches that mb cuts.

use std::time::{Duration, Instant};

use kafka_protocol::ResponseError;
use kafka_protocol::messages::ApiKey;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic};

use super::client::Wire;
use super::codes::{error_name, retriable};
use super::connect::Cause;
use super::metadata::name;
use super::reader::{Read, Reader};
use super::session::{Request, Session, broken};
use crate::config::limits::{BROKER_CALL_LIMIT, LEADER_LIMIT};
use crate::model::error::{Error, Result};
use crate::model::offset::{Epoch, Offset, Partition};

/// How many bytes of an answer are kept: everything before the records, and the first batch's header.
const HEAD_BYTES: usize = 4096;

const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// The header of a record batch (Kafka's record batch format 2; Kafka 0.11 and later).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordBatchHeader {
    /// Offset of the first record that it had when it was written.
    pub base: Offset,
    /// Offset of the last one: the records of the log up to here are in this batch or before it.
    pub last: Offset,
    /// Its size in the log, in bytes.
    pub bytes: usize,
    /// How many records it has now; compaction removes some.
    pub records: i32,
    /// Kafka's name of its compression codec, "none" for none.
    pub codec: &'static str,
    /// A transaction's marker: its record is the broker's, not a producer's.
    pub control: bool,
    /// The epoch of the leader that wrote it.
    pub epoch: Option<Epoch>,
    checksum: i32,
}

impl RecordBatchHeader {
    /// An uncompressed batch, for tests of decisions that are based on headers.
    #[cfg(test)]
    pub(crate) fn for_tests(base: Offset, last: Offset, records: i32) -> RecordBatchHeader {
        RecordBatchHeader {
            base,
            last,
            bytes: 100,
            records,
            codec: "none",
            control: false,
            epoch: None,
            checksum: 0,
        }
    }

    /// Whether it has no record for a consumer.
    pub fn is_without_records(&self) -> bool {
        self.control || self.records <= 0
    }
}

/// The outcome of one request.
pub(super) enum Found {
    Batch(RecordBatchHeader),
    /// Nothing at or above the offset.
    Nothing,
    /// Stored before Kafka 0.11.
    OldFormat,
    Error(i16),
}

impl Wire {
    /// The record batch that holds `offset`, or the next one above it; `None` at the log's end.
    ///
    /// # Errors
    /// `OffsetOutOfRange`; `Unreadable` for a record format older than Kafka 0.11's; `NoLeader`; `Broker`.
    pub fn record_batch_header(
        &self,
        topic: &str,
        partition: Partition,
        offset: Offset,
    ) -> Result<Option<RecordBatchHeader>> {
        let began = Instant::now();
        let deadline = began + BROKER_CALL_LIMIT;
        let fail = |cause: String| {
            Error::broker(format!("look at {topic}/{partition} from offset {offset}"), cause)
        };
        loop {
            let found = match self.leader(topic, partition, deadline).map_err(fail)? {
                None => Found::Error(ResponseError::LeaderNotAvailable.code()),
                Some(address) => self
                    .on(&address, deadline, |session| {
                        ask(session, topic, partition, offset, deadline)
                    })
                    .map_err(|cause| {
                        self.forget_leaders();
                        fail(format!("{address}: {cause}"))
                    })?,
            };
            match found {
                Found::Batch(batch) => return Ok(Some(batch)),
                Found::Nothing => return Ok(None),
                Found::OldFormat => {
                    return Err(Error::Unreadable {
                        topic: topic.to_owned(),
                        partition,
                        offset,
                        cause: "it is stored in the record format of Kafka 0.10 or older; use \
                                --client rdkafka"
                            .to_owned(),
                    });
                }
                Found::Error(code) if code == ResponseError::OffsetOutOfRange.code() => {
                    let topic = topic.to_owned();
                    return Err(Error::OffsetOutOfRange { topic, partition, offset });
                }
                Found::Error(code) => {
                    self.forget_leaders();
                    let is_leaderless = code == ResponseError::LeaderNotAvailable.code();
                    let limit = if is_leaderless { began + LEADER_LIMIT } else { deadline };
                    if !retriable(code) || Instant::now() + RETRY_INTERVAL >= limit {
                        let topic = topic.to_owned();
                        return Err(match is_leaderless {
                            true => Error::NoLeader { topic, partition },
                            false => fail(error_name(code)),
                        });
                    }
                    std::thread::sleep(RETRY_INTERVAL);
                }
            }
        }
    }

    /// The address of the partition's leader, `None` if it has none now.
    fn leader(
        &self,
        topic: &str,
        partition: Partition,
        deadline: Instant,
    ) -> Result<Option<String>, Cause> {
        let key = (topic.to_owned(), partition);
        if let Some(known) = self.leaders.lock().get(&key) {
            return Ok(Some(known.clone()));
        }
        let metadata = self.metadata(topic, deadline)?;
        let leader = metadata.partitions.iter().find(|one| one.index == partition);
        let address = leader.and_then(|one| metadata.brokers.get(&one.leader)).cloned();
        if let Some(address) = &address {
            self.leaders.lock().insert(key, address.clone());
        }
        Ok(address)
    }

    fn forget_leaders(&self) {
        self.leaders.lock().clear();
    }
}

fn ask(
    session: &mut Session,
    topic: &str,
    partition: Partition,
    offset: Offset,
    deadline: Instant,
) -> Result<Found, Cause> {
    // Since version 3 (KIP-74) the first batch comes whole, however small the limit. Version 11 and later
    // (KIP-392) may send the client to a follower, whose log may end earlier.
    let version = session.version(ApiKey::Fetch, (4, 10))?;
    let wanted = FetchPartition::default()
        .with_partition(partition)
        .with_fetch_offset(offset.get())
        .with_partition_max_bytes(1);
    let topics = vec![FetchTopic::default().with_topic(name(topic)).with_partitions(vec![wanted])];
    let body = FetchRequest::default().with_min_bytes(0).with_max_bytes(1).with_topics(topics);
    let request = Request { api: ApiKey::Fetch, version, body: &body };
    let answer = session.exchange_head(&request, HEAD_BYTES, deadline)?;
    read_fetch(&answer, version).map_err(broken)
}

pub(super) fn read_fetch(answer: &[u8], version: i16) -> Read<Found> {
    let mut reader = Reader::new(answer, false);
    let _throttle_ms = reader.i32()?;
    if version >= 7 {
        let code = reader.i16()?;
        let _session_id = reader.i32()?;
        if code != 0 {
            return Ok(Found::Error(code));
        }
    }
    // The request has one topic with one partition.
    if reader.i32()? != 1 {
        return Err(super::reader::Broken);
    }
    let _name = reader.string()?;
    if reader.i32()? != 1 {
        return Err(super::reader::Broken);
    }
    let _partition = reader.i32()?;
    let code = reader.i16()?;
    let _high_watermark = reader.i64()?;
    let _last_stable_offset = reader.i64()?;
    if version >= 5 {
        let _log_start_offset = reader.i64()?;
    }
    let _aborted = reader.array(|aborted| Ok((aborted.i64()?, aborted.i64()?)))?;
    if code != 0 {
        return Ok(Found::Error(code));
    }
    let records = reader.cut_bytes()?;
    if records.is_empty() { Ok(Found::Nothing) } else { read_batch(records) }
}

/// The header of a record batch; see "Record Batch" in Kafka's documentation of its protocol.
pub(super) fn read_batch(bytes: &[u8]) -> Read<Found> {
    let mut reader = Reader::new(bytes, false);
    let base = reader.i64()?;
    let length = reader.i32()?;
    let epoch = Epoch::checked(reader.i32()?);
    if reader.i8()? < 2 {
        return Ok(Found::OldFormat);
    }
    let checksum = reader.i32()?;
    let attributes = reader.i16()?;
    let last_delta = reader.i32()?;
    let _timestamps = (reader.i64()?, reader.i64()?);
    let _producer = (reader.i64()?, reader.i16()?, reader.i32()?);
    let records = reader.i32()?;
    let codec = match attributes & 7 {
        0 => "none",
        1 => "gzip",
        2 => "snappy",
        3 => "lz4",
        4 => "zstd",
        _ => "unknown",
    };
    let batch = || {
        Some(RecordBatchHeader {
            base: Offset::checked(base)?,
            // An offset behind it must exist.
            last: Offset::checked(
                base.checked_add(i64::from(last_delta)).filter(|last| *last < i64::MAX)?,
            )?,
            // Offset and length come before what the length counts.
            bytes: usize::try_from(length).ok()?.checked_add(12)?,
            records,
            codec,
            control: attributes & 0x20 != 0,
            epoch,
            checksum,
        })
    };
    batch().filter(|batch| batch.base <= batch.last).map(Found::Batch).ok_or(super::reader::Broken)
}

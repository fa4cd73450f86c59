//! Where partitions begin and end, and the offset of a time: Kafka's ListOffsets, sent to each partition's
//! leader. What stands for "no record is that young" is the caller's decision.

use std::collections::BTreeSet;
use std::time::Instant;

use kafka_protocol::messages::list_offsets_request::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic,
};
use kafka_protocol::messages::{ApiKey, BrokerId};

use super::client::Wire;
use super::codes::error_name;
use super::connect::Cause;
use super::leaders::by_leader;
use super::metadata::{Metadata, name};
use super::reader::{Read, Reader};
use super::session::{Request, broken};
use crate::config::Isolation;
use crate::kafka::topic::found_or_end;
use crate::kafka::{PerPartition, Watermarks};
use crate::model::error::{Error, Result};
use crate::model::offset::{Offset, Partition};

/// The largest answer, in bytes: some 500,000 partitions fit.
const ANSWER_BYTES: usize = 16 << 20;

/// The logical times of a partition's beginning and of its end. The end is the offset that the next record
/// gets, whether or not a transaction is open (isolation level `read_uncommitted`).
const BEGINNING: i64 = -2;
pub(super) const END: i64 = -1;

/// Each partition with its error code, and its offset or -1.
pub(super) type Answer = Vec<(Partition, i16, i64)>;

impl Wire {
    /// For each of `partitions` the first offset whose record's timestamp is at or after `timestamp_ms`, or
    /// the log's end. Times before 1970 are taken as 1970: Kafka gives negative ones a meaning of their own.
    ///
    /// # Errors
    /// As `watermarks`.
    pub fn offsets_at(
        &self,
        topic: &str,
        partitions: &[Partition],
        timestamp_ms: i64,
    ) -> Result<PerPartition<Offset>> {
        let doing = format!("find offsets of topic {topic} by their time");
        let places =
            |time| self.places(topic, partitions, [time], Isolation::ReadUncommitted, &doing);
        let ([ends], [found]) = (places(END)?, places(timestamp_ms.max(0))?);
        let known = |(partition, end): (Partition, Result<Option<Offset>>)| {
            (partition, end.and_then(|end| end.ok_or_else(|| no_offset(&doing, partition))))
        };
        Ok(found_or_end(ends.into_iter().map(known).collect(), found))
    }

    /// Where each of `partitions` begins and ends.
    ///
    /// # Errors
    /// `UnknownTopic`; `Broker` if no broker answers. A partition's own error is in its entry: `NoLeader`,
    /// or `Broker`, with the broker's name for what is wrong.
    pub fn watermarks(
        &self,
        topic: &str,
        partitions: &[Partition],
    ) -> Result<PerPartition<Watermarks>> {
        let doing = format!("read the beginning and end offsets of topic {topic}");
        let times = [BEGINNING, END];
        let [mut beginnings, ends] =
            self.places(topic, partitions, times, Isolation::ReadUncommitted, &doing)?;
        let both = |(partition, end): (Partition, Result<Option<Offset>>)| {
            let beginning = beginnings.remove(&partition).unwrap_or(Ok(None));
            let marks = match (beginning, end) {
                (Ok(Some(beginning)), Ok(Some(end))) => marks(beginning, end, &doing, partition),
                (Err(error), _) | (_, Err(error)) => Err(error),
                (Ok(_), Ok(_)) => Err(no_offset(&doing, partition)),
            };
            (partition, marks)
        };
        Ok(ends.into_iter().map(both).collect())
    }

    /// For each of the times what was found of each partition, and of no other. Readers of committed records are told
    /// the last stable offset as the end: that of the first record of a transaction that is still open.
    pub(super) fn places<const TIMES: usize>(
        &self,
        topic: &str,
        partitions: &[Partition],
        times: [i64; TIMES],
        isolation: Isolation,
        doing: &str,
    ) -> Result<[PerPartition<Option<Offset>>; TIMES]> {
        self.ask_leaders(topic, partitions, doing, |at, address, requested, deadline| {
            let wanted = (times[at], isolation);
            let answer = self.ask_times(address, topic, requested, wanted, deadline)?;
            let found = |(partition, code, offset)| (partition, code, Offset::checked(offset));
            Ok(answer.into_iter().map(found).collect())
        })
    }

    /// What is wrong with a partition that its leader does not serve; `None` if all are served. A broker
    /// shows a new partition's leader before it leads it itself (`BrokerMetadataPublisher` of Kafka's KRaft:
    /// the metadata cache comes first, the replicas after it).
    pub(super) fn not_served(
        &self,
        topic: &str,
        metadata: &Metadata,
        deadline: Instant,
    ) -> Result<Option<String>, Cause> {
        let all: BTreeSet<_> =
            metadata.partitions.iter().map(|partition| partition.index).collect();
        for (address, requested) in by_leader(metadata, &all).0 {
            let wanted = (0, Isolation::ReadUncommitted);
            for (partition, code, _) in
                self.ask_times(&address, topic, &requested, wanted, deadline)?
            {
                if code != 0 {
                    return Ok(Some(format!("partition {partition}: {}", error_name(code))));
                }
            }
        }
        Ok(None)
    }

    fn ask_times(
        &self,
        address: &str,
        topic: &str,
        partitions: &[Partition],
        (timestamp_ms, isolation): (i64, Isolation),
        deadline: Instant,
    ) -> Result<Answer, Cause> {
        let requested = partitions.iter().map(|partition| {
            ListOffsetsPartition::default()
                .with_partition_index(*partition)
                .with_timestamp(timestamp_ms)
        });
        let topics = vec![
            ListOffsetsTopic::default().with_name(name(topic)).with_partitions(requested.collect()),
        ];
        // Replica id -1 says that a consumer asks.
        let body = ListOffsetsRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_isolation_level(i8::from(matches!(isolation, Isolation::ReadCommitted)))
            .with_topics(topics);
        self.on(address, deadline, |session| {
            // Version 1 is the first with one offset for a time, and the oldest that Kafka 4 has (KIP-896); 2 is the
            // first with an isolation level, and 6 the first in the flexible form.
            let oldest = if matches!(isolation, Isolation::ReadCommitted) { 2 } else { 1 };
            let version = session.version(ApiKey::ListOffsets, (oldest, 5))?;
            let request = Request { api: ApiKey::ListOffsets, version, body: &body };
            let answer = session.exchange(&request, ANSWER_BYTES, deadline)?;
            read_times(&answer, version).map_err(broken)
        })
    }
}

fn no_offset(doing: &str, partition: Partition) -> Error {
    Error::broker(doing, format!("no offset for partition {partition}"))
}

/// A log that begins behind its end is a broken answer. mb would take every record for one that retention removed.
fn marks(beginning: Offset, end: Offset, doing: &str, partition: Partition) -> Result<Watermarks> {
    if beginning > end {
        let cause =
            format!("partition {partition} is said to begin at {beginning}, and to end at {end}");
        return Err(Error::broker(doing, cause));
    }
    Ok(Watermarks { beginning, end })
}

pub(super) fn read_times(answer: &[u8], version: i16) -> Read<Answer> {
    let mut reader = Reader::new(answer, false);
    if version >= 2 {
        let _throttle_ms = reader.i32()?;
    }
    reader.partitions(|partition| {
        let index = partition.i32()?;
        let code = partition.i16()?;
        let _timestamp = partition.i64()?;
        let offset = partition.i64()?;
        if version >= 4 {
            let _leader_epoch = partition.i32()?;
        }
        Ok((index, code, offset))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One topic `t` with partition 3: no error, timestamp 9, offset 7 and, from version 4 on, a
    /// leader epoch.
    fn answer(version: i16) -> Vec<u8> {
        let mut bytes = Vec::new();
        if version >= 2 {
            bytes.extend(0_i32.to_be_bytes());
        }
        bytes.extend(1_i32.to_be_bytes());
        bytes.extend(b"\0\x01t");
        bytes.extend(1_i32.to_be_bytes());
        bytes.extend(3_i32.to_be_bytes());
        bytes.extend(0_i16.to_be_bytes());
        bytes.extend(9_i64.to_be_bytes());
        bytes.extend(7_i64.to_be_bytes());
        if version >= 4 {
            bytes.extend(0_i32.to_be_bytes());
        }
        bytes
    }

    #[test]
    fn every_version_in_use_reads_the_same() {
        for version in 1..=5 {
            assert_eq!(read_times(&answer(version), version), Ok(vec![(3, 0, 7)]), "{version}");
        }
    }

    #[test]
    fn a_log_that_begins_behind_its_end_is_a_broken_answer() {
        let [low, high] = [3, 7].map(Offset::new);
        let whole = Watermarks { beginning: low, end: high };
        assert_eq!(marks(low, high, "look", 0), Ok(whole));
        assert_eq!(marks(high, high, "look", 0), Ok(Watermarks { beginning: high, end: high }));
        let broken = marks(high, low, "look", 0).unwrap_err().to_string();
        assert_eq!(broken, "cannot look: partition 0 is said to begin at 7, and to end at 3");
    }

    #[test]
    fn a_cut_answer_is_broken() {
        let whole = answer(5);
        for cut in 0..whole.len() {
            assert!(read_times(&whole[..cut], 5).is_err(), "cut at {cut}");
        }
    }
}

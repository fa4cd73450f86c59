//! Where partitions begin and end, and from a time to an offset: Kafka's ListOffsets, asked of each
//! partition's leader. Where no record is that young is said as such; what stands for it then is its
//! caller's business.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use kafka_protocol::ResponseError;
use kafka_protocol::messages::list_offsets_request::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic,
};
use kafka_protocol::messages::{ApiKey, BrokerId};

use super::metadata::{Metadata, name};
use super::reader::{Read, Reader};
use super::session::{Ask, Cause};
use super::{Wire, broken, error_name, retriable};
use crate::config::limits::BROKER_CALL_LIMIT;
use crate::kafka::Watermarks;
use crate::model::error::{Error, Result};
use crate::model::offset::{Offset, Partition};

/// Bytes of an answer at most: some 500,000 partitions fit.
const ANSWER_BYTES: usize = 16 << 20;

/// The wait before leaders that are moving are asked again.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// The logical times of a partition's beginning and of its end, which is the offset that the next
/// record gets whether or not a transaction is open (isolation level `read_uncommitted`).
const BEGINNING: i64 = -2;
const END: i64 = -1;

/// Each partition with its error code, and its offset or -1.
type Answer = Vec<(Partition, i16, i64)>;

type Found = BTreeMap<Partition, Option<Offset>>;

impl Wire {
    /// For each of `partitions` the first offset whose record's timestamp is at or after
    /// `timestamp_ms`, `None` where there is none. Times before 1970 are taken as 1970: Kafka gives
    /// negative ones a meaning of their own.
    ///
    /// # Errors
    /// `UnknownTopic`; `Broker`, with the broker's name for what is wrong.
    pub fn offsets_at(
        &self,
        topic: &str,
        partitions: &[Partition],
        timestamp_ms: i64,
    ) -> Result<BTreeMap<Partition, Option<Offset>>> {
        let fail = |cause: String| {
            Error::broker(format!("find offsets of topic {topic} by their time"), cause)
        };
        let [found] = self.places(topic, partitions, [timestamp_ms.max(0)], &fail)?;
        Ok(found)
    }

    /// Where each of `partitions` begins and ends.
    ///
    /// # Errors
    /// As `offsets_at`.
    pub fn watermarks(
        &self,
        topic: &str,
        partitions: &[Partition],
    ) -> Result<BTreeMap<Partition, Watermarks>> {
        if partitions.is_empty() {
            return Ok(BTreeMap::new());
        }
        let fail = |cause: String| {
            Error::broker(format!("read the beginning and end offsets of topic {topic}"), cause)
        };
        let [beginnings, ends] = self.places(topic, partitions, [BEGINNING, END], &fail)?;
        let of = |found: &Found, partition| found.get(&partition).copied().flatten();
        let marks = partitions.iter().map(|&partition| {
            match (of(&beginnings, partition), of(&ends, partition)) {
                (Some(beginning), Some(end)) => Ok((partition, Watermarks { beginning, end })),
                _ => Err(fail(format!("no offset for partition {partition}"))),
            }
        });
        marks.collect()
    }

    /// For each of the times what was found of each partition, and of no other.
    fn places<const TIMES: usize>(
        &self,
        topic: &str,
        partitions: &[Partition],
        times: [i64; TIMES],
        fail: &dyn Fn(String) -> Error,
    ) -> Result<[Found; TIMES]> {
        let deadline = Instant::now() + BROKER_CALL_LIMIT;
        let mut all = [const { Found::new() }; TIMES];
        loop {
            let metadata = self.metadata(topic, deadline).map_err(fail)?;
            if metadata.error == ResponseError::UnknownTopicOrPartition.code() {
                return Err(Error::UnknownTopic { topic: topic.to_owned() });
            }
            let listed: BTreeSet<_> = metadata.partitions.iter().map(|one| one.index).collect();
            let unlisted = partitions.iter().find(|partition| !listed.contains(*partition));
            if let (0, Some(unlisted)) = (metadata.error, unlisted) {
                return Err(fail(format!("the topic has no partition {unlisted}")));
            }
            let mut trouble = Trouble::default();
            for (time, found) in times.iter().zip(&mut all) {
                let missing: BTreeSet<_> = of_none(partitions, found).collect();
                for (address, asked) in by_leader(&metadata, &missing, &mut trouble) {
                    let answer = self
                        .ask_times(&address, topic, &asked, *time, deadline)
                        .map_err(|cause| fail(format!("{address}: {cause}")))?;
                    for (partition, code, offset) in answer {
                        match code {
                            0 if asked.binary_search(&partition).is_ok() => {
                                found.insert(partition, Offset::checked(offset));
                            }
                            0 => {}
                            code => trouble.note(partition, code),
                        }
                    }
                }
            }
            let Some(missing) = all.iter().find_map(|found| of_none(partitions, found).next())
            else {
                return Ok(all);
            };
            // An answer without a partition that was asked for is no better than an error.
            let unknown = (missing, ResponseError::UnknownServerError.code());
            let (partition, code) = trouble.0.unwrap_or(unknown);
            if !passes(code) || Instant::now() + RETRY_INTERVAL >= deadline {
                return Err(fail(format!("partition {partition}: {}", error_name(code))));
            }
            std::thread::sleep(RETRY_INTERVAL);
        }
    }

    /// What is wrong with a partition that its leader does not serve, `None` where all are served. A
    /// broker shows a new partition's leader before it leads it itself (`BrokerMetadataPublisher` of
    /// Kafka's KRaft: the metadata cache comes first, the replicas after it).
    pub(super) fn not_served(
        &self,
        topic: &str,
        metadata: &Metadata,
        deadline: Instant,
    ) -> Result<Option<String>, Cause> {
        let all: BTreeSet<_> =
            metadata.partitions.iter().map(|partition| partition.index).collect();
        for (address, asked) in by_leader(metadata, &all, &mut Trouble::default()) {
            for (partition, code, _) in self.ask_times(&address, topic, &asked, 0, deadline)? {
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
        timestamp_ms: i64,
        deadline: Instant,
    ) -> Result<Answer, Cause> {
        let asked = partitions.iter().map(|partition| {
            ListOffsetsPartition::default()
                .with_partition_index(*partition)
                .with_timestamp(timestamp_ms)
        });
        let topics = vec![
            ListOffsetsTopic::default().with_name(name(topic)).with_partitions(asked.collect()),
        ];
        // A replica's id of -1 is a consumer's.
        let body = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(topics);
        self.on(address, deadline, |session| {
            // Version 1 is the first with one offset for a time, and the oldest that Kafka 4 has; 6
            // is the first in the flexible form.
            let version = session.version(ApiKey::ListOffsets, (1, 5))?;
            let ask = Ask { api: ApiKey::ListOffsets, version, body: &body };
            let answer = session.exchange(&ask, ANSWER_BYTES, deadline)?;
            read_times(&answer, version).map_err(broken)
        })
    }
}

/// What is wrong with a partition: of several the first that does not pass by itself.
#[derive(Default)]
struct Trouble(Option<(Partition, i16)>);

impl Trouble {
    fn note(&mut self, partition: Partition, code: i16) {
        if self.0.is_none_or(|(_, known)| passes(known) && !passes(code)) {
            self.0 = Some((partition, code));
        }
    }
}

/// Whether a partition's error passes by itself. One that the metadata list and its leader does not know
/// is new: brokers learn of it one after another.
fn passes(code: i16) -> bool {
    retriable(code) || code == ResponseError::UnknownTopicOrPartition.code()
}

fn of_none(partitions: &[Partition], found: &Found) -> impl Iterator<Item = Partition> {
    partitions.iter().copied().filter(|partition| !found.contains_key(partition))
}

/// Partitions, ascending, by their leaders' addresses; those that have none are noted.
fn by_leader(
    metadata: &Metadata,
    partitions: &BTreeSet<Partition>,
    trouble: &mut Trouble,
) -> BTreeMap<String, Vec<Partition>> {
    let leaders: BTreeMap<Partition, i32> =
        metadata.partitions.iter().map(|one| (one.index, one.leader)).collect();
    let mut by_leader = BTreeMap::<String, Vec<Partition>>::new();
    for &partition in partitions {
        match leaders.get(&partition).and_then(|leader| metadata.brokers.get(leader)) {
            Some(address) => by_leader.entry(address.clone()).or_default().push(partition),
            None if metadata.error != 0 => trouble.note(partition, metadata.error),
            None => trouble.note(partition, ResponseError::LeaderNotAvailable.code()),
        }
    }
    by_leader
}

fn read_times(answer: &[u8], version: i16) -> Read<Answer> {
    let mut reader = Reader::new(answer, false);
    if version >= 2 {
        let _throttle_ms = reader.i32()?;
    }
    let topics = reader.array(|topic| {
        let _name = topic.string()?;
        topic.array(|partition| {
            let index = partition.i32()?;
            let code = partition.i16()?;
            let _timestamp = partition.i64()?;
            let offset = partition.i64()?;
            if version >= 4 {
                let _leader_epoch = partition.i32()?;
            }
            Ok((index, code, offset))
        })
    })?;
    Ok(topics.into_iter().flatten().collect())
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
    fn every_version_spoken_is_read_alike() {
        for version in 1..=5 {
            assert_eq!(read_times(&answer(version), version), Ok(vec![(3, 0, 7)]), "{version}");
        }
    }

    #[test]
    fn of_several_errors_the_one_that_stays_is_told_with_its_partition() {
        let stays = ResponseError::TopicAuthorizationFailed.code();
        let passing = ResponseError::LeaderNotAvailable.code();
        assert!(passes(passing) && !passes(stays));
        let mut trouble = Trouble::default();
        for (partition, code) in [(1, passing), (2, stays), (3, passing), (4, stays)] {
            trouble.note(partition, code);
        }
        assert_eq!(trouble.0, Some((2, stays)));
    }

    #[test]
    fn a_cut_answer_is_broken() {
        let whole = answer(5);
        for cut in 0..whole.len() {
            assert!(read_times(&whole[..cut], 5).is_err(), "cut at {cut}");
        }
    }
}

//! Where partitions begin and end, and the offset of a time: Kafka's ListOffsets, sent to each partition's
//! leader. What stands for "no record is that young" is the caller's decision.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use kafka_protocol::ResponseError;
use kafka_protocol::messages::list_offsets_request::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic,
};
use kafka_protocol::messages::{ApiKey, BrokerId};

use super::client::Wire;
use super::codes::{error_name, retriable};
use super::connect::Cause;
use super::metadata::{Metadata, name};
use super::reader::{Read, Reader};
use super::session::{Request, broken};
use crate::config::limits::{BROKER_CALL_LIMIT, LEADER_LIMIT};
use crate::kafka::topic::found_or_end;
use crate::kafka::{PerPartition, Watermarks};
use crate::model::error::{Error, Result};
use crate::model::offset::{Offset, Partition};

/// The largest answer, in bytes: some 500,000 partitions fit.
const ANSWER_BYTES: usize = 16 << 20;

/// The wait before the leaders of partitions without an answer are looked up again.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// The logical times of a partition's beginning and of its end. The end is the offset that the next record
/// gets, whether or not a transaction is open (isolation level `read_uncommitted`).
const BEGINNING: i64 = -2;
const END: i64 = -1;

/// Each partition with its error code, and its offset or -1.
pub(super) type Answer = Vec<(Partition, i16, i64)>;

/// What is known of each partition so far.
type Found = BTreeMap<Partition, Result<Option<Offset>, Trouble>>;

/// Why a partition has no offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    NoPartition,
    NoLeader,
    /// The leader cannot be reached, or its answer is broken.
    Leader(Cause),
    Code(i16),
    Unanswered,
}

impl Trouble {
    /// An error code that the topic's metadata or a leader gives.
    pub(super) fn of_code(code: i16) -> Trouble {
        if code == ResponseError::LeaderNotAvailable.code() {
            Trouble::NoLeader
        } else {
            Trouble::Code(code)
        }
    }

    /// Whether it passes by itself. A partition that the metadata lists and that its leader does not know
    /// is new: brokers learn of it one after another.
    pub(super) fn passes(&self) -> bool {
        match self {
            Trouble::NoLeader | Trouble::Unanswered => true,
            Trouble::Code(code) => {
                retriable(*code) || *code == ResponseError::UnknownTopicOrPartition.code()
            }
            // The metadata would name the same leader again until the controller notices its loss, which
            // takes 9 s (broker.session.timeout.ms).
            Trouble::NoPartition | Trouble::Leader(_) => false,
        }
    }

    pub(super) fn into_error(self, topic: &str, partition: Partition, doing: &str) -> Error {
        let cause = match self {
            Trouble::NoLeader => return Error::NoLeader { topic: topic.to_owned(), partition },
            Trouble::NoPartition => format!("the topic has no partition {partition}"),
            Trouble::Leader(cause) => format!("the leader of partition {partition}: {cause}"),
            Trouble::Code(code) => format!("partition {partition}: {}", error_name(code)),
            Trouble::Unanswered => format!("the answer does not mention partition {partition}"),
        };
        Error::broker(doing, cause)
    }
}

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
        let [ends] = self.places(topic, partitions, [END], &doing)?;
        let [found] = self.places(topic, partitions, [timestamp_ms.max(0)], &doing)?;
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
        let [mut beginnings, ends] = self.places(topic, partitions, [BEGINNING, END], &doing)?;
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

    /// For each of the times what was found of each partition, and of no other.
    ///
    /// Partitions whose trouble passes by itself are retried: until the call's limit, or for
    /// `LEADER_LIMIT` if they have no leader. A partition that had none at the end of the last call is not
    /// waited for again, or every look at the topic's lag would take that long while one broker is down.
    fn places<const TIMES: usize>(
        &self,
        topic: &str,
        partitions: &[Partition],
        times: [i64; TIMES],
        doing: &str,
    ) -> Result<[PerPartition<Option<Offset>>; TIMES]> {
        let fail = |cause: Cause| Error::broker(doing, cause);
        let began = Instant::now();
        let deadline = began + BROKER_CALL_LIMIT;
        let mut all = [const { Found::new() }; TIMES];
        while !partitions.is_empty() {
            let metadata = self.metadata(topic, deadline).map_err(fail)?;
            if metadata.error == ResponseError::UnknownTopicOrPartition.code() {
                return Err(Error::UnknownTopic { topic: topic.to_owned() });
            }
            for at in 0..TIMES {
                // A leader that did not answer the first question is not asked the second.
                let hopeless: Found = all[..at]
                    .iter()
                    .flatten()
                    .filter(|(_, f)| is_final(f))
                    .map(|(p, f)| (*p, f.clone()))
                    .collect();
                all[at].extend(hopeless);
                self.find_missing(topic, &metadata, partitions, times[at], &mut all[at], deadline);
            }
            let waits_for = |(partition, found): (&Partition, &Result<_, Trouble>)| match found {
                Err(Trouble::NoLeader) => {
                    began.elapsed() < LEADER_LIMIT && !self.is_leaderless(topic, *partition)
                }
                Err(trouble) => trouble.passes(),
                Ok(_) => false,
            };
            let goes_on = all.iter().flatten().any(waits_for);
            if !goes_on || Instant::now() + RETRY_INTERVAL >= deadline {
                break;
            }
            std::thread::sleep(RETRY_INTERVAL);
        }
        for (partition, found) in all.iter().flatten() {
            self.note_leaderless(topic, *partition, *found == Err(Trouble::NoLeader));
        }
        let errors = |found: Found| {
            let entry = |(partition, found): (Partition, Result<_, Trouble>)| {
                (partition, found.map_err(|trouble| trouble.into_error(topic, partition, doing)))
            };
            found.into_iter().map(entry).collect()
        };
        Ok(all.map(errors))
    }

    /// Asks the leaders of those of `partitions` that have no offset in `found` yet.
    fn find_missing(
        &self,
        topic: &str,
        metadata: &Metadata,
        partitions: &[Partition],
        time: i64,
        found: &mut Found,
        deadline: Instant,
    ) {
        let is_settled = |known: &Result<_, Trouble>| known.is_ok() || is_final(known);
        let missing: BTreeSet<Partition> = partitions
            .iter()
            .copied()
            .filter(|partition| !found.get(partition).is_some_and(is_settled))
            .collect();
        let (leaders, troubles) = by_leader(metadata, &missing);
        found.extend(troubles.into_iter().map(|(partition, trouble)| (partition, Err(trouble))));
        let count = leaders.len();
        for (index, (address, requested)) in leaders.into_iter().enumerate() {
            // A leader that does not answer leaves time for the others.
            let left = deadline.saturating_duration_since(Instant::now());
            let share = Instant::now() + left / u32::try_from(count - index).unwrap_or(u32::MAX);
            // An answer without a partition that was asked for is no better than an error.
            found.extend(requested.iter().map(|partition| (*partition, Err(Trouble::Unanswered))));
            match self.ask_times(&address, topic, &requested, time, share) {
                Ok(answer) => {
                    for (partition, code, offset) in answer {
                        if requested.binary_search(&partition).is_ok() {
                            let at = match code {
                                0 => Ok(Offset::checked(offset)),
                                code => Err(Trouble::of_code(code)),
                            };
                            found.insert(partition, at);
                        }
                    }
                }
                Err(cause) => {
                    let trouble = Trouble::Leader(format!("{address}: {cause}"));
                    found.extend(requested.iter().map(|one| (*one, Err(trouble.clone()))));
                }
            }
        }
    }

    fn is_leaderless(&self, topic: &str, partition: Partition) -> bool {
        self.leaderless.lock().get(topic).is_some_and(|known| known.contains(&partition))
    }

    fn note_leaderless(&self, topic: &str, partition: Partition, is_leaderless: bool) {
        let mut leaderless = self.leaderless.lock();
        if is_leaderless {
            leaderless.entry(topic.to_owned()).or_default().insert(partition);
        } else if let Some(known) = leaderless.get_mut(topic) {
            known.remove(&partition);
        }
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
            for (partition, code, _) in self.ask_times(&address, topic, &requested, 0, deadline)? {
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
        let requested = partitions.iter().map(|partition| {
            ListOffsetsPartition::default()
                .with_partition_index(*partition)
                .with_timestamp(timestamp_ms)
        });
        let topics = vec![
            ListOffsetsTopic::default().with_name(name(topic)).with_partitions(requested.collect()),
        ];
        // Replica id -1 says that a consumer asks.
        let body = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(topics);
        self.on(address, deadline, |session| {
            // Version 1 is the first with one offset for a time, and the oldest that Kafka 4 has (KIP-896);
            // 6 is the first in the flexible form.
            let version = session.version(ApiKey::ListOffsets, (1, 5))?;
            let request = Request { api: ApiKey::ListOffsets, version, body: &body };
            let answer = session.exchange(&request, ANSWER_BYTES, deadline)?;
            read_times(&answer, version).map_err(broken)
        })
    }
}

fn is_final(found: &Result<Option<Offset>, Trouble>) -> bool {
    found.as_ref().is_err_and(|trouble| !trouble.passes())
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

/// Partitions, ascending, by their leaders' addresses; and what is wrong with those that have none.
pub(super) fn by_leader(
    metadata: &Metadata,
    partitions: &BTreeSet<Partition>,
) -> (BTreeMap<String, Vec<Partition>>, BTreeMap<Partition, Trouble>) {
    let leaders: BTreeMap<Partition, i32> =
        metadata.partitions.iter().map(|one| (one.index, one.leader)).collect();
    let (mut by_leader, mut troubles) =
        (BTreeMap::<String, Vec<Partition>>::new(), BTreeMap::new());
    for &partition in partitions {
        let leader = leaders.get(&partition);
        if let Some(address) = leader.and_then(|leader| metadata.brokers.get(leader)) {
            by_leader.entry(address.clone()).or_default().push(partition);
            continue;
        }
        let trouble = match leader {
            _ if metadata.error != 0 => Trouble::of_code(metadata.error),
            Some(_) => Trouble::NoLeader,
            None => Trouble::NoPartition,
        };
        troubles.insert(partition, trouble);
    }
    (by_leader, troubles)
}

pub(super) fn read_times(answer: &[u8], version: i16) -> Read<Answer> {
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
    use crate::kafka::wire::metadata::PartitionMetadata;

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
    fn a_partition_without_a_leader_is_trouble_of_its_own() {
        let partition = |index, leader| PartitionMetadata { error: 0, index, leader, epoch: None };
        let metadata = Metadata {
            brokers: BTreeMap::from([(1, "one:9092".to_owned())]),
            partitions: vec![partition(0, 1), partition(1, -1), partition(2, 7), partition(3, 1)],
            ..Metadata::default()
        };
        let (leaders, troubles) = by_leader(&metadata, &BTreeSet::from([0, 1, 2, 3, 4]));
        assert_eq!(leaders, BTreeMap::from([("one:9092".to_owned(), vec![0, 3])]));
        let expected = [(1, Trouble::NoLeader), (2, Trouble::NoLeader), (4, Trouble::NoPartition)];
        assert_eq!(troubles, BTreeMap::from(expected));
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

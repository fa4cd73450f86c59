//! From a time to an offset: Kafka's ListOffsets, asked of each partition's leader. Where no record
//! is that young is said as such; what stands for it then is its caller's business.

use std::collections::BTreeMap;
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
use crate::error::{Error, Result};
use crate::limits::BROKER_CALL_LIMIT;
use crate::offset::{Offset, Partition};

/// Bytes of an answer at most: some 500,000 partitions fit.
const ANSWER_BYTES: usize = 16 << 20;

/// The wait before leaders that are moving are asked again.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Each partition with its error code, and its offset or -1.
type Answer = Vec<(Partition, i16, i64)>;

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
        let deadline = Instant::now() + BROKER_CALL_LIMIT;
        let fail = |cause: String| {
            Error::broker(format!("find offsets of topic {topic} by their time"), cause)
        };
        let mut found = BTreeMap::new();
        loop {
            let metadata = self.metadata(topic, deadline).map_err(fail)?;
            let (by_leader, mut trouble) = by_leader(&metadata, partitions, &found);
            if trouble == Some(ResponseError::UnknownTopicOrPartition.code())
                && by_leader.is_empty()
            {
                return Err(Error::UnknownTopic { topic: topic.to_owned() });
            }
            for (address, asked) in by_leader {
                let answer = self
                    .ask_times(&address, topic, &asked, timestamp_ms.max(0), deadline)
                    .map_err(|cause| fail(format!("{address}: {cause}")))?;
                for (partition, code, offset) in answer {
                    if code == 0 {
                        found.insert(partition, Offset::checked(offset));
                    } else {
                        trouble = Some(code);
                    }
                }
            }
            let Some(missing) = partitions.iter().find(|one| !found.contains_key(one)) else {
                return Ok(found);
            };
            // An answer without a partition that was asked for is no better than an error.
            let code = trouble.unwrap_or(ResponseError::UnknownServerError.code());
            if !retriable(code) || Instant::now() + RETRY_INTERVAL >= deadline {
                return Err(fail(format!("partition {missing}: {}", error_name(code))));
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
        let all: Vec<_> = metadata.partitions.iter().map(|partition| partition.index).collect();
        let (by_leader, _) = by_leader(metadata, &all, &BTreeMap::new());
        for (address, asked) in by_leader {
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

/// The partitions without an answer, by their leaders' addresses; and the error code of one that
/// has no leader.
fn by_leader(
    metadata: &Metadata,
    partitions: &[Partition],
    found: &BTreeMap<Partition, Option<Offset>>,
) -> (BTreeMap<String, Vec<Partition>>, Option<i16>) {
    let mut trouble = (metadata.error != 0).then_some(metadata.error);
    let mut by_leader = BTreeMap::<String, Vec<Partition>>::new();
    for partition in partitions.iter().filter(|one| !found.contains_key(one)) {
        let known = metadata.partitions.iter().find(|one| one.index == *partition);
        match known.and_then(|one| metadata.brokers.get(&one.leader)) {
            Some(address) => by_leader.entry(address.clone()).or_default().push(*partition),
            None => {
                trouble.get_or_insert(ResponseError::LeaderNotAvailable.code());
            }
        }
    }
    (by_leader, trouble)
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
    fn a_cut_answer_is_broken() {
        let whole = answer(5);
        for cut in 0..whole.len() {
            assert!(read_times(&whole[..cut], 5).is_err(), "cut at {cut}");
        }
    }
}

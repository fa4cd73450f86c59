//! Where the records of a leader epoch end, asked of each partition's leader (OffsetForLeaderEpoch), and the epoch of
//! a stored batch. What a difference means is decided by the callers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderEpochRequest, OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::{ApiKey, BrokerId};

use super::client::Wire;
use super::connect::Cause;
use super::metadata::name;
use super::reader::{Read, Reader};
use super::session::{Request, broken};
use super::times::{Trouble, by_leader};
use crate::config::limits::{BROKER_CALL_LIMIT, LEADER_LIMIT};
use crate::kafka::{EpochEnd, PerPartition};
use crate::model::error::{Class, Error, Result};
use crate::model::offset::{Epoch, Offset, Partition};

/// The largest answer, in bytes: some 500,000 partitions fit.
const ANSWER_BYTES: usize = 16 << 20;

/// The wait before the leaders of partitions without an answer are looked up again.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Each partition with its error code, and what the leader knows of the epoch.
pub(super) type Answer = Vec<(Partition, i16, Option<EpochEnd>)>;

impl Wire {
    /// For each partition where the records of the leader epoch end. `None` for a leader that is older than Kafka
    /// 2.3, whose answers need the permissions of a broker, or that knows no such epoch.
    ///
    /// # Errors
    /// `Broker` if no broker answers. A partition's own error is in its entry.
    pub fn epoch_ends(
        &self,
        topic: &str,
        epochs: &[(Partition, Epoch)],
    ) -> Result<PerPartition<Option<EpochEnd>>> {
        let doing = format!("ask where leader epochs end in topic {topic}");
        let began = Instant::now();
        let deadline = began + BROKER_CALL_LIMIT;
        let wanted: BTreeMap<Partition, Epoch> = epochs.iter().copied().collect();
        let mut found = BTreeMap::<Partition, Result<Option<EpochEnd>, Trouble>>::new();
        while found.len() < wanted.len() || found.values().any(Result::is_err) {
            let metadata =
                self.metadata(topic, deadline).map_err(|cause| Error::broker(&doing, cause))?;
            let is_open = |partition: &Partition| !matches!(found.get(partition), Some(Ok(_)));
            let open: BTreeSet<Partition> = wanted.keys().copied().filter(is_open).collect();
            let (leaders, troubles) = by_leader(&metadata, &open);
            let troubles =
                troubles.into_iter().map(|(partition, trouble)| (partition, Err(trouble)));
            found.extend(troubles);
            let count = leaders.len();
            for (index, (address, partitions)) in leaders.into_iter().enumerate() {
                // A leader that does not answer leaves time for the others.
                let left = deadline.saturating_duration_since(Instant::now());
                let share =
                    Instant::now() + left / u32::try_from(count - index).unwrap_or(u32::MAX);
                found.extend(partitions.iter().map(|one| (*one, Err(Trouble::Unanswered))));
                let requested = partitions.iter().map(|one| (*one, wanted[one])).collect();
                match self.ask_epochs(&address, topic, requested, share) {
                    Ok(answer) => {
                        let asked = answer.into_iter().filter(|(one, ..)| partitions.contains(one));
                        found.extend(asked.map(|(partition, code, end)| {
                            (
                                partition,
                                if code == 0 { Ok(end) } else { Err(Trouble::of_code(code)) },
                            )
                        }));
                    }
                    Err(cause) => {
                        let trouble = Trouble::Leader(format!("{address}: {cause}"));
                        found.extend(partitions.iter().map(|one| (*one, Err(trouble.clone()))));
                    }
                }
            }
            let waits_for = |found: &Result<_, Trouble>| match found {
                Err(Trouble::NoLeader) => began.elapsed() < LEADER_LIMIT,
                Err(trouble) => trouble.passes(),
                Ok(_) => false,
            };
            if !found.values().any(waits_for) || Instant::now() + RETRY_INTERVAL >= deadline {
                break;
            }
            std::thread::sleep(RETRY_INTERVAL);
        }
        let entry = |(partition, found): (Partition, Result<_, Trouble>)| {
            (partition, found.map_err(|trouble| trouble.into_error(topic, partition, &doing)))
        };
        Ok(found.into_iter().map(entry).collect())
    }

    fn ask_epochs(
        &self,
        address: &str,
        topic: &str,
        epochs: Vec<(Partition, Epoch)>,
        deadline: Instant,
    ) -> Result<Answer, Cause> {
        let partitions = epochs.iter().map(|(partition, epoch)| {
            OffsetForLeaderPartition::default()
                .with_partition(*partition)
                .with_current_leader_epoch(-1)
                .with_leader_epoch(epoch.get())
        });
        let asked = OffsetForLeaderTopic::default()
            .with_topic(name(topic))
            .with_partitions(partitions.collect());
        // Replica id -1 says that a consumer asks.
        let body = OffsetForLeaderEpochRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_topics(vec![asked]);
        self.on(address, deadline, |session| {
            // Version 3 (Kafka 2.3) is the first that a consumer may send; 4 is the first in the flexible form.
            let Ok(version) = session.version(ApiKey::OffsetForLeaderEpoch, (3, 3)) else {
                return Ok(epochs.iter().map(|(partition, _)| (*partition, 0, None)).collect());
            };
            let request = Request { api: ApiKey::OffsetForLeaderEpoch, version, body: &body };
            let answer = session.exchange(&request, ANSWER_BYTES, deadline)?;
            read_epochs(&answer).map_err(broken)
        })
    }

    /// For each place the leader epoch of the stored batch that has this offset; `None` at the log's end, or if no
    /// batch has the offset any more.
    pub fn epochs_at(
        &self,
        topic: &str,
        places: &[(Partition, Offset)],
    ) -> PerPartition<Option<Epoch>> {
        // With a leader that does not answer, a call for each of many partitions would take its limit many times.
        let mut away = None;
        let mut epoch_at = |&(partition, offset): &(Partition, Offset)| {
            if let Some(error) = &away {
                return (partition, Err(Error::clone(error)));
            }
            let batch = self.record_batch_header(topic, partition, offset);
            away = batch.as_ref().err().filter(|error| error.class() == Class::Retry).cloned();
            let has_it =
                |batch: &super::RecordBatchHeader| batch.base <= offset && offset <= batch.last;
            (partition, batch.map(|batch| batch.filter(has_it).and_then(|batch| batch.epoch)))
        };
        places.iter().map(&mut epoch_at).collect()
    }
}

pub(super) fn read_epochs(answer: &[u8]) -> Read<Answer> {
    let mut reader = Reader::new(answer, false);
    let _throttle_ms = reader.i32()?;
    let topics = reader.array(|topic| {
        let _name = topic.string()?;
        topic.array(|partition| {
            let code = partition.i16()?;
            let index = partition.i32()?;
            let epoch = Epoch::checked(partition.i32()?);
            let end = Offset::checked(partition.i64()?);
            let known = epoch.zip(end).map(|(epoch, end)| EpochEnd { epoch, end });
            Ok((index, code, known))
        })
    })?;
    Ok(topics.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One topic `t` with partition 3: no error, and an epoch with its end.
    fn answer(epoch: i32, end: i64) -> Vec<u8> {
        let mut bytes = 0_i32.to_be_bytes().to_vec();
        bytes.extend(1_i32.to_be_bytes());
        bytes.extend(b"\0\x01t");
        bytes.extend(1_i32.to_be_bytes());
        bytes.extend(0_i16.to_be_bytes());
        bytes.extend(3_i32.to_be_bytes());
        bytes.extend(epoch.to_be_bytes());
        bytes.extend(end.to_be_bytes());
        bytes
    }

    #[test]
    fn an_epoch_that_the_leader_does_not_know_is_none() {
        let epoch = Epoch::checked(4).unwrap();
        let end = EpochEnd { epoch, end: Offset::new(50) };
        assert_eq!(read_epochs(&answer(4, 50)), Ok(vec![(3, 0, Some(end))]));
        assert_eq!(read_epochs(&answer(-1, -1)), Ok(vec![(3, 0, None)]));
    }

    #[test]
    fn a_cut_answer_is_broken() {
        let whole = answer(4, 50);
        for cut in 0..whole.len() {
            assert!(read_epochs(&whole[..cut]).is_err(), "cut at {cut}");
        }
    }
}

//! Where the records of a leader epoch end, asked of each partition's leader (OffsetForLeaderEpoch), and the epoch of
//! a stored batch. What a difference means is decided by the callers.

use std::collections::BTreeMap;
use std::time::Instant;

use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderEpochRequest, OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::{ApiKey, BrokerId};

use super::client::Wire;
use super::connect::Cause;
use super::leaders;
use super::metadata::name;
use super::reader::{Read, Reader};
use super::session::{Request, broken};
use crate::kafka::{EpochEnd, PerPartition};
use crate::model::error::{Class, Error, Result};
use crate::model::offset::{Epoch, Offset, Partition};

/// The largest answer, in bytes: some 500,000 partitions fit.
const ANSWER_BYTES: usize = 16 << 20;

/// What a leader knows of the epochs.
pub(super) type Answer = leaders::Answer<Option<EpochEnd>>;

impl Wire {
    /// For each partition where the records of the leader epoch end. `None` for a leader that is older than Kafka
    /// 2.3, whose answers need the permissions of a broker, or that knows no such epoch.
    ///
    /// # Errors
    /// As `watermarks`.
    pub fn epoch_ends(
        &self,
        topic: &str,
        epochs: &[(Partition, Epoch)],
    ) -> Result<PerPartition<Option<EpochEnd>>> {
        let doing = format!("ask where leader epochs end in topic {topic}");
        let wanted: BTreeMap<Partition, Epoch> = epochs.iter().copied().collect();
        let partitions: Vec<Partition> = wanted.keys().copied().collect();
        let [ends] =
            self.ask_leaders(topic, &partitions, &doing, |_, address, requested, deadline| {
                let epochs = requested.iter().map(|partition| (*partition, wanted[partition]));
                self.ask_epochs(address, topic, epochs.collect(), deadline)
            })?;
        Ok(ends)
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
    reader.partitions(|partition| {
        let code = partition.i16()?;
        let index = partition.i32()?;
        let epoch = Epoch::checked(partition.i32()?);
        let end = Offset::checked(partition.i64()?);
        let known = epoch.zip(end).map(|(epoch, end)| EpochEnd { epoch, end });
        Ok((index, code, known))
    })
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

//! Transactions that are open in a partition: where its last stable offset is (ListOffsets for a reader of committed
//! records), and which producer's transaction begins there (DescribeProducers, Kafka 2.8).

use std::time::Instant;

use kafka_protocol::messages::ApiKey;
use kafka_protocol::messages::describe_producers_request::{
    DescribeProducersRequest, TopicRequest,
};

use super::client::Wire;
use super::connect::Cause;
use super::leaders;
use super::metadata::name;
use super::reader::{Read, Reader};
use super::session::{Request, broken};
use super::times::END;
use crate::config::Isolation;
use crate::kafka::{OpenTransaction, PerPartition, TransactionProducer};
use crate::model::error::Result;
use crate::model::offset::{Offset, Partition};

/// The largest answer, in bytes: some 100,000 producers fit.
const ANSWER_BYTES: usize = 16 << 20;

/// A producer that has written to the partition, and the first offset of its open transaction.
pub(super) type Producer = (TransactionProducer, Offset);

/// The producers with an open transaction.
pub(super) type Answer = leaders::Answer<Vec<Producer>>;

impl Wire {
    /// For each of `partitions` the transaction that begins at its last stable offset; `None` if no transaction is
    /// open. The producer is not known with brokers before Kafka 2.8, or without the permission to read the topic.
    ///
    /// # Errors
    /// As `watermarks`.
    pub fn open_transactions(
        &self,
        topic: &str,
        partitions: &[Partition],
    ) -> Result<PerPartition<Option<OpenTransaction>>> {
        let doing = format!("ask for open transactions in topic {topic}");
        // The end first: a transaction that ends meanwhile must not look open.
        let [ends] = self.places(topic, partitions, [END], Isolation::ReadUncommitted, &doing)?;
        let [stable] = self.places(topic, partitions, [END], Isolation::ReadCommitted, &doing)?;
        let end_of = |partition| ends.get(&partition).and_then(|end| end.as_ref().ok().copied()?);
        let first_open = |(partition, first): (Partition, Result<Option<Offset>>)| {
            let is_below_the_end =
                |first: &Offset| end_of(partition).is_some_and(|end| *first < end);
            (partition, first.map(|first| first.filter(is_below_the_end)))
        };
        let firsts: PerPartition<Option<Offset>> = stable.into_iter().map(first_open).collect();
        let is_open =
            |(_, first): &(&Partition, &Result<Option<Offset>>)| matches!(first, Ok(Some(_)));
        let open: Vec<Partition> = firsts.iter().filter(is_open).map(|(one, _)| *one).collect();
        let mut producers = self.producers(topic, &open, &doing).unwrap_or_default();
        let mut transaction = |partition, first| {
            let all = producers.remove(&partition).and_then(Result::ok).unwrap_or_default();
            let mine = all.into_iter().find(|(_, begin)| *begin == first);
            OpenTransaction { first, producer: mine.map(|(producer, _)| producer) }
        };
        let found = |(partition, first): (Partition, Result<Option<Offset>>)| {
            (partition, first.map(|first| first.map(|first| transaction(partition, first))))
        };
        Ok(firsts.into_iter().map(found).collect())
    }

    fn producers(
        &self,
        topic: &str,
        partitions: &[Partition],
        doing: &str,
    ) -> Result<PerPartition<Vec<Producer>>> {
        let [producers] =
            self.ask_leaders(topic, partitions, doing, |_, address, requested, deadline| {
                self.ask_producers(address, topic, requested, deadline)
            })?;
        Ok(producers)
    }

    fn ask_producers(
        &self,
        address: &str,
        topic: &str,
        partitions: &[Partition],
        deadline: Instant,
    ) -> Result<Answer, Cause> {
        let wanted = TopicRequest::default()
            .with_name(name(topic))
            .with_partition_indexes(partitions.to_vec());
        let body = DescribeProducersRequest::default().with_topics(vec![wanted]);
        self.on(address, deadline, |session| {
            let Ok(version) = session.version(ApiKey::DescribeProducers, (0, 0)) else {
                return Ok(partitions
                    .iter()
                    .map(|partition| (*partition, 0, Vec::new()))
                    .collect());
            };
            let request = Request { api: ApiKey::DescribeProducers, version, body: &body };
            let answer = session.exchange(&request, ANSWER_BYTES, deadline)?;
            read_producers(&answer).map_err(broken)
        })
    }
}

/// Reads an answer to DescribeProducers, version 0.
pub(super) fn read_producers(answer: &[u8]) -> Read<Answer> {
    let mut reader = Reader::new(answer, true);
    reader.tags()?;
    let _throttle_ms = reader.i32()?;
    let topics = reader.array(|topic| {
        let _name = topic.string()?;
        let partitions = topic.array(|partition| {
            let index = partition.i32()?;
            let code = partition.i16()?;
            let _message = partition.string()?;
            let producers = partition.array(producer)?;
            partition.tags()?;
            Ok((index, code, producers.into_iter().flatten().collect()))
        })?;
        topic.tags()?;
        Ok(partitions)
    })?;
    Ok(topics.into_iter().flatten().collect())
}

/// `None` if the producer has no open transaction.
fn producer(reader: &mut Reader<'_>) -> Read<Option<Producer>> {
    let id = reader.i64()?;
    let _epoch = reader.i32()?;
    let _last_sequence = reader.i32()?;
    let written_ms = reader.i64()?;
    let _coordinator_epoch = reader.i32()?;
    let first = Offset::checked(reader.i64()?);
    reader.tags()?;
    let written_ms = Some(written_ms).filter(|ms| *ms >= 0);
    Ok(first.map(|first| (TransactionProducer { id, written_ms }, first)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Topic `t`, partition 3: no error and no message, and two producers, of which the second has a transaction.
    fn answer() -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(0_i32.to_be_bytes());
        bytes.extend([2, 2, b't', 2]);
        bytes.extend(3_i32.to_be_bytes());
        bytes.extend([0, 0, 0, 3]);
        for (id, first) in [(7_i64, -1_i64), (8, 57)] {
            bytes.extend(id.to_be_bytes());
            bytes.extend([0; 8]);
            bytes.extend(1000_i64.to_be_bytes());
            bytes.extend([0; 4]);
            bytes.extend(first.to_be_bytes());
            bytes.push(0);
        }
        bytes.extend([0, 0, 0]);
        bytes
    }

    #[test]
    fn producers_without_a_transaction_are_left_out() {
        let producer = TransactionProducer { id: 8, written_ms: Some(1000) };
        assert_eq!(read_producers(&answer()), Ok(vec![(3, 0, vec![(producer, Offset::new(57))])]));
    }

    #[test]
    fn a_cut_answer_is_broken() {
        let whole = answer();
        // The tags of the answer itself are not read.
        for cut in 0..whole.len() - 1 {
            assert!(read_producers(&whole[..cut]).is_err(), "cut at {cut}");
        }
    }
}

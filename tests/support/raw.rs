//! librdkafka used directly: to write what mb's own producer does not (a chosen codec, transactions,
//! large messages, tombstones), and to see for oneself what a topic holds and a group committed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedHeaders, BorrowedMessage, Header, Headers as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use super::files::FileRecord;

const LIMIT: Duration = Duration::from_secs(30);

/// A producer that hands over in large batches, so that a codec has something to do.
pub fn producer(bootstrap: &str, settings: &[(&str, &str)]) -> BaseProducer {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        .set("linger.ms", "50")
        .set("enable.idempotence", "true")
        .set("message.max.bytes", "50000000");
    for (key, value) in settings {
        config.set(*key, *value);
    }
    config.create().expect("a producer")
}

/// Queues the values for the partition, without keys.
pub fn send(producer: &BaseProducer, topic: &str, partition: i32, values: &[Vec<u8>]) {
    for value in values {
        let record = BaseRecord::<(), [u8]>::to(topic).partition(partition).payload(&value[..]);
        producer.send(record).map_err(|(error, _)| error).expect("room in the producer's queue");
    }
}

/// Writes one value many times, as fast as it goes.
pub fn produce_many(bootstrap: &str, topic: &str, partition: i32, value: &[u8], count: usize) {
    let producer = producer(bootstrap, &[("acks", "1"), ("enable.idempotence", "false")]);
    for _ in 0..count {
        let mut record = BaseRecord::<(), [u8]>::to(topic).partition(partition).payload(value);
        while let Err((error, again)) = producer.send(record) {
            assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull), "{error}");
            producer.poll(Duration::from_millis(10));
            record = again;
        }
    }
    producer.flush(LIMIT).expect("the broker acknowledges");
}

/// A key and a value, each of which may be missing.
pub type Pair = (Option<Vec<u8>>, Option<Vec<u8>>);

/// Writes keys and values and returns when they are acknowledged.
pub fn produce_pairs(bootstrap: &str, codec: &str, topic: &str, partition: i32, pairs: &[Pair]) {
    let producer = producer(bootstrap, &[("compression.type", codec)]);
    for (key, value) in pairs {
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition(partition);
        record.key = key.as_deref();
        record.payload = value.as_deref();
        producer.send(record).map_err(|(error, _)| error).expect("room in the producer's queue");
    }
    producer.flush(LIMIT).expect("the broker acknowledges");
}

/// Writes the values and returns when they are acknowledged.
pub fn produce(bootstrap: &str, codec: &str, topic: &str, partition: i32, values: &[Vec<u8>]) {
    let producer = producer(bootstrap, &[("compression.type", codec)]);
    send(&producer, topic, partition, values);
    producer.flush(LIMIT).expect("the broker acknowledges");
}

/// Writes the values in one transaction, which is committed or aborted. Returns once its marker is in the log: the
/// coordinator answers before that.
pub fn transaction(bootstrap: &str, topic: &str, partition: i32, values: &[Vec<u8>], commit: bool) {
    let id = super::unique("transaction");
    let producer = producer(bootstrap, &[("transactional.id", &id)]);
    producer.init_transactions(LIMIT).expect("a transactional producer");
    producer.begin_transaction().expect("a transaction");
    send(&producer, topic, partition, values);
    producer.flush(LIMIT).expect("the broker acknowledges");
    if commit {
        producer.commit_transaction(LIMIT).expect("the transaction is committed");
    } else {
        producer.abort_transaction(LIMIT).expect("the transaction is aborted");
    }
    let end = |isolation| {
        let mut config = consumer_config(bootstrap, &super::unique("asker"));
        let asker: BaseConsumer =
            config.set("isolation.level", isolation).create().expect("a consumer");
        asker.fetch_watermarks(topic, partition, LIMIT).expect("a partition's watermarks").1
    };
    // Until then the stable end lies in front of the transaction.
    let written = end("read_uncommitted");
    super::eventually(LIMIT, "the marker is written", || end("read_committed") >= written);
}

/// The whole of a topic as librdkafka reads it, in the order of partition and offset.
pub fn read_all(bootstrap: &str, topic: &str) -> Vec<FileRecord> {
    let consumer = consumer(bootstrap, &super::unique("reader"));
    let mut assignment = TopicPartitionList::new();
    let mut open = 0;
    for (partition, (beginning, end)) in watermarks(bootstrap, topic) {
        if beginning < end {
            open += 1;
            assignment.add_partition_offset(topic, partition, Offset::Offset(beginning)).unwrap();
        }
    }
    consumer.assign(&assignment).expect("an assignment");
    let deadline = Instant::now() + 2 * LIMIT;
    let mut records = Vec::new();
    while open > 0 {
        assert!(Instant::now() < deadline, "topic {topic} is not read within {:?}", 2 * LIMIT);
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => records.push(FileRecord {
                partition: message.partition(),
                offset: message.offset(),
                key: message.key().map(<[u8]>::to_vec),
                value: message.payload().map(<[u8]>::to_vec),
                headers: headers(&message),
            }),
            Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
            Some(Err(error)) => panic!("topic {topic}: {error}"),
            None => {}
        }
    }
    records.sort();
    records
}

fn headers(message: &BorrowedMessage<'_>) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let headers = message.headers().into_iter().flat_map(BorrowedHeaders::iter);
    let owned = |header: Header<'_, &[u8]>| {
        (header.key.as_bytes().to_vec(), header.value.map(<[u8]>::to_vec))
    };
    headers.map(owned).collect()
}

/// Names and values of a record's headers, in their order.
pub type Headers = Vec<(String, Option<Vec<u8>>)>;

/// The headers of each record that a topic of one partition holds now, in the order of offsets.
pub fn read_headers(bootstrap: &str, topic: &str) -> Vec<Headers> {
    let text = |(name, value)| (String::from_utf8(name).expect("a name in UTF-8"), value);
    let records = read_all(bootstrap, topic).into_iter();
    records.map(|record| record.headers.into_iter().map(text).collect()).collect()
}

/// Beginning and end of each of the topic's partitions.
pub fn watermarks(bootstrap: &str, topic: &str) -> BTreeMap<i32, (i64, i64)> {
    let consumer = consumer(bootstrap, &super::unique("asker"));
    let metadata = consumer.fetch_metadata(Some(topic), LIMIT).expect("metadata");
    let partitions = metadata.topics()[0].partitions().iter().map(|partition| partition.id());
    let marks = |partition| {
        consumer.fetch_watermarks(topic, partition, LIMIT).expect("a partition's watermarks")
    };
    partitions.map(|partition| (partition, marks(partition))).collect()
}

/// What the group has committed in each of the topic's partitions; 0 where it has nothing. A broker
/// that has just started may not know its groups yet, and is asked again.
pub fn committed(bootstrap: &str, group: &str, topic: &str) -> BTreeMap<i32, i64> {
    let consumer = consumer(bootstrap, group);
    let metadata = consumer.fetch_metadata(Some(topic), LIMIT).expect("metadata");
    let mut asked = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        asked.add_partition(topic, partition.id());
    }
    let answer =
        super::eventually_some(LIMIT, "the group's coordinator answers", || {
            match consumer.committed_offsets(asked.clone(), LIMIT) {
                Err(KafkaError::MetadataFetch(
                    RDKafkaErrorCode::NotCoordinator
                    | RDKafkaErrorCode::CoordinatorNotAvailable
                    | RDKafkaErrorCode::CoordinatorLoadInProgress,
                )) => None,
                answer => Some(answer.expect("the committed offsets")),
            }
        });
    let offset = |offset| match offset {
        Offset::Offset(offset) => offset,
        Offset::Invalid => 0,
        other => panic!("committed {other:?}"),
    };
    answer.elements().iter().map(|at| (at.partition(), offset(at.offset()))).collect()
}

fn consumer(bootstrap: &str, group: &str) -> BaseConsumer {
    consumer_config(bootstrap, group).create().expect("a consumer")
}

fn consumer_config(bootstrap: &str, group: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        .set("fetch.queue.backoff.ms", "1")
        .set("check.crcs", "true");
    config
}

//! librdkafka used directly, for what mb's own producer does not do: a chosen codec, transactions,
//! large messages.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

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

/// Writes the values and returns when they are acknowledged.
pub fn produce(bootstrap: &str, codec: &str, topic: &str, partition: i32, values: &[Vec<u8>]) {
    let producer = producer(bootstrap, &[("compression.type", codec)]);
    send(&producer, topic, partition, values);
    producer.flush(LIMIT).expect("the broker acknowledges");
}

/// Writes the values in one transaction, which is committed or aborted.
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
}

//! librdkafka's settings and the reasons for them: connections, fetching, producing. (Defaults and ranges are in
//! librdkafka's CONFIGURATION.md.)

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

use crate::config::Isolation;
use crate::config::limits;
use crate::kafka::FetchSettings;

/// The broker answers after this time if it has less than `fetch.min.bytes`. It is short, because a partition
/// that becomes ready to be fetched waits for the answer that is under way.
const FETCH_WAIT: Duration = Duration::from_millis(100);
/// How much larger than its largest record a compressed or large batch may be.
const RESPONSE_SLACK_BYTES: usize = 64 << 20;
/// librdkafka's upper bound for `receive.message.max.bytes`.
const RESPONSE_BYTES_MAX: usize = i32::MAX as usize;

/// Reads records of this many partitions, from explicit offsets, without a group.
pub(super) fn consumer(
    servers: &str,
    partitions: usize,
    fetch: &FetchSettings,
    isolation: Isolation,
) -> ClientConfig {
    let response_bytes = fetch
        .max_record_bytes
        .saturating_add(limits::RDKAFKA_FETCH_BYTES + RESPONSE_SLACK_BYTES)
        .min(RESPONSE_BYTES_MAX);
    // fetch.min.bytes must not exceed what the broker may send, in total and per partition, or each fetch
    // would wait for its whole time limit.
    let min_bytes = fetch.min_bytes.clamp(1, limits::RDKAFKA_FETCH_BYTES);
    let usual = limits::rdkafka_fetch_bytes(partitions);
    let partition_bytes = fetch.turn_bytes.map_or(usual, |turn| turn.min(usual)).max(min_bytes);
    let mut config = common(servers);
    config
        // Only mb decides where to start.
        .set("auto.offset.reset", "error")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("isolation.level", isolation.name())
        // Shows how far a partition was read when no record does, for example behind transaction markers.
        .set("enable.partition.eof", "true")
        .set("check.crcs", "true")
        // Fetching stops at either limit: bytes of keys and values, or the number of records.
        .set("queued.max.messages.kbytes", limits::RDKAFKA_QUEUE_KIB.to_string())
        .set("queued.min.messages", limits::RDKAFKA_QUEUE_RECORDS.to_string())
        // A full queue stops the fetching for this long; the default of 1000 ms would leave workers idle.
        .set("fetch.queue.backoff.ms", "1")
        .set("fetch.error.backoff.ms", "50")
        .set("fetch.wait.max.ms", FETCH_WAIT.as_millis().to_string())
        .set("fetch.min.bytes", min_bytes.to_string())
        .set("fetch.message.max.bytes", partition_bytes.to_string())
        .set("fetch.max.bytes", limits::RDKAFKA_FETCH_BYTES.to_string())
        .set("receive.message.max.bytes", response_bytes.to_string());
    config
}

/// Writes records.
pub(super) fn producer(servers: &str) -> ClientConfig {
    let mut config = common(servers);
    config
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("linger.ms", "5")
        .set("queue.buffering.max.kbytes", limits::PRODUCER_QUEUE_KIB.to_string())
        // The topic's own limit decides; only a message that does not fit the buffer is refused at once.
        .set("message.max.bytes", (limits::PRODUCER_QUEUE_KIB * 1024).to_string())
        // A lost broker is waited for without a limit.
        .set("message.timeout.ms", "0")
        // After this time the connection to a frozen broker is closed and the messages are sent again.
        .set("request.timeout.ms", "10000")
        .set("topic.metadata.propagation.max.ms", "5000");
    config
}

/// What consumers and producers share: how to connect, and when to give up.
pub(super) fn common(servers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", servers)
        .set("client.id", "mb")
        .set("allow.auto.create.topics", "false")
        .set("enable.metrics.push", "false")
        .set("statistics.interval.ms", "0")
        .set("log.connection.close", "false")
        .set("socket.timeout.ms", limits::BROKER_CALL_LIMIT.as_millis().to_string())
        .set("socket.connection.setup.timeout.ms", "5000")
        .set("socket.keepalive.enable", "true")
        .set("reconnect.backoff.ms", "20")
        .set("reconnect.backoff.max.ms", "1000")
        .set("retry.backoff.ms", "50")
        .set("topic.metadata.refresh.fast.interval.ms", "20")
        // An unknown topic is reported after this time. It may be short, because `wire` has looked the topic up
        // before anything reads it.
        .set("topic.metadata.propagation.max.ms", "1000")
        // Lines go to mb's log at debug level; `context` takes errors from some of them.
        .set_log_level(RDKafkaLogLevel::Info);
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fetch_may_bring_as_much_as_the_broker_is_to_collect() {
        for min_bytes in [0, 1, 300_000, 1 << 20, 64 << 20] {
            for partitions in [0, 1, 2, 3, 4, 1000] {
                for turn_bytes in [None, Some(1), Some(usize::MAX)] {
                    let fetch = FetchSettings {
                        min_bytes,
                        max_record_bytes: usize::MAX,
                        isolation: None,
                        turn_bytes,
                    };
                    let config =
                        consumer("localhost:1", partitions, &fetch, Isolation::ReadCommitted);
                    let bytes = |name| config.get(name).unwrap().parse::<usize>().unwrap();
                    let gathered = bytes("fetch.min.bytes");
                    assert!(gathered >= 1 && gathered <= bytes("fetch.message.max.bytes"));
                    assert!(bytes("fetch.message.max.bytes") <= bytes("fetch.max.bytes"));
                }
            }
        }
    }
}

//! What the bench's programs share: the clients' settings, made to be mb's own, the clock that goes
//! through all processes of a machine, and values that do not compress.

pub mod queue;

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rustix::time::{ClockId, clock_gettime};

/// mb's own allocator, for all of them: it makes the bare loops faster too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Who waits for so long for a record gives up.
pub const LONGEST: Duration = Duration::from_secs(10);

/// Partitions of the topics, where a workload is not about their number.
pub const PARTITIONS: i32 = 4;

/// A bare consumer, with the settings of mb's (src/kafka/librdkafka/settings.rs) where they matter
/// for its speed. The one difference is the events at a partition's end, which mb needs and which
/// cost a bare loop time for nothing.
///
/// # Errors
/// Where librdkafka refuses them.
pub fn consumer(servers: &str, group: &str) -> Result<BaseConsumer> {
    let consumer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", group)
        .set("client.id", "bare")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("isolation.level", "read_committed")
        .set("check.crcs", "true")
        .set("queued.max.messages.kbytes", mb::config::limits::RDKAFKA_QUEUE_KIB.to_string())
        .set("queued.min.messages", mb::config::limits::RDKAFKA_QUEUE_RECORDS.to_string())
        .set("fetch.queue.backoff.ms", "1")
        .set("fetch.error.backoff.ms", "50")
        .set("fetch.wait.max.ms", "100")
        .set(
            "fetch.message.max.bytes",
            mb::config::limits::rdkafka_fetch_bytes(PARTITIONS as usize).to_string(),
        )
        .set("fetch.max.bytes", mb::config::limits::RDKAFKA_FETCH_BYTES.to_string())
        .set("enable.metrics.push", "false")
        .create()?;
    Ok(consumer)
}

/// A bare producer with mb's settings, but for the time that a message waits for company.
pub fn producer(servers: &str, linger_ms: u32) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", servers)
        .set("client.id", "bare")
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("linger.ms", linger_ms.to_string())
        .set("queue.buffering.max.kbytes", mb::config::limits::PRODUCER_QUEUE_KIB.to_string())
        .set("message.max.bytes", (mb::config::limits::PRODUCER_QUEUE_KIB * 1024).to_string())
        .set("enable.metrics.push", "false");
    config
}

/// The topic's partitions.
///
/// # Errors
/// Where the broker does not answer or has no such topic.
pub fn partitions(consumer: &BaseConsumer, topic: &str) -> Result<Vec<i32>> {
    let metadata = consumer.fetch_metadata(Some(topic), LONGEST)?;
    let known = metadata.topics().first().ok_or("the broker has no such topic")?;
    let partitions: Vec<_> = known.partitions().iter().map(|partition| partition.id()).collect();
    if partitions.is_empty() {
        return Err(format!("topic {topic} has no partitions").into());
    }
    Ok(partitions)
}

/// Nanoseconds of a clock that is the same in all processes.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-";

/// Splitmix64: bytes that do not compress, the same in each run.
pub struct Noise(pub u64);

impl Noise {
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Text of 64 characters, which all steps can write as it is: 6 bits of noise a byte.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let noise = self.draw().to_le_bytes();
            for (byte, noise) in chunk.iter_mut().zip(noise) {
                *byte = ALPHABET[usize::from(noise % 64)];
            }
        }
    }
}

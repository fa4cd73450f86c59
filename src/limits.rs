//! Every fixed limit of mb in one place, with its unit in its name. What a user can set is in
//! `config`; these hold it up.

use std::time::Duration;

/// One call to the broker (metadata, offsets, a commit) must have its answer by then.
pub const BROKER_CALL_LIMIT: Duration = Duration::from_secs(10);
/// The first contact with the broker; past it mb exits 1, unless `--wait-for-broker`.
pub const FIRST_CONTACT_LIMIT: Duration = Duration::from_secs(10);
/// Connecting, and each read or write of the ApiVersions probe.
pub const PROBE_LIMIT: Duration = Duration::from_secs(3);
/// Whether Kafka is on localhost:9092 when no server was named: a local port answers at once.
pub const LOCAL_PROBE_LIMIT: Duration = Duration::from_secs(1);
/// Closing a consumer; past it the client is left to itself on its own thread.
pub const CONSUMER_CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// How long a consumer may have lost every broker before that is an error: librdkafka reconnects by
/// itself, and a short break is none.
pub const BROKER_DOWN_LIMIT: Duration = Duration::from_secs(1);

/// The wait after a tick's first error, doubled with each further one up to the maximum.
pub const SENSOR_BACKOFF_MIN: Duration = Duration::from_millis(100);
pub const SENSOR_BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Offsets are committed this often while runs finish; the promise is once a second.
pub const COMMIT_INTERVAL: Duration = Duration::from_millis(500);
/// The last commit at the stop.
pub const FINAL_COMMIT_LIMIT: Duration = Duration::from_secs(5);

/// Writes that one history transaction takes at most.
pub const HISTORY_GROUP_WRITES: usize = 4096;
/// Writes that wait for the history thread.
pub const HISTORY_QUEUE_WRITES: usize = 8192;
/// How long the history waits before it tries again what could not be written.
pub const HISTORY_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Output of a command that is kept, each of stdout and stderr: the first half and the last.
pub const CAPTURE_BYTES: usize = 64 * 1024;
/// From SIGTERM to SIGKILL for a command past its time limit.
pub const KILL_GRACE: Duration = Duration::from_secs(2);

/// Records that one poll of the client hands over at most.
pub const POLL_RECORDS: usize = 4096;
/// librdkafka's `queued.max.messages.kbytes` of one consumer.
pub const RDKAFKA_QUEUE_KIB: usize = 32 * 1024;
/// The producer's buffer in librdkafka.
pub const PRODUCER_QUEUE_KIB: usize = 16 * 1024;

/// One chunk of the embedded topic (a row of its file) closes at this many bytes or records; a
/// larger record is a chunk of its own.
pub const EMBEDDED_CHUNK_BYTES: usize = 256 * 1024;
pub const EMBEDDED_CHUNK_RECORDS: usize = 1024;
/// What a producer for the embedded topic holds before it writes; a larger record goes alone.
pub const EMBEDDED_OUTBOX_BYTES: usize = 1024 * 1024;
/// The largest record of the embedded topic.
pub const EMBEDDED_RECORD_BYTES: usize = 64 * 1024 * 1024;
/// A message waits at most this long for others that share its write.
pub const EMBEDDED_LINGER: Duration = Duration::from_millis(5);
/// How long a failed write (disk full) rests before it is tried again.
pub const EMBEDDED_RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// SQLite's wait for a lock of the embedded topic's file.
pub const EMBEDDED_BUSY_LIMIT: Duration = Duration::from_secs(5);
/// Bytes that crate kafka fetches of all partitions together, and of one, before a larger stored
/// batch makes a fetch of its own.
pub const PURE_FETCH_BYTES: usize = 8 * 1024 * 1024;
pub const PURE_PARTITION_FETCH_BYTES: usize = 1024 * 1024;
/// Bytes of messages that crate kafka sends in one request: together they must fit a broker's
/// `message.max.bytes` (1 MiB by default), because the broker makes one batch of them.
pub const PURE_CHUNK_BYTES: usize = 512 * 1024;
/// How long a message waits for company before crate kafka sends it.
pub const PURE_LINGER: Duration = Duration::from_millis(5);
/// How long messages for a topic that is gone are kept and tried, before they count as failed.
pub const PURE_UNKNOWN_LIMIT: Duration = Duration::from_secs(30);

/// Kafka's own bound on topic names.
pub const TOPIC_NAME_CHARS: usize = 249;

/// A run's memory beyond its records: its key, its place in the queue, its bookkeeping.
pub const RUN_OVERHEAD_BYTES: usize = 512;

const _: () = assert!(COMMIT_INTERVAL.as_millis() < 1000, "commits happen at least once a second");
const _: () = assert!(HISTORY_GROUP_WRITES <= HISTORY_QUEUE_WRITES);
const _: () = assert!(EMBEDDED_CHUNK_RECORDS <= POLL_RECORDS, "a poll hands over whole chunks");
const _: () = assert!(EMBEDDED_CHUNK_BYTES <= EMBEDDED_OUTBOX_BYTES);
const _: () = assert!(EMBEDDED_BUSY_LIMIT.as_millis() < BROKER_CALL_LIMIT.as_millis());
const _: () = assert!(PROBE_LIMIT.as_millis() < FIRST_CONTACT_LIMIT.as_millis());

//! The settings of a pipeline, checked: what the command line or a Rust user's builder made of
//! them. Flag syntax lives in `cli`; the rules of what fits together live here.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::limits;
use crate::model::error::{Error, Result};

/// Which client speaks to the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Client {
    /// rdkafka where it is built in, else crate kafka; the embedded topic where there is no Kafka.
    #[default]
    Auto,
    Rdkafka,
    Kafka,
    Embedded,
}

/// Where the topic is and where mb keeps its own files.
#[derive(Clone, Debug)]
pub struct Connection {
    /// `HOST:PORT[,HOST:PORT…]`; `None`: localhost:9092 if it answers, else the embedded topic
    /// where that makes sense.
    pub bootstrap_server: Option<String>,
    pub topic: String,
    pub group: String,
    pub client: Client,
    pub data_dir: PathBuf,
    /// Partitions of topics that mb creates.
    pub partitions: u32,
    /// Bytes of records that the embedded topic keeps; unread ones are never removed.
    pub embedded_retention_bytes: u64,
}

impl Default for Connection {
    fn default() -> Connection {
        Connection {
            bootstrap_server: None,
            topic: "First_Topic".to_owned(),
            group: "mb".to_owned(),
            client: Client::Auto,
            data_dir: PathBuf::from("mb-data"),
            partitions: 4,
            embedded_retention_bytes: 256 << 20,
        }
    }
}

/// Where a group without offsets starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartFrom {
    #[default]
    Earliest,
    Latest,
    /// Only where offsets were committed; else an error.
    Committed,
}

/// What happens where offsets that should be read are not in the log: removed by retention before
/// they were read, or beyond the end of a log that was made again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnMissingOffsets {
    /// mb stops with exit 65.
    #[default]
    Halt,
    /// They are passed over, counted and recorded; a log that was made again is read from its
    /// beginning.
    Skip,
}

/// Which records of transactions are read (Kafka's `isolation.level`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Those of committed ones. Reading waits for an open transaction to end.
    ReadCommitted,
    /// All, those of aborted transactions too.
    ReadUncommitted,
}

impl Isolation {
    /// Kafka's name for it, and `--isolation`'s.
    pub fn name(self) -> &'static str {
        match self {
            Isolation::ReadCommitted => "read_committed",
            Isolation::ReadUncommitted => "read_uncommitted",
        }
    }
}

/// What becomes of a run whose last attempt failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// Its records are kept as dead letters and the offsets go on.
    #[default]
    DeadLetter,
    /// mb stops with exit 65 and nothing is committed past the run.
    Halt,
}

/// Where dead letters are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DeadLetterTo {
    /// In the history, from which they can be redriven.
    #[default]
    Store,
    /// On this topic, and not in the history.
    Topic(String),
    /// On a topic and in the history; without a name it is the topic's, and `-dead-letters`.
    Both(Option<String>),
}

/// Which runs wait for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// None does.
    #[default]
    None,
    /// A partition's runs start in offset order, one at a time.
    Partition,
    /// Records of one key are processed in offset order, one run at a time: batches are split
    /// into lanes by key.
    Key,
}

/// The producer that `--rate` starts, and `mb produce`.
#[derive(Clone, Debug)]
pub struct Produce {
    /// Messages per second; 0 is as fast as it goes.
    pub rate: f64,
    /// Messages in all; `None` goes on until the stop.
    pub count: Option<u64>,
    /// Bytes of a message's value at least.
    pub message_bytes: usize,
    /// Keys to choose from, the partition following the key; 0 sends without keys, round-robin.
    pub keys: u64,
}

impl Default for Produce {
    fn default() -> Produce {
        Produce { rate: 1000.0, count: None, message_bytes: 100, keys: 0 }
    }
}

/// A pipeline's settings; `Default` is the command line's.
#[derive(Clone, Debug)]
pub struct Config {
    pub connection: Connection,
    pub produce: Option<Produce>,

    /// Records of a batch at most.
    pub max_batch: usize,
    /// Bytes (keys and values) of a batch at most; a larger record is a batch of its own.
    pub max_batch_bytes: usize,
    /// How long a batch may take to fill.
    pub max_wait: Duration,
    pub tick_runtime: Duration,
    pub tick_interval: Duration,
    pub fetch_min_bytes: usize,
    /// `None`: read_committed where the client can.
    pub isolation: Option<Isolation>,
    /// Sensor threads; partitions are split among them.
    pub sensors: usize,
    pub from: StartFrom,
    pub on_missing_offsets: OnMissingOffsets,

    /// Runs that the run queue holds.
    pub queue: usize,
    /// Bytes of batches being filled, queued and running, together.
    pub queue_bytes: usize,
    /// Worker threads: the concurrent-run limit.
    pub max_concurrent_runs: usize,
    pub order: Order,
    /// With `Order::Key`: the lanes that a partition's keys are split into; `None` takes
    /// `max_concurrent_runs`, up to `limits::LANES_MAX`.
    pub lanes: Option<u32>,

    pub max_attempts: u32,
    /// The pause before the second attempt; doubled for each further one, with jitter.
    pub retry_backoff: Duration,
    pub on_failure: OnFailure,
    pub dead_letter: DeadLetterTo,
    /// A batch whose last attempt failed is halved, and its halves get attempts of their own, until
    /// the bad records stand alone.
    pub bisect: bool,
    /// Time limit of one attempt; `None` has none.
    pub step_timeout: Option<Duration>,

    /// Runs that the history keeps.
    pub history_keep: u64,
    /// What running runs get to finish in at the stop.
    pub drain_timeout: Duration,
    /// Retry the first contact with the broker for as long as it takes.
    pub wait_for_broker: bool,
    /// End, with exit 0, when all that was in the topic at the start (and all that this
    /// process' own producer posted) is done.
    pub until_caught_up: bool,

    /// A partition with lag and no progress for so long is stalled.
    pub stall_after: Duration,
    /// The age that the oldest unprocessed record may have.
    pub freshness: Option<Duration>,
    /// Where page, API, metrics and health are; `None` for none, which is a library user's default.
    pub web: Option<Web>,
}

/// The HTTP server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Web {
    /// A name or an address, IPv6 without its brackets.
    pub host: String,
    /// 0 is any free one.
    pub port: u16,
    /// What page and API ask for; needed beyond loopback.
    pub token_file: Option<PathBuf>,
    /// They change nothing.
    pub read_only: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            connection: Connection::default(),
            produce: None,
            max_batch: 50,
            max_batch_bytes: 1 << 20,
            max_wait: Duration::from_millis(100),
            tick_runtime: Duration::from_secs(10),
            tick_interval: Duration::from_secs(1),
            fetch_min_bytes: 1,
            isolation: None,
            sensors: 1,
            from: StartFrom::Earliest,
            on_missing_offsets: OnMissingOffsets::Halt,
            queue: 100,
            queue_bytes: 32 << 20,
            max_concurrent_runs: 5,
            order: Order::None,
            lanes: None,
            max_attempts: 3,
            retry_backoff: Duration::from_secs(1),
            on_failure: OnFailure::DeadLetter,
            dead_letter: DeadLetterTo::Store,
            bisect: false,
            step_timeout: None,
            history_keep: 100_000,
            drain_timeout: Duration::from_secs(25),
            wait_for_broker: false,
            until_caught_up: false,
            stall_after: Duration::from_secs(60),
            freshness: None,
            web: None,
        }
    }
}

impl Config {
    /// Checks what single values cannot show.
    ///
    /// # Errors
    /// `Config`, with both settings named where two do not fit together.
    pub fn check(&self) -> Result<()> {
        self.connection.check()?;
        if let Some(name) = self.dead_letter_topic() {
            check_topic("--dead-letter", &name)?;
            if name == self.connection.topic {
                return Err(Error::Config(format!(
                    "--dead-letter: got topic {name}, which is --topic too, expected another one: mb \
                     would read its own dead letters"
                )));
            }
        }
        let overhead = self.batch_overhead_bytes()
            + if self.bisect { self.max_batch * self.record_overhead_bytes() } else { 0 };
        if self.queue_bytes < self.max_batch_bytes + overhead {
            return Err(Error::Config(format!(
                "--queue-bytes: got {}, expected at least --max-batch-bytes ({}) and {overhead} more \
                 for the bookkeeping of a batch's runs: a larger --queue-bytes or a smaller \
                 --max-batch-bytes{}",
                self.queue_bytes,
                self.max_batch_bytes,
                if self.bisect {
                    " (or --max-batch: with --bisect each record may be a run)"
                } else {
                    ""
                }
            )));
        }
        if self.until_caught_up
            && self.produce.as_ref().is_some_and(|produce| produce.count.is_none())
        {
            return Err(Error::Config(
                "--until-caught-up: got it with --rate and no --count, expected --count N too: the end \
                 that it waits for would never come"
                    .into(),
            ));
        }
        if let Some(lanes) = self.lanes.filter(|_| self.order != Order::Key) {
            return Err(Error::Config(format!(
                "--lanes: got {lanes} without --order key, expected both or neither"
            )));
        }
        if self.tick_runtime.is_zero() {
            return Err(Error::Config(
                "--tick-runtime: got 0, expected more than 0: a tick must have time to read".into(),
            ));
        }
        Ok(())
    }
}

impl Config {
    /// The topic that dead letters go to.
    pub fn dead_letter_topic(&self) -> Option<String> {
        match &self.dead_letter {
            DeadLetterTo::Store => None,
            DeadLetterTo::Topic(name) | DeadLetterTo::Both(Some(name)) => Some(name.clone()),
            DeadLetterTo::Both(None) => Some(format!("{}-dead-letters", self.connection.topic)),
        }
    }

    /// Into how many runs a fresh batch is split, by key.
    pub fn lane_count(&self) -> u32 {
        let workers = u32::try_from(self.max_concurrent_runs).unwrap_or(u32::MAX);
        match self.order {
            Order::Key => self.lanes.unwrap_or(workers.min(limits::LANES_MAX)),
            Order::None | Order::Partition => 1,
        }
    }

    pub fn skips_missing_offsets(&self) -> bool {
        self.on_missing_offsets == OnMissingOffsets::Skip
    }

    /// Memory of a batch beyond its records, in bytes.
    pub fn batch_overhead_bytes(&self) -> usize {
        limits::RUN_OVERHEAD_BYTES * self.lane_count() as usize
    }

    /// Memory of a record beyond its bytes and its index entry.
    pub fn record_overhead_bytes(&self) -> usize {
        if self.bisect { limits::SPLIT_RECORD_BYTES } else { 0 }
    }
}

impl Connection {
    /// # Errors
    /// `Config` for a topic or group that Kafka would not take, or a malformed server list.
    pub fn check(&self) -> Result<()> {
        check_topic("--topic", &self.topic)?;
        if self.group.is_empty() {
            return Err(Error::Config(
                "--group: got an empty name, expected one character or more".into(),
            ));
        }
        if let Some(servers) = &self.bootstrap_server {
            check_servers(servers)?;
        }
        if self.client == Client::Embedded && self.bootstrap_server.is_some() {
            return Err(Error::Config(
                "--client embedded: got a --bootstrap-server too, expected one of the two: the \
                 embedded topic is in the data directory"
                    .into(),
            ));
        }
        Ok(())
    }
}

/// Kafka's rule for topic names (org.apache.kafka.common.internals.Topic): 1 to 249 characters of
/// `a-z A-Z 0-9 . _ -`, and neither `.` nor `..`.
fn check_topic(flag: &str, topic: &str) -> Result<()> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let fits = (1..=limits::TOPIC_NAME_CHARS).contains(&topic.len())
        && topic.chars().all(legal)
        && topic != "."
        && topic != "..";
    if fits {
        return Ok(());
    }
    let shown: String = topic.chars().take(60).collect();
    Err(Error::Config(format!(
        "{flag}: got {shown:?} ({} characters), expected 1 to {} of a-z A-Z 0-9 . _ - and neither \
         \".\" nor \"..\"",
        topic.chars().count(),
        limits::TOPIC_NAME_CHARS
    )))
}

fn check_servers(servers: &str) -> Result<()> {
    for server in servers.split(',') {
        let fits = server.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty()
                && !host.contains(|c: char| matches!(c, '/' | ';') || c.is_whitespace())
                && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        if !fits {
            return Err(Error::Config(format!(
                "--bootstrap-server: got {server:?}, expected HOST:PORT[,HOST:PORT…], as in \
                 localhost:9092"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_fit_together() {
        assert_eq!(Config::default().check(), Ok(()));
    }

    #[test]
    fn a_queue_smaller_than_one_batch_names_both_settings() {
        let config = Config { queue_bytes: 1 << 20, ..Config::default() };
        let text = config.check().unwrap_err().to_string();
        assert!(text.contains("--queue-bytes") && text.contains("--max-batch-bytes"), "{text}");
    }

    #[test]
    fn dead_letters_go_to_another_topic_with_a_name_that_kafka_takes() {
        let config = |dead_letter| Config { dead_letter, ..Config::default() };
        let topic = |name: &str| DeadLetterTo::Topic(name.to_owned());
        assert_eq!(config(topic("letters")).check(), Ok(()));
        let both = config(DeadLetterTo::Both(None));
        assert_eq!(both.check(), Ok(()));
        assert_eq!(both.dead_letter_topic().unwrap(), "First_Topic-dead-letters");
        let same = config(topic("First_Topic")).check().unwrap_err().to_string();
        assert!(same.contains("--dead-letter") && same.contains("--topic"), "{same}");
        let illegal = config(topic("a b")).check().unwrap_err().to_string();
        assert!(illegal.starts_with("--dead-letter: got \"a b\""), "{illegal}");
    }

    #[test]
    fn topic_names_follow_kafkas_rule() {
        for legal in ["a", "First_Topic", "a.b-c_9", &"x".repeat(249)] {
            assert_eq!(check_topic("--topic", legal), Ok(()), "{legal}");
        }
        for illegal in ["", ".", "..", "a b", "ü", "a/b", "a\0", &"x".repeat(250)] {
            assert!(check_topic("--topic", illegal).is_err(), "{illegal}");
        }
    }

    #[test]
    fn servers_are_host_and_port() {
        for good in ["localhost:9092", "a:1,b:2", "[::1]:9092"] {
            assert_eq!(check_servers(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "localhost",
            "a:0",
            "a:70000",
            "http://a:9092",
            "a:1,",
            ":9092",
            "a:1;b:1",
            "a b:1",
        ] {
            assert!(check_servers(bad).is_err(), "{bad}");
        }
    }
}

//! The settings of a pipeline, from the command line or from a Rust program's [`Builder`](crate::Builder), and
//! the rules for what fits together. How flags are written is in `cli`.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::limits;
use crate::config::public_url::PublicUrl;
use crate::config::servers::parse_servers;
use crate::model::error::{Error, Result};

/// Which client mb uses for the topic (`--client`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Client {
    /// `Rdkafka` if it is built in, otherwise `Kafka`; the embedded topic if there is no Kafka.
    #[default]
    Auto,
    /// librdkafka, through crate rdkafka.
    Rdkafka,
    /// Crate kafka: pure Rust, brokers up to 3.9.
    Kafka,
    /// A topic in the data directory, without Kafka.
    Embedded,
}

/// Where the topic is, and where mb keeps its own files.
///
/// ```
/// use mb::{Client, Config};
///
/// let mut config = Config::default();
/// assert_eq!(config.connection.topic, "First_Topic");
/// config.connection.client = Client::Embedded;
/// config.connection.bootstrap_server = Some("localhost:9092".to_owned());
/// let error = config.check().unwrap_err();
/// assert!(error.to_string().contains("--bootstrap-server"), "an embedded topic has no brokers");
/// ```
#[derive(Clone, Debug)]
pub struct Connection {
    /// `HOST:PORT[,HOST:PORT…]`; blanks, empty entries and `PLAINTEXT://` are ignored. `None`: localhost:9092 if a broker answers there, otherwise the embedded
    /// topic if mb itself produces or `client` is `Embedded`.
    pub bootstrap_server: Option<String>,
    /// Default `First_Topic`.
    pub topic: String,
    /// The consumer group whose committed offsets are used. Default `mb`.
    pub group: String,
    /// Default `Auto`.
    pub client: Client,
    /// The directory of the history, the dead letters and the embedded topic; one process at a time uses it.
    /// Default `mb-data`.
    pub data_dir: PathBuf,
    /// Partitions of a topic that mb creates. Default 4.
    pub partitions: u32,
    /// Bytes of records above which the embedded topic removes its oldest ones, but never unread ones.
    /// Default 256 MiB.
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

/// Where a partition without a committed offset starts (`--from`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartFrom {
    /// At the first record in the log.
    #[default]
    Earliest,
    /// At the log's end: only records that arrive later are read.
    Latest,
    /// Nowhere: a missing committed offset is an error.
    Committed,
}

/// What to do if records to be read are not in the log (`--on-missing-offsets`): retention removed them before
/// they were read, or the topic was deleted and created anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnMissingOffsets {
    /// mb stops with exit code 65.
    #[default]
    Halt,
    /// The missing records are skipped, counted and recorded as a gap. A topic that was created anew is read
    /// from its beginning.
    Skip,
}

/// Which records of transactions are read (`--isolation`; Kafka's `isolation.level`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Those of committed transactions. An open transaction holds up reading until it ends.
    ReadCommitted,
    /// All records, including those of aborted transactions.
    ReadUncommitted,
}

impl Isolation {
    /// The name that Kafka and `--isolation` use.
    pub fn name(self) -> &'static str {
        match self {
            Isolation::ReadCommitted => "read_committed",
            Isolation::ReadUncommitted => "read_uncommitted",
        }
    }
}

/// What to do when the last attempt of a run failed (`--on-failure`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// The run's records are kept as dead letters, and its offsets are committed.
    #[default]
    DeadLetter,
    /// mb stops with exit code 65 and commits nothing past the run.
    Halt,
}

/// What to do while the step fails for every run (`--on-outage`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnOutage {
    /// Give up on no run; try one at a time until the step works again.
    #[default]
    Hold,
    /// Give up on each run after its last attempt, whether or not the step works for others.
    DeadLetter,
    /// mb stops with exit code 65 and commits nothing past the runs that failed.
    Halt,
}

/// Where dead letters are kept (`--dead-letter`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DeadLetterTo {
    /// In the history, from which they can be redriven.
    #[default]
    Store,
    /// In this topic, and not in the history.
    Topic(String),
    /// In a topic and in the history. `None` names the topic `TOPIC-dead-letters`.
    Both(Option<String>),
}

/// In which order records are processed (`--order`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// In any order.
    #[default]
    None,
    /// The runs of a partition start in offset order, one at a time.
    Partition,
    /// Records with the same key are processed in offset order, one run at a time: batches are split into
    /// lanes by key.
    Key,
}

/// The producer that `--rate` starts beside the main job, and that of `mb produce`.
///
/// ```
/// // 10 messages without a rate limit, with keys from 0 to 4.
/// let produce = mb::Produce { rate: 0.0, count: Some(10), keys: 5, ..mb::Produce::default() };
/// assert_eq!(produce.message_bytes, 100);
/// ```
#[derive(Clone, Debug)]
pub struct Produce {
    /// Messages per second; 0 for no limit. Default 1000.
    pub rate: f64,
    /// Messages in total; `None` (the default) produces until the stop.
    pub count: Option<u64>,
    /// Minimum bytes of a message's value. Default 100.
    pub message_bytes: usize,
    /// Number of distinct keys; the partition follows from the key. 0 (the default) produces without keys, to
    /// one partition after another.
    pub keys: u64,
}

impl Default for Produce {
    fn default() -> Produce {
        Produce { rate: 1000.0, count: None, message_bytes: 100, keys: 0 }
    }
}

/// All settings of a pipeline. `Default` has the defaults of the command line, except that there is no HTTP
/// server.
///
/// A Rust program changes them with [`Builder::configure`](crate::Builder::configure); they are checked when the
/// pipeline starts.
///
/// ```
/// use std::time::Duration;
///
/// let config = mb::Config {
///     max_batch: 500,
///     max_wait: Duration::from_secs(1),
///     max_attempts: 5,
///     ..mb::Config::default()
/// };
/// config.check()?;
/// # Ok::<(), mb::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the topic and the data directory are.
    pub connection: Connection,
    /// The producer that runs beside the sensors; `None` (the default) for none.
    pub produce: Option<Produce>,

    /// Maximum number of records in a batch, 1 to 1,000,000. Default 50.
    pub max_batch: usize,
    /// Maximum bytes (keys, values and headers) of a batch; a larger record gets a batch of its own.
    /// Default 1 MiB.
    pub max_batch_bytes: usize,
    /// A batch that is not full is processed after this time. Default 100 ms.
    pub max_wait: Duration,
    /// How long each tick reads before it closes its consumer. More than 0; default 10 s.
    pub tick_runtime: Duration,
    /// The pause between two ticks. Default 1 s.
    pub tick_interval: Duration,
    /// Minimum bytes that the broker collects before it answers a fetch. Default 1.
    pub fetch_min_bytes: usize,
    /// Which records of transactions are read. `None` (the default): committed ones if the client supports it.
    pub isolation: Option<Isolation>,
    /// Number of sensor threads, which share the partitions. Default 1.
    pub sensors: usize,
    /// Where a partition without a committed offset starts. Default `Earliest`.
    pub from: StartFrom,
    /// What to do if records to be read are not in the log. Default `Halt`.
    pub on_missing_offsets: OnMissingOffsets,
    /// Read a topic even if it is internal, such as `__consumer_offsets`: mb's own commits become records of it.
    /// Default false.
    pub force: bool,

    /// Maximum number of runs that wait for a worker. Default 100.
    pub queue: usize,
    /// Maximum bytes of all batches in memory: filling, queued and running. Default 32 MiB.
    pub queue_bytes: usize,
    /// Number of workers: how many runs are processed at the same time. Default 5.
    pub max_concurrent_runs: usize,
    /// In which order records are processed. Default `None`.
    pub order: Order,
    /// Only with `Order::Key`: number of lanes that the keys of a partition are split into, 1 to 64. `None`
    /// (the default) takes `max_concurrent_runs`, up to 64.
    pub lanes: Option<u32>,

    /// Number of attempts after which a run is given up on. Default 3.
    pub max_attempts: u32,
    /// The pause before the second attempt; it doubles with each further attempt, with jitter. Default 1 s.
    pub retry_backoff: Duration,
    /// What to do with a run whose last attempt failed. Default `DeadLetter`.
    pub on_failure: OnFailure,
    /// What to do while the step fails for every run. Default `Hold`.
    pub on_outage: OnOutage,
    /// How long a run that fails is held if there is no other run to compare it with. Default 2 min.
    pub outage_patience: Duration,
    /// Only with `until_caught_up`: how long a hold may take before mb ends with exit code 75. Default 10 min.
    pub hold_limit: Duration,
    /// Where dead letters are kept. Default `Store`.
    pub dead_letter: DeadLetterTo,
    /// Split a batch whose last attempt failed into halves with attempts of their own, and split those in
    /// turn, until the bad records are isolated. Default false.
    pub bisect: bool,
    /// Time limit of an attempt; `None` (the default) for none.
    pub step_timeout: Option<Duration>,

    /// Number of runs that the history keeps. Default 100,000.
    pub history_keep: u64,
    /// How long running runs may take to finish at the stop. Default 25 s.
    pub drain_timeout: Duration,
    /// At the start, wait for the broker without a time limit, not only 10 s. Default false.
    pub wait_for_broker: bool,
    /// Return when everything that was in the topic at the start, and everything that `produce` produced, is
    /// processed. Default false.
    pub until_caught_up: bool,

    /// A partition with lag that makes no progress for this long is stalled. Default 60 s.
    pub stall_after: Duration,
    /// The age of the oldest unprocessed record above which mb is not ready. `None` (the default): mb is not ready when
    /// it falls behind.
    pub freshness: Option<Duration>,
    /// The HTTP server of page, API, metrics and health; `None` (the default) for none. The command line's
    /// default is 127.0.0.1:3000.
    pub web: Option<Web>,
}

/// The HTTP server (`--listen`).
///
/// ```
/// let web = mb::Web {
///     host: "127.0.0.1".to_owned(),
///     port: 0,
///     public_url: None,
///     token_file: None,
///     read_only: true,
/// };
/// let config = mb::Config { web: Some(web), ..mb::Config::default() };
/// config.check()?;
/// # Ok::<(), mb::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Web {
    /// A name or an address, IPv6 without its brackets.
    pub host: String,
    /// 0 takes any free port.
    pub port: u16,
    /// Where a proxy serves the page to browsers; `None` if there is no proxy.
    pub public_url: Option<PublicUrl>,
    /// The file with the token that page and API require; needed if other machines can reach `host`.
    pub token_file: Option<PathBuf>,
    /// Page and API change nothing.
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
            tick_interval: Duration::ZERO,
            fetch_min_bytes: 1,
            isolation: None,
            sensors: 1,
            from: StartFrom::Earliest,
            on_missing_offsets: OnMissingOffsets::Halt,
            force: false,
            queue: 100,
            queue_bytes: 32 << 20,
            max_concurrent_runs: 5,
            order: Order::None,
            lanes: None,
            max_attempts: 3,
            retry_backoff: Duration::from_secs(1),
            on_failure: OnFailure::DeadLetter,
            on_outage: OnOutage::Hold,
            outage_patience: Duration::from_secs(120),
            hold_limit: Duration::from_secs(600),
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
    /// Checks what single values cannot show. A pipeline does it when it starts.
    ///
    /// # Errors
    /// `Config`, which names both settings if two do not fit together.
    pub fn check(&self) -> Result<()> {
        self.connection.check()?;
        if let Some(name) = self.dead_letter_topic() {
            check_topic("--dead-letter", &name)?;
            if name == self.connection.topic {
                return Err(Error::Config(format!(
                    "--dead-letter: got topic {name}, which is also --topic, expected another one: mb would \
                     read its own dead letters"
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
                    " (or a smaller --max-batch, because with --bisect each record may become a run)"
                } else {
                    ""
                }
            )));
        }
        if self.until_caught_up
            && self.produce.as_ref().is_some_and(|produce| produce.count.is_none())
        {
            return Err(Error::Config(
                "--until-caught-up: got this flag with --rate but without --count, expected --count N as \
                 well: the end that it waits for would never come"
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

    /// The topic that dead letters go to; `None` if they are only in the history.
    pub fn dead_letter_topic(&self) -> Option<String> {
        match &self.dead_letter {
            DeadLetterTo::Store => None,
            DeadLetterTo::Topic(name) | DeadLetterTo::Both(Some(name)) => Some(name.clone()),
            DeadLetterTo::Both(None) => Some(format!("{}-dead-letters", self.connection.topic)),
        }
    }

    /// Number of lanes that a new batch is split into by key.
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

    /// Bytes that a batch takes beyond its records.
    pub fn batch_overhead_bytes(&self) -> usize {
        limits::RUN_OVERHEAD_BYTES * self.lane_count() as usize
    }

    /// Bytes that a record takes beyond its own bytes and its index entry.
    pub fn record_overhead_bytes(&self) -> usize {
        if self.bisect { limits::SPLIT_RECORD_BYTES } else { 0 }
    }
}

impl Connection {
    /// Checks the names and addresses.
    ///
    /// # Errors
    /// `Config` for a topic or group that Kafka would refuse, or a malformed list of servers.
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
                "--client embedded: got --bootstrap-server as well, expected only one of them: the embedded \
                 topic is in the data directory"
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
    parse_servers(servers).map(drop).map_err(|rule| {
        Error::Config(format!("--bootstrap-server: got {servers:?}, expected {rule}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_settings_fit_together() {
        assert_eq!(Config::default().check(), Ok(()));
    }

    #[test]
    fn an_error_about_a_queue_smaller_than_one_batch_names_both_settings() {
        let config = Config { queue_bytes: 1 << 20, ..Config::default() };
        let text = config.check().unwrap_err().to_string();
        assert!(text.contains("--queue-bytes") && text.contains("--max-batch-bytes"), "{text}");
    }

    #[test]
    fn dead_letters_need_another_topic_with_a_legal_name() {
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
    fn lanes_need_the_order_by_key() {
        let config = |order| Config { order, lanes: Some(4), ..Config::default() };
        assert_eq!(config(Order::Key).check(), Ok(()));
        let text = config(Order::Partition).check().unwrap_err().to_string();
        assert!(text.contains("--lanes: got 4") && text.contains("--order key"), "{text}");
    }

    #[test]
    fn topic_names_are_checked_by_kafkas_rule() {
        for legal in ["a", "First_Topic", "a.b-c_9", &"x".repeat(249)] {
            assert_eq!(check_topic("--topic", legal), Ok(()), "{legal}");
        }
        for illegal in ["", ".", "..", "a b", "ü", "a/b", "a\0", &"x".repeat(250)] {
            assert!(check_topic("--topic", illegal).is_err(), "{illegal}");
        }
    }
}

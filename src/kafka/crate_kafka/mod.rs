//! The pure-Rust backend: crate kafka's `KafkaClient`, guarded. It speaks version 0 of Kafka's
//! protocol, in plaintext, to brokers up to 3.9; what it cannot do it refuses by name. Topics and
//! offsets go through `wire`: the crate's own commit can retry for ever.

mod consumer;
mod guard;
mod producer;
mod trust;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use kafka_protocol::messages::ApiKey;

use self::consumer::PureConsumer;
use self::guard::{Fault, Guard};
use self::producer::PureProducer;
use crate::config::limits::{PROBE_LIMIT, PURE_PARTITION_FETCH_BYTES};
use crate::kafka::wire::{Probe, Wire};
use crate::kafka::{
    Backend, Broker, Capabilities, CommitError, Consumer, FetchSettings, PerPartition, Producer,
    TopicInfo, Watermarks,
};
use crate::model::error::{Error, Result};
use crate::model::offset::{Offset, Partition};

/// Codecs that the crate reads, by Kafka's names.
const CODECS: &[&str] = &["none", "gzip", "snappy"];

/// Crate kafka behind mb's seam.
pub struct Pure {
    servers: String,
    wire: Arc<Wire>,
    fetch_bytes: usize,
    /// How many client threads were started.
    threads: Arc<AtomicU64>,
}

impl Pure {
    /// `servers` is `HOST:PORT[,HOST:PORT…]`, the same as `wire`'s.
    ///
    /// # Errors
    /// `Broker` where no server answers; `Config` where the broker is too new or too old for the
    /// crate.
    pub fn connect(servers: &str, wire: Arc<Wire>) -> Result<Pure> {
        check_served(&wire.probe(PROBE_LIMIT)?)?;
        let servers = servers.to_owned();
        Ok(Pure { servers, wire, fetch_bytes: PURE_PARTITION_FETCH_BYTES, threads: Arc::default() })
    }

    /// How many bytes a fetch asks of one partition, instead of
    /// `limits::PURE_PARTITION_FETCH_BYTES`. A larger batch is fetched all the same, by itself.
    pub fn with_fetch_bytes(self, fetch_bytes: usize) -> Pure {
        Pure { fetch_bytes, ..self }
    }

    fn guard(&self, topic: &str) -> Guard {
        Guard::new(&self.servers, Arc::clone(&self.wire), topic, Arc::clone(&self.threads))
    }
}

impl Broker for Pure {
    fn backend(&self) -> Backend {
        Backend::Kafka
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            null_values: false,
            timestamps: false,
            headers: false,
            read_committed: false,
            codecs: CODECS,
            membership: false,
        }
    }

    fn describe(&self) -> String {
        format!("Kafka at {}, client kafka (pure Rust, crate kafka 0.10)", self.servers)
    }

    fn topic(&self, topic: &str) -> Result<TopicInfo> {
        self.wire.topic(topic)
    }

    fn create_topic(&self, topic: &str, partitions: u32) -> Result<()> {
        self.wire.create_topic(topic, partitions)
    }

    fn watermarks(
        &self,
        topic: &str,
        partitions: &[Partition],
    ) -> Result<PerPartition<Watermarks>> {
        self.wire.watermarks(topic, partitions)
    }

    fn offsets_at(
        &self,
        topic: &str,
        partitions: &[Partition],
        timestamp_ms: i64,
    ) -> Result<PerPartition<Offset>> {
        self.wire.offsets_at(topic, partitions, timestamp_ms)
    }

    fn committed(
        &self,
        group: &str,
        topic: &str,
        partitions: &[Partition],
    ) -> Result<PerPartition<Option<Offset>>> {
        self.wire.committed(group, topic, partitions)
    }

    fn commit(
        &self,
        group: &str,
        topic: &str,
        offsets: &[(Partition, Offset)],
    ) -> Result<(), CommitError> {
        self.wire.commit(group, topic, offsets)
    }

    fn consumer(
        &self,
        topic: &str,
        from: &[(Partition, Offset)],
        settings: &FetchSettings,
    ) -> Result<Box<dyn Consumer>> {
        self.capabilities().isolation(settings.isolation)?;
        let guard = self.guard(topic);
        let wire = Arc::clone(&self.wire);
        let fetch_bytes = self.fetch_bytes;
        Ok(Box::new(PureConsumer::new(guard, wire, topic, from, settings, fetch_bytes)))
    }

    fn producer(&self, topic: &str) -> Result<Box<dyn Producer>> {
        let partitions = self.wire.topic(topic)?.partitions;
        let guard = self.guard(topic);
        let producer = PureProducer::start(guard, Arc::clone(&self.wire), topic, partitions)?;
        Ok(Box::new(producer))
    }
}

impl fmt::Debug for Pure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pure").field("wire", &self.wire).finish_non_exhaustive()
    }
}

/// Whether the crate can speak to this broker at all.
fn check_served(probe: &Probe) -> Result<()> {
    let unfit = |age: &str| {
        let hint = if cfg!(feature = "rdkafka") {
            "use --client rdkafka"
        } else {
            "use an mb that was built with its rdkafka feature"
        };
        Err(Error::Config(format!(
            "--client kafka: the broker at {} is {age}, expected Kafka 0.11 to 3.9 (crate kafka \
             speaks the oldest version of the protocol only): {hint}",
            probe.address
        )))
    };
    if !probe.serves_version_0() {
        return unfit("Kafka 4.0 or later");
    }
    // Version 4 of Fetch shows the headers of stored batches, without which gaps in the crate's
    // answers cannot be told from its losses.
    if probe.versions(ApiKey::Fetch as i16).is_none_or(|(_, high)| high < 4) {
        return unfit("older than Kafka 0.11");
    }
    Ok(())
}

/// A fault as mb's error, the crate's own given to `fail` in words.
fn explain(fault: Fault, fail: impl FnOnce(String) -> Error) -> Error {
    match fault {
        Fault::Own(error) => error,
        Fault::Client(cause) => fail(words(&cause)),
        Fault::Stopped => fail("stopped".to_owned()),
    }
}

/// The crate's error in words.
fn words(cause: &::kafka::Error) -> String {
    use std::io::ErrorKind;
    match cause {
        ::kafka::Error::Io(cause) => match cause.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                "the broker closed the connection".to_owned()
            }
            _ => cause.to_string(),
        },
        ::kafka::Error::Kafka(code) => format!("the broker says {code:?}"),
        ::kafka::Error::TopicPartitionError { partition_id, error_code, .. } => {
            format!("the broker says {error_code:?} of partition {partition_id}")
        }
        ::kafka::Error::NoHostReachable => "no server can be reached".to_owned(),
        other => other.to_string(),
    }
}

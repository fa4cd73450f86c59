//! Kafka through crate kafka, as a `RecordClient`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::answer::CODECS;
use super::consumer::CrateKafkaConsumer;
use super::fault::check_served;
use super::guard::Guard;
use super::producer::CrateKafkaProducer;
use crate::config::limits::{PROBE_LIMIT, PURE_PARTITION_FETCH_BYTES};
use crate::kafka::record_client::RecordClient;
use crate::kafka::wire::Wire;
use crate::kafka::{Backend, Capabilities, Consumer, FetchSettings, Producer};
use crate::model::error::Result;
use crate::model::offset::{Offset, Partition};

/// Kafka through crate kafka.
pub struct CrateKafka {
    servers: String,
    wire: Arc<Wire>,
    fetch_bytes: usize,
    /// How many client threads were started.
    threads: Arc<AtomicU64>,
}

impl CrateKafka {
    /// `servers` is `HOST:PORT[,HOST:PORT…]`, the same as `wire`'s.
    ///
    /// # Errors
    /// `Broker` if no server answers; `Config` if the broker is too new or too old for the crate.
    pub fn connect(servers: &str, wire: Arc<Wire>) -> Result<CrateKafka> {
        check_served(&wire.probe(PROBE_LIMIT)?)?;
        let (servers, fetch_bytes) = (servers.to_owned(), PURE_PARTITION_FETCH_BYTES);
        Ok(CrateKafka { servers, wire, fetch_bytes, threads: Arc::default() })
    }

    /// How many bytes a fetch requests of one partition, instead of `limits::PURE_PARTITION_FETCH_BYTES`. A
    /// larger batch is still read: it is fetched by itself.
    #[cfg(feature = "testing")]
    pub fn with_fetch_bytes(self, fetch_bytes: usize) -> CrateKafka {
        CrateKafka { fetch_bytes, ..self }
    }

    fn guard(&self, topic: &str) -> Guard {
        Guard::new(&self.servers, Arc::clone(&self.wire), topic, Arc::clone(&self.threads))
    }
}

impl RecordClient for CrateKafka {
    const BACKEND: Backend = Backend::Kafka;
    const CAPABILITIES: Capabilities = Capabilities {
        null_values: false,
        timestamps: false,
        headers: false,
        read_committed: false,
        codecs: CODECS,
        membership: false,
        leader_epochs: false,
    };

    fn description(&self) -> String {
        format!("Kafka at {}, client kafka (pure Rust, crate kafka 0.10)", self.servers)
    }

    fn wire(&self) -> &Arc<Wire> {
        &self.wire
    }

    fn read(
        &self,
        topic: &str,
        from: &[(Partition, Offset)],
        settings: &FetchSettings,
    ) -> Result<Box<dyn Consumer>> {
        let guard = self.guard(topic);
        let wire = Arc::clone(&self.wire);
        let fetch_bytes = self.fetch_bytes;
        Ok(Box::new(CrateKafkaConsumer::new(guard, wire, topic, from, settings, fetch_bytes)))
    }

    fn write(&self, topic: &str) -> Result<Box<dyn Producer>> {
        let partitions = self.wire.topic(topic)?.partitions;
        let guard = self.guard(topic);
        let producer = CrateKafkaProducer::start(guard, Arc::clone(&self.wire), topic, partitions)?;
        Ok(Box::new(producer))
    }
}

impl fmt::Debug for CrateKafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CrateKafka").field("wire", &self.wire).finish_non_exhaustive()
    }
}

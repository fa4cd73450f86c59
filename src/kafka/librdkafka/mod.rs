//! Backend `rdkafka`: Kafka through librdkafka. This file has the broker's side of the seam;
//! reading and writing are in the files below it. mb's own `wire` is asked about topics (their ids
//! above all, which librdkafka does not tell) and offsets, and commits: it is connected already, where a
//! client of librdkafka's takes threads and connections of its own for it.

mod consumer;
mod context;
mod native;
mod producer;
mod settings;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, Producer as _};
use rdkafka::util::get_rdkafka_version;

use self::consumer::LibrdkafkaConsumer;
use self::context::Context;
use self::native::Client;
use self::producer::LibrdkafkaProducer;
use super::wire::Wire;
use super::{
    Backend, Broker, Capabilities, CommitError, Consumer, FetchSettings, PerPartition, Producer,
    TopicInfo, Watermarks,
};
use crate::config::limits;
use crate::model::error::{Error, Result};
use crate::model::offset::{Offset, Partition};
use crate::model::thread;

/// Kafka through librdkafka.
pub struct Librdkafka {
    servers: String,
    wire: Arc<Wire>,
}

impl Librdkafka {
    /// `servers` is `HOST:PORT[,HOST:PORT…]`, and `wire` speaks to the same ones. Nothing is asked
    /// of them yet.
    ///
    /// # Errors
    /// `Broker` where librdkafka refuses the settings.
    pub fn connect(servers: &str, wire: Arc<Wire>) -> Result<Librdkafka> {
        settings::common(servers)
            .create_native_config()
            .map_err(|error| Error::broker("set up librdkafka", error))?;
        Ok(Librdkafka { servers: servers.to_owned(), wire })
    }
}

impl Broker for Librdkafka {
    fn backend(&self) -> Backend {
        Backend::Rdkafka
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            null_values: true,
            timestamps: true,
            headers: true,
            read_committed: true,
            codecs: &["none", "gzip", "snappy", "lz4", "zstd"],
            membership: false,
        }
    }

    fn describe(&self) -> String {
        let (_, version) = get_rdkafka_version();
        format!("Kafka at {}, client rdkafka (librdkafka {version})", self.servers)
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
        // librdkafka's plain commit has no time limit and may send again; its admin interface aborts
        // the process where the coordinator is lost (2.12.1: `eonce->refcnt > 0` in rdkafka_queue.h).
        self.wire.commit(group, topic, offsets)
    }

    fn consumer(
        &self,
        topic: &str,
        from: &[(Partition, Offset)],
        settings: &FetchSettings,
    ) -> Result<Box<dyn Consumer>> {
        let isolation = self.capabilities().isolation(settings.isolation)?;
        let servers = self.wire.known_servers();
        let client = new_client(&settings::consumer(&servers, from.len(), settings, isolation))?;
        Ok(Box::new(LibrdkafkaConsumer::start(client, topic, from, settings)?))
    }

    fn producer(&self, topic: &str) -> Result<Box<dyn Producer>> {
        let servers = self.wire.known_servers();
        let config = settings::producer(&servers);
        let native = BaseProducer::from_config_and_context(&config, Context::default())
            .map_err(|error| Error::broker("start a producer of librdkafka", error))?;
        // librdkafka asks for the producer's id each 500 ms, and in vain where no connection is up
        // by then: this brings one up. Where the broker is away, the producer waits for it anyway.
        let _ = native.client().fetch_metadata(Some(topic), limits::PROBE_LIMIT);
        Ok(Box::new(LibrdkafkaProducer::new(native, &servers, topic)))
    }
}

fn new_client(config: &ClientConfig) -> Result<Client> {
    BaseConsumer::from_config_and_context(config, Context::default())
        .map_err(|error| Error::broker("start a client of librdkafka", error))
}

/// The topic's partitions, as far as the client can ask within `limit`; `None` where it cannot.
///
/// # Errors
/// `UnknownTopic`.
fn known_partitions(
    client: &Client,
    topic: &str,
    limit: Duration,
) -> Result<Option<BTreeSet<Partition>>> {
    let Ok(metadata) = client.fetch_metadata(Some(topic), limit) else { return Ok(None) };
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
        return Ok(None);
    };
    match found.error().map(RDKafkaErrorCode::from) {
        None => Ok(Some(found.partitions().iter().map(|partition| partition.id()).collect())),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition) => {
            Err(Error::UnknownTopic { topic: topic.to_owned() })
        }
        Some(_) => Ok(None),
    }
}

/// Drops what owns a client of librdkafka, on a thread of its own: that joins librdkafka's threads,
/// which has no time limit.
fn let_go<T: Send + 'static>(what: &str, owner: T) {
    let name = format!("close-{what}");
    match thread::call_with_limit(&name, limits::CONSUMER_CLOSE_LIMIT, move || drop(owner)) {
        Ok(Some(())) => {}
        Ok(None) => log::warn!(
            "librdkafka's {what} did not close within {} s and is left to itself",
            limits::CONSUMER_CLOSE_LIMIT.as_secs()
        ),
        Err(error) => log::warn!("librdkafka's {what} was not closed cleanly: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Isolation;

    #[test]
    fn every_codec_named_is_built_in() {
        let features =
            ClientConfig::new().create_native_config().unwrap().get("builtin.features").unwrap();
        let built_in: Vec<_> = features.split(',').collect();
        let broker =
            Librdkafka::connect("localhost:1", Arc::new(Wire::new("localhost:1"))).unwrap();
        for codec in broker.capabilities().codecs.iter().filter(|codec| **codec != "none") {
            assert!(built_in.contains(codec), "{codec} is missing from {features}");
        }
    }

    #[test]
    fn librdkafka_takes_the_settings() {
        let fetch = FetchSettings { min_bytes: 0, max_record_bytes: usize::MAX, isolation: None };
        let consumer = |isolation| settings::consumer("localhost:1", 4, &fetch, isolation);
        for config in [consumer(Isolation::ReadCommitted), consumer(Isolation::ReadUncommitted)] {
            assert_eq!(new_client(&config).map(drop), Ok(()));
        }
        let producer: Result<BaseProducer<Context>, _> = BaseProducer::from_config_and_context(
            &settings::producer("localhost:1"),
            Context::default(),
        );
        assert!(producer.is_ok());
    }
}

//! Kafka through librdkafka, as a `RecordClient`.

use std::sync::Arc;

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::producer::{BaseProducer, Producer as _};
use rdkafka::util::get_rdkafka_version;

use super::client::new_client;
use super::consumer::LibrdkafkaConsumer;
use super::context::Context;
use super::producer::LibrdkafkaProducer;
use super::settings;
use crate::config::limits;
use crate::kafka::record_client::RecordClient;
use crate::kafka::wire::Wire;
use crate::kafka::{Backend, Capabilities, Consumer, FetchSettings, Producer};
use crate::model::error::{Error, Result};
use crate::model::offset::{Offset, Partition};

/// Kafka through librdkafka.
pub struct Librdkafka {
    servers: String,
    wire: Arc<Wire>,
}

impl Librdkafka {
    /// `servers` is `HOST:PORT[,HOST:PORT…]`, the same as `wire`'s. Nothing is connected yet.
    ///
    /// # Errors
    /// `Broker` if librdkafka refuses the settings.
    pub fn connect(servers: &str, wire: Arc<Wire>) -> Result<Librdkafka> {
        settings::common(servers)
            .create_native_config()
            .map_err(|error| Error::broker("set up librdkafka", error))?;
        Ok(Librdkafka { servers: servers.to_owned(), wire })
    }
}

impl RecordClient for Librdkafka {
    const BACKEND: Backend = Backend::Rdkafka;
    const CAPABILITIES: Capabilities = Capabilities {
        null_values: true,
        timestamps: true,
        headers: true,
        read_committed: true,
        codecs: &["none", "gzip", "snappy", "lz4", "zstd"],
        membership: false,
        leader_epochs: true,
    };

    fn description(&self) -> String {
        let (_, version) = get_rdkafka_version();
        format!("Kafka at {}, client rdkafka (librdkafka {version})", self.servers)
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
        let isolation = Self::CAPABILITIES.isolation(settings.isolation)?;
        let servers = self.wire.known_servers();
        let client = new_client(&settings::consumer(&servers, from.len(), settings, isolation))?;
        Ok(Box::new(LibrdkafkaConsumer::start(client, topic, from, settings)?))
    }

    fn write(&self, topic: &str) -> Result<Box<dyn Producer>> {
        let servers = self.wire.known_servers();
        let config = settings::producer(&servers);
        let native = BaseProducer::from_config_and_context(&config, Context::default())
            .map_err(|error| Error::broker("start a producer of librdkafka", error))?;
        // librdkafka requests the producer's id every 500 ms, and only if a connection is up at that moment.
        // This brings one up. If the broker is away, the producer waits for it.
        let _ = native.client().fetch_metadata(Some(topic), limits::PROBE_LIMIT);
        Ok(Box::new(LibrdkafkaProducer::new(native, &servers, topic)))
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::ClientConfig;

    use super::*;
    use crate::config::Isolation;

    #[test]
    fn every_codec_named_is_built_in() {
        let features =
            ClientConfig::new().create_native_config().unwrap().get("builtin.features").unwrap();
        let built_in: Vec<_> = features.split(',').collect();
        let codecs = Librdkafka::CAPABILITIES.codecs.iter();
        for codec in codecs.filter(|codec| **codec != "none") {
            assert!(built_in.contains(codec), "{codec} is missing from {features}");
        }
    }

    #[test]
    fn librdkafka_takes_the_settings() {
        let fetch = FetchSettings {
            min_bytes: 0,
            max_record_bytes: usize::MAX,
            isolation: None,
            turn_bytes: None,
        };
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

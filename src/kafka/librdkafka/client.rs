//! A client of librdkafka: started, asked about its topic, and closed within a time limit.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;

use super::context::{Client, Context};
use crate::config::limits;
use crate::model::error::{Error, Result};
use crate::model::thread;

pub(super) fn new_client(config: &ClientConfig) -> Result<Client> {
    BaseConsumer::from_config_and_context(config, Context::default())
        .map_err(|error| Error::broker("start a client of librdkafka", error))
}

/// Whether the topic exists, as far as the client can find out within `limit`.
///
/// # Errors
/// `UnknownTopic` if a broker says that it does not exist.
pub(super) fn check_known(client: &Client, topic: &str, limit: Duration) -> Result<()> {
    let Ok(metadata) = client.fetch_metadata(Some(topic), limit) else { return Ok(()) };
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let error = found.and_then(|found| found.error()).map(RDKafkaErrorCode::from);
    match error {
        Some(RDKafkaErrorCode::UnknownTopicOrPartition) => {
            Err(Error::UnknownTopic { topic: topic.to_owned() })
        }
        _ => Ok(()),
    }
}

/// Drops the owner of a client of librdkafka on a thread of its own: the drop joins librdkafka's threads, which
/// has no time limit.
pub(super) fn close<T: Send + 'static>(what: &str, owner: T) {
    let name = format!("close-{what}");
    match thread::call_with_limit(&name, limits::CONSUMER_CLOSE_LIMIT, move || drop(owner)) {
        Ok(Some(())) => {}
        Ok(None) => log::warn!(
            "librdkafka's {what} did not close within {} s and is abandoned",
            limits::CONSUMER_CLOSE_LIMIT.as_secs()
        ),
        Err(error) => log::warn!("librdkafka's {what} was not closed cleanly: {error}"),
    }
}

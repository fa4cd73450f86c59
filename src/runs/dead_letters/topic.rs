//! The topic that dead letters are written to (`--dead-letter topic:NAME|both`), which is created if it does not
//! exist.

use std::sync::Arc;

use crate::config::{Config, DeadLetterTo};
use crate::kafka::Broker;
use crate::model::error::{Error, Result};

/// The topic's name, and what is written about the origin of each dead letter.
#[derive(Debug)]
pub struct DeadLetterTopic {
    pub(super) name: String,
    pub(super) group: String,
    pub(super) step: String,
    /// Whether the history keeps them too.
    pub is_also_stored: bool,
}

impl DeadLetterTopic {
    /// `None` if dead letters go to no topic.
    pub fn new(config: &Config, step: &str) -> Option<Arc<DeadLetterTopic>> {
        let name = config.dead_letter_topic()?;
        let is_also_stored = matches!(config.dead_letter, DeadLetterTo::Both(_));
        log::info!(
            "dead letters go to topic {name}{}",
            if is_also_stored { " and to the history" } else { "" }
        );
        Some(Arc::new(DeadLetterTopic {
            name,
            group: config.connection.group.clone(),
            step: step.to_owned(),
            is_also_stored,
        }))
    }
}

/// Creates the topic if dead letters are to go to one that does not exist.
///
/// # Errors
/// `Broker` if the broker cannot be asked, or cannot create it; `Config` for an internal topic.
pub fn prepare(broker: &dyn Broker, config: &Config) -> Result<()> {
    let Some(name) = config.dead_letter_topic() else { return Ok(()) };
    let partitions = config.connection.partitions;
    match broker.topic(&name) {
        Err(Error::UnknownTopic { .. }) => {
            broker.create_topic(&name, partitions)?;
            log::info!("created topic {name} for dead letters, with {partitions} partitions");
            Ok(())
        }
        answer => answer?.check_written(),
    }
}

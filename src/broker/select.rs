//! Temporary: replaced by the real selection.
use crate::config::{Client, Connection};
use crate::error::{Error, Result};
use super::Broker;
use std::sync::Arc;
use std::time::Duration;
pub struct Chosen { pub broker: Arc<dyn Broker>, pub reason: String }
pub fn choose(
    connection: &Connection, wants_embedded: bool, _wait: bool,
    _keep_waiting: &dyn Fn(Duration) -> bool,
    open_embedded: &dyn Fn() -> Result<Arc<dyn Broker>>,
) -> Result<Chosen> {
    if let Some(servers) = &connection.bootstrap_server {
        let wire = Arc::new(super::wire::Wire::new(servers));
        wire.probe(Duration::from_secs(5))?;
        let broker = Arc::new(super::librdkafka::Librdkafka::connect(servers, wire)?);
        return Ok(Chosen { broker, reason: "temp".into() });
    }
    if wants_embedded || connection.client == Client::Embedded {
        return Ok(Chosen { broker: open_embedded()?, reason: "embedded".into() });
    }
    Err(Error::Other("no kafka".into()))
}

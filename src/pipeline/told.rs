//! What a pipeline's settings mean to its parts: a sensor's orders, and what mb says of itself.

use std::sync::Arc;

use crate::api::control::requests::Status;
use crate::config::{Client, Config};
use crate::kafka::select::LOCAL_SERVER;
use crate::kafka::{Backend, FetchSettings};
use crate::source::batcher::BatchLimits;
use crate::source::sensor::SensorSettings;

/// What the sensor of this number is told.
pub fn sensor_settings(
    config: &Config,
    index: usize,
    topic: &Arc<str>,
    topic_id: Option<String>,
) -> SensorSettings {
    SensorSettings {
        index,
        count: config.sensors,
        limits: BatchLimits {
            max_records: config.max_batch,
            max_bytes: config.max_batch_bytes,
            max_wait: config.max_wait,
            batch_overhead: config.batch_overhead_bytes(),
            record_overhead: config.record_overhead_bytes(),
        },
        fetch: FetchSettings {
            min_bytes: config.fetch_min_bytes,
            max_record_bytes: config.queue_bytes,
            isolation: config.isolation,
        },
        tick_runtime: config.tick_runtime,
        lanes: config.lane_count(),
        on_missing_offsets: config.on_missing_offsets,
        until_caught_up: config.until_caught_up,
        topic: Arc::clone(topic),
        topic_id,
    }
}

/// What mb says of itself; `backend` is `None` while it waits for one.
pub(super) fn status(config: &Config, backend: Option<Backend>) -> Status {
    let connection = &config.connection;
    let server = connection.bootstrap_server.as_deref().unwrap_or(LOCAL_SERVER);
    Status {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        bootstrap_server: (backend != Some(Backend::Embedded)).then(|| server.to_owned()),
        topic: connection.topic.clone(),
        group: connection.group.clone(),
        client: backend.map_or("none", Backend::name).to_owned(),
        waiting_for: match backend {
            None => Some(match connection.client {
                Client::Embedded => "its embedded topic".to_owned(),
                _ => format!("its broker at {server}"),
            }),
            Some(_) => None,
        },
    }
}

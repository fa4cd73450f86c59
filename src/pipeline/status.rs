//! What mb reports of itself to commands: its process, its broker, its topic.

use crate::api::context::Status;
use crate::config::{Client, Config};
use crate::kafka::Backend;
use crate::kafka::select::LOCAL_SERVER;

/// What mb reports of itself; `backend` is `None` while it waits for one.
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

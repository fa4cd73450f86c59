//! What mb reports of itself to commands: its process, its broker, its topic.

use crate::api::context::Status;
use crate::config::{Client, Config};
use crate::kafka::Backend;
use crate::kafka::select::LOCAL_SERVER;

/// The first digits of the commit that mb was built from; empty if the build did not know it (see build.rs).
const COMMIT: &str = env!("BUILD_COMMIT");

/// The version of this mb, with the commit that it was built from if that is known: `0.1.0 (abc1234)`.
pub fn version() -> String {
    let version = env!("CARGO_PKG_VERSION");
    if COMMIT.is_empty() { version.to_owned() } else { format!("{version} ({COMMIT})") }
}

/// What mb reports of itself; `backend` is `None` while it waits for one.
pub(super) fn status(config: &Config, backend: Option<Backend>) -> Status {
    let connection = &config.connection;
    let server = connection.bootstrap_server.as_deref().unwrap_or(LOCAL_SERVER);
    Status {
        pid: std::process::id(),
        version: version(),
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

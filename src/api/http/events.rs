//! The overview as server-sent events: once a second, the same one for all clients, and none while no client
//! is connected. `connection` writes them.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::api::context::Context;
use crate::api::operations::overview::overview_json;
use crate::config::limits;

/// The first lines of a stream: how soon a browser connects again after it ends.
pub const PREFACE: &[u8] = b"retry: 1000\n\n";

/// Says when streams get their next event: at the same moments for all, so that they share one overview.
pub struct EventClock {
    began: Instant,
}

impl EventClock {
    pub fn new() -> EventClock {
        EventClock { began: Instant::now() }
    }

    /// How long it is until the next event.
    pub fn until_next(&self) -> Duration {
        let interval = limits::HTTP_EVENT_INTERVAL;
        let passed = self.began.elapsed().as_nanos() % interval.as_nanos();
        interval - Duration::from_nanos(u64::try_from(passed).unwrap_or_default())
    }
}

/// `overview`, or `failure` with an error as the API answers it. JSON has no line breaks of its own.
pub fn event(context: &Context) -> Vec<u8> {
    match overview_json(context) {
        Ok(overview) => [&b"event: overview\ndata: "[..], &overview, b"\n\n"].concat(),
        Err(error) => {
            let failure =
                json!({ "error": { "kind": "unavailable", "message": error.to_string() }});
            format!("event: failure\ndata: {failure}\n\n").into_bytes()
        }
    }
}

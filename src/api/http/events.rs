//! The overview as server-sent events. It is made once a second for all who look, and not at all while
//! nobody does (`control::watch`); writing them is `connection`'s.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::api::control::requests::Context;
use crate::api::control::watch::overview_json;
use crate::config::limits;

/// What a browser is told first: how soon it connects anew.
pub const PREFACE: &[u8] = b"retry: 1000\n\n";

/// When streams have their next event.
pub struct Events {
    /// Seconds are counted from here, so that all who look do so at the same moments.
    began: Instant,
}

impl Events {
    pub fn new() -> Events {
        Events { began: Instant::now() }
    }

    /// How long until there is another one.
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

//! The overview as server-sent events: made once a second for all who look, and not at all while
//! nobody does. Writing them is `connection`'s.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::control::requests::Context;
use crate::control::watch::overview_json;
use crate::limits;

/// What a browser is told first: how soon it connects anew.
pub const PREFACE: &[u8] = b"retry: 1000\n\n";

pub struct Events {
    /// Seconds are counted from here, so that all who look do so at the same moments.
    began: Instant,
    latest: Mutex<Latest>,
}

#[derive(Default)]
struct Latest {
    second: Option<u128>,
    event: Arc<[u8]>,
}

impl Events {
    pub fn new() -> Events {
        Events { began: Instant::now(), latest: Mutex::default() }
    }

    /// This second's event.
    pub fn current(&self, context: &Context) -> Arc<[u8]> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let second = self.second();
        if latest.second != Some(second) {
            latest.event = event(context).into();
            latest.second = Some(second);
        }
        Arc::clone(&latest.event)
    }

    /// How long until there is another one.
    pub fn until_next(&self) -> Duration {
        let interval = limits::HTTP_EVENT_INTERVAL;
        let passed = self.began.elapsed().as_nanos() % interval.as_nanos();
        interval - Duration::from_nanos(u64::try_from(passed).unwrap_or_default())
    }

    fn second(&self) -> u128 {
        self.began.elapsed().as_nanos() / limits::HTTP_EVENT_INTERVAL.as_nanos()
    }
}

/// `overview`, or `failure` with an error as the API answers it. JSON has no line breaks of its own.
fn event(context: &Context) -> Vec<u8> {
    match overview_json(context) {
        Ok(overview) => [&b"event: overview\ndata: "[..], &overview, b"\n\n"].concat(),
        Err(error) => {
            let failure =
                json!({ "error": { "kind": "unavailable", "message": error.to_string() }});
            format!("event: failure\ndata: {failure}\n\n").into_bytes()
        }
    }
}

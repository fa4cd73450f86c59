//! What redrives and replays share (engine, limits, reader of requests), and the state of a request after its turn.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Receiver;

use crate::history::requests::Reader;
use crate::kafka::FetchSettings;
use crate::runs::engine::Engine;
use crate::source::batcher::BatchLimits;
use crate::source::sensor::SensorSettings;

/// What redrives and replays share.
pub struct Resources {
    pub engine: Arc<Engine>,
    /// As at the start; `limits()` says how they are now.
    pub(super) limits: BatchLimits,
    pub(super) fetch: FetchSettings,
    pub(super) requests: Reader,
    pub(super) stop: Receiver<()>,
}

/// How far a request is after its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// More can be made into runs at once.
    More,
    /// Nothing can be done before this time.
    NotBefore(Instant),
    /// Everything is made into runs, as far as this process can; some of them are not done.
    Made,
    /// Only another process can go on, for this reason.
    Blocked(String),
    /// mb is stopping.
    Stopping,
}

impl Resources {
    /// `requests` reads the history; `stop` is closed at the end.
    pub fn new(engine: &Arc<Engine>, requests: Reader, stop: Receiver<()>) -> Resources {
        let SensorSettings { limits, fetch, .. } = SensorSettings::of(engine, 0);
        Resources { engine: Arc::clone(engine), limits, fetch, requests, stop }
    }

    /// How large a batch may be that is begun now.
    pub(super) fn limits(&self) -> BatchLimits {
        BatchLimits { max_records: self.engine.steering.settings().max_batch, ..self.limits }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.engine.budget.is_closed() || self.engine.queue.is_closed()
    }
}

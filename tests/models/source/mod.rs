//! The modelled files of mb's `source`: how a sensor, and the thread of redrives and replays, learn that there is
//! something to do.

#[path = "../../../src/source/signals.rs"]
mod signals;
#[path = "../../../src/source/reprocess/work_signal.rs"]
mod work_signal;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::config::steering::{Next, Subscription};

pub use signals::{Released, SensorCommand, SensorHandle};
pub use work_signal::WorkSignal;

/// As the thread `requests` does: looks for work, and says whether any was left.
pub fn look(signal: &WorkSignal, work: impl FnOnce() -> bool) {
    let raised = signal.raised();
    let is_idle = work();
    signal.looked(BTreeMap::new(), is_idle.then_some(raised));
}

/// What reaches a sensor from outside.
pub struct Signals(signals::Signals);

impl Signals {
    pub fn new(stop: Receiver<()>, subscription: Subscription) -> (Signals, SensorHandle) {
        let (signals, handle) = signals::Signals::new(stop, subscription);
        (Signals(signals), handle)
    }

    pub fn command(&self) -> Option<SensorCommand> {
        self.0.command()
    }

    pub fn next_tick(&mut self, since: Instant, pause: Option<Duration>) -> Next {
        self.0.next_tick(since, pause)
    }

    pub fn idle_tick(&self, limit: Duration) {
        self.0.idle_tick(limit);
    }
}

//! A sensor: ticks, each with a fresh consumer, that turn new records of the topic into runs on the run
//! queue. This file has their rhythm: pauses between ticks, and longer ones after errors.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;

use crate::config::limits;
use crate::config::steering::Next;
use crate::history::recovery::Resume;
use crate::model::clock;
use crate::model::error::{Class, Error};
use crate::model::events::Event;
use crate::model::live::Trouble;
use crate::model::offset::Partition;
use crate::runs::engine::Engine;
use crate::source::intake::Intake;
use crate::source::signals::{Ended, SensorHandle, Signals};
use crate::source::tick::Tick;

pub use crate::source::intake::{LateStart, SensorSettings};
#[cfg(any(test, feature = "testing"))]
pub use crate::source::signals::{Released, SensorCommand};

/// A sensor; `run` is the body of its thread.
pub struct Sensor {
    intake: Intake,
    handle: SensorHandle,
}

const WHAT: &str = "reading the topic";

impl Sensor {
    /// The sensor of this number; it stops when `stop` is closed.
    pub fn new(index: usize, engine: &Arc<Engine>, stop: Receiver<()>) -> Sensor {
        let settings = SensorSettings::of(engine, index);
        let (signals, handle) = Signals::new(stop, engine.steering.subscribe());
        Sensor { intake: Intake::new(settings, Arc::clone(engine), signals), handle }
    }

    /// Commands this sensor, while it runs and before.
    pub fn handle(&self) -> SensorHandle {
        self.handle.clone()
    }

    /// Takes a partition on before the first tick: it is read from `resume` on, and its ledger begins there.
    pub fn adopt(&mut self, partition: Partition, resume: Resume) {
        self.intake.adopt(partition, resume);
    }

    /// Says where a partition starts that has no leader yet: it is adopted at the first tick at which it has
    /// one. The others do not wait for it.
    pub fn start_late(&mut self, partition: Partition, at: LateStart) {
        self.intake.start_late(partition, at);
    }

    /// Says that a partition must not be read, and why.
    pub fn leave_unread(&mut self, partition: Partition, why: &str) {
        self.intake.leave_unread(partition, why);
    }

    /// Ticks until `stop` is closed, or an error must end mb.
    pub fn run(mut self) {
        let trouble = Trouble::default();
        let who = format!("sensor-{}", self.intake.settings.index);
        let mut failures = 0;
        // The first tick begins at once, unless the sensors are paused.
        let (mut since, mut pause) = (clock::now(), Some(Duration::ZERO));
        loop {
            match self.intake.signals.next_tick(since, pause) {
                Next::Stop => return,
                Next::Interrupted => {
                    self.intake.apply_commands();
                    continue;
                }
                Next::Tick => {}
            }
            let (ended, error) = Tick::new(&mut self.intake).run();
            self.intake.engine.live.ticks.add(1);
            since = clock::now();
            pause = match error {
                None => {
                    trouble.end(WHAT);
                    self.intake.engine.live.troubles.end(&who);
                    failures = 0;
                    (ended == Ended::Interrupted).then_some(Duration::ZERO)
                }
                Some(error) if error.class() == Class::Retry => {
                    trouble.begin(WHAT, &error.to_string());
                    self.intake.engine.live.troubles.begin(&who, WHAT, &error.to_string());
                    failures += 1;
                    Some(limits::SENSOR_BACKOFF.pause(failures, fastrand::f64()))
                }
                Some(error) => return self.halt(error),
            };
            if let Some(error) = self.intake.last_unreadable() {
                return self.halt(error);
            }
        }
    }

    fn halt(&self, error: Error) {
        // If the channel is full, mb is ending already.
        let _ = self.intake.engine.events.try_send(Event::Halt(error));
    }

    /// One tick, with what was commanded before it; the error that ended it. `run` repeats it.
    #[cfg(any(test, feature = "testing"))]
    pub fn tick(&mut self) -> Option<Error> {
        self.intake.apply_commands();
        Tick::new(&mut self.intake).run().1
    }
}

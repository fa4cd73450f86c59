//! What reaches a running sensor from other threads: the stop, pauses, changed settings, and commands to release a
//! partition or to take one up. Also the reasons why a tick ended, which are often these.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::config::limits;
use crate::config::steering::{Next, Settings, Subscription};
use crate::history::recovery::Resume;
use crate::model::offset::{Offset, Partition};
use crate::model::thread::stopped_within;

/// Why a tick ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Runtime,
    QueueFull,
    MemoryFull,
    /// A person has paused the sensors.
    Paused,
    /// A partition is to be released or taken up; the next tick begins at once.
    Interrupted,
    Stopping,
    Error,
}

impl Ended {
    /// As the history and the API have it.
    pub fn name(self) -> &'static str {
        match self {
            Ended::Runtime => "runtime",
            Ended::QueueFull => "queue-full",
            Ended::MemoryFull => "memory-full",
            Ended::Paused => "paused",
            Ended::Interrupted => "interrupted",
            Ended::Stopping => "stop",
            Ended::Error => "error",
        }
    }
}

/// A command to a running sensor about one partition; the sensor goes on with the others.
#[derive(Debug)]
pub enum SensorCommand {
    /// Stop reading the partition. After the answer no run of it is planned or pushed to the queue any more,
    /// until it is restored or taken up.
    Release { partition: Partition, done: Sender<Released> },
    /// Go on with a released partition where it was. No effect if it was not released.
    Restore { partition: Partition },
    /// Read the partition from `resume` on. The caller has put the ledger that belongs to `resume` in place
    /// before.
    TakeUp { partition: Partition, resume: Resume },
}

/// How far a sensor came with a partition that it has released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    pub partition: Partition,
    /// Every record below it is in a run that the run queue has accepted, or needs no run. `None` if the
    /// sensor did not read the partition.
    pub position: Option<Offset>,
}

/// Commands a running sensor; for any thread.
#[derive(Clone, Debug)]
pub struct SensorHandle {
    commands: Sender<SensorCommand>,
    wake: Sender<()>,
}

impl SensorHandle {
    /// Asks the sensor to release the partition. The answer comes within about
    /// `limits::STOP_LOOK_INTERVAL`, or later if the sensor waits for a broker that does not answer; if the
    /// sensor has ended, the receiver is disconnected.
    #[must_use]
    pub fn release(&self, partition: Partition) -> Receiver<Released> {
        let (done, released) = bounded(1);
        self.send(SensorCommand::Release { partition, done });
        released
    }

    /// Asks the sensor to go on with a partition that it was asked to release. Commands are applied in their order,
    /// so a release that is still waiting is applied first.
    pub fn restore(&self, partition: Partition) {
        self.send(SensorCommand::Restore { partition });
    }

    /// Asks the sensor to read the partition from `resume` on. Nothing happens if the sensor has ended.
    pub fn take_up(&self, partition: Partition, resume: Resume) {
        self.send(SensorCommand::TakeUp { partition, resume });
    }

    fn send(&self, command: SensorCommand) {
        if let Err(TrySendError::Full(command)) = self.commands.try_send(command) {
            self.wake();
            // An error is a sensor that has ended: then the answer's sender goes with the command.
            let _ = self.commands.send(command);
        }
        self.wake();
    }

    fn wake(&self) {
        // Full: it is about to look anyway.
        let _ = self.wake.try_send(());
    }
}

/// The receiving side, owned by the sensor.
#[derive(Debug)]
pub(super) struct Signals {
    stop: Receiver<()>,
    subscription: Subscription,
    commands: Receiver<SensorCommand>,
}

impl Signals {
    /// `stop` is closed at the end.
    pub fn new(stop: Receiver<()>, subscription: Subscription) -> (Signals, SensorHandle) {
        let (sender, commands) = bounded(limits::SENSOR_COMMANDS);
        let handle = SensorHandle { commands: sender, wake: subscription.waker() };
        (Signals { stop, subscription, commands }, handle)
    }

    pub fn settings(&self) -> Settings {
        self.subscription.settings()
    }

    /// The next command, if there is one.
    pub fn command(&self) -> Option<SensorCommand> {
        self.commands.try_recv().ok()
    }

    pub fn is_stopping(&self) -> bool {
        stopped_within(&self.stop, Duration::ZERO)
    }

    pub fn stop(&self) -> &Receiver<()> {
        &self.stop
    }

    /// Gets a message whenever there may be a pause, a change or a command.
    pub fn wake(&self) -> &Receiver<()> {
        self.subscription.wake()
    }

    /// A person has paused the sensors since the tick began.
    pub fn is_paused(&self) -> bool {
        self.subscription.ends_tick()
    }

    /// Why a wait within a tick should end early.
    pub fn interrupts(&self) -> Option<Ended> {
        if self.subscription.ends_tick() {
            Some(Ended::Paused)
        } else if !self.commands.is_empty() {
            Some(Ended::Interrupted)
        } else {
            None
        }
    }

    /// Waits until the next tick is to begin, `pause` after `since`, or a command comes.
    pub fn next_tick(&mut self, since: Instant, pause: Option<Duration>) -> Next {
        let commands = &self.commands;
        self.subscription.next_tick(&self.stop, since, pause, &|| !commands.is_empty())
    }

    /// Waits for `limit`, in a tick without anything to read; why the wait ended early.
    pub fn idle_tick(&self, limit: Duration) -> Option<Ended> {
        match self.subscription.idle_tick(&self.stop, limit, &|| !self.commands.is_empty()) {
            Next::Stop => Some(Ended::Stopping),
            Next::Tick | Next::Interrupted => self.interrupts(),
        }
    }
}

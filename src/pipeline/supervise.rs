//! Supervising: the main thread waits for a stop, for what threads report, or for the next second, until
//! there is a reason to stop.
//!
//! How the pipeline is stopped then is in `shutdown`.

use std::time::Duration;

use crossbeam_channel::{Receiver, select};

use crate::config::limits;
use crate::kafka::require_all;
use crate::model::clock;
use crate::model::error::Error;
use crate::model::events::Event;
use crate::model::live::Trouble;
use crate::model::thread::Thread;

use super::running::{Running, StopReason, notify_systemd};

/// Called each second or so with how far `--until-caught-up` is: how many offsets are done, and how many are
/// to be done in all.
pub type Progress = Box<dyn FnMut(u64, u64) + Send>;

/// Called by the thread that runs the pipeline whenever it has nothing else to do; returns after which time it is
/// to be called again.
pub type Chore = Box<dyn FnMut() -> Duration + Send>;

/// What the supervisor knows between two events.
#[derive(Default)]
struct Supervisor {
    /// The log's end is to be looked up: the producer has finished, or a partition had no leader at the start.
    target_due: bool,
    target_trouble: Trouble,
    /// All is done but for reprocess requests.
    is_caught_up: bool,
}

/// Watches the threads until there is a reason to stop.
pub(super) fn supervise(
    running: &mut Running,
    stop: &Receiver<()>,
    progress: &mut Option<Progress>,
    chore: &mut Option<Chore>,
) -> StopReason {
    notify_systemd(sd_notify::NotifyState::Ready);
    let config = &running.engine.config;
    log::info!(
        "topic {}, group {}, step {}: {} worker(s), batches of up to {} records",
        running.engine.topic.name,
        config.connection.group,
        running.engine.step.name(),
        config.max_concurrent_runs,
        config.max_batch
    );
    let has_target = running.engine.ledgers.progress().is_some();
    let until_caught_up = running.engine.config.until_caught_up;
    let mut supervisor = Supervisor {
        target_due: until_caught_up && !has_target && !running.threads.has("producer"),
        ..Supervisor::default()
    };
    loop {
        if supervisor.target_due && running.set_target(&supervisor.target_trouble) {
            supervisor.target_due = false;
        }
        let reached = running.engine.ledgers.progress();
        if let (Some(report), Some((done, to_do))) = (progress.as_mut(), reached) {
            report(done, to_do);
        }
        running.warn_of_stalls();
        if let Some(error) = running.held_too_long() {
            return StopReason::Failed(error);
        }
        running.workers.adjust_or_warn(&mut running.threads);
        let wait = chore.as_mut().map_or(limits::SUPERVISE_INTERVAL, |chore| chore());
        let event = select! {
            recv(stop) -> _ => {
                running.stop_requested = true;
                return StopReason::Requested("as requested");
            }
            recv(running.events) -> event => event.unwrap_or_else(|_| {
                Event::Halt(Error::Other("all threads are gone".into()))
            }),
            recv(running.requests_rest) -> _ => match supervisor.is_caught_up {
                true => Event::CaughtUp,
                false => continue,
            },
            default(wait.min(limits::SUPERVISE_INTERVAL)) => continue,
        };
        if let Some(reason) = supervisor.handle(running, event) {
            return reason;
        }
    }
}

impl Supervisor {
    fn handle(&mut self, running: &mut Running, event: Event) -> Option<StopReason> {
        match event {
            Event::Halt(error) => Some(StopReason::Failed(error)),
            // The number of workers is adjusted before the next wait.
            Event::SettingsChanged => None,
            Event::CaughtUp if !running.work_signal.is_idle() => {
                self.is_caught_up = true;
                None
            }
            Event::CaughtUp => Some(StopReason::Requested("caught up")),
            Event::Ended(name) => self.thread_ended(running, &name),
        }
    }

    fn thread_ended(&mut self, running: &mut Running, name: &str) -> Option<StopReason> {
        running.threads.join(name);
        if let Some(panic) = running.threads.panic.take() {
            return Some(StopReason::Failed(panic));
        }
        match name {
            "producer" => {
                self.target_due = running.engine.config.until_caught_up;
                None
            }
            // A sensor that ends has reported why.
            name if name.starts_with("sensor") => None,
            "committer" => Some(StopReason::Failed(running.committer_ended())),
            name if running.workers.was_retired(name) => None,
            name => Some(StopReason::Failed(Error::Other(format!("thread {name} ended early")))),
        }
    }
}

impl Running {
    fn committer_ended(&mut self) -> Error {
        match self.committer.take().map(Thread::join) {
            Some(Err(panic)) => panic,
            _ => Error::Other("thread committer ended early".into()),
        }
    }

    /// With `--until-caught-up` somebody waits for the end, which a hold must not delay without limit.
    fn held_too_long(&self) -> Option<Error> {
        let config = &self.engine.config;
        let held = self.engine.queue.held().filter(|_| config.until_caught_up)?;
        let time = clock::now().saturating_duration_since(held.since);
        (time >= config.hold_limit).then(|| {
            Error::NotNow(format!(
                "the step has failed for every run for {} s (--hold-limit), the newest with: {}; nothing was \
                 given up on, and the next start goes on",
                time.as_secs(),
                held.cause
            ))
        })
    }

    /// Sets the target of `--until-caught-up`: the log's end as it is now. False if the broker did not answer;
    /// then it is tried again.
    fn set_target(&self, trouble: &Trouble) -> bool {
        const WHAT: &str = "finding the topic's end";
        let (broker, topic) = (&self.engine.broker, &self.engine.topic.name);
        let found = broker.topic(topic).and_then(|info| {
            let marks = require_all(broker.watermarks(topic, &info.partitions)?)?;
            Ok(marks.into_iter().map(|(partition, marks)| (partition, marks.end)).collect())
        });
        match found {
            Ok(target) => {
                trouble.end(WHAT);
                self.engine.ledgers.set_target(target);
                true
            }
            Err(error) => {
                trouble.begin(WHAT, &error.to_string());
                false
            }
        }
    }

    fn warn_of_stalls(&self) {
        let Some(limit) = self.engine.config.step_timeout else { return };
        // A command past its limit is ended by its step, which needs a moment for that.
        for run in self.engine.live.mark_stalled(limit + 2 * limits::KILL_GRACE) {
            log::warn!(
                "run {} has been with worker-{} for {:.0?}, past --step-timeout: a step inside mb \
                 cannot be ended, so mb waits for it",
                run.key,
                run.worker,
                run.since.elapsed()
            );
        }
    }
}

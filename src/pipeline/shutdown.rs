//! Shutting down: intake first, then the runs, then what they led to.
//!
//! 1. Sensors, producer and reprocess requests stop; queued runs are left to the next start (they are in the
//!    history and not committed).
//! 2. Running runs get `--drain-timeout`. A second stop, or the end of that time, ends mb at once
//!    (`Error::Forced`); nothing is lost, and the next start repeats the runs. In a program that goes on, the
//!    threads that are left behind keep the data directory locked until the last of them has ended.
//! 3. The history writes what it has, the committer commits a last time, the history ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, never, select};

use crate::commit::committer::LastCommit;
use crate::config::limits;
use crate::model::error::{Error, Result};
use crate::model::events::Event;
use crate::model::thread;

use super::running::{Running, StopReason, notify_systemd};

/// What a pipeline did, at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub runs_succeeded: u64,
    pub runs_failed: u64,
    pub records_processed: u64,
    pub dead_letters: u64,
}

/// How a pipeline's threads ended.
pub(super) enum Ended {
    Done(Summary),
    /// The topic was replaced, and the threads are to be started again with what is there now.
    Restart,
}

/// Stops the threads of a pipeline.
///
/// # Errors
/// The reason, if it is an error; `Forced` if runs were still running at the end of their time; `Storage` or
/// `Broker` if the last outcomes or offsets could not be written.
pub(super) fn shut_down(
    mut running: Running,
    reason: StopReason,
    stop: &Receiver<()>,
) -> Result<Ended> {
    let restarts = running.announce(&reason);
    if let Err(forced) = running.drain(restarts, stop) {
        running.leave_behind();
        return Err(forced);
    }
    running.watching.take();
    let restarts = restarts && !running.stop_requested;
    if !restarts {
        running.engine.step.finish();
    }
    // What sensors and producer still do is worth nothing, and dead letters that are not written by now are
    // made again at the next start: these threads are not waited for long.
    let patience = Instant::now() + limits::INTAKE_STOP_LIMIT;
    let ended_by_now = ["sensor", "producer", "requests", "dead-letters"];
    let _ = running.wait_for(&ended_by_now, patience, stop, false);
    // The thread that asks the log for its ends may wait for a broken broker's answer, which nobody needs now.
    let patience = Instant::now() + limits::WATCH_STOP_LIMIT;
    let _ = running.wait_for(&["watch"], patience, stop, false);
    let kept = running.engine.history.flush(limits::HISTORY_STOP_LIMIT);
    // Without the history nothing may be committed.
    let last = if kept {
        running.last_commit()
    } else {
        LastCommit::Open("the history cannot be written".into())
    };
    running.engine.history.close();
    if kept {
        let deadline = Instant::now() + limits::HISTORY_STOP_LIMIT;
        let _ = running.wait_for(&["history"], deadline, stop, false);
    }
    running.conclude(reason, restarts, kept, last)
}

impl Running {
    /// Logs why the pipeline stops; returns whether it is started again within this process.
    fn announce(&self, reason: &StopReason) -> bool {
        let restarts = reason.restarts(&self.engine.config);
        if !restarts {
            notify_systemd(sd_notify::NotifyState::Stopping);
        }
        let runs = self.engine.live.running().len();
        match reason {
            StopReason::Requested(why) => log::info!("stopping ({why}): {runs} run(s) running"),
            StopReason::Failed(Error::LogReplaced(text)) if restarts => {
                log::warn!("{text}: starting with the log as it is now (--on-missing-offsets skip)")
            }
            StopReason::Failed(error) => log::error!("stopping: {error}"),
        }
        restarts
    }

    /// Stops the intake and lets running runs end.
    fn drain(&mut self, restarts: bool, stop: &Receiver<()>) -> Result<()> {
        let began = Instant::now();
        self.intake.take();
        self.engine.budget.close();
        self.engine.queue.close();
        self.engine.history.stop_waiting();
        if !restarts {
            self.engine.step.stopping();
        }
        let deadline = began + self.engine.config.drain_timeout;
        self.wait_for(&["worker"], deadline, stop, true).inspect_err(|_| {
            self.engine.forced.store(true, Ordering::Release);
            self.engine.step.abort();
        })
    }

    /// After a forced stop: a step inside mb cannot be ended, and when it returns, its worker still writes the
    /// outcome to the history. Another mb that used the data directory by then would have its history changed
    /// under it, so the lock is held until the threads have ended.
    fn leave_behind(self) {
        let data_dir = Arc::clone(&self.data_dir);
        if let Err(error) = thread::spawn("left-behind", move || self.outlast()) {
            log::warn!("{error}: the data directory stays locked until this process ends");
            std::mem::forget(data_dir);
        }
    }

    /// Waits without limit for what a forced stop has left behind.
    fn outlast(mut self) {
        self.watching.take();
        self.threads.join_others_than("history");
        self.commits.take();
        // What was not committed, and a panic, are no news: the stop was forced.
        let _ = self.committer.take().map(thread::Thread::join);
        self.engine.history.close();
        self.threads.join("history");
    }

    /// Waits until the threads whose names begin like this have ended. `forceable`: a second stop or the
    /// deadline ends mb at once.
    fn wait_for(
        &mut self,
        names: &[&str],
        mut deadline: Instant,
        stop: &Receiver<()>,
        forceable: bool,
    ) -> Result<()> {
        let never = never();
        let mut stop = if forceable { stop } else { &never };
        loop {
            if !names.iter().any(|name| self.threads.has(name)) {
                return Ok(());
            }
            let wait = self.wait_until(deadline, forceable);
            if wait.is_zero() {
                return Err(self.forced("their time (--drain-timeout) is over"));
            }
            select! {
                recv(stop) -> requested => match requested {
                    Ok(()) if self.stop_requested => {
                        return Err(self.forced("a second stop was requested"));
                    }
                    Ok(()) => {
                        deadline = deadline.min(Instant::now() + self.engine.config.drain_timeout);
                        log::info!("already stopping: another stop ends mb at once");
                        self.stop_requested = true;
                        self.engine.step.stopping();
                    }
                    // The sender is gone, so nobody can request a stop any more.
                    Err(_) => stop = &never,
                },
                recv(self.events) -> event => {
                    if let Ok(event) = event {
                        self.handle_while_stopping(event);
                    }
                }
                default(wait) => {}
            }
        }
    }

    /// How long to wait at most. Idle workers exit at once, so the deadline does not apply to them.
    fn wait_until(&self, deadline: Instant, forceable: bool) -> Duration {
        let now = Instant::now();
        let wait = deadline.saturating_duration_since(now);
        let is_grace = now < deadline + limits::INTAKE_STOP_LIMIT;
        if forceable && is_grace && self.engine.live.running().is_empty() {
            return wait.max(limits::STOP_LOOK_INTERVAL);
        }
        wait
    }

    fn forced(&self, why: &str) -> Error {
        let running = self.engine.live.running().len();
        Error::Forced(format!(
            "ended with {running} run(s) still running: {why}; nothing is lost, they are made \
             again at the next start"
        ))
    }

    fn handle_while_stopping(&mut self, event: Event) {
        match event {
            Event::Ended(name) => {
                self.threads.join(&name);
            }
            Event::Halt(error) => {
                self.late_halt.get_or_insert(error);
            }
            Event::CaughtUp | Event::SettingsChanged => {}
        }
    }

    fn last_commit(&mut self) -> LastCommit {
        self.commits.take();
        let Some(committer) = self.committer.take() else {
            return LastCommit::Open("the committer had ended".into());
        };
        let deadline = Instant::now() + limits::FINAL_COMMIT_LIMIT + limits::SUPERVISE_INTERVAL;
        while !committer.is_finished() {
            let wait = deadline.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                return LastCommit::Open("the broker did not answer in time".into());
            }
            if let Ok(event) = self.events.recv_timeout(wait.min(limits::STOP_LOOK_INTERVAL)) {
                self.handle_while_stopping(event);
            }
        }
        committer.join().unwrap_or_else(|panic| LastCommit::Open(panic.to_string()))
    }

    /// Decides how it ended, once every thread has.
    fn conclude(
        mut self,
        reason: StopReason,
        restarts: bool,
        kept: bool,
        last: LastCommit,
    ) -> Result<Ended> {
        let summary = self.summarize();
        for (request, why) in self.work_signal.blocked() {
            log::warn!("request {request} stays open: {why}");
        }
        let is_replaced = match reason {
            StopReason::Failed(Error::LogReplaced(_))
                if self.engine.config.skips_missing_offsets() =>
            {
                true
            }
            StopReason::Failed(error) => return Err(error),
            StopReason::Requested(_) => false,
        };
        if let Some(halt) = self.late_halt.take_if(|halt| !matches!(halt, Error::LogReplaced(_))) {
            return Err(halt);
        }
        if let Some(panic) = self.threads.panic.take() {
            return Err(panic);
        }
        if is_replaced && !restarts {
            // What was done belongs to another log: there is nothing to commit.
            return Ok(Ended::Done(summary));
        }
        // While the history's thread is still at its file, nobody else may open it.
        if restarts && kept && !self.threads.has("history") {
            return Ok(Ended::Restart);
        }
        self.check_last(kept, last)?;
        Ok(Ended::Done(summary))
    }

    fn summarize(&self) -> Summary {
        let live = &self.engine.live;
        let summary = Summary {
            runs_succeeded: live.runs_succeeded.get(),
            runs_failed: live.runs_failed.get(),
            records_processed: live.records_processed.get(),
            dead_letters: live.dead_letters.get(),
        };
        log::info!(
            "stopped: {} record(s) in {} run(s) processed, {} run(s) failed{}",
            summary.records_processed,
            summary.runs_succeeded,
            summary.runs_failed,
            match live.runs_halted.get() {
                0 => String::new(),
                halted => format!(", {halted} halted"),
            }
        );
        summary
    }

    /// Whether everything that was done is in the history and committed, and everything that was to be posted
    /// was acknowledged.
    fn check_last(&self, kept: bool, last: LastCommit) -> Result<()> {
        match last {
            LastCommit::Confirmed => match self.engine.live.messages_failed.get() {
                0 => Ok(()),
                failed => Err(Error::Other(format!(
                    "{failed} messages that --rate posted were not acknowledged: they may not be in \
                     the topic"
                ))),
            },
            LastCommit::Open(_) if !kept => Err(Error::Storage {
                doing: "write the last outcomes to the history (nothing is lost: the next start \
                        repeats the runs whose outcomes were not written)"
                    .into(),
                cause: "it could not be written within the time limit; is the disk full, or \
                        the file locked?"
                    .into(),
            }),
            LastCommit::Open(cause) => Err(Error::Broker {
                doing: "commit the last offsets (nothing is lost: the history has them, and the \
                        next start skips what is done)"
                    .into(),
                cause,
            }),
        }
    }
}

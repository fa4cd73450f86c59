//! What attempts tell the run queue of the step, and what a hold does to the queue. The rules are in `hold`; here
//! are the lock and the wake-ups.

use std::time::{Duration, Instant};

use crate::model::clock;
use crate::model::run::{Run, RunId};
use crate::model::sync::atomic::Ordering::{Acquire, Release};

use super::hold::{Evidence, Gate, Held, HoldLine, Prober};
use super::run_queue::{IDLE, RunQueue};
use super::state::State;

impl RunQueue {
    /// Like `take` during a hold: one run at a time, with a pause after each round.
    pub(super) fn take_probe(&self, state: &mut State) -> Result<(Run, bool), Duration> {
        let now = clock::now();
        if let Some(run) = state.take_urgent(now) {
            return Ok((run, true));
        }
        let tried = state.hold.tried().to_vec();
        let probe = match state.hold.gate(now) {
            Gate::Open => return Err(Duration::ZERO),
            Gate::Shut(wait) => return Err(wait.unwrap_or(IDLE)),
            Gate::Probe(Prober::Fresh) => {
                self.take_fresh(state).or_else(|| state.take_probe(&tried))
            }
            Gate::Probe(Prober::Failed) => {
                state.take_probe(&tried).or_else(|| self.take_fresh(state))
            }
        };
        let Some(run) = probe else {
            if state.has_retries() {
                // All that wait have been tried in this round.
                return Err(state.hold.end_round(now, fastrand::f64()));
            }
            // Given up on, cancelled, or withdrawn: no run is left that waits for the step.
            if state.hold.ends().is_some_and(|held| held.was_logged) {
                log::info!("nothing waits for the step any more: the hold is over");
            }
            return Err(IDLE);
        };
        state.hold.probe(run.id);
        Ok((run, false))
    }

    /// The latest beginning of an attempt that has succeeded by now, if a failed run needs to know.
    pub fn proof(&self) -> Option<Instant> {
        self.state.lock().hold.proof()
    }

    /// An attempt from `began` to `ended` has succeeded, at least for some of its records: a hold is over.
    /// Returns it, with the number of runs that go on.
    pub fn step_worked(&self, began: Instant, ended: Instant) -> Option<(Held, usize)> {
        self.worked_at.note(ended);
        // Nobody has failed that this could be compared with: no lock for each run that succeeds.
        if !self.is_watched.load(Acquire) {
            return None;
        }
        let mut state = self.state.lock();
        let held = state.hold.worked(began);
        if state.hold.is_settled() {
            self.is_watched.store(false, Release);
        }
        let held = held?;
        let waiting = state.retries();
        state.release(clock::now());
        drop(state);
        self.idle.wake_one();
        Some((held, waiting))
    }

    /// An attempt of the run has failed at `now`, and no record was processed. Returns what is to be logged of a hold.
    pub fn step_failed(&self, run: &Run, error: &str, now: Instant) -> Option<HoldLine> {
        let mut state = self.state.lock();
        self.is_watched.store(true, Release);
        state.hold.failed(run, error, now)
    }

    /// What the other runs say about a failure of this run; `worked_since`: see [`Evidence`].
    pub fn evidence(&self, run: &Run, worked_since: bool) -> Evidence {
        let is_drained = self.receiver.is_empty();
        let all_wait = self.is_ordered && is_drained;
        let evidence = self.state.lock().hold.evidence(run);
        Evidence { worked_since, is_drained, all_wait, ..evidence }
    }

    /// Whether an attempt has ended in success since `time`.
    pub fn has_worked_since(&self, time: Instant) -> bool {
        self.worked_at.is_after(time)
    }

    /// A run is given up on though no other run could be compared with.
    pub fn gave_up_unproved(&self, run: &Run) {
        self.state.lock().hold.gave_up_unproved(run);
    }

    /// A run that has used its attempts waits until the step works again, which one run at a time tries.
    pub fn hold(&self, run: Run, cause: &str) {
        let now = clock::now();
        let mut state = self.state.lock();
        // Since this run failed, others may have succeeded, after which nobody watches for successes. But the hold must
        // see the next one.
        self.is_watched.store(true, Release);
        state.hold.hold(cause, now);
        state.retry(run, now);
        drop(state);
        self.idle.wake_one();
    }

    /// The hold under way.
    pub fn held(&self) -> Option<Held> {
        self.state.lock().hold.held()
    }

    /// During a hold: the next run probes at once. False if there is no hold.
    pub fn probe_now(&self) -> bool {
        let is_held = self.state.lock().hold.probe_now(clock::now());
        self.idle.wake_one();
        is_held
    }

    /// The runs that wait for another attempt, and their partitions are not suspended.
    pub fn failed_runs(&self) -> Vec<RunId> {
        self.state.lock().failed_runs()
    }

    /// A person gives up on the `failed_runs`; each ends with `error`. Waits up to `limit` for each whose step has just
    /// returned. Returns how many there were.
    pub fn give_up(&self, error: &str, limit: Duration) -> usize {
        let runs = self.failed_runs();
        for run in &runs {
            self.cancels.cancel(*run, error, limit);
            self.hurry(*run);
        }
        runs.len()
    }
}

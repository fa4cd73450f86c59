//! Which runs were cancelled, and which have started. A cancel may come before a run's attempt (which then does
//! not start), during the attempt, or after the run has ended.
//!
//! What follows for a cancelled run is decided in `outcome`. Redrives and replays are cancelled as a whole in
//! `requested`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::model::run::RunId;
use crate::model::sync::{Condvar, Mutex, MutexGuard};

#[derive(Debug, Default)]
pub struct Cancels {
    state: Mutex<State>,
    /// Signalled by `reported`.
    reported: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Cancelled runs that no worker has taken yet, each with its final error.
    waiting: BTreeMap<RunId, String>,
    started: BTreeMap<RunId, Started>,
    /// How many cancels wait for a report.
    sleeping: usize,
}

#[derive(Debug)]
enum Started {
    /// In its step; with the run's final error if it was cancelled meanwhile.
    InStep(Option<String>),
    /// Its step has returned, and the outcome is not yet on its way to the history.
    Ending,
}

/// In which phase a cancel has found its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// In its step.
    InStep,
    /// Not started, as far as this process knows. Only the history knows whether such a run exists.
    NotBegun,
    /// Its step has returned, and the outcome was not reported in time.
    Ending,
}

impl Cancels {
    /// A worker has taken the run. Returns its final error if it was cancelled; then its step must not run. The
    /// caller must call `reported` later.
    pub fn begin(&self, run: RunId) -> Option<String> {
        let mut state = self.lock();
        if let Some(error) = state.waiting.remove(&run) {
            state.started.insert(run, Started::Ending);
            return Some(error);
        }
        state.started.insert(run, Started::InStep(None));
        None
    }

    /// The step has returned. Returns the run's final error if it was cancelled meanwhile; a later cancel comes
    /// too late for this attempt.
    pub fn step_over(&self, run: RunId) -> Option<String> {
        match self.lock().started.insert(run, Started::Ending) {
            Some(Started::InStep(error)) => error,
            Some(Started::Ending) | None => None,
        }
    }

    /// The attempt's outcome is on its way to the history. `ended`: the run gets no other attempt.
    pub fn reported(&self, run: RunId, ended: bool) {
        let mut state = self.lock();
        state.started.remove(&run);
        if ended {
            state.waiting.remove(&run);
        }
        if state.sleeping > 0 {
            self.reported.notify_all();
        }
    }

    /// Cancels a run, which then ends with `error`. If the run's step has just returned, this waits up to `limit`
    /// until its outcome is reported.
    pub fn cancel(&self, run: RunId, error: &str, limit: Duration) -> Found {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        loop {
            match state.started.get_mut(&run) {
                Some(Started::InStep(cancelled)) => {
                    cancelled.get_or_insert_with(|| error.to_owned());
                    return Found::InStep;
                }
                None => {
                    state.waiting.entry(run).or_insert_with(|| error.to_owned());
                    return Found::NotBegun;
                }
                Some(Started::Ending) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Found::Ending;
                    }
                    state.sleeping += 1;
                    self.reported.wait_for(&mut state, left);
                    state.sleeping -= 1;
                }
            }
        }
    }

    /// Undoes a cancel that found no run; false if a worker has taken the run meanwhile.
    pub fn take_back(&self, run: RunId) -> bool {
        self.lock().waiting.remove(&run).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::thread;

    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn a_run_that_is_cancelled_before_its_turn_does_not_start() {
        let cancels = Cancels::default();
        assert_eq!(cancels.cancel(RunId(1), "first", LIMIT), Found::NotBegun);
        assert_eq!(cancels.cancel(RunId(1), "second", LIMIT), Found::NotBegun);
        assert_eq!(cancels.begin(RunId(1)).as_deref(), Some("first"));
        assert!(!cancels.take_back(RunId(1)), "it has had its turn");
        cancels.reported(RunId(1), true);
        assert_eq!(cancels.begin(RunId(2)), None, "others go on");
    }

    #[test]
    fn a_run_that_is_cancelled_in_its_step_ends_with_that_and_none_is_cancelled_twice() {
        let cancels = Cancels::default();
        assert_eq!(cancels.begin(RunId(1)), None);
        assert_eq!(cancels.cancel(RunId(1), "first", LIMIT), Found::InStep);
        assert_eq!(cancels.cancel(RunId(1), "second", LIMIT), Found::InStep);
        assert_eq!(cancels.step_over(RunId(1)).as_deref(), Some("first"));
        assert_eq!(cancels.cancel(RunId(1), "late", Duration::ZERO), Found::Ending);
        cancels.reported(RunId(1), true);
        assert!(cancels.lock().started.is_empty() && cancels.lock().waiting.is_empty());
    }

    #[test]
    fn a_cancel_after_a_failed_step_counts_at_the_next_turn() {
        let cancels = Arc::new(Cancels::default());
        cancels.begin(RunId(1));
        assert_eq!(cancels.step_over(RunId(1)), None);
        let canceller = {
            let cancels = Arc::clone(&cancels);
            thread::spawn("canceller", move || cancels.cancel(RunId(1), "no more", LIMIT)).unwrap()
        };
        // The run gets another attempt.
        cancels.reported(RunId(1), false);
        assert_eq!(canceller.join(), Ok(Found::NotBegun));
        assert_eq!(cancels.begin(RunId(1)).as_deref(), Some("no more"));
    }

    #[test]
    fn a_cancel_that_comes_as_its_run_ends_leaves_nothing() {
        let cancels = Cancels::default();
        cancels.cancel(RunId(1), "of no run", LIMIT);
        assert!(cancels.take_back(RunId(1)));
        // The run ends in another way: its dead letters were waiting for their topic.
        cancels.cancel(RunId(2), "too late", LIMIT);
        cancels.reported(RunId(2), true);
        assert!(cancels.lock().waiting.is_empty());
    }

    #[test]
    fn each_cancel_is_seen_by_its_run_or_learns_that_it_is_late() {
        const RUNS: i64 = 2000;
        let cancels = Arc::new(Cancels::default());
        let canceller = {
            let cancels = Arc::clone(&cancels);
            let ask = move || -> Vec<bool> {
                (0..RUNS)
                    .map(|run| {
                        let found = cancels.cancel(RunId(run), "no", LIMIT);
                        // As the canceller does if the history says that the run has ended.
                        found == Found::InStep || !cancels.take_back(RunId(run))
                    })
                    .collect()
            };
            thread::spawn("canceller", ask).unwrap()
        };
        let seen: Vec<bool> = (0..RUNS)
            .map(|run| {
                let before = cancels.begin(RunId(run)).is_some();
                let within = !before && cancels.step_over(RunId(run)).is_some();
                cancels.reported(RunId(run), true);
                before || within
            })
            .collect();
        assert_eq!(canceller.join().unwrap(), seen);
    }
}

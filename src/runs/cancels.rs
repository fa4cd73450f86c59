//! Which runs somebody has given up, and which have begun: a cancel comes before an attempt, which
//! then does not begin, or within it, or behind the run's end. What becomes of a cancelled run is
//! decided in `worker`; redrives and replays are cancelled as a whole in `requested`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::model::run::RunId;
use crate::model::sync::{Condvar, Mutex, MutexGuard};

#[derive(Debug, Default)]
pub struct Cancels {
    state: Mutex<State>,
    /// A run's outcome was told, or is about to be.
    reported: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Runs that are to be given up at their turn: each with the error that they end with.
    waiting: BTreeMap<RunId, String>,
    begun: BTreeMap<RunId, Begun>,
    /// Cancels that wait for an outcome to be told.
    sleeping: usize,
}

#[derive(Debug)]
enum Begun {
    /// In its step; with the error that it ends with, where it was cancelled since.
    InStep(Option<String>),
    /// Its step is over, and what follows is not in the history yet.
    Ending,
}

/// Where a cancel found its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// In its step.
    InStep,
    /// Not begun, as far as this process knows: whether there is such a run is the history's to say.
    NotBegun,
    /// Its step is over, and the history could not say yet what follows.
    Ending,
}

impl Cancels {
    /// A run's turn has come. The error that it ends with where it was cancelled: then its step must
    /// not be run. To be followed by `reported`.
    pub fn begin(&self, run: RunId) -> Option<String> {
        let mut state = self.lock();
        if let Some(error) = state.waiting.remove(&run) {
            state.begun.insert(run, Begun::Ending);
            return Some(error);
        }
        state.begun.insert(run, Begun::InStep(None));
        None
    }

    /// The step is over. The error that the run ends with where it was cancelled meanwhile; later
    /// cancels come too late for this attempt.
    pub fn step_over(&self, run: RunId) -> Option<String> {
        match self.lock().begun.insert(run, Begun::Ending) {
            Some(Begun::InStep(error)) => error,
            Some(Begun::Ending) | None => None,
        }
    }

    /// What follows of the attempt is on its way into the history; `ended`: nothing more of this run.
    pub fn reported(&self, run: RunId, ended: bool) {
        let mut state = self.lock();
        state.begun.remove(&run);
        if ended {
            state.waiting.remove(&run);
        }
        if state.sleeping > 0 {
            self.reported.notify_all();
        }
    }

    /// Gives a run up, which then ends with `error`. One that is just ending is waited for, `limit`
    /// at most.
    pub fn cancel(&self, run: RunId, error: &str, limit: Duration) -> Found {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        loop {
            match state.begun.get_mut(&run) {
                Some(Begun::InStep(cancelled)) => {
                    cancelled.get_or_insert_with(|| error.to_owned());
                    return Found::InStep;
                }
                None => {
                    state.waiting.entry(run).or_insert_with(|| error.to_owned());
                    return Found::NotBegun;
                }
                Some(Begun::Ending) => {
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

    /// Takes a cancel back that found no run; false where its run has had its turn by now.
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
    fn a_run_that_is_cancelled_before_its_turn_does_not_begin() {
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
        assert!(cancels.lock().begun.is_empty() && cancels.lock().waiting.is_empty());
    }

    #[test]
    fn a_cancel_behind_a_failed_step_counts_at_the_next_turn() {
        let cancels = Arc::new(Cancels::default());
        cancels.begin(RunId(1));
        assert_eq!(cancels.step_over(RunId(1)), None);
        let asking = {
            let cancels = Arc::clone(&cancels);
            thread::spawn("asking", move || cancels.cancel(RunId(1), "no more", LIMIT)).unwrap()
        };
        // The run is tried again.
        cancels.reported(RunId(1), false);
        assert_eq!(asking.join(), Ok(Found::NotBegun));
        assert_eq!(cancels.begin(RunId(1)).as_deref(), Some("no more"));
    }

    #[test]
    fn a_cancel_that_comes_as_its_run_ends_leaves_nothing() {
        let cancels = Cancels::default();
        cancels.cancel(RunId(1), "of no run", LIMIT);
        assert!(cancels.take_back(RunId(1)));
        // Its topic's letters go first: the run ends otherwise.
        cancels.cancel(RunId(2), "too late", LIMIT);
        cancels.reported(RunId(2), true);
        assert!(cancels.lock().waiting.is_empty());
    }

    #[test]
    fn whoever_comes_first_each_cancel_is_seen_by_its_run_or_is_told_that_it_is_late() {
        const RUNS: i64 = 2000;
        let cancels = Arc::new(Cancels::default());
        let asking = {
            let cancels = Arc::clone(&cancels);
            let ask = move || -> Vec<bool> {
                (0..RUNS)
                    .map(|run| {
                        let found = cancels.cancel(RunId(run), "no", LIMIT);
                        // As who asks finds in the history that the run has ended.
                        found == Found::InStep || !cancels.take_back(RunId(run))
                    })
                    .collect()
            };
            thread::spawn("asking", ask).unwrap()
        };
        let seen: Vec<bool> = (0..RUNS)
            .map(|run| {
                let before = cancels.begin(RunId(run)).is_some();
                let within = !before && cancels.step_over(RunId(run)).is_some();
                cancels.reported(RunId(run), true);
                before || within
            })
            .collect();
        assert_eq!(asking.join().unwrap(), seen);
    }
}

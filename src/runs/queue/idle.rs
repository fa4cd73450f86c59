//! Puts idle workers to sleep, and wakes one when there may be a run for it. A woken worker looks into the queue
//! itself.
//!
//! One worker is woken at a time: the next one only after the first has started a run, and only if more runs
//! wait. If every run woke all workers, a few quick runs would cost a context switch for each of 1000 workers.
//! If runs are slow, all workers are busy after as many wake-ups as there are workers.

use std::time::Duration;

use crate::model::sync::{Condvar, Mutex, MutexGuard};

#[derive(Debug, Default)]
pub struct IdleWorkers {
    state: Mutex<State>,
    woken: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// A worker was woken and has not looked into the queue yet; or none was asleep, and the next one that wants
    /// to sleep must look first.
    is_coming: bool,
    /// `wake_one` was called while a worker was coming.
    wants_another: bool,
    asleep: usize,
}

impl IdleWorkers {
    /// Makes one worker look into the queue, unless one is coming already.
    pub fn wake_one(&self) {
        let mut state = self.lock();
        if state.is_coming {
            state.wants_another = true;
        } else {
            self.wake_now(state);
        }
    }

    /// The worker that was coming has started a run, or ends. Another one is woken if `wake_one` was called
    /// meanwhile, or if `more` is true (more runs wait).
    pub fn arrived(&self, more: impl FnOnce() -> bool) {
        let mut state = self.lock();
        state.is_coming = false;
        if std::mem::take(&mut state.wants_another) || more() {
            self.wake_now(state);
        }
    }

    /// Makes all sleeping workers look into the queue.
    pub fn wake_all(&self) {
        drop(self.lock());
        self.woken.notify_all();
    }

    /// Sleeps until woken or until `limit` is over; spurious wake-ups happen. Does not sleep if `is_over` is true,
    /// which must become true before `wake_all` is called.
    pub fn sleep(&self, limit: Duration, is_over: impl FnOnce() -> bool) {
        let mut state = self.lock();
        if state.is_coming {
            // A wake-up came between this worker's look into the queue and its sleep: it looks once more.
            *state = State { asleep: state.asleep, ..State::default() };
        } else if !is_over() {
            state.asleep += 1;
            self.woken.wait_for(&mut state, limit);
            state.asleep -= 1;
        }
    }

    fn wake_now(&self, mut state: MutexGuard<'_, State>) {
        state.is_coming = true;
        let is_any_asleep = state.asleep > 0;
        // Unlocked first: the woken worker would wait for the lock at once.
        drop(state);
        if is_any_asleep {
            self.woken.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use crossbeam_channel::bounded;

    use super::*;
    use crate::model::thread;

    const HOUR: Duration = Duration::from_secs(3600);

    fn asleep(idle: &IdleWorkers, count: usize) {
        while idle.lock().asleep < count {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_worker_that_wants_to_sleep_looks_once_more_if_one_is_wanted() {
        let idle = IdleWorkers::default();
        let begin = Instant::now();
        idle.wake_one();
        idle.sleep(HOUR, || false);
        assert!(!idle.lock().is_coming, "it has looked");
        idle.sleep(HOUR, || true);
        idle.sleep(Duration::from_millis(1), || false);
        assert!(begin.elapsed() < HOUR);
    }

    #[test]
    fn the_next_worker_is_woken_when_the_first_has_started_a_run_and_not_before() {
        let idle = Arc::new(IdleWorkers::default());
        let (woken, wakes) = bounded(2);
        let sleepers = [0, 1].map(|_| {
            let (idle, woken) = (Arc::clone(&idle), woken.clone());
            let sleep = move || {
                idle.sleep(HOUR, || false);
                woken.send(()).unwrap();
            };
            thread::spawn("sleeper", sleep).unwrap()
        });
        asleep(&idle, 2);
        idle.wake_one();
        wakes.recv().unwrap();
        idle.wake_one();
        assert!(idle.lock().wants_another && wakes.is_empty(), "one is on its way");
        idle.arrived(|| false);
        wakes.recv().unwrap();
        idle.arrived(|| false);
        assert!(!idle.lock().is_coming, "there is no more");
        sleepers.into_iter().for_each(|sleeper| sleeper.join().unwrap());
    }

    #[test]
    fn all_are_woken_at_the_end_and_none_sleeps_after_it() {
        let idle = Arc::new(IdleWorkers::default());
        let sleepers = [0, 1, 2].map(|_| {
            let idle = Arc::clone(&idle);
            thread::spawn("sleeper", move || idle.sleep(HOUR, || false)).unwrap()
        });
        asleep(&idle, 3);
        idle.wake_all();
        sleepers.into_iter().for_each(|sleeper| sleeper.join().unwrap());
        idle.sleep(HOUR, || true);
    }
}

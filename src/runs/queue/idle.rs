//! Where idle workers sleep until there may be something to do. What that is, they look for themselves.
//!
//! One worker comes for all that it was woken for until it has begun something: only then the next one is
//! woken, if there is more. So a few quick runs wake one worker and not all of them, and where runs are
//! slow all are at work after as many wake-ups.

use std::time::Duration;

use crate::model::sync::{Condvar, Mutex, MutexGuard};

#[derive(Debug, Default)]
pub(super) struct IdleWorkers {
    state: Mutex<State>,
    woken: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// A worker comes, or will: the next that would sleep.
    comes: bool,
    /// One was wanted again meanwhile.
    again: bool,
    asleep: usize,
}

impl IdleWorkers {
    /// One worker looks again, unless one is on its way.
    pub fn wake_one(&self) {
        let mut state = self.lock();
        if state.comes {
            state.again = true;
        } else {
            self.wake_now(state);
        }
    }

    /// Who came has begun something, or goes away: another one looks, where one was wanted meanwhile or
    /// `more` says that there is more.
    pub fn begun(&self, more: impl FnOnce() -> bool) {
        let mut state = self.lock();
        state.comes = false;
        if std::mem::take(&mut state.again) || more() {
            self.wake_now(state);
        }
    }

    /// All that sleep look again.
    pub fn wake_all(&self) {
        drop(self.lock());
        self.woken.notify_all();
    }

    /// Sleeps until it is woken or `limit` is over, now and then a little less. Not where `is_over`: what
    /// it says is made true before `wake_all`.
    pub fn sleep(&self, limit: Duration, is_over: impl FnOnce() -> bool) {
        let mut state = self.lock();
        if state.comes {
            // It looks once more, for whoever wants one.
            *state = State { asleep: state.asleep, ..State::default() };
        } else if !is_over() {
            state.asleep += 1;
            self.woken.wait_for(&mut state, limit);
            state.asleep -= 1;
        }
    }

    fn wake_now(&self, mut state: MutexGuard<'_, State>) {
        state.comes = true;
        let sleeps = state.asleep > 0;
        // Who is woken takes the lock at once.
        drop(state);
        if sleeps {
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
    fn who_would_sleep_looks_once_more_where_one_was_wanted_before() {
        let idle = IdleWorkers::default();
        let begin = Instant::now();
        idle.wake_one();
        idle.sleep(HOUR, || false);
        assert!(!idle.lock().comes, "it came for it");
        idle.sleep(HOUR, || true);
        idle.sleep(Duration::from_millis(1), || false);
        assert!(begin.elapsed() < HOUR);
    }

    #[test]
    fn the_next_one_is_woken_when_the_first_has_begun_and_not_before() {
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
        assert!(idle.lock().again && wakes.is_empty(), "one is on its way");
        idle.begun(|| false);
        wakes.recv().unwrap();
        idle.begun(|| false);
        assert!(!idle.lock().comes, "there is no more");
        sleepers.into_iter().for_each(|sleeper| sleeper.join().unwrap());
    }

    #[test]
    fn all_are_woken_at_the_end_and_nobody_sleeps_behind_it() {
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

//! Where idle workers sleep until there may be something to do. What that is, they look for themselves.
//!
//! One worker comes for all that was rung for until it has begun something: only then the next one is
//! woken, if there is more. So a few quick runs wake one worker and not all of them, and where runs are
//! slow all are at work after as many wake-ups.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Debug, Default)]
pub(super) struct Bell {
    state: Mutex<State>,
    rung: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// A worker comes for it, or will: the next that would sleep.
    rung: bool,
    /// It rang again meanwhile.
    missed: bool,
    asleep: usize,
}

impl Bell {
    /// One worker looks again, unless one is on its way.
    pub fn ring(&self) {
        let mut state = self.lock();
        if state.rung {
            state.missed = true;
        } else {
            self.ring_now(state);
        }
    }

    /// Who came has begun something, or goes away: another one looks, where it rang again meanwhile or
    /// `more` says that there is more.
    pub fn answered(&self, more: impl FnOnce() -> bool) {
        let mut state = self.lock();
        state.rung = false;
        if std::mem::take(&mut state.missed) || more() {
            self.ring_now(state);
        }
    }

    /// All that sleep look again.
    pub fn ring_all(&self) {
        drop(self.lock());
        self.rung.notify_all();
    }

    /// Sleeps until the bell rings or `limit` is over, now and then a little less. Not where `is_over`:
    /// what it says is made true before `ring_all`.
    pub fn sleep(&self, limit: Duration, is_over: impl FnOnce() -> bool) {
        let mut state = self.lock();
        if state.rung {
            // It looks once more, for whoever rang.
            *state = State { asleep: state.asleep, ..State::default() };
        } else if !is_over() {
            state.asleep += 1;
            let woken = self.rung.wait_timeout(state, limit);
            woken.unwrap_or_else(PoisonError::into_inner).0.asleep -= 1;
        }
    }

    fn ring_now(&self, mut state: MutexGuard<'_, State>) {
        state.rung = true;
        let sleeps = state.asleep > 0;
        // Who is woken takes the lock at once.
        drop(state);
        if sleeps {
            self.rung.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use crossbeam_channel::bounded;

    use super::*;
    use crate::thread;

    const HOUR: Duration = Duration::from_secs(3600);

    fn asleep(bell: &Bell, count: usize) {
        while bell.lock().asleep < count {
            std::thread::yield_now();
        }
    }

    #[test]
    fn who_would_sleep_looks_once_more_where_it_rang_before() {
        let bell = Bell::default();
        let begin = Instant::now();
        bell.ring();
        bell.sleep(HOUR, || false);
        assert!(!bell.lock().rung, "it came for it");
        bell.sleep(HOUR, || true);
        bell.sleep(Duration::from_millis(1), || false);
        assert!(begin.elapsed() < HOUR);
    }

    #[test]
    fn the_next_one_is_woken_when_the_first_has_begun_and_not_before() {
        let bell = Arc::new(Bell::default());
        let (woken, wakes) = bounded(2);
        let sleepers = [0, 1].map(|_| {
            let (bell, woken) = (Arc::clone(&bell), woken.clone());
            let sleep = move || {
                bell.sleep(HOUR, || false);
                woken.send(()).unwrap();
            };
            thread::spawn("sleeper", sleep).unwrap()
        });
        asleep(&bell, 2);
        bell.ring();
        wakes.recv().unwrap();
        bell.ring();
        assert!(bell.lock().missed && wakes.is_empty(), "one is on its way");
        bell.answered(|| false);
        wakes.recv().unwrap();
        bell.answered(|| false);
        assert!(!bell.lock().rung, "there is no more");
        sleepers.into_iter().for_each(|sleeper| sleeper.join().unwrap());
    }

    #[test]
    fn all_are_woken_at_the_end_and_nobody_sleeps_behind_it() {
        let bell = Arc::new(Bell::default());
        let sleepers = [0, 1, 2].map(|_| {
            let bell = Arc::clone(&bell);
            thread::spawn("sleeper", move || bell.sleep(HOUR, || false)).unwrap()
        });
        asleep(&bell, 3);
        bell.ring_all();
        sleepers.into_iter().for_each(|sleeper| sleeper.join().unwrap());
        bell.sleep(HOUR, || true);
    }
}

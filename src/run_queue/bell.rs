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

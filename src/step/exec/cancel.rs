//! Cancels single commands: which attempts are running, and how a cancel wakes the thread that watches the
//! attempt's command.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

use crate::model::offset::RunKey;
use crate::model::sync::{Mutex, MutexGuard};

/// Attempts that are under way, by run key.
#[derive(Debug, Default)]
pub struct Attempts(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    running: HashMap<RunKey, Arc<Cancel>>,
    /// Runs that were cancelled before their attempt was entered here, or after its end. In the second case the
    /// cancel fails the next attempt of that key, which is then retried.
    early: HashSet<RunKey>,
}

/// How many early cancels are remembered. Without a limit, cancels of runs that never start would pile up.
const EARLY: usize = 1000;

/// The cancel of one attempt.
#[derive(Debug)]
pub struct Cancel {
    is_requested: AtomicBool,
    /// Readable once it is requested.
    pub wake: OwnedFd,
}

impl Cancel {
    pub fn new() -> io::Result<Cancel> {
        Ok(Cancel {
            is_requested: AtomicBool::new(false),
            wake: eventfd(0, EventfdFlags::CLOEXEC)?,
        })
    }

    pub fn request(&self) {
        self.is_requested.store(true, Ordering::Release);
        // The eventfd cannot be full: its counter has 64 bits.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    pub fn is_requested(&self) -> bool {
        self.is_requested.load(Ordering::Acquire)
    }
}

/// An attempt's entry, until it is dropped.
pub struct Entered<'a> {
    attempts: &'a Attempts,
    key: &'a RunKey,
    pub cancel: Arc<Cancel>,
}

impl Attempts {
    /// # Errors
    /// If no file descriptor is left.
    pub fn enter<'a>(&'a self, key: &'a RunKey) -> io::Result<Entered<'a>> {
        let cancel = Arc::new(Cancel::new()?);
        let mut state = self.lock();
        if state.early.remove(key) {
            cancel.request();
        }
        state.running.insert(key.clone(), Arc::clone(&cancel));
        Ok(Entered { attempts: self, key, cancel })
    }

    pub fn cancel(&self, key: &RunKey) {
        let mut state = self.lock();
        if let Some(cancel) = state.running.get(key) {
            return cancel.request();
        }
        if state.early.len() >= EARLY {
            state.early.clear();
        }
        state.early.insert(key.clone());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.attempts.lock().running.remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::offset::{Offset, OffsetRange};

    #[test]
    fn a_cancel_reaches_the_attempt_that_runs_or_is_about_to() {
        let range = OffsetRange::new(Offset::new(3), Offset::new(4));
        let (key, other) = (RunKey::new("t", 0, range), RunKey::new("t", 1, range));
        let attempts = Attempts::default();
        let entered = attempts.enter(&key).unwrap();
        let beside = attempts.enter(&other).unwrap();
        attempts.cancel(&key);
        assert!(entered.cancel.is_requested() && !beside.cancel.is_requested());
        drop(entered);
        attempts.cancel(&key);
        assert!(attempts.enter(&key).unwrap().cancel.is_requested());
        assert!(!attempts.enter(&key).unwrap().cancel.is_requested(), "once");
    }
}

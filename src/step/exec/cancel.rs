//! Cancelling commands one by one: who runs which run's, and the way to the thread that watches it.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

use crate::model::offset::RunKey;
use crate::model::sync::{Mutex, MutexGuard};

/// Attempts that are under way, by their run.
#[derive(Debug, Default)]
pub struct Attempts(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    running: HashMap<RunKey, Arc<Cancel>>,
    /// Cancelled in the moment before the attempt was known here, or behind its end; then it fails
    /// one attempt of a later run of that key, which is tried again.
    early: HashSet<RunKey>,
}

/// How many of the latter are remembered.
const EARLY: usize = 1000;

/// Tells one attempt that it was cancelled.
#[derive(Debug)]
pub struct Cancel {
    asked: AtomicBool,
    /// Readable from then on.
    pub wake: OwnedFd,
}

impl Cancel {
    pub fn new() -> io::Result<Cancel> {
        Ok(Cancel { asked: AtomicBool::new(false), wake: eventfd(0, EventfdFlags::CLOEXEC)? })
    }

    pub fn ask(&self) {
        self.asked.store(true, Ordering::Release);
        // It cannot be full: its count has 64 bits.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
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
    /// Where no descriptor is left.
    pub fn enter<'a>(&'a self, key: &'a RunKey) -> io::Result<Entered<'a>> {
        let cancel = Arc::new(Cancel::new()?);
        let mut state = self.lock();
        if state.early.remove(key) {
            cancel.ask();
        }
        state.running.insert(key.clone(), Arc::clone(&cancel));
        Ok(Entered { attempts: self, key, cancel })
    }

    pub fn cancel(&self, key: &RunKey) {
        let mut state = self.lock();
        if let Some(cancel) = state.running.get(key) {
            return cancel.ask();
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
        assert!(entered.cancel.is_asked() && !beside.cancel.is_asked());
        drop(entered);
        attempts.cancel(&key);
        assert!(attempts.enter(&key).unwrap().cancel.is_asked());
        assert!(!attempts.enter(&key).unwrap().cancel.is_asked(), "once");
    }
}

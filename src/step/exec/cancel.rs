//! Which attempts are running: how a cancel wakes the thread that watches the attempt's command, and what that has
//! printed so far.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use rustix::event::{EventfdFlags, eventfd};

use super::capture::Captured;
use crate::model::offset::RunKey;
use crate::model::sync::{Mutex, MutexGuard};

/// Attempts that are under way, by run key.
#[derive(Debug, Default)]
pub struct Attempts(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    running: HashMap<RunKey, (Arc<Cancel>, Arc<Captured>)>,
    /// Runs that were cancelled before their attempt was entered here, or after its end. In the second case the
    /// cancel fails the next attempt of that key, which is then retried.
    early: HashSet<RunKey>,
}

/// How many early cancels are remembered. Without a limit, cancels of runs that never start would pile up.
const EARLY: usize = 1000;

/// The cancel of one attempt.
#[derive(Debug, Default)]
pub struct Cancel(Mutex<CancelState>);

#[derive(Debug, Default)]
struct CancelState {
    is_requested: bool,
    /// Of the command that runs.
    wake: Weak<OwnedFd>,
}

impl Cancel {
    /// For a command that is about to start: readable once the cancel is requested. The descriptor is the
    /// caller's, so an attempt that waits for room has none: 40 of them would take the room that the others
    /// need.
    ///
    /// # Errors
    /// If no file descriptor is left.
    pub fn arm(&self) -> io::Result<Arc<OwnedFd>> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let mut state = self.0.lock();
        state.wake = Arc::downgrade(&wake);
        if state.is_requested {
            signal(&wake);
        }
        Ok(wake)
    }

    pub fn request(&self) {
        let mut state = self.0.lock();
        state.is_requested = true;
        if let Some(wake) = state.wake.upgrade() {
            signal(&wake);
        }
    }

    pub fn is_requested(&self) -> bool {
        self.0.lock().is_requested
    }
}

fn signal(wake: &OwnedFd) {
    // It cannot be full: its count has 64 bits.
    let _ = rustix::io::write(wake, &1_u64.to_ne_bytes());
}

/// An attempt's entry, until it is dropped.
pub struct Entered<'a> {
    attempts: &'a Attempts,
    key: &'a RunKey,
    pub cancel: Arc<Cancel>,
    pub output: Arc<Captured>,
}

impl Attempts {
    pub fn enter<'a>(&'a self, key: &'a RunKey) -> Entered<'a> {
        let (cancel, output) = (Arc::<Cancel>::default(), Arc::<Captured>::default());
        let mut state = self.lock();
        if state.early.remove(key) {
            cancel.request();
        }
        state.running.insert(key.clone(), (Arc::clone(&cancel), Arc::clone(&output)));
        Entered { attempts: self, key, cancel, output }
    }

    /// What the attempt of this key has printed so far; `None` if none is running.
    pub fn output(&self, key: &RunKey) -> Option<Arc<Captured>> {
        self.lock().running.get(key).map(|(_, output)| Arc::clone(output))
    }

    pub fn cancel(&self, key: &RunKey) {
        let mut state = self.lock();
        if let Some((cancel, _)) = state.running.get(key) {
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
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;
    use crate::model::offset::{Offset, OffsetRange};

    #[test]
    fn a_cancel_reaches_the_attempt_that_runs_or_is_about_to() {
        let range = OffsetRange::new(Offset::new(3), Offset::new(4));
        let (key, other) = (RunKey::new("t", 0, range), RunKey::new("t", 1, range));
        let attempts = Attempts::default();
        let entered = attempts.enter(&key);
        let beside = attempts.enter(&other);
        attempts.cancel(&key);
        assert!(entered.cancel.is_requested() && !beside.cancel.is_requested());
        beside.output.stdout.lock().push(b"so far");
        assert_eq!(attempts.output(&other).and_then(|output| output.text()), Some("so far".into()));
        drop(entered);
        assert!(attempts.output(&key).is_none());
        attempts.cancel(&key);
        assert!(attempts.enter(&key).cancel.is_requested());
        assert!(!attempts.enter(&key).cancel.is_requested(), "once");
    }

    #[test]
    fn a_command_learns_of_a_cancel_before_and_after_its_start() {
        let is_readable = |wake: &OwnedFd| {
            let mut polled = [PollFd::new(wake, PollFlags::IN)];
            poll(&mut polled, Some(&Timespec::default())).unwrap() == 1
        };
        let cancel = Cancel::default();
        let first = cancel.arm().unwrap();
        assert!(!is_readable(&first));
        cancel.request();
        assert!(is_readable(&first) && is_readable(&cancel.arm().unwrap()));
    }
}

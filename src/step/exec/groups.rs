//! The process groups of commands that are running, so that a forced stop can end them all.

use std::collections::HashSet;

use crate::model::sync::{Mutex, MutexGuard};

use rustix::process::{Pid, Signal, kill_process_group};

/// Live process groups by their leader's id.
///
/// Invariant: a group's leader is not reaped while its id is in here. Once it is reaped, the kernel may give
/// the id to another process group, which `abort` would kill.
#[derive(Debug, Default)]
pub struct Groups {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    live: HashSet<Pid>,
    aborted: bool,
}

impl Groups {
    /// Adds a group that has just been started. After an `abort` it is killed at once.
    pub fn add(&self, id: Pid) {
        let mut state = self.state();
        state.live.insert(id);
        if state.aborted {
            kill(id);
        }
    }

    /// Must be called before the group's leader is reaped.
    pub fn remove(&self, id: Pid) {
        self.state().live.remove(&id);
    }

    /// Kills every group, and every group that is added later.
    pub fn abort(&self) {
        let mut state = self.state();
        state.aborted = true;
        for id in &state.live {
            kill(*id);
        }
    }

    pub fn aborted(&self) -> bool {
        self.state().aborted
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

fn kill(id: Pid) {
    // An error needs no report: the thread that watches the command reports if it does not end.
    let _ = kill_process_group(id, Signal::KILL);
}

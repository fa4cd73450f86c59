//! The process groups of commands that are running, so that a forced stop can end them all.

use std::collections::HashSet;

use crate::model::sync::{Mutex, MutexGuard};

use rustix::process::{Pid, Signal, kill_process_group};

/// Live process groups by their leader's id.
///
/// Invariant: a group's leader is not reaped as long as its id is in here, so the id is never
/// somebody else's.
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
    /// Takes in a group that has just been started; kills it at once after an `abort`.
    pub fn add(&self, id: Pid) {
        let mut state = self.state();
        state.live.insert(id);
        if state.aborted {
            kill(id);
        }
    }

    /// To be called before the group's leader is reaped.
    pub fn remove(&self, id: Pid) {
        self.state().live.remove(&id);
    }

    /// Kills every group, and each one that comes later.
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
    // Its end, or that it does not end, is seen by the thread that watches it.
    let _ = kill_process_group(id, Signal::KILL);
}

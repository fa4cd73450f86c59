//! How a step waits if the disk is full or a folder that it needs is gone. An attempt that failed instead would
//! turn good records into dead letters. The wait is logged once when it begins, and once when it ends.
//!
//! A full disk under the history is handled in `history::writer`; how many commands run while file descriptors
//! or processes are short, in `exec::slots`.

use std::io::{self, ErrorKind};
use std::time::Instant;

use rustix::io::Errno;

use super::StepError;
use crate::config::limits;
use crate::model::sync::{Condvar, Mutex, MutexGuard};

#[derive(Debug, Default)]
pub struct Shortage {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    since: Option<Instant>,
    /// Attempts that wait now.
    waiting: usize,
    /// mb is stopping, so no attempt waits any more.
    stopping: bool,
}

/// What follows a failed try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another try.
    Retry,
    /// mb is stopping: the attempt ends without a verdict on its records.
    NotDone,
    /// The cause is not a shortage: the attempt failed.
    Failed,
}

impl Next {
    /// How the attempt ends; `None` if it goes on.
    pub fn error(self, doing: &str, cause: &io::Error) -> Option<StepError> {
        let text = || format!("cannot {doing}: {cause}");
        match self {
            Next::Retry => None,
            Next::NotDone => Some(StepError::NotDone(text())),
            Next::Failed => Some(StepError::Retry(text())),
        }
    }
}

impl Shortage {
    /// Waits a moment whatever the cause, for work that no record can make fail. `doing` is what failed, as in
    /// "write FILE".
    pub fn wait_out(&self, doing: &str, cause: &io::Error) -> Next {
        let mut state = self.state();
        if state.since.is_none() {
            state.since = Some(Instant::now());
            log::error!(
                "cannot {doing}: {cause}; runs wait until that is over (retried about every {:?})",
                limits::ROOM_RETRY_INTERVAL
            );
        }
        state.waiting += 1;
        // Not all at the same moment: each would find that the others have taken what there is.
        let wait = limits::ROOM_RETRY_INTERVAL.mul_f64(0.5 + fastrand::f64());
        self.changed.wait_while_for(&mut state, |state| !state.stopping, wait);
        state.waiting -= 1;
        if state.stopping { Next::NotDone } else { Next::Retry }
    }

    /// Reports success, which ends the shortage, unless attempts of others still wait. `doing` as in `wait_out`.
    pub fn over(&self, doing: &str) {
        let mut state = self.state();
        if state.waiting == 0
            && let Some(since) = state.since.take()
        {
            log::info!("can {doing} again, after {} s", since.elapsed().as_secs());
        }
    }

    /// Ends all waits, now and later: mb is stopping.
    pub fn stop(&self) {
        self.state().stopping = true;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// Whether the machine lacks something that may come back: room, descriptors, processes, memory.
pub fn is_shortage(cause: &io::Error) -> bool {
    let lacking = [Errno::MFILE, Errno::NFILE, Errno::AGAIN, Errno::NOMEM];
    matches!(cause.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
        || Errno::from_io_error(cause).is_some_and(|errno| lacking.contains(&errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_is_waited_for_until_a_stop() {
        let missing = io::Error::from(ErrorKind::NotFound);
        assert!(!is_shortage(&missing));
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::MFILE, Errno::AGAIN] {
            assert!(is_shortage(&errno.into()), "{errno}");
        }
        let shortage = Shortage::default();
        assert_eq!(shortage.wait_out("write it", &Errno::NOSPC.into()), Next::Retry);
        shortage.stop();
        assert_eq!(shortage.wait_out("write it", &missing), Next::NotDone);
    }

    #[test]
    fn a_shortage_is_not_over_while_somebody_waits() {
        let shortage = Shortage::default();
        shortage.state().since = Some(Instant::now());
        shortage.state().waiting = 1;
        shortage.over("write files");
        assert!(shortage.state().since.is_some());
        shortage.state().waiting = 0;
        shortage.over("write files");
        assert!(shortage.state().since.is_none());
    }
}

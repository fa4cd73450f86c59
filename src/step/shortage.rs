//! How a step waits if the disk is full or the machine is out of file descriptors, processes or memory. An
//! attempt that failed instead would turn good records into dead letters. The wait is logged once when it
//! begins, and once when it ends.
//!
//! A full disk under the history is handled in `history::writer`.

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
    /// Waits a moment if `cause` is a shortage. `doing` is what failed, as in "write FILE".
    pub fn wait(&self, doing: &str, cause: &io::Error) -> Next {
        if is_shortage(cause) { self.wait_out(doing, cause) } else { Next::Failed }
    }

    /// Waits a moment whatever the cause, for work that no record can make fail.
    pub fn wait_out(&self, doing: &str, cause: &io::Error) -> Next {
        let mut state = self.state();
        if state.since.is_none() {
            state.since = Some(Instant::now());
            log::error!(
                "cannot {doing}: {cause}; runs wait until that is over (retried every {:?})",
                limits::ROOM_RETRY_INTERVAL
            );
        }
        self.changed.wait_while_for(
            &mut state,
            |state| !state.stopping,
            limits::ROOM_RETRY_INTERVAL,
        );
        if state.stopping { Next::NotDone } else { Next::Retry }
    }

    /// Reports success, which ends the shortage. `doing` as in `wait`.
    pub fn over(&self, doing: &str) {
        if let Some(since) = self.state().since.take() {
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

fn is_shortage(cause: &io::Error) -> bool {
    let lacking = [Errno::MFILE, Errno::NFILE, Errno::AGAIN, Errno::NOMEM];
    matches!(cause.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
        || Errno::from_io_error(cause).is_some_and(|errno| lacking.contains(&errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_shortage_is_waited_for_and_a_stop_ends_the_wait() {
        let shortage = Shortage::default();
        let missing = io::Error::from(ErrorKind::NotFound);
        assert_eq!(shortage.wait("open it", &missing), Next::Failed);
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::MFILE, Errno::AGAIN] {
            assert!(is_shortage(&errno.into()), "{errno}");
        }
        assert_eq!(shortage.wait("write it", &Errno::NOSPC.into()), Next::Retry);
        shortage.stop();
        assert_eq!(shortage.wait("write it", &Errno::NOSPC.into()), Next::NotDone);
        assert_eq!(shortage.wait_out("open it", &missing), Next::NotDone);
    }
}

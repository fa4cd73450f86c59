//! The machine lacks something for now: room on the disk, descriptors, processes. That is no fault of the
//! records, so the attempt waits instead of failing. Logged once when it begins, and once when it ends.

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
    /// mb stops: nothing waits any more.
    stopping: bool,
}

/// What follows a failed try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another try.
    Retry,
    /// mb stops: the attempt is over, and says nothing about its records.
    NotDone,
    /// It is no shortage: the attempt failed.
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
    /// `doing` (as in "write FILE") failed because of `cause`: waits a moment if that is a shortage.
    pub fn wait(&self, doing: &str, cause: &io::Error) -> Next {
        if is_shortage(cause) { self.wait_out(doing, cause) } else { Next::Failed }
    }

    /// The same for work that only the machine can make fail, whatever the cause.
    pub fn wait_out(&self, doing: &str, cause: &io::Error) -> Next {
        let mut state = self.state();
        if state.since.is_none() {
            state.since = Some(Instant::now());
            log::error!(
                "cannot {doing}: {cause}; runs wait until that is over (tried each {:?})",
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

    /// It worked: the shortage is over. `doing` as in `wait`.
    pub fn over(&self, doing: &str) {
        if let Some(since) = self.state().since.take() {
            log::info!("can {doing} again, after {} s", since.elapsed().as_secs());
        }
    }

    /// mb stops: nothing waits any more.
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

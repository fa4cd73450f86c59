//! A machine that lacks something for now (room on the disk, descriptors, processes): no fault of the
//! records, so their attempt waits for it rather than fail. Said once when it begins, and when it ends.

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
    /// mb stops: nobody waits any more.
    stopping: bool,
}

/// What a failed try leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another try.
    Again,
    /// mb stops: the attempt is over, and says nothing of its records.
    NotDone,
    /// It is another kind of failure.
    Failed,
}

impl Next {
    /// How the attempt ends; `None` where it goes on.
    pub fn error(self, doing: &str, cause: &io::Error) -> Option<StepError> {
        let text = || format!("cannot {doing}: {cause}");
        match self {
            Next::Again => None,
            Next::NotDone => Some(StepError::NotDone(text())),
            Next::Failed => Some(StepError::Retry(text())),
        }
    }
}

impl Shortage {
    /// `doing` (as in "write FILE") failed because of `cause`: waits a moment where that is a shortage.
    pub fn wait(&self, doing: &str, cause: &io::Error) -> Next {
        if is_shortage(cause) { self.wait_out(doing, cause) } else { Next::Failed }
    }

    /// The same for what can only be the machine's fault, whatever the cause.
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
        if state.stopping { Next::NotDone } else { Next::Again }
    }

    /// It worked: what was lacking is there again. `doing` as in `wait`.
    pub fn over(&self, doing: &str) {
        if let Some(since) = self.state().since.take() {
            log::info!("can {doing} again, after {} s", since.elapsed().as_secs());
        }
    }

    /// mb stops: nobody waits any more.
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
    fn only_what_may_come_back_is_waited_for_and_a_stop_ends_it() {
        let shortage = Shortage::default();
        let missing = io::Error::from(ErrorKind::NotFound);
        assert_eq!(shortage.wait("open it", &missing), Next::Failed);
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::MFILE, Errno::AGAIN] {
            assert!(is_shortage(&errno.into()), "{errno}");
        }
        assert_eq!(shortage.wait("write it", &Errno::NOSPC.into()), Next::Again);
        shortage.stop();
        assert_eq!(shortage.wait("write it", &Errno::NOSPC.into()), Next::NotDone);
        assert_eq!(shortage.wait_out("open it", &missing), Next::NotDone);
    }
}

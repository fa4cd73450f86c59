//! Named threads, each joined by its owner, and calls with a time limit.

use std::any::Any;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use crate::model::clock;
use crate::model::error::{Error, Result};

/// A running thread; `join` returns its result, or its panic as an error that names the thread.
#[derive(Debug)]
pub struct Thread<T> {
    name: String,
    handle: JoinHandle<T>,
}

/// Starts a thread with the name `name`.
///
/// # Errors
/// `Other` if the system cannot start another thread.
pub fn spawn<T: Send + 'static>(
    name: impl Into<String>,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<Thread<T>> {
    let name = name.into();
    match Builder::new().name(name.clone()).spawn(body) {
        Ok(handle) => Ok(Thread { name, handle }),
        Err(cause) => Err(Error::Other(format!("cannot start thread {name}: {cause}"))),
    }
}

impl<T> Thread<T> {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// # Errors
    /// `Error::Panic` if the thread panicked.
    pub fn join(self) -> Result<T> {
        let thread = self.name;
        self.handle
            .join()
            .map_err(|payload| Error::Panic { thread, message: panic_message(payload.as_ref()) })
    }
}

/// The message of a panic.
pub fn panic_message(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a message".to_owned()
    }
}

/// Runs `body` on a thread of its own and waits for it at most `limit`. After that the thread is left to
/// itself, with everything that it owns, and this returns `None`. For calls into client libraries that have no
/// time limit of their own.
///
/// # Errors
/// If the thread cannot be started, or `body` panics.
pub fn call_with_limit<T: Send + 'static>(
    name: &str,
    limit: Duration,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<Option<T>> {
    let (sender, receiver) = bounded(1);
    let thread = spawn(name, move || {
        // If the caller has given up, the receiver is gone, and nobody wants the result.
        let _ = sender.send(body());
    })?;
    match receiver.recv_timeout(limit) {
        Ok(value) => {
            thread.join()?;
            Ok(Some(value))
        }
        Err(RecvTimeoutError::Timeout) => Ok(None),
        Err(RecvTimeoutError::Disconnected) => thread.join().map(|()| None),
    }
}

/// Waits for a message on `stop` (or its end) at most `wait`; true if it came.
pub fn stopped_within(stop: &Receiver<()>, wait: Duration) -> bool {
    let wait = if clock::wait_simulated(wait) { Duration::ZERO } else { wait };
    !matches!(stop.recv_timeout(wait), Err(RecvTimeoutError::Timeout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_comes_back_as_an_error_that_names_the_thread() {
        let thread = spawn("worker-7", || panic!("no more")).unwrap();
        assert_eq!(
            thread.join().unwrap_err(),
            Error::Panic { thread: "worker-7".into(), message: "no more".into() }
        );
    }

    #[test]
    fn a_call_past_its_limit_is_given_up() {
        let (release, wait) = bounded::<()>(0);
        let outcome = call_with_limit("stuck", Duration::from_millis(20), move || wait.recv());
        assert_eq!(outcome, Ok(None));
        drop(release);
        assert_eq!(call_with_limit("quick", Duration::from_secs(10), || 5), Ok(Some(5)));
    }
}

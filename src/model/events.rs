//! What a pipeline's threads report to the supervisor.

use crossbeam_channel::Sender;

use crate::model::error::{Error, Result};
use crate::model::thread::{self, Thread};

#[derive(Debug)]
pub enum Event {
    /// mb must shut down cleanly and end with this error.
    Halt(Error),
    /// All that `--until-caught-up` asked for is done and committed.
    CaughtUp,
    /// Settings were changed that the supervisor has to apply.
    SettingsChanged,
    /// A thread ended, by a panic or not.
    Ended(String),
}

/// Reports the end of a thread when it is dropped with the thread's other values, after a panic too.
pub struct ExitGuard {
    name: String,
    events: Sender<Event>,
}

impl ExitGuard {
    pub fn new(name: &str, events: &Sender<Event>) -> ExitGuard {
        ExitGuard { name: name.to_owned(), events: events.clone() }
    }
}

impl Drop for ExitGuard {
    fn drop(&mut self) {
        // If the channel is full or gone, the pipeline is ending already.
        let _ = self.events.try_send(Event::Ended(std::mem::take(&mut self.name)));
    }
}

/// Starts a thread whose end is reported, even if it ends by a panic.
///
/// # Errors
/// As `thread::spawn`.
pub fn spawn<T: Send + 'static>(
    name: &str,
    events: &Sender<Event>,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<Thread<T>> {
    let guard = ExitGuard::new(name, events);
    thread::spawn(name, move || {
        let _guard = guard;
        body()
    })
}

//! What a pipeline's threads tell the one that watches them.

use crossbeam_channel::Sender;

use crate::model::error::{Error, Result};
use crate::model::thread::{self, Thread};

#[derive(Debug)]
pub enum Event {
    /// mb must end with this error, after an orderly stop.
    Halt(Error),
    /// All that `--until-caught-up` asked for is done and committed.
    CaughtUp,
    /// Settings were changed that the watching thread carries out.
    SettingsChanged,
    /// A thread ended, by a panic or not.
    Ended(String),
}

/// Says on its way out that the thread ended.
pub struct Farewell {
    name: String,
    events: Sender<Event>,
}

impl Farewell {
    pub fn new(name: &str, events: &Sender<Event>) -> Farewell {
        Farewell { name: name.to_owned(), events: events.clone() }
    }
}

impl Drop for Farewell {
    fn drop(&mut self) {
        // Full or gone: the end is being dealt with already.
        let _ = self.events.try_send(Event::Ended(std::mem::take(&mut self.name)));
    }
}

/// Starts a thread that says farewell, by a panic too.
///
/// # Errors
/// As `thread::spawn`.
pub fn spawn<T: Send + 'static>(
    name: &str,
    events: &Sender<Event>,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<Thread<T>> {
    let farewell = Farewell::new(name, events);
    thread::spawn(name, move || {
        let _farewell = farewell;
        body()
    })
}

//! A failed run's last attempt and dead letters, until the dead-letter topic has acknowledged them.

use crate::history::{AttemptRecord, DeadLetters};

/// The dead letters of a run that are not on their topic yet. The step does not get the run again, unless mb
/// stops before the topic has acknowledged them.
#[derive(Debug)]
pub struct Undelivered {
    /// The last attempt, with the error that the run ends with.
    pub attempt: AttemptRecord,
    pub dead_letters: Box<DeadLetters>,
    /// How many writes have failed.
    pub tries: u32,
}

impl Undelivered {
    pub fn new(attempt: AttemptRecord, dead_letters: Box<DeadLetters>) -> Undelivered {
        Undelivered { attempt, dead_letters, tries: 0 }
    }

    /// The error that the run ends with.
    pub fn error(&self) -> &str {
        self.attempt.error.as_deref().unwrap_or_default()
    }
}

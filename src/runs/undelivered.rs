//! What is left of a run that is given up on until the dead-letter topic has its records.

use crate::history::{AttemptRecord, DeadLetters};

/// The dead letters of a run, not on their topic yet. The step is through with the run: it is not run
/// again, unless mb stops before the topic has taken them.
#[derive(Debug)]
pub struct Undelivered {
    /// The last attempt, with the error that the run ends with.
    pub attempt: AttemptRecord,
    pub dead_letters: Box<DeadLetters>,
    /// Tries to write them that failed.
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

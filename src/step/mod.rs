//! The step: what a run does with its batch. A user's own step implements `Step`; mb's own are
//! the modules below.

mod exec;
mod files;
mod log;
pub mod record_json;

pub use exec::ExecStep;
pub use files::FilesStep;
pub use log::LogStep;

use std::fmt;
use std::time::Duration;

use crate::batch::Batch;
use crate::error::Result;
use crate::offset::RunKey;

/// Why an attempt failed, and what should follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepError {
    /// Try again, up to `--max-attempts`.
    Retry(String),
    /// Trying again cannot help: the records become dead letters (or mb halts, with
    /// `--on-failure halt`) at once.
    DeadLetter(String),
    /// Stop mb (exit 65); the run stays unfinished.
    Stop(String),
}

impl StepError {
    pub fn message(&self) -> &str {
        match self {
            StepError::Retry(text) | StepError::DeadLetter(text) | StepError::Stop(text) => text,
        }
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for StepError {}

impl From<std::io::Error> for StepError {
    fn from(cause: std::io::Error) -> StepError {
        StepError::Retry(cause.to_string())
    }
}

/// One attempt of a run, as its step sees it.
#[derive(Debug)]
pub struct Attempt<'a> {
    /// The run's identity: the same at every attempt, and after a crash.
    pub key: &'a RunKey,
    /// From 1.
    pub number: u32,
    /// The records; the same at every attempt.
    pub batch: &'a Batch,
    /// What the step printed or wants to be remembered; kept with the run, cut to
    /// `limits::CAPTURE_BYTES` a stream.
    pub output: Option<String>,
    /// TEMPORARY
    pub failed: Vec<FailedRecord>,
}

/// TEMPORARY
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedRecord {
    pub offset: crate::offset::Offset,
    pub reason: String,
}

/// What a run does with its batch.
///
/// A batch may come again after a crash, with the same `RunKey`: a step that is idempotent by run
/// key sees every batch exactly once in effect. A panic fails the attempt, not the process.
pub trait Step: Send + Sync {
    /// One word for logs.
    fn name(&self) -> &str;

    /// Called once, before the first run: check what can be checked, remove leftovers.
    ///
    /// # Errors
    /// `Config` where the step could never work; mb ends with it.
    fn prepare(&self, _topic: &str) -> Result<()> {
        Ok(())
    }

    /// Processes the batch; called from several workers at once.
    ///
    /// # Errors
    /// See `StepError`.
    fn run(&self, attempt: &mut Attempt<'_>) -> Result<(), StepError>;

    /// Called when mb is forced to end while attempts are still running: end what can be ended.
    fn abort(&self) {}

    /// Called once when the pipeline stops, after the last run: say or close what was held back.
    fn finish(&self) {}
}

/// Counts only: the records go nowhere.
#[derive(Debug, Default)]
pub struct Discard;

impl Step for Discard {
    fn name(&self) -> &str {
        "discard"
    }

    fn run(&self, _attempt: &mut Attempt<'_>) -> Result<(), StepError> {
        Ok(())
    }
}

/// Another step after a pause that stands for real work (`--step-delay`).
pub struct Delayed<S> {
    pub delay: Duration,
    pub step: S,
}

impl<S: Step> Step for Delayed<S> {
    fn name(&self) -> &str {
        self.step.name()
    }

    fn prepare(&self, topic: &str) -> Result<()> {
        self.step.prepare(topic)
    }

    fn run(&self, attempt: &mut Attempt<'_>) -> Result<(), StepError> {
        std::thread::sleep(self.delay);
        self.step.run(attempt)
    }

    fn abort(&self) {
        self.step.abort();
    }

    fn finish(&self) {
        self.step.finish();
    }
}

impl Step for Box<dyn Step> {
    fn name(&self) -> &str {
        self.as_ref().name()
    }

    fn prepare(&self, topic: &str) -> Result<()> {
        self.as_ref().prepare(topic)
    }

    fn run(&self, attempt: &mut Attempt<'_>) -> Result<(), StepError> {
        self.as_ref().run(attempt)
    }

    fn abort(&self) {
        self.as_ref().abort();
    }

    fn finish(&self) {
        self.as_ref().finish();
    }
}

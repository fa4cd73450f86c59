//! The step: what a run does with its batch. A user's own step implements `Step`; mb's own are
//! the modules below.

mod exec;
mod files;
mod log;
pub mod record_json;
mod shortage;

pub use exec::ExecStep;
#[cfg(feature = "testing")]
pub use exec::parse_failed_file;
pub use files::FilesStep;
pub use log::LogStep;

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use crate::model::batch::Batch;
use crate::model::error::Result;
use crate::model::offset::{Offset, RunKey};
use crate::model::sync::{Mutex, MutexGuard};

/// Why an attempt failed, and what should follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepError {
    /// Try again, up to `--max-attempts`.
    Retry(String),
    /// Try the records again that `Attempt::fail` named, up to `--max-attempts`; the others are done.
    /// Where none was named it is `Retry`.
    RetryFailed(String),
    /// Trying again cannot help: the records become dead letters (or mb halts, with
    /// `--on-failure halt`) at once.
    DeadLetter(String),
    /// Stop mb (exit 65); the run stays unfinished.
    Stop(String),
    /// Nothing can be said of the records: what the attempt needs was not there (room on a disk), and
    /// mb stops. The attempt does not count, and the run is made again at the next start (where mb
    /// does not stop, after a moment).
    NotDone(String),
}

impl StepError {
    pub fn message(&self) -> &str {
        match self {
            StepError::Retry(text)
            | StepError::RetryFailed(text)
            | StepError::DeadLetter(text)
            | StepError::Stop(text)
            | StepError::NotDone(text) => text,
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

/// A record that its step could not process, as `Attempt::fail` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedRecord {
    pub offset: Offset,
    /// Empty where none was given. As the step gave it: any length, any characters.
    pub reason: String,
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
    /// The records that failed, where the step knows: see `fail`. Ascending, each one once.
    pub failed: Vec<FailedRecord>,
}

impl Attempt<'_> {
    /// Names a record that failed. What happens to it is said by what `run` returns, see `Step::run`;
    /// where that makes the names count, **all the other records are done**. An error that comes
    /// in between (`?`, a panic) is `StepError::Retry` or less, which makes them void.
    ///
    /// A record named again keeps its first reason.
    ///
    /// # Panics
    /// Where the batch has no record of this offset: the attempt fails with that, as with any
    /// panic, and nothing counts as done.
    pub fn fail(&mut self, offset: Offset, reason: impl Into<String>) {
        assert!(
            self.batch.contains(offset),
            "failed record: got offset {offset}, expected one of a record of run {}",
            self.key
        );
        if let Err(at) = self.failed.binary_search_by_key(&offset, |failed| failed.offset) {
            self.failed.insert(at, FailedRecord { offset, reason: reason.into() });
        }
    }
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
    /// What follows for the batch, where no record was named (`Attempt::fail`), and where some
    /// were:
    ///
    /// | returned | no record named | some named |
    /// | --- | --- | --- |
    /// | `Ok` | all done | the named are dead letters at once, the others done |
    /// | `StepError::DeadLetter` | all are dead letters at once | as with `Ok` |
    /// | `StepError::RetryFailed` | all are tried again | the named are tried again, the others done |
    /// | `StepError::Retry`, a panic | all are tried again | the same: names are void |
    /// | `StepError::Stop` | mb stops (exit 65), the run is made again later | the same: names are void |
    /// | `StepError::NotDone` | the run is made again, this attempt uncounted | the same: names are void |
    ///
    /// # Errors
    /// See `StepError`.
    fn run(&self, attempt: &mut Attempt<'_>) -> Result<(), StepError>;

    /// Somebody has cancelled the run of this key, whose attempt has begun: end the attempt, with any
    /// error. False where it cannot be ended; then it is waited for, and what it returns counts. Called
    /// while `run` is at work, or a moment before or after.
    fn cancel(&self, _key: &RunKey) -> bool {
        false
    }

    /// Called when mb begins to stop: an attempt that waits for something outside (room on a disk)
    /// gives up, with `StepError::NotDone`; one that works goes on to its end.
    fn stopping(&self) {}

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
    delay: Duration,
    step: S,
    /// Runs that are in their pause: whether they were cancelled in it.
    waiting: Mutex<HashMap<RunKey, bool>>,
}

impl<S: Step> Delayed<S> {
    pub fn new(delay: Duration, step: S) -> Delayed<S> {
        Delayed { delay, step, waiting: Mutex::default() }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<RunKey, bool>> {
        self.waiting.lock()
    }
}

impl<S: Step> Step for Delayed<S> {
    fn name(&self) -> &str {
        self.step.name()
    }

    fn prepare(&self, topic: &str) -> Result<()> {
        self.step.prepare(topic)
    }

    fn run(&self, attempt: &mut Attempt<'_>) -> Result<(), StepError> {
        self.waiting().insert(attempt.key.clone(), false);
        std::thread::sleep(self.delay);
        if self.waiting().remove(attempt.key) == Some(true) {
            // The step knows the run from here on.
            self.step.cancel(attempt.key);
        }
        self.step.run(attempt)
    }

    fn cancel(&self, key: &RunKey) -> bool {
        if let Some(cancelled) = self.waiting().get_mut(key) {
            *cancelled = true;
        }
        self.step.cancel(key)
    }

    fn stopping(&self) {
        self.step.stopping();
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

    fn cancel(&self, key: &RunKey) -> bool {
        self.as_ref().cancel(key)
    }

    fn stopping(&self) {
        self.as_ref().stopping();
    }

    fn abort(&self) {
        self.as_ref().abort();
    }

    fn finish(&self) {
        self.as_ref().finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::batch::Record;
    use crate::model::offset::OffsetRange;

    /// Names the records without a value, and processes the others.
    struct Picky;

    impl Step for Picky {
        fn name(&self) -> &str {
            "picky"
        }

        fn run(&self, attempt: &mut Attempt<'_>) -> Result<(), StepError> {
            let batch = attempt.batch;
            for record in batch.records().filter(|record| record.value.is_none()) {
                attempt.fail(record.offset, "no value");
            }
            Ok(())
        }
    }

    /// What the work leaves in an attempt at the offsets 3, 5 (a null value), 6 and 9 (another).
    fn after(work: impl FnOnce(&mut Attempt<'_>)) -> Vec<FailedRecord> {
        let mut batch = Batch::default();
        for (offset, value) in [(3, Some(&b"v"[..])), (5, None), (6, Some(b"")), (9, None)] {
            let offset = Offset::new(offset);
            batch.push(Record { offset, value, ..Record::default() });
        }
        let range = OffsetRange::new(Offset::new(0), Offset::new(9));
        let key = RunKey::new("t", 0, range);
        let mut attempt =
            Attempt { key: &key, number: 1, batch: &batch, output: None, failed: Vec::new() };
        work(&mut attempt);
        attempt.failed
    }

    fn named(offset: i64, reason: &str) -> FailedRecord {
        FailedRecord { offset: Offset::new(offset), reason: reason.into() }
    }

    #[test]
    fn a_step_names_the_records_that_failed() {
        let failed = after(|attempt| assert_eq!(Picky.run(attempt), Ok(())));
        assert_eq!(failed, [named(5, "no value"), named(9, "no value")]);
    }

    #[test]
    fn named_records_ascend_and_keep_their_first_reason() {
        let failed = after(|attempt| {
            for (offset, reason) in [(9, "a"), (3, "b"), (9, "c"), (3, "d"), (6, "")] {
                attempt.fail(Offset::new(offset), reason);
            }
        });
        assert_eq!(failed, [named(3, "b"), named(6, ""), named(9, "a")]);
    }

    #[test]
    #[should_panic(expected = "got offset 4, expected one of a record of run t/0/0-9")]
    fn a_record_that_the_batch_does_not_have_cannot_fail() {
        after(|attempt| attempt.fail(Offset::new(4), "in the range, but not in the log"));
    }
}

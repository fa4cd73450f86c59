//! The trait `Step`, which every step implements, the `Attempt` that mb passes to it, and the `StepError` that
//! it returns.

use std::fmt;

use crate::model::batch::Batch;
use crate::model::error::Result;
use crate::model::offset::{Offset, RunKey};

/// Why an attempt failed, and how mb is to handle that.
///
/// mb logs the text and keeps it with the run, as one line of at most 2000 characters.
///
/// ```
/// use mb::StepError;
///
/// fn load(rows: &str) -> Result<(), StepError> {
///     // An I/O error (or any error that is converted with `?`) is retried.
///     std::fs::write("/no/such/folder/rows", rows)?;
///     Ok(())
/// }
///
/// assert!(matches!(load("a"), Err(StepError::Retry(_))));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepError {
    /// Another attempt may succeed.
    ///
    /// mb retries the whole batch, up to `--max-attempts`, after pauses that double from `--retry-backoff` on.
    /// After the last attempt the records become dead letters, or mb halts (`--on-failure halt`); with
    /// `--bisect` the batch is halved instead, until the bad records are isolated. While
    /// the step fails for every run, mb holds instead (`--on-outage`). Names of failed records
    /// ([`Attempt::fail`]) are ignored.
    Retry(String),
    /// The records that were named with [`Attempt::fail`] failed, and another attempt may succeed; all others
    /// are processed.
    ///
    /// mb retries the named records in runs of their own, as with `Retry`; after the last attempt they become
    /// dead letters, or mb halts. If no record was named, this is the same as `Retry`.
    RetryFailed(String),
    /// Not now: what the step needs is away (its database restarts, say), whatever the records are.
    ///
    /// mb retries the run without limit, after pauses of up to 30 s, and its records never become dead letters for
    /// that. If [`Attempt::fail`] named records, only those are retried, and all others are done.
    NotNow(String),
    /// Another attempt would fail too.
    ///
    /// The records become dead letters at once (only the named ones, if any were named), or mb halts
    /// (`--on-failure halt`).
    DeadLetter(String),
    /// No batch can be processed until a person has repaired something.
    ///
    /// mb stops and exits 65. Nothing is committed past the run, and the next start repeats it.
    Stop(String),
    /// The attempt could not be made, for a cause that is not in the records, such as a full disk.
    ///
    /// The attempt does not count. mb makes it again after a second; if mb is stopping, the next start does.
    NotDone(String),
}

impl StepError {
    /// The text of any variant.
    pub fn message(&self) -> &str {
        match self {
            StepError::Retry(text)
            | StepError::RetryFailed(text)
            | StepError::NotNow(text)
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

/// A record that its step could not process, as [`Attempt::fail`] names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedRecord {
    pub offset: Offset,
    /// As the step gave it, of any length and with any characters; empty if the step gave none.
    pub reason: String,
}

/// One attempt of a run: the step's input, and its output beside the result.
///
/// A test of a step creates one with [`Attempt::new`]:
///
/// ```
/// use mb::{Attempt, Batch, Offset, OffsetRange, Record, RunKey};
///
/// let batch: Batch = [(5, "a"), (6, "b")]
///     .map(|(offset, value)| Record {
///         offset: Offset::new(offset),
///         value: Some(value.as_bytes()),
///         ..Record::default()
///     })
///     .into_iter()
///     .collect();
/// let key = RunKey::new("orders", 0, OffsetRange::new(Offset::new(5), Offset::new(6)));
/// let mut attempt = Attempt::new(&key, 1, &batch);
///
/// attempt.fail(Offset::new(6), "no such customer");
/// assert_eq!(attempt.failed[0].reason, "no such customer");
/// assert_eq!(attempt.key.to_string(), "orders/0/5-6");
/// ```
#[derive(Debug)]
pub struct Attempt<'a> {
    /// The run's identity: the same in every attempt, and after a crash.
    pub key: &'a RunKey,
    /// The number of the attempt, from 1.
    pub number: u32,
    /// The records; the same in every attempt.
    pub batch: &'a Batch,
    /// Text to be kept with the run. mb cuts it after 1 MiB; `--exec` keeps 64 KiB of stdout and 64 KiB of
    /// stderr.
    pub output: Option<String>,
    /// The records that failed, if the step names them with [`fail`](Attempt::fail). Ascending, without
    /// duplicates.
    pub failed: Vec<FailedRecord>,
}

impl<'a> Attempt<'a> {
    /// An attempt without output and without failed records.
    pub fn new(key: &'a RunKey, number: u32, batch: &'a Batch) -> Attempt<'a> {
        Attempt { key, number, batch, output: None, failed: Vec::new() }
    }

    /// Names a record that failed. What mb does with it depends on the result of [`Step::run`]. If the names
    /// count, **all other records are done**. A `?` or a panic in the middle is `StepError::Retry`, and the
    /// names are ignored: the step has not reached the other records.
    ///
    /// A record that is named twice keeps its first reason.
    ///
    /// # Panics
    /// If the batch has no record at this offset. As with any panic the attempt fails, and nothing counts as
    /// done.
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
/// After a crash mb may call `run` again for a batch that was processed, with the same [`RunKey`]. A step that
/// is idempotent by run key has the effect of each batch exactly once. A panic fails the attempt, not the
/// process.
///
/// ```
/// use std::sync::Mutex;
///
/// use mb::{Attempt, Batch, OffsetRange, Offset, Record, RunKey, Step, StepError};
///
/// /// Sums numbers; a record that is not a number becomes a dead letter.
/// #[derive(Default)]
/// struct Sum(Mutex<i64>);
///
/// impl Step for Sum {
///     fn name(&self) -> &str {
///         "sum"
///     }
///
///     fn run(&self, attempt: &mut Attempt<'_>) -> Result<(), StepError> {
///         let mut sum = 0;
///         let batch = attempt.batch;
///         for record in batch.records() {
///             let text = std::str::from_utf8(record.value.unwrap_or_default());
///             match text.ok().and_then(|text| text.parse::<i64>().ok()) {
///                 Some(number) => sum += number,
///                 None => attempt.fail(record.offset, "not a number"),
///             }
///         }
///         *self.0.lock().unwrap() += sum;
///         Ok(())
///     }
/// }
///
/// let record = |offset, value| Record { offset: Offset::new(offset), value: Some(value), ..Record::default() };
/// let batch: Batch = [record(0, b"40"), record(1, b"two"), record(2, b"2")].into_iter().collect();
/// let key = RunKey::new("numbers", 0, OffsetRange::new(Offset::new(0), Offset::new(2)));
/// let mut attempt = Attempt::new(&key, 1, &batch);
/// let step = Sum::default();
///
/// assert_eq!(step.run(&mut attempt), Ok(()));
/// assert_eq!(*step.0.lock().unwrap(), 42);
/// assert_eq!(attempt.failed.len(), 1);
/// ```
pub trait Step: Send + Sync {
    /// The step's name in logs, one word.
    fn name(&self) -> &str;

    /// Called once, before the first run: checks the step's settings, removes leftovers of a crash.
    ///
    /// # Errors
    /// `Config` if the step could never succeed; mb then exits 78.
    fn prepare(&self, _topic: &str) -> Result<()> {
        Ok(())
    }

    /// Processes the batch; called from several workers at once.
    ///
    /// The result, and whether records were named ([`Attempt::fail`]), decide what mb does next:
    ///
    /// | returned | no record named | some named |
    /// | --- | --- | --- |
    /// | `Ok` | all are done | the named become dead letters at once, the others are done |
    /// | `StepError::DeadLetter` | all become dead letters at once | as with `Ok` |
    /// | `StepError::RetryFailed` | all are retried | the named are retried, the others are done |
    /// | `StepError::NotNow` | all are retried, without limit | the named are, the others are done |
    /// | `StepError::Retry`, a panic | all are retried | the same, names are ignored |
    /// | `StepError::Stop` | mb stops (exit 65), the next start repeats the run | the same, names are ignored |
    /// | `StepError::NotDone` | the attempt is made again and does not count | the same, names are ignored |
    ///
    /// # Errors
    /// See [`StepError`].
    fn run(&self, attempt: &mut Attempt<'_>) -> Result<(), StepError>;

    /// Called when a person cancels the run of this key during its attempt: ends the attempt, with any error.
    /// Returns false if the attempt cannot be ended; then mb waits for it, and the result of `run` counts.
    /// The call may also come shortly before `run` begins or after it has returned.
    fn cancel(&self, _key: &RunKey) -> bool {
        false
    }

    /// What the attempt under this key has printed so far: text for people who look at the run meanwhile. `None` if there is
    /// no such attempt, or nothing to show.
    fn output(&self, _key: &RunKey) -> Option<String> {
        None
    }

    /// Called when mb begins to stop. An attempt that waits for something outside, such as room on a disk,
    /// should end with `StepError::NotDone`; an attempt that makes progress should finish.
    fn stopping(&self) {}

    /// Called when mb must end while attempts are still running: ends those that can be ended.
    fn abort(&self) {}

    /// Called once when the pipeline stops, after the last run: flushes buffers and closes connections.
    fn finish(&self) {}
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

    fn output(&self, key: &RunKey) -> Option<String> {
        self.as_ref().output(key)
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
        let mut attempt = Attempt::new(&key, 1, &batch);
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

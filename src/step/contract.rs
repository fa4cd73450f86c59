//! What a step is: the trait, what it is given, and what it answers.

use std::fmt;

use crate::model::batch::Batch;
use crate::model::error::Result;
use crate::model::offset::{Offset, RunKey};

/// Why an attempt failed, and what mb is to do about it.
///
/// The text of each is logged and kept with the run; mb makes one line of it and cuts it after 2000
/// characters.
///
/// ```
/// use mb::StepError;
///
/// fn load(rows: &str) -> Result<(), StepError> {
///     // An I/O error (or any error that is converted with `?`) asks for another attempt.
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
    /// mb attempts the whole batch again, after a pause that doubles from `--retry-backoff` on, up to
    /// `--max-attempts`. After the last attempt the records become dead letters, or mb halts
    /// (`--on-failure halt`); with `--bisect` the batch is halved instead until the bad records stand
    /// alone. Named records ([`Attempt::fail`]) count for nothing.
    Retry(String),
    /// The records that [`Attempt::fail`] named failed, and another attempt may succeed; all others are
    /// processed.
    ///
    /// mb attempts the named records again, in runs of their own, as with `Retry`; after the last attempt
    /// they become dead letters, or mb halts. If no record was named this is `Retry`.
    RetryFailed(String),
    /// No other attempt can help.
    ///
    /// The records become dead letters at once (only those that were named, if any were), or mb halts
    /// (`--on-failure halt`).
    DeadLetter(String),
    /// A person must come before any batch can be processed.
    ///
    /// mb stops and exits 65. Nothing is committed past the run; the next start makes it again.
    Stop(String),
    /// The attempt says nothing about the records: what it needs was missing (room on a disk, for one).
    ///
    /// The attempt does not count. If mb is stopping, the next start makes the run again; otherwise mb
    /// attempts it again after a second.
    NotDone(String),
}

impl StepError {
    /// The text, whatever is to be done about it.
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

/// A record that its step could not process, as [`Attempt::fail`] names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedRecord {
    pub offset: Offset,
    /// As the step gave it: any length, any characters; empty if it gave none.
    pub reason: String,
}

/// One attempt of a run: what its step is given, and where the step leaves what it has to say.
///
/// A test of a step makes one by hand:
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
    /// What the step printed or wants to be kept with the run. mb cuts it after 1 MiB; the step of a
    /// command keeps 64 KiB of each of its streams.
    pub output: Option<String>,
    /// The records that failed, if the step knows: see [`fail`](Attempt::fail). Ascending, each one once.
    pub failed: Vec<FailedRecord>,
}

impl<'a> Attempt<'a> {
    /// An attempt of which nothing has happened yet.
    pub fn new(key: &'a RunKey, number: u32, batch: &'a Batch) -> Attempt<'a> {
        Attempt { key, number, batch, output: None, failed: Vec::new() }
    }

    /// Names a record that failed. What happens to it depends on what `run` returns, see [`Step::run`]; if
    /// that makes the names count, **all other records are done**. An error that comes in between (`?`, a
    /// panic) is `StepError::Retry`, which makes the names void.
    ///
    /// A record that is named twice keeps its first reason.
    ///
    /// # Panics
    /// If the batch has no record of this offset: the attempt fails with that, as with any panic, and
    /// nothing counts as done.
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
/// After a crash mb may call `run` again for a batch that was processed, with the same
/// [`RunKey`]: a step that is idempotent by run key sees every batch exactly once in effect. A panic fails
/// the attempt, not the process.
///
/// ```
/// use std::sync::Mutex;
///
/// use mb::{Attempt, Batch, OffsetRange, Offset, Record, RunKey, Step, StepError};
///
/// /// Sums numbers; what is no number becomes a dead letter.
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
    /// One word for logs.
    fn name(&self) -> &str;

    /// Called once, before the first run: check what can be checked, remove leftovers.
    ///
    /// # Errors
    /// `Config` if the step could never work; mb ends with it.
    fn prepare(&self, _topic: &str) -> Result<()> {
        Ok(())
    }

    /// Processes the batch; called from several workers at once.
    ///
    /// What mb does next depends on the answer, and on whether records were named
    /// ([`Attempt::fail`]):
    ///
    /// | returned | no record named | some named |
    /// | --- | --- | --- |
    /// | `Ok` | all are done | the named become dead letters at once, the others are done |
    /// | `StepError::DeadLetter` | all become dead letters at once | as with `Ok` |
    /// | `StepError::RetryFailed` | all are retried | the named are retried, the others are done |
    /// | `StepError::Retry`, a panic | all are retried | the same: names are void |
    /// | `StepError::Stop` | mb stops (exit 65), the next start makes the run again | the same: names are void |
    /// | `StepError::NotDone` | the run is made again, this attempt does not count | the same: names are void |
    ///
    /// # Errors
    /// See [`StepError`].
    fn run(&self, attempt: &mut Attempt<'_>) -> Result<(), StepError>;

    /// A person has cancelled the run of this key while its attempt is under way: end the attempt, with any
    /// error. Return false if it cannot be ended; then mb waits for it, and what `run` returns counts.
    /// Called while `run` is at work, or a moment before or after.
    fn cancel(&self, _key: &RunKey) -> bool {
        false
    }

    /// Called when mb begins to stop: an attempt that waits for something outside (room on a disk)
    /// gives up, with `StepError::NotDone`; one that works goes on to its end.
    fn stopping(&self) {}

    /// Called when mb is forced to end while attempts are still running: end what can be ended.
    fn abort(&self) {}

    /// Called once when the pipeline stops, after the last run: write out or close what was held back.
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

//! The values that are written to the history: planned runs, attempts, outcomes with dead letters, ticks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::model::batch::Batch;
use crate::model::budget::Permit;
use crate::model::clock;
use crate::model::offset::{Epoch, Offset, OffsetRange, Partition, RunKey};
use crate::model::run::{RunId, RunState};

/// `DeadLetters::why` of a run that a person cancelled.
pub const CANCELLED: &str = "cancelled";

/// A run that gets its identity. It is in the file before it starts.
#[derive(Clone, Debug)]
pub struct Planned {
    pub id: RunId,
    pub key: RunKey,
    /// The range of the batch that the run belongs to.
    pub whole: OffsetRange,
    /// The run that this one was split from.
    pub parent: Option<RunId>,
    /// Failed attempts of the parent, which count for this run too.
    pub failed_attempts: u32,
    pub records: usize,
    pub bytes: usize,
    /// The leader epoch of the batch's last record, or a later one, if the client reported it. A piece of a split has its
    /// parent's.
    pub epoch: Option<Epoch>,
    /// From the arrival of the batch's first record to the run's entry into the queue. `None` for a redrive and for a
    /// piece of a split.
    pub reading: Option<Duration>,
    /// Milliseconds since 1970 (UTC).
    pub queued_ms: i64,
}

impl Planned {
    /// A run that has all records of a batch.
    pub fn whole(key: RunKey, records: usize, bytes: usize) -> Planned {
        Planned {
            id: RunId(0),
            whole: key.range,
            key,
            parent: None,
            failed_attempts: 0,
            records,
            bytes,
            epoch: None,
            reading: None,
            queued_ms: clock::now_ms(),
        }
    }
}

/// Whole microseconds, as the file keeps durations.
pub fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// One attempt's figures.
#[derive(Clone, Debug)]
pub struct AttemptRecord {
    pub number: u32,
    /// Milliseconds since 1970 (UTC).
    pub started_ms: i64,
    /// Microseconds in the step.
    pub run_us: i64,
    pub worker: usize,
    pub error: Option<String>,
    pub output: Option<String>,
}

/// A run has ended, for now or for good.
#[derive(Debug)]
pub struct Outcome {
    pub id: RunId,
    pub key: RunKey,
    /// `Queued` if another attempt follows.
    pub state: RunState,
    pub records: usize,
    pub attempt: AttemptRecord,
    /// The range of the batch that the run belongs to.
    pub whole: OffsetRange,
    /// Records to be kept with their payload, if the run is `Failed`.
    /// Boxed: outcomes of runs that succeed, which are most, would carry its size through every queue.
    pub dead_letters: Option<Box<DeadLetters>>,
}

impl Outcome {
    /// False for a run that was cancelled before its turn: its step was never called.
    pub(super) fn is_of_an_attempt(&self) -> bool {
        let why = self.dead_letters.as_ref().map(|dead_letters| dead_letters.why);
        self.attempt.run_us > 0 || why != Some(CANCELLED)
    }
}

/// Records that are given up on.
#[derive(Debug)]
pub struct DeadLetters {
    pub batch: Batch,
    /// The memory that the batch is in, held until the batch is dropped.
    #[allow(dead_code)]
    pub permit: Arc<Permit>,
    /// The errors of records whose step named one. The run's error holds for the others.
    pub reasons: BTreeMap<Offset, String>,
    /// How the attempts ended: "retry" if they were used up, "retry-failed" if the step asked for the named
    /// records only, "dead-letter" if the step gave up at once, `CANCELLED` if a person cancelled the run.
    pub why: &'static str,
    /// Whether the history keeps them (`--dead-letter store|both`).
    pub stored: bool,
}

/// One evaluation of a sensor.
#[derive(Clone, Debug)]
pub struct TickRecord {
    pub sensor: usize,
    /// Milliseconds since 1970 (UTC).
    pub started_ms: i64,
    /// Microseconds from the tick's start to its end.
    pub run_us: i64,
    pub records: u64,
    pub bytes: u64,
    pub batches: u64,
    pub ended_by: &'static str,
    pub error: Option<String>,
}

/// A run that has ended for good, and is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    pub partition: Partition,
    /// The range of the batch that the run belongs to.
    pub batch: OffsetRange,
    pub state: RunState,
}

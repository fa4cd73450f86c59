//! A run, from the sensor that plans it to the worker that ends it, and the states that it can be in.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::model::batch::Batch;
use crate::model::budget::Permit;
use crate::model::offset::{OffsetRange, RunKey};

/// A run's number in the history. Numbers ascend in the order in which runs are planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub i64);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A run in the queue or with a worker, with its records.
#[derive(Debug)]
pub struct Run {
    pub id: RunId,
    pub key: RunKey,
    /// The range of the whole batch that this is a run of. The ledger knows only whole batches.
    pub whole: OffsetRange,
    pub batch: Batch,
    /// The memory of the whole batch; released when the last of its runs is dropped.
    pub permit: Arc<Permit>,
    /// How many attempts have failed so far, including those before a restart.
    pub failed_attempts: u32,
    /// When the run first entered the queue of this process.
    pub queued: Instant,
    /// `None` if no attempt has failed in this process.
    pub failing: Option<Failing>,
}

#[cfg(test)]
impl Run {
    /// The run of a whole batch, queued now, which has not failed yet and holds no memory.
    pub fn for_tests(id: i64, key: RunKey, batch: Batch) -> Run {
        Run {
            id: RunId(id),
            whole: key.range,
            key,
            batch,
            permit: Arc::new(Permit::nothing()),
            failed_attempts: 0,
            queued: Instant::now(),
            failing: None,
        }
    }
}

/// The failed attempts of a run in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failing {
    /// When the first one began.
    pub began: Instant,
    /// When it ended.
    pub since: Instant,
    /// How many count against the run: those with a success of another run since the one before.
    pub counted: u32,
    /// When the last one that counts ended.
    pub counted_at: Instant,
    /// In how many of them the step said that it cannot work now, which says nothing of the run.
    pub not_now: u32,
    /// The run has waited in a hold.
    pub was_held: bool,
}

/// The state of a run, as the history keeps it and the page shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Planned: it waits in the queue, for another attempt, or for the next start of mb.
    Queued,
    /// With a worker now. Never written to the file: if the process dies, the run is `Queued` there.
    Running,
    Succeeded,
    /// Given up on: the records are dead letters.
    Failed,
    /// Failed, and mb halted instead of going past it; the next start attempts it again.
    Halted,
    /// The group's offsets were moved while the run was unfinished, so its range means nothing now. Or its
    /// request was cancelled before it started.
    Voided,
    /// Became several runs with keys of their own, which have its records now.
    Split,
}

impl RunState {
    pub const ALL: [RunState; 7] = [
        RunState::Queued,
        RunState::Running,
        RunState::Succeeded,
        RunState::Failed,
        RunState::Halted,
        RunState::Voided,
        RunState::Split,
    ];

    pub fn name(self) -> &'static str {
        match self {
            RunState::Queued => "queued",
            RunState::Running => "running",
            RunState::Succeeded => "succeeded",
            RunState::Failed => "failed",
            RunState::Halted => "halted",
            RunState::Voided => "voided",
            RunState::Split => "split",
        }
    }

    pub fn from_name(name: &str) -> Option<RunState> {
        RunState::ALL.into_iter().find(|state| state.name() == name)
    }

    /// The number in the history file.
    pub fn code(self) -> i64 {
        match self {
            RunState::Queued => 0,
            RunState::Running => 1,
            RunState::Succeeded => 2,
            RunState::Failed => 3,
            RunState::Halted => 4,
            RunState::Voided => 5,
            RunState::Split => 6,
        }
    }

    pub fn from_code(code: i64) -> Option<RunState> {
        RunState::ALL.into_iter().find(|state| state.code() == code)
    }

    /// Whether the run's records are processed or kept as dead letters, so nothing is left to do.
    pub fn is_done(self) -> bool {
        matches!(self, RunState::Succeeded | RunState::Failed)
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

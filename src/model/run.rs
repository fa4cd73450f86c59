//! A run on its way: from the sensor that planned it to the worker that ends it.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::model::batch::Batch;
use crate::model::budget::Permit;
use crate::model::offset::{OffsetRange, RunKey};

/// A run's number in the history: ascending in the order in which runs were planned.
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
    /// The range of the whole batch that it is a run of: what the ledger knows.
    pub whole: OffsetRange,
    pub batch: Batch,
    /// The memory of the whole batch; comes back when its last run is dropped.
    pub permit: Arc<Permit>,
    /// Attempts that failed so far, those before a restart included.
    pub failed_attempts: u32,
    /// When it was given to the queue first (in this process).
    pub queued: Instant,
}

/// How a run stands, as the history keeps it and the page shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Planned; waiting in the queue, or for another attempt, or for mb's next start.
    Queued,
    /// With a worker now. Never in the file: a process that dies leaves `Queued`.
    Running,
    Succeeded,
    /// Given up on: its records are dead letters.
    Failed,
    /// Failed, and mb halted rather than pass it; it is tried again at the next start.
    Halted,
    /// Somebody moved the group's offsets while it was unfinished: its range means nothing now. Or its
    /// request was cancelled before it started.
    Voided,
    /// Became several runs, with keys of their own, which have its records now.
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

    /// Whether the run's records are processed or kept: nothing is left to do.
    pub fn is_done(self) -> bool {
        matches!(self, RunState::Succeeded | RunState::Failed)
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

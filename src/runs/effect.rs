//! What can follow from a run's turn with a worker: `outcome` decides, `apply` does it.

use std::time::Instant;

use log::Level;

use crate::history::DeadLetters;
use crate::model::error::Error;
use crate::model::run::{Failing, RunState};
use crate::runs::split::Piece;

/// One thing to be done. `run` is the run whose turn it was.
#[derive(Debug)]
pub enum Effect {
    Log(Level, String),
    Count(Count),
    /// The step has processed a batch: whatever it failed at is over.
    StepWorks,
    /// The step has failed, with this error.
    StepFails(String),
    /// An attempt has processed records: a hold is over.
    StepProved {
        began: Instant,
        ended: Instant,
    },
    /// An attempt that ended at `ended` has processed no record.
    StepDisproved {
        error: String,
        ended: Instant,
    },
    /// The run is given up on though the step has worked for no other run.
    GiveUpUnproved,
    /// Writes the attempt to the history, with the state that the run is in now.
    Record {
        state: RunState,
        error: Option<String>,
        dead_letters: Option<Box<DeadLetters>>,
    },
    /// Writes to the history that the run has become several. If the history has ended, nothing more is
    /// done.
    RecordSplit {
        error: String,
        pieces: Vec<Piece>,
        failed_attempts: u32,
        extra_bytes: usize,
    },
    /// The run's request was cancelled before the run could start.
    RecordWithdrawal,
    /// What was recorded is on its way into the history: whoever waits to cancel the run may go on.
    /// `is_over`: nothing more comes of this run.
    Report {
        is_over: bool,
    },
    /// The ledger waits for this many runs instead of the one.
    SplitInLedger {
        pieces: usize,
    },
    /// The run has ended for good: those that waited behind it may start.
    EndInQueue,
    /// The run gets another attempt.
    Retry {
        due: Instant,
        failed_attempts: u32,
        failing: Option<Failing>,
    },
    /// The run gets another attempt once the step works again, or to find out whether it does.
    Hold {
        cause: String,
        failed_attempts: u32,
        failing: Failing,
    },
    /// The pieces of `RecordSplit` take the run's place in the queue.
    StartPieces {
        due: Instant,
    },
    /// The dead-letter topic must have the records before anything is recorded.
    HandOver {
        error: String,
        dead_letters: Box<DeadLetters>,
    },
    /// mb stops, with this error.
    Halt(Error),
}

/// What a counter of `model::live` counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    AttemptFailed,
    RunSucceeded,
    RunFailed,
    RunHalted,
    RunSplit,
    Processed { records: usize, bytes: usize },
    DeadLetters(usize),
}

//! One write on its way from a `History` to the history thread.

use std::sync::Arc;

use crossbeam_channel::Sender;

use super::claim::Claim;
use super::records::{Outcome, Planned, TickRecord};
use super::reset::{Intended, Reset};
use crate::kafka::Commit;
use crate::model::budget::Permit;
use crate::model::offset::{Offset, OffsetRange, Partition};
use crate::model::run::{RunId, RunState};

#[derive(Debug)]
pub(super) enum Write {
    /// The runs of one batch, with ascending numbers.
    Planned(Vec<Planned>),
    /// A run ends by becoming these.
    Split(Box<Outcome>, Vec<Planned>),
    /// With the memory of the run's output.
    Outcome(Box<Outcome>, Option<Permit>),
    Tick(TickRecord),
    /// A partition's first position in this scope.
    Start(Partition, Offset),
    /// Offsets that are passed over, and why.
    Gap(Partition, OffsetRange, &'static str),
    /// Commits that are about to be sent; the sender gets their number.
    Intend(Vec<(Partition, Offset)>, Sender<i64>),
    /// Confirmed commits of one number, and whether they settle all intents below them.
    Confirm(Vec<Commit>, i64, bool),
    /// Commits that the log has refused.
    DropIntents(Vec<(Partition, Offset)>),
    /// A person moves offsets: what is written before they are committed.
    Reset(ResetWrite),
    /// What is written after they are committed.
    /// Whether a commit of the move is still in doubt, too.
    ConfirmReset(Vec<Reset>, i64, bool),
    /// A request has ended: its number, its state, and a note for people.
    EndRequest(i64, i64, Option<String>),
    /// Requests are cancelled: each with those of its runs that have started, and the reason.
    Cancel(Vec<(i64, Vec<RunId>)>, String, Sender<()>),
    /// A run whose request was cancelled before the run could start.
    Withdraw(RunId),
    Flush(Sender<()>),
}

/// A reset that somebody waits for.
#[derive(Debug)]
pub(super) struct ResetWrite {
    pub resets: Vec<Reset>,
    /// The caller may call the reset off as long as it is not being written.
    pub claim: Arc<Claim>,
    /// Gets what the reset has done.
    pub done: Sender<Intended>,
}

impl Write {
    /// Whether somebody waits until the write is in the file: a run to start, a commit to be sent.
    pub fn is_awaited(&self) -> bool {
        match self {
            Write::Outcome(outcome, _) => outcome.state != RunState::Succeeded,
            Write::Tick(_) | Write::Confirm(..) | Write::DropIntents(_) => false,
            _ => true,
        }
    }

    /// Whether the write must be on the disk, not only in the system's memory, before it is announced.
    ///
    /// Dead letters must: the offsets in the log go past them while only this file has them. So must
    /// intents, if nobody else brings them to the disk (`syncs_intents`). Everything else may be lost with
    /// the power until the next intent, which brings all before it to the disk: it is only made again.
    pub fn must_survive_power_loss(&self, syncs_intents: bool) -> bool {
        match self {
            Write::Outcome(outcome, _) => outcome.dead_letters.is_some(),
            Write::Intend(..) | Write::Reset(_) => syncs_intents,
            _ => false,
        }
    }

    /// The point at which a test can kill mb once the write is in the file, and not announced yet.
    pub fn crash_point(&self) -> Option<&'static str> {
        match self {
            Write::Planned(_) => Some("planned"),
            Write::Outcome(..) => Some("recorded"),
            Write::Split(..) => Some("split"),
            Write::Confirm(..) => Some("confirmed"),
            _ => None,
        }
    }

    /// Whether rows that the pruning had to keep may go after it.
    pub fn may_unblock_pruning(&self) -> bool {
        matches!(
            self,
            Write::Confirm(..)
                | Write::ConfirmReset(..)
                | Write::EndRequest(..)
                | Write::Cancel(..)
        )
    }
}

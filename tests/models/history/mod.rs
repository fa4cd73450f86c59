//! The way to the history's file: real from the callers to the transaction. The file is a stand-in, and so are the
//! parts that look after it.

#[path = "../../../src/history/claim.rs"]
mod claim;
#[path = "../../../src/history/handle.rs"]
mod handle;
#[path = "../../../src/history/inbox.rs"]
mod inbox;
mod looked_after;
#[path = "../../../src/history/mark.rs"]
pub mod mark;
#[path = "../../../src/history/progress.rs"]
mod progress;
#[path = "../../../src/history/records.rs"]
mod records;
mod transaction;
#[path = "../../../src/history/write.rs"]
mod write;
#[path = "../../../src/history/writer.rs"]
mod writer;

pub use handle::History;
use looked_after::{clean_shutdown, journal, place, pruning, schema};
pub use looked_after::{recovery, reset, scope};
pub use records::{AttemptRecord, CANCELLED, DeadLetters, Outcome, Planned, Settled, TickRecord};
pub use scope::ScopeId;

/// The inbox of the history thread by itself, for models with little room in it.
pub struct Inbox<T>(inbox::Inbox<T>);

impl<T> Inbox<T> {
    pub fn new(most: usize) -> Inbox<T> {
        Inbox(inbox::Inbox::new(most))
    }

    pub fn send(&self, write: T, hurry: bool, deadline: Option<std::time::Instant>) -> bool {
        self.0.send(write, hurry, deadline)
    }

    pub fn take_group(&self, group: &mut Vec<T>, most: usize) -> bool {
        self.0.take_group(group, most)
    }

    pub fn close(&self) {
        self.0.close();
    }

    pub fn abandon(&self) {
        self.0.abandon();
    }
}

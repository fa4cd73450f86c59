//! The dead letters in the history: lists of them, and what becomes of them. They are redriven, open again if
//! they fail again, or discarded.
//!
//! How dead letters get here is in `transaction`; the thread that makes runs of redriven ones is
//! `source::reprocess`.

mod list;
mod redrive_runs;
mod resolve;
mod state;

pub use self::list::{DeadLetterDetail, DeadLetterRow, ErrorCount, Selection, errors, find, list};
pub(super) use self::redrive_runs::{settle, take};
pub use self::resolve::{Pick, RedriveRequest, discard, redrive};
pub use self::state::DeadLetterState;

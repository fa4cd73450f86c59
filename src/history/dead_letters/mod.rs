//! The dead letters in the history: lists of them, and what becomes of them. They are edited, redriven, open again if
//! they fail again, or discarded.
//!
//! How dead letters get here is in `transaction`; the thread that makes runs of redriven ones is
//! `source::reprocess`.

mod detail;
mod edit;
mod list;
mod of_run;
mod redrive_runs;
mod redriven;
mod resolve;
mod search;
mod state;
#[cfg(test)]
mod tests;

pub use self::detail::{DeadLetterDetail, find};
pub use self::edit::{Edit, Field, edit, revert};
pub use self::list::{DeadLetterRow, ErrorCount, SORTS, Selection, errors, list};
pub use self::of_run::{FAMILY, KeptRecord, kept_of_run, open_of_run};
pub(super) use self::redrive_runs::{settle, take};
pub use self::redriven::{redriven_columns, redriven_record};
pub use self::resolve::{Pick, RedriveRequest, discard, redrive};
pub use self::search::{Found, search};
pub use self::state::DeadLetterState;

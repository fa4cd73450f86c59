//! The history: a SQLite file in the data directory that holds ranges before they run, what became of them,
//! ticks, dead letters, and what was committed.
//!
//! | for | file |
//! | --- | --- |
//! | sending a write | `handle` (`History`), with `records`, `write` and `claim`; the writes wait in `inbox` |
//! | writing | `writer` is the one thread that writes; `transaction` turns a write into SQL; `pruning` removes old runs; `journal` and `place` tell whether what was written can be relied on |
//! | starting | `schema` opens the file, `migrations` brings it to the newest version, `clean_shutdown` says whether it needs a check; `scope` and `recovery` read what an earlier process left |
//! | whose commits are in the log | `mark` |
//! | moving offsets | `reset` |
//! | people | `query` lists runs and ticks, `dead_letters` and `requests` list and change theirs |
//!
//! Positions are never taken from here alone: the offsets that the log has for the group are the truth.

mod claim;
pub mod clean_shutdown;
pub mod dead_letters;
mod handle;
mod inbox;
mod journal;
pub mod mark;
mod migrations;
mod place;
mod progress;
mod pruning;
pub mod query;
mod records;
pub mod recovery;
pub mod requests;
pub mod reset;
mod resume;
pub mod schema;
pub mod scope;
mod transaction;
mod write;
mod writer;

pub use self::handle::History;
pub use self::records::{
    AttemptRecord, CANCELLED, DeadLetters, Outcome, Planned, Settled, TickRecord, micros,
};
pub use self::schema::FILE;
pub use self::scope::ScopeId;
#[cfg(any(test, feature = "testing"))]
pub use self::writer::WriterTask;

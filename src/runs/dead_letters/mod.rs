//! Dead letters on a topic (`--dead-letter topic:NAME|both`). They are acknowledged before their run is settled,
//! and so before its offsets are committed: a crash in between writes them twice, but loses none.
//!
//! Dead letters in the history (`--dead-letter store`) are written by `history`, with the run's outcome.

mod message;
mod topic;
mod writer;

pub use topic::{DeadLetterTopic, prepare};
pub use writer::{DeadLetterWriter, NotWritten};

//! Dead letters on a topic (`--dead-letter topic:NAME|both`): written and acknowledged before their run
//! is settled, so before its offsets are committed.
//!
//! Dead letters in the history (`--dead-letter store`) are written by `history`, with the run's outcome.

mod message;
mod topic;
mod writer;

pub use topic::{DeadLetterTopic, prepare};
pub use writer::{DeadLetterWriter, NotWritten};

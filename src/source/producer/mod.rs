//! The producer: posts messages at a pace, whatever the broker does meanwhile, and counts what was
//! acknowledged.
//!
//! `messages` makes the messages, `pacing` says when each is due, `kafka::partitioner` chooses its partition. `task`
//! is the body of the thread `producer`; the code that starts the thread owns its stop. `link` replaces the client's
//! producer after errors, `report` logs progress and result.

mod link;
pub mod messages;
pub mod pacing;
mod report;
mod task;

pub use link::Reconnect;
pub use report::{Progress, Report};
pub use task::ProducerTask;

#[cfg(test)]
mod tests;

//! The producer: posts messages at a pace, whatever the broker does meanwhile, and counts what was
//! acknowledged.
//!
//! What is posted comes from `messages`, when from `pacing`, to which partition from `kafka::partitioner`. The
//! `task` is the body of the thread `producer`; whoever starts it owns the stop. `link` replaces the client's
//! producer after errors, `report` tells people how it goes.

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

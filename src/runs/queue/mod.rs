//! Where runs wait: for a worker, behind another run of their lane, for another attempt, or
//! for the dead-letter topic.

mod idle;
mod parked;
#[cfg(test)]
mod partition_tests;
mod run_queue;
mod state;
#[cfg(test)]
mod tests;
mod waiting;

#[cfg(any(test, feature = "testing"))]
pub use run_queue::WithWorker;
pub use run_queue::{Refused, RunQueue};

//! Holds the runs that wait: for a worker, behind another run of their lane, for another attempt, or for the
//! dead-letter topic. `run_queue` has the channel, the locks and the wake-ups; `state` decides which run may
//! start; `waiting`, `parked` and `idle` hold what waits for a time, for a lane, and for work.

mod hold;
mod holding;
mod idle;
mod latest;
mod parked;
#[cfg(test)]
mod partition_tests;
mod run_queue;
mod state;
#[cfg(test)]
mod tests;
mod waiting;

pub use hold::{Evidence, HoldLine};
#[cfg(any(test, feature = "testing"))]
pub use run_queue::WithWorker;
pub use run_queue::{Refused, RunQueue};

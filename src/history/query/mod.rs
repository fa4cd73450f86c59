//! Reads the history for people: lists of runs and ticks, one run with its attempts, and counts. Never writes.

mod counts;
mod rows;
mod runs;
#[cfg(test)]
mod tests;
mod ticks;

pub use self::counts::{RunCounts, counts, open_dead_letters};
pub use self::rows::{RunDetail, RunRow, run};
#[cfg(any(test, feature = "testing"))]
pub use self::runs::{SORTS, runs};
pub use self::runs::{Selection, runs_now};
pub use self::ticks::{TickRow, TickSelection, ticks};

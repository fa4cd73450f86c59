//! What is watched while mb runs: the log's ends, the last 15 minutes, the group's offsets, stuck
//! partitions, freshness, readiness.
//!
//! `watcher` has the three threads, `findings` what they found last. What the figures mean is decided by pure
//! code: `samples` (rates), `partition` (lag in seconds, stuck partitions), `offsets` (those of somebody
//! else), `others` (another mb of the group) and `health` (readiness). How they are shown is decided in `api`.

mod findings;
mod health;
mod offsets;
mod others;
mod partition;
mod samples;
mod watcher;

#[cfg(any(test, feature = "testing"))]
pub use findings::Findings;
pub use findings::Watch;
pub use health::starting;
pub use watcher::Watcher;

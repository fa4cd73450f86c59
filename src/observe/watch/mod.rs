//! What is watched while mb runs: the log's ends, the last 15 minutes, the group's offsets, stuck
//! partitions, freshness, readiness.
//!
//! `watcher` has the three threads, `ends` what one of them asks the log, `findings` what they found last. What the
//! figures mean is decided by pure code: `samples` (rates), `recent_latency` (of the last minute), `trend` (whether the
//! lag grows), `partition` (lag in seconds, stuck partitions), `offsets`
//! (those of somebody else), `others` (another mb of the group), `health` (what stands in the way), `advice` (what would
//! help) and `verdict` (what it all amounts to). How they are shown is decided in `api`.

mod advice;
mod ends;
mod findings;
mod health;
mod offsets;
mod others;
mod partition;
mod recent_latency;
mod samples;
mod trend;
mod verdict;
#[cfg(test)]
mod verdict_tests;
mod watcher;

#[cfg(any(test, feature = "testing"))]
pub use findings::Findings;
pub use findings::Watch;
pub use verdict::{starting, verdict};
pub use watcher::Watcher;

//! The modelled files of mb's `runs`: the queue with everything in it, and the cancels.

#[path = "../../../src/runs/cancels.rs"]
pub mod cancels;
#[path = "../../../src/runs/lanes.rs"]
pub mod lanes;
pub mod queue;
#[path = "../../../src/runs/requested.rs"]
pub mod requested;
#[path = "../../../src/runs/undelivered.rs"]
pub mod undelivered;

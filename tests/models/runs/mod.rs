//! The modelled files of mb's `runs`.

#[path = "../../../src/runs/cancels.rs"]
pub mod cancels;
#[path = "../../../src/runs/queue/idle.rs"]
pub mod idle;

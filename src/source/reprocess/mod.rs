//! Records that are processed once more on request: redrives of dead letters, and replays of a range of the
//! log.
//!
//! Requests come through the history, so they outlive a process; their runs are planned there like all runs,
//! and share queue, workers and memory with them. No ledger knows them (nothing is committed for them), and
//! they have no order to keep. `plan` turns what a person asks for into a request (`late` finds records whose
//! timestamps are out of order), `reprocessor` is the thread that works on requests, `work_signal` tells it about
//! new ones.

mod late;
pub mod plan;
mod redrive;
mod replay;
mod reprocessor;
mod resources;
mod work_signal;

pub use reprocessor::Reprocessor;
pub use resources::Resources;
pub use work_signal::WorkSignal;

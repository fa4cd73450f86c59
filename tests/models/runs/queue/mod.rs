//! The run queue: all of it is real. A file of its own, because the queue's parts name each other by `super`.

#[path = "../../../../src/runs/queue/hold.rs"]
mod hold;
#[path = "../../../../src/runs/queue/holding.rs"]
mod holding;
#[path = "../../../../src/runs/queue/idle.rs"]
pub mod idle;
#[path = "../../../../src/runs/queue/latest.rs"]
mod latest;
#[path = "../../../../src/runs/queue/parked.rs"]
mod parked;
#[path = "../../../../src/runs/queue/run_queue.rs"]
mod run_queue;
#[path = "../../../../src/runs/queue/state.rs"]
mod state;
#[path = "../../../../src/runs/queue/waiting.rs"]
mod waiting;

pub use hold::{Evidence, Held, HoldLine};
pub use run_queue::{Refused, RunQueue, WithWorker};

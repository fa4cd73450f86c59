//! A run's life after it was cut: it waits in the `queue` (behind others of its lane, see `lanes`), a
//! `worker` attempts it, and a failed attempt is retried, split or given up on (`retry`, `split`,
//! `dead_letters`).
//!
//! What the user's code does with a batch is in `step`; what may be committed afterwards is in `commit`.

pub mod cancels;
pub mod dead_letters;
pub mod engine;
pub mod lanes;
pub mod queue;
pub mod requested;
pub mod retry;
pub mod split;
pub mod worker;

//! From a queued run to its outcome. A run waits in the `queue` (behind others of its lane, see `lanes`), and a
//! `worker` calls the step for it. `outcome` decides what follows (with `retry` and `split`), and `apply` applies
//! it. `deliver` delivers dead letters that go to a topic (`undelivered` until then). `cancels` and `requested`
//! hold what people have cancelled.
//!
//! `engine` has what the threads of a pipeline share. Steps are in `step`; what may be committed afterwards is in
//! `commit`.

mod apply;
pub mod cancels;
pub mod dead_letters;
pub mod deliver;
#[cfg(test)]
mod deliver_tests;
pub mod effect;
pub mod engine;
pub mod lanes;
pub mod outcome;
#[cfg(test)]
mod outcome_tests;
pub mod queue;
pub mod requested;
pub mod retry;
pub mod split;
pub mod undelivered;
pub mod worker;

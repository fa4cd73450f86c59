//! A run's life after it was cut: it waits in the `queue` (behind others of its lane, see `lanes`), and a
//! `worker` gives it its turn. What follows is decided in `outcome` (`retry`, `split`) and applied in
//! `apply`; dead letters that go to a topic are delivered by `deliver`.
//!
//! What all of this shares is in `engine`. What the user's code does with a batch is in `step`; what may be
//! committed afterwards is in `commit`.

mod apply;
pub mod cancels;
pub mod dead_letters;
pub mod deliver;
#[cfg(test)]
mod deliver_tests;
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

//! The modelled file of mb's `step`: the pause in front of a step.

#[path = "../../../src/step/contract.rs"]
mod contract;
#[path = "../../../src/step/delayed.rs"]
mod delayed;

pub use contract::{Attempt, Step, StepError};
pub use delayed::Delayed;

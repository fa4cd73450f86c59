//! The step that does nothing.

use super::{Attempt, Step, StepError};

/// Processes nothing: the records are counted as done and go nowhere.
#[derive(Debug, Default)]
pub struct Discard;

impl Step for Discard {
    fn name(&self) -> &str {
        "discard"
    }

    fn run(&self, _attempt: &mut Attempt<'_>) -> Result<(), StepError> {
        Ok(())
    }
}

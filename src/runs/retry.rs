//! When a failed attempt is followed by another: pure decisions, the randomness comes in.

use std::time::Duration;

use crate::config::{Config, OnFailure};
use crate::model::backoff::Backoff;
use crate::step::StepError;

/// What follows a failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Another attempt after the pause.
    Again(Duration),
    /// The batch is halved, and its halves get attempts of their own.
    Halve,
    /// The records become dead letters; the offsets go on.
    DeadLetter,
    /// mb halts; nothing is committed past the run.
    Halt,
}

#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    pub max_attempts: u32,
    /// The pause before the second attempt.
    pub backoff: Duration,
    pub on_failure: OnFailure,
    /// Batches are halved until the bad records stand alone.
    pub bisect: bool,
}

/// Pauses grow no further than this.
const MAX_BACKOFF: Duration = Duration::from_secs(300);

impl RetryPolicy {
    /// The policy that the settings ask for.
    pub fn of(config: &Config) -> RetryPolicy {
        RetryPolicy {
            max_attempts: config.max_attempts,
            backoff: config.retry_backoff,
            on_failure: config.on_failure,
            bisect: config.bisect,
        }
    }

    /// `attempt` (from 1) has failed with `error`, because of any of `suspects` records. `jitter` is a
    /// random number in 0..1: the pause lies between half and the whole of the exponential one.
    pub fn after(&self, attempt: u32, error: &StepError, suspects: usize, jitter: f64) -> Verdict {
        match error {
            StepError::Stop(_) => Verdict::Halt,
            // It is no attempt.
            StepError::NotDone(_) => Verdict::Again(self.backoff),
            StepError::Retry(_) | StepError::RetryFailed(_) if attempt < self.max_attempts => {
                let pauses = Backoff { first: self.backoff, longest: MAX_BACKOFF };
                Verdict::Again(pauses.pause(attempt - 1, jitter))
            }
            StepError::Retry(_) | StepError::RetryFailed(_) if self.bisect && suspects > 1 => {
                Verdict::Halve
            }
            StepError::Retry(_) | StepError::RetryFailed(_) | StepError::DeadLetter(_) => {
                match self.on_failure {
                    OnFailure::DeadLetter => Verdict::DeadLetter,
                    OnFailure::Halt => Verdict::Halt,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        max_attempts: 3,
        backoff: Duration::from_secs(1),
        on_failure: OnFailure::DeadLetter,
        bisect: false,
    };

    #[test]
    fn pauses_double_and_the_last_attempt_ends_in_dead_letters() {
        let error = StepError::Retry("no".into());
        assert_eq!(POLICY.after(1, &error, 9, 1.0), Verdict::Again(Duration::from_secs(1)));
        assert_eq!(POLICY.after(2, &error, 9, 1.0), Verdict::Again(Duration::from_secs(2)));
        assert_eq!(POLICY.after(2, &error, 9, 0.0), Verdict::Again(Duration::from_secs(1)));
        assert_eq!(POLICY.after(3, &error, 9, 1.0), Verdict::DeadLetter);
        let halting = RetryPolicy { on_failure: OnFailure::Halt, ..POLICY };
        assert_eq!(halting.after(3, &error, 9, 1.0), Verdict::Halt);
    }

    #[test]
    fn a_step_can_give_up_or_stop_at_once() {
        assert_eq!(
            POLICY.after(1, &StepError::DeadLetter("bad".into()), 9, 0.5),
            Verdict::DeadLetter
        );
        assert_eq!(POLICY.after(1, &StepError::Stop("stop".into()), 9, 0.5), Verdict::Halt);
    }

    #[test]
    fn a_batch_is_halved_after_its_last_attempt_and_a_record_alone_is_not() {
        let bisecting = RetryPolicy { bisect: true, ..POLICY };
        let error = StepError::Retry("no".into());
        assert!(matches!(bisecting.after(2, &error, 2, 0.5), Verdict::Again(_)));
        assert_eq!(bisecting.after(3, &error, 2, 0.5), Verdict::Halve);
        assert_eq!(bisecting.after(3, &error, 1, 0.5), Verdict::DeadLetter);
        let given_up = StepError::DeadLetter("all of it".into());
        assert_eq!(bisecting.after(1, &given_up, 2, 0.5), Verdict::DeadLetter);
        let halting = RetryPolicy { on_failure: OnFailure::Halt, ..bisecting };
        assert_eq!(halting.after(3, &error, 2, 0.5), Verdict::Halve);
        assert_eq!(halting.after(3, &error, 1, 0.5), Verdict::Halt);
    }
}

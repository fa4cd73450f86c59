//! Whether a failed attempt is followed by another one, and after which pause. Pure: randomness is an argument.

use std::time::Duration;

use crate::config::{Config, OnFailure};
use crate::model::backoff::Backoff;

/// How an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Another attempt may succeed.
    Passing,
    /// The step reports that another attempt would fail too.
    Final,
    /// The step requests that mb stops.
    Stop,
}

/// What follows a failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Another attempt after the pause.
    Retry(Duration),
    /// The batch is halved, and its halves get attempts of their own.
    Halve,
    /// The records become dead letters, and the offsets advance.
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
    /// Failed batches are halved until the bad records are isolated.
    pub bisect: bool,
}

/// The longest pause between attempts.
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

    /// `attempt` (from 1) has failed, because of any of `suspects` records. `jitter` is a random number in
    /// 0..1: the pause lies between half and the whole of the exponential one.
    pub fn after(&self, attempt: u32, failure: Failure, suspects: usize, jitter: f64) -> Verdict {
        match failure {
            Failure::Stop => Verdict::Halt,
            Failure::Passing if attempt < self.max_attempts => {
                let pauses = Backoff { first: self.backoff, longest: MAX_BACKOFF };
                Verdict::Retry(pauses.pause(attempt - 1, jitter))
            }
            Failure::Passing if self.bisect && suspects > 1 => Verdict::Halve,
            Failure::Passing | Failure::Final => match self.on_failure {
                OnFailure::DeadLetter => Verdict::DeadLetter,
                OnFailure::Halt => Verdict::Halt,
            },
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
        let after = |attempt, jitter| POLICY.after(attempt, Failure::Passing, 9, jitter);
        assert_eq!(after(1, 1.0), Verdict::Retry(Duration::from_secs(1)));
        assert_eq!(after(2, 1.0), Verdict::Retry(Duration::from_secs(2)));
        assert_eq!(after(2, 0.0), Verdict::Retry(Duration::from_secs(1)));
        assert_eq!(after(3, 1.0), Verdict::DeadLetter);
        let halting = RetryPolicy { on_failure: OnFailure::Halt, ..POLICY };
        assert_eq!(halting.after(3, Failure::Passing, 9, 1.0), Verdict::Halt);
    }

    #[test]
    fn a_step_can_give_up_or_stop_at_once() {
        assert_eq!(POLICY.after(1, Failure::Final, 9, 0.5), Verdict::DeadLetter);
        assert_eq!(POLICY.after(1, Failure::Stop, 9, 0.5), Verdict::Halt);
    }

    #[test]
    fn a_batch_is_halved_after_its_last_attempt_and_a_single_record_is_not() {
        let bisecting = RetryPolicy { bisect: true, ..POLICY };
        assert!(matches!(bisecting.after(2, Failure::Passing, 2, 0.5), Verdict::Retry(_)));
        assert_eq!(bisecting.after(3, Failure::Passing, 2, 0.5), Verdict::Halve);
        assert_eq!(bisecting.after(3, Failure::Passing, 1, 0.5), Verdict::DeadLetter);
        assert_eq!(bisecting.after(1, Failure::Final, 2, 0.5), Verdict::DeadLetter);
        let halting = RetryPolicy { on_failure: OnFailure::Halt, ..bisecting };
        assert_eq!(halting.after(3, Failure::Passing, 2, 0.5), Verdict::Halve);
        assert_eq!(halting.after(3, Failure::Passing, 1, 0.5), Verdict::Halt);
    }
}

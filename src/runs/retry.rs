//! Whether a failed attempt is followed by another one, and after which pause. Pure: randomness is an argument.

use std::time::{Duration, Instant};

use crate::config::{Config, OnFailure, OnOutage};
use crate::model::backoff::Backoff;
use crate::model::run::Failing;
use crate::runs::queue::Evidence;

/// How an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Another attempt may succeed.
    Passing,
    /// The step reports that it cannot work now, whatever the records are.
    NotNow,
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
    /// Another attempt once the step works, which one run at a time tries.
    Hold,
    /// The batch is halved, and its halves get attempts of their own.
    Halve,
    /// The records become dead letters, and the offsets advance. `unproved`: though the step worked for no other
    /// run.
    DeadLetter { unproved: bool },
    /// mb halts; nothing is committed past the run.
    Halt,
}

#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    pub max_attempts: u32,
    /// The pause before the second attempt.
    pub backoff: Duration,
    pub on_failure: OnFailure,
    pub on_outage: OnOutage,
    /// How long a run is held that cannot be compared with another one.
    pub patience: Duration,
    /// Failed batches are halved until the bad records are isolated.
    pub bisect: bool,
}

/// A failed attempt, and what is known of the run and of others.
#[derive(Clone, Copy, Debug)]
pub struct Attempted {
    /// The attempt's number, from 1; attempts in which the step could not work are left out, unless this is one.
    pub number: u32,
    /// With this attempt.
    pub failing: Failing,
    /// Whether this attempt counts against the run (see `Failing::counted`).
    pub counts: bool,
    /// Any of how many records may be to blame.
    pub suspects: usize,
    /// The run is of a redrive: if it is given up on, its records are kept as they were before.
    pub is_redrive: bool,
    pub evidence: Evidence,
    pub now: Instant,
}

impl Attempted {
    /// The step works for others and fails for this run alone. Not after a hold: the run may be the first one that
    /// meets the next outage.
    fn is_only_one(&self) -> bool {
        self.evidence.worked_since && !self.evidence.others_fail && !self.failing.was_held
    }
}

/// The longest pause between attempts.
const MAX_BACKOFF: Duration = Duration::from_secs(300);
/// The same if the step says that it cannot work now.
const MAX_NOT_NOW_BACKOFF: Duration = Duration::from_secs(30);

impl RetryPolicy {
    /// The policy that the settings ask for.
    pub fn of(config: &Config) -> RetryPolicy {
        RetryPolicy {
            max_attempts: config.max_attempts,
            backoff: config.retry_backoff,
            on_failure: config.on_failure,
            on_outage: config.on_outage,
            patience: config.outage_patience,
            bisect: config.bisect,
        }
    }

    /// How many failures must count against a run before it is given up on. At least two, since only the second
    /// one has a success of another run before it.
    pub fn needed(&self) -> u32 {
        self.max_attempts.max(2)
    }

    /// What follows. `jitter` is a random number in 0..1: a pause lies between half and the whole of the
    /// exponential one.
    pub fn after(&self, failure: Failure, attempted: &Attempted, jitter: f64) -> Verdict {
        let is_last = attempted.number >= self.max_attempts;
        match failure {
            Failure::Stop => Verdict::Halt,
            Failure::Final => self.give_up(false),
            Failure::NotNow => self.not_now(attempted, is_last, jitter),
            Failure::Passing if self.on_outage == OnOutage::DeadLetter || attempted.is_redrive => {
                if is_last {
                    self.halve_or_give_up(attempted, false)
                } else {
                    self.retry(attempted.number, jitter)
                }
            }
            Failure::Passing if is_last && attempted.is_only_one() => {
                self.halve_or_give_up(attempted, false)
            }
            Failure::Passing if attempted.failing.counted >= self.needed() => {
                self.halve_or_give_up(attempted, false)
            }
            Failure::Passing if attempted.counts => self.retry(attempted.failing.counted, jitter),
            Failure::Passing if is_last || attempted.evidence.others_fail => self.outage(attempted),
            Failure::Passing => self.retry(attempted.number, jitter),
        }
    }

    /// `tries`: how many times it was tried, from 1.
    fn retry(&self, tries: u32, jitter: f64) -> Verdict {
        let pauses = Backoff { first: self.backoff, longest: MAX_BACKOFF };
        Verdict::Retry(pauses.pause(tries - 1, jitter))
    }

    fn not_now(&self, attempted: &Attempted, is_last: bool, jitter: f64) -> Verdict {
        let is_outage = !attempted.counts && (is_last || attempted.evidence.others_fail);
        match self.on_outage {
            OnOutage::Halt if is_outage => Verdict::Halt,
            OnOutage::Hold if is_outage => Verdict::Hold,
            _ => {
                let pauses = Backoff { first: self.backoff, longest: MAX_NOT_NOW_BACKOFF };
                Verdict::Retry(pauses.pause(attempted.number - 1, jitter))
            }
        }
    }

    /// The step works for no other run either, or there is none.
    fn outage(&self, attempted: &Attempted) -> Verdict {
        let Evidence { others_fail, is_drained, all_wait, unproved, .. } = attempted.evidence;
        let is_alone = !others_fail;
        if self.on_outage == OnOutage::Halt {
            return Verdict::Halt;
        }
        // Each run that is given up on like this makes the next one wait twice as long: in an outage that lasts,
        // few are lost.
        let patience = self.patience.saturating_mul(2u32.saturating_pow(unproved));
        let is_over = attempted.now.saturating_duration_since(attempted.failing.since) >= patience;
        // The halves can be compared with each other. While others fail too, only if nothing else is left to compare
        // with, and late: an outage would halve whatever waits.
        if self.bisect && attempted.suspects > 1 && (is_alone || is_over && is_drained) {
            return Verdict::Halve;
        }
        if is_over && (is_alone || all_wait) {
            return self.halve_or_give_up(attempted, true);
        }
        Verdict::Hold
    }

    fn halve_or_give_up(&self, attempted: &Attempted, unproved: bool) -> Verdict {
        if self.bisect && attempted.suspects > 1 { Verdict::Halve } else { self.give_up(unproved) }
    }

    fn give_up(&self, unproved: bool) -> Verdict {
        match self.on_failure {
            OnFailure::DeadLetter => Verdict::DeadLetter { unproved },
            OnFailure::Halt => Verdict::Halt,
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
        on_outage: OnOutage::Hold,
        patience: Duration::from_secs(120),
        bisect: false,
    };
    const GIVE_UP: Verdict = Verdict::DeadLetter { unproved: false };
    const UNPROVED: Verdict = Verdict::DeadLetter { unproved: true };
    const ALONE: Evidence = Evidence {
        others_fail: false,
        worked_since: false,
        is_drained: false,
        all_wait: false,
        unproved: 0,
    };
    const OTHERS: Evidence = Evidence { others_fail: true, ..ALONE };

    /// The attempt of this number; `counted` failures count, this one if `counts`. The run fails since `ago`
    /// seconds.
    fn failed(number: u32, counted: u32, counts: bool, ago: u64, evidence: Evidence) -> Attempted {
        let since = Instant::now();
        Attempted {
            number,
            failing: Failing {
                began: since,
                since,
                counted,
                counted_at: since,
                not_now: 0,
                was_held: false,
            },
            counts,
            suspects: 9,
            is_redrive: false,
            evidence,
            now: since + Duration::from_secs(ago),
        }
    }

    fn secs(secs: u64) -> Verdict {
        Verdict::Retry(Duration::from_secs(secs))
    }

    #[test]
    fn a_run_that_fails_while_others_succeed_is_given_up_on_after_its_attempts() {
        let after = |number, jitter| {
            let attempted = failed(number, number, true, 5, Evidence::default());
            POLICY.after(Failure::Passing, &attempted, jitter)
        };
        assert_eq!([after(1, 1.0), after(2, 1.0), after(2, 0.0)], [secs(1), secs(2), secs(1)]);
        assert_eq!(after(3, 1.0), GIVE_UP);
    }

    #[test]
    fn a_failure_without_a_success_of_another_run_leads_to_a_hold_and_to_no_dead_letter() {
        let after = |policy: RetryPolicy, number, evidence| {
            policy.after(Failure::Passing, &failed(number, 1, false, 999, evidence), 1.0)
        };
        assert_eq!(
            after(POLICY, 2, OTHERS),
            Verdict::Hold,
            "two runs fail: no more attempts are used"
        );
        assert_eq!(after(POLICY, 1_000_000, OTHERS), Verdict::Hold);
        assert_eq!(after(POLICY, 2, Evidence::default()), secs(2), "it may be this run alone");
        let halting = RetryPolicy { on_outage: OnOutage::Halt, ..POLICY };
        assert_eq!(after(halting, 3, OTHERS), Verdict::Halt);
        let as_before = RetryPolicy { on_outage: OnOutage::DeadLetter, ..POLICY };
        assert_eq!(after(as_before, 2, OTHERS), secs(2));
        assert_eq!(after(as_before, 3, OTHERS), GIVE_UP);
    }

    #[test]
    fn bad_batches_at_the_end_of_a_topic_are_halved_when_patience_is_over() {
        let drained = Evidence { is_drained: true, ..OTHERS };
        let policy = RetryPolicy { bisect: true, ..POLICY };
        let after = |policy: RetryPolicy, ago, evidence, suspects| {
            let attempted = Attempted { suspects, ..failed(3, 1, false, ago, evidence) };
            policy.after(Failure::Passing, &attempted, 1.0)
        };
        assert_eq!(after(policy, 119, drained, 9), Verdict::Hold);
        assert_eq!(after(policy, 120, drained, 9), Verdict::Halve);
        assert_eq!(after(policy, 120, OTHERS, 9), Verdict::Hold, "runs wait that may be good");
        assert_eq!(after(policy, 120, drained, 1), Verdict::Hold, "it may be an outage");
        assert_eq!(after(POLICY, 120, drained, 9), Verdict::Hold);
    }

    #[test]
    fn a_run_that_cannot_be_compared_is_given_up_on_when_patience_is_over() {
        let after = |ago, evidence| {
            POLICY.after(Failure::Passing, &failed(9, 1, false, ago, evidence), 1.0)
        };
        let alone = Evidence::default();
        assert_eq!([after(119, alone), after(120, alone)], [Verdict::Hold, UNPROVED]);
        let lanes_wait = Evidence { all_wait: true, ..OTHERS };
        assert_eq!([after(119, lanes_wait), after(120, lanes_wait)], [Verdict::Hold, UNPROVED]);
        let second = Evidence { unproved: 1, ..lanes_wait };
        assert_eq!([after(239, second), after(240, second)], [Verdict::Hold, UNPROVED]);
    }

    #[test]
    fn a_run_that_alone_fails_needs_no_further_proof_unless_it_was_held() {
        let worked = Evidence { worked_since: true, ..ALONE };
        let alone = failed(3, 1, false, 5, worked);
        let after = |attempted: &Attempted| POLICY.after(Failure::Passing, attempted, 1.0);
        assert_eq!(after(&alone), GIVE_UP);
        assert_eq!(after(&failed(2, 1, false, 5, worked)), secs(2), "it has an attempt left");
        let failing = Failing { was_held: true, ..alone.failing };
        assert_eq!(after(&Attempted { failing, ..alone }), Verdict::Hold);
        let others = Evidence { worked_since: true, ..OTHERS };
        assert_eq!(after(&failed(3, 1, false, 5, others)), Verdict::Hold);
    }

    #[test]
    fn one_attempt_is_too_few_to_tell_a_bad_record_from_an_outage() {
        let once = RetryPolicy { max_attempts: 1, ..POLICY };
        let after = |number, counted, counts| {
            let attempted = failed(number, counted, counts, 5, Evidence::default());
            once.after(Failure::Passing, &attempted, 1.0)
        };
        assert_eq!(after(1, 1, true), secs(1));
        assert_eq!(after(2, 1, false), Verdict::Hold);
        assert_eq!(after(3, 2, true), GIVE_UP);
    }

    #[test]
    fn not_now_is_never_given_up_on() {
        for on_outage in [OnOutage::Hold, OnOutage::DeadLetter] {
            let policy = RetryPolicy { on_outage, ..POLICY };
            for (number, counted, counts) in [(1, 1, true), (3, 3, true), (99, 99, true)] {
                let attempted = failed(number, counted, counts, 9999, Evidence::default());
                let verdict = policy.after(Failure::NotNow, &attempted, 1.0);
                assert_eq!(verdict, secs(2u64.pow(number.min(6) - 1).min(30)));
            }
        }
        let without_success = failed(3, 1, false, 9999, OTHERS);
        assert_eq!(POLICY.after(Failure::NotNow, &without_success, 1.0), Verdict::Hold);
    }

    #[test]
    fn a_step_can_give_up_or_stop_at_once() {
        let first = failed(1, 1, true, 0, Evidence::default());
        assert_eq!(POLICY.after(Failure::Final, &first, 0.5), GIVE_UP);
        assert_eq!(POLICY.after(Failure::Stop, &first, 0.5), Verdict::Halt);
        let halting = RetryPolicy { on_failure: OnFailure::Halt, ..POLICY };
        assert_eq!(halting.after(Failure::Final, &first, 0.5), Verdict::Halt);
    }

    #[test]
    fn a_redrive_that_fails_again_is_no_news() {
        let redrive = Attempted { is_redrive: true, ..failed(3, 1, false, 0, OTHERS) };
        assert_eq!(POLICY.after(Failure::Passing, &redrive, 0.5), GIVE_UP);
    }

    #[test]
    fn a_batch_is_halved_after_its_last_attempt_and_a_single_record_is_not() {
        let bisecting = RetryPolicy { bisect: true, ..POLICY };
        let several = failed(3, 3, true, 5, Evidence::default());
        let one = Attempted { suspects: 1, ..several };
        assert!(matches!(
            bisecting.after(Failure::Passing, &failed(2, 2, true, 5, OTHERS), 0.5),
            Verdict::Retry(_)
        ));
        assert_eq!(bisecting.after(Failure::Passing, &several, 0.5), Verdict::Halve);
        assert_eq!(bisecting.after(Failure::Passing, &one, 0.5), GIVE_UP);
        assert_eq!(bisecting.after(Failure::Final, &several, 0.5), GIVE_UP);
        let alone = failed(3, 1, false, 5, Evidence::default());
        assert_eq!(bisecting.after(Failure::Passing, &alone, 0.5), Verdict::Halve, "to compare");
        let not_alone = failed(3, 1, false, 5, OTHERS);
        assert_eq!(bisecting.after(Failure::Passing, &not_alone, 0.5), Verdict::Hold);
        let halting = RetryPolicy { on_failure: OnFailure::Halt, ..bisecting };
        assert_eq!(halting.after(Failure::Passing, &several, 0.5), Verdict::Halve);
        assert_eq!(halting.after(Failure::Passing, &one, 0.5), Verdict::Halt);
    }
}

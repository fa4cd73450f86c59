//! Faults on demand: an embedded topic that fails as a real broker would, by a plan and a seed.
//!
//! For mb's own tests and for users' tests of their pipelines, behind the feature `testing`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::model::error::{Error, Result};
use crate::model::offset::Partition;
use crate::model::sync::Mutex;

/// The calls that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// `topic`, `create_topic`.
    Topic,
    /// `watermarks`.
    Watermarks,
    /// `committed`.
    Committed,
    /// `commit`. Half of the faults drawn by probability come before the commit, half after it: the offsets are
    /// stored and the answer is lost.
    Commit,
    /// `consumer`, `producer`.
    Open,
    /// A consumer's `poll`, before it hands anything over.
    Poll,
    /// The write of the messages that a producer has gathered. It is retried, as a Kafka producer retries.
    Write,
}

/// A plan of faults, shared by all its clones: a test changes it while the pipeline runs.
///
/// Here the answer to the first commit is an error and a partition has no leader at first. The pipeline processes
/// all records all the same.
///
/// ```
/// use std::sync::Arc;
///
/// use mb::embedded::{Call, Embedded, Faults};
/// use mb::{Attempt, Builder, Produce, Step, StepError, Stopper};
///
/// /// Counts nothing and accepts everything; the first batch brings the leader back.
/// struct Heal(Faults);
///
/// impl Step for Heal {
///     fn name(&self) -> &str {
///         "heal"
///     }
///
///     fn run(&self, _: &mut Attempt<'_>) -> Result<(), StepError> {
///         self.0.take_leaders([]);
///         Ok(())
///     }
/// }
///
/// let folder = tempfile::tempdir().unwrap();
/// let faults = Faults::new(7);
/// faults.fail_next(Call::Commit, 1);
/// faults.take_leaders([1]);
/// let topics = Embedded::open(folder.path(), 1 << 20)?.with_faults(faults.clone());
/// let pipeline = Builder::new(Heal(faults.clone()))
///     .topic("orders")
///     .data_dir(folder.path())
///     .configure(|config| {
///         config.produce = Some(Produce { rate: 0.0, count: Some(40), ..Produce::default() });
///         config.until_caught_up = true;
///     })
///     .build()
///     .with_broker(Arc::new(topics));
/// let (_stopper, stop) = Stopper::new();
/// assert_eq!(pipeline.run(&stop)?.records_processed, 40);
/// assert_eq!(faults.struck(), 1);
/// # Ok::<(), mb::Error>(())
/// ```
#[derive(Clone)]
pub struct Faults(Arc<Mutex<Plan>>);

struct Plan {
    rng: fastrand::Rng,
    probability: f64,
    delay: Duration,
    next: BTreeMap<Call, u32>,
    leaderless: BTreeSet<Partition>,
    refuses_commits: bool,
    offsets_kept: Option<Duration>,
    /// By group and partition, when it was committed last.
    committed: BTreeMap<(String, Partition), Instant>,
    struck: u64,
}

/// When a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strike {
    Before,
    After,
}

impl Faults {
    /// No faults yet; the same seed draws the same ones for the same sequence of calls.
    pub fn new(seed: u64) -> Faults {
        Faults(Arc::new(Mutex::new(Plan {
            rng: fastrand::Rng::with_seed(seed),
            probability: 0.0,
            delay: Duration::ZERO,
            next: BTreeMap::new(),
            leaderless: BTreeSet::new(),
            refuses_commits: false,
            offsets_kept: None,
            committed: BTreeMap::new(),
            struck: 0,
        })))
    }

    /// The next `calls` calls of this kind fail, before they do anything.
    pub fn fail_next(&self, call: Call, calls: u32) {
        self.plan(|plan| plan.next.insert(call, calls));
    }

    /// From now on every call fails with this probability (0 to 1).
    pub fn fail_randomly(&self, probability: f64) {
        self.plan(|plan| plan.probability = probability);
    }

    /// From now on every call takes this much longer.
    pub fn delay(&self, delay: Duration) {
        self.plan(|plan| plan.delay = delay);
    }

    /// From now on these partitions, and no others, have no leader: they cannot be read, and their watermarks are
    /// unknown. Messages can still be written to them.
    pub fn take_leaders(&self, partitions: impl IntoIterator<Item = Partition>) {
        self.plan(|plan| plan.leaderless = partitions.into_iter().collect());
    }

    /// From now on every commit is refused, as by a broker that gives no permission for the group.
    pub fn refuse_commits(&self) {
        self.plan(|plan| plan.refuses_commits = true);
    }

    pub(super) fn refuses_commits(&self) -> bool {
        self.plan(|plan| plan.refuses_commits)
    }

    /// From now on the topic forgets a group's offset this long after its last commit (or after this moment), as
    /// Kafka does after `offsets.retention.minutes`.
    pub fn keep_offsets_for(&self, kept: Duration) {
        self.plan(|plan| plan.offsets_kept = Some(kept));
    }

    pub(super) fn offsets_kept(&self) -> Option<Duration> {
        self.plan(|plan| plan.offsets_kept)
    }

    pub(super) fn committed(&self, group: &str, partitions: impl Iterator<Item = Partition>) {
        let now = Instant::now();
        let entry = |partition| ((group.to_owned(), partition), now);
        self.plan(|plan| plan.committed.extend(partitions.map(entry)));
    }

    /// Whether the topic has forgotten the group's offset.
    pub(super) fn has_expired(&self, group: &str, partition: Partition) -> bool {
        self.plan(|plan| {
            let Some(kept) = plan.offsets_kept else { return false };
            let now = Instant::now();
            let last = plan.committed.entry((group.to_owned(), partition)).or_insert(now);
            now.saturating_duration_since(*last) >= kept
        })
    }

    /// No more faults, no more delay.
    pub fn heal(&self) {
        self.plan(|plan| {
            plan.leaderless.clear();
            plan.refuses_commits = false;
            plan.offsets_kept = None;
            plan.probability = 0.0;
            plan.delay = Duration::ZERO;
            plan.next.clear();
        });
    }

    /// How many calls have failed by this plan.
    pub fn struck(&self) -> u64 {
        self.plan(|plan| plan.struck)
    }

    fn plan<T>(&self, change: impl FnOnce(&mut Plan) -> T) -> T {
        change(&mut self.0.lock())
    }

    fn draw(&self, call: Call) -> Option<Strike> {
        let (strike, delay) = self.plan(|plan| {
            let planned = plan.next.get_mut(&call).filter(|left| **left > 0);
            let strike = if let Some(left) = planned {
                *left -= 1;
                Some(Strike::Before)
            } else if plan.probability > 0.0 && plan.rng.f64() < plan.probability {
                let after = call == Call::Commit && plan.rng.bool();
                Some(if after { Strike::After } else { Strike::Before })
            } else {
                None
            };
            plan.struck += u64::from(strike.is_some());
            (strike, plan.delay)
        });
        if !delay.is_zero() {
            thread::sleep(delay);
        }
        strike
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.plan(|plan| {
            f.debug_struct("Faults")
                .field("probability", &plan.probability)
                .field("delay", &plan.delay)
                .field("next", &plan.next)
                .field("leaderless", &plan.leaderless)
                .field("refuses_commits", &plan.refuses_commits)
                .field("struck", &plan.struck)
                .finish()
        })
    }
}

/// Whether the plan, if there is one, has taken the partition's leader.
pub(super) fn is_leaderless(faults: Option<&Faults>, partition: Partition) -> bool {
    faults.is_some_and(|faults| faults.plan(|plan| plan.leaderless.contains(&partition)))
}

/// Runs `body` under the plan, if there is one; `doing` reads after "cannot".
pub(super) fn under<T>(
    faults: Option<&Faults>,
    call: Call,
    doing: &str,
    body: impl FnOnce() -> Result<T>,
) -> Result<T> {
    match faults.and_then(|faults| faults.draw(call)) {
        None => body(),
        Some(Strike::Before) => Err(Error::broker(doing, "injected fault")),
        Some(Strike::After) => {
            body()?;
            Err(Error::broker(doing, "injected fault: the answer was lost"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(faults: &Faults, call: Call) -> bool {
        under(Some(faults), call, "do it", || Ok(())).is_ok()
    }

    #[test]
    fn the_next_calls_of_one_kind_fail_and_no_others() {
        let faults = Faults::new(1);
        faults.fail_next(Call::Poll, 2);
        assert!(call(&faults, Call::Topic));
        let polls: Vec<bool> = (0..3).map(|_| call(&faults, Call::Poll)).collect();
        assert_eq!(polls, [false, false, true]);
        assert_eq!(faults.struck(), 2);
    }

    #[test]
    fn one_seed_draws_one_sequence_and_healing_ends_it() {
        let draws = |seed| -> Vec<Option<Strike>> {
            let faults = Faults::new(seed);
            faults.fail_randomly(0.5);
            (0..64).map(|_| faults.draw(Call::Commit)).collect()
        };
        let first = draws(11);
        assert_eq!(first, draws(11));
        for outcome in [None, Some(Strike::Before), Some(Strike::After)] {
            assert!(first.contains(&outcome), "{outcome:?} never came");
        }
        let faults = Faults::new(11);
        faults.fail_randomly(1.0);
        assert!(!call(&faults, Call::Topic));
        faults.heal();
        assert!(call(&faults, Call::Topic));
    }

    #[test]
    fn a_fault_after_the_commit_lets_it_happen() {
        let faults = Faults::new(3);
        faults.fail_randomly(1.0);
        let mut done = 0;
        for _ in 0..64 {
            under(Some(&faults), Call::Commit, "commit", || {
                done += 1;
                Ok(())
            })
            .unwrap_err();
        }
        assert!(done > 0 && done < 64, "{done} of 64");
    }
}

//! The step's target, which is away at times, and what must hold meanwhile: an outage makes no dead letters.
//!
//! The rule of docs/failures.md, as far as it can be told from outside: with `--on-outage hold` a run is given up on
//! only if the step has worked for some records since the run's first attempt began, or, if no other run has failed
//! since it worked last, after `--outage-patience`. A run that fails because the step says "not now" is never given
//! up on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mb::config::OnOutage;
use mb::history::{CANCELLED, Outcome};
use mb::model::offset::{Offset, Partition, Reprocess, RunKey};
use mb::model::run::RunState;
use mb::step::{Attempt, StepError};

use crate::oracle::{Failure, is_piece, is_poison};
use crate::plan::ENDLESS_PATIENCE;
use crate::world::World;

/// After so many probes of a hold a person gives up on what is held, once all faults are over.
pub const A_PERSONS_PATIENCE: u32 = 6;

/// What an attempt fails with while the target is away.
#[derive(Clone, Copy, Debug)]
enum Absence {
    Fails,
    NotNow,
}

/// What is known of the outages and of the runs' attempts, whatever became of the processes.
#[derive(Default)]
pub struct Outages {
    away: Option<(Instant, Absence)>,
    /// Every run that has begun and has not ended; of one that was split only `at` counts any more.
    begun: BTreeMap<RunKey, Begun>,
    /// Attempts under way.
    in_step: usize,
    /// When an attempt last ended with records that were processed.
    worked: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Begun {
    at: Instant,
    /// An outage has made it fail.
    met_outage: bool,
    /// How its last attempt ended.
    last: Option<Failed>,
}

#[derive(Clone, Debug)]
struct Failed {
    at: Instant,
    /// The step had worked for some records since the run began.
    is_proved: bool,
    /// Runs of other batches that had failed too since the step last worked.
    others: Vec<RunKey>,
    is_not_now: bool,
    /// The step said that further attempts are of no use, so the rule does not apply.
    is_final: bool,
}

impl Outages {
    /// The target goes away, or comes back. Each outage waits until the runs that the one before made fail have
    /// ended, and until no attempt is under way. A run that fails in one outage after another, with successes of
    /// others between them, cannot be told from one with a bad record; nor can one whose first attempt began before
    /// a success of another run, and that failed because the target went away after that.
    pub fn let_time_pass(&mut self, world: &World) {
        if self.away.is_some_and(|(until, _)| until <= world.now()) {
            self.away = None;
            world.note(|| "the step's target is back".into());
        }
        if self.away.is_none()
            && self.in_step == 0
            && !self.begun.values().any(|begun| begun.met_outage)
            && world.hits(world.plan.outages)
        {
            let lasts = Duration::from_millis(u64::from(1000 + world.below(59_000)));
            let absence = if world.one_in(3) { Absence::NotNow } else { Absence::Fails };
            self.away = Some((world.now() + lasts, absence));
            world.count(|figures| figures.outages += 1);
            world.note(|| format!("the step's target is away for {lasts:?}: {absence:?}"));
        }
    }

    /// A process begins, and knows nothing of failures before it.
    pub fn begin_life(&mut self) {
        self.in_step = 0;
        self.begun.values_mut().for_each(|begun| begun.last = None);
    }

    /// The cursor was moved: the partition's runs are cut anew.
    pub fn forget(&mut self, partition: Partition) {
        self.begun.retain(|key, _| key.partition != partition || key.reprocess.is_some());
    }

    /// What an attempt of the run fails with because the target is away.
    pub fn error(&mut self, world: &World, key: &RunKey) -> Option<StepError> {
        let (until, absence) = self.away?;
        if until <= world.now() || world.calm.get() {
            return None;
        }
        if let Some(begun) = self.begun.get_mut(key) {
            begun.met_outage = true;
        }
        Some(match absence {
            Absence::Fails => StepError::Retry("away".to_owned()),
            Absence::NotNow => StepError::NotNow("away".to_owned()),
        })
    }

    /// The runs of other batches that have failed since the step last worked, so that more than one batch says that
    /// it does not work.
    fn others_that_fail(&self, key: &RunKey) -> Vec<RunKey> {
        let redrive = |key: &RunKey| matches!(key.reprocess, Some(Reprocess::Redrive(_)));
        let has_failed =
            |last: &Failed| !last.is_final && self.worked.is_none_or(|at| at < last.at);
        let others = self.begun.iter().filter(|(other, begun)| {
            let is_failing = begun.last.as_ref().is_some_and(has_failed);
            is_failing && batch_of(other) != batch_of(key) && !redrive(other)
        });
        others.map(|(other, _)| other.clone()).collect()
    }
}

/// An attempt begins. What a run was split from has begun for it.
pub fn begins(world: &World, key: &RunKey) {
    let mut outages = world.outages.borrow_mut();
    outages.in_step += 1;
    if outages.begun.contains_key(key) {
        return;
    }
    let mut begun = Begun { at: world.now(), met_outage: false, last: None };
    for (_, whole) in outages.begun.iter_mut().filter(|(whole, _)| is_piece(key, whole)) {
        begun.at = begun.at.min(whole.at);
        begun.met_outage |= std::mem::take(&mut whole.met_outage);
    }
    outages.begun.insert(key.clone(), begun);
}

/// An attempt has ended.
pub fn ends(world: &World, attempt: &Attempt<'_>, failure: Option<&Failure>) {
    let mut outages = world.outages.borrow_mut();
    outages.in_step -= 1;
    let failed = attempt.failed.len();
    let is_partial = failed > 0 && failed < attempt.batch.len();
    if is_partial || failure.is_none() && failed == 0 {
        outages.worked = Some(world.now());
    }
    let (worked, others) = (outages.worked, outages.others_that_fail(attempt.key));
    let Some(begun) = outages.begun.get_mut(attempt.key) else { return };
    let is_not_now = matches!(failure, Some(Failure::Error(StepError::NotNow(_))));
    // A step that names records and ends well gives up on these.
    let is_final = match failure {
        None => true,
        Some(Failure::Error(error)) => matches!(error, StepError::DeadLetter(_)),
        Some(Failure::Panic) => false,
    };
    begun.last = Some(Failed {
        at: world.now(),
        is_proved: worked >= Some(begun.at),
        others,
        is_not_now,
        is_final,
    });
}

/// An outcome is in the file: a run that was given up on was so by the rule.
pub fn check_outcome(world: &World, outcome: &Outcome) -> Result<(), String> {
    let key = &outcome.key;
    if matches!(outcome.state, RunState::Queued | RunState::Halted) {
        return Ok(());
    }
    let Some(begun) = world.outages.borrow_mut().begun.remove(key) else { return Ok(()) };
    let Some(given_up) = &outcome.dead_letters else { return Ok(()) };
    // A redrive's letters are kept as they were.
    let is_redrive = matches!(key.reprocess, Some(Reprocess::Redrive(_)));
    if given_up.why == CANCELLED || is_redrive || world.plan.on_outage != OnOutage::Hold {
        return Ok(());
    }
    let last = begun.last.as_ref().ok_or("given up on before its first attempt has ended")?;
    if last.is_not_now {
        return Err(format!("given up on though the step said \"not now\": {begun:?}"));
    }
    let is_impatient = world.plan.outage_patience != ENDLESS_PATIENCE;
    // Pieces of one batch are one witness; whose pieces they are is not known here.
    let knows_batches = world.plan.bisect.0 == 0 && !world.plan.names;
    // Those that were given up on before are in the file before.
    let others_fail = {
        let outages = world.outages.borrow();
        last.others.iter().any(|other| outages.begun.contains_key(other))
    };
    let is_alone = is_impatient
        && last.at - begun.at >= world.plan.outage_patience
        && !(others_fail && knows_batches && !may_all_wait(world));
    if !last.is_final && !last.is_proved && !is_alone {
        return Err(format!("given up on though the step works for nobody: {begun:?}"));
    }
    // A run that has one attempt only is compared with runs that it overlaps, which may not have met the outage.
    let has_more_attempts =
        world.life.borrow().as_ref().is_some_and(|life| life.engine.retry.max_attempts > 1);
    let knows_bad = world.plan.flaky.0 == 0 && !is_impatient && has_more_attempts;
    let mut records = given_up.batch.records();
    if knows_bad && !records.any(|record| is_poison(world, key, record.offset)) {
        return Err(format!("given up on, and none of its records is bad: {begun:?}"));
    }
    Ok(())
}

/// With an order every other run may wait for one that fails: then nothing can be compared with it.
fn may_all_wait(world: &World) -> bool {
    let life = world.life.borrow();
    life.as_ref().is_none_or(|life| life.engine.queue.is_ordered())
}

/// Lanes of a batch have one range.
fn batch_of(key: &RunKey) -> (Partition, Offset, Option<Reprocess>) {
    (key.partition, key.range.first, key.reprocess)
}

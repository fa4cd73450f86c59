//! Holding: what mb does while the step fails for everybody. Pure: runs, results and the time come in.
//!
//! A step that fails may have been given a bad record, or its target may be away. The difference is whether
//! the step works for other runs meanwhile. If mb took an outage for bad records, a database that restarts for
//! ten seconds would turn thousands of good records into dead letters. So a failed attempt counts against its
//! run only if the step has worked for another run since the failure before; and as soon as a run has used its
//! attempts without such a proof, mb holds: one run at a time probes, and the first that succeeds lets all go
//! on.
//!
//! What follows for one run is decided in `runs::outcome`; the rule in a user's words is in
//! docs/failures.md.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::model::backoff::Backoff;
use crate::model::offset::{Offset, Partition, Reprocess, RunKey};
use crate::model::run::{Run, RunId};

/// The pauses between two rounds of probes. The longest, with the time that the step itself takes, is how long mb
/// may need to notice the end of an outage.
const PROBE_PAUSES: Backoff =
    Backoff { first: Duration::from_millis(250), longest: Duration::from_secs(4) };
/// Whose turn it is in a round of probes: a fresh run, from the channel, or one that has failed before. If only
/// failed runs probed, a few bad records would block the good ones for ever. If each probe were followed by a pause,
/// each bad record that probes would delay by one pause that mb notices the end of an outage; and after a long outage
/// most of the failed runs may have bad records.
const ROUND: [Prober; 3] = [Prober::Fresh, Prober::Failed, Prober::Fresh];
/// A hold that goes on is logged again at this interval.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The batch that a run is of. Its pieces fail or succeed for the same records, so one of them that fails is no
/// second witness of an outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Origin(Partition, Offset, Option<Reprocess>);

impl Origin {
    fn of(run: &Run) -> Origin {
        Origin(run.key.partition, run.whole.first, run.key.reprocess)
    }
}

/// What the failures and successes of all runs say about the step.
#[derive(Debug, Default)]
pub(super) struct Hold {
    /// The latest beginning of an attempt that succeeded: after any failure before it, the step worked.
    proof: Option<Instant>,
    /// When an attempt failed last.
    failed_at: Option<Instant>,
    /// Batches whose runs have failed since the step last worked.
    failing: BTreeSet<Origin>,
    /// Runs given up on since the step last worked, because no other run could be tried.
    unproved: u32,
    outage: Option<Outage>,
}

#[derive(Debug)]
struct Outage {
    since: Instant,
    /// The last error.
    cause: String,
    /// The run that tries whether the step works again.
    probe: Option<RunId>,
    next_probe: Instant,
    probes: u32,
    /// Rounds of probes that are over.
    rounds: u32,
    /// The runs that have probed in the round under way.
    tried: Vec<RunId>,
    /// When it was last logged.
    logged_at: Option<Instant>,
}

/// What the other runs say about a failed attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Runs of other batches have failed too since the step last worked.
    pub others_fail: bool,
    /// An attempt of another run has ended in success since this run's first attempt began, and before the last one
    /// did: of two that overlap, the one that fails may have met an outage that the other did not. A run that may have
    /// one attempt only is compared with those that it overlaps all the same.
    pub worked_since: bool,
    /// No fresh run is in the channel.
    pub is_drained: bool,
    /// Every run that could be compared with waits for a failed one (`--order`).
    pub all_wait: bool,
    /// Runs given up on for want of comparison, since the step last worked.
    pub unproved: u32,
}

/// A hold, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub since: Instant,
    pub cause: String,
    /// Attempts since then to find out whether the step works.
    pub probes: u32,
    pub next_probe: Instant,
    pub was_logged: bool,
}

/// Which run may be handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// Any.
    Open,
    /// None, for this long; `None`: until the probe under way has ended.
    Shut(Option<Duration>),
    /// One, as a probe.
    Probe(Prober),
}

/// Which run is to probe, if there is one of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prober {
    /// A run from the channel.
    Fresh,
    /// One that has failed before.
    Failed,
}

impl Hold {
    /// An attempt that began at `began` has succeeded, at least for some of its records. Returns the hold that
    /// this ends.
    pub fn worked(&mut self, began: Instant) -> Option<Held> {
        self.proof = self.proof.max(Some(began));
        self.failing.clear();
        self.unproved = 0;
        self.outage.take().map(|outage| outage.held())
    }

    /// An attempt of the run has failed. Returns what is to be logged: that mb holds, once a probe has failed too, and
    /// then each minute. If the first probe succeeds, a few bad records came together, and there is no outage to report.
    pub fn failed(&mut self, run: &Run, error: &str, now: Instant) -> Option<HoldLine> {
        self.failed_at = Some(now);
        if is_evidence(&run.key) {
            self.failing.insert(Origin::of(run));
        }
        let outage = self.outage.as_mut()?;
        error.clone_into(&mut outage.cause);
        let line = match outage.logged_at {
            None if outage.probe == Some(run.id) => HoldLine::Begins,
            Some(at) if now >= at + LOG_INTERVAL => HoldLine::GoesOn(now - outage.since),
            _ => return None,
        };
        outage.logged_at = Some(now);
        Some(line)
    }

    /// The latest beginning of an attempt that has succeeded by now.
    pub fn proof(&self) -> Option<Instant> {
        self.proof
    }

    /// Whether every failure has a success after it: further ones say nothing new.
    pub fn is_settled(&self) -> bool {
        self.outage.is_none() && self.failing.is_empty() && self.proof >= self.failed_at
    }

    /// What the failures say; the rest is for the caller to fill in.
    pub fn evidence(&self, run: &Run) -> Evidence {
        let own = Origin::of(run);
        let others_fail = self.failing.iter().any(|origin| *origin != own);
        Evidence { others_fail, unproved: self.unproved, ..Evidence::default() }
    }

    /// A run is given up on though no other run could be compared with.
    pub fn gave_up_unproved(&mut self, run: &Run) {
        self.unproved += 1;
        self.failing.remove(&Origin::of(run));
    }

    /// A run that has used its attempts waits for the step to work.
    pub fn hold(&mut self, cause: &str, now: Instant) {
        self.outage.get_or_insert_with(|| Outage {
            since: now,
            cause: cause.to_owned(),
            probe: None,
            next_probe: now + PROBE_PAUSES.first,
            probes: 0,
            rounds: 0,
            tried: Vec::new(),
            logged_at: None,
        });
    }

    /// Nothing is left that could probe. Returns the hold that this ends.
    pub fn ends(&mut self) -> Option<Held> {
        self.failing.clear();
        self.outage.take().map(|outage| outage.held())
    }

    pub fn held(&self) -> Option<Held> {
        self.outage.as_ref().map(Outage::held)
    }

    pub fn gate(&self, now: Instant) -> Gate {
        match &self.outage {
            None => Gate::Open,
            Some(outage) if outage.probe.is_some() => Gate::Shut(None),
            Some(outage) if now < outage.next_probe => Gate::Shut(Some(outage.next_probe - now)),
            Some(outage) => Gate::Probe(ROUND[outage.tried.len()]),
        }
    }

    /// The run is handed out as a probe, if there is a hold.
    pub fn probe(&mut self, run: RunId) {
        if let Some(outage) = &mut self.outage {
            outage.probe = Some(run);
        }
    }

    pub fn is_probe(&self, run: RunId) -> bool {
        self.outage.as_ref().is_some_and(|outage| outage.probe == Some(run))
    }

    /// A worker is through with the run. True if it was the probe: the next one is due at once, or after a pause if the
    /// round is over. `jitter` is a random number in 0..1.
    pub fn put_down(&mut self, run: RunId, now: Instant, jitter: f64) -> bool {
        let Some(outage) = self.outage.as_mut().filter(|outage| outage.probe == Some(run)) else {
            return false;
        };
        outage.probe = None;
        outage.probes = outage.probes.saturating_add(1);
        outage.tried.push(run);
        outage.next_probe = now;
        if outage.tried.len() == ROUND.len() {
            self.end_round(now, jitter);
        }
        true
    }

    /// The runs that have probed in the round under way.
    pub fn tried(&self) -> &[RunId] {
        self.outage.as_ref().map_or(&[], |outage| &outage.tried)
    }

    /// The next probe begins another round, after the pause that is returned.
    pub fn end_round(&mut self, now: Instant, jitter: f64) -> Duration {
        let Some(outage) = &mut self.outage else { return Duration::ZERO };
        let pause = PROBE_PAUSES.pause(outage.rounds, jitter);
        outage.next_probe = now + pause;
        outage.rounds = outage.rounds.saturating_add(1);
        outage.tried.clear();
        pause
    }

    /// A probe is due at once.
    pub fn probe_now(&mut self, now: Instant) -> bool {
        let Some(outage) = &mut self.outage else { return false };
        outage.next_probe = now;
        true
    }
}

impl Outage {
    fn held(&self) -> Held {
        Held {
            since: self.since,
            cause: self.cause.clone(),
            probes: self.probes,
            next_probe: self.next_probe,
            was_logged: self.logged_at.is_some(),
        }
    }
}

/// What a hold has to say to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldLine {
    Begins,
    /// So long after it began.
    GoesOn(Duration),
}

/// Whether a failure of the run says anything about the step. Dead letters that are redriven have failed before:
/// it is no news if they fail again.
fn is_evidence(run: &RunKey) -> bool {
    !matches!(run.reprocess, Some(Reprocess::Redrive(_)))
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::model::batch::Batch;
    use crate::model::offset::OffsetRange;

    fn run(first: i64) -> Run {
        let range = OffsetRange::new(Offset::new(first), Offset::new(first));
        Run::for_tests(first, RunKey::new("t", 0, range), Batch::default())
    }

    fn after(begin: Instant, ms: u64) -> Instant {
        begin + Duration::from_millis(ms)
    }

    #[test]
    fn only_a_success_that_began_after_a_failure_settles_it() {
        let (mut hold, now) = (Hold::default(), Instant::now());
        hold.failed(&run(1), "away", after(now, 100));
        hold.worked(after(now, 50));
        assert!(!hold.is_settled(), "it had begun before, perhaps while all was well");
        hold.worked(after(now, 100));
        assert!(hold.is_settled());
        hold.worked(after(now, 60));
        assert_eq!(hold.proof(), Some(after(now, 100)), "the latest one");
    }

    #[test]
    fn pieces_of_a_batch_are_one_witness_and_a_redrive_is_none() {
        let (mut hold, now) = (Hold::default(), Instant::now());
        let mut piece = run(5);
        piece.whole = OffsetRange::new(Offset::new(1), Offset::new(9));
        let other = Run { whole: piece.whole, ..run(7) };
        hold.failed(&piece, "away", now);
        assert!(!hold.evidence(&other).others_fail);
        assert!(hold.evidence(&run(20)).others_fail);
        hold.worked(now);
        let mut redrive = run(30);
        redrive.key.reprocess = Some(Reprocess::Redrive(1));
        hold.failed(&redrive, "away", now);
        assert!(!hold.evidence(&run(20)).others_fail);
    }

    /// The pause before the next probe.
    fn pause(hold: &Hold, now: Instant) -> Duration {
        let Gate::Shut(Some(pause)) = hold.gate(now) else { panic!("{:?}", hold.gate(now)) };
        pause
    }

    #[test]
    fn probes_come_one_at_a_time_in_rounds_after_pauses_that_grow_to_four_seconds() {
        let (mut hold, mut now) = (Hold::default(), Instant::now());
        assert_eq!(hold.gate(now), Gate::Open);
        hold.hold("away", now);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let pause = pause(&hold, now);
            pauses.push(pause.as_millis());
            now += pause;
            let mut round = Vec::new();
            for id in 1..=3 {
                let Gate::Probe(prober) = hold.gate(now) else { panic!("{:?}", hold.gate(now)) };
                round.push(prober);
                hold.probe(RunId(id));
                assert_eq!(hold.gate(after(now, 99_999)), Gate::Shut(None), "one is under way");
                assert!(!hold.put_down(RunId(99), now, 1.0), "another run");
                assert!(hold.put_down(RunId(id), now, 1.0));
            }
            assert_eq!(round, [Prober::Fresh, Prober::Failed, Prober::Fresh]);
            assert!(hold.tried().is_empty(), "the next round may try them again");
        }
        assert_eq!(pauses, [250, 250, 500, 1000, 2000, 4000, 4000, 4000]);
        assert_eq!(hold.held().unwrap().probes, 24);
        assert!(hold.probe_now(now));
        assert!(matches!(hold.gate(now), Gate::Probe(_)));
    }

    #[test]
    fn a_hold_is_logged_when_a_probe_has_failed_and_each_minute_and_ends_with_a_success() {
        let (mut hold, now) = (Hold::default(), Instant::now());
        assert_eq!(hold.failed(&run(1), "away", now), None);
        hold.hold("away", now);
        hold.probe(RunId(2));
        assert_eq!(hold.failed(&run(3), "away", now), None, "it ran before; the probe may succeed");
        assert!(!hold.held().unwrap().was_logged);
        assert_eq!(hold.failed(&run(2), "away", now), Some(HoldLine::Begins));
        assert_eq!(hold.failed(&run(3), "still", after(now, 59_999)), None);
        let minute = Duration::from_secs(60);
        assert_eq!(hold.failed(&run(3), "still", now + minute), Some(HoldLine::GoesOn(minute)));
        assert_eq!(hold.failed(&run(3), "still", now + minute), None);
        hold.gave_up_unproved(&run(1));
        assert_eq!(hold.evidence(&run(2)).unproved, 1);
        let held = hold.worked(now + minute).unwrap();
        assert_eq!((held.since, held.cause.as_str(), held.was_logged), (now, "still", true));
        assert_eq!(hold.gate(now), Gate::Open);
        assert_eq!(hold.evidence(&run(2)).unproved, 0);
    }
}

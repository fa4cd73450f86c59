//! Decides which of the waiting runs may start. Pure: runs and the time come in, runs go out. The channel of fresh
//! runs, the locks and the wake-ups are in `run_queue`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::config::Order;
use crate::model::offset::{Partition, RunKey};
use crate::model::run::{Run, RunId};
use crate::runs::undelivered::Undelivered;

use super::hold::Hold;
use super::parked::Parked;
use super::waiting::Waiting;

/// The runs that wait beside the channel, and how many of each partition are with workers.
///
/// A run is in one place at a time: here, in the channel, or with a worker. It counts as being with a worker from
/// the moment it is handed out, under the same lock. Otherwise a cursor move could take a partition for idle while
/// a worker is about to start one of its runs.
///
/// Runs of redrives and replays do not count for a partition: they keep no order, move no offsets, and go on
/// while their partition is suspended.
#[derive(Debug)]
pub(super) struct State {
    /// Runs that may start at a certain time: retries, and those whose lane has become free.
    retries: Waiting<()>,
    /// Runs that may start even during a hold: somebody hurried them.
    urgent: Waiting<()>,
    pub hold: Hold,
    /// Runs that are given up on, until the dead-letter topic has their records.
    undelivered: Waiting<Undelivered>,
    /// `None` without `--order`: no run waits for another one.
    lanes: Option<Parked>,
    /// By partition. An entry stays when it is 0 again: otherwise each run would allocate one.
    with_workers: BTreeMap<Partition, usize>,
    suspended: BTreeMap<Partition, Suspended>,
}

/// Runs of a suspended partition that would otherwise have started or would have been due.
#[derive(Debug, Default)]
struct Suspended {
    /// Runs from the channel that are not admitted to their lanes yet.
    fresh: Vec<Run>,
    retries: Waiting<()>,
    undelivered: Waiting<Undelivered>,
}

impl State {
    pub fn new(order: Order, bytes: usize) -> State {
        State {
            retries: Waiting::default(),
            urgent: Waiting::default(),
            hold: Hold::default(),
            undelivered: Waiting::default(),
            lanes: (order != Order::None).then(|| Parked::new(order, bytes / 2)),
            with_workers: BTreeMap::new(),
            suspended: BTreeMap::new(),
        }
    }

    /// Hands out a retry that is due, or says how long it is until one is. `None` if no retry waits.
    pub fn take_due(&mut self, now: Instant) -> Option<Result<Run, Duration>> {
        let taken = self.retries.pop_due(now)?.map(|(run, ())| run);
        Some(taken.inspect(|run| self.hand_out(&run.key)))
    }

    /// Hands out a run that somebody hurried during a hold.
    pub fn take_urgent(&mut self, now: Instant) -> Option<Run> {
        let (run, ()) = self.urgent.pop_due(now)?.ok()?;
        self.hand_out(&run.key);
        Some(run)
    }

    /// Hands out the retry that is due first as a probe, due or not; none of those that were `tried`.
    pub fn take_probe(&mut self, tried: &[RunId]) -> Option<Run> {
        let tried = self.retries.split_off(|run| tried.contains(&run.id));
        let first = self.retries.pop_first();
        self.retries.append(tried);
        let (run, ()) = first?;
        self.hand_out(&run.key);
        Some(run)
    }

    /// The step works again: whatever waits for another attempt is due.
    pub fn release(&mut self, now: Instant) {
        self.retries.hurry_all(now);
        let urgent = std::mem::take(&mut self.urgent);
        self.retries.append(urgent);
    }

    /// Like `take_due`, for a run whose dead letters are due.
    pub fn take_undelivered(
        &mut self,
        now: Instant,
    ) -> Option<Result<(Run, Undelivered), Duration>> {
        let taken = self.undelivered.pop_due(now)?;
        Some(taken.inspect(|(run, _)| self.hand_out(&run.key)))
    }

    /// A run comes out of the channel: it is handed out if it may start now, and waits otherwise.
    pub fn admit(&mut self, run: Run) -> Option<Run> {
        let run = self.may_start(run)?;
        self.hand_out(&run.key);
        Some(run)
    }

    fn may_start(&mut self, run: Run) -> Option<Run> {
        if !is_of_partition(&run.key) {
            return Some(run);
        }
        if let Some(suspended) = self.suspended.get_mut(&run.key.partition) {
            suspended.fresh.push(run);
            return None;
        }
        match &mut self.lanes {
            Some(lanes) => lanes.admit(run),
            None => Some(run),
        }
    }

    fn hand_out(&mut self, key: &RunKey) {
        if is_of_partition(key) {
            *self.with_workers.entry(key.partition).or_default() += 1;
        }
    }

    /// A worker has finished with a run that was handed out to it. True if no other run of the partition is with
    /// a worker.
    pub fn put_down(&mut self, partition: Partition) -> bool {
        let count = self.with_workers.get_mut(&partition).expect("the run was handed out");
        *count -= 1;
        *count == 0
    }

    pub fn is_idle(&self, partition: Partition) -> bool {
        self.with_workers.get(&partition).is_none_or(|count| *count == 0)
    }

    /// Keeps a run until `due`.
    pub fn retry(&mut self, run: Run, due: Instant) {
        let suspended = self.suspended.get_mut(&run.key.partition);
        match suspended.filter(|_| is_of_partition(&run.key)) {
            Some(suspended) => suspended.retries.push(due, run, ()),
            None => self.retries.push(due, run, ()),
        }
    }

    /// Keeps a run whose dead letters are to be delivered at `due`.
    pub fn keep_undelivered(&mut self, run: Run, undelivered: Undelivered, due: Instant) {
        let suspended = self.suspended.get_mut(&run.key.partition);
        match suspended.filter(|_| is_of_partition(&run.key)) {
            Some(suspended) => suspended.undelivered.push(due, run, undelivered),
            None => self.undelivered.push(due, run, undelivered),
        }
    }

    /// A run has ended for good: those that waited behind it are due now. True if there is one.
    pub fn ended(&mut self, key: &RunKey, now: Instant) -> bool {
        let Some(lanes) = self.lanes_of(key) else { return false };
        let ready = lanes.ended(key);
        self.start(ready, now)
    }

    /// A run has become several, to be processed in this order if there is an order.
    pub fn replaced(&mut self, parent: &RunKey, runs: Vec<Run>, due: Instant) {
        let ready = match self.lanes_of(parent) {
            Some(lanes) => lanes.replaced(parent, runs),
            None => runs,
        };
        self.start(ready, due);
    }

    fn start(&mut self, ready: Vec<Run>, due: Instant) -> bool {
        let any = !ready.is_empty();
        for run in ready {
            self.retry(run, due);
        }
        any
    }

    fn lanes_of(&mut self, key: &RunKey) -> Option<&mut Parked> {
        self.lanes.as_mut().filter(|_| is_of_partition(key))
    }

    /// Removes the retries for which `is_taken` is true.
    pub fn drop_retries(&mut self, is_taken: impl Fn(&Run) -> bool) -> Waiting<()> {
        let mut taken = self.retries.split_off(&is_taken);
        taken.append(self.urgent.split_off(is_taken));
        taken
    }

    /// A run that waits for another attempt, or for its dead letters to be delivered, is due now.
    pub fn hurry(&mut self, run: RunId, now: Instant) {
        if self.hold.held().is_some() {
            let hurried = self.retries.split_off(|of| of.id == run);
            self.urgent.append(hurried);
        }
        self.retries.hurry(run, now);
        self.urgent.hurry(run, now);
        self.undelivered.hurry(run, now);
        for suspended in self.suspended.values_mut() {
            suspended.retries.hurry(run, now);
            suspended.undelivered.hurry(run, now);
        }
    }

    /// Keeps the partition's runs from starting until `resume` or `withdraw`.
    pub fn suspend(&mut self, partition: Partition) {
        let of_partition = |run: &Run| is_of_partition(&run.key) && run.key.partition == partition;
        let mut retries = self.retries.split_off(of_partition);
        retries.append(self.urgent.split_off(of_partition));
        let undelivered = self.undelivered.split_off(of_partition);
        let suspended = self.suspended.entry(partition).or_default();
        suspended.retries.append(retries);
        suspended.undelivered.append(undelivered);
    }

    /// The partition's runs go on as if it had not been suspended.
    pub fn resume(&mut self, partition: Partition, now: Instant) {
        let Some(suspended) = self.suspended.remove(&partition) else { return };
        self.retries.append(suspended.retries);
        self.undelivered.append(suspended.undelivered);
        for run in suspended.fresh {
            if let Some(run) = self.may_start(run) {
                self.retries.push(now, run, ());
            }
        }
    }

    /// Removes every run of the partition that is not with a worker, and ends its suspension. `queued` are the
    /// runs from the channel; those of other partitions may start.
    pub fn withdraw(&mut self, partition: Partition, queued: Vec<Run>, now: Instant) -> Vec<Run> {
        self.suspend(partition);
        for run in queued {
            if let Some(run) = self.may_start(run) {
                self.retries.push(now, run, ());
            }
        }
        let Some(Suspended { fresh, retries, undelivered }) = self.suspended.remove(&partition)
        else {
            return Vec::new();
        };
        let mut withdrawn: Vec<Run> = retries.into_runs().chain(undelivered.into_runs()).collect();
        if let Some(lanes) = &mut self.lanes {
            let freed: Vec<_> = withdrawn.iter().map(|run| run.key.lane).collect();
            withdrawn.extend(lanes.withdraw(partition, freed.into_iter()));
        }
        withdrawn.extend(fresh);
        withdrawn
    }

    pub fn has_retries(&self) -> bool {
        !self.retries.is_empty() || !self.urgent.is_empty()
    }

    /// The runs that have failed and wait for another attempt.
    pub fn failed_runs(&self) -> Vec<RunId> {
        let waiting = self.retries.iter().chain(self.urgent.iter());
        waiting.filter(|run| run.failed_attempts > 0).map(|run| run.id).collect()
    }

    pub fn has_undelivered(&self) -> bool {
        !self.undelivered.is_empty()
    }

    /// Runs that wait for another attempt or for the dead-letter topic, or start as soon as a worker is
    /// free.
    pub fn retries(&self) -> usize {
        let of = |suspended: &Suspended| suspended.retries.len() + suspended.undelivered.len();
        let suspended: usize = self.suspended.values().map(of).sum();
        self.retries.len() + self.urgent.len() + self.undelivered.len() + suspended
    }

    /// Runs that came out of the channel and wait because their partition is suspended.
    pub fn set_aside(&self) -> usize {
        self.suspended.values().map(|of| of.fresh.len()).sum()
    }

    /// Runs that wait behind others of their lane.
    pub fn parked(&self) -> usize {
        self.lanes.as_ref().map_or(0, Parked::len)
    }

    pub fn is_held(&self, partition: Partition, was: bool) -> bool {
        self.lanes.as_ref().is_some_and(|lanes| lanes.is_held(partition, was))
    }

    #[cfg(test)]
    pub fn keeps_no_memory(&self) -> bool {
        self.lanes.as_ref().is_none_or(Parked::keeps_no_memory)
    }
}

/// Whether the run belongs to its topic's own way, and not to a redrive or replay.
fn is_of_partition(key: &RunKey) -> bool {
    key.reprocess.is_none()
}

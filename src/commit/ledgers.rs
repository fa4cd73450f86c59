//! The ledgers of all partitions, shared: sensors register runs, the history thread ends them, the
//! committer asks what may be committed.

use std::collections::{BTreeMap, BTreeSet};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::commit::ledger::{Ledger, LedgerView};
use crate::history::Settled;
use crate::model::offset::{Epoch, LastRead, Offset, OffsetRange, Partition};
use crate::model::sync::{Mutex, MutexGuard};

#[derive(Debug)]
pub struct Ledgers {
    inner: Mutex<Inner>,
    /// One message is in it when the target was reached.
    reached: (Sender<()>, Receiver<()>),
}

#[derive(Debug, Default)]
struct Inner {
    ledgers: BTreeMap<Partition, Ledger>,
    /// Partitions that are not yet done up to here (`--until-caught-up`).
    behind: Option<BTreeMap<Partition, Offset>>,
    /// What was to be done of each partition when the target was set.
    target: BTreeMap<Partition, Offset>,
    /// How many offsets lay below the target when it was set.
    to_do: u64,
    /// Partitions that stand at a record that stays unreadable.
    unreadable: BTreeSet<Partition>,
}

impl Default for Ledgers {
    fn default() -> Ledgers {
        Ledgers { inner: Mutex::default(), reached: bounded(1) }
    }
}

impl Ledgers {
    /// A partition comes under this process' care, or goes on from another position: then no run of it is in
    /// flight.
    pub fn add(&self, partition: Partition, ledger: Ledger) {
        let mut inner = self.lock();
        inner.ledgers.insert(partition, ledger);
        // A cursor that was moved back has more to do, even if the target was reached before.
        let Inner { behind, target, .. } = &mut *inner;
        if let (Some(behind), Some(target)) = (behind, target.get(&partition)) {
            behind.insert(partition, *target);
        }
        self.check_target(&mut inner, partition);
    }

    /// A batch goes into flight, as `runs` runs. `epoch`: the leader epoch of its records, if it is known.
    pub fn register(
        &self,
        partition: Partition,
        range: OffsetRange,
        runs: usize,
        epoch: Option<Epoch>,
    ) {
        let mut inner = self.lock();
        let ledger = inner.of(partition);
        ledger.register(range, runs);
        if let Some(epoch) = epoch {
            ledger.note_epoch(epoch);
        }
    }

    /// Something of the partition was read by an earlier process.
    pub fn note_read(&self, partition: Partition, read: LastRead) {
        self.lock().of(partition).note_read(read);
    }

    /// The newest record of the partition below `offset` whose leader epoch is known.
    pub fn read_below(&self, partition: Partition, offset: Offset) -> Option<LastRead> {
        self.lock().ledgers.get(&partition)?.read_below(offset)
    }

    /// The log had all that was read under the leader of this epoch.
    pub fn note_leader(&self, partition: Partition, leader: Epoch) {
        if let Some(ledger) = self.lock().ledgers.get_mut(&partition) {
            ledger.note_leader(leader);
        }
    }

    /// Whether a batch of this epoch may be one of the log that was read.
    pub fn is_of_known_log(&self, partition: Partition, epoch: Epoch) -> bool {
        self.lock().ledgers.get(&partition).is_none_or(|ledger| ledger.is_of_known_log(epoch))
    }

    /// The leader epoch of the record below each of these offsets, or a later one, as far as it is known.
    pub fn epochs_at(&self, offsets: &[(Partition, Offset)]) -> Vec<Option<Epoch>> {
        let inner = self.lock();
        let of = |(partition, offset): &(Partition, Offset)| {
            inner.ledgers.get(partition).and_then(|ledger| ledger.epoch_at(*offset))
        };
        offsets.iter().map(of).collect()
    }

    /// One run of the batch has become `runs` runs.
    pub fn split(&self, partition: Partition, range: OffsetRange, runs: usize) {
        self.lock().of(partition).split(range, runs);
    }

    /// Nothing of the partition below `next` is left to register.
    pub fn advance(&self, partition: Partition, next: Offset) {
        let mut inner = self.lock();
        inner.of(partition).advance(next);
        self.check_target(&mut inner, partition);
    }

    /// Runs that ended for good and are in the history.
    pub fn settle(&self, settled: &[Settled]) {
        let mut inner = self.lock();
        for run in settled {
            inner.of(run.partition).done(run.batch);
            self.check_target(&mut inner, run.partition);
        }
    }

    /// What should be committed now.
    pub fn to_commit(&self) -> Vec<(Partition, Offset)> {
        let inner = self.lock();
        let due = inner.ledgers.iter().filter_map(|(partition, ledger)| {
            ledger.to_commit().map(|offset| (*partition, offset))
        });
        due.collect()
    }

    /// Of the partitions of which nothing new is to be committed, what was committed last.
    pub fn unchanged(&self) -> Vec<(Partition, Offset)> {
        let inner = self.lock();
        let unchanged = inner.ledgers.iter().filter_map(|(partition, ledger)| {
            ledger.unchanged().map(|offset| (*partition, offset))
        });
        unchanged.collect()
    }

    /// The log has lost the group's offset of this partition, which was `committed`. False if mb has committed
    /// another one meanwhile.
    pub fn forget_committed(&self, partition: Partition, committed: Offset) -> bool {
        let mut inner = self.lock();
        let ledger = inner.ledgers.get_mut(&partition);
        let ledger = ledger.filter(|ledger| ledger.unchanged() == Some(committed));
        ledger.map(Ledger::forget_committed).is_some()
    }

    pub fn confirm(&self, offsets: &[(Partition, Offset)]) {
        let mut inner = self.lock();
        for (partition, offset) in offsets {
            inner.of(*partition).confirm(*offset);
        }
    }

    /// Of each partition, what may be committed: all below it is done.
    pub fn committable(&self) -> BTreeMap<Partition, Offset> {
        let inner = self.lock();
        inner.ledgers.iter().map(|(partition, ledger)| (*partition, ledger.committable())).collect()
    }

    /// Of each partition, what is read next: all below it is in a run, or not in the log.
    pub fn positions(&self) -> BTreeMap<Partition, Offset> {
        let inner = self.lock();
        inner.ledgers.iter().map(|(partition, ledger)| (*partition, ledger.position())).collect()
    }

    /// How each stands, by partition.
    pub fn views(&self) -> Vec<(Partition, LedgerView)> {
        self.lock().ledgers.iter().map(|(partition, ledger)| (*partition, ledger.view())).collect()
    }

    /// Runs in flight, over all partitions.
    pub fn in_flight(&self) -> usize {
        self.lock().ledgers.values().map(Ledger::in_flight).sum()
    }

    /// Asks for a word on `reached` when every partition is done up to its offset here.
    pub fn set_target(&self, target: BTreeMap<Partition, Offset>) {
        let mut inner = self.lock();
        let partitions: Vec<Partition> = target.keys().copied().collect();
        inner.target.clone_from(&target);
        inner.behind = Some(target);
        inner.to_do = inner.left();
        for partition in partitions {
            self.check_target(&mut inner, partition);
        }
        self.announce_if_reached(&inner);
    }

    /// The partitions that are not yet done up to their target, each with it; empty without a target.
    pub fn behind(&self) -> BTreeMap<Partition, Offset> {
        self.lock().behind.clone().unwrap_or_default()
    }

    /// Whether all that is to be done of the partition lies below `next`; false without a target.
    pub fn covers_target(&self, partition: Partition, next: Offset) -> bool {
        let inner = self.lock();
        let Some(behind) = &inner.behind else { return false };
        behind.get(&partition).is_none_or(|target| next >= *target)
    }

    /// Whether the range has the last of what is to be done of the partition.
    pub fn ends_target(&self, partition: Partition, range: OffsetRange) -> bool {
        let inner = self.lock();
        let target = inner.behind.as_ref().and_then(|behind| behind.get(&partition));
        target.is_some_and(|target| range.first < *target && range.end() >= *target)
    }

    /// Notes whether the partition stands at a record that stays unreadable, however often it is tried.
    pub fn set_unreadable(&self, partition: Partition, is_unreadable: bool) {
        let unreadable = &mut self.lock().unreadable;
        if is_unreadable {
            unreadable.insert(partition)
        } else {
            unreadable.remove(&partition)
        };
    }

    /// Whether a target was set, and all that keeps mb from it are records that stay unreadable: every other
    /// partition is done, and no run is in flight.
    pub fn waits_for_unreadable_only(&self) -> bool {
        let inner = self.lock();
        let Some(behind) = &inner.behind else { return false };
        !behind.is_empty()
            && behind.keys().all(|partition| inner.unreadable.contains(partition))
            && inner.ledgers.values().all(|ledger| ledger.in_flight() == 0)
    }

    /// Gets a message once the target is reached.
    pub fn reached(&self) -> &Receiver<()> {
        &self.reached.1
    }

    /// Whether a target was set and reached.
    pub fn is_caught_up(&self) -> bool {
        self.lock().behind.as_ref().is_some_and(BTreeMap::is_empty)
    }

    /// Once a target is set: how many of the offsets that were to be done are done, and how many
    /// those are.
    pub fn progress(&self) -> Option<(u64, u64)> {
        let inner = self.lock();
        inner.behind.as_ref()?;
        Some((inner.to_do.saturating_sub(inner.left()), inner.to_do))
    }

    fn check_target(&self, inner: &mut Inner, partition: Partition) {
        let Some(behind) = &mut inner.behind else { return };
        let Some(target) = behind.get(&partition) else { return };
        let done = inner.ledgers.get(&partition).map(Ledger::committable);
        if done >= Some(*target) {
            behind.remove(&partition);
            self.announce_if_reached(inner);
        }
    }

    fn announce_if_reached(&self, inner: &Inner) {
        if inner.behind.as_ref().is_some_and(BTreeMap::is_empty) {
            // A message that waits there already says the same.
            let _ = self.reached.0.try_send(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }
}

impl Inner {
    /// Offsets below the target that are not done.
    fn left(&self) -> u64 {
        let left = |(partition, target): (&Partition, &Offset)| {
            let done = self.ledgers.get(partition).map_or(Offset::ZERO, Ledger::committable);
            target.distance_from(done)
        };
        self.behind.iter().flatten().map(left).sum()
    }

    fn of(&mut self, partition: Partition) -> &mut Ledger {
        self.ledgers.get_mut(&partition).expect("a partition is added before its runs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::run::RunState;

    #[test]
    fn a_batch_ends_the_target_where_it_has_the_last_of_it() {
        let ledgers = Ledgers::default();
        let range = |first, last| OffsetRange::new(Offset::new(first), Offset::new(last));
        ledgers.add(0, Ledger::new(Offset::ZERO, None));
        ledgers.add(1, Ledger::new(Offset::ZERO, None));
        assert!(!ledgers.ends_target(0, range(0, 9)), "there is none yet");
        assert!(!ledgers.covers_target(0, Offset::new(10)));
        ledgers.set_target([(0, Offset::new(10)), (1, Offset::ZERO)].into());
        assert!(!ledgers.ends_target(0, range(0, 8)));
        assert!(ledgers.ends_target(0, range(5, 9)) && ledgers.ends_target(0, range(5, 12)));
        assert!(!ledgers.ends_target(0, range(10, 12)), "what came since waits as always");
        assert!(!ledgers.ends_target(1, range(0, 0)), "nothing of it was to be done");
        assert!(!ledgers.covers_target(0, Offset::new(9)));
        assert!(
            ledgers.covers_target(0, Offset::new(10)) && ledgers.covers_target(1, Offset::ZERO)
        );
    }

    #[test]
    fn unreadable_records_are_waited_for_in_vain_once_all_else_is_done() {
        let ledgers = Ledgers::default();
        let range = OffsetRange::new(Offset::ZERO, Offset::new(4));
        for partition in [0, 1] {
            ledgers.add(partition, Ledger::new(Offset::ZERO, None));
            ledgers.register(partition, range, 1, None);
        }
        ledgers.set_unreadable(0, true);
        assert!(!ledgers.waits_for_unreadable_only(), "no target is set");
        ledgers.set_target([(0, Offset::new(9)), (1, Offset::new(5))].into());
        let settled = |partition| Settled { partition, batch: range, state: RunState::Succeeded };
        ledgers.settle(&[settled(0)]);
        assert!(!ledgers.waits_for_unreadable_only(), "the other partition is not done");
        ledgers.settle(&[settled(1)]);
        assert!(ledgers.waits_for_unreadable_only());
        ledgers.set_unreadable(0, false);
        assert!(!ledgers.waits_for_unreadable_only(), "it could be read after all");
    }

    #[test]
    fn the_target_is_reached_when_every_partition_is() {
        let ledgers = Ledgers::default();
        for partition in [0, 1] {
            ledgers.add(partition, Ledger::new(Offset::ZERO, None));
        }
        assert_eq!(ledgers.progress(), None);
        ledgers.set_target([(0, Offset::new(10)), (1, Offset::ZERO)].into());
        assert!(!ledgers.is_caught_up());
        assert_eq!(ledgers.progress(), Some((0, 10)));
        let range = OffsetRange::new(Offset::ZERO, Offset::new(9));
        ledgers.register(0, range, 1, None);
        ledgers.settle(&[Settled { partition: 0, batch: range, state: RunState::Succeeded }]);
        assert!(ledgers.is_caught_up());
        assert_eq!(ledgers.progress(), Some((10, 10)));
        assert_eq!(ledgers.reached().try_recv(), Ok(()));
    }

    #[test]
    fn a_cursor_that_is_moved_back_leaves_the_target_to_be_reached_once_more() {
        let ledgers = Ledgers::default();
        ledgers.add(0, Ledger::new(Offset::new(10), None));
        ledgers.set_target([(0, Offset::new(10))].into());
        assert!(ledgers.is_caught_up());
        ledgers.add(0, Ledger::new(Offset::new(3), Some(Offset::new(3))));
        assert!(!ledgers.is_caught_up());
        ledgers.advance(0, Offset::new(10));
        assert!(ledgers.is_caught_up());
    }
}

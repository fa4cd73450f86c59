//! The offset ledger of one partition: which runs are in flight, and so what may be committed.
//!
//! Pure: no clock, no I/O. The invariants, asserted below: the committable offset never decreases,
//! and it never passes the first offset of a run that is not done.

use std::collections::BTreeMap;

use crate::model::offset::{Epoch, LastRead, Offset, OffsetRange};

/// One partition's ledger.
///
/// "Committed" has one meaning in mb: every record below the committed offset was processed or
/// kept as a dead letter, and the history knows it.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// Where it began.
    start: Offset,
    /// What the log has confirmed; `None` before the first commit.
    committed: Option<Offset>,
    /// Every record below it belongs to a registered run, or is not in the log.
    position: Offset,
    /// First offset of each batch in flight, with its last one and how many of its runs are open.
    /// Finished batches leave at once, so it is never larger than the number of runs in flight.
    open: BTreeMap<Offset, Open>,
    /// The leader epochs of what was read and is not committed yet, ascending: up to the end of the last batch of each
    /// epoch.
    epochs: Vec<LastRead>,
    /// The newest of them that is committed.
    below: Option<LastRead>,
    /// The epoch of the newest leader whose log had all that was read.
    leader: Option<Epoch>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    last: Offset,
    runs: usize,
}

/// How a ledger stood at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerView {
    pub start: Offset,
    pub committed: Option<Offset>,
    pub committable: Offset,
    /// Every record below it belongs to a registered run, or is not in the log.
    pub position: Offset,
    /// Runs of batches in flight that are not done.
    pub runs: usize,
}

impl Ledger {
    /// A ledger that starts at `start`; `committed` is what the log holds for the group.
    pub fn new(start: Offset, committed: Option<Offset>) -> Ledger {
        Ledger {
            start,
            committed,
            position: start,
            open: BTreeMap::new(),
            epochs: Vec::new(),
            below: None,
            leader: None,
        }
    }

    /// A batch goes into flight, as `runs` runs. Batches are registered in offset order.
    ///
    /// # Panics
    /// Where the range begins below the position: it would overlap a batch registered before.
    pub fn register(&mut self, range: OffsetRange, runs: usize) {
        assert!(
            range.first >= self.position,
            "batch {range} overlaps what was registered up to {}",
            self.position
        );
        assert!(runs > 0, "a batch has at least one run");
        let before = self.committable();
        self.open.insert(range.first, Open { last: range.last, runs });
        self.position = range.end();
        assert!(self.committable() >= before, "the committable offset never decreases");
    }

    /// The batch that was registered last has records of this leader epoch.
    pub fn note_epoch(&mut self, epoch: Epoch) {
        self.note_read(LastRead { end: self.position, epoch });
    }

    /// Something was read, by this process or an earlier one. What lies below what is known of adds nothing: a later
    /// epoch stands for it.
    pub fn note_read(&mut self, read: LastRead) {
        match self.epochs.last_mut() {
            Some(last) if read.end <= last.end => {}
            Some(last) if last.epoch == read.epoch => *last = read,
            _ => self.epochs.push(read),
        }
    }

    /// The newest record below `offset` whose leader epoch is known.
    pub fn read_below(&self, offset: Offset) -> Option<LastRead> {
        let known = self.epochs.iter().filter(|read| read.end <= offset);
        known.copied().max_by_key(|read| read.end).or(self.below)
    }

    /// The log had all that was read under the leader of this epoch.
    pub fn note_leader(&mut self, leader: Epoch) {
        self.leader = self.leader.max(Some(leader));
    }

    /// Whether a batch of this epoch may be one of the log that was read. One of a later leader may have replaced it.
    pub fn is_of_known_log(&self, epoch: Epoch) -> bool {
        let read = self.epochs.last().map(|read| read.epoch);
        self.leader.max(read).is_none_or(|newest| epoch <= newest)
    }

    /// The leader epoch of the record below `offset`, which may be committed, or a later one. `None` if it is not
    /// known: no batch ends there or above.
    pub fn epoch_at(&self, offset: Offset) -> Option<Epoch> {
        let below = self.below.filter(|read| read.end == offset);
        let known = self.epochs.iter().find(|read| offset <= read.end);
        known.copied().or(below).map(|read| read.epoch)
    }

    /// Nothing below `next` is left to register: the log showed a gap, or the records were done
    /// by an earlier process.
    pub fn advance(&mut self, next: Offset) {
        self.position = self.position.max(next);
    }

    /// One run of a registered batch has become `runs` runs: so many must be done in its place.
    ///
    /// # Panics
    /// Where no such batch is in flight.
    pub fn split(&mut self, range: OffsetRange, runs: usize) {
        assert!(runs > 0, "a run is split into one at least");
        self.of(range).runs += runs - 1;
    }

    /// One run of a registered batch is done, for good: processed or kept as dead letters, and
    /// written to the history.
    ///
    /// # Panics
    /// Where no such batch is in flight.
    pub fn done(&mut self, range: OffsetRange) {
        let before = self.committable();
        let open = self.of(range);
        open.runs -= 1;
        if open.runs == 0 {
            self.open.remove(&range.first);
        }
        let after = self.committable();
        assert!(after >= before, "the committable offset never decreases");
        assert!(
            self.open.first_key_value().is_none_or(|(first, _)| after <= *first),
            "the committable offset never passes an unfinished run"
        );
    }

    fn of(&mut self, range: OffsetRange) -> &mut Open {
        let open = self.open.get_mut(&range.first).expect("a run that ends was registered");
        assert_eq!(open.last, range.last, "batch {range} ends as it was registered");
        open
    }

    /// The lowest offset not yet done: what may be committed.
    pub fn committable(&self) -> Offset {
        self.open.first_key_value().map_or(self.position, |(first, _)| *first)
    }

    /// Every record below it belongs to a registered run, or is not in the log.
    pub fn position(&self) -> Offset {
        self.position
    }

    /// What should be committed now; `None` where the log has it already.
    pub fn to_commit(&self) -> Option<Offset> {
        let committable = self.committable();
        self.committed.is_none_or(|committed| committed < committable).then_some(committable)
    }

    /// What was committed last, if nothing new is to be committed.
    pub fn unchanged(&self) -> Option<Offset> {
        self.committed.filter(|_| self.to_commit().is_none())
    }

    /// The log has lost what was committed: it is to be committed again.
    pub fn forget_committed(&mut self) {
        self.committed = None;
    }

    /// The log has confirmed a commit.
    pub fn confirm(&mut self, offset: Offset) {
        self.committed = self.committed.max(Some(offset));
        self.below = self.read_below(offset);
        self.epochs.retain(|read| read.end > offset);
    }

    #[cfg(any(test, feature = "testing"))]
    pub fn committed(&self) -> Option<Offset> {
        self.committed
    }

    /// How it stands, for who shows it.
    pub fn view(&self) -> LedgerView {
        LedgerView {
            start: self.start,
            committed: self.committed,
            committable: self.committable(),
            position: self.position,
            runs: self.open.values().map(|open| open.runs).sum(),
        }
    }

    /// How many batches are in flight.
    pub fn in_flight(&self) -> usize {
        self.open.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(first: i64, last: i64) -> OffsetRange {
        OffsetRange::new(Offset::new(first), Offset::new(last))
    }

    #[test]
    fn runs_that_finish_out_of_order_are_committed_in_order() {
        let mut ledger = Ledger::new(Offset::new(10), Some(Offset::new(10)));
        for (first, last) in [(10, 19), (20, 29), (30, 39)] {
            ledger.register(range(first, last), 1);
        }
        ledger.done(range(20, 29));
        assert_eq!(ledger.to_commit(), None);
        ledger.done(range(10, 19));
        assert_eq!(ledger.to_commit(), Some(Offset::new(30)));
        ledger.confirm(Offset::new(30));
        assert_eq!(ledger.to_commit(), None);
        ledger.done(range(30, 39));
        assert_eq!(ledger.to_commit(), Some(Offset::new(40)));
    }

    #[test]
    fn an_offset_that_the_log_has_lost_is_committed_again() {
        let mut ledger = Ledger::new(Offset::new(7), Some(Offset::new(7)));
        ledger.register(range(7, 9), 1);
        assert_eq!((ledger.to_commit(), ledger.unchanged()), (None, Some(Offset::new(7))), "held");
        ledger.forget_committed();
        assert_eq!((ledger.to_commit(), ledger.unchanged()), (Some(Offset::new(7)), None));
        ledger.confirm(Offset::new(7));
        ledger.done(range(7, 9));
        assert_eq!((ledger.to_commit(), ledger.unchanged()), (Some(Offset::new(10)), None));
    }

    #[test]
    fn a_group_without_offsets_commits_its_start() {
        let ledger = Ledger::new(Offset::new(7), None);
        assert_eq!(ledger.to_commit(), Some(Offset::new(7)));
    }

    #[test]
    fn gaps_in_the_log_are_passed() {
        let mut ledger = Ledger::new(Offset::ZERO, Some(Offset::ZERO));
        ledger.register(range(0, 4), 1);
        ledger.register(range(1_000_000, 1_000_001), 1);
        ledger.done(range(0, 4));
        assert_eq!(ledger.committable(), Offset::new(1_000_000));
        ledger.done(range(1_000_000, 1_000_001));
        ledger.advance(Offset::new(1_000_005));
        assert_eq!(ledger.committable(), Offset::new(1_000_005));
    }

    #[test]
    fn a_run_of_several_lanes_is_done_when_all_are() {
        let mut ledger = Ledger::new(Offset::ZERO, None);
        ledger.register(range(0, 9), 3);
        ledger.done(range(0, 9));
        ledger.done(range(0, 9));
        assert_eq!(ledger.committable(), Offset::ZERO);
        ledger.done(range(0, 9));
        assert_eq!(ledger.committable(), Offset::new(10));
    }

    #[test]
    #[should_panic(expected = "overlaps")]
    fn overlapping_runs_are_refused() {
        let mut ledger = Ledger::new(Offset::ZERO, None);
        ledger.register(range(0, 9), 1);
        ledger.register(range(9, 12), 1);
    }

    proptest! {
        /// Against a model that marks every single offset: registered, done, absent.
        #[test]
        fn agrees_with_a_naive_model(
            steps in prop::collection::vec((0u8..3, 0i64..4, 1i64..6, any::<prop::sample::Index>()), 1..80),
        ) {
            let mut ledger = Ledger::new(Offset::ZERO, None);
            let mut end = 0i64;
            let mut done: Vec<bool> = Vec::new();
            let mut open: Vec<OffsetRange> = Vec::new();
            for (what, gap, length, pick) in steps {
                match what {
                    0 => {
                        let (first, last) = (end + gap, end + gap + length - 1);
                        ledger.register(range(first, last), 1);
                        open.push(range(first, last));
                        done.resize(usize::try_from(first).unwrap(), true);
                        done.resize(usize::try_from(last + 1).unwrap(), false);
                        end = last + 1;
                    }
                    1 if !open.is_empty() => {
                        let finished = open.remove(pick.index(open.len()));
                        ledger.done(finished);
                        for offset in finished.first.get()..=finished.last.get() {
                            done[usize::try_from(offset).unwrap()] = true;
                        }
                    }
                    _ => {
                        ledger.advance(Offset::new(end + gap));
                        done.resize(usize::try_from(end + gap).unwrap(), true);
                        end += gap;
                    }
                }
                let lowest = done.iter().position(|done| !done).unwrap_or(done.len());
                // Between runs lie offsets that do not exist: the ledger may say the end of one
                // run or the beginning of the next.
                let committable = usize::try_from(ledger.committable().get()).unwrap();
                prop_assert_eq!(committable, lowest);
                prop_assert_eq!(ledger.in_flight(), open.len());
            }
        }
    }
}

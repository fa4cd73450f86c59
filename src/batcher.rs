//! Cuts one partition's records into batches. Pure: records and the time come in, cuts come out.
//!
//! Ranges that the history holds from before (`Stored`) are made again exactly; fresh batches
//! never overlap one. Where batches go, and whether there is memory for them, is the sensor's.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::batch::{Batch, Record};
use crate::budget::Permit;
use crate::limits;
use crate::offset::{Offset, OffsetRange};
use crate::stored::Stored;

/// How large a fresh batch may grow, and how long it may wait.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    pub max_records: usize,
    pub max_bytes: usize,
    pub max_wait: Duration,
    /// Memory beyond the records' bytes and index: of a batch, and of each record.
    pub batch_overhead: usize,
    pub record_overhead: usize,
}

/// A batch that is complete.
#[derive(Debug)]
pub struct Cut {
    /// The records' memory, given back when it is dropped.
    pub permit: Permit,
    pub batch: Batch,
    pub identity: Identity,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A fresh range, to be planned.
    Fresh(OffsetRange),
    /// A stored range; compaction may have taken records from it, even all.
    Again(Stored),
}

impl Cut {
    pub fn range(&self) -> OffsetRange {
        match &self.identity {
            Identity::Fresh(range) => *range,
            Identity::Again(stored) => stored.range,
        }
    }
}

#[derive(Debug)]
struct Fill {
    batch: Batch,
    permit: Permit,
    /// When its first record came.
    since: Instant,
    /// `BatchLimits::max_records` as it was when it was begun.
    max_records: usize,
    stored: bool,
    /// It took no more than it needed from its beginning.
    tight: bool,
}

/// One partition's batcher.
#[derive(Debug)]
pub struct Batcher {
    limits: BatchLimits,
    /// The cursor: every record below it is in a run that the queue has accepted, or done.
    cursor: Offset,
    /// Ascending, none below the cursor.
    stored: VecDeque<Stored>,
    fill: Option<Fill>,
    /// The log has nothing below it.
    floor: Offset,
    /// Payload and records of the last fresh cut: what the next one will likely need.
    usual: (usize, usize),
    /// Memory is short, until the next cut.
    tight: bool,
}

impl Batcher {
    /// # Panics
    /// Where `stored` is not ascending from `cursor` on.
    pub fn new(limits: BatchLimits, cursor: Offset, stored: Vec<Stored>) -> Batcher {
        let mut at = cursor;
        for stored in &stored {
            assert!(stored.range.first >= at, "stored range {} overlaps", stored.range);
            at = stored.range.end();
        }
        Batcher {
            limits,
            cursor,
            stored: stored.into(),
            fill: None,
            floor: Offset::ZERO,
            usual: (0, 0),
            tight: false,
        }
    }

    pub fn cursor(&self) -> Offset {
        self.cursor
    }

    /// Runs of stored batches that are still to be made.
    pub fn unmade_runs(&self) -> usize {
        self.stored.iter().map(|stored| stored.parts.len()).sum()
    }

    /// Where a fresh consumer has to start: behind the cursor and what is being filled.
    pub fn read_position(&self) -> Offset {
        let filled = self.fill.as_ref().and_then(|fill| fill.batch.range());
        filled.map_or(self.cursor, OffsetRange::end).max(self.floor)
    }

    /// The log has nothing below `floor` (any more): reading goes on from there at the earliest. A
    /// stored range that it cuts is made of what is left.
    pub fn skip_to(&mut self, floor: Offset) {
        self.floor = self.floor.max(floor);
    }

    /// What of `range` is in no finished stored range, ascending.
    pub fn not_finished(&self, range: OffsetRange) -> Vec<OffsetRange> {
        let mut left = Vec::new();
        let mut at = range.first;
        for stored in self.stored.iter().filter(|stored| stored.is_finished()) {
            if at < stored.range.first.min(range.end()) {
                left.push(OffsetRange::below(stored.range.first.min(range.end()), at));
            }
            at = at.max(stored.range.end());
        }
        if at < range.end() {
            left.push(OffsetRange::below(range.end(), at));
        }
        left
    }

    /// Fresh batches that are begun from now on have at most so many records.
    pub fn set_max_records(&mut self, max_records: usize) {
        self.limits.max_records = max_records;
    }

    /// Passes over stored ranges that are finished and begin at the cursor. True where it moved.
    pub fn skip_finished(&mut self) -> bool {
        let before = self.cursor;
        while self.fill.is_none()
            && let Some(front) = self.stored.front()
            && front.is_finished()
            && front.range.first <= self.cursor
        {
            self.cursor = self.cursor.max(front.range.end());
            self.stored.pop_front();
        }
        self.cursor > before
    }

    /// A cut that is due before a record at `offset` of `payload` bytes can be looked at; asked
    /// again until there is none.
    pub fn cut_before(&mut self, offset: Offset, payload: usize) -> Option<Cut> {
        if let Some(cut) = self.cut_passed(offset) {
            return Some(cut);
        }
        let fill = self.fill.as_ref()?;
        let next_stored = self.stored.front().is_some_and(|front| front.range.first <= offset);
        let outgrown = fill.batch.payload_bytes() + payload > self.limits.max_bytes;
        if !fill.stored && (next_stored || outgrown) { self.cut_fill() } else { None }
    }

    /// Whether the record at `offset` is still to be processed; false for what is done already or
    /// was read before.
    pub fn wants(&self, offset: Offset) -> bool {
        offset >= self.read_position()
            && !self
                .stored
                .front()
                .is_some_and(|front| front.is_finished() && front.range.contains(offset))
    }

    /// Bytes of memory to be had before `take` can take this record.
    pub fn needs(&self, record: &Record<'_>) -> usize {
        let growth = match &self.fill {
            Some(fill) => fill.batch.growth_for(record),
            None => {
                let stored =
                    self.stored.front().filter(|front| front.range.contains(record.offset));
                let runs = stored.map_or(0, |stored| stored.runs(self.limits.record_overhead > 0));
                self.limits.batch_overhead.max(runs * limits::RUN_OVERHEAD_BYTES)
                    + self.new_batch().growth_for(record)
            }
        };
        growth + self.limits.record_overhead
    }

    /// Bytes of memory that the batch being filled holds.
    pub fn held(&self) -> usize {
        self.fill.as_ref().map_or(0, |fill| fill.permit.bytes())
    }

    /// Memory is short: what is being filled, or begun next, takes no more than it needs.
    pub fn grow_tightly(&mut self) {
        self.usual = (0, 0);
        self.tight = true;
        if let Some(fill) = &mut self.fill {
            fill.batch.grow_tightly();
        }
    }

    /// Forgets what is being filled where it took more than it needed, so that it is read again
    /// without. True where it did.
    pub fn refill_tightly(&mut self) -> bool {
        self.fill.take_if(|fill| !fill.tight).is_some()
    }

    /// Forgets what is being filled; it is read again later. True where there was something.
    pub fn drop_fill(&mut self) -> bool {
        self.fill.take().is_some()
    }

    /// Takes a record that it wants; `permit` covers what `needs` said.
    pub fn take(&mut self, record: Record<'_>, permit: Permit, now: Instant) {
        debug_assert!(self.wants(record.offset));
        if self.fill.is_none() {
            let stored =
                self.stored.front().is_some_and(|front| front.range.contains(record.offset));
            let batch = self.new_batch();
            self.fill = Some(Fill {
                batch,
                permit: Permit::nothing(),
                since: now,
                max_records: self.limits.max_records,
                stored,
                tight: self.tight,
            });
        }
        let fill = self.fill.as_mut().expect("made just now");
        fill.permit.merge(permit);
        fill.batch.grow_for(&record);
        fill.batch.push(record);
    }

    /// The batch that the last record completed, if it did.
    pub fn cut_if_full(&mut self) -> Option<Cut> {
        let fill = self.fill.as_ref()?;
        let last = fill.batch.range()?.last;
        if fill.stored {
            let front = self.stored.front().expect("a stored fill has its range in front");
            return if last == front.range.last { self.cut_fill() } else { None };
        }
        let full = fill.batch.len() >= fill.max_records
            || fill.batch.payload_bytes() >= self.limits.max_bytes;
        if full { self.cut_fill() } else { None }
    }

    /// The log has nothing more below `next`: a stored range that ends below it is complete.
    /// Asked again until there is none.
    pub fn cut_passed(&mut self, next: Offset) -> Option<Cut> {
        while let Some(front) = self.stored.front() {
            if front.range.last >= next {
                return None;
            }
            if self.fill.as_ref().is_some_and(|fill| !fill.stored) {
                return self.cut_fill();
            }
            if !front.is_finished() {
                let stored = front.clone();
                return self.cut_stored(stored);
            }
            self.cursor = self.cursor.max(front.range.end());
            self.stored.pop_front();
        }
        None
    }

    /// Everything below `next` is cut and accepted: the cursor passes a gap, to the log's end or up
    /// to the next stored range. True where it moved.
    pub fn advance(&mut self, next: Offset) -> bool {
        let next = self.stored.front().map_or(next, |front| next.min(front.range.first));
        if self.fill.is_none() && next > self.cursor {
            self.cursor = next;
            return true;
        }
        false
    }

    /// When the fresh batch that is being filled has waited long enough.
    pub fn due(&self) -> Option<Instant> {
        self.fill.as_ref().filter(|fill| !fill.stored).map(|fill| fill.since + self.limits.max_wait)
    }

    /// Cuts a fresh batch as it is: its wait is over, or memory is short, or the tick ends. A
    /// stored range goes on filling.
    pub fn cut_now(&mut self) -> Option<Cut> {
        if self.fill.as_ref().is_some_and(|fill| !fill.stored) { self.cut_fill() } else { None }
    }

    /// The queue has accepted the cut: the cursor passes it.
    pub fn accepted(&mut self, range: OffsetRange) {
        if self.stored.front().is_some_and(|front| front.range == range) {
            self.stored.pop_front();
        }
        assert!(range.end() > self.cursor, "a cut lies above the cursor");
        self.cursor = range.end();
    }

    /// The queue had no room: the cut's records are read again later, under the identity that the
    /// range has by now. What is being filled is dropped too.
    pub fn refused(&mut self, stored: Stored) {
        self.fill = None;
        if self.stored.front().is_some_and(|front| front.range == stored.range) {
            self.stored.pop_front();
        }
        self.stored.push_front(stored);
    }

    fn new_batch(&self) -> Batch {
        let (bytes, records) = self.usual;
        let mut batch = Batch::default();
        batch.expect(bytes.min(self.limits.max_bytes), records.min(self.limits.max_records));
        if self.tight {
            batch.grow_tightly();
        }
        batch
    }

    fn cut_fill(&mut self) -> Option<Cut> {
        let fill = self.fill.take()?;
        let range = fill.batch.range()?;
        self.tight = false;
        let identity = if fill.stored {
            let front = self.stored.front().expect("a stored fill has its range in front");
            Identity::Again(front.clone())
        } else {
            self.usual = (fill.batch.payload_bytes(), fill.batch.len());
            Identity::Fresh(range)
        };
        Some(Cut { permit: fill.permit, batch: fill.batch, identity })
    }

    /// A stored range as far as it was filled, which compaction may have left with nothing.
    fn cut_stored(&mut self, stored: Stored) -> Option<Cut> {
        self.tight = false;
        let (permit, batch) = match self.fill.take() {
            Some(fill) => (fill.permit, fill.batch),
            None => (Permit::nothing(), Batch::default()),
        };
        Some(Cut { permit, batch, identity: Identity::Again(stored) })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::budget::Budget;
    use crate::headers::Headers;
    use crate::offset::Lane;
    use crate::run::RunId;
    use crate::stored::Part;

    const LIMITS: BatchLimits = BatchLimits {
        max_records: 4,
        max_bytes: 100,
        max_wait: Duration::from_millis(100),
        batch_overhead: limits::RUN_OVERHEAD_BYTES,
        record_overhead: 0,
    };

    fn range(first: i64, last: i64) -> OffsetRange {
        OffsetRange::new(Offset::new(first), Offset::new(last))
    }

    fn unfinished(run: i64, first: i64, last: i64) -> Stored {
        let range = range(first, last);
        let part = Part { run: RunId(run), range, lane: Lane::WHOLE, failed_attempts: 0 };
        Stored { range, parts: vec![part], registered: false }
    }

    fn finished(first: i64, last: i64) -> Stored {
        Stored { range: range(first, last), parts: vec![], registered: false }
    }

    #[test]
    fn what_is_missing_is_what_is_in_no_finished_range() {
        let stored = vec![unfinished(1, 10, 19), finished(20, 29), finished(35, 49)];
        let batcher = Batcher::new(LIMITS, Offset::new(10), stored);
        assert_eq!(batcher.not_finished(range(10, 29)), [range(10, 19)]);
        assert_eq!(batcher.not_finished(range(10, 24)), [range(10, 19)]);
        assert_eq!(batcher.not_finished(range(10, 40)), [range(10, 19), range(30, 34)]);
        assert_eq!(
            batcher.not_finished(range(15, 60)),
            [range(15, 19), range(30, 34), range(50, 60)]
        );
        assert_eq!(batcher.not_finished(range(22, 25)), []);
        let nothing_done = Batcher::new(LIMITS, Offset::new(0), Vec::new());
        assert_eq!(nothing_done.not_finished(range(3, 7)), [range(3, 7)]);
    }

    /// Drives a batcher as the sensor does; every cut is accepted.
    struct Driver {
        batcher: Batcher,
        budget: Arc<Budget>,
        cuts: Vec<(Identity, Vec<i64>)>,
        now: Instant,
    }

    impl Driver {
        fn new(limits: BatchLimits, cursor: i64, stored: Vec<Stored>) -> Driver {
            let batcher = Batcher::new(limits, Offset::new(cursor), stored);
            Driver { batcher, budget: Budget::new(1 << 30), cuts: Vec::new(), now: Instant::now() }
        }

        fn accept(&mut self, cut: Cut) {
            assert!(
                cut.permit.bytes() >= cut.batch.heap_bytes(),
                "memory is had before it is used"
            );
            let offsets = cut.batch.records().map(|record| record.offset.get()).collect();
            self.batcher.accepted(cut.range());
            self.cuts.push((cut.identity, offsets));
        }

        fn offer(&mut self, offset: i64, value: &[u8]) {
            let record = Record {
                offset: Offset::new(offset),
                timestamp: None,
                key: None,
                value: Some(value),
                headers: Headers::NONE,
            };
            while let Some(cut) = self.batcher.cut_before(record.offset, record.payload_bytes()) {
                self.accept(cut);
            }
            if self.batcher.wants(record.offset) {
                let permit = self.budget.try_acquire(self.batcher.needs(&record)).unwrap();
                self.batcher.take(record, permit, self.now);
            }
            while let Some(cut) = self.batcher.cut_if_full() {
                self.accept(cut);
            }
        }

        fn passed(&mut self, next: i64) {
            while let Some(cut) = self.batcher.cut_passed(Offset::new(next)) {
                self.accept(cut);
            }
            self.batcher.advance(Offset::new(next));
        }

        fn fresh(&self) -> Vec<OffsetRange> {
            let fresh = self.cuts.iter().filter_map(|(identity, _)| match identity {
                Identity::Fresh(range) => Some(*range),
                Identity::Again(_) => None,
            });
            fresh.collect()
        }
    }

    #[test]
    fn a_gap_is_passed_up_to_a_finished_range_that_has_gaps_too() {
        let mut driver = Driver::new(LIMITS, 0, vec![finished(5, 9)]);
        // The log has nothing below 7: neither in front of the range nor at its beginning.
        driver.passed(7);
        assert_eq!(driver.batcher.cursor(), Offset::new(5));
        assert!(driver.batcher.skip_finished());
        assert_eq!(driver.batcher.cursor(), Offset::new(10));
    }

    #[test]
    fn a_stored_range_that_does_not_fit_is_filled_again_tightly_once() {
        let mut driver = Driver::new(LIMITS, 0, vec![unfinished(1, 0, 2)]);
        let held = |driver: &mut Driver| {
            [0, 1].into_iter().for_each(|offset| driver.offer(offset, &[b'x'; 30]));
            driver.batcher.held()
        };
        driver.offer(0, &[b'x'; 30]);
        driver.batcher.grow_tightly();
        assert!(driver.batcher.refill_tightly(), "it began generously");
        let tight = held(&mut driver);
        assert_eq!(tight, limits::RUN_OVERHEAD_BYTES + 2 * (30 + Batch::ENTRY_BYTES));
        assert!(!driver.batcher.refill_tightly(), "it takes no more than it needs already");
        driver.offer(2, b"v");
        assert!(matches!(driver.cuts[..], [(Identity::Again(_), _)]));
    }

    #[test]
    fn a_batch_is_cut_at_its_record_limit() {
        let mut driver = Driver::new(LIMITS, 0, vec![]);
        (0..9).for_each(|offset| driver.offer(offset, b"v"));
        assert_eq!(driver.fresh(), [range(0, 3), range(4, 7)]);
        assert_eq!(driver.batcher.cursor(), Offset::new(8));
        assert_eq!(driver.batcher.read_position(), Offset::new(9));
    }

    #[test]
    fn another_record_limit_counts_from_the_next_batch_on() {
        let mut driver = Driver::new(LIMITS, 0, vec![]);
        (0..2).for_each(|offset| driver.offer(offset, b"v"));
        driver.batcher.set_max_records(2);
        (2..8).for_each(|offset| driver.offer(offset, b"v"));
        driver.batcher.set_max_records(5);
        (8..13).for_each(|offset| driver.offer(offset, b"v"));
        assert_eq!(driver.fresh(), [range(0, 3), range(4, 5), range(6, 7), range(8, 12)]);
    }

    #[test]
    fn a_batch_is_cut_before_it_outgrows_its_bytes_and_a_large_record_stands_alone() {
        let mut driver = Driver::new(LIMITS, 0, vec![]);
        driver.offer(0, &[b'x'; 60]);
        driver.offer(1, &[b'x'; 60]);
        driver.offer(2, &[b'x'; 500]);
        driver.offer(3, b"x");
        assert_eq!(driver.fresh(), [range(0, 0), range(1, 1), range(2, 2)]);
    }

    #[test]
    fn a_fresh_batch_is_due_after_its_wait() {
        let mut driver = Driver::new(LIMITS, 0, vec![]);
        assert_eq!(driver.batcher.due(), None);
        driver.offer(0, b"v");
        assert_eq!(driver.batcher.due(), Some(driver.now + LIMITS.max_wait));
        let cut = driver.batcher.cut_now().expect("one record waits");
        driver.accept(cut);
        assert_eq!(driver.batcher.due(), None);
    }

    #[test]
    fn stored_ranges_come_again_exactly_whatever_the_limits_are_now() {
        let stored = vec![unfinished(1, 0, 9), finished(10, 12), unfinished(3, 13, 14)];
        let mut driver = Driver::new(LIMITS, 0, stored.clone());
        (0..20).for_each(|offset| driver.offer(offset, b"v"));
        assert_eq!(driver.cuts[0], (Identity::Again(stored[0].clone()), (0..=9).collect()));
        assert_eq!(driver.cuts[1], (Identity::Again(stored[2].clone()), vec![13, 14]));
        assert_eq!(driver.fresh(), [range(15, 18)]);
    }

    #[test]
    fn fresh_batches_stop_where_a_stored_range_begins() {
        let mut driver = Driver::new(LIMITS, 0, vec![finished(2, 3), unfinished(2, 6, 6)]);
        (0..8).for_each(|offset| driver.offer(offset, b"v"));
        assert_eq!(driver.fresh(), [range(0, 1), range(4, 5)]);
        assert_eq!(driver.cuts[2], (Identity::Again(unfinished(2, 6, 6)), vec![6]));
    }

    #[test]
    fn what_compaction_left_of_a_stored_range_runs_with_its_old_key() {
        let stored = vec![unfinished(1, 0, 9), unfinished(2, 10, 19), unfinished(3, 20, 29)];
        let mut driver = Driver::new(LIMITS, 0, stored.clone());
        driver.offer(4, b"v");
        driver.offer(25, b"v");
        driver.passed(30);
        let expected: Vec<_> = stored
            .iter()
            .map(|s| Identity::Again(s.clone()))
            .zip([vec![4], vec![], vec![25]])
            .collect();
        assert_eq!(driver.cuts, expected);
        assert_eq!(driver.batcher.cursor(), Offset::new(30));
    }

    #[test]
    fn a_stored_range_whose_beginning_is_gone_runs_with_what_is_left() {
        let stored = vec![unfinished(1, 0, 9), unfinished(2, 10, 19)];
        let mut driver = Driver::new(LIMITS, 0, stored.clone());
        driver.offer(0, b"v");
        driver.batcher.skip_to(Offset::new(15));
        driver.passed(15);
        assert_eq!(driver.batcher.read_position(), Offset::new(15));
        (15..21).for_each(|offset| driver.offer(offset, b"v"));
        let expected = [
            (Identity::Again(stored[0].clone()), vec![0]),
            (Identity::Again(stored[1].clone()), (15..20).collect()),
        ];
        assert_eq!(driver.cuts, expected);
    }

    #[test]
    fn a_refused_cut_is_read_again_under_its_identity() {
        let mut driver = Driver::new(LIMITS, 0, vec![]);
        (0..3).for_each(|offset| driver.offer(offset, b"v"));
        let cut = driver.batcher.cut_now().unwrap();
        let (first, last) = (cut.range().first.get(), cut.range().last.get());
        let stored = Stored { registered: true, ..unfinished(5, first, last) };
        driver.batcher.refused(stored.clone());
        assert_eq!(driver.batcher.read_position(), Offset::ZERO);
        (0..6).for_each(|offset| driver.offer(offset, b"v"));
        assert_eq!(driver.cuts, [(Identity::Again(stored), vec![0, 1, 2])]);
        assert_eq!(driver.batcher.read_position(), Offset::new(6));
    }

    #[test]
    fn a_gap_at_the_end_moves_the_cursor_only_when_nothing_is_being_filled() {
        let mut driver = Driver::new(LIMITS, 0, vec![]);
        driver.offer(0, b"v");
        assert!(!driver.batcher.advance(Offset::new(9)));
        let cut = driver.batcher.cut_now().unwrap();
        driver.accept(cut);
        assert!(driver.batcher.advance(Offset::new(9)));
        assert_eq!(driver.batcher.cursor(), Offset::new(9));
    }

    proptest! {
        /// Whatever is stored, whatever gaps the log has: each record is cut once, in order,
        /// finished ranges not at all, and no fresh range touches a stored one.
        #[test]
        fn every_record_is_cut_once_and_ranges_never_overlap(
            shape in prop::collection::vec((0i64..3, 1i64..7, 0u8..3), 0..8),
            log in prop::collection::vec(prop::bool::weighted(0.8), 60),
            max_records in 1usize..9,
        ) {
            let (mut stored, mut at) = (Vec::new(), 0);
            for (id, (gap, length, kind)) in shape.into_iter().enumerate() {
                let (first, last) = (at + gap, at + gap + length - 1);
                at = last + 1;
                match kind {
                    0 => stored.push(finished(first, last)),
                    _ => stored.push(unfinished(id as i64, first, last)),
                }
            }
            let mut driver = Driver::new(BatchLimits { max_records, ..LIMITS }, 0, stored.clone());
            let present: Vec<i64> = (0..60).filter(|o| log[*o as usize]).collect();
            present.iter().for_each(|offset| driver.offer(*offset, b"value"));
            driver.passed(60);
            while let Some(cut) = driver.batcher.cut_now() {
                driver.accept(cut);
            }
            let is_done = |offset: i64| stored.iter().any(|s| {
                s.is_finished() && s.range.contains(Offset::new(offset))
            });
            let expected: Vec<i64> = present.iter().copied().filter(|o| !is_done(*o)).collect();
            let cut: Vec<i64> = driver.cuts.iter().flat_map(|(_, offsets)| offsets.clone()).collect();
            prop_assert_eq!(cut, expected);
            for fresh in driver.fresh() {
                for stored in &stored {
                    let apart = fresh.last < stored.range.first || stored.range.last < fresh.first;
                    prop_assert!(apart, "{} touches stored {}", fresh, stored.range);
                }
            }
            for stored in stored.iter().filter(|s| !s.is_finished()) {
                let again = driver.cuts.iter().filter(|(id, _)| *id == Identity::Again(stored.clone()));
                prop_assert_eq!(again.count(), usize::from(stored.range.last < Offset::new(60)));
            }
        }
    }
}

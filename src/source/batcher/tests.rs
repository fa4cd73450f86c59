//! The batcher driven as a sensor drives it, and against random sequences.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::model::budget::Budget;
use crate::model::offset::Lane;
use crate::model::planned::PlannedRun;
use crate::model::run::RunId;

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

fn unfinished(run: i64, first: i64, last: i64) -> PlannedBatch {
    let range = range(first, last);
    let part = PlannedRun { run: RunId(run), range, lane: Lane::WHOLE, failed_attempts: 0 };
    PlannedBatch { range, parts: vec![part], registered: false }
}

fn finished(first: i64, last: i64) -> PlannedBatch {
    PlannedBatch { range: range(first, last), parts: vec![], registered: false }
}

#[test]
fn offsets_outside_finished_ranges_are_missing() {
    let stored = vec![unfinished(1, 10, 19), finished(20, 29), finished(35, 49)];
    let batcher = Batcher::new(LIMITS, Offset::new(10), stored);
    assert_eq!(batcher.not_finished(range(10, 29)), [range(10, 19)]);
    assert_eq!(batcher.not_finished(range(10, 24)), [range(10, 19)]);
    assert_eq!(batcher.not_finished(range(10, 40)), [range(10, 19), range(30, 34)]);
    assert_eq!(batcher.not_finished(range(15, 60)), [range(15, 19), range(30, 34), range(50, 60)]);
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
    /// Uses the short way if a record allows it.
    at_once: bool,
}

impl Driver {
    fn new(limits: BatchLimits, cursor: i64, stored: Vec<PlannedBatch>) -> Driver {
        let batcher = Batcher::new(limits, Offset::new(cursor), stored);
        Driver {
            batcher,
            budget: Budget::new(1 << 30),
            cuts: Vec::new(),
            now: Instant::now(),
            at_once: true,
        }
    }

    fn accept(&mut self, cut: Cut) {
        assert!(
            cut.permit.bytes() >= cut.batch.heap_bytes(),
            "memory is acquired before it is used"
        );
        let offsets = cut.batch.records().map(|record| record.offset.get()).collect();
        self.batcher.accepted(cut.range());
        self.cuts.push((cut.identity, offsets));
    }

    fn offer(&mut self, offset: i64, value: &[u8]) {
        let record =
            Record { offset: Offset::new(offset), value: Some(value), ..Record::default() };
        if self.at_once && self.batcher.take_at_once(&record) {
            return;
        }
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
            Identity::PlannedBatch(_) => None,
        });
        fresh.collect()
    }
}

#[test]
fn the_cursor_passes_a_gap_up_to_a_finished_range_with_gaps_of_its_own() {
    let mut driver = Driver::new(LIMITS, 0, vec![finished(5, 9)]);
    // The log has no record below 7: neither before the range nor at its beginning.
    driver.passed(7);
    assert_eq!(driver.batcher.cursor(), Offset::new(5));
    assert!(driver.batcher.skip_finished());
    assert_eq!(driver.batcher.cursor(), Offset::new(10));
}

#[test]
fn a_stored_range_that_does_not_fit_is_refilled_tightly_once() {
    let mut driver = Driver::new(LIMITS, 0, vec![unfinished(1, 0, 2)]);
    let held = |driver: &mut Driver| {
        [0, 1].into_iter().for_each(|offset| driver.offer(offset, &[b'x'; 30]));
        driver.batcher.held()
    };
    driver.offer(0, &[b'x'; 30]);
    driver.batcher.grow_tightly();
    assert!(driver.batcher.refill_tightly(), "it had memory to spare");
    let tight = held(&mut driver);
    assert_eq!(tight, limits::RUN_OVERHEAD_BYTES + 2 * (30 + Batch::ENTRY_BYTES));
    assert!(!driver.batcher.refill_tightly(), "it has none to spare already");
    driver.offer(2, b"v");
    assert!(matches!(driver.cuts[..], [(Identity::PlannedBatch(_), _)]));
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
fn a_changed_record_limit_applies_from_the_next_batch_on() {
    let mut driver = Driver::new(LIMITS, 0, vec![]);
    (0..2).for_each(|offset| driver.offer(offset, b"v"));
    driver.batcher.set_limits(BatchLimits { max_records: 2, ..LIMITS });
    (2..8).for_each(|offset| driver.offer(offset, b"v"));
    driver.batcher.set_limits(BatchLimits { max_records: 5, ..LIMITS });
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
fn a_fresh_batch_is_due_after_max_wait() {
    let mut driver = Driver::new(LIMITS, 0, vec![]);
    assert_eq!(driver.batcher.due(), None);
    driver.offer(0, b"v");
    assert_eq!(driver.batcher.due(), Some(driver.now + LIMITS.max_wait));
    let cut = driver.batcher.cut_now().expect("one record is being filled");
    driver.accept(cut);
    assert_eq!(driver.batcher.due(), None);
}

#[test]
fn stored_ranges_are_cut_exactly_as_before_whatever_the_limits_are_now() {
    let stored = vec![unfinished(1, 0, 9), finished(10, 12), unfinished(3, 13, 14)];
    let mut driver = Driver::new(LIMITS, 0, stored.clone());
    (0..20).for_each(|offset| driver.offer(offset, b"v"));
    assert_eq!(driver.cuts[0], (Identity::PlannedBatch(stored[0].clone()), (0..=9).collect()));
    assert_eq!(driver.cuts[1], (Identity::PlannedBatch(stored[2].clone()), vec![13, 14]));
    assert_eq!(driver.fresh(), [range(15, 18)]);
}

#[test]
fn a_fresh_batch_ends_before_a_stored_range() {
    let mut driver = Driver::new(LIMITS, 0, vec![finished(2, 3), unfinished(2, 6, 6)]);
    (0..8).for_each(|offset| driver.offer(offset, b"v"));
    assert_eq!(driver.fresh(), [range(0, 1), range(4, 5)]);
    assert_eq!(driver.cuts[2], (Identity::PlannedBatch(unfinished(2, 6, 6)), vec![6]));
}

#[test]
fn a_stored_range_keeps_its_key_if_compaction_removed_records() {
    let stored = vec![unfinished(1, 0, 9), unfinished(2, 10, 19), unfinished(3, 20, 29)];
    let mut driver = Driver::new(LIMITS, 0, stored.clone());
    driver.offer(4, b"v");
    driver.offer(25, b"v");
    driver.passed(30);
    let expected: Vec<_> = stored
        .iter()
        .map(|s| Identity::PlannedBatch(s.clone()))
        .zip([vec![4], vec![], vec![25]])
        .collect();
    assert_eq!(driver.cuts, expected);
    assert_eq!(driver.batcher.cursor(), Offset::new(30));
}

#[test]
fn a_stored_range_whose_beginning_was_removed_runs_with_the_rest() {
    let stored = vec![unfinished(1, 0, 9), unfinished(2, 10, 19)];
    let mut driver = Driver::new(LIMITS, 0, stored.clone());
    driver.offer(0, b"v");
    driver.batcher.skip_to(Offset::new(15));
    driver.passed(15);
    assert_eq!(driver.batcher.read_position(), Offset::new(15));
    (15..21).for_each(|offset| driver.offer(offset, b"v"));
    let expected = [
        (Identity::PlannedBatch(stored[0].clone()), vec![0]),
        (Identity::PlannedBatch(stored[1].clone()), (15..20).collect()),
    ];
    assert_eq!(driver.cuts, expected);
}

#[test]
fn a_refused_cut_is_read_again_under_its_identity() {
    let mut driver = Driver::new(LIMITS, 0, vec![]);
    (0..3).for_each(|offset| driver.offer(offset, b"v"));
    let cut = driver.batcher.cut_now().unwrap();
    let (first, last) = (cut.range().first.get(), cut.range().last.get());
    let stored = PlannedBatch { registered: true, ..unfinished(5, first, last) };
    driver.batcher.refused(stored.clone());
    assert_eq!(driver.batcher.read_position(), Offset::ZERO);
    (0..6).for_each(|offset| driver.offer(offset, b"v"));
    assert_eq!(driver.cuts, [(Identity::PlannedBatch(stored), vec![0, 1, 2])]);
    assert_eq!(driver.batcher.read_position(), Offset::new(6));
}

#[test]
fn a_gap_moves_the_cursor_only_if_nothing_is_being_filled() {
    let mut driver = Driver::new(LIMITS, 0, vec![]);
    driver.offer(0, b"v");
    assert!(!driver.batcher.advance(Offset::new(9)));
    let cut = driver.batcher.cut_now().unwrap();
    driver.accept(cut);
    assert!(driver.batcher.advance(Offset::new(9)));
    assert_eq!(driver.batcher.cursor(), Offset::new(9));
}

#[test]
fn cuts_refused_together_are_read_again_from_the_first() {
    let mut driver = Driver::new(LIMITS, 0, vec![]);
    let mut cuts = Vec::new();
    for offset in 0..11 {
        let record = Record { offset: Offset::new(offset), ..Record::default() };
        assert!(driver.batcher.wants(record.offset), "a record that was cut is not wanted again");
        let permit = driver.budget.try_acquire(driver.batcher.needs(&record)).unwrap();
        driver.batcher.take(record, permit, driver.now);
        cuts.extend(driver.batcher.cut_if_full());
        assert!(!driver.batcher.wants(record.offset));
    }
    assert!(
        !driver.batcher.advance(Offset::new(20)),
        "the cursor does not pass a cut that is not accepted"
    );
    let ranges: Vec<_> = cuts.iter().map(Cut::range).collect();
    assert_eq!(ranges, [range(0, 3), range(4, 7)]);
    driver.batcher.accepted(range(0, 3));
    driver.batcher.refused(unfinished(1, 4, 7));
    assert_eq!(driver.batcher.cursor(), Offset::new(4));
    assert_eq!(driver.batcher.read_position(), Offset::new(4));
    (4..8).for_each(|offset| driver.offer(offset, b""));
    assert_eq!(driver.cuts, [(Identity::PlannedBatch(unfinished(1, 4, 7)), vec![4, 5, 6, 7])]);
}

proptest! {
    /// For any stored ranges and any gaps in the log: each record is cut once, in order, those of finished
    /// ranges not at all, and no fresh range overlaps a stored one.
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
        let present: Vec<i64> = (0..60).filter(|o| log[*o as usize]).collect();
        let drive = |at_once| {
            let limits = BatchLimits { max_records, ..LIMITS };
            let mut driver = Driver::new(limits, 0, stored.clone());
            driver.at_once = at_once;
            present.iter().for_each(|offset| driver.offer(*offset, b"value"));
            driver.passed(60);
            while let Some(cut) = driver.batcher.cut_now() {
                driver.accept(cut);
            }
            driver
        };
        let driver = drive(true);
        prop_assert_eq!(&driver.cuts, &drive(false).cuts);
        let is_done = |offset: i64| stored.iter().any(|s| {
            s.is_finished() && s.range.contains(Offset::new(offset))
        });
        let expected: Vec<i64> = present.iter().copied().filter(|o| !is_done(*o)).collect();
        let cut: Vec<i64> = driver.cuts.iter().flat_map(|(_, offsets)| offsets.clone()).collect();
        prop_assert_eq!(cut, expected);
        for fresh in driver.fresh() {
            for stored in &stored {
                let apart = fresh.last < stored.range.first || stored.range.last < fresh.first;
                prop_assert!(apart, "{} overlaps stored {}", fresh, stored.range);
            }
        }
        for stored in stored.iter().filter(|s| !s.is_finished()) {
            let again = driver.cuts.iter().filter(|(id, _)| *id == Identity::PlannedBatch(stored.clone()));
            prop_assert_eq!(again.count(), usize::from(stored.range.last < Offset::new(60)));
        }
    }
}

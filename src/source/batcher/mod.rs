//! Cuts one partition's records into batches. Pure: records and the time come in, cuts come out.
//!
//! A batch whose range is in the history already (`PlannedBatch`, a stored range) is cut exactly as it was before;
//! fresh batches never overlap one. The caller decides what becomes of a cut, and acquires the memory.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::config::limits;
use crate::model::batch::{Batch, Record};
use crate::model::budget::Permit;
use crate::model::offset::{Offset, OffsetRange};
use crate::model::planned::PlannedBatch;

/// How large a fresh batch may grow, and how long it may wait for more records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    pub max_records: usize,
    pub max_bytes: usize,
    pub max_wait: Duration,
    /// Bytes that a batch takes beyond its records and their index.
    pub batch_overhead: usize,
    /// Bytes that each record takes beyond its payload and its index entry.
    pub record_overhead: usize,
}

/// A batch that is complete.
#[derive(Debug)]
pub struct Cut {
    /// The memory of the records, which is released when the permit is dropped.
    pub permit: Permit,
    pub batch: Batch,
    pub identity: Identity,
    /// When its first record arrived; `None` if it has none.
    pub since: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A new range, which is still to be planned.
    Fresh(OffsetRange),
    /// A range that was planned before. Compaction may have removed some of its records, or all.
    PlannedBatch(PlannedBatch),
}

impl Cut {
    pub fn range(&self) -> OffsetRange {
        match &self.identity {
            Identity::Fresh(range) => *range,
            Identity::PlannedBatch(stored) => stored.range,
        }
    }
}

#[derive(Debug)]
struct Fill {
    batch: Batch,
    permit: Permit,
    /// When its first record arrived.
    since: Instant,
    /// `BatchLimits::max_records` when the batch was begun.
    max_records: usize,
    /// It fills the first stored range.
    stored: bool,
    /// It has reserved no spare memory since it was begun.
    tight: bool,
}

/// One partition's batcher.
#[derive(Debug)]
pub struct Batcher {
    limits: BatchLimits,
    /// Every record below it is in a run that the queue has accepted, or needs no run.
    cursor: Offset,
    /// The end of what was cut and is neither accepted nor refused yet; at most the cursor if there is none.
    cut_to: Offset,
    /// Batches planned before that are still to be read; ascending, none below the cursor.
    stored: VecDeque<PlannedBatch>,
    fill: Option<Fill>,
    /// The log has no record below it.
    floor: Offset,
    /// Payload bytes and records of the last fresh cut: a guess at what the next one needs.
    usual: (usize, usize),
    /// Memory is short: reserve none to spare until the next cut.
    tight: bool,
}

impl Batcher {
    /// A batcher that goes on at `cursor`, and first cuts the batches in `stored` again.
    ///
    /// # Panics
    /// If the ranges in `stored` overlap, do not ascend, or begin below `cursor`.
    pub fn new(limits: BatchLimits, cursor: Offset, stored: Vec<PlannedBatch>) -> Batcher {
        let mut at = cursor;
        for stored in &stored {
            assert!(stored.range.first >= at, "stored range {} overlaps", stored.range);
            at = stored.range.end();
        }
        Batcher {
            limits,
            cursor,
            cut_to: cursor,
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

    /// How many runs of stored batches are not in the queue yet.
    pub fn unmade_runs(&self) -> usize {
        self.stored.iter().map(|stored| stored.parts.len()).sum()
    }

    /// How many stored batches it has still to pass.
    pub fn unmade_batches(&self) -> usize {
        self.stored.len()
    }

    /// Whether the ledger has a batch in flight that is still to be read again.
    pub fn has_registered(&self) -> bool {
        self.stored.iter().any(|stored| stored.registered)
    }

    /// The stored batches that the cursor has not passed, finished ones included: their records must be skipped
    /// when they are read.
    pub fn into_stored(self) -> Vec<PlannedBatch> {
        self.stored.into_iter().collect()
    }

    /// Where a fresh consumer has to start: after everything that was cut or is being filled.
    pub fn read_position(&self) -> Offset {
        let filled = self.fill.as_ref().and_then(|fill| fill.batch.range());
        filled.map_or(self.cursor.max(self.cut_to), OffsetRange::end).max(self.floor)
    }

    /// The log has no record below `floor` any more, so reading goes on there at the earliest. A stored range
    /// that begins below it is made of the records that remain.
    pub fn skip_to(&mut self, floor: Offset) {
        self.floor = self.floor.max(floor);
    }

    /// The parts of `range` that lie in no finished stored range, ascending.
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

    /// Limits the fresh batches that are begun from now on to `max_records` records.
    pub fn set_limits(&mut self, limits: BatchLimits) {
        self.limits = limits;
    }

    /// Moves the cursor over finished stored ranges that begin at it. True if it moved.
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

    /// The cut that must happen before a record at `offset` with `payload` bytes can be taken, if any. Call
    /// it until it returns `None`.
    pub fn cut_before(&mut self, offset: Offset, payload: usize) -> Option<Cut> {
        if let Some(cut) = self.cut_passed(offset) {
            return Some(cut);
        }
        let fill = self.fill.as_ref()?;
        let next_stored = self.stored.front().is_some_and(|front| front.range.first <= offset);
        let outgrown = fill.batch.payload_bytes() + payload > self.limits.max_bytes;
        if !fill.stored && (next_stored || outgrown) { self.cut_fill() } else { None }
    }

    /// Whether the record at `offset` is still to be taken: it was not read before, and no run has processed
    /// it.
    pub fn wants(&self, offset: Offset) -> bool {
        offset >= self.read_position()
            && !self
                .stored
                .front()
                .is_some_and(|front| front.is_finished() && front.range.contains(offset))
    }

    /// The bytes of memory that must be acquired before `take` gets this record.
    pub fn needs(&self, record: &Record<'_>) -> usize {
        match &self.fill {
            Some(fill) => fill.batch.growth_for(record) + self.limits.record_overhead,
            None => self.needs_of_first(record, self.expected(), self.tight),
        }
    }

    /// What the record needs as the first one of its batch.
    fn needs_of_first(&self, record: &Record<'_>, expected: (usize, usize), tight: bool) -> usize {
        let stored = self.stored.front().filter(|front| front.range.contains(record.offset));
        let runs = stored.map_or(0, |stored| stored.runs(self.limits.record_overhead > 0));
        self.limits.batch_overhead.max(runs * limits::RUN_OVERHEAD_BYTES)
            + Batch::first_growth_for(record, expected, tight)
            + self.limits.record_overhead
    }

    /// The least memory in which this record can be taken at all, with the part of its batch that cannot be
    /// cut off before it.
    pub fn least(&self, record: &Record<'_>) -> usize {
        match &self.fill {
            Some(fill) if fill.stored && fill.tight => self.held() + self.needs(record),
            _ => self.needs_of_first(record, (0, 0), true),
        }
    }

    /// The bytes of memory that the batch being filled holds.
    pub fn held(&self) -> usize {
        self.fill.as_ref().map_or(0, |fill| fill.permit.bytes())
    }

    /// Memory is short: the batch being filled, or the next one, reserves none to spare.
    pub fn grow_tightly(&mut self) {
        self.usual = (0, 0);
        self.tight = true;
        if let Some(fill) = &mut self.fill {
            fill.batch.grow_tightly();
        }
    }

    /// Drops the batch being filled if it has reserved memory to spare, so that it is read again without. True
    /// if it was dropped.
    pub fn refill_tightly(&mut self) -> bool {
        self.fill.take_if(|fill| !fill.tight).is_some()
    }

    /// Drops the batch being filled; its records are read again later. True if there was one.
    pub fn drop_fill(&mut self) -> bool {
        self.fill.take().is_some()
    }

    /// Takes a record that `wants` is true for; `permit` covers what `needs` returned.
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

    /// The short way for nearly all records: the next one of a fresh batch, for which memory is reserved, and
    /// which does not complete the batch. It does at once what `cut_before`, `wants`, `needs`, `take` and
    /// `cut_if_full` would do. False, with nothing changed, if the record needs the long way.
    #[inline]
    pub fn take_at_once(&mut self, record: &Record<'_>) -> bool {
        let Some(fill) = &mut self.fill else { return false };
        let batch = &mut fill.batch;
        let is_plain = self.stored.is_empty()
            && self.limits.record_overhead == 0
            && record.offset >= self.floor
            && batch.last_offset().is_some_and(|last| last < record.offset)
            && batch.len() + 1 < fill.max_records
            && batch.payload_bytes() + record.payload_bytes() < self.limits.max_bytes
            && batch.has_room_for(record);
        if is_plain {
            batch.push(*record);
        }
        is_plain
    }

    /// The end of the batch being filled: of the newest record that was taken.
    pub fn filled_to(&self) -> Option<Offset> {
        self.fill.as_ref().and_then(|fill| fill.batch.range()).map(OffsetRange::end)
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

    /// The log has no further record below `next`: returns the next stored range that is complete by that, or
    /// the fresh batch in front of it. Call it until it returns `None`.
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

    /// The log has no further record below `next`: if nothing is being filled or on its way to the queue, the
    /// cursor passes the gap, up to the next stored range at most. True if it moved.
    pub fn advance(&mut self, next: Offset) -> bool {
        let next = self.stored.front().map_or(next, |front| next.min(front.range.first));
        if self.fill.is_none() && self.cut_to <= self.cursor && next > self.cursor {
            self.cursor = next;
            return true;
        }
        false
    }

    /// When the fresh batch being filled has waited for `max_wait`.
    pub fn due(&self) -> Option<Instant> {
        self.fill.as_ref().filter(|fill| !fill.stored).map(|fill| fill.since + self.limits.max_wait)
    }

    /// The range of the fresh batch being filled, and when it has waited for `max_wait`.
    pub fn waiting(&self) -> Option<(OffsetRange, Instant)> {
        Some((self.fill.as_ref()?.batch.range()?, self.due()?))
    }

    /// Cuts the fresh batch being filled as it is: its wait is over, memory is short, the tick ends, its partition
    /// pauses, or a gap or a later leader epoch follows.
    /// A stored range goes on filling: it must come out with the range that it had.
    pub fn cut_now(&mut self) -> Option<Cut> {
        if self.fill.as_ref().is_some_and(|fill| !fill.stored) { self.cut_fill() } else { None }
    }

    /// The queue has accepted all runs of the cut: the cursor passes it.
    ///
    /// # Panics
    /// If the cursor has passed the range already.
    pub fn accepted(&mut self, range: OffsetRange) {
        if self.stored.front().is_some_and(|front| front.range == range) {
            self.stored.pop_front();
        }
        assert!(range.end() > self.cursor, "a cut lies above the cursor");
        self.cursor = range.end();
    }

    /// The queue had no room for a cut: its records are read again later, under the identity that the range
    /// has by now. The batch being filled lies above it and is dropped. If several cuts were refused, the last
    /// one comes first.
    pub fn refused(&mut self, stored: PlannedBatch) {
        self.fill = None;
        self.cut_to = stored.range.first;
        if self.stored.front().is_some_and(|front| front.range == stored.range) {
            self.stored.pop_front();
        }
        self.stored.push_front(stored);
    }

    /// The payload bytes and records that a new batch will likely hold.
    fn expected(&self) -> (usize, usize) {
        let (bytes, records) = self.usual;
        (bytes.min(self.limits.max_bytes), records.min(self.limits.max_records))
    }

    fn new_batch(&self) -> Batch {
        let (bytes, records) = self.expected();
        let mut batch = Batch::default();
        batch.expect(bytes, records);
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
            Identity::PlannedBatch(front.clone())
        } else {
            self.usual = (fill.batch.payload_bytes(), fill.batch.len());
            Identity::Fresh(range)
        };
        self.cut_to = range.end();
        Some(Cut { permit: fill.permit, batch: fill.batch, identity, since: Some(fill.since) })
    }

    /// Cuts a stored range with the records that the log still has of it: none, if compaction removed all.
    fn cut_stored(&mut self, stored: PlannedBatch) -> Option<Cut> {
        self.tight = false;
        let (permit, batch, since) = match self.fill.take() {
            Some(fill) => (fill.permit, fill.batch, Some(fill.since)),
            None => (Permit::nothing(), Batch::default(), None),
        };
        Some(Cut { permit, batch, identity: Identity::PlannedBatch(stored), since })
    }
}

#[cfg(test)]
mod tests;

//! Cuts one partition's records into batches. Pure: records and the time come in, cuts come out.
//!
//! Ranges that the history holds from before (`Stored`) are made again exactly; fresh batches
//! never overlap one. Where batches go, and whether there is memory for them, is the sensor's.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::config::limits;
use crate::model::batch::{Batch, Record};
use crate::model::budget::Permit;
use crate::model::offset::{Offset, OffsetRange};
use crate::model::stored::Stored;

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
    /// The end of what was cut and is neither accepted nor refused yet; the cursor where there is none.
    cut_to: Offset,
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

    /// Runs of stored batches that are still to be made.
    pub fn unmade_runs(&self) -> usize {
        self.stored.iter().map(|stored| stored.parts.len()).sum()
    }

    /// Ranges from before that it has still to come to.
    pub fn unmade_batches(&self) -> usize {
        self.stored.len()
    }

    /// Where a fresh consumer has to start: behind the cursor, what was cut and what is being filled.
    pub fn read_position(&self) -> Offset {
        let filled = self.fill.as_ref().and_then(|fill| fill.batch.range());
        filled.map_or(self.cursor.max(self.cut_to), OffsetRange::end).max(self.floor)
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
                    + Batch::first_growth_for(record, self.expected(), self.tight)
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

    /// Takes a record that is the next one of a fresh batch, has room there and completes nothing, which
    /// nearly all are: what `cut_before`, `wants`, `needs`, `take` and `cut_if_full` say of it is known at
    /// one look then. False where it is not so, and nothing was done.
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

    /// Everything below `next` is cut and accepted, and nothing else is cut: the cursor passes a gap,
    /// to the log's end or up to the next stored range. True where it moved.
    pub fn advance(&mut self, next: Offset) -> bool {
        let next = self.stored.front().map_or(next, |front| next.min(front.range.first));
        if self.fill.is_none() && self.cut_to <= self.cursor && next > self.cursor {
            self.cursor = next;
            return true;
        }
        false
    }

    /// When the fresh batch that is being filled has waited long enough.
    pub fn due(&self) -> Option<Instant> {
        self.fill.as_ref().filter(|fill| !fill.stored).map(|fill| fill.since + self.limits.max_wait)
    }

    /// The range of the fresh batch that is being filled, and when it has waited long enough.
    pub fn waiting(&self) -> Option<(OffsetRange, Instant)> {
        Some((self.fill.as_ref()?.batch.range()?, self.due()?))
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
    /// range has by now. What is being filled is dropped too. Of several cuts the last is refused first.
    pub fn refused(&mut self, stored: Stored) {
        self.fill = None;
        self.cut_to = stored.range.first;
        if self.stored.front().is_some_and(|front| front.range == stored.range) {
            self.stored.pop_front();
        }
        self.stored.push_front(stored);
    }

    /// Payload bytes and records that a new batch will likely hold.
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
            Identity::Again(front.clone())
        } else {
            self.usual = (fill.batch.payload_bytes(), fill.batch.len());
            Identity::Fresh(range)
        };
        self.cut_to = range.end();
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
mod tests;

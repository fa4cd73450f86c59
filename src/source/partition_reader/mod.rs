//! One partition as a sensor or a replay reads it: how far it is, whether it may be read now, and how long
//! it pauses after an error.
//!
//! What makes a batch is decided in `batcher`. Who polls, plans and fills the queue is in `tick` (for a
//! sensor) and in `reprocess::replay`.

mod epochs;
mod log_check;

use std::time::Instant;

use self::epochs::Epochs;
use crate::commit::ledgers::Ledgers;
use crate::config::limits;
use crate::history::recovery::Resume;
use crate::kafka::Consumer;
use crate::model::batch::Record;
use crate::model::budget::Permit;
use crate::model::error::{Error, Result};
use crate::model::live::{READING_A_PARTITION, Trouble};
use crate::model::offset::{Epoch, Offset, OffsetRange, Partition};
use crate::model::planned::PlannedBatch;
use crate::source::batcher::{BatchLimits, Batcher, Cut};
use crate::source::claims::{Believed, Claim};

/// The reader of one partition, and the only owner of its position.
///
/// Every offset passes these marks, from left to right in time:
///
/// | mark | every record below it | kept by |
/// | --- | --- | --- |
/// | read position | was copied into a batch, or is not in the log | the batcher |
/// | cut end | is in a batch that was cut | the batcher |
/// | cursor | is in a run that the run queue has accepted, or needs no run | the batcher |
/// | reported | is known to the ledger: in flight, or done | this reader; equals `Ledger::position` |
/// | committable, committed | is done; the log has it as the group's offset | the ledger |
///
/// Read position ≥ cut end ≥ cursor, and reported ≥ committable ≥ committed. The cursor and `reported` meet at
/// the end of each poll (`report`). Between polls the cursor may lie below `reported`, but only by batches that
/// are registered in the ledger and that the queue had no room for: the batcher still has all of those.
/// If the cursor ran ahead of the batches that are registered, a commit could pass records that no run has; the
/// asserts in `report` and `register` stop mb before that.
#[derive(Debug)]
pub(super) struct PartitionReader {
    partition: Partition,
    batcher: Batcher,
    /// Everything below it is known to the ledger.
    reported: Offset,
    /// This consumer has handed over every record below it, as the log itself showed. `None` if a record that
    /// it handed over was dropped since: it must be read again first.
    passed: Option<Offset>,
    believed: Believed,
    epochs: Epochs,
    /// Too many of the partition's runs wait for their turn: no record begins a batch for now.
    held: bool,
    /// The consumer was told to pause the partition.
    paused: bool,
    /// The error that the partition is at, until a record behind it could be read.
    failing: Option<Failing>,
    /// An error is over, and `recovered` was not asked since.
    has_recovered: bool,
    trouble: Trouble,
}

/// An error that concerns one partition alone.
#[derive(Debug)]
struct Failing {
    error: Error,
    /// How many times in a row.
    tries: u32,
    /// When the next try is due. `None` while it is under way.
    retry_at: Option<Instant>,
}

/// What became of a record that was offered.
#[derive(Debug)]
pub(super) enum Offer {
    /// It was taken, or nobody needs it.
    Done,
    /// A batch must be delivered first; then offer the record again.
    CutFirst(Cut),
    /// `take` it, with memory for `needs` bytes.
    NeedsMemory,
    /// Its offset must be proved (`log_ends_at`); then offer the record again.
    Doubtful,
}

impl PartitionReader {
    /// A reader that goes on at the batcher's cursor, which the ledger knows already.
    pub fn new(partition: Partition, batcher: Batcher) -> PartitionReader {
        PartitionReader {
            partition,
            reported: batcher.cursor(),
            believed: Believed::at(batcher.read_position()),
            batcher,
            passed: None,
            epochs: Epochs::default(),
            held: false,
            paused: false,
            failing: None,
            has_recovered: false,
            trouble: Trouble::default(),
        }
    }

    pub fn partition(&self) -> Partition {
        self.partition
    }

    /// Every record below it is in a run that the run queue has accepted, or needs no run.
    pub fn cursor(&self) -> Offset {
        self.batcher.cursor()
    }

    /// Where a fresh consumer has to start.
    pub fn read_position(&self) -> Offset {
        self.batcher.read_position()
    }

    /// A fresh consumer begins, at the offset returned.
    pub fn begin_reading(&mut self, now: Instant) -> Offset {
        self.passed = None;
        (self.held, self.paused) = (false, false);
        if self.retry_is_due(now) {
            self.begin_retry();
        }
        self.batcher.skip_finished();
        let position = self.batcher.read_position();
        self.believed = Believed::at(position);
        position
    }

    // Records become batches.

    /// Offers the next record that the consumer handed over.
    #[inline]
    pub fn offer(&mut self, record: &Record<'_>) -> Offer {
        if self.failing.is_some() && self.retry_at().is_some() || self.epochs.is_suspect() {
            return Offer::Done;
        }
        if !self.believed.covers(Claim::Record(record.offset)) {
            return Offer::Doubtful;
        }
        self.believed.go_on_at(record.offset.next());
        if self.batcher.take_at_once(record) {
            if self.failing.is_some() {
                self.read_below(record.offset.next());
            }
            return Offer::Done;
        }
        match self.batcher.cut_before(record.offset, record.payload_bytes()) {
            Some(cut) => Offer::CutFirst(cut),
            None if self.batcher.wants(record.offset) => Offer::NeedsMemory,
            None => Offer::Done,
        }
    }

    /// The bytes of memory to acquire before `take` gets this record.
    pub fn needs(&self, record: &Record<'_>) -> usize {
        self.batcher.needs(record)
    }

    /// The least memory in which this record can be taken at all.
    pub fn least(&self, record: &Record<'_>) -> usize {
        self.batcher.least(record)
    }

    /// Takes a record; returns the batch that it completes, if it does.
    pub fn take(&mut self, record: Record<'_>, permit: Permit, now: Instant) -> Option<Cut> {
        self.batcher.take(record, permit, now);
        self.read_below(record.offset.next());
        self.batcher.cut_if_full()
    }

    /// Whether the claim needs no proof.
    pub fn believes(&self, claim: Claim) -> bool {
        self.believed.covers(claim)
    }

    /// The broker says that the log ends at `end`.
    pub fn log_ends_at(&mut self, end: Offset) {
        self.believed.log_ends_at(end);
    }

    /// The log has no further record below `next`, which is believed. Returns a batch that is complete by that;
    /// deliver it and call this again, until there is none.
    pub fn pass(&mut self, next: Offset) -> Option<Cut> {
        if self.held || self.retry_at().is_some() || self.epochs.is_suspect() {
            // Records were dropped: nothing is passed before they were read again.
            return None;
        }
        let cut = self.batcher.cut_passed(next);
        if cut.is_none() {
            self.passed = Some(next);
            self.read_below(next);
        }
        cut
    }

    /// Cuts the fresh batch being filled as it is.
    pub fn cut_now(&mut self) -> Option<Cut> {
        self.batcher.cut_now()
    }

    /// When the fresh batch being filled has waited long enough.
    pub fn due(&self) -> Option<Instant> {
        self.batcher.due()
    }

    /// The range of the fresh batch being filled, and when it has waited long enough.
    pub fn filling(&self) -> Option<(OffsetRange, Instant)> {
        self.batcher.waiting()
    }

    /// Batches that are begun from now on have these limits.
    pub fn set_limits(&mut self, limits: BatchLimits) {
        self.batcher.set_limits(limits);
    }

    /// How many batches from before are still to be read again.
    pub fn unmade_batches(&self) -> usize {
        self.batcher.unmade_batches()
    }

    /// How many runs of batches from before are not in the queue yet.
    pub fn unmade_runs(&self) -> usize {
        self.batcher.unmade_runs()
    }

    /// Ends the reading: where to go on from. What was being filled, and what was cut and is not in the queue, is
    /// read again then; batches that have an identity keep it.
    pub fn into_resume(self) -> Resume {
        let (position, read) = (self.cursor(), self.epochs.read());
        Resume { position, committed: None, read, stored: self.batcher.into_stored() }
    }

    // Memory.

    /// The bytes of memory that the batch being filled holds.
    pub fn held_bytes(&self) -> usize {
        self.batcher.held()
    }

    /// Memory is short: the batch being filled, or the next one, reserves none to spare.
    pub fn grow_tightly(&mut self) {
        self.batcher.grow_tightly();
    }

    /// Drops the batch being filled if it has memory to spare, to be read again without. True if it did.
    pub fn refill_tightly(&mut self) -> bool {
        let dropped = self.batcher.refill_tightly();
        if dropped {
            self.passed = None;
        }
        dropped
    }

    /// Drops the batch being filled if it is one from before, which cannot be cut as it is.
    pub fn drop_stored_fill(&mut self) {
        if self.batcher.due().is_none() {
            self.drop_fill();
        }
    }

    /// Drops the batch being filled; its records are read again later. True if there was one.
    pub fn drop_fill(&mut self) -> bool {
        self.passed = None;
        self.batcher.drop_fill()
    }

    // The position.

    /// The batch goes into flight, as `runs` runs. `epoch`: the leader epoch of its records, if it is known.
    pub fn register(
        &mut self,
        ledgers: &Ledgers,
        range: OffsetRange,
        runs: usize,
        epoch: Option<Epoch>,
    ) {
        assert!(range.first >= self.reported, "batch {range} lies below {}", self.reported);
        ledgers.register(self.partition, range, runs, epoch);
        self.reported = range.end();
    }

    /// The queue has accepted all runs of the batch.
    pub fn accepted(&mut self, range: OffsetRange) {
        self.batcher.accepted(range);
    }

    /// The queue had no room for runs of the batch: they are read again. Of several such batches the last one
    /// comes first.
    pub fn refused(&mut self, stored: PlannedBatch) {
        self.batcher.refused(stored);
        self.passed = None;
    }

    /// What was cut and not delivered is read again, by another process: the cursor passes nothing.
    pub fn forget_passed(&mut self) {
        self.passed = None;
    }

    /// The log has no record below `beginning` any more.
    pub fn skip_to(&mut self, beginning: Offset) {
        self.batcher.skip_to(beginning);
        self.believed.go_on_at(beginning);
    }

    /// The parts of `range` that no finished batch has, ascending.
    pub fn not_finished(&self, range: OffsetRange) -> Vec<OffsetRange> {
        self.batcher.not_finished(range)
    }

    /// Moves the cursor over what the log showed to be a gap.
    pub fn advance(&mut self) {
        if let Some(passed) = self.passed {
            self.batcher.advance(passed);
        }
    }

    /// Tells the ledger about gaps and finished ranges that the cursor has passed.
    pub fn report(&mut self, ledgers: &Ledgers) {
        self.advance();
        let cursor = self.cursor();
        if cursor > self.reported {
            self.reported = cursor;
            ledgers.advance(self.partition, cursor);
        }
        debug_assert!(self.read_position() >= cursor, "reading goes on behind the cursor");
        debug_assert!(
            cursor == self.reported || self.batcher.has_registered(),
            "cursor {cursor} is below {}, which no batch accounts for",
            self.reported
        );
    }

    // Whether it may be read now.

    /// Whether its records are dropped, because too many of its runs wait for their turn. `is_held` asks the
    /// queue; a batch that is being filled is completed all the same.
    pub fn hold_if(&mut self, is_held: impl FnOnce() -> bool) -> bool {
        if !self.held && self.batcher.held() == 0 {
            self.held = is_held();
        }
        self.held
    }

    /// As `hold_if` said last.
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// Tells the consumer to pause or resume the partition as `held` and its back-off say.
    ///
    /// # Errors
    /// As the consumer's.
    pub fn open_or_close(
        &mut self,
        held: bool,
        now: Instant,
        consumer: &mut dyn Consumer,
    ) -> Result<()> {
        let backs_off = self.retry_at().is_some_and(|at| now < at);
        // Records may have been dropped since the last look, even if nothing holds the partition now: only
        // pausing and resuming brings them again.
        let dropped = self.held || self.retry_at().is_some();
        if (held || dropped) && !self.paused {
            consumer.pause(self.partition)?;
            self.paused = true;
        }
        self.held = held;
        if self.paused && !held && !backs_off {
            if let Some(failing) = &mut self.failing {
                failing.retry_at = None;
            }
            self.resume(consumer)?;
            self.paused = false;
        }
        Ok(())
    }

    /// The consumer goes on at the read position, wherever it is now.
    ///
    /// # Errors
    /// As the consumer's.
    pub fn reposition(&mut self, consumer: &mut dyn Consumer) -> Result<()> {
        if !self.paused {
            consumer.pause(self.partition)?;
            self.resume(consumer)?;
        }
        Ok(())
    }

    fn resume(&mut self, consumer: &mut dyn Consumer) -> Result<()> {
        let position = self.batcher.read_position();
        self.believed.go_on_at(position);
        consumer.resume(self.partition, position)
    }

    // Errors of this partition alone.

    /// The partition could not be read: it pauses, longer after each try, while the others go on. One poisoned
    /// record, or one partition without a leader, would else hold up the whole tick. The cause is logged once,
    /// not at each try.
    pub fn fail(&mut self, error: Error, now: Instant) {
        self.trouble.begin(READING_A_PARTITION, &error.to_string());
        let before = self.failing.take();
        let same = |failing: &Failing| failing.error.unreadable() == error.unreadable();
        let tries = before.filter(same).map_or(0, |failing| failing.tries);
        let pause = limits::SENSOR_BACKOFF.pause(tries, fastrand::f64());
        let retry_at = Some(now + pause);
        self.failing = Some(Failing { error, tries: tries.saturating_add(1), retry_at });
    }

    /// When the partition is to be tried again, if it pauses after an error.
    pub fn retry_at(&self) -> Option<Instant> {
        self.failing.as_ref()?.retry_at
    }

    /// Whether its pause after an error is over at `now`, and the next try has not begun.
    pub fn retry_is_due(&self, now: Instant) -> bool {
        self.retry_at().is_some_and(|at| at <= now)
    }

    /// The next try begins.
    fn begin_retry(&mut self) {
        if let Some(failing) = &mut self.failing {
            failing.retry_at = None;
        }
    }

    /// The error, if it is a record that stayed unreadable at `tries` tries in a row.
    pub fn unreadable_for(&self, tries: u32) -> Option<&Error> {
        let failing = self.failing.as_ref()?;
        (failing.error.unreadable().is_some() && failing.tries >= tries).then_some(&failing.error)
    }

    /// Whether an error is over since this was asked last.
    pub fn recovered(&mut self) -> bool {
        std::mem::take(&mut self.has_recovered)
    }

    /// Every record below `next` was read: an error below it is over.
    fn read_below(&mut self, next: Offset) {
        let Some(failing) = &self.failing else { return };
        if failing.error.unreadable().is_none_or(|(_, unreadable)| unreadable < next) {
            self.failing = None;
            self.has_recovered = true;
            self.trouble.end(READING_A_PARTITION);
        }
    }
}

#[cfg(test)]
mod tests;

//! Turns cut batches into runs: plans them in the history, registers their ranges in the ledger, and pushes them to
//! the run queue.
//!
//! The cuts of one poll, or of a few, are delivered together: each wake-up of the history thread and of a worker
//! costs more than a small batch.

use std::sync::Arc;
use std::time::Instant;

use crate::config::limits;
use crate::history::Planned;
use crate::model::batch::Batch;
use crate::model::budget::Permit;
use crate::model::clock;
use crate::model::lane::lane_of_record;
use crate::model::offset::{Epoch, Lane, OffsetRange, Partition, RunKey};
use crate::model::planned::{PlannedBatch, PlannedRun};
use crate::model::run::{Run, RunId};
use crate::runs::queue::Refused;
use crate::source::batcher::{Cut, Identity};
use crate::source::intake::Intake;
use crate::source::signals::Ended;

/// A batch on its way to the queue, as one run for each part.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub partition: Partition,
    pub stored: PlannedBatch,
    /// The records of each part.
    batches: Vec<Batch>,
    permit: Permit,
    /// The leader epoch of its last record, or a later one.
    epoch: Option<Epoch>,
    records: usize,
    bytes: usize,
}

/// What the queue took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Delivered {
    pub batches: u64,
    pub records: u64,
    pub bytes: u64,
}

impl Outgoing {
    /// Divides a cut, of records of the leader epoch `epoch`, into its parts. A fresh one gets a part for each of
    /// `lanes` lanes that has records; its runs, with the keys that `key` makes, are added to `planned`, and have no
    /// number yet.
    pub fn new(
        partition: Partition,
        (cut, epoch): (Cut, Option<Epoch>),
        lanes: u32,
        key: impl Fn(OffsetRange, Lane) -> RunKey,
        planned: &mut Vec<Planned>,
    ) -> Outgoing {
        let (records, bytes) = (cut.batch.len(), cut.batch.payload_bytes());
        let reading = cut.since.map(|since| clock::now().saturating_duration_since(since));
        let (stored, batches) = match cut.identity {
            Identity::PlannedBatch(stored) => {
                let batches = stored.divide(cut.batch);
                (stored, batches)
            }
            Identity::Fresh(range) => {
                let (lanes, batches) = split_by_key(cut.batch, lanes);
                let part = |(lane, batch): (&Lane, &Batch)| {
                    let key = key(range, *lane);
                    let run = Planned::whole(key, batch.len(), batch.payload_bytes());
                    planned.push(Planned { epoch, reading, ..run });
                    PlannedRun { run: RunId(0), range, lane: *lane, failed_attempts: 0 }
                };
                let parts = lanes.iter().zip(&batches).map(part).collect();
                (PlannedBatch { range, parts, registered: false }, batches)
            }
        };
        Outgoing { partition, stored, batches, permit: cut.permit, epoch, records, bytes }
    }

    /// Gives the parts that have no run number yet the next ones.
    pub fn number(&mut self, runs: &mut impl Iterator<Item = RunId>) {
        for part in self.stored.parts.iter_mut().filter(|part| part.run == RunId(0)) {
            part.run = runs.next().expect("each planned run has a number");
        }
    }

    /// Gives each run to `push`. A run that the queue took is the queue's; if it refuses one, the parts from
    /// that on come back, to be read again.
    pub fn push(
        mut self,
        key: impl Fn(OffsetRange, Lane) -> RunKey,
        mut push: impl FnMut(Run) -> Result<(), Refused>,
    ) -> Result<Delivered, (PlannedBatch, Refused)> {
        let permit = Arc::new(self.permit);
        for (at, batch) in self.batches.into_iter().enumerate() {
            let part = self.stored.parts[at];
            let run = Run {
                id: part.run,
                key: key(part.range, part.lane),
                whole: self.stored.range,
                batch,
                permit: Arc::clone(&permit),
                failed_attempts: part.failed_attempts,
                queued: clock::now(),
                failing: None,
            };
            if let Err(refused) = push(run) {
                self.stored.parts.drain(..at);
                return Err((self.stored, refused));
            }
        }
        Ok(Delivered { batches: 1, records: self.records as u64, bytes: self.bytes as u64 })
    }
}

/// The cuts of one tick.
#[derive(Debug)]
pub(super) struct Delivery {
    /// They become runs at the next `flush`. Each with the leader epoch that its partition is at.
    cuts: Vec<(Partition, Cut, Option<Epoch>)>,
    /// When `cuts` are to be flushed, even if more could join them.
    due: Instant,
    /// How long a run may wait for room in the queue.
    deadline: Instant,
    pub delivered: Delivered,
}

impl Delivery {
    /// For a tick that begins at `now` and is over at `deadline`.
    pub fn new(now: Instant, deadline: Instant) -> Delivery {
        Delivery { cuts: Vec::new(), due: now, deadline, delivered: Delivered::default() }
    }

    /// When cuts are to be flushed, if there are any.
    pub fn due(&self) -> Option<Instant> {
        (!self.cuts.is_empty()).then_some(self.due)
    }

    /// Makes runs of a cut: at once, or soon and together with others.
    ///
    /// # Errors
    /// Why the tick must end: the queue did not take all.
    pub fn add(
        &mut self,
        intake: &mut Intake,
        partition: Partition,
        cut: Cut,
        now: Instant,
    ) -> Result<(), Ended> {
        // A stored batch stays in the batcher until it is accepted, and the cursor must not wait behind it.
        let can_wait = matches!(cut.identity, Identity::Fresh(_))
            && intake.readers.get(partition).is_some_and(|reader| reader.unmade_batches() == 0);
        if self.cuts.is_empty() {
            self.due = now + limits::PLAN_LINGER;
        }
        let reader = intake.readers.get_mut(partition);
        let epoch = reader.and_then(|reader| reader.note_cut(&cut));
        self.cuts.push((partition, cut, epoch));
        let runs = self.cuts.len() * intake.settings.lanes as usize;
        // Runs that the queue has no room for would be planned in vain.
        if can_wait && runs < limits::PLAN_RUNS.min(intake.engine.queue.room()) {
            return Ok(());
        }
        self.flush(intake)
    }

    /// Makes runs of all cuts, in their order.
    ///
    /// # Errors
    /// Why the tick must end: the queue did not take all, or the history has ended.
    pub fn flush(&mut self, intake: &mut Intake) -> Result<(), Ended> {
        if self.cuts.is_empty() {
            return Ok(());
        }
        crate::model::crash::point("cut");
        let Some(mut outgoing) = self.plan(intake) else {
            // The history has ended: the records are read again by the next process.
            intake.readers.iter_mut().for_each(|reader| reader.forget_passed());
            return Err(Ended::Stopping);
        };
        let Intake { readers, engine, .. } = intake;
        for out in outgoing.iter_mut().filter(|out| !out.stored.registered) {
            let reader = readers.get_mut(out.partition).expect("a cut comes from a reader");
            let (range, runs) = (out.stored.range, out.stored.parts.len());
            reader.register(&engine.ledgers, range, runs, out.epoch);
            out.stored.registered = true;
        }
        let pushed = self.push(intake, outgoing);
        intake.engine.queue.wake();
        pushed
    }

    /// Drops the cuts of a partition that is released.
    pub fn drop_cuts_of(&mut self, partition: Partition) {
        self.cuts.retain(|(of, ..)| *of != partition);
    }

    /// Gives fresh cuts the numbers of their runs; `None` if the history has ended.
    fn plan(&mut self, intake: &Intake) -> Option<Vec<Outgoing>> {
        let lanes = intake.settings.lanes;
        let mut planned = Vec::with_capacity(self.cuts.len());
        let outgoing = self.cuts.drain(..).map(|(partition, cut, epoch)| {
            let key = |range, lane| key(intake, partition, range, lane);
            Outgoing::new(partition, (cut, epoch), lanes, key, &mut planned)
        });
        let mut outgoing: Vec<Outgoing> = outgoing.collect();
        if !planned.is_empty() {
            let first = intake.engine.history.plan(planned)?;
            let mut runs = (first.0..).map(RunId);
            outgoing.iter_mut().for_each(|out| out.number(&mut runs));
        }
        Some(outgoing)
    }

    fn push(&mut self, intake: &mut Intake, outgoing: Vec<Outgoing>) -> Result<(), Ended> {
        let mut outgoing = outgoing.into_iter();
        while let Some(out) = outgoing.next() {
            let (partition, range) = (out.partition, out.stored.range);
            let key = |range, lane| key(intake, partition, range, lane);
            let (signals, queue) = (&intake.signals, &intake.engine.queue);
            let goes_on = || signals.interrupts().is_none();
            let push = |run| {
                queue.push_while(run, self.deadline, signals.stop(), (signals.wake(), &goes_on))
            };
            match out.push(key, push) {
                Ok(delivered) => {
                    self.accepted(intake, partition, range, delivered);
                }
                Err((stored, refused)) => {
                    // There is no room for those behind it either.
                    let others = outgoing.map(|out| (out.partition, out.stored));
                    let all: Vec<_> = std::iter::once((partition, stored)).chain(others).collect();
                    for (partition, stored) in all.into_iter().rev() {
                        let reader = intake.readers.get_mut(partition);
                        reader.expect("a cut comes from a reader").refused(stored);
                    }
                    return Err(match refused {
                        Refused::Full => intake.signals.interrupts().unwrap_or(Ended::QueueFull),
                        Refused::Stopping => Ended::Stopping,
                    });
                }
            }
        }
        Ok(())
    }

    fn accepted(
        &mut self,
        intake: &mut Intake,
        partition: Partition,
        range: OffsetRange,
        delivered: Delivered,
    ) {
        let reader = intake.readers.get_mut(partition).expect("a cut comes from a reader");
        reader.accepted(range);
        let Delivered { batches, records, bytes } = delivered;
        self.delivered.batches += batches;
        self.delivered.records += records;
        self.delivered.bytes += bytes;
        intake.engine.live.records_in.add(records);
        intake.engine.live.bytes_in.add(bytes);
    }
}

fn key(intake: &Intake, partition: Partition, range: OffsetRange, lane: Lane) -> RunKey {
    RunKey { lane, ..RunKey::new(Arc::clone(&intake.settings.topic), partition, range) }
}

/// A fresh batch by the lanes of its keys: the lanes that have records, each with its own.
fn split_by_key(batch: Batch, count: u32) -> (Vec<Lane>, Vec<Batch>) {
    if count == 1 {
        return (vec![Lane::WHOLE], vec![batch]);
    }
    let lanes = (0..count).map(|index| Lane { index, count });
    let batches =
        batch.divide(count as usize, |record| Some(lane_of_record(record, count) as usize));
    lanes.zip(batches).filter(|(_, records)| !records.is_empty()).unzip()
}

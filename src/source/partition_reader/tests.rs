//! The reader by itself, and against random sequences of polls, refusals, errors and fresh consumers.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::commit::ledger::Ledger;
use crate::history::Settled;
use crate::model::budget::Budget;
use crate::model::offset::Lane;
use crate::model::planned::PlannedRun;
use crate::model::run::{RunId, RunState};
use crate::source::batcher::{BatchLimits, Identity};

const LIMITS: BatchLimits = BatchLimits {
    max_records: 3,
    max_bytes: 1000,
    max_wait: Duration::from_millis(100),
    batch_overhead: 0,
    record_overhead: 0,
};

fn reader() -> PartitionReader {
    PartitionReader::new(0, Batcher::new(LIMITS, Offset::ZERO, Vec::new()))
}

fn record(offset: i64) -> Record<'static> {
    Record { offset: Offset::new(offset), value: Some(b"v"), ..Record::default() }
}

fn unreadable(offset: i64) -> Error {
    let (topic, cause) = ("orders".to_owned(), "broken".to_owned());
    Error::Unreadable { topic, partition: 0, offset: Offset::new(offset), cause }
}

/// Offers and takes a record; what came of it.
fn offer(reader: &mut PartitionReader, budget: &Arc<Budget>, offset: i64) -> Option<Cut> {
    match reader.offer(&record(offset)) {
        Offer::Done => None,
        Offer::CutFirst(cut) => Some(cut),
        Offer::NeedsMemory => {
            let permit = budget.try_acquire(reader.needs(&record(offset))).unwrap();
            reader.take(record(offset), permit, Instant::now())
        }
        Offer::Doubtful => panic!("offset {offset} is ahead, and nothing proves it"),
    }
}

#[test]
fn a_record_ahead_is_taken_once_the_log_is_known_to_have_it() {
    let budget = Budget::new(1 << 20);
    let mut reader = reader();
    assert!(matches!(reader.offer(&record(4)), Offer::Doubtful));
    assert_eq!(reader.read_position(), Offset::ZERO);
    reader.log_ends_at(Offset::new(6));
    assert!(offer(&mut reader, &budget, 4).is_none());
    assert_eq!(reader.read_position(), Offset::new(5));
    assert!(matches!(reader.offer(&record(0x2020_2020_2020_2020)), Offer::Doubtful));
    assert!(offer(&mut reader, &budget, 5).is_none());
    // The log may have been cut off meanwhile: another consumer, another question.
    reader.begin_reading(Instant::now());
    assert!(matches!(reader.offer(&record(7)), Offer::Doubtful));
}

/// A consumer that does as it is told.
#[derive(Default)]
struct Told(Vec<String>);

impl Consumer for Told {
    fn poll(&mut self, _wait: Duration, _sink: &mut dyn crate::kafka::Sink) -> Result<()> {
        Ok(())
    }

    fn pause(&mut self, partition: Partition) -> Result<()> {
        self.0.push(format!("pause {partition}"));
        Ok(())
    }

    fn resume(&mut self, partition: Partition, from: Offset) -> Result<()> {
        self.0.push(format!("resume {partition} at {from}"));
        Ok(())
    }

    fn close(self: Box<Self>) {}
}

#[test]
fn a_partition_that_fails_drops_its_records_until_its_pause_is_over() {
    let (mut reader, mut consumer, now) = (reader(), Told::default(), Instant::now());
    let budget = Budget::new(1 << 20);
    reader.begin_reading(now);
    assert!(offer(&mut reader, &budget, 0).is_none());
    reader.fail(unreadable(1), now);
    let at = reader.retry_at().expect("it pauses");
    assert!(offer(&mut reader, &budget, 2).is_none());
    assert_eq!(reader.read_position(), Offset::new(1), "the record was dropped");
    reader.open_or_close(false, now, &mut consumer).unwrap();
    reader.open_or_close(false, at, &mut consumer).unwrap();
    assert_eq!(consumer.0, ["pause 0", "resume 0 at 1"]);
    assert_eq!(reader.retry_at(), None);
    assert!(!reader.recovered(), "the record was not read yet");
    offer(&mut reader, &budget, 1);
    assert!(reader.recovered() && !reader.recovered());
}

#[test]
fn tries_of_one_record_are_counted_even_if_those_before_it_are_read_again() {
    let (mut reader, mut now) = (reader(), Instant::now());
    let budget = Budget::new(1 << 20);
    for tries in 1..=3 {
        reader.begin_reading(now);
        offer(&mut reader, &budget, 0);
        assert!(reader.unreadable_for(tries).is_none());
        reader.fail(unreadable(1), now);
        assert_eq!(reader.unreadable_for(tries), Some(&unreadable(1)));
        reader.drop_fill();
        now = reader.retry_at().unwrap();
    }
    reader.fail(unreadable(7), now);
    assert!(reader.unreadable_for(2).is_none(), "it is another record");
}

#[test]
fn pauses_grow_with_each_try_in_a_row() {
    let (mut reader, now) = (reader(), Instant::now());
    let mut pause = || {
        reader.fail(unreadable(1), now);
        reader.retry_at().unwrap() - now
    };
    let (first, longest) = (limits::SENSOR_BACKOFF.first, limits::SENSOR_BACKOFF.longest);
    assert!(pause() <= first);
    let last = (0..20).map(|_| pause()).last().unwrap();
    assert!(last >= longest / 2 && last <= longest);
}

#[test]
fn a_held_partition_is_paused_and_goes_on_where_its_records_were_dropped() {
    let (mut reader, mut consumer, now) = (reader(), Told::default(), Instant::now());
    let budget = Budget::new(1 << 20);
    reader.begin_reading(now);
    assert!(reader.hold_if(|| true));
    // Nothing holds it any more, but records were dropped between the two looks.
    reader.open_or_close(false, now, &mut consumer).unwrap();
    assert_eq!(consumer.0, ["pause 0", "resume 0 at 0"]);
    offer(&mut reader, &budget, 0);
    assert!(!reader.hold_if(|| true), "a batch that is begun is completed");
}

/// A log of `END` offsets, some of which do not exist; what a sensor does with it, and what the ledger
/// knows.
struct Driver {
    exists: Vec<bool>,
    reader: PartitionReader,
    ledgers: Ledgers,
    /// The next offset that the consumer hands over.
    next: i64,
    /// Cuts that are not delivered yet.
    cuts: Vec<Cut>,
    /// Batches on the queue, which may end.
    queued: Vec<OffsetRange>,
    /// How often each offset was in a batch that the queue took.
    runs: Vec<u32>,
}

const END: i64 = 40;

impl Driver {
    fn new(exists: Vec<bool>) -> Driver {
        let ledgers = Ledgers::default();
        ledgers.add(0, Ledger::new(Offset::ZERO, None));
        let mut reader = reader();
        reader.begin_reading(Instant::now());
        let runs = vec![0; END as usize];
        Driver { exists, reader, ledgers, next: 0, cuts: Vec::new(), queued: Vec::new(), runs }
    }

    fn poll(&mut self, records: i64) {
        for _ in 0..records {
            if self.next < END && self.exists[self.next as usize] {
                loop {
                    match self.reader.offer(&record(self.next)) {
                        Offer::Done => break,
                        Offer::CutFirst(cut) => {
                            self.cuts.push(cut);
                            self.deliver_stored();
                        }
                        Offer::NeedsMemory => {
                            let now = Instant::now();
                            let taken = record(self.next);
                            self.cuts.extend(self.reader.take(taken, Permit::nothing(), now));
                            break;
                        }
                        Offer::Doubtful => self.reader.log_ends_at(Offset::new(END)),
                    }
                }
                self.deliver_stored();
            }
            self.next = END.min(self.next + 1);
        }
    }

    fn pass(&mut self) {
        while let Some(cut) = self.reader.pass(Offset::new(self.next)) {
            self.cuts.push(cut);
            self.deliver_stored();
        }
    }

    /// Fresh batches may wait for others; those from before may not.
    fn deliver_stored(&mut self) {
        if self.reader.unmade_batches() > 0 {
            self.deliver(usize::MAX);
        }
    }

    /// The queue takes the first `room` cuts, and refuses the others.
    fn deliver(&mut self, room: usize) {
        let mut refused = Vec::new();
        for (at, cut) in std::mem::take(&mut self.cuts).into_iter().enumerate() {
            let range = cut.range();
            let mut stored = match cut.identity {
                Identity::PlannedBatch(stored) => stored,
                Identity::Fresh(range) => {
                    let lane = Lane::WHOLE;
                    let part = PlannedRun { run: RunId(1), range, lane, failed_attempts: 0 };
                    PlannedBatch { range, parts: vec![part], registered: false }
                }
            };
            if !stored.registered {
                self.reader.register(&self.ledgers, range, 1, None);
                stored.registered = true;
            }
            if at < room {
                self.reader.accepted(range);
                self.queued.push(range);
                for record in cut.batch.records() {
                    self.runs[record.offset.get() as usize] += 1;
                }
            } else {
                refused.push(stored);
            }
        }
        if !refused.is_empty() {
            refused.into_iter().rev().for_each(|stored| self.reader.refused(stored));
            self.fresh_consumer();
        }
    }

    fn fresh_consumer(&mut self) {
        self.deliver(usize::MAX);
        self.next = self.reader.begin_reading(Instant::now() + Duration::from_secs(9)).get();
    }

    /// What must hold after each poll.
    fn check(&mut self) -> Result<(), TestCaseError> {
        self.reader.report(&self.ledgers);
        let reported = self.ledgers.positions()[&0];
        prop_assert_eq!(reported, self.reader.reported);
        prop_assert!(self.reader.read_position() >= self.reader.cursor());
        prop_assert!(self.reader.cursor() <= reported);
        let done = self.reader.cursor().max(self.ledgers.committable()[&0]);
        for offset in 0..done.get() as usize {
            prop_assert_eq!(self.runs[offset], u32::from(self.exists[offset]), "{}", offset);
        }
        Ok(())
    }
}

proptest! {
    /// Whatever the queue refuses, and wherever the partition fails: every record is in one run, the
    /// cursor passes none that is in no run, and the ledger is told exactly what the reader has done.
    #[test]
    fn the_position_never_passes_a_record_that_has_no_run(
        exists in prop::collection::vec(prop::bool::weighted(0.8), END as usize),
        steps in prop::collection::vec((0u8..9, 0i64..7, any::<prop::sample::Index>()), 1..60),
    ) {
        let mut driver = Driver::new(exists);
        for (step, size, pick) in steps {
            match step {
                0..=2 => driver.poll(size),
                3 => driver.pass(),
                4 => driver.deliver(size as usize),
                5 => {
                    driver.cuts.extend(driver.reader.cut_now());
                    driver.deliver(size as usize);
                }
                6 => {
                    driver.deliver(usize::MAX);
                    driver.reader.fail(unreadable(driver.next), Instant::now());
                    driver.poll(size);
                    driver.pass();
                    driver.fresh_consumer();
                }
                7 if !driver.queued.is_empty() => {
                    let batch = driver.queued.remove(pick.index(driver.queued.len()));
                    let state = RunState::Succeeded;
                    driver.ledgers.settle(&[Settled { partition: 0, batch, state }]);
                }
                _ => {
                    driver.deliver(usize::MAX);
                    driver.reader.drop_fill();
                    driver.fresh_consumer();
                }
            }
            driver.check()?;
        }
        driver.fresh_consumer();
        driver.poll(END);
        driver.pass();
        driver.cuts.extend(driver.reader.cut_now());
        driver.deliver(usize::MAX);
        driver.check()?;
        for batch in std::mem::take(&mut driver.queued) {
            driver.ledgers.settle(&[Settled { partition: 0, batch, state: RunState::Succeeded }]);
        }
        prop_assert_eq!(driver.ledgers.committable()[&0], Offset::new(END));
    }
}

//! A tick: one evaluation of a sensor, with a fresh consumer that is polled until the tick is over.
//!
//! The sensor's rhythm is in `sensor`; how batches become runs is in `delivery`, what holds a tick back in
//! `backpressure`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::limits;
use crate::history::{TickRecord, micros};
use crate::kafka::{Consumer, FetchSettings, Flow, Sink};
use crate::model::batch::Record;
use crate::model::budget::Permit;
use crate::model::clock;
use crate::model::error::{Class, Error, Result};
use crate::model::offset::{Epoch, Offset, Partition};
use crate::runs::engine::Engine;
use crate::source::backpressure::{self, NoMemory};
use crate::source::batcher::Cut;
use crate::source::collect::{self, Collector};
use crate::source::delivery::Delivery;
use crate::source::gaps::Gap;
use crate::source::intake::{Intake, Reads};
use crate::source::partition_reader::PartitionReader;
use crate::source::signals::{Ended, SensorCommand};

/// One tick.
pub(super) struct Tick<'a> {
    intake: &'a mut Intake,
    /// The partitions of the consumer; they stay the same for the whole tick.
    reads: Reads,
    delivery: Delivery,
    started: Instant,
    started_ms: i64,
    deadline: Instant,
    /// The time of the last poll.
    now: Instant,
    ended: Option<Ended>,
    /// What ended the tick.
    error: Option<Error>,
    /// The first error of a partition that pauses alone.
    partition_error: Option<Error>,
    /// Partitions that the client cannot read on, each with the offset that it says is out of range.
    missing: Vec<(Partition, Offset)>,
    /// The records of some partition are of another leader epoch than those before: the log is to be asked.
    has_suspects: bool,
    until_caught_up: UntilCaughtUp,
}

/// Whether the target of `--until-caught-up` was read: every record that was in the log at the start.
#[derive(Debug, Default)]
struct UntilCaughtUp {
    /// When the target was found to be read.
    read_at: Option<Instant>,
    /// The first partition whose target was not read when it was last checked.
    unread: Partition,
}

impl<'a> Tick<'a> {
    pub fn new(intake: &'a mut Intake) -> Tick<'a> {
        let started = clock::now();
        let deadline = started + intake.settings.tick_runtime;
        Tick {
            reads: intake.reads(),
            intake,
            delivery: Delivery::new(started, deadline),
            started,
            started_ms: clock::now_ms(),
            deadline,
            now: started,
            ended: None,
            error: None,
            partition_error: None,
            missing: Vec::new(),
            has_suspects: false,
            until_caught_up: UntilCaughtUp::default(),
        }
    }

    /// Reads until the tick is over, and records the tick in the history. Why it ended, and with which error.
    pub fn run(mut self) -> (Ended, Option<Error>) {
        if let Err(error) = self.read() {
            self.fail(error);
        }
        self.finish();
        let ended = self.ended.unwrap_or(Ended::Runtime);
        let (index, delivered) = (self.intake.settings.index, self.delivery.delivered);
        let error = self.error.as_ref().or(self.partition_error.as_ref());
        let record = TickRecord {
            sensor: index,
            started_ms: self.started_ms,
            run_us: micros(clock::now() - self.started),
            records: delivered.records,
            bytes: delivered.bytes,
            batches: delivered.batches,
            ended_by: ended.name(),
            error: error.map(Error::to_string),
        };
        log::debug!(
            "tick of sensor-{index}: {} records in {} batches, ended by {}",
            record.records,
            record.batches,
            record.ended_by
        );
        self.intake.engine.history.tick(record);
        (ended, self.error)
    }

    fn read(&mut self) -> Result<()> {
        self.intake.look_for_changes()?;
        let from = self.intake.assignment(self.started);
        if from.is_empty() {
            // There are more sensors than partitions. A whole tick passes before the topic is asked again.
            if let Some(why) = self.intake.signals.idle_tick(self.intake.settings.tick_runtime) {
                self.end(why);
            }
            return Ok(());
        }
        let topic = Arc::clone(&self.intake.settings.topic);
        let engine = Arc::clone(&self.intake.engine);
        let turn_bytes = backpressure::turn_bytes(&engine, self.intake.settings.limits.max_records);
        let fetch = FetchSettings { turn_bytes, ..self.intake.settings.fetch.clone() };
        let mut consumer = engine.broker.consumer(&topic, &from, &fetch)?;
        let result = self.poll_until_over(consumer.as_mut());
        // Closing the client may take its time: the batches that are cut do not wait for it.
        self.flush();
        consumer.close();
        match result {
            Err(Error::OffsetOutOfRange { partition, offset, .. }) => {
                self.pass_gap(partition, offset)
            }
            result => result,
        }
    }

    fn poll_until_over(&mut self, consumer: &mut dyn Consumer) -> Result<()> {
        loop {
            self.now = clock::now();
            self.look_at_signals(consumer)?;
            if self.now >= self.deadline {
                self.end(Ended::Runtime);
            }
            if self.ended.is_some() {
                return Ok(());
            }
            if self.readers().any(|reader| reader.retry_is_due(self.now)) {
                self.intake.check_log()?;
            }
            let any_held =
                backpressure::open_and_close(self.intake, self.reads, self.now, consumer)?;
            let wait = self.wait(any_held);
            consumer.poll(wait, self)?;
            self.now = clock::now();
            self.pass_gaps(consumer)?;
            self.confirm_epochs(consumer)?;
            self.cut_due();
            let gathers = consumer.has_more() && !self.has_just_read_target();
            if self.delivery.due().is_some_and(|due| !gathers || self.now >= due) {
                self.flush();
            }
            self.intake.report();
        }
    }

    fn look_at_signals(&mut self, consumer: &mut dyn Consumer) -> Result<()> {
        if self.intake.signals.is_stopping() {
            self.end(Ended::Stopping);
        }
        if self.intake.signals.is_paused() {
            self.end(Ended::Paused);
        }
        self.intake.apply_settings();
        while let Some(command) = self.intake.signals.command() {
            match command {
                SensorCommand::Release { partition, done } => {
                    let is_read = self.readers().any(|reader| reader.partition() == partition);
                    self.delivery.drop_cuts_of(partition);
                    // Nobody may be waiting for the answer any more.
                    let _ = done.send(self.intake.release(partition));
                    if is_read && self.ended.is_none() {
                        consumer.pause(partition)?;
                    }
                }
                // A consumer's partitions are fixed: the next tick's reads this one too.
                SensorCommand::Restore { partition } => {
                    self.intake.restore(partition);
                    self.end(Ended::Interrupted);
                }
                SensorCommand::TakeUp { partition, resume } => {
                    self.intake.take_up(partition, resume);
                    self.end(Ended::Interrupted);
                }
            }
        }
        Ok(())
    }

    /// The readers of the partitions that the consumer has.
    fn readers(&self) -> impl Iterator<Item = &PartitionReader> {
        let reads = self.reads;
        self.intake.readers.iter().filter(move |reader| reads.includes(reader.partition()))
    }

    /// How long a poll may wait: until the tick is over, a batch has waited long enough, or a partition is
    /// retried. It wakes now and then to check for a stop.
    fn wait(&mut self, any_held: bool) -> Duration {
        let due = self.readers().filter_map(PartitionReader::due);
        let retries = self.readers().filter_map(PartitionReader::retry_at);
        let all = due.chain(retries).chain(self.delivery.due());
        let until = all.fold(self.deadline, Instant::min);
        let mut wait = until.saturating_duration_since(self.now).min(limits::STOP_LOOK_INTERVAL);
        if any_held {
            wait = wait.min(limits::PARKED_LOOK_INTERVAL);
        }
        if self.has_just_read_target() {
            wait = wait.min(limits::LAST_LOOK_INTERVAL);
        }
        wait
    }

    /// Whether the target of `--until-caught-up` was read a moment ago. mb then ends in another moment, unless the
    /// last runs take long, so polls are short.
    fn has_just_read_target(&mut self) -> bool {
        if !self.intake.settings.until_caught_up {
            return false;
        }
        let found = &mut self.until_caught_up;
        if let Some(since) = found.read_at {
            return self.now.saturating_duration_since(since) < limits::LAST_LOOKS;
        }
        // Within a tick no partition goes back, because a refused batch ends the tick. So a partition whose target
        // was read need not be checked again.
        let Intake { readers, engine, .. } = &*self.intake;
        while found.unread < readers.numbers() {
            if let Some(reader) = readers.get(found.unread)
                && !engine.ledgers.covers_target(found.unread, reader.read_position())
            {
                return false;
            }
            found.unread += 1;
        }
        found.read_at = Some(self.now);
        true
    }

    /// Cuts the batches that have waited long enough.
    fn cut_due(&mut self) {
        for partition in 0..self.intake.readers.numbers() {
            let Intake { readers, engine, settings, .. } = &mut *self.intake;
            let Some(reader) = readers.get_mut(partition) else { continue };
            let Some((range, due)) = reader.filling() else { continue };
            // If mb ends at what was there at the start, no record is worth waiting for.
            let is_last = settings.until_caught_up && engine.ledgers.ends_target(partition, range);
            if (is_last || due <= self.now)
                && let Some(cut) = reader.cut_now()
            {
                self.deliver(partition, cut);
            }
        }
    }

    /// Goes on behind offsets that the log does not have any more.
    fn pass_gaps(&mut self, consumer: &mut dyn Consumer) -> Result<()> {
        for (partition, offset) in std::mem::take(&mut self.missing) {
            match self.pass_gap(partition, offset) {
                Err(error) if error.class() == Class::Retry => self.pause(partition, error),
                passed => passed?,
            }
            if let Some(reader) = self.intake.readers.get_mut(partition) {
                reader.reposition(consumer)?;
            }
        }
        Ok(())
    }

    fn pass_gap(&mut self, partition: Partition, offset: Offset) -> Result<()> {
        // If the queue refuses what was read before the gap, that is read again, and the gap found again.
        if self.flush() == Flow::Stop || self.ended.is_some() {
            return Ok(());
        }
        self.intake.check_log()?;
        let Some(reader) = self.intake.readers.get(partition) else { return Ok(()) };
        let gap = Gap::find(self.intake, reader, offset)?;
        if self.cut_now(partition) == Flow::Continue && self.flush() == Flow::Continue {
            gap.skip(self.intake);
            collect::passed(self, partition, gap.beginning);
            self.intake.report();
        }
        Ok(())
    }

    /// Takes partitions up again whose records are of another leader epoch than those before: once the log has said
    /// that it still has those before. A log that was cut off and has grown since would be read on in the middle.
    fn confirm_epochs(&mut self, consumer: &mut dyn Consumer) -> Result<()> {
        if !std::mem::take(&mut self.has_suspects) {
            return Ok(());
        }
        let readers = self.intake.readers.iter().filter(|reader| reader.retry_at().is_none());
        let asked: Vec<_> =
            readers.filter_map(|one| Some((one.partition(), one.suspect()?))).collect();
        for (partition, answer) in self.intake.ask_for_cuts(&asked)? {
            if let Err(error) = answer {
                self.pause(partition, error);
                continue;
            }
            // So that no fresh batch has records of two epochs.
            if self.cut_now(partition) == Flow::Stop {
                return Ok(());
            }
            if let Some(reader) = self.intake.readers.get_mut(partition) {
                reader.is_still_there(None);
                reader.reposition(consumer)?;
            }
        }
        Ok(())
    }

    /// The end of the tick: the batches being filled are cut as they are, as far as the queue has room. After
    /// an error too, or their records would wait until the broker is back.
    fn finish(&mut self) {
        let error = self.error.as_ref().map(Error::class);
        let is_over = matches!(self.ended, None | Some(Ended::Runtime | Ended::Paused));
        if is_over || error == Some(Class::Retry) {
            for partition in 0..self.intake.readers.numbers() {
                self.cut_now(partition);
            }
        }
        self.flush();
        self.intake.report();
        // A partition that was read alone and holds nothing more makes way for the others.
        if self.ended != Some(Ended::MemoryFull)
            && let Some(alone) = self.intake.alone
            && self.intake.readers.get(alone).is_none_or(|reader| reader.held_bytes() == 0)
        {
            self.intake.alone = None;
        }
    }

    fn cut_now(&mut self, partition: Partition) -> Flow {
        let cut = self.intake.readers.get_mut(partition).and_then(|reader| reader.cut_now());
        cut.map_or(Flow::Continue, |cut| self.deliver(partition, cut))
    }

    fn flush(&mut self) -> Flow {
        match self.delivery.flush(self.intake) {
            Ok(()) => Flow::Continue,
            Err(why) => self.end(why),
        }
    }

    /// One partition cannot be read. The batch being filled goes on its way, since it cannot grow for now; the
    /// other partitions go on.
    fn pause(&mut self, partition: Partition, error: Error) {
        self.cut_now(partition);
        self.partition_error.get_or_insert_with(|| error.clone());
        self.intake.fail(partition, error, self.now);
        // This tick's consumer has no other partition: the next one reads those that can be read.
        if self.reads == Reads::Alone(partition) {
            self.end(Ended::Interrupted);
        }
    }

    fn fail(&mut self, error: Error) {
        self.end(Ended::Error);
        self.error.get_or_insert(error);
    }

    fn end(&mut self, why: Ended) -> Flow {
        self.ended.get_or_insert(why);
        Flow::Stop
    }

    /// Whether the tick goes on.
    fn flow(&self) -> Flow {
        if self.ended.is_some() { Flow::Stop } else { Flow::Continue }
    }
}

impl Collector for Tick<'_> {
    fn engine(&self) -> &Arc<Engine> {
        &self.intake.engine
    }

    fn reader(&mut self, partition: Partition) -> Option<&mut PartitionReader> {
        self.intake.readers.get_mut(partition)
    }

    fn memory(&mut self, partition: Partition, record: &Record<'_>) -> Result<Permit, Flow> {
        let Tick { intake, delivery, deadline, .. } = self;
        match backpressure::memory(intake, delivery, partition, record, *deadline) {
            Ok(permit) => Ok(permit),
            Err(NoMemory::Ends(why)) => Err(self.end(why)),
            Err(NoMemory::TooLarge(error)) => {
                self.pause(partition, error);
                Err(self.flow())
            }
        }
    }

    fn deliver(&mut self, partition: Partition, cut: Cut) -> Flow {
        match self.delivery.add(self.intake, partition, cut, self.now) {
            Ok(()) => Flow::Continue,
            Err(why) => self.end(why),
        }
    }

    fn completed(&mut self, partition: Partition, cut: Cut) -> Flow {
        let flow = self.deliver(partition, cut);
        if self.intake.alone == Some(partition) {
            self.intake.alone = None;
            return self.end(Ended::MemoryFull);
        }
        flow
    }

    fn now(&self) -> Instant {
        self.now
    }
}

impl Sink for Tick<'_> {
    fn record(&mut self, partition: Partition, record: Record<'_>) -> Flow {
        if self.ended.is_some() {
            return Flow::Stop;
        }
        let queue = &self.intake.engine.queue;
        if queue.is_ordered()
            && let Some(reader) = self.intake.readers.get_mut(partition)
            && reader.hold_if(|| queue.is_held(partition, false))
        {
            return Flow::Continue;
        }
        collect::record(self, partition, record)
    }

    fn epoch(&mut self, partition: Partition, epoch: Epoch) {
        if self.ended.is_none()
            && let Some(reader) = self.intake.readers.get_mut(partition)
        {
            self.has_suspects |= reader.epoch(epoch);
        }
    }

    fn position(&mut self, partition: Partition, next: Offset) {
        if self.ended.is_none() {
            collect::passed(self, partition, next);
        }
    }

    fn failed(&mut self, partition: Partition, error: Error) -> Flow {
        if self.ended.is_some() {
            return Flow::Stop;
        }
        match collect::believable(self, partition, error) {
            Error::OffsetOutOfRange { offset, .. } => {
                self.missing.push((partition, offset));
                // The topic may have been deleted and created again. Look at it first: the other partitions
                // would read the new topic's records under the old one's offsets.
                return Flow::Stop;
            }
            error if error.class() == Class::Retry => self.pause(partition, error),
            error => self.fail(error),
        }
        self.flow()
    }
}

//! A sensor: ticks, each with a fresh consumer, that turn what is new in the topic into runs on
//! the run queue.
//!
//! The cursors live in the batchers, here, in memory; what makes a batch is decided there. This
//! file owns the tick: its consumer, its time, its errors. How cuts become runs is in `deliver`.

mod deliver;
mod memory;
mod missing;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::commit::ledger::Ledger;
use crate::config::OnMissingOffsets;
use crate::config::limits;
use crate::config::steering::{Next, Orders};
use crate::history::recovery::Resume;
use crate::history::{Planned, TickRecord};
use crate::kafka::{Consumer, FetchSettings, Flow, Sink};
use crate::model::batch::{Batch, Record};
use crate::model::budget::Permit;
use crate::model::clock;
use crate::model::error::{Class, Error, Result};
use crate::model::events::Event;
use crate::model::lane::lane_of_record;
use crate::model::live::Trouble;
use crate::model::offset::{Lane, Offset, OffsetRange, Partition, RunKey};
use crate::model::run::{Run, RunId};
use crate::model::stored::{Part, Stored};
use crate::model::thread::stopped_within;
use crate::runs::engine::Engine;
use crate::runs::queue::{Refused, RunQueue};
use crate::source::batcher::{BatchLimits, Batcher, Cut, Identity};

/// What a sensor is told once.
#[derive(Clone, Debug)]
pub struct SensorSettings {
    /// This sensor's number, and how many there are: it has the partitions whose number leaves
    /// `index` when divided by `count`.
    pub index: usize,
    pub count: usize,
    pub limits: BatchLimits,
    pub fetch: FetchSettings,
    pub tick_runtime: Duration,
    /// Into how many lanes a partition's keys are split.
    pub lanes: u32,
    pub on_missing_offsets: OnMissingOffsets,
    /// A record that stays unreadable is an end.
    pub until_caught_up: bool,
    pub topic: Arc<str>,
    /// The topic's id at the start; another one under the same name is another topic.
    pub topic_id: Option<String>,
}

impl SensorSettings {
    /// The settings of the sensor with this number.
    pub fn of(engine: &Engine, index: usize) -> SensorSettings {
        let config = &engine.config;
        SensorSettings {
            index,
            count: config.sensors,
            limits: BatchLimits {
                max_records: config.max_batch,
                max_bytes: config.max_batch_bytes,
                max_wait: config.max_wait,
                batch_overhead: config.batch_overhead_bytes(),
                record_overhead: config.record_overhead_bytes(),
            },
            fetch: FetchSettings {
                min_bytes: config.fetch_min_bytes,
                max_record_bytes: config.queue_bytes,
                isolation: config.isolation,
            },
            tick_runtime: config.tick_runtime,
            lanes: config.lane_count(),
            on_missing_offsets: config.on_missing_offsets,
            until_caught_up: config.until_caught_up,
            topic: Arc::clone(&engine.topic_name),
            topic_id: engine.topic.id.clone(),
        }
    }
}

pub struct Sensor {
    pub settings: SensorSettings,
    pub engine: Arc<Engine>,
    pub stop: Receiver<()>,
    /// Pauses, requested ticks, settings that change.
    orders: Orders,
    /// By partition number; `None` where it is another sensor's.
    slots: Vec<Option<Slot>>,
    /// Partitions that had no leader at the start, nor an offset of the group.
    late_starts: BTreeMap<Partition, LateStart>,
    /// Ticks so far: each puts another partition first.
    turn: usize,
    /// The next tick reads this partition alone: a range from before needs all the memory.
    alone: Option<Partition>,
}

/// Where a partition starts whose offsets could not be asked for at the start of mb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LateStart {
    Beginning,
    End,
}

/// One partition in a sensor's care.
#[derive(Debug)]
struct Slot {
    batcher: Batcher,
    /// The cursor that the ledger knows.
    told: Offset,
    /// In this tick: all that the log has below it was handed over.
    passed: Option<Offset>,
    /// Nothing of it is taken for now: too many of its runs wait behind others of their lane.
    held: bool,
    /// The consumer knows it.
    paused: bool,
}

impl Slot {
    /// Whether a record of it may be taken: one that would begin a batch may not where too much of
    /// the partition waits already.
    fn is_held(&mut self, partition: Partition, queue: &RunQueue) -> bool {
        if !self.held && self.batcher.held() == 0 {
            self.held = queue.is_held(partition, false);
        }
        self.held
    }
}

/// Why a tick ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Runtime,
    QueueFull,
    MemoryFull,
    /// Somebody has paused the sensors.
    Paused,
    Stopping,
    Error,
}

impl Ended {
    fn name(self) -> &'static str {
        match self {
            Ended::Runtime => "runtime",
            Ended::QueueFull => "queue-full",
            Ended::MemoryFull => "memory-full",
            Ended::Paused => "paused",
            Ended::Stopping => "stop",
            Ended::Error => "error",
        }
    }
}

/// One tick's state and figures.
struct Tick<'a> {
    sensor: &'a mut Sensor,
    deadline: Instant,
    now: Instant,
    ended: Option<Ended>,
    error: Option<Error>,
    /// Why a partition could not be read on: it ends the tick.
    failed: Option<Error>,
    /// When all that `--until-caught-up` is to do was read; before that, the first slot of which it is
    /// not known.
    read_out: Option<Instant>,
    unread: usize,
    /// What is to become runs at the next `flush`.
    cuts: Vec<(Partition, Cut)>,
    /// When they are to go, however much more there is.
    gathered: Instant,
    records: u64,
    bytes: u64,
    batches: u64,
}

const WHAT: &str = "reading the topic";

impl Sensor {
    /// The sensor of this number; it stops when `stop` is closed.
    pub fn new(index: usize, engine: &Arc<Engine>, stop: Receiver<()>) -> Sensor {
        Sensor {
            settings: SensorSettings::of(engine, index),
            stop,
            orders: engine.steering.listen(),
            engine: Arc::clone(engine),
            slots: Vec::new(),
            late_starts: BTreeMap::new(),
            turn: 0,
            alone: None,
        }
    }

    /// Takes a partition on, where it goes on from.
    pub fn adopt(&mut self, partition: Partition, resume: Resume) {
        let index = usize::try_from(partition).expect("partition numbers are not negative");
        self.engine.ledgers.add(partition, Ledger::new(resume.position, resume.committed));
        let batcher = Batcher::new(self.settings.limits, resume.position, resume.stored);
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        self.slots[index] =
            Some(Slot { batcher, told: resume.position, passed: None, held: false, paused: false });
    }

    /// Says where a partition starts that has no leader yet: it is adopted at the first tick at which it has
    /// one.
    pub fn start_late(&mut self, partition: Partition, at: LateStart) {
        self.late_starts.insert(partition, at);
    }

    /// Ticks until `stop` is closed.
    pub fn run(mut self) {
        let trouble = Trouble::default();
        let who = format!("sensor-{}", self.settings.index);
        let mut failures = 0;
        let mut unreadable = BTreeMap::<_, u32>::new();
        // The first tick begins at once, unless the sensors are paused.
        let mut pause = Some(Duration::ZERO);
        loop {
            if self.orders.next_tick(&self.stop, clock::now(), pause) == Next::Stop {
                return;
            }
            let error = self.tick();
            let tries = error.as_ref().and_then(Error::unreadable).map_or(0, |at| {
                let tries = unreadable.entry(at).or_default();
                *tries += 1;
                *tries
            });
            self.engine.live.ticks.add(1);
            pause = match error {
                None => {
                    trouble.end(WHAT);
                    self.engine.live.troubles.end(&who);
                    failures = 0;
                    None
                }
                // Whoever waits for the end would wait for ever; but what can be done is done first.
                Some(error)
                    if self.settings.until_caught_up
                        && tries >= limits::UNREADABLE_TRIES
                        && self.is_idle() =>
                {
                    let _ = self.engine.events.try_send(Event::Halt(error));
                    return;
                }
                Some(error) if error.class() == Class::Retry => {
                    trouble.begin(WHAT, &error.to_string());
                    self.engine.live.troubles.begin(&who, WHAT, &error.to_string());
                    failures += 1;
                    Some(limits::SENSOR_BACKOFF.pause(failures, fastrand::f64()))
                }
                Some(error) => {
                    // Full: another end is on its way already.
                    let _ = self.engine.events.try_send(Event::Halt(error));
                    return;
                }
            };
        }
    }

    /// One evaluation: consumer, polls, cuts; then its record in the history. `run` repeats it.
    pub fn tick(&mut self) -> Option<Error> {
        let started = clock::now();
        let started_ms = clock::now_ms();
        let index = self.settings.index;
        let mut tick = Tick {
            deadline: started + self.settings.tick_runtime,
            sensor: self,
            now: started,
            ended: None,
            error: None,
            failed: None,
            read_out: None,
            unread: 0,
            cuts: Vec::new(),
            gathered: started,
            records: 0,
            bytes: 0,
            batches: 0,
        };
        if let Err(error) = tick.read() {
            tick.end(Ended::Error);
            tick.error.get_or_insert(error);
        }
        tick.finish();
        let (ended, error) = (tick.ended.unwrap_or(Ended::Runtime), tick.error.take());
        let record = TickRecord {
            sensor: index,
            started_ms,
            run_us: i64::try_from((clock::now() - started).as_micros()).unwrap_or(i64::MAX),
            records: tick.records,
            bytes: tick.bytes,
            batches: tick.batches,
            ended_by: ended.name(),
            error: error.as_ref().map(Error::to_string),
        };
        log::debug!(
            "tick of sensor-{index}: {} records in {} batches, ended by {}",
            record.records,
            record.batches,
            record.ended_by
        );
        self.engine.history.tick(record);
        error
    }

    /// Nothing is being filled, and no run is under way.
    fn is_idle(&self) -> bool {
        let mut slots = self.slots.iter().flatten();
        self.engine.ledgers.in_flight() == 0 && slots.all(|slot| slot.batcher.held() == 0)
    }

    fn is_mine(&self, partition: Partition) -> bool {
        usize::try_from(partition).is_ok_and(|p| p % self.settings.count == self.settings.index)
    }

    fn slot(&mut self, partition: Partition) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(partition).ok()?)?.as_mut()
    }

    fn slots(&mut self) -> impl Iterator<Item = (Partition, &mut Slot)> {
        let slots = self.slots.iter_mut().enumerate();
        slots.filter_map(|(index, slot)| Some((index as Partition, slot.as_mut()?)))
    }

    /// Sees partitions that were added, which start at their beginning whatever `--from` says, and
    /// a topic that was made again.
    fn look_for_changes(&mut self) -> Result<()> {
        let topic = Arc::clone(&self.settings.topic);
        let info = self.engine.broker.topic(&topic)?;
        info.check_id(self.settings.topic_id.as_deref())?;
        let added: Vec<Partition> = info
            .partitions
            .into_iter()
            .filter(|partition| self.is_mine(*partition) && self.slot(*partition).is_none())
            .collect();
        if added.is_empty() {
            return Ok(());
        }
        for (partition, watermarks) in self.engine.broker.watermarks(&topic, &added)? {
            let watermarks = match watermarks {
                Ok(watermarks) => watermarks,
                // The next tick asks again; the other partitions do not wait for this one's leader.
                Err(Error::NoLeader { .. }) => continue,
                Err(error) => return Err(error),
            };
            let position = match self.late_starts.remove(&partition) {
                Some(LateStart::End) => watermarks.end,
                Some(LateStart::Beginning) | None => watermarks.beginning,
            };
            log::info!("partition {topic}/{partition} is new: reading it from offset {position}");
            self.engine.history.start_partition(partition, position);
            self.adopt(partition, Resume { position, committed: None, stored: Vec::new() });
        }
        Ok(())
    }

    /// Settings that were changed count from here on.
    fn obey(&mut self) {
        let max_records = self.orders.settings().max_batch;
        if max_records != self.settings.limits.max_records {
            self.settings.limits.max_records = max_records;
            self.slots().for_each(|(_, slot)| slot.batcher.set_max_records(max_records));
        }
    }

    /// Where each partition's fresh consumer starts. Clients read in this order, and with a backlog a
    /// tick may get no further than the first one: so each tick begins with another.
    fn assignment(&mut self) -> Vec<(Partition, Offset)> {
        let alone = self.alone;
        let mine = self.slots().filter(|(partition, _)| alone.is_none_or(|p| p == *partition));
        let mut from: Vec<_> = mine
            .map(|(partition, slot)| {
                slot.passed = None;
                (slot.held, slot.paused) = (false, false);
                slot.batcher.skip_finished();
                (partition, slot.batcher.read_position())
            })
            .collect();
        if !from.is_empty() {
            let first = self.turn % from.len();
            from.rotate_left(first);
        }
        self.turn = self.turn.wrapping_add(1);
        from
    }
}

impl Tick<'_> {
    fn read(&mut self) -> Result<()> {
        self.sensor.look_for_changes()?;
        let from = self.sensor.assignment();
        if from.is_empty() {
            // More sensors than partitions: this one waits its tick out for new ones.
            let limit = self.sensor.settings.tick_runtime;
            if self.sensor.orders.idle_tick(&self.sensor.stop, limit) == Next::Stop {
                self.end(Ended::Stopping);
            } else if self.sensor.orders.ends_tick() {
                self.end(Ended::Paused);
            }
            return Ok(());
        }
        let topic = Arc::clone(&self.sensor.settings.topic);
        let mut consumer =
            self.sensor.engine.broker.consumer(&topic, &from, &self.sensor.settings.fetch)?;
        let result = self.poll_until_over(consumer.as_mut());
        // What was cut does not wait for the client's end, which may take its time.
        self.flush();
        consumer.close();
        result.or_else(|error| self.missing(error))
    }

    fn poll_until_over(&mut self, consumer: &mut dyn Consumer) -> Result<()> {
        loop {
            self.now = clock::now();
            if stopped_within(&self.sensor.stop, Duration::ZERO) {
                self.end(Ended::Stopping);
            }
            if self.sensor.orders.ends_tick() {
                self.end(Ended::Paused);
            }
            self.sensor.obey();
            if self.ended.is_some() {
                return Ok(());
            }
            if self.now >= self.deadline {
                self.end(Ended::Runtime);
                return Ok(());
            }
            let held = self.hold_back(consumer)?;
            let wait = self.wait();
            let wait = if held { wait.min(limits::PARKED_LOOK_INTERVAL) } else { wait };
            let wait =
                if self.is_at_its_end() { wait.min(limits::LAST_LOOK_INTERVAL) } else { wait };
            consumer.poll(wait, self)?;
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            self.now = clock::now();
            self.cut_due();
            let waits = consumer.has_more() && self.now < self.gathered && !self.is_at_its_end();
            if !waits {
                self.flush();
            }
            self.tell_ledgers();
        }
    }

    /// Stops reading partitions of which too much waits for its turn, and goes on with those of which
    /// little does by now. True where one is held.
    fn hold_back(&mut self, consumer: &mut dyn Consumer) -> Result<bool> {
        let queue = Arc::clone(&self.sensor.engine.queue);
        if !queue.is_ordered() {
            return Ok(false);
        }
        let mut any = false;
        let alone = self.sensor.alone;
        for (partition, slot) in self.sensor.slots().filter(|(p, _)| alone.is_none_or(|a| a == *p))
        {
            let held = queue.is_held(partition, slot.held);
            if (held || slot.held) && !slot.paused {
                consumer.pause(partition)?;
                slot.paused = true;
            }
            if slot.paused && !held {
                // Records may have been dropped between the two: they come again.
                consumer.resume(partition, slot.batcher.read_position())?;
                slot.paused = false;
            }
            slot.held = held;
            any |= held;
        }
        Ok(any)
    }

    /// All that `--until-caught-up` is to do was read a moment ago: mb ends in another, unless the last
    /// runs take long.
    fn is_at_its_end(&mut self) -> bool {
        if !self.sensor.settings.until_caught_up {
            return false;
        }
        if let Some(since) = self.read_out {
            return self.now.saturating_duration_since(since) < limits::LAST_LOOKS;
        }
        // In a tick nothing is read twice: what is refused ends it.
        let (slots, ledgers) = (&self.sensor.slots, &self.sensor.engine.ledgers);
        while let Some(slot) = slots.get(self.unread) {
            if let Some(slot) = slot
                && !ledgers.covers_target(self.unread as Partition, slot.batcher.read_position())
            {
                return false;
            }
            self.unread += 1;
        }
        self.read_out = Some(self.now);
        true
    }

    /// How long a poll may wait: until the tick is over or a batch has waited long enough; a
    /// stop is looked for now and then.
    fn wait(&mut self) -> Duration {
        let due = self.sensor.slots().filter_map(|(_, slot)| slot.batcher.due()).min();
        let gathered = (!self.cuts.is_empty()).then_some(self.gathered);
        let until = due.into_iter().chain(gathered).fold(self.deadline, Instant::min);
        until.saturating_duration_since(self.now).min(limits::STOP_LOOK_INTERVAL)
    }

    fn cut_due(&mut self) {
        for index in 0..self.sensor.slots.len() {
            let now = self.now;
            let Some(slot) = &mut self.sensor.slots[index] else { continue };
            let Some((range, due)) = slot.batcher.waiting() else { continue };
            // Where mb ends at what was there, nothing follows that is worth waiting for.
            let is_last = self.sensor.settings.until_caught_up
                && self.sensor.engine.ledgers.ends_target(index as Partition, range);
            if (is_last || due <= now)
                && let Some(cut) = slot.batcher.cut_now()
            {
                self.deliver(index as Partition, cut);
            }
        }
    }

    /// The tick ends: what is being filled becomes batches as it is, where the queue has room. Behind
    /// an error too, or it would wait for a record that cannot be read.
    fn finish(&mut self) {
        let error = self.error.as_ref().map(Error::class);
        let is_over = matches!(self.ended, Some(Ended::Runtime | Ended::Paused));
        if is_over || error == Some(Class::Retry) {
            for index in 0..self.sensor.slots.len() {
                let Some(slot) = &mut self.sensor.slots[index] else { continue };
                if let Some(cut) = slot.batcher.cut_now() {
                    self.deliver(index as Partition, cut);
                }
            }
        }
        self.flush();
        self.tell_ledgers();
        // Who was read alone has nothing half read any more: the others' turn.
        if self.ended != Some(Ended::MemoryFull)
            && let Some(alone) = self.sensor.alone
            && self.sensor.slot(alone).is_none_or(|slot| slot.batcher.held() == 0)
        {
            self.sensor.alone = None;
        }
    }

    /// Cursors that moved past gaps and finished ranges are told to the ledgers.
    fn tell_ledgers(&mut self) {
        let ledgers = Arc::clone(&self.sensor.engine.ledgers);
        for (partition, slot) in self.sensor.slots() {
            if let Some(passed) = slot.passed {
                slot.batcher.advance(passed);
            }
            if slot.batcher.cursor() > slot.told {
                slot.told = slot.batcher.cursor();
                ledgers.advance(partition, slot.told);
            }
        }
    }

    fn end(&mut self, why: Ended) -> Flow {
        self.ended.get_or_insert(why);
        Flow::Stop
    }
}

impl Sink for Tick<'_> {
    fn record(&mut self, partition: Partition, record: Record<'_>) -> Flow {
        if self.ended.is_some() {
            return Flow::Stop;
        }
        if self.sensor.engine.queue.is_ordered() {
            let queue = Arc::clone(&self.sensor.engine.queue);
            if self.sensor.slot(partition).is_none_or(|slot| slot.is_held(partition, &queue)) {
                return Flow::Continue;
            }
        }
        loop {
            let Some(slot) = self.sensor.slot(partition) else { return Flow::Continue };
            if slot.batcher.take_at_once(&record) {
                return Flow::Continue;
            }
            match slot.batcher.cut_before(record.offset, record.payload_bytes()) {
                Some(cut) => {
                    if self.deliver(partition, cut) == Flow::Stop {
                        return Flow::Stop;
                    }
                }
                None if slot.batcher.wants(record.offset) => break,
                None => return Flow::Continue,
            }
        }
        let Some(permit) = self.memory(partition, &record) else { return Flow::Stop };
        let now = self.now;
        let Some(slot) = self.sensor.slot(partition) else { return Flow::Continue };
        slot.batcher.take(record, permit, now);
        match slot.batcher.cut_if_full() {
            Some(cut) => {
                let flow = self.deliver(partition, cut);
                if self.sensor.alone == Some(partition) {
                    self.sensor.alone = None;
                    return self.end(Ended::MemoryFull);
                }
                flow
            }
            None => Flow::Continue,
        }
    }

    fn position(&mut self, partition: Partition, next: Offset) {
        while self.ended.is_none() {
            // A held partition's records were not taken: nothing is passed.
            let Some(slot) = self.sensor.slot(partition).filter(|slot| !slot.held) else { return };
            match slot.batcher.cut_passed(next) {
                Some(cut) => {
                    self.deliver(partition, cut);
                }
                None => {
                    slot.passed = Some(next);
                    return;
                }
            }
        }
    }
    fn failed(&mut self, _partition: Partition, error: Error) -> Flow {
        self.failed.get_or_insert(error);
        Flow::Continue
    }
}

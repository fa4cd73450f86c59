//! What a sensor keeps from tick to tick: the readers of its partitions, and which of them are released, have no
//! leader yet, or are read alone. Ticks are in `tick`, their rhythm in `sensor`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::commit::ledger::Ledger;
use crate::config::OnMissingOffsets;
use crate::config::limits;
use crate::config::steering::Settings;
use crate::history::recovery::Resume;
use crate::kafka::{FetchSettings, PerPartition, TopicInfo, Watermarks};
use crate::model::error::{Class, Error, Result, beyond_text, cut_text};
use crate::model::live::{READING_A_PARTITION, Trouble};
use crate::model::offset::{LastRead, Offset, OffsetRange, Partition};
use crate::runs::engine::Engine;
use crate::source::batcher::{BatchLimits, Batcher};
use crate::source::partition_reader::PartitionReader;
use crate::source::readers::Readers;
use crate::source::signals::{Released, SensorCommand, Signals};

/// The settings of one sensor. A running sensor changes `limits.max_records` alone.
#[derive(Clone, Debug)]
pub struct SensorSettings {
    /// This sensor's number.
    pub index: usize,
    /// How many sensors there are: this one reads the partitions whose number modulo `count` is `index`.
    pub count: usize,
    pub limits: BatchLimits,
    pub fetch: FetchSettings,
    pub tick_runtime: Duration,
    /// How many lanes the keys of a partition are divided into.
    pub lanes: u32,
    pub on_missing_offsets: OnMissingOffsets,
    /// mb ends once it has caught up, so a record that stays unreadable ends it too.
    pub until_caught_up: bool,
    pub topic: Arc<str>,
    /// The topic's id at the start; another id under the same name is another topic.
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
                turn_bytes: None,
            },
            tick_runtime: config.tick_runtime,
            lanes: config.lane_count(),
            on_missing_offsets: config.on_missing_offsets,
            until_caught_up: config.until_caught_up,
            topic: Arc::clone(&engine.topic_name),
            topic_id: engine.topic.id.clone(),
        }
    }

    fn is_mine(&self, partition: Partition) -> bool {
        usize::try_from(partition).is_ok_and(|number| number % self.count == self.index)
    }
}

/// Where a partition starts whose offsets could not be asked for when mb started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LateStart {
    Beginning,
    End,
}

/// The partitions that a tick's consumer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reads {
    /// All that the sensor had when the tick began.
    All,
    Alone(Partition),
}

impl Reads {
    pub fn includes(self, partition: Partition) -> bool {
        matches!(self, Reads::All) || self == Reads::Alone(partition)
    }
}

/// A sensor's state between ticks.
pub(super) struct Intake {
    pub settings: SensorSettings,
    pub engine: Arc<Engine>,
    pub signals: Signals,
    /// The partitions that it reads.
    pub readers: Readers,
    /// Released partitions, which are not read until they are restored or taken up, each with where it would go on.
    released: BTreeMap<Partition, Option<Resume>>,
    /// Partitions that must not be read, each with the reason.
    unread: BTreeMap<Partition, String>,
    /// Where partitions start that had no leader when mb started, nor an offset of the group.
    late_starts: BTreeMap<Partition, LateStart>,
    /// Partitions that cannot be started yet, for want of a leader.
    waiting: BTreeMap<Partition, Trouble>,
    /// The next tick reads this partition alone. Stored ranges cannot be cut short, so those of several partitions,
    /// each half read, could hold all the memory and wait for each other for ever.
    pub alone: Option<Partition>,
    /// How many ticks there were. Each tick reads another partition first.
    turn: usize,
}

impl Intake {
    pub fn new(settings: SensorSettings, engine: Arc<Engine>, signals: Signals) -> Intake {
        Intake {
            settings,
            engine,
            signals,
            readers: Readers::default(),
            released: BTreeMap::new(),
            unread: BTreeMap::new(),
            late_starts: BTreeMap::new(),
            waiting: BTreeMap::new(),
            alone: None,
            turn: 0,
        }
    }

    /// Reads the partition from `resume` on, with a ledger that begins there.
    pub fn adopt(&mut self, partition: Partition, resume: Resume) {
        self.engine.ledgers.add(partition, Ledger::new(resume.position, resume.committed));
        if let Some(read) = resume.read {
            self.engine.ledgers.note_read(partition, read);
        }
        self.take_up(partition, resume);
    }

    /// Reads the partition from `resume` on; its ledger is in place.
    pub fn take_up(&mut self, partition: Partition, resume: Resume) {
        let batcher = Batcher::new(self.settings.limits, resume.position, resume.stored);
        self.released.remove(&partition);
        self.unread.remove(&partition);
        self.readers.insert(PartitionReader::new(partition, batcher).behind(resume.read));
    }

    /// Says where a partition starts that has no leader yet, once it has one.
    pub fn start_late(&mut self, partition: Partition, at: LateStart) {
        self.late_starts.insert(partition, at);
    }

    /// The partition must not be read, until a person moves its cursor; the page and the readiness show why.
    pub fn leave_unread(&mut self, partition: Partition, why: &str) {
        self.engine.live.troubles.begin(
            &trouble_of(self.settings.index, partition),
            READING_A_PARTITION,
            why,
        );
        self.released.insert(partition, None);
        self.unread.insert(partition, why.to_owned());
    }

    /// Stops reading the partition. Its batch being filled is dropped, and the memory released.
    pub fn release(&mut self, partition: Partition) -> Released {
        self.waiting.remove(&partition);
        self.engine.live.troubles.end(&trouble_of(self.settings.index, partition));
        self.engine.ledgers.set_unreadable(partition, false);
        if self.alone == Some(partition) {
            self.alone = None;
        }
        let Some(reader) = self.readers.remove(partition) else {
            self.released.entry(partition).or_default();
            return Released { partition, position: None };
        };
        let position = Some(reader.cursor());
        self.released.insert(partition, Some(reader.into_resume()));
        Released { partition, position }
    }

    /// Goes on with a released partition where it was.
    pub fn restore(&mut self, partition: Partition) {
        if let Some(why) = self.unread.get(&partition).cloned() {
            self.leave_unread(partition, &why);
        } else if let Some(Some(resume)) = self.released.remove(&partition) {
            self.take_up(partition, resume);
        }
    }

    /// Carries out the commands that came between ticks.
    pub fn apply_commands(&mut self) {
        while let Some(command) = self.signals.command() {
            match command {
                SensorCommand::Release { partition, done } => {
                    // Nobody may be waiting for the answer any more.
                    let _ = done.send(self.release(partition));
                }
                SensorCommand::Restore { partition } => self.restore(partition),
                SensorCommand::TakeUp { partition, resume } => self.take_up(partition, resume),
            }
        }
    }

    /// Applies settings that a person has changed.
    pub fn apply_settings(&mut self) {
        let Settings { max_batch, max_wait, .. } = self.signals.settings();
        let limits = BatchLimits { max_records: max_batch, max_wait, ..self.settings.limits };
        if limits != self.settings.limits {
            self.settings.limits = limits;
            self.readers.iter_mut().for_each(|reader| reader.set_limits(limits));
        }
    }

    /// Finds partitions that were added to the topic, which are read from their beginning whatever `--from`
    /// says, and partitions whose leader is back; and a topic that was deleted and created again.
    ///
    /// # Errors
    /// `LogReplaced` for a topic created again; `UnknownTopic`, or `Broker` if no broker answers.
    pub fn look_for_changes(&mut self) -> Result<()> {
        let topic = Arc::clone(&self.settings.topic);
        let info = self.check_topic()?;
        let led_anew = self.led_anew(&info);
        self.check_epochs(&info)?;
        self.check_target()?;
        self.look_epochs_up(&led_anew);
        let is_new = |partition: &Partition| {
            self.settings.is_mine(*partition)
                && self.readers.get(*partition).is_none()
                && !self.released.contains_key(partition)
        };
        let added: Vec<Partition> = info.partitions.into_iter().filter(is_new).collect();
        if added.is_empty() {
            return Ok(());
        }
        for (partition, marks) in self.engine.broker.watermarks(&topic, &added)? {
            match marks {
                Ok(marks) => self.start(partition, marks),
                // The next tick asks again. The other partitions do not wait for this one's leader.
                Err(error) if error.class() == Class::Retry => {
                    let who = trouble_of(self.settings.index, partition);
                    self.engine.live.troubles.begin(&who, READING_A_PARTITION, &error.to_string());
                    self.waiting
                        .entry(partition)
                        .or_default()
                        .begin(READING_A_PARTITION, &error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Asks the broker about the topic, and compares its id. An error of a partition may be the first sign that
    /// the topic was deleted and created again; if mb went on at its offset without this, it would read records
    /// of the new topic as if they were those of the old one.
    ///
    /// # Errors
    /// `LogReplaced` for a topic created again; `UnknownTopic`, or `Broker` if no broker answers.
    pub fn check_topic(&self) -> Result<TopicInfo> {
        let info = self.engine.broker.topic(&self.settings.topic)?;
        info.check_id(self.settings.topic_id.as_deref())?;
        Ok(info)
    }

    /// `check_topic`, and asks the leaders that were elected since the last look whether their logs still have what
    /// was read.
    ///
    /// # Errors
    /// As `check_topic`; also `LogReplaced` for a log that was cut off below what was read.
    pub fn check_log(&mut self) -> Result<()> {
        let info = self.check_topic()?;
        self.check_epochs(&info)
    }

    /// The partitions that have another leader than at the last look.
    fn led_anew(&self, info: &TopicInfo) -> BTreeSet<Partition> {
        let is_led_anew = |reader: &&PartitionReader| {
            let leader = info.leader_epochs.get(&reader.partition());
            leader.is_some_and(|leader| reader.is_led_anew(*leader))
        };
        self.readers.iter().filter(is_led_anew).map(PartitionReader::partition).collect()
    }

    fn check_epochs(&mut self, info: &TopicInfo) -> Result<()> {
        let of = |reader: &mut PartitionReader| {
            let leader = info.leader_epochs.get(&reader.partition())?;
            Some((reader.partition(), reader.unconfirmed(*leader)?))
        };
        let asked: Vec<_> = self.readers.iter_mut().filter_map(of).collect();
        for (partition, answer) in self.ask_for_cuts(&asked)? {
            match answer {
                Ok(()) => {
                    if let Some(reader) = self.readers.get_mut(partition) {
                        reader.is_still_there(info.leader_epochs.get(&partition).copied());
                    }
                }
                // The next look asks again.
                Err(error) => log::debug!("{error}"),
            }
        }
        for reader in self.readers.iter() {
            if let Some(leader) = reader.checked_leader() {
                self.engine.ledgers.note_leader(reader.partition(), leader);
            }
        }
        Ok(())
    }

    /// Asks the log whether it still has what was read of each of these partitions. A partition of which it cannot be
    /// asked now has an error; a log that cannot tell counts as one that has it.
    ///
    /// # Errors
    /// `LogReplaced` for a log that was cut off below what was read; `Broker` if no broker answers.
    pub fn ask_for_cuts(&self, asked: &[(Partition, LastRead)]) -> Result<PerPartition<()>> {
        if asked.is_empty() {
            return Ok(PerPartition::new());
        }
        let topic = &self.settings.topic;
        let epochs: Vec<_> =
            asked.iter().map(|(partition, read)| (*partition, read.epoch)).collect();
        let mut ends = self.engine.broker.epoch_ends(topic, &epochs)?;
        let mut answers = PerPartition::new();
        for (partition, read) in asked {
            let answer = match ends.remove(partition) {
                Some(Ok(Some(found))) if found.end < read.end => {
                    let text = cut_text(topic, *partition, *read, found.end);
                    return Err(Error::LogReplaced(text));
                }
                Some(Err(error)) if error.class() != Class::Retry => return Err(error),
                Some(Err(error)) => Err(error),
                Some(Ok(_)) | None => Ok(()),
            };
            answers.insert(*partition, answer);
        }
        Ok(answers)
    }

    /// `--until-caught-up`: a log that ends below what was to be read never gets there. What is gone is passed over, if
    /// missing offsets are; the restart sets another target.
    ///
    /// # Errors
    /// `LogReplaced` for such a log; `Broker` if no broker answers.
    pub fn check_target(&self) -> Result<()> {
        // Before the first tick the target has just been asked for.
        if !self.settings.until_caught_up || self.turn == 0 {
            return Ok(());
        }
        let mut behind = self.engine.ledgers.behind();
        behind.retain(|partition, _| self.readers.get(*partition).is_some());
        if behind.is_empty() {
            return Ok(());
        }
        let topic = &self.settings.topic;
        let partitions: Vec<Partition> = behind.keys().copied().collect();
        for (partition, marks) in self.engine.broker.watermarks(topic, &partitions)? {
            let target = behind[&partition];
            let Ok(marks) = marks else { continue };
            if marks.end >= target {
                continue;
            }
            let reader = self.readers.get(partition);
            let read_to = reader.map_or(marks.end, |reader| reader.read_position().max(marks.end));
            if self.settings.on_missing_offsets == OnMissingOffsets::Skip && read_to < target {
                let lost = OffsetRange::below(target, read_to);
                self.engine.history.gap(partition, lost, "cut off the end of the log");
            }
            return Err(Error::LogReplaced(beyond_text(topic, partition, target, marks.end)));
        }
        Ok(())
    }

    /// Finds the leader epochs of what was read and that the client did not tell. Not of partitions that are led anew:
    /// what their log has there now may not be what was read.
    fn look_epochs_up(&mut self, led_anew: &BTreeSet<Partition>) {
        let readers = self.readers.iter_mut();
        let same = readers.filter(|reader| !led_anew.contains(&reader.partition()));
        let unknown =
            |reader: &mut PartitionReader| Some((reader.partition(), reader.unknown_epoch()?));
        let places: Vec<_> = same.filter_map(unknown).collect();
        if places.is_empty() {
            return;
        }
        let mut found = self.engine.broker.epochs_at(&self.settings.topic, &places);
        for (partition, offset) in places {
            if let Some(Ok(Some(epoch))) = found.remove(&partition)
                && let Some(reader) = self.readers.get_mut(partition)
            {
                reader.found_epoch(offset, epoch);
                let end = offset.next();
                self.engine.ledgers.note_read(partition, LastRead { end, epoch });
            }
        }
    }

    /// Begins to read a partition that has no committed offset and no stored range.
    fn start(&mut self, partition: Partition, marks: Watermarks) {
        let topic = &self.settings.topic;
        let position = match self.late_starts.remove(&partition) {
            Some(LateStart::End) => marks.end,
            Some(LateStart::Beginning) | None => marks.beginning,
        };
        log::info!("partition {topic}/{partition} is new: reading it from offset {position}");
        if let Some(trouble) = self.waiting.remove(&partition) {
            trouble.end(READING_A_PARTITION);
            self.engine.live.troubles.end(&trouble_of(self.settings.index, partition));
        }
        self.engine.history.start_partition(partition, position);
        self.adopt(partition, Resume { position, committed: None, read: None, stored: Vec::new() });
    }

    /// Which partitions a tick that begins now reads.
    pub fn reads(&self) -> Reads {
        self.alone.map_or(Reads::All, Reads::Alone)
    }

    /// Where each partition's fresh consumer starts. Clients read in this order, and a tick with a backlog may
    /// not get past the first partition: so each tick begins with another one.
    pub fn assignment(&mut self, now: Instant) -> Vec<(Partition, Offset)> {
        let reads = self.reads();
        // A partition that is not read now has nothing that could be asked about and read again.
        self.readers.iter_mut().for_each(PartitionReader::forget_suspicion);
        let readers = self.readers.iter_mut();
        let mine = readers.filter(|reader| reads.includes(reader.partition()));
        let mut from: Vec<_> =
            mine.map(|reader| (reader.partition(), reader.begin_reading(now))).collect();
        if !from.is_empty() {
            let first = self.turn % from.len();
            from.rotate_left(first);
        }
        self.turn = self.turn.wrapping_add(1);
        from
    }

    /// Tells the ledgers about gaps and finished batches that the cursors have passed.
    pub fn report(&mut self) {
        for reader in self.readers.iter_mut() {
            reader.report(&self.engine.ledgers);
            if reader.recovered() {
                let who = trouble_of(self.settings.index, reader.partition());
                self.engine.live.troubles.end(&who);
                self.engine.ledgers.set_unreadable(reader.partition(), false);
            }
        }
    }

    /// The partition pauses, because it cannot be read; the page and the readiness show why.
    pub fn fail(&mut self, partition: Partition, error: Error, now: Instant) {
        let Some(reader) = self.readers.get_mut(partition) else { return };
        let who = trouble_of(self.settings.index, partition);
        self.engine.live.troubles.begin(&who, READING_A_PARTITION, &error.to_string());
        reader.fail(error, now);
        let stays = reader.unreadable_for(limits::UNREADABLE_TRIES).is_some();
        self.engine.ledgers.set_unreadable(partition, stays);
        if self.alone == Some(partition) {
            self.alone = None;
        }
    }

    /// `--until-caught-up`: the unreadable record at which mb ends, when everything else is done. mb would wait
    /// for it for ever.
    pub fn last_unreadable(&self) -> Option<Error> {
        if !self.settings.until_caught_up || !self.engine.ledgers.waits_for_unreadable_only() {
            return None;
        }
        let mut readers = self.readers.iter();
        readers.find_map(|reader| reader.unreadable_for(limits::UNREADABLE_TRIES)).cloned()
    }
}

/// Who is in trouble if the partition cannot be read.
fn trouble_of(sensor: usize, partition: Partition) -> String {
    format!("sensor-{sensor}, partition {partition}")
}

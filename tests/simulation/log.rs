//! The topic in memory, and its broker: partitions with gaps, compaction, commits that arrive late
//! or without an answer, calls that fail. It tells consumers only what a real log would show.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use mb::config::limits;
use mb::kafka::{
    Backend, Broker, Capabilities, CommitError, Consumer, FetchSettings, Flow, PerPartition,
    Producer, Sink, TopicInfo, Watermarks,
};
use mb::model::batch::Record;
use mb::model::error::{Error, Result};
use mb::model::headers::Headers;
use mb::model::offset::{Offset, Partition};

use crate::dead_topic::{self, SimulatedProducer};
use crate::plan::{Plan, Rate};
use crate::world::{Fate, World, world};

pub struct Entry {
    pub offset: i64,
    pub key: Option<Rc<[u8]>>,
    pub value: Option<Rc<[u8]>>,
    /// Compaction has taken it.
    pub removed: bool,
}

pub struct PartitionLog {
    /// Ascending; what lies between them was never a record.
    pub entries: Vec<Entry>,
    pub beginning: i64,
    pub end: i64,
    pub committed: Option<i64>,
}

pub struct Log {
    pub partitions: Vec<PartitionLog>,
    /// Commits on their way, which may arrive until then.
    late: Vec<(Instant, Vec<(Partition, Offset)>)>,
}

impl Log {
    pub fn new(plan: &Plan, rng: &mut Rng) -> Log {
        let mut log = Log { partitions: Vec::new(), late: Vec::new() };
        for _ in 0..plan.partitions {
            log.add_partition(plan);
        }
        for _ in 0..plan.records * log.partitions.len() {
            log.post(plan, rng);
        }
        log
    }

    pub fn add_partition(&mut self, plan: &Plan) -> usize {
        let beginning = plan.beginning;
        let partition =
            PartitionLog { entries: Vec::new(), beginning, end: beginning, committed: None };
        self.partitions.push(partition);
        self.partitions.len() - 1
    }

    /// A record in some partition, or a gap: a transaction's marker, or many aborted records.
    pub fn post(&mut self, plan: &Plan, rng: &mut Rng) {
        let index = rng.usize(0..self.partitions.len());
        let partition = &mut self.partitions[index];
        if plan.gaps.hits(rng) {
            partition.end += [1, 1, 3, 2_000_000][rng.usize(0..4)];
        }
        if plan.gaps.hits(rng) {
            return;
        }
        let key = (rng.u32(0..4) > 0).then(|| Rc::from([b'a' + rng.u8(0..3)]));
        let value = (rng.u32(0..8) > 0).then(|| {
            let bytes = rng.usize(0..=plan.value_bytes);
            Rc::from(vec![rng.u8(..); bytes])
        });
        let offset = partition.end;
        partition.entries.push(Entry { offset, key, value, removed: false });
        partition.end += 1;
    }

    pub fn compact(&mut self, rate: Rate, rng: &mut Rng) -> Vec<(usize, i64)> {
        let mut removed = Vec::new();
        for (index, partition) in self.partitions.iter_mut().enumerate() {
            for entry in partition.entries.iter_mut().filter(|entry| !entry.removed) {
                if rate.hits(rng) {
                    entry.removed = true;
                    removed.push((index, entry.offset));
                }
            }
        }
        removed
    }

    /// One of the commits under way arrives, or never will.
    pub fn land_late_commit(
        &mut self,
        now: Instant,
        rng: &mut Rng,
    ) -> Option<Vec<(Partition, Offset)>> {
        self.late.retain(|(until, _)| *until > now);
        if self.late.is_empty() {
            return None;
        }
        let (_, offsets) = self.late.swap_remove(rng.usize(0..self.late.len()));
        self.commit(&offsets);
        Some(offsets)
    }

    pub fn lose_late_commits(&mut self) {
        self.late.clear();
    }

    fn commit(&mut self, offsets: &[(Partition, Offset)]) {
        for (partition, offset) in offsets {
            self.partitions[*partition as usize].committed = Some(offset.get());
        }
    }
}

impl PartitionLog {
    /// The first record from `offset` on.
    fn next(&self, offset: i64) -> Option<&Entry> {
        let from = self.entries.partition_point(|entry| entry.offset < offset);
        self.entries[from..].iter().find(|entry| !entry.removed)
    }
}

/// The log as mb sees it; the log itself is the world's.
pub struct SimulatedBroker;

/// A read: others act meanwhile, and it may fail.
fn ask(world: &World, doing: &str) -> Result<()> {
    world.interleave();
    if world.is_dead() || world.hits(world.plan.broker_faults) {
        world.note(|| format!("broker: cannot {doing}"));
        return Err(Error::broker(doing, "simulated"));
    }
    Ok(())
}

impl Broker for SimulatedBroker {
    fn backend(&self) -> Backend {
        Backend::Rdkafka
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            null_values: true,
            timestamps: false,
            headers: true,
            read_committed: true,
            codecs: &[],
            membership: false,
        }
    }

    fn describe(&self) -> String {
        "a simulated log".into()
    }

    fn topic(&self, topic: &str) -> Result<TopicInfo> {
        let world = world();
        ask(&world, "look the topic up")?;
        if topic == dead_topic::NAME {
            return dead_topic::info(&world);
        }
        let partitions = world.log.borrow().partitions.len() as Partition;
        Ok(TopicInfo {
            name: topic.to_owned(),
            id: Some("id".into()),
            cluster_id: Some("cluster".into()),
            is_internal: false,
            partitions: (0..partitions).collect(),
        })
    }

    fn create_topic(&self, topic: &str, _partitions: u32) -> Result<()> {
        assert_eq!(topic, dead_topic::NAME, "the other one exists");
        let world = world();
        ask(&world, "create the topic")?;
        dead_topic::create(&world);
        Ok(())
    }

    fn watermarks(
        &self,
        _topic: &str,
        partitions: &[Partition],
    ) -> Result<PerPartition<Watermarks>> {
        let world = world();
        ask(&world, "read the watermarks")?;
        let log = world.log.borrow();
        let marks = partitions.iter().map(|partition| {
            let of = &log.partitions[*partition as usize];
            let (beginning, end) = (Offset::new(of.beginning), Offset::new(of.end));
            (*partition, Ok(Watermarks { beginning, end }))
        });
        Ok(marks.collect())
    }

    fn offsets_at(
        &self,
        _topic: &str,
        _partitions: &[Partition],
        _timestamp_ms: i64,
    ) -> Result<PerPartition<Offset>> {
        Err(Error::Other("the simulated log has no times".into()))
    }

    fn committed(
        &self,
        _group: &str,
        _topic: &str,
        partitions: &[Partition],
    ) -> Result<PerPartition<Option<Offset>>> {
        let world = world();
        ask(&world, "read the committed offsets")?;
        let log = world.log.borrow();
        let committed = partitions.iter().map(|partition| {
            let offset = log.partitions[*partition as usize].committed;
            (*partition, Ok(offset.map(Offset::new)))
        });
        Ok(committed.collect())
    }

    fn commit(
        &self,
        _group: &str,
        _topic: &str,
        offsets: &[(Partition, Offset)],
    ) -> Result<(), CommitError> {
        let world = world();
        // A process that was killed does not try again.
        let failed = || match Error::broker("commit", "simulated") {
            error if world.is_dead() => CommitError::all_refused(offsets, error),
            error => CommitError::Unknown(error),
        };
        if world.is_dead() {
            return Err(failed());
        }
        world.note(|| format!("commit {offsets:?}"));
        world.count(|figures| figures.commits += 1);
        let is_move = world.moving.borrow().as_slice() == offsets;
        if !is_move {
            crate::oracle::check_commit(&world, offsets);
        }
        world.interleave();
        if world.hits(world.plan.commit_faults) {
            // It is lost, or on its way.
            if world.one_in(2) && world.effect() != Fate::Never {
                let until = world.now() + limits::COMMIT_DOUBT;
                world.log.borrow_mut().late.push((until, offsets.to_vec()));
            }
            world.note(|| "commit: no answer".into());
            return Err(failed());
        }
        let partly = world.hits(world.plan.commit_faults);
        let reached =
            if partly { world.below(1 + offsets.len() as u32) as usize } else { offsets.len() };
        match world.effect() {
            Fate::Never => return Err(failed()),
            Fate::Happens | Fate::Last => {
                world.log.borrow_mut().commit(&offsets[..reached]);
                if is_move {
                    crate::oracle::moved(&world, &offsets[..reached]);
                }
            }
        }
        if partly || world.is_dead() {
            world.note(|| format!("commit: an error, and {reached} of it done"));
            return Err(failed());
        }
        world.interleave();
        crate::oracle::confirmed(&world, offsets);
        if world.is_dead() { Err(failed()) } else { Ok(()) }
    }

    fn consumer(
        &self,
        _topic: &str,
        from: &[(Partition, Offset)],
        _settings: &FetchSettings,
    ) -> Result<Box<dyn Consumer>> {
        let world = world();
        ask(&world, "make a consumer")?;
        world.note(|| format!("a consumer from {from:?}"));
        let cursors = from.iter().map(|(partition, next)| (*partition, next.get())).collect();
        Ok(Box::new(SimulatedConsumer {
            cursors,
            has_more: false,
            turn: 0,
            paused: BTreeSet::new(),
        }))
    }

    fn producer(&self, topic: &str) -> Result<Box<dyn Producer>> {
        assert_eq!(topic, dead_topic::NAME, "the other one is written from outside");
        let world = world();
        ask(&world, "make a producer")?;
        Ok(Box::new(SimulatedProducer::new(&world)?))
    }
}

struct SimulatedConsumer {
    cursors: Vec<(Partition, i64)>,
    /// What it says of what is left: a guess, as a client's may be.
    has_more: bool,
    turn: usize,
    paused: BTreeSet<Partition>,
}

impl Consumer for SimulatedConsumer {
    fn poll(&mut self, wait: Duration, sink: &mut dyn Sink) -> Result<()> {
        let world = world();
        ask(&world, "poll")?;
        let calm = world.calm.get();
        let most = if calm { 40 } else { world.below(9) };
        let mut handed = 0;
        self.has_more = most > 0 && world.one_in(2);
        for _ in 0..most {
            if world.one_in(3) {
                self.turn += 1;
            }
            let index = self.turn % self.cursors.len();
            let (partition, next) = self.cursors[index];
            if self.paused.contains(&partition) {
                self.turn += 1;
                continue;
            }
            let (next_record, end) = {
                let log = world.log.borrow();
                let of = &log.partitions[partition as usize];
                let record = of.next(next);
                let record =
                    record.map(|entry| (entry.offset, entry.key.clone(), entry.value.clone()));
                (record, of.end)
            };
            // The log shows that there is nothing up to here; which part of it is chance.
            let until = next_record.as_ref().map_or(end, |(offset, ..)| *offset);
            if until > next && (calm || world.one_in(2)) {
                let shown = until - if calm { 0 } else { i64::from(world.below(2)) };
                if shown > next {
                    self.cursors[index].1 = shown;
                    world.note(|| format!("{partition}: nothing below {shown}"));
                    sink.position(partition, Offset::new(shown));
                }
            }
            let Some((offset, key, value)) = next_record else {
                self.turn += 1;
                continue;
            };
            if world.is_dead() || world.one_in(12) && world.hits(world.plan.broker_faults) {
                return Err(Error::broker("poll", "simulated, in the middle"));
            }
            self.cursors[index].1 = offset + 1;
            handed += 1;
            let record = Record {
                offset: Offset::new(offset),
                timestamp: None,
                key: key.as_deref(),
                value: value.as_deref(),
                headers: Headers::NONE,
            };
            world.note(|| format!("{partition}: record {offset}"));
            if sink.record(partition, record) == Flow::Stop {
                return Ok(());
            }
        }
        let part = if handed == 0 { 1 } else { 1 + world.below(10) };
        world.pass(wait / part);
        Ok(())
    }

    fn has_more(&self) -> bool {
        self.has_more
    }

    fn pause(&mut self, partition: Partition) -> Result<()> {
        let world = world();
        ask(&world, "pause")?;
        world.note(|| format!("{partition}: paused"));
        self.paused.insert(partition);
        Ok(())
    }

    fn resume(&mut self, partition: Partition, from: Offset) -> Result<()> {
        let world = world();
        ask(&world, "resume")?;
        if self.paused.remove(&partition) {
            world.note(|| format!("{partition}: resumed from {from}"));
            let cursor = self.cursors.iter_mut().find(|(of, _)| *of == partition);
            cursor.expect("it is read").1 = from.get();
        }
        Ok(())
    }

    fn close(self: Box<Self>) {}
}

//! The topic in memory, and its broker: partitions with gaps, compaction, commits that arrive late
//! or without an answer, calls that fail, ends that are cut off. It tells consumers only what a real log would show.

use std::rc::Rc;
use std::time::Instant;

use fastrand::Rng;
use mb::config::limits;
use mb::kafka::{
    Backend, Broker, Capabilities, Commit, CommitError, Committed, Consumer, EpochEnd,
    FetchSettings, PerPartition, Producer, TopicInfo, Watermarks,
};
use mb::model::error::{Error, Result};
use mb::model::offset::{Epoch, Offset, Partition};

use crate::consumer::SimulatedConsumer;
use crate::dead_topic::{self, SimulatedProducer};
use crate::plan::{Plan, Rate};
use crate::version::{Entry, Version};
use crate::world::{Fate, World, world};

pub struct PartitionLog {
    pub now: Version,
    /// What it was before each time that its end was cut off.
    pub before: Vec<Version>,
    pub beginning: i64,
    pub end: i64,
    pub committed: Option<Committed>,
    /// All that was committed, in the order of the group's log.
    commits: Vec<Committed>,
    /// How often its cursor was moved, and where to last.
    moves: u32,
    moved_to: Option<Offset>,
}

pub struct Log {
    pub partitions: Vec<PartitionLog>,
    late: Vec<Late>,
}

/// A commit on its way, which may arrive until `until`.
struct Late {
    until: Instant,
    /// Each with `moves` of its partition when it was sent.
    commits: Vec<(Commit, u32)>,
    /// An attempt of a cursor move; a later attempt may already have moved the cursor to the same offset.
    is_move: bool,
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
        self.partitions.push(PartitionLog {
            now: Version::new(beginning),
            before: Vec::new(),
            beginning,
            end: beginning,
            committed: None,
            commits: Vec::new(),
            moves: 0,
            moved_to: None,
        });
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
        partition.now.entries.push(Entry { offset, key, value, removed: false });
        partition.end += 1;
    }

    pub fn compact(&mut self, rate: Rate, rng: &mut Rng) -> Vec<(usize, i64)> {
        let mut removed = Vec::new();
        for (index, partition) in self.partitions.iter_mut().enumerate() {
            for entry in partition.now.entries.iter_mut().filter(|entry| !entry.removed) {
                if rate.hits(rng) {
                    entry.removed = true;
                    removed.push((index, entry.offset));
                }
            }
        }
        removed
    }

    /// A partition loses its end, and has another leader. Returns the partition and where it ends now.
    pub fn cut(&mut self, rng: &mut Rng) -> Option<(usize, i64)> {
        let index = rng.usize(0..self.partitions.len());
        let of = &mut self.partitions[index];
        let before = of.now.clone();
        of.end = of.now.cut(rng)?;
        of.before.push(before);
        Some((index, of.end))
    }

    /// A partition has another leader, and loses nothing.
    pub fn elect(&mut self, rng: &mut Rng) -> usize {
        let index = rng.usize(0..self.partitions.len());
        let of = &mut self.partitions[index];
        of.now.elect(of.end);
        index
    }

    /// The group's log loses its end in some partition: an earlier commit is the last one again.
    pub fn lose_commits(&mut self, rng: &mut Rng) -> Option<(usize, Committed)> {
        let index = rng.usize(0..self.partitions.len());
        let of = &mut self.partitions[index];
        let kept = rng.usize(0..of.commits.len().max(1));
        of.commits.truncate(kept + 1);
        of.committed = of.commits.last().cloned();
        Some((index, of.committed.clone()?))
    }

    /// Delivers one late commit, if any can still arrive. Returns it with the partitions whose cursor move it undoes.
    pub fn land_late_commit(
        &mut self,
        now: Instant,
        rng: &mut Rng,
    ) -> Option<(Vec<Commit>, Vec<Partition>)> {
        self.late.retain(|late| late.until > now);
        if self.late.is_empty() {
            return None;
        }
        let Late { commits, is_move, .. } = self.late.swap_remove(rng.usize(0..self.late.len()));
        let is_undone = |(commit, moves): &&(Commit, u32)| {
            let of = &self.partitions[commit.partition as usize];
            let is_the_same = is_move && of.moved_to == Some(commit.offset);
            of.moves != *moves && !is_the_same
        };
        let undone = commits.iter().filter(is_undone).map(|(commit, _)| commit.partition).collect();
        let commits: Vec<Commit> = commits.into_iter().map(|(commit, _)| commit).collect();
        self.commit(&commits);
        Some((commits, undone))
    }

    fn send_late(&mut self, until: Instant, commits: &[Commit], is_move: bool) {
        let with_moves =
            |commit: &Commit| (commit.clone(), self.partitions[commit.partition as usize].moves);
        let commits = commits.iter().map(with_moves).collect();
        self.late.push(Late { until, commits, is_move });
    }

    pub fn lose_late_commits(&mut self) {
        self.late.clear();
    }

    fn commit(&mut self, commits: &[Commit]) {
        for Commit { partition, offset, epoch, metadata } in commits {
            let (offset, epoch, metadata) = (*offset, *epoch, metadata.clone());
            let of = &mut self.partitions[*partition as usize];
            let committed = Committed { offset, epoch, metadata };
            of.commits.push(committed.clone());
            of.committed = Some(committed);
        }
    }
}

/// The log as mb sees it; the log itself is the world's.
pub struct SimulatedBroker;

/// A read: others act meanwhile, and it may fail.
pub fn ask(world: &World, doing: &str) -> Result<()> {
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
            leader_epochs: true,
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
        let log = world.log.borrow();
        let partitions = log.partitions.len() as Partition;
        let leaders = (0..)
            .zip(&log.partitions)
            .filter_map(|(index, of)| Some((index, Epoch::checked(of.now.leader())?)));
        Ok(TopicInfo {
            name: topic.to_owned(),
            id: Some("id".into()),
            cluster_id: Some("cluster".into()),
            is_internal: false,
            partitions: (0..partitions).collect(),
            leader_epochs: leaders.collect(),
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

    fn epoch_ends(
        &self,
        _topic: &str,
        epochs: &[(Partition, Epoch)],
    ) -> Result<PerPartition<Option<EpochEnd>>> {
        let world = world();
        ask(&world, "ask for the ends of epochs")?;
        let log = world.log.borrow();
        let ends = epochs.iter().map(|(partition, epoch)| {
            let of = &log.partitions[*partition as usize];
            (*partition, Ok(of.now.epoch_end(*epoch, of.end)))
        });
        let ends: PerPartition<_> = ends.collect();
        world.note(|| format!("epochs {epochs:?} end at {ends:?}"));
        Ok(ends)
    }

    fn epochs_at(
        &self,
        _topic: &str,
        places: &[(Partition, Offset)],
    ) -> PerPartition<Option<Epoch>> {
        let world = world();
        let failed = ask(&world, "look at stored batches").err();
        let log = world.log.borrow();
        let epoch = |(partition, offset): &(Partition, Offset)| {
            let of = &log.partitions[*partition as usize];
            let is_there = (of.beginning..of.end).contains(&offset.get());
            let epoch = is_there.then(|| of.now.epoch_of(offset.get())).and_then(Epoch::checked);
            (*partition, failed.clone().map_or(Ok(epoch), Err))
        };
        places.iter().map(epoch).collect()
    }

    fn group_offsets(
        &self,
        _group: &str,
        _topic: &str,
        partitions: &[Partition],
    ) -> Result<PerPartition<Option<Committed>>> {
        let world = world();
        ask(&world, "read the committed offsets")?;
        let log = world.log.borrow();
        let committed = partitions.iter().map(|partition| {
            (*partition, Ok(log.partitions[*partition as usize].committed.clone()))
        });
        Ok(committed.collect())
    }

    fn commit_all(
        &self,
        _group: &str,
        _topic: &str,
        commits: &[Commit],
    ) -> Result<(), CommitError> {
        let world = world();
        let offsets: Vec<_> = commits.iter().map(|one| (one.partition, one.offset)).collect();
        let offsets = offsets.as_slice();
        // A process that was killed does not try again.
        let failed = || match Error::broker("commit", "simulated") {
            error if world.is_dead() => CommitError::all_refused(commits, error),
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
                world.log.borrow_mut().send_late(until, commits, is_move);
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
                world.log.borrow_mut().commit(&commits[..reached]);
                if is_move {
                    for (partition, to) in &offsets[..reached] {
                        let of = &mut world.log.borrow_mut().partitions[*partition as usize];
                        of.moves += 1;
                        of.moved_to = Some(*to);
                    }
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
        Ok(Box::new(SimulatedConsumer::new(from)))
    }

    fn producer(&self, topic: &str) -> Result<Box<dyn Producer>> {
        assert_eq!(topic, dead_topic::NAME, "the other one is written from outside");
        let world = world();
        ask(&world, "make a producer")?;
        Ok(Box::new(SimulatedProducer::new(&world)?))
    }
}

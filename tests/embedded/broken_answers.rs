//! A client that names offsets which its log does not have, as librdkafka does behind a batch whose checksum is wrong.
//! mb takes none of them for a position: no record is passed over, none is done twice, and nothing ends.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mb::Config;
use mb::config::OnMissingOffsets;
use mb::config::limits::UNREADABLE_TRIES;
use mb::history::requests::{self, Replay};
use mb::history::schema;
use mb::kafka::embedded::Embedded;
use mb::kafka::{
    Backend, Broker, Capabilities, CommitError, Consumer, FetchSettings, Flow, PerPartition,
    Producer, Sink, TopicInfo, Watermarks,
};
use mb::model::batch::Record;
use mb::model::error::{Error, Result};
use mb::model::offset::{Offset, Partition};

use crate::support::world::*;

/// Eight blanks of a value, read as an offset.
const NONSENSE: i64 = 0x2020_2020_2020_2020;
/// The partition that is lied about.
const PARTITION: Partition = 1;

/// What the client says of the partition before its records.
#[derive(Clone, Copy, Debug)]
enum Lie {
    OutOfRange(i64),
    /// There is nothing below this offset.
    Position(i64),
    Unreadable(i64),
    /// The next record has this offset.
    Record(i64),
}

impl Lie {
    fn all(offset: i64) -> [Lie; 4] {
        [
            Lie::OutOfRange(offset),
            Lie::Position(offset),
            Lie::Unreadable(offset),
            Lie::Record(offset),
        ]
    }
}

/// The embedded topic through a client that lies, once for each lie: one in each poll.
struct Lying {
    log: Embedded,
    /// To consumers of so many partitions: a sensor reads three, a replay one.
    to: usize,
    lies: Arc<Mutex<VecDeque<Lie>>>,
}

impl Lying {
    fn new(world: &World, to: usize, lies: impl Into<VecDeque<Lie>>) -> Arc<Lying> {
        let lies = Arc::new(Mutex::new(lies.into()));
        Arc::new(Lying { log: world.topics.clone(), to, lies })
    }

    fn assert_told(&self) {
        assert_eq!(self.lies.lock().unwrap().len(), 0, "every lie was told");
    }
}

impl Broker for Lying {
    fn backend(&self) -> Backend {
        self.log.backend()
    }

    fn capabilities(&self) -> Capabilities {
        self.log.capabilities()
    }

    fn describe(&self) -> String {
        self.log.describe()
    }

    fn topic(&self, topic: &str) -> Result<TopicInfo> {
        self.log.topic(topic)
    }

    fn create_topic(&self, topic: &str, partitions: u32) -> Result<()> {
        self.log.create_topic(topic, partitions)
    }

    fn watermarks(
        &self,
        topic: &str,
        partitions: &[Partition],
    ) -> Result<PerPartition<Watermarks>> {
        self.log.watermarks(topic, partitions)
    }

    fn offsets_at(
        &self,
        topic: &str,
        partitions: &[Partition],
        timestamp_ms: i64,
    ) -> Result<PerPartition<Offset>> {
        self.log.offsets_at(topic, partitions, timestamp_ms)
    }

    fn group_offsets(
        &self,
        group: &str,
        topic: &str,
        partitions: &[Partition],
    ) -> Result<PerPartition<Option<mb::kafka::Committed>>> {
        self.log.group_offsets(group, topic, partitions)
    }

    fn commit_all(
        &self,
        group: &str,
        topic: &str,
        offsets: &[mb::kafka::Commit],
    ) -> Result<(), CommitError> {
        self.log.commit_all(group, topic, offsets)
    }

    fn consumer(
        &self,
        topic: &str,
        from: &[(Partition, Offset)],
        settings: &FetchSettings,
    ) -> Result<Box<dyn Consumer>> {
        let log = self.log.consumer(topic, from, settings)?;
        if from.len() != self.to {
            return Ok(log);
        }
        Ok(Box::new(LyingConsumer { log, lies: Arc::clone(&self.lies), is_paused: false }))
    }

    fn producer(&self, topic: &str) -> Result<Box<dyn Producer>> {
        self.log.producer(topic)
    }
}

struct LyingConsumer {
    log: Box<dyn Consumer>,
    lies: Arc<Mutex<VecDeque<Lie>>>,
    is_paused: bool,
}

impl Consumer for LyingConsumer {
    fn poll(&mut self, wait: Duration, sink: &mut dyn Sink) -> Result<()> {
        // A client says nothing of a partition that is paused.
        let lie = if self.is_paused { None } else { self.lies.lock().unwrap().pop_front() };
        let (topic, partition) = (TOPIC.to_owned(), PARTITION);
        let failed = match lie {
            None => None,
            Some(Lie::OutOfRange(offset)) => {
                Some(Error::OffsetOutOfRange { topic, partition, offset: Offset::new(offset) })
            }
            Some(Lie::Unreadable(offset)) => {
                let (offset, cause) = (Offset::new(offset), "magic byte 32".to_owned());
                Some(Error::Unreadable { topic, partition, offset, cause })
            }
            Some(Lie::Position(next)) => {
                sink.position(PARTITION, Offset::new(next));
                None
            }
            Some(Lie::Record(offset)) => {
                let mut sink = Shifting { sink, to: Some(Offset::new(offset)) };
                return self.log.poll(wait, &mut sink);
            }
        };
        if let Some(error) = failed {
            self.pause(PARTITION)?;
            if sink.failed(PARTITION, error) == Flow::Stop {
                return Ok(());
            }
        }
        self.log.poll(wait, sink)
    }

    fn has_more(&self) -> bool {
        self.log.has_more()
    }

    fn pause(&mut self, partition: Partition) -> Result<()> {
        self.is_paused |= partition == PARTITION;
        self.log.pause(partition)
    }

    fn resume(&mut self, partition: Partition, from: Offset) -> Result<()> {
        self.is_paused &= partition != PARTITION;
        self.log.resume(partition, from)
    }

    fn close(self: Box<Self>) {
        self.log.close();
    }
}

/// Hands over the partition's next record as if it had another offset.
struct Shifting<'a> {
    sink: &'a mut dyn Sink,
    to: Option<Offset>,
}

impl Sink for Shifting<'_> {
    fn record(&mut self, partition: Partition, mut record: Record<'_>) -> Flow {
        if partition == PARTITION
            && let Some(offset) = self.to.take()
        {
            record.offset = offset;
        }
        self.sink.record(partition, record)
    }

    fn position(&mut self, partition: Partition, next: Offset) {
        self.sink.position(partition, next);
    }

    fn failed(&mut self, partition: Partition, error: Error) -> Flow {
        self.sink.failed(partition, error)
    }
}

/// mb comes to the end with every record done once, whatever the client says.
fn assert_unmoved(lies: &[Lie], on_missing_offsets: OnMissingOffsets) {
    let world = World::with_records(30);
    let broker = Lying::new(&world, 3, lies.to_vec());
    let step = Recorder::new(|_| Ok(()));
    let config = Config { on_missing_offsets, ..world.config() };
    let ended = world.run_on(Arc::<Lying>::clone(&broker), config, &step);
    assert!(ended.is_ok(), "{lies:?}: {ended:?}");
    broker.assert_told();
    assert_eq!(step.done_records(), every_record_once(30), "{lies:?}");
    assert_eq!(world.committed("mb"), all(30), "{lies:?}");
    let count = "SELECT count(*) FROM gaps";
    let gaps: i64 = world.history().query_row(count, [], |row| row.get(0)).unwrap();
    assert_eq!(gaps, 0, "{lies:?}");
}

#[test]
fn an_offset_that_is_in_no_log_moves_nothing_and_ends_nothing() {
    for on_missing_offsets in [OnMissingOffsets::Halt, OnMissingOffsets::Skip] {
        for lie in Lie::all(NONSENSE) {
            assert_unmoved(&[lie], on_missing_offsets);
        }
    }
}

#[test]
fn an_offset_just_behind_the_end_is_not_believed_either() {
    for lie in [Lie::Position(31), Lie::Record(30), Lie::OutOfRange(31), Lie::Record(i64::MAX)] {
        assert_unmoved(&[lie], OnMissingOffsets::Halt);
    }
}

#[test]
fn an_offset_within_the_log_is_not_out_of_range_because_a_client_says_so() {
    for offset in [0, 15, 30] {
        assert_unmoved(&[Lie::OutOfRange(offset)], OnMissingOffsets::Skip);
    }
}

#[test]
fn a_broken_record_that_is_in_no_log_is_not_waited_for() {
    let lies = [Lie::Unreadable(NONSENSE); UNREADABLE_TRIES as usize + 1];
    assert_unmoved(&lies, OnMissingOffsets::Halt);
}

#[test]
fn what_retention_removed_is_counted_from_mbs_own_position() {
    let world = World::with_records(30);
    world.remove_below(20);
    let lies = vec![Lie::OutOfRange(NONSENSE); 2];
    let broker = Lying::new(&world, 3, lies);
    let step = Recorder::new(|_| Ok(()));
    let start = [(0, Offset::ZERO), (1, Offset::new(5)), (2, Offset::ZERO)];
    world.topics.commit("mb", TOPIC, &start).unwrap();
    let ended = world.run_on(Arc::<Lying>::clone(&broker), world.config(), &step);
    let error = ended.unwrap_err();
    assert_eq!(error.exit_code(), 65);
    assert!(error.to_string().contains("records orders/1 5-19 were removed"), "{error}");
    assert_eq!(world.committed("mb")[&1], Offset::new(5));
}

#[test]
fn a_replay_reads_its_whole_range_whatever_the_client_says() {
    for lie in Lie::all(NONSENSE) {
        let world = World::with_records(30);
        world.run(world.config(), &Recorder::new(|_| Ok(()))).unwrap();
        let info = world.topics.topic(TOPIC).unwrap();
        let replay = Replay {
            embedded: true,
            cluster_id: info.cluster_id.unwrap_or_default(),
            group: "mb".into(),
            topic: TOPIC.into(),
            topic_id: info.id.unwrap_or_default(),
            ranges: vec![(PARTITION, 5, 21)],
        };
        let mut history = schema::open(&history_file(world.dir.path())).unwrap();
        requests::add_replay(&mut history, &replay).unwrap();
        drop(history);
        let broker = Lying::new(&world, 1, [lie]);
        let step = Recorder::new(|_| Ok(()));
        world.run_on(Arc::<Lying>::clone(&broker), world.config(), &step).unwrap();
        broker.assert_told();
        let expected: Vec<_> = (5..=21).map(|offset| ("1".to_owned(), offset)).collect();
        assert_eq!(step.done_records(), expected, "{lie:?}");
        let note: Option<String> = world
            .history()
            .query_row("SELECT note FROM requests WHERE id = 1", [], |row| row.get(0))
            .unwrap();
        assert_eq!(note, None, "{lie:?}");
    }
}

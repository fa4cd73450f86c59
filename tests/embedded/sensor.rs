//! Single ticks of a sensor over a log that does what a test says: what is planned, what is refused, and
//! where the next tick goes on.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use mb::config::{Config, Connection, OnMissingOffsets};
use mb::history::{self, History, schema};
use mb::kafka::{
    Backend, Broker, Capabilities, Commit, CommitError, Committed, Consumer, FetchSettings, Flow,
    PerPartition, Producer, Sink, TopicInfo, Watermarks,
};
use mb::model::batch::{Batch, Record};
use mb::model::budget::Permit;
use mb::model::error::{Error, Result};
use mb::model::offset::{Offset, OffsetRange, Partition, RunKey};
use mb::model::run::{Run, RunId};
use mb::pipeline::startup;
use mb::pipeline::wiring::{Assembly, Inputs, wire};
use mb::runs::engine::Lasting;
use mb::runs::queue::RunQueue;
use mb::source::sensor::Sensor;

use crate::support::world::gaps_in;

const TOPIC: &str = "orders";
/// Records of a batch.
const BATCH: usize = 5;
const QUEUE: usize = 4;
const TICK: Duration = Duration::from_millis(200);

/// What the log does in turn.
enum Act {
    /// Hands over the partition's records of these offsets, as far as the consumer still wants them.
    Records(Partition, std::ops::Range<i64>),
    /// Another one puts so many runs on the queue.
    Fill(usize),
    /// From here on the log begins there, and says so of whatever lies below.
    Gone(Partition, i64),
}

struct Log {
    partitions: i32,
    acts: Mutex<VecDeque<Act>>,
    beginnings: Arc<Mutex<BTreeMap<Partition, i64>>>,
    /// From where each consumer began.
    began: Mutex<Vec<BTreeMap<Partition, i64>>>,
    queue: Mutex<Option<Arc<RunQueue>>>,
}

fn not_asked<T>() -> Result<T> {
    Err(Error::Other("nobody asks this log for that".into()))
}

impl Broker for Log {
    fn backend(&self) -> Backend {
        Backend::Rdkafka
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            null_values: true,
            timestamps: true,
            headers: true,
            read_committed: true,
            codecs: &[],
            membership: false,
            leader_epochs: false,
        }
    }

    fn describe(&self) -> String {
        "a log that does as it is told".into()
    }

    fn topic(&self, topic: &str) -> Result<TopicInfo> {
        Ok(TopicInfo {
            name: topic.to_owned(),
            id: Some("id".into()),
            cluster_id: Some("cluster".into()),
            is_internal: false,
            partitions: (0..self.partitions).collect(),
            leader_epochs: BTreeMap::new(),
        })
    }

    fn create_topic(&self, _topic: &str, _partitions: u32) -> Result<()> {
        not_asked()
    }

    fn watermarks(
        &self,
        _topic: &str,
        partitions: &[Partition],
    ) -> Result<PerPartition<Watermarks>> {
        let beginnings = self.beginnings.lock().unwrap();
        let marks = |partition| {
            let beginning = Offset::new(beginnings.get(&partition).copied().unwrap_or(0));
            (partition, Ok(Watermarks { beginning, end: Offset::new(1000) }))
        };
        Ok(partitions.iter().copied().map(marks).collect())
    }

    fn offsets_at(
        &self,
        _topic: &str,
        _partitions: &[Partition],
        _timestamp_ms: i64,
    ) -> Result<PerPartition<Offset>> {
        not_asked()
    }

    fn group_offsets(
        &self,
        _group: &str,
        _topic: &str,
        partitions: &[Partition],
    ) -> Result<PerPartition<Option<Committed>>> {
        Ok(partitions.iter().map(|partition| (*partition, Ok(None))).collect())
    }

    fn commit_all(&self, _: &str, _: &str, _: &[Commit]) -> Result<(), CommitError> {
        unreachable!("nothing commits here")
    }

    fn consumer(
        &self,
        _topic: &str,
        from: &[(Partition, Offset)],
        _settings: &FetchSettings,
    ) -> Result<Box<dyn Consumer>> {
        let next: BTreeMap<_, _> =
            from.iter().map(|(partition, offset)| (*partition, offset.get())).collect();
        self.began.lock().unwrap().push(next.clone());
        // A consumer outlives no tick; what it needs of the log is its own.
        Ok(Box::new(Reader {
            next,
            acts: std::mem::take(&mut self.acts.lock().unwrap()),
            beginnings: Arc::clone(&self.beginnings),
            queue: self.queue.lock().unwrap().clone().expect("a queue is there"),
        }))
    }

    fn producer(&self, _topic: &str) -> Result<Box<dyn Producer>> {
        not_asked()
    }
}

struct Reader {
    next: BTreeMap<Partition, i64>,
    acts: VecDeque<Act>,
    beginnings: Arc<Mutex<BTreeMap<Partition, i64>>>,
    queue: Arc<RunQueue>,
}

impl Consumer for Reader {
    fn poll(&mut self, wait: Duration, sink: &mut dyn Sink) -> Result<()> {
        if self.acts.is_empty() {
            std::thread::sleep(wait.min(TICK / 10));
        }
        while let Some(act) = self.acts.pop_front() {
            match act {
                Act::Records(partition, offsets) => {
                    for offset in offsets {
                        if offset < self.next[&partition] {
                            continue;
                        }
                        if sink.record(partition, record(offset)) == Flow::Stop {
                            return Ok(());
                        }
                        self.next.insert(partition, offset + 1);
                    }
                }
                Act::Fill(runs) => fill(&self.queue, runs),
                Act::Gone(partition, beginning) => {
                    self.beginnings.lock().unwrap().insert(partition, beginning);
                }
            }
            let beginnings = self.beginnings.lock().unwrap().clone();
            for (partition, next) in &self.next {
                if *next < beginnings.get(partition).copied().unwrap_or(0) {
                    let (topic, offset) = (TOPIC.into(), Offset::new(*next));
                    let error = Error::OffsetOutOfRange { topic, partition: *partition, offset };
                    sink.failed(*partition, error);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn has_more(&self) -> bool {
        true
    }

    fn pause(&mut self, _partition: Partition) -> Result<()> {
        Ok(())
    }

    fn resume(&mut self, partition: Partition, from: Offset) -> Result<()> {
        self.next.insert(partition, from.get());
        Ok(())
    }

    fn close(self: Box<Self>) {}
}

fn record(offset: i64) -> Record<'static> {
    Record { offset: Offset::new(offset), value: Some(b"value"), ..Record::default() }
}

/// Runs that are nobody's, of a number that no other has.
fn fill(queue: &RunQueue, runs: usize) {
    let (_running, stop) = bounded(0);
    for id in 0..runs {
        let range = OffsetRange::new(Offset::new(0), Offset::new(0));
        let run = Run {
            id: RunId(-1 - id as i64),
            key: RunKey::new(TOPIC, 0, range),
            whole: range,
            batch: Batch::default(),
            permit: Arc::new(Permit::nothing()),
            failed_attempts: 0,
            failing: None,
            queued: Instant::now(),
        };
        queue.push(run, Instant::now(), &stop).expect("there is room");
    }
}

/// A sensor, its log, and who takes its runs: the test.
struct World {
    log: Arc<Log>,
    sensor: Sensor,
    queue: Arc<RunQueue>,
    history: Arc<History>,
    path: PathBuf,
    _dir: tempfile::TempDir,
    /// Its intake would stop the sensor when it is dropped.
    _assembly: Assembly,
    writer: Option<mb::model::thread::Thread<()>>,
}

impl World {
    fn new(partitions: i32) -> World {
        let log = Arc::new(Log {
            partitions,
            acts: Mutex::default(),
            beginnings: Arc::default(),
            began: Mutex::default(),
            queue: Mutex::default(),
        });
        let broker: Arc<dyn Broker> = Arc::<Log>::clone(&log);
        let config = Config {
            connection: Connection { topic: TOPIC.into(), ..Connection::default() },
            max_batch: BATCH,
            queue: QUEUE,
            tick_runtime: TICK,
            on_missing_offsets: OnMissingOffsets::Skip,
            ..Config::default()
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(history::FILE);
        let db = schema::open(&path).unwrap();
        let info = startup::topic(broker.as_ref(), &config).unwrap();
        let recovered = startup::recover_from(&db, broker.as_ref(), &config, &info).unwrap();
        let scope = recovered.scope;
        let inputs = Inputs {
            step: Arc::new(mb::step::Discard),
            broker,
            topic: info,
            recovered,
            in_doubt: false,
            lasting: Lasting::new(&config),
            config,
        };
        let (mut assembly, writer) = wire(inputs, |config, settle, _| {
            History::start(db, scope, "rdkafka", config.history_keep, settle)
        })
        .unwrap();
        let sensor = assembly.sensors.remove(0);
        let queue = Arc::clone(&assembly.engine.queue);
        *log.queue.lock().unwrap() = Some(Arc::clone(&queue));
        let history = Arc::clone(&assembly.engine.history);
        World {
            log,
            sensor,
            queue,
            history,
            path,
            _dir: dir,
            _assembly: assembly,
            writer: Some(writer),
        }
    }

    /// A tick in which the log does this. From where its consumer began.
    fn tick(&mut self, acts: impl IntoIterator<Item = Act>) -> Vec<(Partition, i64)> {
        self.log.acts.lock().unwrap().extend(acts);
        assert_eq!(self.sensor.tick(), None);
        let began = self.log.began.lock().unwrap().pop().expect("a consumer was made");
        began.into_iter().collect()
    }

    /// The runs on the queue that the sensor pushed: number, partition, first and last offset, records.
    fn take(&self) -> Vec<(i64, Partition, i64, i64, usize)> {
        let runs = std::iter::from_fn(|| self.queue.try_next()).filter(|run| run.id.0 > 0);
        runs.map(|run| {
            let range = run.key.range;
            let (first, last) = (range.first.get(), range.last.get());
            (run.id.0, run.key.partition, first, last, run.batch.len())
        })
        .collect()
    }

    fn gaps(&self) -> Vec<(Partition, i64, i64)> {
        assert!(self.history.flush(Duration::from_secs(60)));
        gaps_in(&schema::open_read_only(&self.path).unwrap())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.history.close();
        if let Some(writer) = self.writer.take() {
            writer.join().unwrap();
        }
    }
}

#[test]
fn what_came_before_a_gap_and_had_no_room_is_not_passed_over_with_it() {
    let mut world = World::new(1);
    // The queue has room for one of the two batches before the gap, the second of which is not full.
    world.tick([Act::Records(0, 0..7), Act::Fill(QUEUE - 1), Act::Gone(0, 20)]);
    assert_eq!(world.take(), [(1, 0, 0, 4, 5)]);
    assert_eq!(world.gaps(), [], "the tick ended before it came to the gap");

    let began = world.tick([Act::Records(0, 0..0)]);
    assert_eq!(began, [(0, 5)]);
    // Retention has the second batch by now: it is made of what is left, under the number it has.
    assert_eq!(world.gaps(), [(0, 5, 19)]);
    assert_eq!(world.take(), [(2, 0, 5, 6, 0)]);

    let began = world.tick([Act::Records(0, 20..25)]);
    assert_eq!(began, [(0, 20)]);
    assert_eq!(world.take(), [(3, 0, 20, 24, 5)]);
    assert_eq!(world.gaps(), [(0, 5, 19)]);
}

#[test]
fn of_several_batches_that_wait_those_behind_a_refused_one_come_again_too() {
    let mut world = World::new(2);
    // Room for all when they are cut, for one when they are pushed.
    let acts = [
        Act::Records(0, 0..5),
        Act::Records(1, 0..5),
        Act::Fill(QUEUE - 1),
        Act::Records(0, 5..10),
    ];
    world.tick(acts);
    assert_eq!(world.take(), [(1, 0, 0, 4, 5)]);

    let began = world.tick([Act::Records(0, 0..12), Act::Records(1, 0..5)]);
    assert_eq!(began, [(0, 5), (1, 0)]);
    // The same numbers and ranges; then what is new, which the tick's end cuts.
    assert_eq!(world.take(), [(3, 0, 5, 9, 5), (2, 1, 0, 4, 5), (4, 0, 10, 11, 2)]);
}

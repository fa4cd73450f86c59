//! An outage of the dead-letter topic holds up the runs that wait for it, and no others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, never};

use super::deliver::Delivery;
use super::engine::{Engine, Lasting, Parts};
use super::worker::Worker;
use crate::config::{Config, DeadLetterTo};
use crate::history::{History, ScopeId, schema};
use crate::kafka::embedded::Embedded;
use crate::kafka::{
    Backend, Broker, Capabilities, Commit, CommitError, Committed, Consumer, FetchSettings,
    PerPartition, Producer, TopicInfo, Watermarks,
};
use crate::model::batch::{Batch, Record};
use crate::model::error::Result;
use crate::model::offset::{Offset, Partition, Reprocess, RunKey};
use crate::model::run::{Run, RunId};
use crate::model::thread;
use crate::step::{Attempt, Step, StepError};

const LONG: Duration = Duration::from_secs(60);

/// Gives up on runs of partition 0; says which runs it has seen.
struct Picky(Sender<i32>);

impl Step for Picky {
    fn name(&self) -> &str {
        "picky"
    }

    fn run(&self, attempt: &mut Attempt<'_>) -> Result<(), StepError> {
        let partition = attempt.key.partition;
        self.0.send(partition).unwrap();
        if partition == 0 { Err(StepError::DeadLetter("no".into())) } else { Ok(()) }
    }
}

fn run(id: i64, partition: i32) -> Run {
    let mut batch = Batch::default();
    batch.push(Record { offset: Offset::new(7), value: Some(b"v"), ..Record::default() });
    let whole = batch.range().unwrap();
    // Of a replay, so that no ledger has to know it.
    let key =
        RunKey { reprocess: Some(Reprocess::Replay(1)), ..RunKey::new("t", partition, whole) };
    Run::for_tests(id, key, batch)
}

/// A broker that does not answer who writes dead letters until `answers` is dropped.
struct Away {
    broker: Embedded,
    asked: Sender<()>,
    answers: Receiver<()>,
}

impl Broker for Away {
    fn backend(&self) -> Backend {
        self.broker.backend()
    }

    fn capabilities(&self) -> Capabilities {
        self.broker.capabilities()
    }

    fn describe(&self) -> String {
        self.broker.describe()
    }

    fn topic(&self, topic: &str) -> Result<TopicInfo> {
        let _ = self.asked.try_send(());
        let _ = self.answers.recv();
        self.broker.topic(topic)
    }

    fn create_topic(&self, topic: &str, partitions: u32) -> Result<()> {
        self.broker.create_topic(topic, partitions)
    }

    fn watermarks(&self, topic: &str, of: &[Partition]) -> Result<PerPartition<Watermarks>> {
        self.broker.watermarks(topic, of)
    }

    fn offsets_at(&self, _: &str, _: &[Partition], _: i64) -> Result<PerPartition<Offset>> {
        unreachable!("nothing is read here")
    }

    fn group_offsets(
        &self,
        _: &str,
        _: &str,
        _: &[Partition],
    ) -> Result<PerPartition<Option<Committed>>> {
        unreachable!("nothing is read here")
    }

    fn commit_all(&self, _: &str, _: &str, _: &[Commit]) -> Result<(), CommitError> {
        unreachable!("nothing is committed here")
    }

    fn consumer(
        &self,
        _: &str,
        _: &[(Partition, Offset)],
        _: &FetchSettings,
    ) -> Result<Box<dyn Consumer>> {
        unreachable!("nothing is read here")
    }

    fn producer(&self, topic: &str) -> Result<Box<dyn Producer>> {
        self.broker.producer(topic)
    }
}

struct Rig {
    engine: Arc<Engine>,
    broker: Arc<Away>,
    /// Gets a message when the broker is asked about the dead-letter topic.
    asked: Receiver<()>,
    /// Dropped to let it answer.
    away: Sender<()>,
    seen: Receiver<i32>,
    _folder: tempfile::TempDir,
}

fn rig() -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let db = schema::open(&folder.path().join("history.db")).unwrap();
    let (history, _thread) = History::start(db, ScopeId(1), "embedded", 9, |_| {}).unwrap();
    let (events, _) = bounded(9);
    let (sees, seen) = bounded(9);
    let dead_letter = DeadLetterTo::Topic("dead".to_owned());
    let config = Config { dead_letter, ..Config::default() };
    let (asks, asked) = bounded(1);
    let (away, answers) = bounded(0);
    let broker = Embedded::open(folder.path(), 1 << 20).unwrap();
    let broker = Arc::new(Away { broker, asked: asks, answers });
    let engine = Arc::new(Engine::new(Parts {
        topic: TopicInfo {
            name: "t".into(),
            id: None,
            cluster_id: None,
            is_internal: false,
            partitions: vec![0],
            leader_epochs: BTreeMap::new(),
        },
        scope: ScopeId(1),
        broker: Arc::clone(&broker) as Arc<dyn Broker>,
        step: Arc::new(Picky(sees)),
        history,
        ledgers: Arc::default(),
        lasting: Lasting::new(&config),
        events,
        config,
    }));
    Rig { engine, broker, asked, away, seen, _folder: folder }
}

#[test]
fn a_worker_goes_on_with_other_runs_while_dead_letters_wait_for_their_topic() {
    let Rig { engine, broker, asked, away, seen, _folder } = rig();
    let worker = Worker { index: 0, engine: Arc::clone(&engine) };
    let (employed, retired) = bounded::<()>(0);
    let worker = thread::spawn("worker", move || worker.run(&retired)).unwrap();
    let delivery = Delivery::new(&engine).unwrap();
    let delivery = thread::spawn("delivery", move || delivery.run()).unwrap();
    let queue = &engine.queue;
    for (id, partition) in [(-1, 0), (-2, 1), (-3, 0), (-4, 1)] {
        queue.push(run(id, partition), Instant::now() + LONG, &never()).unwrap();
    }
    asked.recv_timeout(LONG).unwrap();
    let seen: Vec<_> = (0..4).map(|_| seen.recv_timeout(LONG).unwrap()).collect();
    assert_eq!(seen, [0, 1, 0, 1], "one worker, and the broker has not answered yet");
    assert_eq!((engine.live.runs_failed.get(), engine.live.dead_letters.get()), (0, 0));

    // It answers, and the topic is not there: they are tried again.
    drop(away);
    while engine.queue.waiting_retries() < 2 {
        std::thread::yield_now();
    }
    broker.create_topic("dead", 1).unwrap();
    while engine.live.runs_failed.get() < 2 {
        for id in [-1, -3] {
            queue.hurry(RunId(id));
        }
        std::thread::yield_now();
    }
    assert_eq!(broker.watermarks_of("dead", 0).unwrap().end, Offset::new(2));
    assert_eq!((engine.live.runs_succeeded.get(), engine.live.dead_letters.get()), (2, 2));
    assert_eq!(queue.waiting_retries(), 0);
    queue.close();
    worker.join().unwrap();
    delivery.join().unwrap();
    drop(employed);
}

#[test]
fn a_stop_ends_the_delivery_and_leaves_the_run_to_the_next_start() {
    let Rig { engine, seen, _folder, .. } = rig();
    let worker = Worker { index: 0, engine: Arc::clone(&engine) };
    engine.queue.push(run(-1, 0), Instant::now() + LONG, &never()).unwrap();
    assert!(worker.work(engine.queue.try_next().unwrap()));
    assert_eq!(seen.recv_timeout(LONG), Ok(0));
    assert!(engine.queue.has_undelivered());
    let delivery = Delivery::new(&engine).unwrap();
    let delivery = thread::spawn("delivery", move || delivery.run()).unwrap();
    engine.queue.close();
    delivery.join().unwrap();
    assert_eq!(engine.live.runs_failed.get(), 0);
}

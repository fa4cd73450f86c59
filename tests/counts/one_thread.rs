//! mb's sensor, run queue, worker, history and committer on one thread, as the simulation has them,
//! but without faults and chance: whatever it does, it does again in every run.
//!
//! The log is a record that is lent again and again, so that only mb's own work is counted.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mb::commit::committer::Doubt;
use mb::config::{Config, Connection};
use mb::history::{self, History, WriterTask, schema};
use mb::kafka::{
    Backend, Broker, Capabilities, Commit, CommitError, Committed, Consumer, FetchSettings, Flow,
    PerPartition, Producer, Sink, TopicInfo, Watermarks,
};
use mb::model::clock::Simulated;
use mb::model::error::{Error, Result};
use mb::model::offset::{Offset, Partition};
use mb::pipeline::startup;
use mb::pipeline::wiring::{Inputs, wire};
use mb::runs::engine::Lasting;
use mb::runs::queue::RunQueue;
use mb::runs::worker::Worker;
use mb::step::{Attempt, Step, StepError};

use crate::allocations::allocations;
use crate::building::record;

thread_local! {
    static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
    /// Who goes on while the sensor or the committer waits.
    static OTHERS: RefCell<Option<Rc<Others>>> = const { RefCell::new(None) };
}

/// Reads `batches` batches of `records` records from their log to their commit; returns how many
/// allocations that took, start and end left out.
pub fn drain(batches: usize, records: usize) -> u64 {
    let now = Instant::now();
    NOW.set(Some(now));
    mb::model::clock::simulate(&Time);
    let dir = tempfile::tempdir().expect("a folder for temporary files");
    let end = Offset::new((batches * records) as i64);
    let log = Arc::new(Log { end, batch: records, committed: AtomicU64::new(0) });
    let broker: Arc<dyn Broker> = Arc::<Log>::clone(&log);
    let config = Config {
        connection: Connection { topic: "orders".into(), ..Connection::default() },
        max_batch: records,
        max_concurrent_runs: 1,
        tick_runtime: Duration::from_secs(600),
        ..Config::default()
    };
    let db = schema::open(&dir.path().join(history::FILE)).expect("a fresh history");
    let info = startup::topic(broker.as_ref(), &config).expect("the log has it");
    let recovered =
        startup::recover_from(&db, broker.as_ref(), &config, &info).expect("a fresh start");
    let scope = recovered.scope;
    let step = Arc::new(Seen(AtomicU64::new(0)));
    let inputs = Inputs {
        step: Arc::<Seen>::clone(&step),
        broker,
        topic: info,
        recovered,
        in_doubt: false,
        lasting: Lasting::new(&config),
        config,
    };
    let (mut assembly, writer) = wire(inputs, |config, settle, _| {
        History::without_thread(db, scope, "rdkafka", config.history_keep, settle)
    })
    .expect("the log can do all that is asked for");
    let mut sensor = assembly.sensors.remove(0);
    let worker = assembly.worker(0);
    let queue = Arc::clone(&assembly.engine.queue);
    let (committer, heard) = (&assembly.committer, &assembly.events);
    let others = Rc::new(Others { queue, worker, writer: RefCell::new(writer) });
    OTHERS.set(Some(Rc::clone(&others)));

    let (made, error) = allocations(|| {
        let error = sensor.tick();
        others.go_on();
        error
    });
    assert_eq!(error, None);
    committer.commit(&mut Doubt::at_start(false)).expect("the log takes it");
    OTHERS.set(None);

    // It did its work, all of it.
    assert!(heard.is_empty(), "{:?}", heard.try_recv());
    assert_eq!(step.0.load(Ordering::Relaxed), end.get() as u64);
    assert_eq!(log.committed.load(Ordering::Relaxed), end.get() as u64);
    made
}

struct Others {
    queue: Arc<RunQueue>,
    worker: Worker,
    writer: RefCell<WriterTask>,
}

impl Others {
    /// Writes what there is to write, works off the queue, and writes the outcomes.
    fn go_on(&self) {
        self.write();
        while let Some(run) = self.queue.try_next() {
            assert!(self.worker.work(run));
        }
        self.write();
    }

    fn write(&self) {
        let mut writer = self.writer.borrow_mut();
        let waiting = writer.waiting();
        if waiting > 0 {
            writer.write(waiting).expect("the file can be written");
            writer.conclude();
        }
    }
}

/// Nothing happens by itself: who waits lets the others go on.
struct Time;

impl Simulated for Time {
    fn now(&self) -> Instant {
        NOW.get().expect("a drain has begun")
    }

    fn wait(&self, limit: Duration) {
        if limit.is_zero() {
            return;
        }
        let others = OTHERS.with_borrow(Clone::clone);
        others.expect("a drain is under way").go_on();
    }
}

/// A step that counts the records it is given.
struct Seen(AtomicU64);

impl Step for Seen {
    fn name(&self) -> &str {
        "seen"
    }

    fn run(&self, attempt: &mut Attempt<'_>) -> std::result::Result<(), StepError> {
        let records = attempt.batch.records().filter(|record| record.value.is_some());
        self.0.fetch_add(records.count() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// One partition with records from 0 to `end`. A poll hands over a batch's worth of them, so that
/// what a poll takes is the same however large the batches are.
struct Log {
    end: Offset,
    batch: usize,
    committed: AtomicU64,
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
        "one record, again and again".into()
    }

    fn topic(&self, topic: &str) -> Result<TopicInfo> {
        Ok(TopicInfo {
            name: topic.to_owned(),
            id: Some("id".into()),
            cluster_id: Some("cluster".into()),
            is_internal: false,
            partitions: vec![0],
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
        let marks = Watermarks { beginning: Offset::ZERO, end: self.end };
        Ok(partitions.iter().map(|partition| (*partition, Ok(marks))).collect())
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

    fn commit_all(&self, _: &str, _: &str, commits: &[Commit]) -> Result<(), CommitError> {
        for commit in commits {
            self.committed.store(commit.offset.get() as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    fn consumer(
        &self,
        _topic: &str,
        from: &[(Partition, Offset)],
        _settings: &FetchSettings,
    ) -> Result<Box<dyn Consumer>> {
        let [(0, next)] = from else { return not_asked() };
        Ok(Box::new(Reader { next: *next, end: self.end, batch: self.batch }))
    }

    fn producer(&self, _topic: &str) -> Result<Box<dyn Producer>> {
        not_asked()
    }
}

struct Reader {
    next: Offset,
    end: Offset,
    batch: usize,
}

impl Consumer for Reader {
    fn poll(&mut self, wait: Duration, sink: &mut dyn Sink) -> Result<()> {
        if self.next == self.end {
            // The log is read to its end: so the tick's time is over.
            let over = wait + Duration::from_secs(3600);
            NOW.set(NOW.get().map(|now| now + over));
        }
        for _ in 0..self.batch {
            if self.next == self.end || sink.record(0, record(self.next.get(), &[])) == Flow::Stop {
                break;
            }
            self.next = self.next.next();
        }
        Ok(())
    }

    fn pause(&mut self, _partition: Partition) -> Result<()> {
        not_asked()
    }

    fn resume(&mut self, _partition: Partition, _from: Offset) -> Result<()> {
        not_asked()
    }

    fn close(self: Box<Self>) {}
}

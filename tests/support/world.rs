//! A pipeline in the test's own process: an embedded topic, a step that remembers what it was given,
//! settings for short tests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};
use mb::config::Connection;
use mb::config::{OnMissingOffsets, OnOutage};
use mb::history::query;
use mb::history::schema;
use mb::kafka::embedded::Embedded;
use mb::kafka::{Broker, Message, Sent};
use mb::model::offset::{Offset, Partition};
use mb::step::{Attempt, Step, StepError};
use mb::{Client, Config, Pipeline, Stopper, Summary};
use tempfile::TempDir;

pub const TOPIC: &str = "orders";
/// No run of a test's pipeline takes nearly so long.
const RUN_LIMIT: Duration = Duration::from_secs(120);

/// A data directory with an embedded topic of three partitions.
pub struct World {
    pub dir: TempDir,
    pub topics: Embedded,
}

impl World {
    /// Takes the records of partition 1 below `beginning` away, as retention does.
    pub fn remove_below(&self, beginning: i64) {
        self.take_away("last_offset < ?2", "beginning", beginning);
    }

    /// Takes the records of partition 1 from `end` on away, as an unclean election of a leader does.
    pub fn cut_off(&self, end: i64) {
        self.topics.cut_off(TOPIC, 1, Offset::new(end)).unwrap();
    }

    fn take_away(&self, which: &str, mark: &str, offset: i64) {
        let file = self.dir.path().join(mb::kafka::embedded::FILE);
        let db = rusqlite::Connection::open(file).unwrap();
        let row: i64 = db
            .query_row("SELECT id FROM partitions WHERE partition = 1", [], |row| row.get(0))
            .unwrap();
        let delete = format!("DELETE FROM chunks WHERE partition = ?1 AND {which}");
        db.execute(&delete, [row, offset]).unwrap();
        let update = format!("UPDATE partitions SET {mark} = ?2 WHERE id = ?1");
        db.execute(&update, [row, offset]).unwrap();
    }

    pub fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let topics = Embedded::open(dir.path(), 1 << 30).unwrap();
        topics.create_topic(TOPIC, 3).unwrap();
        World { dir, topics }
    }

    pub fn with_records(per_partition: usize) -> World {
        let world = World::new();
        for partition in 0..3 {
            for n in 0..per_partition {
                world.post(partition, format!("{partition}-{n}").as_bytes());
            }
        }
        world
    }

    pub fn post(&self, partition: Partition, value: &[u8]) {
        let mut producer = self.topics.producer(TOPIC).unwrap();
        let message = Message { partition, key: None, value: Some(value), headers: &[] };
        assert_eq!(producer.send(message, Duration::from_secs(10)).unwrap(), Sent::Accepted);
        assert_eq!(producer.flush(Duration::from_secs(10)).unwrap(), 0);
    }

    /// Settings for a short test: small batches, quick retries, ends when caught up. A run that fails is given up
    /// on after its attempts, whether or not others succeed: most tests have too few to compare.
    pub fn config(&self) -> Config {
        Config {
            connection: Connection {
                topic: TOPIC.into(),
                client: Client::Embedded,
                data_dir: self.dir.path().to_owned(),
                ..Connection::default()
            },
            max_batch: 7,
            max_wait: Duration::from_millis(20),
            tick_runtime: Duration::from_millis(500),
            tick_interval: Duration::from_millis(10),
            retry_backoff: Duration::from_millis(5),
            on_outage: OnOutage::DeadLetter,
            until_caught_up: true,
            ..Config::default()
        }
    }

    /// `config`, with `--on-missing-offsets skip`.
    pub fn skipping(&self) -> Config {
        Config { on_missing_offsets: OnMissingOffsets::Skip, ..self.config() }
    }

    /// What was passed over: partition, first and last offset.
    pub fn gaps(&self) -> Vec<(Partition, i64, i64)> {
        gaps_in(&self.history())
    }

    pub fn run(&self, config: Config, step: &Arc<Recorder>) -> mb::Result<Summary> {
        self.run_on(Arc::new(self.topics.clone()), config, step)
    }

    pub fn run_on(
        &self,
        broker: Arc<dyn Broker>,
        config: Config,
        step: &Arc<Recorder>,
    ) -> mb::Result<Summary> {
        let (stopper, stop) = Stopper::new();
        let (running, over) = bounded::<()>(0);
        // A pipeline that never ends is a failure, and no hang.
        let watchdog = thread::spawn(move || {
            let is_late = over.recv_timeout(RUN_LIMIT) == Err(RecvTimeoutError::Timeout);
            if is_late {
                stopper.stop();
                stopper.stop();
            }
            is_late
        });
        let step: Arc<dyn Step> = Arc::<Recorder>::clone(step);
        let result = Pipeline::new(config, step).with_broker(broker).run(&stop);
        drop(running);
        assert!(!watchdog.join().unwrap(), "mb did not end within {RUN_LIMIT:?}: {result:?}");
        result
    }

    pub fn committed(&self, group: &str) -> BTreeMap<Partition, Offset> {
        let answers = self.topics.committed(group, TOPIC, &[0, 1, 2]).unwrap();
        let offsets = answers.into_iter().map(|(partition, offset)| (partition, offset.unwrap()));
        offsets.filter_map(|(partition, offset)| Some((partition, offset?))).collect()
    }

    pub fn history(&self) -> rusqlite::Connection {
        schema::open_read_only(&self.dir.path().join(mb::history::FILE)).unwrap()
    }
}

/// What was passed over: partition, first and last offset.
pub fn gaps_in(history: &rusqlite::Connection) -> Vec<(Partition, i64, i64)> {
    let mut rows =
        history.prepare("SELECT partition, first_offset, last_offset FROM gaps").unwrap();
    let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    rows.query_map([], row).unwrap().map(Result::unwrap).collect()
}

pub fn runs_in(
    history: &rusqlite::Connection,
    state: &str,
    limit: u32,
) -> mb::Result<Vec<query::RunRow>> {
    let selection = query::Selection { state: Some(state.into()), limit, ..Default::default() };
    query::runs(history, &selection)
}

pub fn all(offset: i64) -> BTreeMap<Partition, Offset> {
    (0..3).map(|partition| (partition, Offset::new(offset))).collect()
}

pub type Content = Vec<(i64, Option<Vec<u8>>)>;
pub type Namer = Box<dyn Fn(&mut Attempt<'_>) + Send + Sync>;
pub type Judge = Box<dyn Fn(&Attempt<'_>) -> Result<(), StepError> + Send + Sync>;

/// Remembers what it was given, and fails as it is told to.
pub struct Recorder {
    /// Every attempt: run key, number, content.
    pub attempts: Mutex<Vec<(String, u32, Content)>>,
    /// Content of each run that succeeded.
    pub done: Mutex<BTreeMap<String, Content>>,
    pub judge: Judge,
    /// Names the records of an attempt that failed.
    pub namer: Namer,
}

impl Recorder {
    pub fn new(
        judge: impl Fn(&Attempt<'_>) -> Result<(), StepError> + Send + Sync + 'static,
    ) -> Arc<Recorder> {
        Recorder::naming(|_| {}, judge)
    }

    pub fn naming(
        namer: impl Fn(&mut Attempt<'_>) + Send + Sync + 'static,
        judge: impl Fn(&Attempt<'_>) -> Result<(), StepError> + Send + Sync + 'static,
    ) -> Arc<Recorder> {
        let (attempts, done) = (Mutex::default(), Mutex::default());
        Arc::new(Recorder { attempts, done, judge: Box::new(judge), namer: Box::new(namer) })
    }

    pub fn content_by_key(&self) -> BTreeMap<String, BTreeSet<Content>> {
        let mut by_key: BTreeMap<String, BTreeSet<Content>> = BTreeMap::new();
        for (key, _, content) in self.attempts.lock().unwrap().iter() {
            by_key.entry(key.clone()).or_default().insert(content.clone());
        }
        by_key
    }

    /// Partition and offset of each record in a run that succeeded, as often as it was in one.
    pub fn done_records(&self) -> Vec<(String, i64)> {
        let mut records = Vec::new();
        for (key, content) in self.done.lock().unwrap().iter() {
            let partition = key.split('/').nth(1).unwrap().to_owned();
            records.extend(content.iter().map(|(offset, _)| (partition.clone(), *offset)));
        }
        records.sort();
        records
    }

    pub fn numbers_of(&self, key: &str) -> Vec<u32> {
        let attempts = self.attempts.lock().unwrap();
        attempts.iter().filter(|(known, ..)| known == key).map(|(_, number, _)| *number).collect()
    }
}

impl Step for Recorder {
    fn name(&self) -> &str {
        "recorder"
    }

    fn run(&self, attempt: &mut Attempt<'_>) -> Result<(), StepError> {
        let records = attempt.batch.records();
        let content: Content =
            records.map(|r| (r.offset.get(), r.value.map(<[u8]>::to_vec))).collect();
        let key = attempt.key.to_string();
        self.attempts.lock().unwrap().push((key.clone(), attempt.number, content.clone()));
        (self.namer)(attempt);
        (self.judge)(attempt)?;
        self.done.lock().unwrap().insert(key, content);
        Ok(())
    }
}

pub fn every_record_once(per_partition: i64) -> Vec<(String, i64)> {
    let mut records: Vec<_> = (0..3)
        .flat_map(|partition| (0..per_partition).map(move |n| (partition.to_string(), n)))
        .collect();
    records.sort();
    records
}

/// Halts on the poison run once `others` runs are done, so that there is work finished above it,
/// and all of its partition below it.
pub fn halt_on(poison: &'static str, others: usize) -> Arc<Recorder> {
    let done = Mutex::new(Vec::new());
    Recorder::new(move |attempt| {
        let (partition, range) = (attempt.key.partition, attempt.key.range);
        let mut done = done.lock().unwrap();
        if attempt.key.to_string() != poison {
            done.push((partition, range));
            return Ok(());
        }
        let below = done.iter().filter(|(p, other)| *p == partition && other.last < range.first);
        let below: i64 = below.map(|(_, other)| other.end().get() - other.first.get()).sum();
        if done.len() < others || below < range.first.get() {
            return Err(StepError::Retry("not before the others".into()));
        }
        Err(StepError::Stop("cannot go on".into()))
    })
}

/// Halts on the poison run once `others` runs are done, wherever they lie.
pub fn halt_after(poison: &'static str, others: usize) -> Arc<Recorder> {
    let done = Mutex::new(0);
    Recorder::new(move |attempt| {
        let mut done = done.lock().unwrap();
        if attempt.key.to_string() != poison {
            *done += 1;
            return Ok(());
        }
        if *done < others {
            return Err(StepError::RetryFailed("not before the others".into()));
        }
        Err(StepError::Stop("cannot go on".into()))
    })
}

pub fn history_file(dir: &Path) -> std::path::PathBuf {
    dir.join(mb::history::FILE)
}

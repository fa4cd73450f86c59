//! The whole pipeline in this process, over the embedded topic: what steps see, what is committed,
//! what a restart does. Real brokers and real kills have files of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mb::broker::embedded::{Call, Embedded, Faults};
use mb::broker::{Broker, Message, Sent};
use mb::config::{Connection, OnFailure, StartFrom};
use mb::history::query;
use mb::history::schema;
use mb::offset::{Offset, Partition};
use mb::step::{Attempt, Step, StepError};
use mb::{Client, Config, Error, Pipeline, Stopper, Summary};
use tempfile::TempDir;

const TOPIC: &str = "orders";

/// A data directory with an embedded topic of three partitions.
struct World {
    dir: TempDir,
    topics: Embedded,
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let topics = Embedded::open(dir.path(), 1 << 30).unwrap();
        topics.create_topic(TOPIC, 3).unwrap();
        World { dir, topics }
    }

    fn with_records(per_partition: usize) -> World {
        let world = World::new();
        for partition in 0..3 {
            for n in 0..per_partition {
                world.post(partition, format!("{partition}-{n}").as_bytes());
            }
        }
        world
    }

    fn post(&self, partition: Partition, value: &[u8]) {
        let mut producer = self.topics.producer(TOPIC).unwrap();
        let message = Message { partition, key: None, value: Some(value), headers: &[] };
        assert_eq!(producer.send(message, Duration::from_secs(10)).unwrap(), Sent::Accepted);
        assert_eq!(producer.flush(Duration::from_secs(10)).unwrap(), 0);
    }

    /// Settings for a short test: small batches, quick retries, ends when caught up.
    fn config(&self) -> Config {
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
            until_caught_up: true,
            ..Config::default()
        }
    }

    fn run(&self, config: Config, step: &Arc<Recorder>) -> mb::Result<Summary> {
        self.run_on(Arc::new(self.topics.clone()), config, step)
    }

    fn run_on(
        &self,
        broker: Arc<dyn Broker>,
        config: Config,
        step: &Arc<Recorder>,
    ) -> mb::Result<Summary> {
        let (_stopper, stop) = Stopper::new();
        let step: Arc<dyn Step> = Arc::<Recorder>::clone(step);
        Pipeline::new(config, step).with_broker(broker).run(&stop)
    }

    fn committed(&self, group: &str) -> BTreeMap<Partition, Offset> {
        self.topics.committed(group, TOPIC, &[0, 1, 2]).unwrap()
    }

    fn history(&self) -> rusqlite::Connection {
        schema::open_read_only(&self.dir.path().join(mb::history::FILE)).unwrap()
    }
}

fn runs_in(
    history: &rusqlite::Connection,
    state: &str,
    limit: u32,
) -> mb::Result<Vec<query::RunRow>> {
    let selection = query::Selection { state: Some(state.into()), limit, ..Default::default() };
    query::runs(history, &selection)
}

fn all(offset: i64) -> BTreeMap<Partition, Offset> {
    (0..3).map(|partition| (partition, Offset::new(offset))).collect()
}

type Content = Vec<(i64, Option<Vec<u8>>)>;
type Judge = Box<dyn Fn(&Attempt<'_>) -> Result<(), StepError> + Send + Sync>;

/// Remembers what it was given, and fails as it is told to.
struct Recorder {
    /// Every attempt: run key, number, content.
    attempts: Mutex<Vec<(String, u32, Content)>>,
    /// Content of each run that succeeded.
    done: Mutex<BTreeMap<String, Content>>,
    judge: Judge,
}

impl Recorder {
    fn new(
        judge: impl Fn(&Attempt<'_>) -> Result<(), StepError> + Send + Sync + 'static,
    ) -> Arc<Recorder> {
        let (attempts, done) = (Mutex::default(), Mutex::default());
        Arc::new(Recorder { attempts, done, judge: Box::new(judge) })
    }

    fn content_by_key(&self) -> BTreeMap<String, BTreeSet<Content>> {
        let mut by_key: BTreeMap<String, BTreeSet<Content>> = BTreeMap::new();
        for (key, _, content) in self.attempts.lock().unwrap().iter() {
            by_key.entry(key.clone()).or_default().insert(content.clone());
        }
        by_key
    }

    /// Partition and offset of each record in a run that succeeded, as often as it was in one.
    fn done_records(&self) -> Vec<(String, i64)> {
        let mut records = Vec::new();
        for (key, content) in self.done.lock().unwrap().iter() {
            let partition = key.split('/').nth(1).unwrap().to_owned();
            records.extend(content.iter().map(|(offset, _)| (partition.clone(), *offset)));
        }
        records.sort();
        records
    }

    fn numbers_of(&self, key: &str) -> Vec<u32> {
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
        (self.judge)(attempt)?;
        self.done.lock().unwrap().insert(key, content);
        Ok(())
    }
}

fn every_record_once(per_partition: i64) -> Vec<(String, i64)> {
    let mut records: Vec<_> = (0..3)
        .flat_map(|partition| (0..per_partition).map(move |n| (partition.to_string(), n)))
        .collect();
    records.sort();
    records
}

#[test]
fn every_record_is_processed_once_and_committed() {
    let world = World::with_records(100);
    let step = Recorder::new(|_| Ok(()));
    let summary = world.run(world.config(), &step).unwrap();
    assert_eq!(step.done_records(), every_record_once(100));
    assert_eq!(world.committed("mb"), all(100));
    assert_eq!(summary.records_done, 300);
    let values = step.done.lock().unwrap();
    let first = &values["orders/1/0-6"];
    assert_eq!(first[3], (3, Some(b"1-3".to_vec())));
}

#[test]
fn batches_are_no_larger_than_asked_and_of_one_partition() {
    let world = World::with_records(50);
    let step = Recorder::new(|_| Ok(()));
    world.run(Config { sensors: 2, ..world.config() }, &step).unwrap();
    for (key, content) in step.done.lock().unwrap().iter() {
        assert!(content.len() <= 7, "{key}");
        let partition = key.split('/').nth(1).unwrap();
        let own = |value: &Option<Vec<u8>>| {
            String::from_utf8(value.clone().unwrap()).unwrap().starts_with(&format!("{partition}-"))
        };
        assert!(content.iter().all(|(_, value)| own(value)), "{key}");
    }
    assert_eq!(step.done_records(), every_record_once(50));
}

#[test]
fn a_failed_attempt_is_followed_by_another_with_the_same_key_and_content() {
    let world = World::with_records(20);
    let step = Recorder::new(|attempt| {
        if attempt.number < 3 { Err(StepError::Retry("not yet".into())) } else { Ok(()) }
    });
    world.run(world.config(), &step).unwrap();
    assert_eq!(step.done_records(), every_record_once(20));
    for (key, contents) in step.content_by_key() {
        assert_eq!(contents.len(), 1, "{key} had one content at every attempt");
        assert_eq!(step.numbers_of(&key), [1, 2, 3], "{key}");
    }
    assert_eq!(world.committed("mb"), all(20));
}

#[test]
fn after_the_last_attempt_records_are_dead_letters_and_the_offsets_go_on() {
    let world = World::with_records(21);
    let step = Recorder::new(|attempt| {
        let poison = attempt.key.to_string() == "orders/1/7-13";
        if poison { Err(StepError::Retry("bad record".into())) } else { Ok(()) }
    });
    let summary = world.run(Config { max_attempts: 2, ..world.config() }, &step).unwrap();
    assert_eq!((summary.runs_failed, summary.dead_letters), (1, 7));
    assert_eq!(step.numbers_of("orders/1/7-13"), [1, 2]);
    assert_eq!(world.committed("mb"), all(21));

    let history = world.history();
    let failed = runs_in(&history, "failed", 10).unwrap();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].error.as_deref(), Some("bad record"));
    let detail = query::run(&history, failed[0].id).unwrap().unwrap();
    assert_eq!((detail.failed_attempts.len(), detail.dead_letters), (2, 7));
    let kept: Vec<(i64, Vec<u8>)> = history
        .prepare("SELECT record_offset, value FROM dead_letters ORDER BY record_offset")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let expected: Vec<_> = (7..=13).map(|n| (n, format!("1-{n}").into_bytes())).collect();
    assert_eq!(kept, expected);
}

#[test]
fn a_panic_in_the_step_fails_the_attempt_and_not_the_process() {
    let world = World::with_records(7);
    let step = Recorder::new(|attempt| {
        assert!(attempt.number > 1 || attempt.key.partition != 2, "the step slips");
        Ok(())
    });
    world.run(world.config(), &step).unwrap();
    assert_eq!(step.done_records(), every_record_once(7));
    assert_eq!(step.numbers_of("orders/2/0-6"), [1, 2]);
}

#[test]
fn a_step_can_give_up_on_a_batch_at_once() {
    let world = World::with_records(7);
    let step = Recorder::new(|attempt| match attempt.key.partition {
        0 => Err(StepError::DeadLetter("unreadable".into())),
        _ => Ok(()),
    });
    let summary = world.run(world.config(), &step).unwrap();
    assert_eq!(summary.dead_letters, 7);
    assert_eq!(step.numbers_of("orders/0/0-6"), [1]);
}

/// Halts on the poison run once `others` runs are done, so that there is work finished above it,
/// and all of its partition below it.
fn halt_on(poison: &'static str, others: usize) -> Arc<Recorder> {
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

#[test]
fn a_halt_commits_nothing_past_the_run_and_a_restart_makes_the_same_ranges_again() {
    let world = World::with_records(70);
    let poison = "orders/1/14-20";
    let config = || Config { max_attempts: u32::MAX, ..world.config() };
    let first = halt_on(poison, 15);
    let error = world.run(config(), &first).unwrap_err();
    assert_eq!(error.exit_code(), 65, "{error}");
    assert!(error.to_string().contains(poison), "{error}");
    assert_eq!(world.committed("mb")[&1], Offset::new(14));
    let done_before = first.done_records();
    assert!(done_before.iter().any(|(p, offset)| p == "1" && *offset > 20), "work above the halt");

    // Other limits now: stored ranges outlive them.
    let second = Recorder::new(|_| Ok(()));
    world.run(Config { max_batch: 3, ..config() }, &second).unwrap();
    assert_eq!(second.numbers_of(poison), [1], "made again, its attempts anew");
    let mut both = done_before;
    both.extend(second.done_records());
    both.sort();
    assert_eq!(both, every_record_once(70), "finished runs are not done twice");
    assert_eq!(world.committed("mb"), all(70));
    for (key, contents) in first.content_by_key() {
        if let Some(again) = second.content_by_key().get(&key) {
            assert_eq!(*again, contents, "{key} has the same content after the restart");
        }
    }
}

#[test]
fn with_on_failure_halt_the_last_attempt_halts() {
    let world = World::with_records(7);
    let step = Recorder::new(|attempt| match attempt.key.partition {
        2 => Err(StepError::Retry("no".into())),
        _ => Ok(()),
    });
    let config = Config { on_failure: OnFailure::Halt, max_attempts: 2, ..world.config() };
    let error = world.run(config, &step).unwrap_err();
    assert!(matches!(&error, Error::Halt(text) if text.contains("orders/2/0-6")), "{error}");
    assert_eq!(step.numbers_of("orders/2/0-6"), [1, 2]);
    assert!(world.committed("mb").get(&2).is_none_or(|offset| *offset == Offset::ZERO));
    let halted = runs_in(&world.history(), "failed", 10).unwrap();
    assert_eq!((halted.len(), halted[0].state.as_str()), (1, "halted"));
}

#[test]
fn groups_have_scopes_of_their_own_on_one_data_directory() {
    let world = World::with_records(30);
    for group in ["a", "b"] {
        let mut config = world.config();
        config.connection.group = group.into();
        let step = Recorder::new(|_| Ok(()));
        world.run(config, &step).unwrap();
        assert_eq!(step.done_records(), every_record_once(30), "group {group}");
    }
}

#[test]
fn somebody_elses_reset_voids_the_stored_ranges() {
    let world = World::with_records(21);
    let step = halt_on("orders/0/7-13", 6);
    world.run(Config { max_attempts: u32::MAX, ..world.config() }, &step).unwrap_err();
    world.topics.commit("mb", TOPIC, &[(0, Offset::new(3))]).unwrap();
    let again = Recorder::new(|_| Ok(()));
    world.run(world.config(), &again).unwrap();
    let of_0: Vec<i64> =
        again.done_records().into_iter().filter(|(p, _)| p == "0").map(|(_, o)| o).collect();
    assert_eq!(of_0, (3..21).collect::<Vec<_>>(), "all from the new position on");
    assert!(again.numbers_of("orders/0/7-13").is_empty(), "the old range means nothing");
    let voided = runs_in(&world.history(), "voided", 10).unwrap();
    assert!(voided.iter().any(|run| run.key == "orders/0/7-13"), "{voided:?}");
}

#[test]
fn latest_starts_at_the_end_and_its_start_outlives_a_restart() {
    let world = World::with_records(10);
    let latest = || Config { from: StartFrom::Latest, ..world.config() };
    let step = Recorder::new(|_| Ok(()));
    world.run(latest(), &step).unwrap();
    assert_eq!(step.done_records(), []);
    assert_eq!(world.committed("mb"), all(10));
    world.post(1, b"new");
    world.run(latest(), &step).unwrap();
    assert_eq!(step.done_records(), [("1".to_owned(), 10)]);
}

#[test]
fn committed_fails_where_nothing_was_committed() {
    let world = World::with_records(1);
    let step = Recorder::new(|_| Ok(()));
    let config = Config { from: StartFrom::Committed, ..world.config() };
    let error = world.run(config, &step).unwrap_err();
    assert_eq!(error.exit_code(), 78, "{error}");
    assert!(error.to_string().contains("--from committed"), "{error}");
}

#[test]
fn partitions_added_while_running_are_read_from_their_beginning() {
    let world = World::with_records(5);
    let (stopper, stop) = Stopper::new();
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let step = {
        let seen = Arc::clone(&seen);
        Recorder::new(move |attempt| {
            let mut seen = seen.lock().unwrap();
            seen.insert(attempt.key.partition);
            if seen.contains(&4) {
                stopper.stop();
            }
            Ok(())
        })
    };
    let config = Config { from: StartFrom::Latest, until_caught_up: false, ..world.config() };
    let topics = world.topics.clone();
    let pipeline = Pipeline::new(config, step as Arc<dyn Step>).with_broker(Arc::new(topics));
    let running = std::thread::spawn(move || pipeline.run(&stop));
    // The group's start is committed before anything else: then it is running.
    while world.committed("mb").len() < 3 {
        std::thread::yield_now();
    }
    world.topics.add_partitions(TOPIC, 5).unwrap();
    world.post(4, b"in the new partition");
    running.join().unwrap().unwrap();
    assert_eq!(*seen.lock().unwrap(), BTreeSet::from([4]));
}

#[test]
fn a_record_larger_than_a_batch_is_a_batch_of_its_own() {
    let world = World::new();
    world.post(0, b"small");
    world.post(0, &vec![b'x'; 3 << 20]);
    world.post(0, b"small");
    let step = Recorder::new(|_| Ok(()));
    world.run(Config { max_wait: Duration::from_secs(5), ..world.config() }, &step).unwrap();
    let keys: Vec<_> = step.done.lock().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["orders/0/0-0", "orders/0/1-1", "orders/0/2-2"]);
}

#[test]
fn a_small_byte_budget_lets_everything_through_in_turn() {
    let world = World::new();
    for n in 0..60 {
        world.post(n % 3, &vec![b'x'; 50_000 + 1000 * n as usize]);
    }
    let in_step = Arc::new(AtomicU32::new(0));
    let step = {
        let in_step = Arc::clone(&in_step);
        Recorder::new(move |attempt| {
            let bytes = u32::try_from(attempt.batch.payload_bytes()).unwrap();
            let now = in_step.fetch_add(bytes, Ordering::SeqCst) + bytes;
            std::thread::sleep(Duration::from_millis(1));
            in_step.fetch_sub(bytes, Ordering::SeqCst);
            if now > 220_000 { Err(StepError::Stop(format!("{now} bytes"))) } else { Ok(()) }
        })
    };
    let config = Config { queue_bytes: 220_000, max_batch_bytes: 120_000, ..world.config() };
    world.run(config, &step).unwrap();
    assert_eq!(step.done_records().len(), 60);
}

#[test]
fn ranges_from_a_larger_budget_are_still_made_again_in_a_smaller_one() {
    let world = World::new();
    for n in 0..90 {
        world.post(n % 3, &vec![b'x'; 5_000]);
    }
    let step = halt_on("orders/0/0-29", 2);
    let large = Config { max_batch: 30, max_attempts: u32::MAX, ..world.config() };
    world.run(large, &step).unwrap_err();
    let step = Recorder::new(|_| Ok(()));
    let small = Config { queue_bytes: 160_000, max_batch_bytes: 10_000, ..world.config() };
    world.run(small, &step).unwrap();
    assert_eq!(step.numbers_of("orders/0/0-29"), [1]);
}

#[test]
fn under_faults_nothing_is_lost_and_every_run_key_has_one_content() {
    for seed in [1, 2, 3, fastrand::u64(..)] {
        println!("seed {seed}");
        let world = World::with_records(80);
        let faults = Faults::new(seed);
        faults.fail_randomly(0.2);
        faults.fail_next(Call::Commit, 2);
        let broker = Arc::new(world.topics.with_faults(faults.clone()));
        let rng = Mutex::new(fastrand::Rng::with_seed(seed));
        let step = Recorder::new(move |_| {
            let unlucky = rng.lock().unwrap().f64() < 0.1;
            if unlucky { Err(StepError::Retry("unlucky".into())) } else { Ok(()) }
        });
        let config = Config {
            max_attempts: u32::MAX,
            tick_runtime: Duration::from_millis(20),
            queue: 3,
            ..world.config()
        };
        world.run_on(broker, config, &step).unwrap();
        assert!(faults.struck() > 0, "seed {seed}: faults did strike");
        assert_eq!(step.done_records(), every_record_once(80), "seed {seed}");
        assert_eq!(world.committed("mb"), all(80), "seed {seed}");
        for (key, contents) in step.content_by_key() {
            assert_eq!(contents.len(), 1, "seed {seed}: {key}");
        }
    }
}

#[test]
fn a_data_directory_in_use_is_refused_with_its_holder() {
    let world = World::with_records(1);
    let _held = mb::data_dir::DataDir::lock(world.dir.path()).unwrap();
    let error = world.run(world.config(), &Recorder::new(|_| Ok(()))).unwrap_err();
    assert_eq!(error.exit_code(), 78);
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
}

#[test]
fn unfinished_runs_of_a_richer_client_are_refused() {
    let world = World::with_records(7);
    let step = Recorder::new(|_| Err(StepError::Stop("stop".into())));
    world.run(world.config(), &step).unwrap_err();
    let history = rusqlite::Connection::open(history_file(world.dir.path())).unwrap();
    history.execute("UPDATE runs SET client = 'rdkafka'", []).unwrap();
    let error = world.run(world.config(), &Recorder::new(|_| Ok(()))).unwrap_err();
    assert_eq!(error.exit_code(), 78);
    assert!(error.to_string().contains("--client rdkafka"), "{error}");
}

#[test]
fn old_runs_leave_the_history_but_not_those_that_a_restart_needs() {
    let world = World::with_records(2500);
    let step = halt_on("orders/0/0-0", 7400);
    let config =
        Config { max_batch: 1, max_attempts: u32::MAX, history_keep: 100, ..world.config() };
    world.run(config.clone(), &step).unwrap_err();
    let count = |state: &str| runs_in(&world.history(), state, 100_000).unwrap().len();
    assert!(count("succeeded") < 2600, "old runs of partitions 1 and 2 are gone");
    let finished_above = step.done_records().iter().filter(|(p, _)| p == "0").count();
    let again = Recorder::new(|_| Ok(()));
    world.run(config, &again).unwrap();
    let of_0 = again.done_records().iter().filter(|(p, _)| p == "0").count();
    assert_eq!(of_0 + finished_above, 2500, "no finished run of partition 0 was done twice");
}

fn history_file(dir: &Path) -> std::path::PathBuf {
    dir.join(mb::history::FILE)
}

#[test]
fn a_forced_stop_ends_running_commands_and_their_attempt_does_not_count() {
    let world = World::with_records(7);
    let (stopper, stop) = Stopper::new();
    let started = world.dir.path().join("started");
    let command = format!("echo >> {}; exec sleep 1000", started.display());
    let step: Arc<dyn Step> = Arc::new(mb::step::ExecStep::new(command, None));
    let config = Config { max_attempts: 1, until_caught_up: false, ..world.config() };
    let pipeline = Pipeline::new(config, step).with_broker(Arc::new(world.topics.clone()));
    let running = std::thread::spawn(move || pipeline.run(&stop));
    while std::fs::read_to_string(&started).unwrap_or_default().lines().count() < 3 {
        std::thread::yield_now();
    }
    stopper.stop();
    stopper.stop();
    let error = running.join().unwrap().unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    let step = Recorder::new(|_| Ok(()));
    world.run(world.config(), &step).unwrap();
    assert_eq!(step.done_records(), every_record_once(7));
    assert_eq!(runs_in(&world.history(), "failed", 10).unwrap(), []);
}

#[test]
fn a_stop_ends_where_the_history_cannot_be_written_and_commits_nothing() {
    let world = World::with_records(7);
    let (stopper, stop) = Stopper::new();
    let lock = Mutex::new(None);
    let path = history_file(world.dir.path());
    let step = Recorder::new(move |_| {
        let mut lock = lock.lock().unwrap();
        if lock.is_none() {
            let other = rusqlite::Connection::open(&path).unwrap();
            other.busy_timeout(Duration::from_secs(60)).unwrap();
            other.execute_batch("BEGIN IMMEDIATE").unwrap();
            *lock = Some(other);
            stopper.stop();
        }
        Ok(())
    });
    let config = Config { until_caught_up: false, ..world.config() };
    let pipeline = Pipeline::new(config, Arc::<Recorder>::clone(&step) as Arc<dyn Step>)
        .with_broker(Arc::new(world.topics.clone()));
    let (ended, end) = crossbeam_channel::bounded(1);
    let running = std::thread::spawn(move || ended.send(pipeline.run(&stop)));
    let error = end.recv_timeout(Duration::from_secs(60)).expect("it ends").unwrap_err();
    assert_eq!(error.exit_code(), 1, "{error}");
    assert!(error.to_string().contains("history"), "{error}");
    running.join().unwrap().unwrap();
    let committed = world.committed("mb");
    assert!(committed.values().all(|offset| *offset == Offset::ZERO), "{committed:?}");
}

#[test]
fn a_stopper_that_is_dropped_after_its_stop_asks_for_no_second_one() {
    let world = World::with_records(7);
    let (stopper, stop) = Stopper::new();
    let stopper = Mutex::new(Some(stopper));
    let (stopping, until_stopping) = crossbeam_channel::bounded(0);
    let topics = world.topics.clone();
    let step = Recorder::new(move |_| {
        let Some(stopper) = stopper.lock().unwrap().take() else { return Ok(()) };
        stopper.stop();
        drop(stopper);
        // The pipeline has seen both once the partition's worker is waited for.
        let _ = stopping.send(());
        std::thread::sleep(Duration::from_millis(50));
        Ok(())
    });
    let config = Config { until_caught_up: false, ..world.config() };
    let pipeline = Pipeline::new(config, Arc::<Recorder>::clone(&step) as Arc<dyn Step>)
        .with_broker(Arc::new(topics));
    let running = std::thread::spawn(move || pipeline.run(&stop));
    until_stopping.recv().unwrap();
    running.join().unwrap().expect("an orderly stop");
    assert!(!step.done_records().is_empty());
}

#[test]
fn sensors_that_wait_for_each_others_memory_come_to_an_end() {
    let world = World::new();
    // Enough of it that no sensor reads one whole range before the other one begins.
    for n in 0..60 {
        world.post(n % 2, &vec![b'x'; 500_000]);
    }
    // Both ranges are planned, neither is done.
    let both = std::sync::Barrier::new(2);
    let step = Recorder::new(move |_| {
        both.wait();
        Err(StepError::Stop("here".into()))
    });
    let large = Config {
        max_batch: 30,
        max_batch_bytes: 20_000_000,
        max_wait: Duration::from_secs(60),
        queue_bytes: 64 << 20,
        max_concurrent_runs: 2,
        tick_runtime: Duration::from_secs(60),
        ..world.config()
    };
    world.run(large, &step).unwrap_err();
    let unfinished =
        query::runs(&world.history(), &query::Selection { limit: 10, ..Default::default() })
            .unwrap();
    assert_eq!(unfinished.len(), 2, "{unfinished:?}");
    let step = Recorder::new(|_| Ok(()));
    let small = Config {
        sensors: 2,
        queue_bytes: 20_000_000,
        max_batch_bytes: 10_000,
        tick_runtime: Duration::from_millis(200),
        ..world.config()
    };
    world.run(small, &step).unwrap();
    assert_eq!(step.numbers_of("orders/0/0-29"), [1]);
    assert_eq!(step.numbers_of("orders/1/0-29"), [1]);
}

#[test]
fn with_a_backlog_in_all_partitions_none_of_them_waits_for_another_to_end() {
    let world = World::new();
    let mut producer = world.topics.producer(TOPIC).unwrap();
    for partition in 0..3 {
        // One chunk of the log each, which a consumer hands over whole.
        for _ in 0..200 {
            let message = Message { partition, key: None, value: Some(b"v"), headers: &[] };
            assert_eq!(producer.send(message, Duration::from_secs(10)).unwrap(), Sent::Accepted);
        }
        assert_eq!(producer.flush(Duration::from_secs(10)).unwrap(), 0);
    }
    let (stopper, stop) = Stopper::new();
    let seen = Arc::new(Mutex::new((BTreeSet::new(), 0, false)));
    let step = {
        let seen = Arc::clone(&seen);
        Recorder::new(move |attempt| {
            std::thread::sleep(Duration::from_millis(5)); // the work: slower than the reading
            let mut seen = seen.lock().unwrap();
            seen.0.insert(attempt.key.partition);
            seen.1 += 1;
            if (seen.0.len() == 3 || seen.1 == 200) && !std::mem::replace(&mut seen.2, true) {
                stopper.stop();
            }
            Ok(())
        })
    };
    let config = Config {
        max_batch: 1,
        queue: 1,
        max_concurrent_runs: 1,
        tick_runtime: Duration::from_millis(50),
        until_caught_up: false,
        ..world.config()
    };
    let pipeline =
        Pipeline::new(config, step as Arc<dyn Step>).with_broker(Arc::new(world.topics.clone()));
    pipeline.run(&stop).unwrap();
    let (partitions, runs, _) = seen.lock().unwrap().clone();
    assert_eq!(partitions, BTreeSet::from([0, 1, 2]), "after {runs} runs");
}

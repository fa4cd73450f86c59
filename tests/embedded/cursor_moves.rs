//! A person moves the cursor of single partitions of a running mb: what is waited for, what is not, and what
//! happens if the log does not answer. Over the embedded topic, asked through the control socket.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::support::partly::{Answers, Partly};
use crate::support::world::*;
use crate::support::{eventually, eventually_some};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use mb::api::operations::cursor::{CallOffCursorMove, CursorMove, GetCursorMove, MoveCursor};
use mb::api::operations::overview::GetStatus;
use mb::api::operations::sensor::Pause;
use mb::api::operations::settings::ChangeSettings;
use mb::api::socket::Client;
use mb::history::ScopeId;
use mb::history::query::{self, RunRow};
use mb::history::recovery::{self, Decision};
use mb::kafka::embedded::{Embedded, Faults};
use mb::kafka::{Broker, Commit, CommitError, Committed};
use mb::model::error::Error;
use mb::model::offset::{Offset, Partition};
use mb::model::sync::Mutex;
use mb::step::Step;
use mb::{Config, Pipeline, Stopper, Summary};

const LIMIT: Duration = Duration::from_secs(60);

/// A pipeline that runs until it is stopped, and a connection to it.
struct Running {
    stopper: Stopper,
    thread: std::thread::JoinHandle<mb::Result<Summary>>,
    client: Client,
}

impl Running {
    fn start(world: &World, config: Config, step: Arc<dyn Step>) -> Running {
        Running::start_on(world, config, step, Arc::new(world.topics.clone()))
    }

    fn start_on(
        world: &World,
        config: Config,
        step: Arc<dyn Step>,
        broker: Arc<dyn Broker>,
    ) -> Running {
        let (stopper, stop) = Stopper::new();
        let config = Config { until_caught_up: false, ..config };
        let pipeline = Pipeline::new(config, step).with_broker(broker);
        let thread = std::thread::spawn(move || pipeline.run(&stop));
        let client = eventually_some(LIMIT, "mb reads the topic", || {
            assert!(!thread.is_finished(), "mb ended");
            let mut client = Client::connect(world.dir.path()).ok()??;
            let status = client.perform(GetStatus {}).ok()?;
            status.waiting_for.is_none().then_some(client)
        });
        Running { stopper, thread, client }
    }

    fn move_to(&mut self, offsets: &[(i32, i64)]) -> mb::Result<Vec<CursorMove>> {
        self.client.perform(cursor(offsets, 60.0))
    }

    fn stop(self) -> Summary {
        self.stopper.stop();
        self.thread.join().unwrap().unwrap()
    }
}

fn cursor(offsets: &[(i32, i64)], wait_s: f64) -> MoveCursor {
    MoveCursor { offsets: offsets.to_vec(), dry_run: false, wait_s: Some(wait_s) }
}

fn runs(world: &World) -> Vec<RunRow> {
    let selection = query::Selection { limit: 1000, ..Default::default() };
    let mut rows = query::runs(&world.history(), &selection).unwrap();
    rows.reverse();
    rows
}

fn keys_of(world: &World, partition: i32) -> Vec<String> {
    let keys = runs(world).into_iter().map(|run| run.key);
    keys.filter(|key| key.starts_with(&format!("{TOPIC}/{partition}/"))).collect()
}

/// A step whose attempts at partition `held` each wait for a message; all others go on.
fn gated(held: &'static str) -> (Arc<Recorder>, Receiver<String>, Sender<()>) {
    let (entered, enters) = unbounded();
    let (go, goes) = bounded(0);
    let step = Recorder::new(move |attempt| {
        let key = attempt.key.to_string();
        if key.starts_with(held) {
            entered.send(key).unwrap();
            // When the sender is gone, nobody is held any more.
            let _ = goes.recv_timeout(LIMIT);
        }
        Ok(())
    });
    (step, enters, go)
}

#[test]
fn a_moved_partition_is_read_from_its_new_offset_and_settings_stay() {
    let world = World::with_records(30);
    let step = Recorder::new(|_| Ok(()));
    let mut mb = Running::start(&world, world.config(), Arc::<Recorder>::clone(&step));
    eventually(LIMIT, "all is committed", || world.committed("mb") == all(30));
    let change =
        ChangeSettings { max_batch: Some(5), max_concurrent_runs: Some(2), ..Default::default() };
    mb.client.perform(change).unwrap();
    let moves = mb.move_to(&[(1, 12)]).unwrap();
    assert_eq!((moves[0].from, moves[0].to), (30, 12));
    eventually(LIMIT, "it is read again", || step.numbers_of("orders/1/27-29").len() == 1);
    let keys: Vec<_> = keys_of(&world, 1).into_iter().skip(5).collect();
    assert_eq!(keys, ["orders/1/12-16", "orders/1/17-21", "orders/1/22-26", "orders/1/27-29"]);
    eventually(LIMIT, "all is committed again", || world.committed("mb") == all(30));
    let view = mb.client.perform(ChangeSettings::default()).unwrap();
    assert_eq!((view.max_batch.value, view.max_batch.start_value), (5, 7));
    mb.stop();
}

#[test]
fn an_offset_outside_the_log_is_refused_and_nothing_moves() {
    let world = World::with_records(30);
    let step = Recorder::new(|_| Ok(()));
    let mut mb = Running::start(&world, world.config(), step);
    eventually(LIMIT, "all is committed", || world.committed("mb") == all(30));
    let request = MoveCursor { offsets: vec![(1, 12), (2, 30)], dry_run: true, wait_s: None };
    let moves = mb.client.perform(request).unwrap();
    let shown: Vec<_> =
        moves.iter().map(|m| (m.partition, m.from, m.to, m.beginning, m.end)).collect();
    assert_eq!(shown, [(1, 30, 12, 0, 30), (2, 30, 30, 0, 30)]);
    for outside in [&[(1, 31)][..], &[(1, -1)], &[(9, 0)], &[(1, 0), (1, 1)], &[]] {
        let error = mb.move_to(outside).unwrap_err();
        assert_eq!(error.exit_code(), 64, "{error}");
    }
    assert_eq!(world.committed("mb"), all(30), "nothing was moved");
    mb.stop();
}

#[test]
fn a_move_waits_for_the_runs_of_its_own_partition_alone() {
    let world = World::with_records(10);
    let (step, enters, go) = gated("orders/1/0-4");
    let config = Config { max_batch: 5, max_concurrent_runs: 2, ..world.config() };
    let mut mb = Running::start(&world, config, Arc::<Recorder>::clone(&step));
    assert_eq!(enters.recv_timeout(LIMIT).unwrap(), "orders/1/0-4");
    eventually(LIMIT, "the other partitions are committed", || {
        let committed = world.committed("mb");
        [0, 2].iter().all(|partition| committed.get(partition) == Some(&Offset::new(10)))
    });
    // Partition 1 has a run that does not end: nobody waits for it.
    mb.move_to(&[(0, 8)]).unwrap();
    eventually(LIMIT, "it is read again", || step.numbers_of("orders/0/8-9") == [1]);
    assert_eq!(world.committed("mb").get(&1), Some(&Offset::ZERO), "it is still running");
    drop(go);
    eventually(LIMIT, "all is committed", || world.committed("mb") == all(10));
    mb.stop();
}

#[test]
fn a_move_waits_for_running_runs_and_drops_the_queued_ones() {
    let world = World::with_records(10);
    let (step, enters, go) = gated("orders/0/0-4");
    let config = Config { max_batch: 5, max_concurrent_runs: 1, ..world.config() };
    let mut mb = Running::start(&world, config, Arc::<Recorder>::clone(&step));
    assert_eq!(enters.recv_timeout(LIMIT).unwrap(), "orders/0/0-4");
    eventually(LIMIT, "the next run is queued", || {
        keys_of(&world, 0).contains(&"orders/0/5-9".to_owned())
    });
    let mut other = Client::connect(world.dir.path()).unwrap().unwrap();
    let releaser = std::thread::spawn(move || {
        eventually(LIMIT, "the move waits", || {
            other.perform(GetCursorMove {}).unwrap().partitions == [0]
        });
        go.send(()).unwrap();
    });
    mb.move_to(&[(0, 8)]).unwrap();
    releaser.join().unwrap();
    eventually(LIMIT, "all is committed", || world.committed("mb") == all(10));
    mb.stop();
    assert_eq!(step.numbers_of("orders/0/0-4"), [1]);
    assert!(step.numbers_of("orders/0/5-9").is_empty(), "void: the cursor passed it");
    assert_eq!(step.numbers_of("orders/0/8-9"), [1]);
}

#[test]
fn a_run_that_outlasts_the_time_leaves_the_cursor_where_it_was() {
    let world = World::with_records(10);
    let (step, enters, go) = gated("orders/0/0-4");
    let config = Config { max_batch: 5, max_concurrent_runs: 1, ..world.config() };
    let mut mb = Running::start(&world, config, Arc::<Recorder>::clone(&step));
    assert_eq!(enters.recv_timeout(LIMIT).unwrap(), "orders/0/0-4");
    let error = mb.client.perform(cursor(&[(0, 8)], 0.05)).unwrap_err().to_string();
    assert!(error.contains("was not moved: run orders/0/0-4 is still running"), "{error}");
    drop(go);
    eventually(LIMIT, "all is committed", || world.committed("mb") == all(10));
    mb.stop();
    assert_eq!(step.numbers_of("orders/0/5-9"), [1], "what was queued runs, under its key");
    assert_eq!(step.done_records(), every_record_once(10));
}

#[test]
fn a_move_can_be_called_off() {
    let world = World::with_records(10);
    let (step, enters, go) = gated("orders/0/0-4");
    let config = Config { max_batch: 5, max_concurrent_runs: 1, ..world.config() };
    let mb = Running::start(&world, config, Arc::<Recorder>::clone(&step));
    assert_eq!(enters.recv_timeout(LIMIT).unwrap(), "orders/0/0-4");
    let path = world.dir.path().to_owned();
    let asker = std::thread::spawn(move || {
        let mut client = Client::connect(&path).unwrap().unwrap();
        client.perform(cursor(&[(0, 8)], 3600.0)).unwrap_err().to_string()
    });
    let mut other = Client::connect(world.dir.path()).unwrap().unwrap();
    eventually(LIMIT, "there is a move to call off", || {
        other.perform(CallOffCursorMove {}).unwrap().called_off
    });
    let error = asker.join().unwrap();
    assert!(error.contains("called off"), "{error}");
    drop(go);
    eventually(LIMIT, "all is committed", || world.committed("mb") == all(10));
    mb.stop();
    assert_eq!(step.done_records(), every_record_once(10));
}

/// A log of which some commits get no answer while it is told so: they arrive later, one after the other.
struct Unanswering {
    log: Embedded,
    is_silent: AtomicBool,
    /// Which commits.
    silences: fn(&[(Partition, Offset)]) -> bool,
    under_way: Mutex<Vec<Vec<Commit>>>,
}

impl Unanswering {
    fn new(
        world: &World,
        silences: fn(&[(Partition, Offset)]) -> bool,
    ) -> Arc<Partly<Unanswering>> {
        Arc::new(Partly(Unanswering {
            log: world.topics.clone(),
            is_silent: AtomicBool::new(true),
            silences,
            under_way: Mutex::default(),
        }))
    }

    /// The commits that got no answer arrive now.
    fn land(&self) {
        for commits in self.under_way.lock().drain(..) {
            self.log.commit_all("mb", TOPIC, &commits).unwrap();
        }
    }
}

impl Answers for Unanswering {
    fn broker(&self) -> &dyn Broker {
        &self.log
    }

    fn commit_all(&self, group: &str, topic: &str, commits: &[Commit]) -> Result<(), CommitError> {
        let offsets: Vec<_> = commits.iter().map(|one| (one.partition, one.offset)).collect();
        if self.is_silent.load(SeqCst) && (self.silences)(&offsets) {
            self.under_way.lock().push(commits.to_vec());
            return Err(CommitError::Unknown(Error::broker("commit", "no answer in time")));
        }
        self.log.commit_all(group, topic, commits)
    }
}

#[test]
fn a_late_commit_never_lands_on_top_of_a_move() {
    let world = World::with_records(10);
    let broker = Unanswering::new(&world, |_| true);
    let log = &broker.0;
    let step = Recorder::new(|_| Ok(()));
    let mut mb =
        Running::start_on(&world, world.config(), Arc::<Recorder>::clone(&step), broker.clone());
    eventually(LIMIT, "a commit of everything is under way", || {
        let under_way = log.under_way.lock();
        let sent: BTreeMap<_, _> =
            under_way.iter().flatten().map(|one| (one.partition, one.offset)).collect();
        sent == all(10)
    });
    log.is_silent.store(false, SeqCst);
    let began = Instant::now();
    let error = mb.move_to(&[(0, 3)]).unwrap_err().to_string();
    assert!(error.contains("may still reach the log"), "{error}");
    assert!(began.elapsed() < mb::config::limits::COMMIT_DOUBT / 2, "it is refused at once");
    log.land();
    assert_eq!(world.committed("mb"), all(10), "nothing was moved, so nothing is undone");
    world.post(0, b"one more");
    eventually(LIMIT, "the partition goes on", || world.committed("mb")[&0] == Offset::new(11));
    mb.stop();
    assert_eq!(step.done_records().len(), 31);
}

#[test]
fn a_move_that_is_cut_short_leaves_on_record_what_was_committed_while_it_waited() {
    let world = World::with_records(5);
    let broker = Unanswering::new(&world, |offsets| offsets.contains(&(0, Offset::new(3))));
    let (entered, enters) = unbounded();
    let (go, goes): (Vec<Sender<()>>, Vec<_>) = (0..2).map(|_| bounded(0)).unzip();
    let step = Recorder::new(move |attempt| {
        if let Some(goes) = goes.get(attempt.key.partition as usize) {
            entered.send(()).unwrap();
            let _ = goes.recv_timeout(LIMIT);
        }
        Ok(())
    });
    let config = Config { max_batch: 5, max_concurrent_runs: 3, ..world.config() };
    let mut mb = Running::start_on(&world, config, step, broker.clone());
    (0..2).for_each(|_| enters.recv_timeout(LIMIT).unwrap());
    let path = world.dir.path().to_owned();
    let asker = std::thread::spawn(move || {
        let mut client = Client::connect(&path).unwrap().unwrap();
        client.perform(cursor(&[(0, 3), (1, 3)], 60.0)).unwrap_err().to_string()
    });
    eventually(LIMIT, "the move waits for both partitions", || {
        mb.client.perform(GetCursorMove {}).unwrap().partitions == [0, 1]
    });
    let [first, second] = <[_; 2]>::try_from(go).unwrap();
    drop(first);
    eventually(LIMIT, "one of them is done and committed", || {
        world.committed("mb").get(&0) == Some(&Offset::new(5))
    });
    drop(second);
    eventually(LIMIT, "the move gets no answer", || !broker.0.under_way.lock().is_empty());
    mb.stop();
    let error = asker.join().unwrap();
    assert!(error.contains("mb stopped before the move was confirmed"), "{error}");
    let (recorded, _) = recovery::recorded_and_settled(&world.history(), ScopeId(1)).unwrap();
    let at_5 = world.committed("mb").get(&0).copied();
    let committed = at_5.map(Committed::plain);
    let decision = recovery::decide(recorded.get(&0), committed.as_ref(), "me");
    assert!(matches!(decision, Decision::Ours(_)), "mb itself committed {at_5:?}: {decision:?}");
}

#[test]
fn a_killed_mb_goes_on_from_the_offsets_of_the_move() {
    let world = World::with_records(30);
    let step = Recorder::new(|_| Ok(()));
    let mut mb = Running::start(&world, world.config(), Arc::<Recorder>::clone(&step));
    eventually(LIMIT, "all is committed", || world.committed("mb") == all(30));
    mb.client.perform(Pause {}).unwrap();
    mb.move_to(&[(0, 3)]).unwrap();
    assert_eq!(world.committed("mb")[&0], Offset::new(3));
    mb.stop();
    let later = Recorder::new(|_| Ok(()));
    world.run(world.config(), &later).unwrap();
    let expected: Vec<_> = (3..30).map(|offset| ("0".to_owned(), offset)).collect();
    assert_eq!(later.done_records(), expected);
    assert_eq!(world.committed("mb"), all(30));
}

/// Fails if a move that fails lets the partition be read after all.
#[test]
fn a_partition_that_must_not_be_read_is_read_after_a_move_and_not_after_one_that_failed() {
    let world = World::with_records(30);
    let metadata = "mb2 who knows".to_owned();
    let newer = Commit { partition: 1, offset: Offset::new(7), epoch: None, metadata };
    world.topics.commit_all("mb", TOPIC, &[newer]).unwrap();
    let faults = Faults::new(1);
    let topics = Arc::new(world.topics.with_faults(faults.clone()));
    let step = Recorder::new(|_| Ok(()));
    let mut mb = Running::start_on(&world, world.config(), Arc::<Recorder>::clone(&step), topics);
    let of_1 = || step.done_records().into_iter().filter(|(one, _)| one == "1").count();
    eventually(LIMIT, "the others are read", || step.done_records().len() == 60);
    faults.refuse_commits();
    mb.move_to(&[(1, 10)]).unwrap_err();
    // Some ticks later.
    world.post(0, b"new");
    eventually(LIMIT, "they are read on", || step.done_records().len() == 61);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(of_1(), 0);
    faults.heal();
    eventually(LIMIT, "it moves", || mb.move_to(&[(1, 10)]).is_ok());
    eventually(LIMIT, "it is read from there", || of_1() == 20);
    mb.stop();
}

//! What a person does to a running mb: pause, tick, other settings, cancels, runs made again, looks at
//! the topic; over the embedded topic, asked through the control socket.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crate::support::world::*;
use crate::support::{eventually, eventually_some};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use mb::api::operations::Operation;
use mb::api::operations::cancel_run::CancelRun;
use mb::api::operations::overview::GetStatus;
use mb::api::operations::preview::PreviewTick;
use mb::api::operations::records::ReadRecords;
use mb::api::operations::runs::{ListRuns, ReplayRun};
use mb::api::operations::sensor::{Pause, Resume, Tick};
use mb::api::operations::settings::ChangeSettings;
use mb::api::request::Request;
use mb::api::socket::Client;
use mb::config::steering::SettingsView;
use mb::config::{OnFailure, Order, Produce};
use mb::history::query::{self, RunDetail, RunRow};
use mb::step::{ExecStep, Step, StepError};
use mb::{Config, Pipeline, Stopper, Summary};

const LIMIT: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(3600);

/// A pipeline that runs until it is stopped, and a connection to it.
struct Running {
    stopper: Stopper,
    thread: std::thread::JoinHandle<mb::Result<Summary>>,
    client: Client,
}

impl Running {
    fn start(world: &World, config: Config, step: Arc<dyn Step>) -> Running {
        let (stopper, stop) = Stopper::new();
        let config = Config { until_caught_up: false, ..config };
        let pipeline = Pipeline::new(config, step).with_broker(Arc::new(world.topics.clone()));
        let thread = std::thread::spawn(move || pipeline.run(&stop));
        let client = eventually_some(LIMIT, "mb reads the topic", || {
            assert!(!thread.is_finished(), "mb ended");
            let mut client = Client::connect(world.dir.path()).ok()??;
            let status = client.perform(GetStatus {}).ok()?;
            status.waiting_for.is_none().then_some(client)
        });
        Running { stopper, thread, client }
    }

    fn perform<O: Operation + Into<Request>>(&mut self, operation: O) -> O::Answer {
        self.client.perform(operation).unwrap()
    }

    fn refused<O: Operation + Into<Request>>(&mut self, operation: O) -> mb::Error {
        self.client.perform(operation).err().expect("a refusal")
    }

    fn set(&mut self, change: ChangeSettings) -> SettingsView {
        self.perform(change)
    }

    /// What cancelling the run did at once, in the word of the API.
    fn cancel(&mut self, id: i64, note: &str) -> String {
        let cancelled = self.perform(CancelRun { id, note: note.into() });
        serde_json::to_value(cancelled.did).unwrap().as_str().unwrap().to_owned()
    }

    fn stop(self) -> Summary {
        self.stopper.stop();
        self.thread.join().unwrap().unwrap()
    }
}

/// How ticks ended, in order.
fn ticks(world: &World) -> Vec<String> {
    let history = world.history();
    let mut ticks = history.prepare("SELECT ended_by FROM ticks ORDER BY id").unwrap();
    ticks.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

fn runs(world: &World) -> Vec<RunRow> {
    let selection = query::Selection { limit: 1000, ..Default::default() };
    let mut rows = query::runs(&world.history(), &selection).unwrap();
    rows.reverse();
    rows
}

fn run_of(world: &World, key: &str) -> RunDetail {
    let id =
        eventually_some(LIMIT, key, || runs(world).iter().find(|run| run.key == key).map(|r| r.id));
    query::run(&world.history(), id).unwrap().unwrap()
}

fn letters_of(world: &World, run: i64) -> Vec<(i64, String)> {
    let history = world.history();
    let mut letters = history
        .prepare(
            "SELECT record_offset, error FROM dead_letters WHERE run = ?1 ORDER BY record_offset",
        )
        .unwrap();
    let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
    letters.query_map([run], row).unwrap().map(Result::unwrap).collect()
}

/// A step that waits for a message at each attempt, and says that it does.
fn gated() -> (Arc<Recorder>, Receiver<String>, Sender<()>) {
    let (entered, enters) = unbounded();
    let (go, goes) = bounded(0);
    let step = Recorder::new(move |attempt| {
        entered.send(attempt.key.to_string()).unwrap();
        // Without its sender nobody is held any more.
        let _ = goes.recv_timeout(LIMIT);
        Ok(())
    });
    (step, enters, go)
}

fn done(step: &Recorder) -> usize {
    step.done_records().len()
}

#[test]
fn a_pause_delivers_what_is_being_filled() {
    let world = World::new();
    let step = Recorder::new(|_| Ok(()));
    let config = Config { max_wait: LONG, tick_runtime: LONG, max_batch: 2, ..world.config() };
    let mut mb = Running::start(&world, config, Arc::<Recorder>::clone(&step));
    // The first one is read no later than those of the full batch.
    [1, 0, 0].into_iter().for_each(|partition| world.post(partition, b"v"));
    eventually(LIMIT, "a full batch", || done(&step) == 2);
    mb.perform(Pause {});
    eventually(LIMIT, "what was being filled", || done(&step) == 3);
    eventually(LIMIT, "the tick is over", || ticks(&world) == ["paused"]);
    mb.stop();
}

/// Pauses while a tick goes on: one between two ticks ends none, and then the next one is met.
fn pause_within_a_tick(mb: &mut Running, world: &World) {
    eventually(LIMIT, "a tick is ended by the pause", || {
        let before = ticks(world).len();
        mb.perform(Pause {});
        let met = (0..50).any(|_| {
            std::thread::sleep(world.config().tick_interval);
            let ticks = ticks(world);
            ticks.len() > before && ticks.last().is_some_and(|last| last == "paused")
        });
        if !met {
            mb.perform(Resume {});
        }
        met
    });
}

#[test]
fn while_paused_only_ticks_that_are_asked_for_read_on() {
    let world = World::new();
    let step = Recorder::new(|_| Ok(()));
    let config = Config { tick_runtime: Duration::from_millis(200), ..world.config() };
    let mut mb = Running::start(&world, config, Arc::<Recorder>::clone(&step));
    pause_within_a_tick(&mut mb, &world);
    let before = ticks(&world).len();
    world.post(0, b"a");
    let preview = mb.perform(PreviewTick {});
    assert_eq!(preview.partitions[0].records, 1);
    mb.perform(Tick {});
    eventually(LIMIT, "one tick reads it", || done(&step) == 1);
    eventually(LIMIT, "and is over", || ticks(&world).len() == before + 1);
    assert_eq!(ticks(&world).last().unwrap(), "runtime");
    world.post(0, b"b");
    // Nothing happens, which nobody tells: twenty intervals.
    std::thread::sleep(20 * world.config().tick_interval);
    assert_eq!((ticks(&world).len(), done(&step)), (before + 1, 1));
    mb.perform(Resume {});
    eventually(LIMIT, "the rest is read", || done(&step) == 2);
    mb.stop();
}

#[test]
fn a_pause_lets_go_of_a_tick_that_waits_for_room_and_loses_nothing() {
    let world = World::with_records(40);
    let (step, enters, go) = gated();
    let config = Config {
        queue: 1,
        max_batch: 2,
        max_concurrent_runs: 1,
        tick_runtime: LONG,
        ..world.config()
    };
    let mut mb = Running::start(&world, config, Arc::<Recorder>::clone(&step));
    enters.recv_timeout(LIMIT).unwrap();
    mb.perform(Pause {});
    eventually(LIMIT, "the tick ends", || ticks(&world) == ["paused"]);
    drop(go);
    mb.perform(Resume {});
    eventually(LIMIT, "all is done", || done(&step) == 120);
    mb.stop();
    assert_eq!(step.done_records(), every_record_once(40));
    assert_eq!(world.committed("mb"), all(40));
}

#[test]
fn a_tick_and_another_interval_end_the_wait_that_goes_on() {
    let world = World::new();
    let step = Recorder::new(|_| Ok(()));
    let config =
        Config { tick_runtime: Duration::from_millis(50), tick_interval: LONG, ..world.config() };
    let mut mb = Running::start(&world, config, Arc::<Recorder>::clone(&step));
    eventually(LIMIT, "the first tick is over", || ticks(&world).len() == 1);
    world.post(0, b"a");
    mb.perform(Tick {});
    eventually(LIMIT, "a tick that was asked for", || done(&step) == 1);
    eventually(LIMIT, "it is over", || ticks(&world).len() == 2);
    world.post(0, b"b");
    let view = mb.set(ChangeSettings { tick_interval_s: Some(0.005), ..ChangeSettings::default() });
    assert_eq!((view.tick_interval_s.value, view.tick_interval_s.start_value), (0.005, 3600.0));
    eventually(LIMIT, "ticks at the new interval", || done(&step) == 2);
    mb.stop();
}

#[test]
fn other_batch_sizes_count_from_the_next_batch_on_and_what_does_not_fit_is_refused() {
    let world = World::new();
    let step = Recorder::new(|_| Ok(()));
    let mut mb = Running::start(&world, world.config(), Arc::<Recorder>::clone(&step));
    pause_within_a_tick(&mut mb, &world);
    (0..12).for_each(|n| world.post(1, format!("{n}").as_bytes()));
    let change =
        |max_batch| ChangeSettings { max_batch: Some(max_batch), ..ChangeSettings::default() };
    let view = mb.set(change(4));
    assert_eq!((view.max_batch.value, view.max_batch.start_value), (4, 7));
    assert_eq!(view.rate, None);
    let preview = mb.perform(PreviewTick {});
    assert_eq!(preview.partitions[1].batches, 3);
    for refused in [change(0), ChangeSettings { rate: Some(5.0), ..ChangeSettings::default() }] {
        let error = mb.refused(refused);
        assert_eq!(error.exit_code(), 64, "{error}");
    }
    mb.perform(Resume {});
    eventually(LIMIT, "all is done", || done(&step) == 12);
    mb.stop();
    let keys: Vec<String> = step.done.lock().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["orders/1/0-3", "orders/1/4-7", "orders/1/8-11"]);
}

#[test]
fn another_rate_counts_at_once_for_a_producer_that_waits() {
    let world = World::new();
    let step = Recorder::new(|_| Ok(()));
    // Its first message would come in more than eight minutes.
    let produce = Produce { rate: 0.001, ..Produce::default() };
    let config = Config { produce: Some(produce), ..world.config() };
    let mut mb = Running::start(&world, config, Arc::<Recorder>::clone(&step));
    let view = mb.set(ChangeSettings { rate: Some(500.0), ..ChangeSettings::default() });
    let rate = view.rate.unwrap();
    assert_eq!((rate.value, rate.start_value), (500.0, 0.001));
    eventually(LIMIT, "messages come", || done(&step) > 20);
    mb.stop();
}

#[test]
fn workers_come_and_go_and_no_run_is_lost() {
    let world = World::with_records(20);
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (go, goes) = bounded::<()>(0);
    let step = {
        let (now, most) = (Arc::clone(&now), Arc::clone(&most));
        Recorder::new(move |attempt| {
            most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
            let _ = goes.recv_timeout(LIMIT);
            now.fetch_sub(1, SeqCst);
            match attempt.number {
                // A retry is watched for by whoever is left.
                1 if attempt.key.range.first.get() % 4 == 0 => {
                    Err(StepError::Retry("again".into()))
                }
                _ => Ok(()),
            }
        })
    };
    let config = Config {
        max_batch: 1,
        max_concurrent_runs: 1,
        retry_backoff: Duration::from_millis(50),
        ..world.config()
    };
    let mut mb = Running::start(&world, config, Arc::<Recorder>::clone(&step));
    let workers = |workers| ChangeSettings {
        max_concurrent_runs: Some(workers),
        ..ChangeSettings::default()
    };
    eventually(LIMIT, "one run", || now.load(SeqCst) == 1);
    mb.set(workers(4));
    eventually(LIMIT, "four runs at once", || now.load(SeqCst) == 4);
    // They end after the run that they have, and come again under their names.
    mb.set(workers(2));
    (0..2).for_each(|_| go.send_timeout((), LIMIT).unwrap());
    mb.set(workers(3));
    mb.set(workers(1));
    (0..4).for_each(|_| go.send_timeout((), LIMIT).unwrap());
    eventually(LIMIT, "one run is left", || now.load(SeqCst) <= 1);
    most.store(0, SeqCst);
    (0..10).for_each(|_| go.send_timeout((), LIMIT).unwrap());
    assert_eq!(most.load(SeqCst), 1);
    let view = mb.set(workers(5));
    let runs = view.max_concurrent_runs;
    assert_eq!((runs.value, runs.start_value), (5, 1));
    eventually(LIMIT, "five runs at once", || now.load(SeqCst) == 5);
    drop(go);
    eventually(LIMIT, "all is done", || done(&step) == 60);
    mb.stop();
    assert_eq!(step.done_records(), every_record_once(20));
    assert_eq!(world.committed("mb"), all(20));
}

#[test]
fn a_run_that_waits_is_given_up_at_its_turn_and_its_records_are_dead_letters() {
    for order in [mb::config::Order::None, Order::Partition] {
        let world = World::new();
        (0..6).for_each(|n| world.post(0, format!("{n}").as_bytes()));
        let (step, enters, go) = gated();
        let config = Config {
            order,
            max_batch: 2,
            max_concurrent_runs: if order == Order::None { 1 } else { 3 },
            on_failure: OnFailure::Halt,
            bisect: true,
            ..world.config()
        };
        let mut mb = Running::start(&world, config, Arc::<Recorder>::clone(&step));
        assert_eq!(enters.recv_timeout(LIMIT).unwrap(), "orders/0/0-1");
        let id = run_of(&world, "orders/0/2-3").run.id;
        assert_eq!(mb.cancel(id, "not needed"), "waiting");
        assert_eq!(mb.cancel(id, "twice"), "waiting");
        drop(go);
        eventually(LIMIT, "all has ended", || {
            world.committed("mb").get(&0).is_some_and(|o| o.get() == 6)
        });
        let error = mb.refused(CancelRun { id, note: String::new() });
        assert!(error.exit_code() == 64 && error.to_string().contains("has ended"), "{error}");
        let error = mb.refused(CancelRun { id: 999, note: String::new() });
        assert!(error.exit_code() == 64 && error.to_string().contains("no run"), "{error}");
        assert_eq!(mb.stop().dead_letters, 2);
        let run = run_of(&world, "orders/0/2-3");
        assert_eq!((run.run.state.as_str(), run.run.attempts), ("failed", 0));
        assert_eq!(run.run.error.as_deref(), Some("cancelled: not needed"));
        assert!(run.failed_attempts.is_empty(), "its step was not run");
        let letter = |offset| (offset, "cancelled: not needed".to_owned());
        assert_eq!(letters_of(&world, id), [letter(2), letter(3)]);
        assert!(step.numbers_of("orders/0/2-3").is_empty());
    }
}

#[test]
fn a_run_that_waits_for_another_attempt_is_given_up_at_once() {
    let world = World::new();
    world.post(2, b"bad");
    let step = Recorder::new(|_| Err(StepError::Retry("no".into())));
    let config = Config { retry_backoff: LONG, ..world.config() };
    let mut mb = Running::start(&world, config, Arc::<Recorder>::clone(&step));
    let id = eventually_some(LIMIT, "an attempt failed", || {
        runs(&world).iter().find(|run| run.attempts == 1).map(|run| run.id)
    });
    assert_eq!(mb.cancel(id, ""), "waiting");
    eventually(LIMIT, "it has ended", || runs(&world)[0].state == "failed");
    mb.stop();
    let run = run_of(&world, "orders/2/0-0");
    assert_eq!((run.run.attempts, run.run.error.as_deref()), (1, Some("cancelled")));
    assert_eq!(run.failed_attempts.len(), 1);
    assert_eq!(letters_of(&world, id).len(), 1);
}

#[test]
fn a_command_is_ended_with_its_children_even_where_it_does_not_want_to() {
    for command in ["sleep 1000 & sleep 1000", "trap '' TERM; sleep 1000; sleep 1000"] {
        let world = World::new();
        world.post(0, b"a");
        let step = Arc::new(ExecStep::new(command, None).scratch_dir(world.dir.path()));
        let mut mb = Running::start(&world, world.config(), step);
        let id = eventually_some(LIMIT, "it runs", || {
            let running =
                query::Selection { state: Some("running".into()), limit: 1, ..Default::default() };
            let rows = mb.perform(ListRuns(running));
            rows.first().map(|run| run.id)
        });
        assert_eq!(mb.cancel(id, "hangs"), "ended");
        eventually(LIMIT, "it has ended", || runs(&world)[0].state == "failed");
        mb.stop();
        let run = run_of(&world, "orders/0/0-0").run;
        assert_eq!((run.attempts, run.error.as_deref()), (1, Some("cancelled: hangs")));
        assert_eq!(world.committed("mb")[&0].get(), 1);
    }
}

#[test]
fn a_step_inside_mb_is_waited_for_and_its_success_stays_one() {
    for (fails, state) in [(false, "succeeded"), (true, "failed")] {
        let world = World::new();
        world.post(0, b"a");
        let (entered, enters) = bounded(1);
        let (go, goes) = bounded::<()>(0);
        let step = Recorder::new(move |_| {
            entered.send(()).unwrap();
            let _ = goes.recv_timeout(LIMIT);
            if fails { Err(StepError::Retry("no".into())) } else { Ok(()) }
        });
        let mut mb = Running::start(&world, world.config(), Arc::<Recorder>::clone(&step));
        enters.recv_timeout(LIMIT).unwrap();
        let id = runs(&world)[0].id;
        assert_eq!(mb.cancel(id, "hangs"), "stalled");
        drop(go);
        eventually(LIMIT, "it has ended", || runs(&world)[0].state == state);
        mb.stop();
        assert_eq!(step.numbers_of("orders/0/0-0"), [1], "it is not tried again");
        assert_eq!(letters_of(&world, id).len(), usize::from(fails));
    }
}

#[test]
fn a_past_run_is_made_again_and_can_be_cancelled_as_any() {
    let world = World::with_records(5);
    world.run(world.config(), &Recorder::new(|_| Ok(()))).unwrap();
    let (step, enters, go) = gated();
    let mut mb = Running::start(&world, world.config(), Arc::<Recorder>::clone(&step));
    let id = run_of(&world, "orders/1/0-4").run.id;
    assert_eq!(mb.perform(ReplayRun { id }).request, 1);
    assert_eq!(enters.recv_timeout(LIMIT).unwrap(), "orders/1/0-4.replay-1");
    let again = run_of(&world, "orders/1/0-4.replay-1").run.id;
    assert_eq!(mb.cancel(again, "enough"), "stalled");
    drop(go);
    eventually(LIMIT, "it is done", || done(&step) == 5);
    let open = "SELECT count(*) FROM requests WHERE state = 0";
    eventually(LIMIT, "the request is over", || {
        world.history().query_row(open, [], |row| row.get::<_, i64>(0)).unwrap() == 0
    });
    let error = mb.refused(ReplayRun { id: 999 });
    assert!(error.exit_code() == 64 && error.to_string().contains("no run"), "{error}");
    mb.stop();
    // The same mb for another group has nothing to do with it.
    let mut config = world.config();
    config.connection.group = "other".into();
    let step = Recorder::new(|_| Ok(()));
    let mut mb = Running::start(&world, config, Arc::<Recorder>::clone(&step));
    let errors =
        [mb.refused(ReplayRun { id }), mb.refused(CancelRun { id: again, note: String::new() })];
    for error in errors {
        assert_eq!(error.exit_code(), 64, "{error}");
    }
    // Its records are the topic's all the same.
    let records = mb.perform(ReadRecords { run: id });
    assert_eq!(records.records.len(), 5);
    mb.stop();
}

#[test]
fn a_preview_says_what_a_tick_would_read_and_leaves_everything_as_it_is() {
    let world = World::with_records(20);
    let step = Recorder::new(|_| Ok(()));
    let mut mb = Running::start(&world, world.config(), Arc::<Recorder>::clone(&step));
    eventually(LIMIT, "all is done", || done(&step) == 60);
    let preview = mb.perform(PreviewTick {});
    assert!(preview.partitions.iter().all(|one| one.records == 0 && one.cursor == one.next));
    pause_within_a_tick(&mut mb, &world);
    (20..30).for_each(|n| world.post(2, format!("2-{n}").as_bytes()));
    for _ in 0..2 {
        let preview = mb.perform(PreviewTick {});
        let one = &preview.partitions[2];
        assert_eq!((one.cursor, one.next, one.records, one.batches), (20, 30, 10, 2));
        assert_eq!(one.bytes, 40);
        assert_eq!(one.first.len(), 5);
        assert_eq!(
            (one.first[0].offset, &one.first[0].pair.value),
            (20, &Some(Some("2-20".into())))
        );
        assert!(!preview.more);
    }
    assert_eq!(done(&step), 60);
    mb.perform(Resume {});
    eventually(LIMIT, "it is read", || done(&step) == 70);
    mb.stop();
}

#[test]
fn the_records_of_a_run_are_read_again_and_what_is_gone_is_said() {
    let world = World::with_records(30);
    let step = Recorder::new(|_| Ok(()));
    let config = Config { order: Order::Key, lanes: Some(2), max_batch: 10, ..world.config() };
    let mut mb = Running::start(&world, config, Arc::<Recorder>::clone(&step));
    eventually(LIMIT, "all is done", || done(&step) == 90);
    let mut seen = BTreeSet::new();
    for lane in 0..2 {
        let run = run_of(&world, &format!("orders/1/10-19.lane-{lane}-of-2")).run;
        let records = mb.perform(ReadRecords { run: run.id });
        assert_eq!((records.of, records.note), (run.records, None));
        assert_eq!(records.records.len() as u64, run.records);
        seen.extend(records.records.iter().map(|record| record.offset));
    }
    assert_eq!(seen, (10..20).collect());
    world.remove_below(15);
    let run = run_of(&world, "orders/1/10-19.lane-0-of-2").run;
    let records = mb.perform(ReadRecords { run: run.id });
    assert!((1..run.records).contains(&(records.records.len() as u64)));
    assert!(records.note.unwrap().contains("retention has removed those at 10-14"));
    let gone = run_of(&world, "orders/1/0-9.lane-1-of-2").run.id;
    let records = mb.perform(ReadRecords { run: gone });
    assert!(records.records.is_empty() && records.note.unwrap().contains("begins at 15"));
    let error = mb.refused(ReadRecords { run: 999 });
    assert_eq!(error.exit_code(), 64, "{error}");
    mb.stop();
    let topic = "UPDATE scopes SET topic_id = 'another'";
    rusqlite::Connection::open(history_file(world.dir.path())).unwrap().execute(topic, []).unwrap();
    let config = Config { from: mb::config::StartFrom::Committed, ..world.config() };
    let config = Config { on_missing_offsets: mb::config::OnMissingOffsets::Skip, ..config };
    let mut mb = Running::start(&world, config, Recorder::new(|_| Ok(())));
    let records = mb.perform(ReadRecords { run: run.id });
    assert!(records.records.is_empty());
    assert!(records.note.unwrap().contains("was deleted and created again"));
    mb.stop();
}

#[test]
fn of_a_long_run_the_first_hundred_records_are_shown() {
    let world = World::with_records(130);
    let step = Recorder::new(|_| Ok(()));
    let config = Config { max_batch: 130, max_wait: LONG, ..world.config() };
    let mut mb = Running::start(&world, config, Arc::<Recorder>::clone(&step));
    eventually(LIMIT, "all is done", || done(&step) == 390);
    let run = run_of(&world, "orders/1/0-129").run.id;
    let records = mb.perform(ReadRecords { run });
    assert_eq!((records.records.len(), records.of, records.note), (100, 130, None));
    mb.stop();
}

//! The whole pipeline in this process, over the embedded topic: where it starts, how it stops, and
//! what the next start makes of that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mb::config::data_dir::DataDir;
use mb::config::{OnFailure, StartFrom};
use mb::kafka::Broker;
use mb::kafka::embedded::{Call, Faults};
use mb::model::offset::{Offset, Partition};
use mb::step::{Step, StepError};
use mb::{Config, Error, Pipeline, Stopper};

use crate::support::eventually;
use crate::support::world::*;

const LIMIT: Duration = Duration::from_secs(60);

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
    let left = count("succeeded");
    assert!(left < 2600, "old runs of partitions 1 and 2 are gone, {left} are left");
    let finished_above = step.done_records().iter().filter(|(p, _)| p == "0").count();
    let again = Recorder::new(|_| Ok(()));
    world.run(config, &again).unwrap();
    let of_0 = again.done_records().iter().filter(|(p, _)| p == "0").count();
    assert_eq!(of_0 + finished_above, 2500, "no finished run of partition 0 was done twice");
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
fn after_a_forced_stop_the_data_directory_stays_locked_until_the_last_step_has_returned() {
    let world = World::with_records(7);
    let (entered, enters) = crossbeam_channel::unbounded();
    let (go, goes) = crossbeam_channel::bounded::<()>(0);
    let step = Recorder::new(move |_| {
        entered.send(()).unwrap();
        let _ = goes.recv_timeout(LIMIT);
        Ok(())
    });
    let config = Config { until_caught_up: false, max_concurrent_runs: 2, ..world.config() };
    let (stopper, stop) = Stopper::new();
    let pipeline = Pipeline::new(config, Arc::<Recorder>::clone(&step) as Arc<dyn Step>)
        .with_broker(Arc::new(world.topics.clone()));
    let running = std::thread::spawn(move || pipeline.run(&stop));
    for _ in 0..2 {
        enters.recv_timeout(LIMIT).unwrap();
    }
    stopper.stop();
    stopper.stop();
    let error = running.join().unwrap().unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    assert!(DataDir::is_held(world.dir.path()), "two steps are running, and will be written down");
    drop(go);
    eventually(LIMIT, "the lock is released", || !DataDir::is_held(world.dir.path()));
    assert!(!world.dir.path().join("control.sock").exists(), "nobody answers there any more");
    let later = Recorder::new(|_| Ok(()));
    world.run(world.config(), &later).unwrap();
    let mut done = [step.done_records(), later.done_records()].concat();
    done.sort();
    assert_eq!(done, every_record_once(7), "what was left behind is in the history");
}

#[test]
fn no_run_starts_before_its_range_is_in_the_history() {
    let world = World::new();
    let (stopper, stop) = Stopper::new();
    let (started, starts) = crossbeam_channel::unbounded();
    let step = Recorder::new(move |_| {
        started.send(()).unwrap();
        Ok(())
    });
    let config = Config { until_caught_up: false, ..world.config() };
    let topics = Arc::new(world.topics.clone());
    let pipeline = Pipeline::new(config, step as Arc<dyn Step>).with_broker(topics);
    let running = std::thread::spawn(move || pipeline.run(&stop));
    while world.committed("mb").len() < 3 {
        std::thread::yield_now();
    }
    let other = rusqlite::Connection::open(history_file(world.dir.path())).unwrap();
    other.busy_timeout(Duration::from_secs(60)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    world.post(1, b"waits");
    let meanwhile = starts.recv_timeout(Duration::from_millis(300));
    assert!(meanwhile.is_err(), "the range is not in the file yet");
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(starts.recv_timeout(Duration::from_secs(60)), Ok(()));
    stopper.stop();
    running.join().unwrap().unwrap();
}

#[test]
fn a_commit_whose_answer_was_lost_is_ours_at_the_next_start() {
    let world = World::with_records(21);
    let faults = Faults::new(1);
    let (stopper, stop) = Stopper::new();
    let done = AtomicU32::new(0);
    let step = {
        let (faults, stopper) = (faults.clone(), stopper.clone());
        Recorder::new(move |_| {
            faults.fail_next(Call::Commit, u32::MAX);
            if done.fetch_add(1, Ordering::SeqCst) == 8 {
                stopper.stop();
            }
            Ok(())
        })
    };
    let broker = Arc::new(world.topics.with_faults(faults));
    let config = Config { until_caught_up: false, ..world.config() };
    let pipeline =
        Pipeline::new(config, Arc::<Recorder>::clone(&step) as Arc<dyn Step>).with_broker(broker);
    let error = pipeline.run(&stop).unwrap_err();
    assert_eq!(error.exit_code(), 1, "{error}");
    assert_eq!(step.done_records(), every_record_once(21));

    // The log has it after all: what the last commit said, and no confirmation was written.
    let sent: Vec<(Partition, i64)> = world
        .history()
        .prepare("SELECT partition, max(committing) FROM intents GROUP BY partition")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(sent, [(0, 21), (1, 21), (2, 21)]);
    let offsets: Vec<_> = sent.into_iter().map(|(p, offset)| (p, Offset::new(offset))).collect();
    world.topics.commit("mb", TOPIC, &offsets).unwrap();
    let again = Recorder::new(|_| Ok(()));
    world.run(world.config(), &again).unwrap();
    assert_eq!(again.done_records(), [], "nothing is done twice");
    assert_eq!(runs_in(&world.history(), "voided", 10).unwrap(), []);
}

#[test]
fn a_partition_added_while_mb_was_away_is_read_from_its_beginning() {
    let world = World::with_records(2);
    let latest = || Config { from: StartFrom::Latest, ..world.config() };
    world.run(latest(), &Recorder::new(|_| Ok(()))).unwrap();
    world.topics.add_partitions(TOPIC, 4).unwrap();
    world.post(3, b"before mb came back");
    let step = Recorder::new(|_| Ok(()));
    world.run(latest(), &step).unwrap();
    assert_eq!(step.done_records(), [("3".to_owned(), 0)]);
}

#[test]
fn a_halt_while_stopping_is_still_a_halt() {
    let world = World::with_records(7);
    let (stopper, stop) = Stopper::new();
    let step = Recorder::new(move |_| {
        stopper.stop();
        // The stop comes first: it closes the queue, whatever this run does.
        std::thread::sleep(Duration::from_millis(100));
        Err(StepError::Stop("cannot go on".into()))
    });
    let config = Config { until_caught_up: false, max_concurrent_runs: 1, ..world.config() };
    let topics = Arc::new(world.topics.clone());
    let pipeline = Pipeline::new(config, step as Arc<dyn Step>).with_broker(topics);
    let error = pipeline.run(&stop).unwrap_err();
    assert_eq!(error.exit_code(), 65, "{error}");
}

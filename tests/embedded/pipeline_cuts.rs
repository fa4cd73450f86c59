//! Logs that lose their end and grow again, over the embedded topic: noticed by their leader epochs, while mb is down
//! and while it runs; and what the marks beside committed offsets tell. Real brokers are in `kafka_cuts.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use mb::config::OnMissingOffsets;
use mb::kafka::{Broker, Commit, Committed};
use mb::model::offset::Offset;
use mb::step::{Step, StepError};
use mb::{Config, Error, Pipeline, Stopper};

use crate::support::eventually;
use crate::support::world::*;

const LIMIT: Duration = Duration::from_secs(60);

fn fine() -> Arc<Recorder> {
    Recorder::new(|_| Ok(()))
}

fn post_new(world: &World, count: usize) {
    for number in 0..count {
        world.post(1, format!("new {number}").as_bytes());
    }
}

/// The offsets of partition 1 that runs have processed.
fn done_of_1(step: &Recorder) -> Vec<i64> {
    let done = step.done_records().into_iter().filter(|(partition, _)| partition == "1");
    done.map(|(_, offset)| offset).collect()
}

#[test]
fn a_log_that_was_cut_off_and_has_grown_past_the_position_is_a_halt_or_a_gap() {
    let world = World::with_records(100);
    world.run(world.config(), &fine()).unwrap();
    world.cut_off(50);
    post_new(&world, 60);
    let step = fine();
    let error = world.run(world.config(), &step).unwrap_err();
    assert!(matches!(error, Error::LogReplaced(_)), "{error}");
    assert_eq!(error.exit_code(), 65);
    let text = error.to_string();
    assert!(text.contains("orders/1 50-99") && text.contains("cut off at 50"), "{text}");
    assert!(step.attempts.lock().unwrap().is_empty());

    world.run(world.skipping(), &step).unwrap();
    assert_eq!(step.done_records().len(), 60, "what is there was not processed again");
    assert_eq!(done_of_1(&step), (50..110).collect::<Vec<_>>());
    assert_eq!(world.gaps(), [(1, 50, 99)]);
    assert_eq!(world.committed("mb")[&1], Offset::new(110));
    let again = fine();
    world.run(world.config(), &again).unwrap();
    assert!(again.attempts.lock().unwrap().is_empty(), "it is told once");
}

#[test]
fn it_is_told_by_the_log_alone_where_the_history_is_gone() {
    let world = World::with_records(100);
    world.run(world.config(), &fine()).unwrap();
    world.cut_off(50);
    post_new(&world, 60);
    for file in ["history.db", "history.db-wal", "history.db-shm", "history.db-left"] {
        let _ = std::fs::remove_file(world.dir.path().join(file));
    }
    let error = world.run(world.config(), &fine()).unwrap_err();
    assert!(error.to_string().contains("orders/1 50-99"), "{error}");
}

#[test]
fn another_leader_whose_log_has_everything_is_no_loss() {
    let world = World::with_records(30);
    world.run(world.config(), &fine()).unwrap();
    world.cut_off(30);
    post_new(&world, 20);
    world.cut_off(50);
    let step = fine();
    world.run(world.config(), &step).unwrap();
    assert_eq!(done_of_1(&step), (30..50).collect::<Vec<_>>());
    assert_eq!(world.gaps(), []);
}

/// Runs a pipeline whose log is cut off by `cut` once all is committed; what became of it.
fn cut_while_running(
    world: &World,
    config: Config,
    cut: impl FnOnce(),
) -> (Arc<Recorder>, mb::Result<()>) {
    let step = fine();
    let (stopper, stop) = Stopper::new();
    let config = Config { until_caught_up: false, ..config };
    let pipeline = Pipeline::new(config, Arc::clone(&step) as Arc<dyn Step>)
        .with_broker(Arc::new(world.topics.clone()));
    let result = std::thread::scope(|scope| {
        let running = scope.spawn(move || pipeline.run(&stop).map(drop));
        eventually(LIMIT, "all is committed", || world.committed("mb") == all(100));
        cut();
        eventually(LIMIT, "it ends, or goes on", || {
            running.is_finished() || world.committed("mb")[&1] == Offset::new(110)
        });
        stopper.stop();
        running.join().unwrap()
    });
    (step, result)
}

#[test]
fn it_is_noticed_while_mb_runs() {
    for skips in [false, true] {
        // Between ticks, and in the middle of one that takes as long as the test.
        for tick in [Duration::from_millis(50), LIMIT] {
            let world = World::with_records(100);
            let config = if skips { world.skipping() } else { world.config() };
            let config = Config { tick_runtime: tick, ..config };
            let (step, result) = cut_while_running(&world, config, || {
                world.cut_off(50);
                post_new(&world, 60);
            });
            let what = format!("skips: {skips}, ticks of {tick:?}");
            if skips {
                result.unwrap();
                let new = |(_, value): &&(i64, Option<Vec<u8>>)| {
                    value.as_ref().is_some_and(|value| value.starts_with(b"new"))
                };
                let attempts = step.attempts.lock().unwrap();
                let news = attempts.iter().flat_map(|(.., content)| content).filter(new).count();
                assert_eq!(news, 60, "{what}");
                drop(attempts);
                assert_eq!(world.gaps(), [(1, 50, 99)], "{what}");
            } else {
                let error = result.unwrap_err();
                assert_eq!(error.exit_code(), 65, "{what}");
                assert!(error.to_string().contains("orders/1 50-99"), "{what}: {error}");
                assert_eq!(step.done_records().len(), 300, "{what}: nothing of the new log");
            }
        }
    }
}

#[test]
fn until_caught_up_ends_by_the_rule_when_the_log_ends_below_its_target() {
    for skips in [false, true] {
        let world = Arc::new(World::with_records(100));
        let step = {
            let (world, cut) = (Arc::clone(&world), std::sync::Once::new());
            Recorder::new(move |attempt| {
                if attempt.key.partition == 1 {
                    cut.call_once(|| world.cut_off(60));
                }
                Ok(())
            })
        };
        // Not all of the partition may be read before it is cut off.
        let config = Config { queue: 1, max_concurrent_runs: 1, ..world.config() };
        let skipping = Config { on_missing_offsets: OnMissingOffsets::Skip, ..config.clone() };
        let result = world.run(if skips { skipping } else { config }, &step);
        if skips {
            result.unwrap();
            assert_eq!(done_of_1(&step), (0..60).collect::<Vec<_>>());
            assert_eq!(world.gaps(), [(1, 60, 99)]);
            assert_eq!(world.committed("mb")[&1], Offset::new(60));
        } else {
            let error = result.unwrap_err();
            assert_eq!(error.exit_code(), 65);
            assert!(error.to_string().contains("orders/1 60-99 are not in the log"), "{error}");
        }
    }
}

fn group_offset(world: &World) -> Committed {
    let found = world.topics.group_offsets("mb", TOPIC, &[1]).unwrap();
    found[&1].clone().unwrap().unwrap()
}

fn commit(world: &World, committed: Committed) {
    let Committed { offset, epoch, metadata } = committed;
    let commit = Commit { partition: 1, offset, epoch, metadata };
    world.topics.commit_all("mb", TOPIC, &[commit]).unwrap();
}

#[test]
fn an_older_commit_of_mbs_own_is_a_log_that_lost_its_end_and_any_other_a_reset() {
    let world = World::with_records(30);
    world.run(world.config(), &fine()).unwrap();
    let older = group_offset(&world);
    assert!(older.metadata.starts_with("mb1 ") && older.epoch.is_some(), "{older:?}");
    post_new(&world, 30);
    world.run(world.config(), &fine()).unwrap();
    commit(&world, older);
    let step = fine();
    world.run(world.config(), &step).unwrap();
    assert!(step.attempts.lock().unwrap().is_empty(), "all of it is done");
    assert_eq!(group_offset(&world).offset, Offset::new(60), "and committed again");

    commit(&world, Committed::plain(Offset::new(45)));
    world.run(world.config(), &step).unwrap();
    assert_eq!(done_of_1(&step), (45..60).collect::<Vec<_>>(), "a person's reset is followed");
    let other = Committed { metadata: "mb1 another 7".into(), ..Committed::plain(Offset::new(50)) };
    commit(&world, other);
    let step = fine();
    world.run(world.config(), &step).unwrap();
    assert_eq!(done_of_1(&step), (50..60).collect::<Vec<_>>(), "another mb's too");
}

#[test]
fn a_partition_whose_offset_a_newer_mb_committed_is_not_read() {
    let world = World::with_records(30);
    commit(
        &world,
        Committed { metadata: "mb2 who knows".into(), ..Committed::plain(Offset::new(7)) },
    );
    let error = world.run(world.config(), &fine()).unwrap_err();
    assert_eq!(error.exit_code(), 78, "it would never be caught up");
    assert!(error.to_string().contains("orders/1 is not read"), "{error}");

    let done = Arc::new(AtomicUsize::new(0));
    let step = {
        let done = Arc::clone(&done);
        Recorder::new(move |attempt| {
            done.fetch_add(attempt.batch.len(), SeqCst);
            Ok::<(), StepError>(())
        })
    };
    let (stopper, stop) = Stopper::new();
    let config = Config { until_caught_up: false, ..world.config() };
    let pipeline = Pipeline::new(config, Arc::clone(&step) as Arc<dyn Step>)
        .with_broker(Arc::new(world.topics.clone()));
    std::thread::scope(|scope| {
        let running = scope.spawn(move || pipeline.run(&stop));
        eventually(LIMIT, "the others are read", || done.load(SeqCst) == 60);
        stopper.stop();
        running.join().unwrap().unwrap();
    });
    assert_eq!(done_of_1(&step), Vec::<i64>::new());
    assert_eq!(group_offset(&world).metadata, "mb2 who knows", "its offset is left alone");
}

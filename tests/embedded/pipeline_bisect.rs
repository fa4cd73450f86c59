//! Poison records over the embedded topic: `--bisect`, and steps that name what failed. Only bad
//! records become dead letters, and a split outlives a restart.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::support::world::{Recorder, World, all, every_record_once, runs_in};
use mb::config::{OnFailure, Order};
use mb::step::{Attempt, FailedRecord, StepError};
use mb::{Config, Error};

const BAD: [&[u8]; 3] = [b"0-4", b"0-5", b"2-17"];

fn is_bad(value: Option<&[u8]>) -> bool {
    BAD.contains(&value.unwrap())
}

/// Fails where a bad record is among the records.
fn choking() -> Arc<Recorder> {
    Recorder::new(|attempt| match attempt.batch.records().find(|r| is_bad(r.value)) {
        None => Ok(()),
        Some(bad) => Err(StepError::Retry(format!("cannot digest {}", bad.offset))),
    })
}

fn dead_letters(world: &World) -> Vec<(i64, i64, Vec<u8>, String)> {
    let history = world.history();
    let mut rows = history
        .prepare("SELECT partition, record_offset, value, error FROM dead_letters ORDER BY 1, 2")
        .unwrap();
    let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
    rows.query_map([], row).unwrap().map(Result::unwrap).collect()
}

fn values(world: &World) -> Vec<Vec<u8>> {
    dead_letters(world).into_iter().map(|(_, _, value, _)| value).collect()
}

fn all_but_the_bad() -> Vec<(String, i64)> {
    let bad = [("0", 4), ("0", 5), ("2", 17)].map(|(partition, n)| (partition.to_owned(), n));
    every_record_once(30).into_iter().filter(|record| !bad.contains(record)).collect()
}

#[test]
fn only_the_bad_records_become_dead_letters_and_every_other_is_done_once() {
    for order in [Order::None, Order::Partition, Order::Key] {
        let world = World::with_records(30);
        let step = choking();
        let config =
            Config { bisect: true, max_batch: 16, max_attempts: 2, order, ..world.config() };
        let summary = world.run(config, &step).unwrap();
        assert_eq!(values(&world), BAD, "{order:?}");
        assert_eq!(step.done_records(), all_but_the_bad(), "{order:?}");
        assert_eq!(world.committed("mb"), all(30));
        assert_eq!((summary.dead_letters, summary.records_processed), (3, 87));
        let history = world.history();
        for run in runs_in(&history, "split", 100).unwrap() {
            assert_eq!(run.attempts, 2, "{} was split after its last attempt", run.key);
        }
        let failed = runs_in(&history, "failed", 100).unwrap();
        assert!(failed.iter().all(|run| run.records == 1 && run.parent.is_some()), "{failed:?}");
    }
}

#[test]
fn without_bisect_the_whole_batch_is_given_up_on() {
    let world = World::with_records(30);
    let config = Config { max_batch: 15, max_attempts: 1, ..world.config() };
    let summary = world.run(config, &choking()).unwrap();
    assert_eq!(summary.dead_letters, 30, "two batches of fifteen");
}

#[test]
fn a_halt_after_halving_is_at_the_bad_record_alone() {
    let world = World::with_records(30);
    let step = Recorder::new(|attempt| {
        let bad = attempt.batch.records().any(|record| record.value == Some(b"2-17"));
        if bad { Err(StepError::Retry("no".into())) } else { Ok(()) }
    });
    let config = Config {
        bisect: true,
        max_batch: 30,
        max_attempts: 1,
        on_failure: OnFailure::Halt,
        ..world.config()
    };
    let error = world.run(config.clone(), &step).unwrap_err();
    assert!(matches!(&error, Error::Halt(text) if text.contains("orders/2/17-17")), "{error}");
    // The next start makes only that one again, and what the halt kept from running.
    let mended = Recorder::new(|_| Ok(()));
    world.run(config, &mended).unwrap();
    let first: BTreeSet<_> = step.done_records().into_iter().collect();
    let second: BTreeSet<_> = mended.done_records().into_iter().collect();
    assert!(first.is_disjoint(&second), "done twice: {:?}", first.intersection(&second));
    assert_eq!(first.union(&second).count(), 90);
    assert!(mended.done.lock().unwrap().contains_key("orders/2/17-17"));
    assert_eq!(world.committed("mb"), all(30));
}

#[test]
fn a_restart_makes_the_pieces_again_and_never_the_parent() {
    let world = World::with_records(30);
    // The parent is split, then the second half asks to stop: mb ends between the two.
    let step = Recorder::new(|attempt| {
        let first = attempt.key.range.first.get();
        match attempt.batch.len() {
            30 if attempt.key.partition == 1 => Err(StepError::Retry("too many".into())),
            15 if first == 15 => Err(StepError::Stop("enough".into())),
            _ => Ok(()),
        }
    });
    let config = Config { bisect: true, max_batch: 30, max_attempts: 1, ..world.config() };
    world.run(config.clone(), &step).unwrap_err();
    let second = Recorder::new(|_| Ok(()));
    // Other limits than before: the pieces come again as they were.
    world.run(Config { max_batch: 4, bisect: false, ..config }, &second).unwrap();
    let keys: Vec<String> = second.done.lock().unwrap().keys().cloned().collect();
    assert!(keys.contains(&"orders/1/15-29".to_owned()), "{keys:?}");
    assert!(!keys.contains(&"orders/1/0-29".to_owned()), "the parent came again: {keys:?}");
    let mut records = step.done_records();
    records.extend(second.done_records());
    records.sort();
    assert_eq!(records, every_record_once(30), "each record once, over both");
    assert_eq!(world.committed("mb"), all(30));
}

fn name_the_bad(attempt: &mut Attempt<'_>) {
    let bad = attempt.batch.records().filter(|record| is_bad(record.value));
    attempt.failed = bad
        .map(|record| FailedRecord { offset: record.offset, reason: "tastes bad".into() })
        .collect();
}

#[test]
fn records_that_a_step_names_become_dead_letters_and_the_others_are_done() {
    let world = World::with_records(30);
    let step = Recorder::naming(name_the_bad, |_| Ok(()));
    let config = Config { max_batch: 30, ..world.config() };
    let summary = world.run(config, &step).unwrap();
    assert_eq!(values(&world), BAD);
    assert!(dead_letters(&world).iter().all(|(.., error)| error == "tastes bad"));
    assert_eq!((summary.records_processed, summary.dead_letters), (87, 3));
    assert_eq!(step.attempts.lock().unwrap().len(), 3, "nothing is tried again");
    assert_eq!(world.committed("mb"), all(30));
}

#[test]
fn names_are_void_where_an_error_came_in_between() {
    let world = World::with_records(30);
    let step = Recorder::naming(name_the_bad, |attempt| match attempt.number {
        1 => Err(StepError::Retry("it had not come to the others".into())),
        _ => Ok(()),
    });
    world.run(Config { max_batch: 30, ..world.config() }, &step).unwrap();
    assert_eq!(step.numbers_of("orders/0/0-29"), [1, 2]);
    assert_eq!(values(&world), BAD);
}

#[test]
fn named_records_alone_are_tried_again_where_the_step_asks_for_it() {
    let world = World::with_records(30);
    let step = Recorder::naming(name_the_bad, |attempt| {
        let bad = attempt.batch.records().any(|record| is_bad(record.value));
        if bad { Err(StepError::RetryFailed("some failed".into())) } else { Ok(()) }
    });
    let config = Config { max_batch: 30, max_attempts: 3, ..world.config() };
    world.run(config, &step).unwrap();
    assert_eq!(values(&world), BAD);
    assert_eq!(step.numbers_of("orders/0/0-29"), [1]);
    assert_eq!(step.numbers_of("orders/0/4-5"), [2, 3], "side by side, and the attempts go on");
    assert_eq!(step.numbers_of("orders/2/17-17"), [2, 3]);
    assert_eq!(world.committed("mb"), all(30));
}

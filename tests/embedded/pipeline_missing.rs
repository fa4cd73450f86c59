//! Offsets that are not in the log any more, and histories that are broken, over the embedded topic:
//! halt or skip, and what is lost (nothing but what the log itself has lost).

use std::fs;
use std::sync::Arc;

use crate::support::world::*;
use mb::config::OnMissingOffsets;
use mb::kafka::Broker;
use mb::kafka::embedded::Embedded;
use mb::model::offset::Offset;
use mb::step::StepError;
use mb::{Config, Error};

#[test]
fn records_that_retention_took_are_a_halt_with_their_range_or_passed_over_and_recorded() {
    // Each record is a chunk of its own here, since each was flushed by itself.
    let world = World::with_records(50);
    let step = Recorder::new(|_| Ok(()));
    let commits = |offset| [(0, Offset::ZERO), (1, Offset::new(offset)), (2, Offset::ZERO)];
    world.topics.commit("mb", TOPIC, &commits(5)).unwrap();
    world.remove_below(20);
    let error = world.run(world.config(), &step).unwrap_err();
    assert_eq!(error.exit_code(), 65, "{error}");
    assert!(error.to_string().contains("records orders/1 5-19 were removed"), "{error}");

    world.run(world.skipping(), &step).unwrap();
    assert_eq!(world.gaps(), [(1, 5, 19)]);
    let expected: Vec<_> = every_record_once(50)
        .into_iter()
        .filter(|(partition, offset)| partition != "1" || *offset >= 20)
        .collect();
    assert_eq!(step.done_records(), expected);
    assert_eq!(world.committed("mb"), all(50));
}

#[test]
fn a_stored_range_cut_by_retention_is_made_of_what_is_left_and_one_gone_whole_is_done() {
    let world = World::with_records(30);
    // Halts in partition 1 with three ranges of ten planned and unfinished.
    let halting = Recorder::new(|attempt| match attempt.key.partition {
        1 => Err(StepError::Stop("not today".into())),
        _ => Ok(()),
    });
    let config = Config { max_batch: 10, ..world.config() };
    world.run(config.clone(), &halting).unwrap_err();
    world.remove_below(15);
    let step = Recorder::new(|_| Ok(()));
    let error = world.run(config.clone(), &step).unwrap_err();
    assert!(error.to_string().contains("orders/1 0-14"), "{error}");
    let config = Config { on_missing_offsets: OnMissingOffsets::Skip, ..config };
    world.run(config, &step).unwrap();
    assert_eq!(world.gaps(), [(1, 0, 14)]);
    let done = step.done.lock().unwrap();
    let keys: Vec<&String> = done.keys().filter(|key| key.starts_with("orders/1/")).collect();
    assert_eq!(keys, ["orders/1/10-19", "orders/1/20-29"]);
    assert_eq!(done["orders/1/10-19"].first().unwrap().0, 15, "what is left of it");
    assert_eq!(done["orders/1/10-19"].len(), 5);
    drop(done);
    assert_eq!(world.committed("mb"), all(30));
}

/// Another topic under the same name, with `records` in each partition.
fn make_again(world: &World, records: usize) -> Embedded {
    let file = world.dir.path().join(mb::kafka::embedded::FILE);
    let db = rusqlite::Connection::open(file).unwrap();
    db.execute_batch(
        "BEGIN; DELETE FROM commits; DELETE FROM chunks; DELETE FROM partitions; \
         DELETE FROM topics; COMMIT",
    )
    .unwrap();
    drop(db);
    let topics = Embedded::open(world.dir.path(), 1 << 30).unwrap();
    topics.create_topic(TOPIC, 3).unwrap();
    for partition in 0..3 {
        for n in 0..records {
            world.post(partition, format!("new {partition}-{n}").as_bytes());
        }
    }
    topics
}

#[test]
fn a_topic_made_again_while_mb_was_away_is_a_halt_or_begins_anew() {
    for records in [10, 60] {
        let world = World::with_records(30);
        world.run(world.config(), &Recorder::new(|_| Ok(()))).unwrap();
        make_again(&world, records);
        let step = Recorder::new(|_| Ok(()));
        let error = world.run(world.config(), &step).unwrap_err();
        assert!(matches!(error, Error::LogReplaced(_)), "{error}");
        assert_eq!(error.exit_code(), 65);
        assert!(error.to_string().contains("--on-missing-offsets skip"), "{error}");
        // Whatever --from says: what is in the new topic has not been read.
        let config = Config { from: mb::config::StartFrom::Latest, ..world.skipping() };
        world.run(config, &step).unwrap();
        assert_eq!(step.done_records(), every_record_once(records as i64), "of {records}");
        assert_eq!(world.committed("mb"), all(records as i64));
        // From then on it is the topic.
        world.run(world.config(), &Recorder::new(|_| Ok(()))).unwrap();
    }
}

#[test]
fn a_topic_made_again_while_mb_runs_is_read_from_its_beginning_where_that_was_asked_for() {
    let world = Arc::new(World::with_records(30));
    let step = {
        let (world, made) = (Arc::clone(&world), std::sync::Once::new());
        Recorder::new(move |attempt| {
            if attempt.key.to_string() == "orders/2/7-13" {
                made.call_once(|| drop(make_again(&world, 45)));
            }
            Ok(())
        })
    };
    world.run(world.skipping(), &step).unwrap();
    let done = step.done.lock().unwrap();
    let new: usize = done
        .values()
        .flatten()
        .filter(|(_, value)| value.as_ref().unwrap().starts_with(b"new "))
        .count();
    assert_eq!(new, 3 * 45, "all of the new topic, each once");
    drop(done);
    assert_eq!(world.committed("mb"), all(45));
}

#[test]
fn a_position_beyond_the_end_is_a_halt_or_goes_on_at_the_end() {
    let world = World::with_records(10);
    let beyond = [(0, Offset::new(10)), (1, Offset::new(25)), (2, Offset::new(10))];
    world.topics.commit("mb", TOPIC, &beyond).unwrap();
    let step = Recorder::new(|_| Ok(()));
    let error = world.run(world.config(), &step).unwrap_err();
    assert_eq!(error.exit_code(), 65);
    assert!(error.to_string().contains("orders/1 10-24 are not in the log"), "{error}");
    world.run(world.skipping(), &step).unwrap();
    assert_eq!(step.done_records(), [], "what is there was read before");
    assert_eq!(world.gaps(), [(1, 10, 24)]);
    assert_eq!(world.committed("mb"), all(10));
}

#[test]
fn a_log_cut_off_below_what_was_planned_is_a_halt_or_goes_on_at_the_cut() {
    let world = World::with_records(70);
    let poison = "orders/1/14-20";
    let config = || Config { max_attempts: u32::MAX, ..world.config() };
    world.run(config(), &halt_on(poison, 15)).unwrap_err();
    // The committed offset is still in the log, what is finished above it is not.
    world.cut_off(21);
    for n in 0..30 {
        world.post(1, format!("after {n}").as_bytes());
    }
    world.cut_off(40);
    let step = Recorder::new(|_| Ok(()));
    let error = world.run(config(), &step).unwrap_err();
    assert!(matches!(error, Error::LogReplaced(_)), "{error}");
    assert!(step.attempts.lock().unwrap().is_empty());
    let config = Config { on_missing_offsets: OnMissingOffsets::Skip, ..config() };
    world.run(config, &step).unwrap();
    let of_1 = step.done_records().into_iter().filter(|(partition, _)| partition == "1");
    // The range that halted lies below the cut, and is made again as it was.
    assert_eq!(of_1.map(|(_, offset)| offset).collect::<Vec<_>>(), (14..40).collect::<Vec<_>>());
    assert!(step.done.lock().unwrap().contains_key(poison));
    assert_eq!(world.committed("mb")[&1], Offset::new(40));
}

#[test]
fn with_a_broken_history_mb_goes_on_from_the_committed_offsets() {
    let world = World::with_records(70);
    let poison = "orders/1/14-20";
    let config = || Config { max_attempts: u32::MAX, ..world.config() };
    let first = halt_on(poison, 15);
    world.run(config(), &first).unwrap_err();
    let committed = world.committed("mb");
    fs::write(history_file(world.dir.path()), vec![b'x'; 50_000]).unwrap();
    for journal in ["history.db-wal", "history.db-shm"] {
        let _ = fs::remove_file(world.dir.path().join(journal));
    }
    let second = Recorder::new(|_| Ok(()));
    world.run(config(), &second).unwrap();
    assert_eq!(world.committed("mb"), all(70));
    // All above the committed offsets, again; nothing below.
    let expected: Vec<_> = every_record_once(70)
        .into_iter()
        .filter(|(partition, offset)| {
            *offset >= committed[&partition.parse::<i32>().unwrap()].get()
        })
        .collect();
    assert_eq!(second.done_records(), expected);
    let aside = fs::read_dir(world.dir.path()).unwrap().filter(|entry| {
        entry.as_ref().unwrap().file_name().to_string_lossy().contains("history.db.damaged-")
    });
    assert_eq!(aside.count(), 1);
}

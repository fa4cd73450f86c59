//! The whole pipeline in this process, over the embedded topic: what steps see, and what is
//! committed. Restarts are in `pipeline_restarts`; real brokers and real kills have files of their
//! own.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mb::config::StartFrom;
use mb::history::query;
use mb::kafka::embedded::{Call, Faults};
use mb::kafka::{Broker, Message, Sent};
use mb::model::offset::Offset;
use mb::step::{Step, StepError};
use mb::{Config, Pipeline, Stopper};

use crate::support::world::*;

#[test]
fn every_record_is_processed_once_and_committed() {
    let world = World::with_records(100);
    let step = Recorder::new(|_| Ok(()));
    let summary = world.run(world.config(), &step).unwrap();
    assert_eq!(step.done_records(), every_record_once(100));
    assert_eq!(world.committed("mb"), all(100));
    assert_eq!(summary.records_processed, 300);
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
fn under_faults_nothing_is_lost_and_every_run_key_has_one_content() {
    for seed in [1, 2, 3, crate::support::test_seed()] {
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
    let _held = mb::config::data_dir::DataDir::lock(world.dir.path()).unwrap();
    let error = world.run(world.config(), &Recorder::new(|_| Ok(()))).unwrap_err();
    assert_eq!(error.exit_code(), 78);
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
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

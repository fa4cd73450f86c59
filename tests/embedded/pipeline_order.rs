//! `--order` over the embedded topic: what starts after what, what goes on beside it, and that a
//! stuck lane holds back its own partition only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::support::world::{Recorder, TOPIC, World, all, every_record_once};
use mb::config::Order;
use mb::config::limits;
use mb::kafka::{Broker, Message, Sent};
use mb::model::offset::{Lane, Partition};
use mb::model::thread;
use mb::step::{Attempt, StepError};
use mb::{Config, Error, Pipeline, Stopper};

/// What never comes ends the test.
const SIDE_BY_SIDE_LIMIT: Duration = Duration::from_secs(60);

/// `records` of each partition, with `keys` keys in turn.
fn keyed_world(records: usize, keys: usize) -> World {
    let world = World::new();
    let mut producer = world.topics.producer(TOPIC).unwrap();
    for n in 0..records {
        for partition in 0..3 {
            let (key, value) = (format!("{partition}-{}", n % keys), n.to_string());
            let message = Message {
                partition,
                key: Some(key.as_bytes()),
                value: Some(value.as_bytes()),
                headers: &[],
            };
            assert_eq!(producer.send(message, Duration::from_secs(10)).unwrap(), Sent::Accepted);
        }
    }
    assert_eq!(producer.flush(Duration::from_secs(10)).unwrap(), 0);
    world
}

/// Who is at work in which lane, and in which order records were done.
#[derive(Default)]
struct Seen {
    running: BTreeSet<(Partition, u32)>,
    most_running: usize,
    done: BTreeMap<String, Vec<i64>>,
}

/// `Seen`, and what wakes who waits for others to be at work.
#[derive(Default)]
struct Watch(Mutex<Seen>, Condvar);

/// A step that fails now and then, and keeps in mind what it saw: `name` is what may not overtake
/// one another. Its runs wait until `at_once` of them have been at work side by side.
fn watched(
    watch: &Arc<Watch>,
    at_once: usize,
    name: impl Fn(&Attempt<'_>, Option<&[u8]>) -> String + Send + Sync + 'static,
) -> Arc<Recorder> {
    let watch = Arc::clone(watch);
    Recorder::new(move |attempt| {
        let lane = (attempt.key.partition, attempt.key.lane.index);
        let Watch(seen, more) = &*watch;
        let mut seen = seen.lock().unwrap();
        assert!(seen.running.insert(lane), "two runs of lane {lane:?} at once");
        seen.most_running = seen.most_running.max(seen.running.len());
        more.notify_all();
        let alone = |seen: &mut Seen| seen.most_running < at_once;
        let mut seen = more.wait_timeout_while(seen, SIDE_BY_SIDE_LIMIT, alone).unwrap().0;
        seen.running.remove(&lane);
        if attempt.number == 1 && attempt.key.range.first.get() % 3 == 0 {
            return Err(StepError::Retry("not yet".into()));
        }
        for record in attempt.batch.records() {
            let name = name(attempt, record.key);
            seen.done.entry(name).or_default().push(record.offset.get());
        }
        Ok(())
    })
}

fn assert_in_order(seen: &Seen) {
    for (name, offsets) in &seen.done {
        assert!(offsets.is_sorted(), "{name} was processed as {offsets:?}");
    }
}

#[test]
fn a_partitions_runs_follow_one_another_through_failures_and_partitions_go_side_by_side() {
    let world = World::with_records(100);
    let watch = Arc::<Watch>::default();
    let step = watched(&watch, 2, |attempt, _| attempt.key.partition.to_string());
    let config = Config { order: Order::Partition, ..world.config() };
    world.run(config, &step).unwrap();
    let seen = watch.0.lock().unwrap();
    assert_in_order(&seen);
    assert_eq!(seen.done.len(), 3);
    assert_eq!(step.done_records(), every_record_once(100));
    assert_eq!(world.committed("mb"), all(100));
}

#[test]
fn records_of_one_key_are_processed_in_order_and_lanes_go_side_by_side() {
    let world = keyed_world(200, 11);
    let watch = Arc::<Watch>::default();
    let step = watched(&watch, 4, |_, key| String::from_utf8(key.unwrap().to_vec()).unwrap());
    let config = Config { order: Order::Key, lanes: Some(3), max_batch: 30, ..world.config() };
    world.run(config, &step).unwrap();
    let seen = watch.0.lock().unwrap();
    assert_in_order(&seen);
    assert_eq!(seen.done.len(), 33);
    assert!(seen.most_running > 3, "only {} at a time", seen.most_running);
    assert_eq!(step.done_records(), every_record_once(200));
    assert_eq!(world.committed("mb"), all(200));
    let done = step.done.lock().unwrap();
    assert!(done.keys().all(|key| key.contains(".lane-") && key.ends_with("-of-3")));
}

#[test]
fn another_number_of_lanes_waits_for_the_batches_of_the_one_before() {
    let world = keyed_world(60, 7);
    // Halts in one lane while the others go on: unfinished runs of 4 lanes are left.
    let halting = Recorder::new(|attempt| {
        let first_of_a_lane = attempt.key.lane.index == 1 && attempt.key.partition == 1;
        if first_of_a_lane { Err(StepError::Stop("wait".into())) } else { Ok(()) }
    });
    let config =
        |lanes| Config { order: Order::Key, lanes: Some(lanes), max_batch: 20, ..world.config() };
    let error = world.run(config(4), &halting).unwrap_err();
    assert!(matches!(error, Error::Halt(_)), "{error}");
    let seen: Arc<Mutex<Vec<Lane>>> = Arc::default();
    let order: Arc<Mutex<BTreeMap<Vec<u8>, Vec<i64>>>> = Arc::default();
    let step = {
        let (seen, order) = (Arc::clone(&seen), Arc::clone(&order));
        Recorder::new(move |attempt| {
            if attempt.key.partition == 1 {
                seen.lock().unwrap().push(attempt.key.lane);
            }
            for record in attempt.batch.records() {
                let key = record.key.unwrap().to_vec();
                order.lock().unwrap().entry(key).or_default().push(record.offset.get());
            }
            Ok(())
        })
    };
    world.run(config(2), &step).unwrap();
    let counts: Vec<u32> = seen.lock().unwrap().iter().map(|lane| lane.count).collect();
    assert!(counts.contains(&4) && counts.iter().is_sorted_by(|a, b| a >= b), "{counts:?}");
    assert!(order.lock().unwrap().values().all(|offsets| offsets.is_sorted()));
    let mut records = halting.done_records();
    records.extend(step.done_records());
    records.sort();
    records.dedup();
    assert_eq!(records, every_record_once(60));
    assert_eq!(world.committed("mb"), all(60));
}

#[test]
fn a_stuck_partition_is_read_no_further_while_the_others_flow() {
    let records = 3000;
    let world = World::new();
    let mut producer = world.topics.producer(TOPIC).unwrap();
    for n in 0..records {
        for partition in 0..3 {
            let value = format!("{n:>1000}");
            let value = Some(value.as_bytes());
            let message = Message { partition, key: None, value, headers: &[] };
            producer.send(message, Duration::from_secs(10)).unwrap();
        }
    }
    assert_eq!(producer.flush(Duration::from_secs(10)).unwrap(), 0);
    let (others_done, done) = crossbeam_channel::bounded(1);
    let (release, stuck) = crossbeam_channel::bounded::<()>(0);
    let flowed = Mutex::new(0);
    let step = Recorder::new(move |attempt| {
        if attempt.key.partition == 1 {
            // Ends when the test lets go.
            let _ = stuck.recv();
            return Ok(());
        }
        let mut flowed = flowed.lock().unwrap();
        *flowed += attempt.batch.len();
        if *flowed == 2 * records {
            others_done.send(()).unwrap();
        }
        Ok(())
    });
    let config = Config {
        order: Order::Partition,
        max_batch: 10,
        // Smaller than what the stuck partition alone has.
        queue_bytes: 2 << 20,
        max_batch_bytes: 64 << 10,
        ..world.config()
    };
    let (_stopper, stop) = Stopper::new();
    let pipeline = {
        let step: Arc<dyn mb::step::Step> = Arc::<Recorder>::clone(&step);
        Pipeline::new(config, step).with_broker(Arc::new(world.topics.clone()))
    };
    let running = thread::spawn("pipeline", move || pipeline.run(&stop)).unwrap();
    done.recv_timeout(Duration::from_secs(60)).expect("the other partitions flow");
    let planned: i64 = world
        .history()
        .query_row("SELECT count(*) FROM runs WHERE partition = 1", [], |row| row.get(0))
        .unwrap();
    let most = limits::PARKED_RUNS + 1 + Config::default().queue;
    assert!(planned as usize <= most, "{planned} runs of the stuck partition");
    drop(release);
    running.join().unwrap().unwrap();
    assert_eq!(step.done_records(), every_record_once(records as i64));
    assert_eq!(world.committed("mb"), all(records as i64));
}

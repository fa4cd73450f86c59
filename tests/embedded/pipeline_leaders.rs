//! A partition without a leader, at the start and later: the others are read, and it follows as soon as it has
//! a leader. The embedded topic stands in for the cluster; `kafka_cluster.rs` has real brokers.

use std::sync::Arc;
use std::time::Duration;

use mb::api::operations::overview::GetLag;
use mb::api::operations::sensor::Pause;
use mb::api::socket::Client;
use mb::config::StartFrom;
use mb::kafka::Broker;
use mb::kafka::embedded::Faults;
use mb::model::offset::Offset;
use mb::step::Step;
use mb::{Config, Pipeline, Stopper};

use crate::support::eventually;
use crate::support::world::{Recorder, TOPIC, World, all};

const LIMIT: Duration = Duration::from_secs(60);

/// A pipeline on the world's topic, of which `test` takes and gives leaders while it runs.
fn while_running(world: &World, config: Config, faults: &Faults, test: impl FnOnce(&Recorder)) {
    let step = Recorder::new(|_| Ok(()));
    let broker: Arc<dyn Broker> = Arc::new(world.topics.with_faults(faults.clone()));
    let (stopper, stop) = Stopper::new();
    let pipeline = Pipeline::new(config, Arc::clone(&step) as Arc<dyn Step>).with_broker(broker);
    std::thread::scope(|scope| {
        let running = scope.spawn(move || pipeline.run(&stop));
        // Ends the pipeline if the test panics, too.
        let _stopper = StopAtEnd(stopper);
        test(&step);
        drop(_stopper);
        running.join().unwrap().unwrap();
    });
}

struct StopAtEnd(Stopper);

impl Drop for StopAtEnd {
    fn drop(&mut self) {
        self.0.stop();
    }
}

fn forever(world: &World) -> Config {
    Config { until_caught_up: false, ..world.config() }
}

#[test]
fn the_others_start_and_a_partition_follows_when_it_has_a_leader() {
    let world = World::with_records(20);
    let faults = Faults::new(1);
    faults.take_leaders([1]);
    while_running(&world, forever(&world), &faults, |_| {
        eventually(LIMIT, "the others are read", || {
            let committed = world.committed("mb");
            [0, 2].iter().all(|partition| committed.get(partition) == Some(&Offset::new(20)))
        });
        assert_eq!(world.committed("mb").get(&1), None);
        faults.heal();
        eventually(LIMIT, "partition 1 follows", || world.committed("mb") == all(20));
    });
}

#[test]
fn the_lag_of_the_others_is_known_while_a_partition_has_no_leader() {
    let world = World::with_records(20);
    // So the partition is this mb's from its start on, and its end is asked for.
    world.topics.commit("mb", TOPIC, &[(1, Offset::new(6))]).unwrap();
    let faults = Faults::new(1);
    faults.take_leaders([1]);
    while_running(&world, forever(&world), &faults, |_| {
        eventually(LIMIT, "the others are read", || {
            let committed = world.committed("mb");
            [0, 2].iter().all(|partition| committed.get(partition) == Some(&Offset::new(20)))
        });
        let mut client = Client::connect(world.dir.path()).unwrap().unwrap();
        client.perform(Pause {}).unwrap();
        eventually(LIMIT, "records that nobody reads are lag", || {
            world.post(0, b"0-new");
            let lag = client.perform(GetLag {}).unwrap();
            let partitions = lag.top.iter().map(|one| (one.partition, one.lag > 0));
            let why = lag.error.unwrap_or_default();
            partitions.eq([(0, true), (2, false)]) && why.contains("orders/1 has no leader")
        });
    });
}

#[test]
fn a_partition_that_has_an_offset_goes_on_from_it_when_its_leader_is_back() {
    let world = World::with_records(20);
    let at_6: Vec<_> = (0..3).map(|partition| (partition, Offset::new(6))).collect();
    world.topics.commit("mb", TOPIC, &at_6).unwrap();
    let faults = Faults::new(1);
    faults.take_leaders([1]);
    while_running(&world, forever(&world), &faults, |step| {
        eventually(LIMIT, "the others are read", || {
            let committed = world.committed("mb");
            [0, 2].iter().all(|partition| committed[partition] == Offset::new(20))
        });
        assert_eq!(world.committed("mb")[&1], Offset::new(6));
        faults.heal();
        eventually(LIMIT, "partition 1 follows", || world.committed("mb") == all(20));
        assert_eq!(step.done_records().len(), 3 * 14, "nothing below 6");
    });
}

#[test]
fn from_latest_is_the_end_at_the_time_the_leader_comes() {
    let world = World::with_records(20);
    let faults = Faults::new(1);
    faults.take_leaders([1]);
    let config = Config { from: StartFrom::Latest, ..forever(&world) };
    while_running(&world, config, &faults, |step| {
        eventually(LIMIT, "another partition is read from its end", || {
            world.post(0, b"0-new");
            !step.done_records().is_empty()
        });
        faults.heal();
        eventually(LIMIT, "partition 1 is read from its end", || {
            world.post(1, b"1-new");
            step.done_records().iter().any(|(key, _)| key.starts_with('1'))
        });
        let old = |(_, offset): &&(String, i64)| *offset < 20;
        assert_eq!(step.done_records().iter().filter(old).count(), 0);
    });
}

#[test]
fn until_caught_up_waits_for_a_partition_without_a_leader() {
    let world = World::with_records(20);
    let faults = Faults::new(1);
    faults.take_leaders([1]);
    let step = Recorder::new(|_| Ok(()));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            eventually(LIMIT, "the others are read", || {
                world.committed("mb").values().filter(|offset| offset.get() == 20).count() == 2
            });
            faults.heal();
        });
        let broker = Arc::new(world.topics.with_faults(faults.clone()));
        world.run_on(broker, world.config(), &step).unwrap();
    });
    assert_eq!(world.committed("mb"), all(20));
}

//! The rows of FAULTS.md in which the broker, or the way to it, fails: one test per row, seeded (see
//! `support::faults`). What fails in mb, on its disk or in the log is in the other `faults` files.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::eventually;
use crate::support::faults::{
    self, LIMIT, PARTITIONS, RECOVERY, World, as_many_runs, by_form, closed_port, cpu_time,
    each_seed, no_panic,
};
use crate::support::mb::Mb;
use crate::support::proxy::Mode;
use crate::support::raw;
use mb::kafka::crate_kafka::CrateKafka;
use mb::kafka::wire::Wire;
use mb::kafka::{Broker, FetchSettings, Flow, Sink};
use mb::model::batch::Record;
use mb::model::offset::Offset;
use rdkafka::producer::Producer;

/// mb promises to give up after 10 s; the rest is a busy machine's.
const CONTACT_LIMIT: Duration = Duration::from_secs(15);
const TROUBLE: &str = "retrying until it works";

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn row_07_mb_goes_on_when_the_broker_was_killed() {
    each_seed("row_07", |row| {
        let mut world = World::with_broker(row);
        world.fill(500, 20);
        world.watch();
        world.write(200);
        let mb = world.start_working(&world.files(&[]));
        world.wait_for_done(200);
        std::thread::sleep(row.millis(0..500));
        world.kafka.kill9();
        mb.wait_for_line(TROUBLE, LIMIT);
        std::thread::sleep(by_form(seconds(1), seconds(20)));
        world.kafka.restart();
        world.assert_progress();
        world.finish(Some(mb));
    });
}

#[test]
fn row_08_mb_goes_on_when_the_broker_was_frozen_and_answers_meanwhile() {
    each_seed("row_08", |row| {
        let mut world = World::with_broker(row);
        world.fill(500, 20);
        world.watch();
        world.write(200);
        let mb = world.start_working(&world.files(&[]));
        world.wait_for_done(200);
        std::thread::sleep(row.millis(0..500));
        let began = Instant::now();
        world.kafka.stop_cont(true);
        // Longer than a call may take.
        let freeze = by_form(seconds(13), seconds(60));
        mb.wait_for_line(TROUBLE, freeze);
        let asked = Instant::now();
        let answer = Mb::run_in(world.data_dir.path(), &["runs", "--json"]);
        assert!(answer.status.success(), "{answer:?}");
        assert!(asked.elapsed() < seconds(5), "mb runs took {:?}", asked.elapsed());
        std::thread::sleep(freeze.saturating_sub(began.elapsed()));
        world.kafka.stop_cont(false);
        world.assert_progress();
        world.finish(Some(mb));
    });
}

#[test]
fn row_09_without_a_broker_mb_ends_with_the_cause_or_waits_quietly() {
    each_seed("row_09", |_| {
        let server = closed_port();
        let args = ["--bootstrap-server", &server, "--topic", "any", "--listen", "off"];
        let began = Instant::now();
        let mut gives_up = Mb::start(&args);
        let mut waits = Mb::start(&[&args[..], &["--wait-for-broker"]].concat());
        waits.wait_for_line("waiting for the broker", LIMIT);
        let (before, from) = (cpu_time(waits.pid()), Instant::now());
        assert_eq!(gives_up.wait(LIMIT).code(), Some(1));
        let said = gives_up.stderr().join("\n");
        assert!(said.contains(&server) && said.contains("refused"), "{said}");
        assert!((seconds(5)..CONTACT_LIMIT).contains(&began.elapsed()), "{:?}", began.elapsed());
        // Less than 5 % of a CPU.
        let (used, time) = (cpu_time(waits.pid()) - before, from.elapsed());
        assert!(used < time / 20, "{used:?} of CPU in {time:?}");
        assert!(waits.try_wait().is_none());
        waits.term();
        assert_eq!(waits.wait(seconds(5)).code(), Some(0));
        no_panic(&gives_up);
        no_panic(&waits);
    });
}

#[test]
fn row_10_mb_ends_in_time_when_the_broker_is_gone_and_goes_on_from_there() {
    each_seed("row_10", |row| {
        let mut world = World::with_broker(row);
        // More than is done before the kill: runs that end after it cannot be committed.
        world.fill(as_many_runs(3000), 20);
        world.watch();
        let mut mb = world.start_working(&world.files(&["--step-delay", "20ms"]));
        world.wait_for_done(100);
        std::thread::sleep(row.millis(0..300));
        world.kafka.kill9();
        let began = Instant::now();
        mb.term();
        let status = mb.wait(LIMIT);
        println!("ended with {status} after {:.1?}", began.elapsed());
        assert!(began.elapsed() < seconds(10), "{:?}", began.elapsed());
        let said = mb.stderr().join("\n");
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains("cannot commit the last offsets (nothing is lost"), "{said}");
        no_panic(&mb);
        world.kafka.restart();
        world.finish(None);
    });
}

/// A world behind a proxy in which mb is at work on a backlog.
fn at_work(row: &faults::Row, per_partition: usize, value_bytes: usize) -> (World, Mb) {
    let mut world = World::behind_proxy(row);
    let mb = begin_work(&mut world, per_partition, value_bytes);
    (world, mb)
}

fn begin_work(world: &mut World, per_partition: usize, value_bytes: usize) -> Mb {
    world.fill(per_partition, value_bytes);
    world.watch();
    world.write(200);
    let mb = world.start_working(&world.files(&[]));
    world.wait_for_done(200);
    mb
}

/// How often the proxy has done what this mode does.
fn count(world: &World, mode: &Mode) -> u64 {
    world.proxy().counts().faults.get(mode.name()).copied().unwrap_or(0)
}

#[test]
fn row_12_mb_gets_on_while_its_connections_are_reset_again_and_again() {
    each_seed("row_12", |row| {
        let (mut world, mb) = at_work(row, 500, 20);
        world.proxy().set(Mode::Reset(Duration::from_millis(500)..Duration::from_millis(1500)));
        let (before, began) = (world.done(), Instant::now());
        let time = by_form(seconds(5), seconds(60));
        eventually(LIMIT, "work is done while connections are reset", || {
            began.elapsed() > time && world.done() > before + 100
        });
        let resets = count(&world, &Mode::Reset(Duration::ZERO..Duration::ZERO));
        println!("{resets} resets, {} records done meanwhile", world.done() - before);
        assert!(resets >= 3);
        world.proxy().heal();
        world.assert_progress();
        world.finish(Some(mb));
    });
}

#[test]
fn row_13_a_broker_that_says_nothing_is_an_error_in_time() {
    each_seed("row_13", |row| {
        for mode in [Mode::BlackHole, Mode::HalfOpen] {
            let (mut world, mb) = at_work(row, 200, 20);
            std::thread::sleep(row.millis(0..500));
            world.proxy().set(mode);
            // A call may take 10 s; a tick or a commit may have begun just before.
            mb.wait_for_line(TROUBLE, seconds(25));
            std::thread::sleep(by_form(seconds(1), seconds(30)));
            world.proxy().heal();
            world.assert_progress();
            world.finish(Some(mb));
        }
    });
}

/// Takes records until it has had so many.
struct Taken {
    next: BTreeMap<i32, Offset>,
    count: usize,
    enough: usize,
}

impl Sink for Taken {
    fn record(&mut self, partition: i32, record: Record<'_>) -> Flow {
        self.position(partition, record.offset.next());
        self.count += 1;
        if self.count < self.enough { Flow::Continue } else { Flow::Stop }
    }

    fn position(&mut self, partition: i32, next: Offset) {
        self.next.insert(partition, next);
    }

    fn failed(&mut self, partition: i32, error: mb::Error) -> Flow {
        panic!("{partition}: {error}");
    }
}

#[test]
fn row_13_the_pure_rust_client_gives_all_silent_connections_up_at_once() {
    each_seed("row_13_pure", |row| {
        let old = faults::Row { seed: row.seed & !1, random: row.random.clone() };
        let world = World::behind_proxy(&old);
        // Each such batch is looked at on one connection and fetched on another.
        let values = vec![b"x".repeat(20); 10];
        let producer = raw::producer(&world.direct, &[("compression.type", "gzip")]);
        for _ in 0..10 {
            for partition in 0..PARTITIONS {
                raw::send(&producer, &world.topic, partition, &values);
            }
            producer.flush(LIMIT).expect("the broker acknowledges");
        }
        let broker =
            CrateKafka::connect(&world.server, Arc::new(Wire::new(&world.server))).unwrap();
        let settings = FetchSettings {
            min_bytes: 1,
            max_record_bytes: 1 << 20,
            isolation: None,
            turn_bytes: None,
        };
        let mut taken = Taken { next: BTreeMap::new(), count: 0, enough: 70 };
        let read = |taken: &mut Taken| {
            let from = |at| (at, taken.next.get(&at).copied().unwrap_or(Offset::new(0)));
            let from: Vec<_> = (0..PARTITIONS).map(from).collect();
            // As a tick begins.
            broker.topic(&world.topic)?;
            let mut consumer = broker.consumer(&world.topic, &from, &settings)?;
            while taken.count < taken.enough {
                consumer.poll(Duration::from_millis(100), taken)?;
            }
            Ok::<_, mb::Error>(consumer)
        };
        let mut consumer = read(&mut taken).unwrap();
        world.proxy().set(Mode::BlackHole);
        std::thread::sleep(row.millis(50..500));
        world.proxy().heal();
        let began = Instant::now();
        taken.enough += 70;
        consumer.poll(Duration::from_millis(100), &mut taken).expect_err("nothing answers");
        drop(consumer);
        drop(read(&mut taken).unwrap());
        println!("read again after {:.1?}", began.elapsed());
        assert!(began.elapsed() < RECOVERY, "{:?}", began.elapsed());
    });
}

#[test]
fn row_14_answers_that_come_too_late_are_not_taken_for_others() {
    each_seed("row_14", |row| {
        let (mut world, mb) = at_work(row, 500, 20);
        let held = by_form(seconds(12), seconds(40));
        world.proxy().set(Mode::Hold(held));
        mb.wait_for_line(TROUBLE, LIMIT);
        // The late ones arrive, whoever still waits for them.
        std::thread::sleep(held + seconds(2));
        world.proxy().set(Mode::Hold(row.millis(100..900)));
        std::thread::sleep(seconds(3));
        world.proxy().heal();
        world.assert_progress();
        world.finish(Some(mb));
    });
}

#[test]
fn row_15_flipped_bytes_are_never_taken_for_records_nor_for_sizes() {
    each_seed("row_15", |row| {
        let mut world = World::behind_proxy(row);
        outlives_flipped_bytes(&mut world);
    });
}

#[test]
fn row_15_the_pure_rust_client_takes_no_flipped_bytes_for_records_either() {
    each_seed("row_15_pure", |row| {
        let old = faults::Row { seed: row.seed & !1, random: row.random.clone() };
        let mut world = World::behind_proxy(&old);
        world.read_by_crate_kafka();
        outlives_flipped_bytes(&mut world);
    });
}

fn outlives_flipped_bytes(world: &mut World) {
    let flip = Mode::Flip(20_000);
    let mb = begin_work(world, 3000, 1000);
    world.proxy().set(flip.clone());
    eventually(LIMIT, "bytes are flipped", || count(world, &flip) >= 20);
    // It reads them, too.
    mb.wait_for_line(TROUBLE, LIMIT);
    let peak = faults::status(mb.pid(), "VmHWM");
    println!("{:?}, peak {peak} KiB", world.proxy().counts());
    assert!(peak < 300 * 1024, "{peak} KiB");
    world.proxy().heal();
    world.assert_progress();
    for line in mb.stderr().iter().filter(|line| line.contains(TROUBLE)) {
        println!("{line}");
    }
    world.finish(Some(mb));
}

#[test]
fn row_16_a_dripping_or_half_closed_connection_is_outlived() {
    each_seed("row_16", |row| {
        for mode in [Mode::Drip(1000), Mode::HalfClose] {
            let (mut world, mut mb) = at_work(row, 500, 100);
            world.proxy().set(mode.clone());
            std::thread::sleep(by_form(seconds(4), seconds(60)));
            assert!(count(&world, &mode) > 0, "{mode:?} has reached a connection");
            assert!(mb.try_wait().is_none(), "{}", mb.stderr().join("\n"));
            world.proxy().heal();
            world.assert_progress();
            world.finish(Some(mb));
        }
    });
}

#[test]
fn row_17_refused_commits_are_tried_again_at_a_bounded_pace() {
    const OFFSET_COMMIT: &[i16] = &[8];
    each_seed("row_17", |row| {
        let mut world = World::behind_proxy(row);
        world.fill(500, 20);
        world.watch();
        let mb = world.start_working(&world.files(&["--step-delay", "20ms"]));
        world.wait_for_done(200);
        world.proxy().set(Mode::Deny(OFFSET_COMMIT));
        let denied = || count(&world, &Mode::Deny(OFFSET_COMMIT));
        world.wait_for_done(2000);
        eventually(LIMIT, "commits are refused", || denied() > 0);
        let (committed, before) = (world.committed(), (denied(), cpu_time(mb.pid())));
        assert!(committed != world.ends());
        let time = by_form(seconds(5), seconds(60));
        std::thread::sleep(time);
        let (tries, used) = (denied() - before.0, cpu_time(mb.pid()) - before.1);
        println!("{tries} tries, {used:?} of CPU in {time:?}");
        assert!(tries >= 1 && tries <= 10 * time.as_secs(), "{tries} tries in {time:?}");
        assert!(used < time / 10, "{used:?} of CPU in {time:?}");
        assert_eq!(world.committed(), committed);
        world.proxy().heal();
        eventually(RECOVERY, "all is committed", || world.committed() == world.ends());
        world.finish(Some(mb));
    });
}

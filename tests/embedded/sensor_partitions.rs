//! Partitions of a running sensor, one at a time, over the embedded topic: one that cannot be read pauses
//! alone, and one can be released and taken up again while the others go on.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use mb::commit::ledger::Ledger;
use mb::config::{Config, Connection};
use mb::history::recovery::Resume;
use mb::history::{self, History, Settled, schema};
use mb::kafka::Broker;
use mb::model::error::Error;
use mb::model::events::Event;
use mb::model::offset::{Offset, OffsetRange, Partition};
use mb::model::run::{Run, RunState};
use mb::model::thread::{self, Thread};
use mb::pipeline::startup;
use mb::pipeline::wiring::{Assembly, Inputs, wire};
use mb::runs::engine::Lasting;
use mb::source::sensor::{Released, Sensor};
use mb::source::signals::SensorHandle;

use crate::support;
use crate::support::world::{TOPIC, World};

const SOON: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(3600);
const QUEUE_BYTES: usize = 64 * 1024;
/// A record that fits the memory by itself, and does not with what its batch needs beside it.
const OVERSIZE: usize = QUEUE_BYTES - 100;
/// A record that the consumer itself refuses.
const UNREADABLE: usize = QUEUE_BYTES + 1;

/// A sensor, whose runs nobody takes but the test.
struct Sensing {
    world: World,
    assembly: Assembly,
    handle: SensorHandle,
    sensor: Option<Sensor>,
    running: Option<Thread<()>>,
    writer: Option<Thread<()>>,
}

impl Sensing {
    /// A sensor that has begun nothing yet. Batches are cut when they are full, ticks never end by themselves.
    fn new(change: impl FnOnce(&mut Config)) -> Sensing {
        let world = World::new();
        let mut config = Config {
            connection: Connection { topic: TOPIC.into(), ..Connection::default() },
            max_batch: 5,
            max_wait: LONG,
            queue_bytes: QUEUE_BYTES,
            tick_runtime: LONG,
            tick_interval: LONG,
            ..Config::default()
        };
        change(&mut config);
        let broker: Arc<dyn Broker> = Arc::new(world.topics.clone());
        let db = schema::open(&world.dir.path().join(history::FILE)).unwrap();
        let topic = startup::topic(broker.as_ref(), &config).unwrap();
        let recovered = startup::recover_from(&db, broker.as_ref(), &config, &topic).unwrap();
        let scope = recovered.scope;
        let inputs = Inputs {
            step: Arc::new(mb::step::Discard),
            broker,
            topic,
            recovered,
            in_doubt: false,
            lasting: Lasting::new(&config),
            config,
        };
        let (mut assembly, writer) = wire(inputs, |config, settle, _| {
            History::start(db, scope, "embedded", config.history_keep, settle)
        })
        .unwrap();
        let sensor = assembly.sensors.remove(0);
        Sensing {
            world,
            handle: sensor.handle(),
            assembly,
            sensor: Some(sensor),
            running: None,
            writer: Some(writer),
        }
    }

    /// A sensor that runs.
    fn running(change: impl FnOnce(&mut Config)) -> Sensing {
        let mut sensing = Sensing::new(change);
        sensing.start();
        sensing
    }

    fn start(&mut self) {
        let sensor = self.sensor.take().unwrap();
        self.running = Some(thread::spawn("sensor-0", move || sensor.run()).unwrap());
    }

    fn post(&self, partition: Partition, records: usize) {
        (0..records).for_each(|_| self.world.post(partition, b"value"));
    }

    /// The next run: partition, first and last offset. Its memory goes back when it is dropped.
    fn next(&self) -> (Partition, i64, i64) {
        range_of(&self.next_run())
    }

    fn next_run(&self) -> Run {
        let queue = &self.assembly.engine.queue;
        support::eventually_some(SOON, "a run", || queue.try_next())
    }

    /// As many of a partition's next runs as hold `records` records: where they begin and end. Runs of other
    /// partitions are no matter.
    fn records_of(&self, partition: Partition, records: i64) -> (i64, i64) {
        let (mut begin, mut end) = (None, 0);
        while begin.is_none_or(|begin| end - begin < records) {
            let (of, first, last) = self.next();
            if of == partition {
                assert_eq!(begin.map_or(first, |_| end), first, "each record comes once");
                begin.get_or_insert(first);
                end = last + 1;
            }
        }
        (begin.unwrap(), end)
    }

    fn is_full(&self) -> bool {
        self.assembly.engine.queue.room() == 0
    }

    fn ticks(&self) -> u64 {
        self.assembly.engine.live.ticks.get()
    }

    fn troubles(&self) -> Vec<String> {
        self.assembly.engine.live.troubles.read().into_iter().map(|failing| failing.cause).collect()
    }

    fn settle(&self, partition: Partition, first: i64, last: i64) {
        let batch = range(first, last);
        let settled = Settled { partition, batch, state: RunState::Succeeded };
        self.assembly.engine.ledgers.settle(&[settled]);
    }
}

impl Drop for Sensing {
    fn drop(&mut self) {
        let engine = &self.assembly.engine;
        engine.budget.close();
        engine.queue.close();
        engine.history.stop_waiting();
        let (intake, _) = crossbeam_channel::bounded(0);
        drop(std::mem::replace(&mut self.assembly.intake, intake));
        let running = self.running.take().map(Thread::join);
        engine.history.close();
        let writer = self.writer.take().map(Thread::join);
        if !std::thread::panicking() {
            running.into_iter().chain(writer).for_each(|ended| ended.unwrap());
        }
    }
}

fn range_of(run: &Run) -> (Partition, i64, i64) {
    (run.key.partition, run.key.range.first.get(), run.key.range.last.get())
}

fn range(first: i64, last: i64) -> OffsetRange {
    OffsetRange::new(Offset::new(first), Offset::new(last))
}

fn resume(position: i64) -> Resume {
    Resume { position: Offset::new(position), committed: None, read: None, stored: Vec::new() }
}

fn answer(released: &Receiver<Released>) -> Released {
    released.recv_timeout(SOON).expect("the sensor answers")
}

#[test]
fn one_poisoned_record_pauses_its_partition_alone_and_the_tick_goes_on() {
    for bytes in [OVERSIZE, UNREADABLE] {
        let mut sensing = Sensing::new(|_| {});
        sensing.post(0, 2);
        sensing.world.post(0, &vec![b'x'; bytes]);
        sensing.post(0, 1);
        sensing.post(1, 5);
        sensing.start();
        assert_eq!(sensing.records_of(0, 2), (0, 2), "what lies before the record goes on its way");
        support::eventually(SOON, "a trouble", || !sensing.troubles().is_empty());
        let troubles = sensing.troubles();
        assert!(troubles[0].starts_with("cannot read orders/0 at offset 2: "), "{troubles:?}");
        // Runs of the other partition may have come before.
        sensing.post(1, 10);
        while sensing.next() != (1, 10, 14) {}
        assert_eq!(sensing.ticks(), 0, "it is the same tick still");
        assert_eq!(sensing.troubles().len(), 1, "and the partition is not well");

        // The tick's row says why the partition was not read.
        assert!(sensing.assembly.engine.steering.pause());
        support::eventually(SOON, "the tick's end", || sensing.ticks() == 1);
        assert!(sensing.assembly.engine.history.flush(SOON));
        let db = schema::open_read_only(&sensing.world.dir.path().join(history::FILE)).unwrap();
        let select = "SELECT ended_by, ifnull(error, '') FROM ticks";
        let row =
            |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?));
        let (ended_by, error) = db.query_row(select, [], row).unwrap();
        assert_eq!(ended_by, "paused");
        assert_eq!(error, troubles[0]);
    }
}

#[test]
fn until_caught_up_ends_with_an_unreadable_record_once_all_else_is_done() {
    let mut sensing = Sensing::new(|config| {
        config.until_caught_up = true;
        config.tick_runtime = Duration::from_millis(100);
        config.tick_interval = Duration::ZERO;
    });
    sensing.post(0, 1);
    sensing.world.post(0, &vec![b'x'; OVERSIZE]);
    sensing.post(1, 10);
    let ends = [(0, Offset::new(2)), (1, Offset::new(10))];
    sensing.assembly.engine.ledgers.set_target(ends.into());
    sensing.start();
    let mut runs: Vec<_> = (0..3).map(|_| sensing.next()).collect();
    runs.sort_unstable();
    assert_eq!(runs, [(0, 0, 0), (1, 0, 4), (1, 5, 9)]);
    let ledgers = &sensing.assembly.engine.ledgers;
    sensing.settle(0, 0, 0);
    sensing.settle(1, 0, 4);
    assert!(!ledgers.waits_for_unreadable_only());
    assert!(sensing.assembly.events.is_empty(), "a run is not done");
    sensing.settle(1, 5, 9);
    let event = sensing.assembly.events.recv_timeout(SOON).expect("an end");
    let Event::Halt(Error::Unreadable { partition: 0, offset, .. }) = event else {
        panic!("{event:?}")
    };
    assert_eq!(offset, Offset::new(1));
    sensing.running.take().unwrap().join().unwrap();
}

#[test]
fn a_partition_is_released_and_taken_up_while_the_others_go_on() {
    let sensing = Sensing::running(|_| {});
    sensing.post(0, 7);
    sensing.post(1, 5);
    let mut runs = [sensing.next(), sensing.next()];
    runs.sort_unstable();
    assert_eq!(runs, [(0, 0, 4), (1, 0, 4)]);

    let released = answer(&sensing.handle.release(0));
    let expected = Released { partition: 0, position: Some(Offset::new(5)) };
    assert_eq!(released, expected);
    assert_eq!(sensing.assembly.engine.budget.used(), 0, "what was being filled is dropped");
    assert_eq!(answer(&sensing.handle.release(0)).position, None, "it has nothing more of it");
    sensing.post(0, 8);
    sensing.post(1, 10);
    assert_eq!([sensing.next(), sensing.next()], [(1, 5, 9), (1, 10, 14)]);
    assert_eq!(sensing.ticks(), 0, "it is the same tick still");

    sensing.assembly.engine.ledgers.add(0, Ledger::new(Offset::new(3), None));
    sensing.handle.take_up(0, resume(3));
    assert_eq!([sensing.next(), sensing.next()], [(0, 3, 7), (0, 8, 12)]);
    sensing.post(1, 5);
    assert_eq!(sensing.next(), (1, 15, 19));
}

#[test]
fn a_release_does_not_wait_for_room_in_the_queue() {
    let sensing = Sensing::running(|config| config.queue = 1);
    sensing.post(0, 15);
    support::eventually(SOON, "a full queue", || sensing.is_full());
    assert_eq!(answer(&sensing.handle.release(1)).position, Some(Offset::ZERO));
    let released = answer(&sensing.handle.release(0));
    assert_eq!(released.position, Some(Offset::new(5)));
    assert_eq!(sensing.next(), (0, 0, 4));
    sensing.assembly.engine.ledgers.add(0, Ledger::new(Offset::new(15), None));
    sensing.handle.take_up(0, resume(15));
    sensing.post(0, 5);
    assert_eq!(sensing.next(), (0, 15, 19), "nothing came after the answer");
}

#[test]
fn a_release_does_not_wait_for_memory() {
    let sensing = Sensing::running(|config| config.max_batch = 1);
    let large = vec![b'x'; QUEUE_BYTES / 2];
    sensing.world.post(0, &large);
    let held = sensing.next_run();
    sensing.world.post(0, &large);
    sensing.world.post(1, &large);
    let released = answer(&sensing.handle.release(0));
    assert_eq!(released.position, Some(Offset::new(1)));
    drop(held);
    assert_eq!(sensing.next(), (1, 0, 0));
}

#[test]
fn a_release_is_answered_between_ticks_and_while_paused() {
    let sensing = Sensing::running(|config| config.tick_runtime = Duration::from_millis(100));
    support::eventually(SOON, "a tick's end", || sensing.ticks() == 1);
    sensing.post(0, 1);
    sensing.post(1, 1);
    assert_eq!(answer(&sensing.handle.release(0)).position, Some(Offset::ZERO));
    sensing.assembly.engine.steering.pause();
    assert_eq!(answer(&sensing.handle.release(1)).position, Some(Offset::ZERO));
    sensing.assembly.engine.ledgers.add(1, Ledger::new(Offset::ZERO, None));
    sensing.handle.take_up(1, resume(0));
    assert_eq!(sensing.ticks(), 1, "a pause outlives commands");
    sensing.assembly.engine.steering.tick();
    assert_eq!(sensing.next(), (1, 0, 0));
}

#[test]
fn commands_of_a_sensor_that_has_ended_are_answered_by_a_disconnect() {
    let mut sensing = Sensing::running(|_| {});
    let (intake, _) = crossbeam_channel::bounded(0);
    drop(std::mem::replace(&mut sensing.assembly.intake, intake));
    sensing.running.take().unwrap().join().unwrap();
    for _ in 0..1000 {
        assert!(sensing.handle.release(0).recv_timeout(SOON).is_err());
    }
}

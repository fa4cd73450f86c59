//! Dead letters on a topic: as the records were, with where they came from and why; offsets go on
//! only when the topic has them. On the embedded topic and on real brokers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::support::eventually;
use crate::support::partly::{Answers, Partly};
use crate::support::world::{Recorder, TOPIC, World, all, runs_in};
use mb::config::DeadLetterTo;
use mb::kafka::embedded::{Embedded, Faults};
use mb::kafka::{Broker, FetchSettings, Flow, Message, Producer, Sink, require_all};
use mb::model::batch::Record;
use mb::model::offset::{Offset, Partition};
use mb::step::{Attempt, FailedRecord, StepError};
use mb::{Config, Error, Pipeline, Stopper};

const LIMIT: Duration = Duration::from_secs(60);
const LETTERS: &str = "letters";

/// A record as it lies on a topic.
#[derive(Clone, Debug, PartialEq)]
struct Found {
    partition: Partition,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<String>)>,
}

impl Found {
    fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.unwrap_or_else(|| panic!("no {name} in {self:?}")).1.as_deref().unwrap()
    }

    fn offset(&self) -> i64 {
        self.header("__connect.errors.offset").parse().unwrap()
    }
}

#[derive(Default)]
struct Reader(Vec<Found>);

impl Sink for Reader {
    fn record(&mut self, partition: Partition, record: Record<'_>) -> Flow {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        self.0.push(Found {
            partition,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: record
                .headers
                .iter()
                .map(|(name, value)| (text(name), value.map(text)))
                .collect(),
        });
        Flow::Continue
    }

    fn position(&mut self, _: Partition, _: Offset) {}

    fn failed(&mut self, partition: Partition, error: Error) -> Flow {
        panic!("{partition}: {error}");
    }
}

/// All that a topic holds, in the order of its partitions.
fn read(topics: &Embedded, topic: &str) -> Vec<Found> {
    let info = topics.topic(topic).unwrap();
    let marks = require_all(topics.watermarks(topic, &info.partitions).unwrap()).unwrap();
    let end: i64 = marks.values().map(|marks| marks.end.get()).sum();
    let from: Vec<_> = info.partitions.iter().map(|partition| (*partition, Offset::ZERO)).collect();
    let settings = FetchSettings {
        min_bytes: 1,
        max_record_bytes: 1 << 26,
        isolation: None,
        turn_bytes: None,
    };
    let mut consumer = topics.consumer(topic, &from, &settings).unwrap();
    let mut reader = Reader::default();
    let deadline = Instant::now() + LIMIT;
    while (reader.0.len() as i64) < end {
        assert!(Instant::now() < deadline, "only {:?}", reader.0);
        consumer.poll(Duration::from_millis(100), &mut reader).unwrap();
    }
    consumer.close();
    reader.0
}

fn to_topic() -> DeadLetterTo {
    DeadLetterTo::Topic(LETTERS.to_owned())
}

/// Gives up at once on runs with this value in them.
fn choking_on(value: &'static str) -> Arc<Recorder> {
    Recorder::new(move |attempt| {
        let bad = attempt.batch.records().any(|record| record.value == Some(value.as_bytes()));
        if bad { Err(StepError::DeadLetter(format!("cannot digest {value}"))) } else { Ok(()) }
    })
}

fn stored_letters(world: &World) -> i64 {
    world.history().query_row("SELECT count(*) FROM dead_letters", [], |row| row.get(0)).unwrap()
}

fn post(world: &World, message: Message<'_>) {
    let mut producer = world.topics.producer(TOPIC).unwrap();
    producer.send(message, LIMIT).unwrap();
    assert_eq!(producer.flush(LIMIT).unwrap(), 0);
}

#[test]
fn a_letter_on_a_topic_is_the_record_as_it_was_and_says_where_it_came_from_and_why() {
    let world = World::new();
    let headers: [(&str, Option<&[u8]>); 2] = [("trace", Some(b"7")), ("empty", None)];
    let tombstone = Message { partition: 2, key: Some(b"k"), value: None, headers: &headers };
    post(&world, tombstone);
    let plain = Message { value: Some(b"\xff\x00"), headers: &[], ..tombstone };
    post(&world, plain);
    let step = Recorder::new(|_| Err(StepError::Retry("no".into())));
    let mut config = Config { dead_letter: to_topic(), max_attempts: 2, ..world.config() };
    config.connection.partitions = 2;
    let summary = world.run(config, &step).unwrap();
    assert_eq!(summary.dead_letters, 2);
    let letters = read(&world.topics, LETTERS);
    assert_eq!(letters.len(), 2, "made with --partitions, and both are there: {letters:?}");
    let first = &letters[0];
    assert_eq!((first.partition, first.key.as_deref()), (0, Some(&b"k"[..])), "2 modulo 2");
    assert_eq!(first.value, None, "null stays null");
    assert_eq!(first.headers[..2], [("trace".into(), Some("7".into())), ("empty".into(), None)]);
    for (name, value) in [
        ("__connect.errors.topic", "orders"),
        ("__connect.errors.partition", "2"),
        ("__connect.errors.offset", "0"),
        ("__connect.errors.stage", "STEP"),
        ("__connect.errors.class.name", "recorder"),
        ("__connect.errors.exception.class.name", "retry"),
        ("__connect.errors.exception.message", "no"),
        ("__connect.errors.task.id", "orders/2/0-1"),
        ("__mb.errors.run-key", "orders/2/0-1"),
        ("__mb.errors.attempts", "2"),
        ("__mb.errors.group", "mb"),
    ] {
        assert_eq!(first.header(name), value, "{name}");
    }
    assert!(first.header("__mb.errors.timestamp").parse::<i64>().unwrap() > 0);
    assert_eq!(letters[1].value.as_deref(), Some(&b"\xff\x00"[..]));
    assert_eq!(stored_letters(&world), 0, "a topic alone: the history keeps no payload");
    let failed = &runs_in(&world.history(), "failed", 9).unwrap()[0];
    let detail = mb::history::query::run(&world.history(), failed.id).unwrap().unwrap();
    assert_eq!(detail.dead_letters, 2, "but it says how many");
    assert_eq!(world.committed("mb")[&2], Offset::new(2));
}

#[test]
fn both_is_the_topic_and_the_history_with_headers_too() {
    let world = World::new();
    let headers: [(&str, Option<&[u8]>); 1] = [("trace", Some(b"7"))];
    post(&world, Message { partition: 0, key: None, value: Some(b"bad"), headers: &headers });
    let config = Config { dead_letter: DeadLetterTo::Both(None), ..world.config() };
    world.run(config, &choking_on("bad")).unwrap();
    let letters = read(&world.topics, "orders-dead-letters");
    assert_eq!(letters[0].header("__connect.errors.exception.class.name"), "dead-letter");
    let stored: Vec<u8> = world
        .history()
        .query_row("SELECT headers FROM dead_letters", [], |row| row.get(0))
        .unwrap();
    assert_eq!(stored, mb::model::headers::Headers::encode([("trace", Some("7"))]));
}

#[test]
fn of_a_batch_only_the_named_records_go_to_the_topic_each_with_its_reason() {
    let world = World::with_records(7);
    let name_bad = |attempt: &mut Attempt<'_>| {
        let named = attempt.batch.records().filter(|record| record.offset.get() % 3 == 1);
        let reason = |record: Record<'_>| format!("reason {}", record.offset);
        attempt.failed = named
            .map(|record| FailedRecord { offset: record.offset, reason: reason(record) })
            .collect();
    };
    let step = Recorder::naming(name_bad, |_| Ok(()));
    world.run(Config { dead_letter: to_topic(), ..world.config() }, &step).unwrap();
    let letters = read(&world.topics, LETTERS);
    assert_eq!(letters.len(), 6, "offsets 1 and 4 of three partitions");
    for letter in &letters {
        let reason = format!("reason {}", letter.offset());
        assert_eq!(letter.header("__connect.errors.exception.message"), reason);
        assert_eq!(letter.header("__connect.errors.exception.class.name"), "named");
    }
}

#[test]
fn the_topic_itself_and_names_that_kafka_would_not_take_are_refused() {
    let world = World::with_records(1);
    let step = Recorder::new(|_| Ok(()));
    for name in [TOPIC, "a b"] {
        let config = Config { dead_letter: DeadLetterTo::Topic(name.into()), ..world.config() };
        let error = world.run(config, &step).unwrap_err();
        assert_eq!(error.exit_code(), 78);
        assert!(error.to_string().starts_with("--dead-letter: got"), "{error}");
    }
    assert!(step.attempts.lock().unwrap().is_empty());
}

#[test]
fn where_the_topic_does_not_take_letters_offsets_wait_and_the_step_is_not_run_again() {
    let world = World::with_records(7);
    let broken = Faults::new(1);
    let broker: Arc<dyn Broker> = Arc::new(Partly(Switched {
        topics: world.topics.clone(),
        faulty: world.topics.with_faults(broken.clone()),
        name: LETTERS,
        hold: None,
    }));
    world.topics.create_topic(LETTERS, 1).unwrap();
    let step = choking_on("1-3");
    let config = Config { dead_letter: to_topic(), until_caught_up: false, ..world.config() };
    broken.fail_randomly(1.0);
    let (stopper, stop) = Stopper::new();
    let pipeline = {
        let step: Arc<dyn mb::step::Step> = Arc::<Recorder>::clone(&step);
        let pipeline = Pipeline::new(config, step).with_broker(broker);
        std::thread::spawn(move || pipeline.run(&stop))
    };
    eventually(LIMIT, "the letters are tried three times", || broken.struck() >= 3);
    eventually(LIMIT, "the other partitions go on", || {
        let committed = world.committed("mb");
        committed.get(&0) == Some(&Offset::new(7)) && committed.get(&2) == Some(&Offset::new(7))
    });
    let held = world.committed("mb").get(&1).copied().unwrap_or_default();
    assert_eq!(held, Offset::ZERO, "its letters are nowhere yet");
    broken.heal();
    eventually(LIMIT, "the offsets go on", || world.committed("mb") == all(7));
    assert_eq!(step.numbers_of("orders/1/0-6"), [1], "the step ran once");
    assert_eq!(read(&world.topics, LETTERS).len(), 7);
    stopper.stop();
    pipeline.join().unwrap().unwrap();
}

#[test]
fn a_stop_before_the_letters_are_written_loses_nothing() {
    let world = World::with_records(7);
    let broken = Faults::new(1);
    let broker: Arc<dyn Broker> = Arc::new(Partly(Switched {
        topics: world.topics.clone(),
        faulty: world.topics.with_faults(broken.clone()),
        name: LETTERS,
        hold: None,
    }));
    world.topics.create_topic(LETTERS, 1).unwrap();
    let config = Config { dead_letter: to_topic(), ..world.config() };
    broken.fail_randomly(1.0);
    let (stopper, stop) = Stopper::new();
    let step = choking_on("1-3");
    let pipeline = {
        let step: Arc<dyn mb::step::Step> = Arc::<Recorder>::clone(&step);
        let pipeline = Pipeline::new(config.clone(), step).with_broker(broker);
        std::thread::spawn(move || pipeline.run(&stop))
    };
    eventually(LIMIT, "the letters are tried", || broken.struck() >= 2);
    stopper.stop();
    pipeline.join().unwrap().unwrap();
    let again = choking_on("1-3");
    world.run(config, &again).unwrap();
    assert_eq!(again.numbers_of("orders/1/0-6"), [1], "made again under its key");
    assert_eq!(read(&world.topics, LETTERS).len(), 7);
    assert_eq!(world.committed("mb"), all(7));
}

/// An embedded topic of which one topic's producers have faults of their own.
pub struct Switched {
    pub topics: Embedded,
    pub faulty: Embedded,
    pub name: &'static str,
    /// A producer is made only after a message, or the end, of this.
    pub hold: Option<Receiver<()>>,
}

impl Answers for Switched {
    fn broker(&self) -> &dyn Broker {
        &self.topics
    }

    fn producer(&self, topic: &str) -> mb::Result<Box<dyn Producer>> {
        if let Some(hold) = &self.hold {
            let _ = hold.recv();
        }
        if topic == self.name { self.faulty.producer(topic) } else { self.topics.producer(topic) }
    }
}

//! Dead letters on a topic: as the records were, with where they came from and why; offsets go on
//! only when the topic has them. On the embedded topic and on real brokers.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mb::config::DeadLetterTo;
use mb::kafka::embedded::{Embedded, Faults};
use mb::kafka::{Broker, FetchSettings, Flow, Message, Sink};
use mb::model::batch::Record;
use mb::model::offset::{Offset, Partition};
use mb::step::{Attempt, FailedRecord, StepError};
use mb::{Config, Pipeline, Stopper};
use support::eventually;
use support::world::{Recorder, TOPIC, World, all, runs_in};

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
}

/// All that a topic holds, in the order of its partitions.
fn read(topics: &Embedded, topic: &str) -> Vec<Found> {
    let info = topics.topic(topic).unwrap();
    let marks = topics.watermarks(topic, &info.partitions).unwrap();
    let end: i64 = marks.values().map(|marks| marks.end.get()).sum();
    let from: Vec<_> = info.partitions.iter().map(|partition| (*partition, Offset::ZERO)).collect();
    let settings = FetchSettings { min_bytes: 1, max_record_bytes: 1 << 26, isolation: None };
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
    let broker: Arc<dyn Broker> = Arc::new(Switched {
        topics: world.topics.clone(),
        faulty: world.topics.with_faults(broken.clone()),
        name: LETTERS,
    });
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
    let broker: Arc<dyn Broker> = Arc::new(Switched {
        topics: world.topics.clone(),
        faulty: world.topics.with_faults(broken.clone()),
        name: LETTERS,
    });
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
struct Switched {
    topics: Embedded,
    faulty: Embedded,
    name: &'static str,
}

impl Broker for Switched {
    fn backend(&self) -> mb::kafka::Backend {
        self.topics.backend()
    }

    fn capabilities(&self) -> mb::kafka::Capabilities {
        self.topics.capabilities()
    }

    fn describe(&self) -> String {
        self.topics.describe()
    }

    fn topic(&self, topic: &str) -> mb::Result<mb::kafka::TopicInfo> {
        self.topics.topic(topic)
    }

    fn create_topic(&self, topic: &str, partitions: u32) -> mb::Result<()> {
        self.topics.create_topic(topic, partitions)
    }

    fn watermarks(
        &self,
        topic: &str,
        partitions: &[Partition],
    ) -> mb::Result<BTreeMap<Partition, mb::kafka::Watermarks>> {
        self.topics.watermarks(topic, partitions)
    }

    fn offsets_at(
        &self,
        topic: &str,
        partitions: &[Partition],
        timestamp_ms: i64,
    ) -> mb::Result<BTreeMap<Partition, Offset>> {
        self.topics.offsets_at(topic, partitions, timestamp_ms)
    }

    fn committed(
        &self,
        group: &str,
        topic: &str,
        partitions: &[Partition],
    ) -> mb::Result<BTreeMap<Partition, Offset>> {
        self.topics.committed(group, topic, partitions)
    }

    fn commit(&self, group: &str, topic: &str, offsets: &[(Partition, Offset)]) -> mb::Result<()> {
        self.topics.commit(group, topic, offsets)
    }

    fn consumer(
        &self,
        topic: &str,
        from: &[(Partition, Offset)],
        settings: &FetchSettings,
    ) -> mb::Result<Box<dyn mb::kafka::Consumer>> {
        self.topics.consumer(topic, from, settings)
    }

    fn producer(&self, topic: &str) -> mb::Result<Box<dyn mb::kafka::Producer>> {
        if topic == self.name { self.faulty.producer(topic) } else { self.topics.producer(topic) }
    }
}

#[cfg(feature = "rdkafka")]
mod on_kafka {
    use std::collections::BTreeSet;
    use std::thread;

    use rdkafka::message::{Header, OwnedHeaders};
    use rdkafka::producer::{BaseRecord, Producer};

    use super::LIMIT;
    use crate::support::faults::{Row, each_seed};
    use crate::support::kafka::{Kafka, V3_9, V4_1};
    use crate::support::mb::Mb;
    use crate::support::{eventually, raw, unique};

    /// Gives up on every record.
    const GIVE_UP: [&str; 2] = ["--exec", "echo 'no use' >&2; exit 65"];

    struct Names {
        server: String,
        topic: String,
        group: String,
        letters: String,
        to: String,
    }

    impl Names {
        fn on(kafka: &Kafka) -> Names {
            let letters = unique("letters");
            let to = format!("topic:{letters}");
            let (server, topic, group) = (kafka.bootstrap(), unique("orders"), unique("group"));
            Names { server, topic, group, letters, to }
        }

        fn args<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
            let own = [
                "--bootstrap-server",
                &self.server,
                "--topic",
                &self.topic,
                "--group",
                &self.group,
                "--dead-letter",
                &self.to,
                "--partitions",
                "1",
                "--listen",
                "off",
            ];
            [&own, &GIVE_UP[..], more].concat()
        }

        fn committed(&self) -> i64 {
            raw::committed(&self.server, &self.group, &self.topic)[&0]
        }
    }

    fn text<'a>(headers: &'a raw::Headers, name: &str) -> &'a str {
        let found = headers.iter().find(|(known, _)| known == name);
        let (_, value) = found.unwrap_or_else(|| panic!("no {name} in {headers:?}"));
        std::str::from_utf8(value.as_deref().unwrap()).unwrap()
    }

    #[test]
    fn another_client_reads_the_record_as_it_was_and_the_headers() {
        for version in [V3_9, V4_1] {
            let kafka = Kafka::shared(version);
            let names = Names::on(kafka);
            kafka.create_topic(&names.topic, 1, &[]);
            let own = OwnedHeaders::new()
                .insert(Header { key: "trace", value: Some("7") })
                .insert(Header { key: "empty", value: None::<&str> });
            let producer = raw::producer(&names.server, &[]);
            let record = BaseRecord::<[u8], [u8]>::to(&names.topic).partition(0).key(b"k");
            producer.send(record.headers(own)).map_err(|(error, _)| error).unwrap();
            producer.flush(LIMIT).unwrap();
            let mut mb = Mb::start(&names.args(&["--until-caught-up"]));
            assert_eq!(mb.wait(LIMIT).code(), Some(0));
            let letters = raw::read_all(&names.server, &names.letters);
            assert_eq!(letters.len(), 1, "{version}");
            assert_eq!((letters[0].key.as_deref(), &letters[0].value), (Some(&b"k"[..]), &None));
            let headers = &raw::read_headers(&names.server, &names.letters)[0];
            assert_eq!(headers[0], ("trace".into(), Some(b"7".to_vec())));
            assert_eq!(headers[1], ("empty".into(), None));
            assert_eq!(text(headers, "__connect.errors.topic"), names.topic);
            assert_eq!(text(headers, "__connect.errors.offset"), "0");
            assert_eq!(text(headers, "__connect.errors.exception.class.name"), "dead-letter");
            assert!(text(headers, "__connect.errors.exception.message").contains("no use"));
            assert!(text(headers, "__mb.errors.timestamp").parse::<i64>().unwrap() > 0);
            assert_eq!(names.committed(), 1);
        }
    }

    #[test]
    fn a_client_without_headers_writes_an_envelope() {
        let names = Names::on(Kafka::shared(V3_9));
        raw::produce_pairs(
            &names.server,
            "none",
            &names.topic,
            0,
            &[(Some(b"k".to_vec()), Some(b"\xff".to_vec()))],
        );
        let mut mb = Mb::start(&names.args(&["--until-caught-up", "--client", "kafka"]));
        assert_eq!(mb.wait(LIMIT).code(), Some(0));
        let letters = raw::read_all(&names.server, &names.letters);
        assert_eq!(letters[0].key.as_deref(), Some(&b"k"[..]));
        let envelope: serde_json::Value =
            serde_json::from_slice(letters[0].value.as_deref().unwrap()).unwrap();
        assert_eq!((&envelope["key"], &envelope["value_base64"]), (&"k".into(), &"/w==".into()));
        let headers = &envelope["headers"];
        assert_eq!(headers["__connect.errors.topic"], names.topic.as_str());
        assert_eq!(headers["__connect.errors.task.id"], format!("{}/0/0-0", names.topic));
        assert_eq!(names.committed(), 1);
    }

    #[test]
    fn row_23_offsets_wait_while_the_topic_is_gone_or_takes_no_such_record_and_go_on_after() {
        each_seed("row 23", offsets_wait_for_the_topic);
    }

    fn offsets_wait_for_the_topic(row: &mut Row) {
        let kafka = Kafka::shared(row.version());
        let names = Names::on(kafka);
        kafka.create_topic(&names.topic, 1, &[]);
        let mut mb = Mb::start(&names.args(&["--max-batch", "1"]));
        raw::produce(&names.server, "none", &names.topic, 0, &[b"first".to_vec()]);
        eventually(LIMIT, "the first letter is there", || names.committed() == 1);

        thread::sleep(row.millis(0..1_500));
        kafka.tool("topics", &["--delete", "--topic", &names.letters]);
        raw::produce(&names.server, "none", &names.topic, 0, &[b"second".to_vec()]);
        let line = mb.wait_for_line("its 1 dead letter(s) wait", LIMIT);
        assert!(line.contains(&names.letters) && line.contains("not committed"), "{line}");
        assert_eq!(names.committed(), 1);
        kafka.create_topic(&names.letters, 1, &[("max.message.bytes", "5000")]);
        eventually(LIMIT, "the offsets go on", || names.committed() == 2);
        let letters = raw::read_all(&names.server, &names.letters);
        assert_eq!(letters[0].value.as_deref(), Some(&b"second"[..]));

        let large = vec![b'x'; row.random.usize(6_000..50_000)];
        raw::produce(&names.server, "none", &names.topic, 0, &[large, b"after".to_vec()]);
        let from = mb.stderr().len();
        eventually(LIMIT, "the large one is told", || {
            let lines = mb.stderr();
            lines[from.min(lines.len())..].iter().any(|line| line.contains("dead letter(s) wait"))
                || lines.iter().filter(|line| line.contains("dead letter(s) wait")).count() > 1
        });
        assert_eq!(names.committed(), 2, "{}", mb.stderr().join("\n"));
        let change = ["--alter", "--entity-type", "topics", "--entity-name", &names.letters];
        let to = ["--add-config", "max.message.bytes=100000"];
        kafka.tool("configs", &[&change[..], &to].concat());
        eventually(LIMIT, "the offsets go on again", || names.committed() == 4);
        mb.term();
        assert_eq!(mb.wait(LIMIT).code(), Some(0));
    }

    #[test]
    fn two_kills_lose_no_letter() {
        let kafka = Kafka::shared(V4_1);
        let names = Names::on(kafka);
        kafka.create_topic(&names.topic, 1, &[]);
        let values: Vec<Vec<u8>> = (0..60).map(|n| format!("value-{n}").into_bytes()).collect();
        raw::produce(&names.server, "none", &names.topic, 0, &values);
        let data_dir = tempfile::tempdir().unwrap();
        let more = ["--max-batch", "2", "--until-caught-up"];
        for _ in 0..2 {
            let mut mb = Mb::start_in(data_dir.path(), &names.args(&more));
            mb.wait_for_line("kept as dead letters", LIMIT);
            mb.kill9();
        }
        let mut mb = Mb::start_in(data_dir.path(), &names.args(&more));
        assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
        assert_eq!(names.committed(), 60);
        let letters = raw::read_all(&names.server, &names.letters);
        let found: BTreeSet<_> = letters.into_iter().filter_map(|letter| letter.value).collect();
        assert_eq!(found, values.into_iter().collect());
    }
}

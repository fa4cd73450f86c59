//! The pure-Rust backend and the wire client against real brokers: what the crate would lose or
//! hang on, above all. What every backend must do is the conformance suite's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mb::config::{Client, Connection};
use mb::kafka::crate_kafka::CrateKafka;
use mb::kafka::select::{Chosen, choose};
use mb::kafka::wire::Wire;
use mb::kafka::{
    Backend, Broker, Commit, CommitError, Committed, Consumer, EpochEnd, FetchSettings, Flow,
    Message, Sent, Sink, require_all,
};
use mb::model::batch::Record;
use mb::model::error::{Error, Result};
use mb::model::offset::{Epoch, Offset, Partition};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::support::kafka::{Kafka, V3_4, V3_9, V4_4};

const LIMIT: Duration = Duration::from_secs(60);

/// A broker that cleans its logs soon and takes messages of 3 MB.
struct Server(Kafka);

impl Server {
    fn start(version: &'static str) -> Server {
        let properties = [("log.cleaner.backoff.ms", "200"), ("message.max.bytes", "3000000")];
        Server(Kafka::start_with(version, &properties))
    }

    fn server(&self) -> String {
        self.0.bootstrap()
    }

    fn wire(&self) -> Arc<Wire> {
        Arc::new(Wire::new(&self.server()))
    }

    fn pure(&self) -> CrateKafka {
        CrateKafka::connect(&self.server(), self.wire()).unwrap()
    }

    /// A librdkafka producer, which can write what crate kafka cannot.
    fn producer(&self, settings: &[(&str, &str)]) -> BaseProducer {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.server()).set("linger.ms", "200");
        for (name, value) in settings {
            config.set(*name, *value);
        }
        config.create().unwrap()
    }

    /// Writes the numbers as values, padded to `bytes`, in one batch of partition 0.
    fn write(&self, topic: &str, codec: &str, numbers: std::ops::Range<i64>, bytes: usize) {
        let producer = self.producer(&[("compression.type", codec)]);
        send_numbers(&producer, topic, numbers, bytes);
        producer.flush(LIMIT).unwrap();
    }
}

fn send_numbers(producer: &BaseProducer, topic: &str, numbers: std::ops::Range<i64>, bytes: usize) {
    for number in numbers {
        let value = format!("{number:0bytes$}");
        let record = BaseRecord::<str, str>::to(topic).partition(0).payload(&value);
        producer.send(record).map_err(|(cause, _)| cause).unwrap();
    }
}

/// Takes records until the end, and checks what a sink may rely on.
#[derive(Default)]
struct Taken {
    /// Offset and value by partition.
    records: BTreeMap<Partition, Vec<(i64, Vec<u8>)>>,
    next: BTreeMap<Partition, i64>,
    failed: Option<Error>,
}

impl Taken {
    fn numbers(&self) -> Vec<i64> {
        let values = self.records.values().flatten();
        values.map(|(_, value)| String::from_utf8_lossy(value).parse().unwrap()).collect()
    }
}

impl Sink for Taken {
    fn record(&mut self, partition: Partition, record: Record<'_>) -> Flow {
        let next = self.next.entry(partition).or_default();
        assert!(record.offset.get() >= *next, "offset order, none twice");
        *next = record.offset.get() + 1;
        let value = record.value.unwrap_or_default().to_vec();
        self.records.entry(partition).or_default().push((record.offset.get(), value));
        Flow::Continue
    }

    fn position(&mut self, partition: Partition, next: Offset) {
        let known = self.next.entry(partition).or_default();
        assert!(next.get() >= *known, "a position never goes back");
        *known = next.get();
    }

    fn failed(&mut self, _: Partition, error: Error) -> Flow {
        self.failed = Some(error);
        Flow::Stop
    }
}

/// One poll; a partition that fails is its error.
fn poll(consumer: &mut dyn Consumer, wait: Duration, taken: &mut Taken) -> Result<()> {
    consumer.poll(wait, taken)?;
    taken.failed.take().map_or(Ok(()), Err)
}

fn settings() -> FetchSettings {
    FetchSettings { min_bytes: 1, max_record_bytes: 4 << 20, isolation: None, turn_bytes: None }
}

/// Reads partition 0 from `from` to the log's end.
fn read(broker: &dyn Broker, topic: &str, from: i64, settings: &FetchSettings) -> Result<Taken> {
    let mut taken = Taken::default();
    read_into(&mut taken, broker, topic, from, settings).map(|()| taken)
}

fn read_into(
    taken: &mut Taken,
    broker: &dyn Broker,
    topic: &str,
    from: i64,
    settings: &FetchSettings,
) -> Result<()> {
    let end = broker.watermarks_of(topic, 0)?.end.get();
    let mut consumer = broker.consumer(topic, &[(0, Offset::new(from))], settings)?;
    let started = Instant::now();
    while taken.next.get(&0).copied().unwrap_or(from) < end {
        assert!(started.elapsed() < LIMIT, "{topic} from {from}: stuck at {:?}", taken.next);
        poll(consumer.as_mut(), Duration::from_millis(500), taken)?;
    }
    consumer.close();
    Ok(())
}

#[test]
fn on_kafka_3_9_1() {
    let kafka = Server::start(V3_9);
    mixed_codecs_all_arrive(&kafka);
    codecs_it_lacks_are_named(&kafka);
    gaps_are_passed(&kafka);
    large_records_never_block(&kafka);
    offsets_and_errors(&kafka);
    the_wire_client(&kafka);
    a_broker_that_goes_and_comes(&kafka);
}

#[test]
fn on_kafka_3_4_1() {
    let kafka = Server::start(V3_4);
    let chosen = choose_kafka(&kafka).unwrap();
    assert_eq!(chosen.reason, "--client kafka");
    assert_eq!(chosen.broker.backend(), Backend::Kafka);
    mixed_codecs_all_arrive(&kafka);
    offsets_and_errors(&kafka);
    the_wire_client(&kafka);
}

#[test]
fn on_kafka_4_4_0() {
    let kafka = Server::start(V4_4);
    the_wire_client(&kafka);
    let refused = CrateKafka::connect(&kafka.server(), kafka.wire()).unwrap_err();
    assert_eq!(refused.exit_code(), 78);
    assert!(refused.to_string().contains("use --client rdkafka"), "{refused}");
    let started = Instant::now();
    let refused = choose_kafka(&kafka).err().unwrap();
    assert_eq!(refused.exit_code(), 78, "{refused}");
    assert!(started.elapsed() < Duration::from_secs(8), "no retry helps: {:?}", started.elapsed());
}

fn choose_kafka(kafka: &Server) -> Result<Chosen> {
    let connection = Connection {
        bootstrap_server: Some(kafka.server()),
        client: Client::Kafka,
        ..Connection::default()
    };
    choose(&connection, false, false, &|_| true, &|| panic!("no embedded topic was asked for"))
}

/// 100 plain, 100 gzip, 100 plain, 100 snappy records of 2 kB: 400, whatever the fetch size and
/// wherever the reading begins.
fn mixed_codecs_all_arrive(kafka: &Server) {
    let topic = "mixed";
    kafka.wire().create_topic(topic, 1).unwrap();
    for (index, codec) in ["none", "gzip", "none", "snappy"].into_iter().enumerate() {
        let first = index as i64 * 100;
        kafka.write(topic, codec, first..first + 100, 2000);
    }
    for fetch_bytes in [1, 300, 2100, 5000, 20_000, 100_000, 210_000, 1 << 20, 8 << 20] {
        let broker = kafka.pure().with_fetch_bytes(fetch_bytes);
        for from in [0, 1, 99, 100, 101, 199, 200, 250, 299, 300, 399] {
            let taken = read(&broker, topic, from, &settings()).unwrap();
            let expected: Vec<i64> = (from..400).collect();
            assert_eq!(taken.numbers(), expected, "{fetch_bytes} bytes a fetch, from {from}");
        }
    }
}

/// What comes before is read, then the batch is named; another partition is not held up by it.
fn codecs_it_lacks_are_named(kafka: &Server) {
    for codec in ["lz4", "zstd"] {
        let topic = format!("with-{codec}");
        kafka.wire().create_topic(&topic, 2).unwrap();
        kafka.write(&topic, "none", 0..100, 100);
        kafka.write(&topic, codec, 100..200, 100);
        let neighbour = kafka.producer(&[]);
        for _ in 0..10 {
            let record = BaseRecord::<str, str>::to(&topic).partition(1).payload("1");
            neighbour.send(record).map_err(|(cause, _)| cause).unwrap();
        }
        neighbour.flush(LIMIT).unwrap();

        let broker = kafka.pure();
        let from = [(0, Offset::ZERO), (1, Offset::ZERO)];
        let mut consumer = broker.consumer(&topic, &from, &settings()).unwrap();
        let mut taken = Taken::default();
        let is_read = |taken: &Taken| taken.records.get(&1).is_some_and(|read| read.len() == 10);
        let started = Instant::now();
        while taken.failed.is_none() || !is_read(&taken) {
            assert!(started.elapsed() < LIMIT, "{:?} at {:?}", taken.failed, taken.next);
            consumer.poll(Duration::from_millis(100), &mut taken).unwrap();
        }
        let failed = taken.failed.take().expect("waited for above");
        let Error::Unreadable { partition: 0, offset, cause, .. } = &failed else {
            panic!("{failed}")
        };
        assert_eq!(*offset, Offset::new(100));
        assert!(cause.contains(codec), "{cause}");
        assert_eq!(taken.records[&0].len(), 100);
        assert_eq!(taken.records[&1].len(), 10, "the neighbour goes on");
    }
}

/// Transaction markers, also at the log's very end, and what compaction leaves.
fn gaps_are_passed(kafka: &Server) {
    let topic = "transactions";
    kafka.wire().create_topic(topic, 1).unwrap();
    let producer = kafka.producer(&[("transactional.id", "t"), ("compression.type", "gzip")]);
    producer.init_transactions(LIMIT).unwrap();
    for round in 0..30 {
        producer.begin_transaction().unwrap();
        send_numbers(&producer, topic, round * 10..round * 10 + 10, 10);
        producer.flush(LIMIT).unwrap();
        producer.commit_transaction(LIMIT).unwrap();
    }
    let taken = read(&kafka.pure(), topic, 0, &settings()).unwrap();
    assert_eq!(taken.numbers(), (0..300).collect::<Vec<_>>());
    assert_eq!(taken.next[&0], 330, "thirty markers were passed, the last one too");

    let topic = "compacted";
    let compacted = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("segment.ms", "100"),
        ("segment.bytes", "200000"),
    ];
    kafka.0.create_topic(topic, 1, &compacted);
    let mut newest = BTreeMap::new();
    for (round, codec) in ["none", "gzip", "snappy", "none", "gzip"].into_iter().enumerate() {
        let producer = kafka.producer(&[("compression.type", codec)]);
        for number in 0..200 {
            if number % (round + 1) == 0 {
                let key = number.to_string();
                let value = format!("{round}-{number}-{}", "x".repeat(100));
                let record = BaseRecord::to(topic).partition(0).key(&key).payload(&value);
                producer.send(record).map_err(|(cause, _)| cause).unwrap();
                newest.insert(key, value.into_bytes());
            }
        }
        producer.flush(LIMIT).unwrap();
    }
    let started = Instant::now();
    loop {
        // A segment that is being written to is not compacted: one more record closes it.
        kafka.write_keyed(topic, "tick");
        let by_librdkafka = read_by_librdkafka(kafka, topic);
        let taken = read(&kafka.pure(), topic, 0, &settings()).unwrap();
        let offsets: Vec<i64> = taken.records[&0].iter().map(|(offset, _)| *offset).collect();
        let gaps = offsets.windows(2).filter(|pair| pair[0] + 1 < pair[1]).count();
        if gaps > 20 {
            // Compaction goes on while both read: compare where both saw the same log.
            if by_librdkafka == read_by_librdkafka(kafka, topic) {
                assert_eq!(offsets, by_librdkafka);
                let values: Vec<&Vec<u8>> =
                    taken.records[&0].iter().map(|(_, value)| value).collect();
                for value in newest.values() {
                    assert!(values.contains(&value), "{}", String::from_utf8_lossy(value));
                }
                return;
            }
        }
        assert!(started.elapsed() < LIMIT, "no compaction: {gaps} gaps");
    }
}

impl Server {
    fn write_keyed(&self, topic: &str, key: &str) {
        let producer = self.producer(&[("linger.ms", "0")]);
        let record = BaseRecord::to(topic).partition(0).key(key).payload(key);
        producer.send(record).map_err(|(cause, _)| cause).unwrap();
        producer.flush(LIMIT).unwrap();
    }
}

/// The offsets that librdkafka reads.
fn read_by_librdkafka(kafka: &Server, topic: &str) -> Vec<i64> {
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::message::Message as _;
    let end = kafka.pure().watermarks_of(topic, 0).unwrap().end.get();
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka.server())
        .set("group.id", "other")
        .set("auto.offset.reset", "error")
        .create()
        .unwrap();
    let mut list = rdkafka::TopicPartitionList::new();
    list.add_partition_offset(topic, 0, rdkafka::Offset::Offset(0)).unwrap();
    consumer.assign(&list).unwrap();
    let mut offsets = Vec::new();
    let started = Instant::now();
    while offsets.last().is_none_or(|last| last + 1 < end) {
        assert!(started.elapsed() < LIMIT);
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            offsets.push(message.unwrap().offset());
        }
    }
    offsets
}

/// A record far above the fetch size is read; one above what may be held is named.
fn large_records_never_block(kafka: &Server) {
    let topic = "large";
    let broker = kafka.pure().with_fetch_bytes(10_000);
    broker.create_topic(topic, 1).unwrap();
    let mut producer = broker.producer(topic).unwrap();
    let sizes = [10, 900_000, 10, 2_500_000, 10];
    for size in sizes {
        let value = vec![b'0'; size];
        let message = Message { partition: 0, key: None, value: Some(&value), headers: &[] };
        assert_eq!(producer.send(message, LIMIT).unwrap(), Sent::Accepted);
    }
    assert_eq!(producer.flush(LIMIT).unwrap(), 0);
    assert_eq!(producer.delivery().acknowledged, 5);
    let taken = read(&broker, topic, 0, &settings()).unwrap();
    let read_sizes: Vec<usize> = taken.records[&0].iter().map(|(_, value)| value.len()).collect();
    assert_eq!(read_sizes, sizes);

    let small = FetchSettings { max_record_bytes: 1_200_000, ..settings() };
    let mut taken = Taken::default();
    let failed = read_into(&mut taken, &broker, topic, 0, &small).unwrap_err();
    let Error::Unreadable { offset, cause, .. } = &failed else { panic!("{failed}") };
    assert_eq!(*offset, Offset::new(3));
    assert!(cause.contains("1200000"), "{cause}");
    assert_eq!(taken.records[&0].len(), 3);

    let value = vec![b'0'; 3_100_000];
    let message = Message { partition: 0, key: None, value: Some(&value), headers: &[] };
    producer.send(message, LIMIT).unwrap();
    assert_eq!(producer.flush(LIMIT).unwrap(), 0);
    let delivery = producer.delivery();
    assert_eq!((delivery.acknowledged, delivery.failed), (5, 1), "{delivery:?}");
}

fn offsets_and_errors(kafka: &Server) {
    let topic = "offsets";
    let broker = kafka.pure();
    let unknown = broker.consumer("nowhere", &[(0, Offset::ZERO)], &settings());
    let failed = unknown
        .and_then(|mut consumer| consumer.poll(Duration::from_millis(10), &mut Taken::default()));
    assert_eq!(failed, Err(Error::UnknownTopic { topic: "nowhere".into() }));
    assert!(broker.topic("nowhere").is_err(), "asking did not create it");

    broker.create_topic(topic, 3).unwrap();
    broker.create_topic(topic, 3).unwrap();
    let mut producer = broker.producer(topic).unwrap();
    let headers: &[(&str, Option<&[u8]>)] = &[("name", Some(b"value"))];
    for (value, headers) in [(None, &[][..]), (Some(&b"x"[..]), headers)] {
        let message = Message { partition: 0, key: None, value, headers };
        assert!(matches!(producer.send(message, LIMIT), Err(Error::Unsupported { .. })));
    }
    let message = Message { partition: 7, key: None, value: Some(b"x"), headers: &[] };
    assert!(matches!(producer.send(message, LIMIT), Err(Error::Broker { .. })));
    let message = Message { partition: 2, key: Some(b"k"), value: Some(b""), headers: &[] };
    assert_eq!(producer.send(message, LIMIT).unwrap(), Sent::Accepted);
    assert_eq!(producer.flush(LIMIT).unwrap(), 0);

    let ends = require_all(broker.watermarks(topic, &[0, 1, 2]).unwrap()).unwrap();
    let ends: Vec<_> = ends.values().map(|one| (one.beginning.get(), one.end.get())).collect();
    assert_eq!(ends, [(0, 0), (0, 0), (0, 1)]);

    let mut consumer = broker.consumer(topic, &[(2, Offset::new(9))], &settings()).unwrap();
    let failed = poll(consumer.as_mut(), Duration::from_millis(100), &mut Taken::default());
    let expected =
        Error::OffsetOutOfRange { topic: topic.into(), partition: 2, offset: Offset::new(9) };
    assert_eq!(failed, Err(expected));
    consumer.close();

    // At the log's end a poll waits, and no longer than it was told.
    let mut consumer = broker.consumer(topic, &[(2, Offset::new(1))], &settings()).unwrap();
    consumer.poll(Duration::ZERO, &mut Taken::default()).unwrap();
    let started = Instant::now();
    consumer.poll(Duration::from_millis(300), &mut Taken::default()).unwrap();
    assert!(started.elapsed() >= Duration::from_millis(250), "{:?}", started.elapsed());
}

/// Topics with their ids, and a group's offsets, on every version of the broker.
fn the_wire_client(kafka: &Server) {
    let wire = kafka.wire();
    let probe = wire.probe(LIMIT).unwrap();
    assert_eq!(probe.serves_version_0(), !kafka.0.version().starts_with('4'));
    assert_eq!(wire.topic("absent"), Err(Error::UnknownTopic { topic: "absent".into() }));
    wire.create_topic("wired", 6).unwrap();
    wire.create_topic("wired", 2).unwrap();
    let topic = wire.topic("wired").unwrap();
    assert_eq!(topic.partitions, [0, 1, 2, 3, 4, 5]);
    assert_eq!(topic.id.map(|id| id.len()), Some(22));
    assert_eq!(topic.cluster_id.map(|id| id.len()), Some(22));
    let first = Epoch::checked(0).unwrap();
    assert_eq!(topic.leader_epochs, (0..6).map(|partition| (partition, first)).collect());
    let refused = wire.create_topic("not a name", 1).unwrap_err().to_string();
    assert!(refused.contains("InvalidTopic"), "{refused}");

    let none = wire.committed("g", "wired", &[0, 1, 2]).unwrap();
    assert_eq!(none, BTreeMap::from([(0, Ok(None)), (1, Ok(None)), (2, Ok(None))]));
    assert!(!wire.is_loading("g"));
    let commit = |partition, offset| Commit::plain((partition, Offset::new(offset)));
    wire.commit("g", "wired", &[commit(0, 5), commit(2, 0)]).unwrap();
    let marked = Commit { epoch: Epoch::checked(3), metadata: "mb1 me 4".into(), ..commit(0, 7) };
    wire.commit("g", "wired", &[marked]).unwrap();
    let committed = wire.committed("g", "wired", &[0, 1, 2]).unwrap();
    let plain = Committed::plain(Offset::ZERO);
    let marked =
        Committed { offset: Offset::new(7), epoch: Epoch::checked(3), metadata: "mb1 me 4".into() };
    let expected = [(0, Ok(Some(marked))), (1, Ok(None)), (2, Ok(Some(plain)))];
    assert_eq!(committed, BTreeMap::from(expected));
    let refused = wire.commit("g", "absent", &[commit(0, 7)]).unwrap_err();
    assert!(matches!(refused, CommitError::Refused { .. }), "{refused:?}");
    assert!(refused.to_string().contains("UnknownTopicOrPartition"), "{refused}");

    kafka.write("wired", "zstd", 0..10, 10);
    let batch = wire.record_batch_header("wired", 0, Offset::new(4)).unwrap().unwrap();
    assert_eq!((batch.base.get(), batch.last.get(), batch.records), (0, 9, 10));
    assert_eq!((batch.codec, batch.control, batch.epoch), ("zstd", false, Some(first)));
    let epochs = wire.epochs_at("wired", &[(0, Offset::new(4)), (1, Offset::ZERO)]);
    assert_eq!(epochs, BTreeMap::from([(0, Ok(Some(first))), (1, Ok(None))]));
    let ends = wire.epoch_ends("wired", &[(0, first), (1, first)]).unwrap();
    let end = |end| Ok(Some(EpochEnd { epoch: first, end: Offset::new(end) }));
    assert_eq!(ends, BTreeMap::from([(0, end(10)), (1, end(0))]));
    let later = Epoch::checked(9).unwrap();
    assert_eq!(wire.epoch_ends("wired", &[(0, later)]), Ok(BTreeMap::from([(0, Ok(None))])));
    assert_eq!(wire.record_batch_header("wired", 0, Offset::new(10)), Ok(None));
    let beyond = wire.record_batch_header("wired", 0, Offset::new(11));
    assert!(matches!(beyond, Err(Error::OffsetOutOfRange { .. })), "{beyond:?}");
}

/// The broker is stopped and started under a producer and a commit: nothing accepted is lost, and
/// what was accepted keeps its order.
fn a_broker_that_goes_and_comes(kafka: &Server) {
    let topic = "outage";
    let broker = kafka.pure();
    broker.create_topic(topic, 1).unwrap();
    let mut producer = broker.producer(topic).unwrap();
    let mut send = |numbers: std::ops::Range<i64>| {
        for number in numbers {
            let value = number.to_string();
            let message =
                Message { partition: 0, key: None, value: Some(value.as_bytes()), headers: &[] };
            assert_eq!(producer.send(message, LIMIT).unwrap(), Sent::Accepted);
        }
    };
    send(0..1000);
    kafka.0.term();
    send(1000..2000);
    let started = Instant::now();
    let failed = broker.commit("g", topic, &[(0, Offset::new(1))]);
    assert!(failed.is_err());
    assert!(started.elapsed() < Duration::from_secs(15));
    kafka.0.restart();
    send(2000..3000);
    assert_eq!(producer.flush(LIMIT).unwrap(), 0);
    assert_eq!(producer.delivery().acknowledged, 3000);
    broker.commit("g", topic, &[(0, Offset::new(1))]).unwrap();

    let mut numbers = read(&broker, topic, 0, &settings()).unwrap().numbers();
    // A chunk may have been written before the connection broke, and again after.
    let mut seen = std::collections::BTreeSet::new();
    numbers.retain(|number| seen.insert(*number));
    assert_eq!(numbers, (0..3000).collect::<Vec<_>>());
}

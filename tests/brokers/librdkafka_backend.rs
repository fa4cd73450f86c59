//! The rdkafka backend on real brokers: what is librdkafka's own. What every backend must do is in
//! the conformance suite.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mb::config::limits;
use mb::kafka::librdkafka::Librdkafka;
use mb::kafka::wire::Wire;
use mb::kafka::{
    Broker, CommitError, Consumer, FetchSettings, Flow, Message, Producer, Sent, Sink, require_all,
};
use mb::model::batch::Record;
use mb::model::error::{Error, Result};
use mb::model::offset::{Offset, Partition};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::support::kafka::{Kafka, V3_9, V4_4};
use crate::support::{raw, unique};

const LIMIT: Duration = Duration::from_secs(30);
const WAIT: Duration = Duration::from_millis(100);
/// What a call may take beyond its limit: threads start late on a busy machine.
const SLACK: Duration = Duration::from_secs(5);
const FETCH: FetchSettings =
    FetchSettings { min_bytes: 1, max_record_bytes: 32 << 20, isolation: None, turn_bytes: None };

/// An offset and the value there.
type At = (i64, Option<Vec<u8>>);

#[derive(Default)]
struct Got {
    values: BTreeMap<Partition, Vec<At>>,
    positions: BTreeMap<Partition, Offset>,
    /// Stops with so many records.
    enough: Option<usize>,
    failed: Option<Error>,
}

impl Got {
    fn count(&self) -> usize {
        self.values.values().map(Vec::len).sum()
    }

    fn offsets(&self, partition: Partition) -> Vec<i64> {
        self.values.get(&partition).into_iter().flatten().map(|(offset, _)| *offset).collect()
    }
}

impl Sink for Got {
    fn record(&mut self, partition: Partition, record: Record<'_>) -> Flow {
        let value = record.value.map(<[u8]>::to_vec);
        self.values.entry(partition).or_default().push((record.offset.get(), value));
        if self.enough == Some(self.count()) { Flow::Stop } else { Flow::Continue }
    }

    fn position(&mut self, partition: Partition, next: Offset) {
        self.positions.insert(partition, next);
    }

    fn failed(&mut self, _: Partition, error: Error) -> Flow {
        self.failed = Some(error);
        Flow::Stop
    }
}

fn broker(kafka: &Kafka) -> Librdkafka {
    let servers = kafka.bootstrap();
    Librdkafka::connect(&servers, Arc::new(Wire::new(&servers))).unwrap()
}

fn new_topic(broker: &Librdkafka, partitions: u32) -> String {
    let topic = unique("rdk");
    broker.create_topic(&topic, partitions).unwrap();
    topic
}

fn consumer(broker: &Librdkafka, topic: &str, from: &[(Partition, i64)]) -> Box<dyn Consumer> {
    let from: Vec<_> = from.iter().map(|(p, offset)| (*p, Offset::new(*offset))).collect();
    broker.consumer(topic, &from, &FETCH).unwrap()
}

/// Polls until `done`.
fn poll_until(consumer: &mut dyn Consumer, got: &mut Got, done: impl Fn(&Got) -> bool) {
    let began = Instant::now();
    while !done(got) {
        consumer.poll(WAIT, got).unwrap();
        assert_eq!(got.failed, None);
        assert!(began.elapsed() < LIMIT, "only {} records, {:?}", got.count(), got.positions);
    }
}

/// Polls until an error comes, of the consumer or of a partition.
fn poll_to_error(consumer: &mut dyn Consumer, limit: Duration) -> Error {
    let began = Instant::now();
    loop {
        let mut got = Got::default();
        if let Err(error) = consumer.poll(WAIT, &mut got) {
            return error;
        }
        if let Some(error) = got.failed {
            return error;
        }
        assert!(began.elapsed() < limit, "no error within {limit:?}");
    }
}

fn values(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| format!("value {number}").into_bytes()).collect()
}

fn send(producer: &mut dyn Producer, partition: Partition, value: Option<&[u8]>) -> Result<Sent> {
    producer.send(Message { partition, key: None, value, headers: &[("h", Some(b"1"))] }, LIMIT)
}

fn is_broker_error<T: std::fmt::Debug>(result: &Result<T>) -> bool {
    matches!(result, Err(Error::Broker { .. }))
}

#[test]
fn a_fresh_consumer_reads_each_partition_from_the_offset_given() {
    let kafka = Kafka::shared(V4_4);
    let broker = broker(kafka);
    let topic = new_topic(&broker, 2);
    raw::produce(&kafka.bootstrap(), "lz4", &topic, 0, &values(100));
    raw::produce(&kafka.bootstrap(), "zstd", &topic, 1, &values(100));

    let mut reader = consumer(&broker, &topic, &[(0, 0), (1, 60)]);
    let mut got = Got::default();
    poll_until(&mut *reader, &mut got, |got| got.positions.len() == 2);
    reader.close();
    assert_eq!(got.offsets(0), (0..100).collect::<Vec<_>>());
    assert_eq!(got.offsets(1), (60..100).collect::<Vec<_>>());
    assert_eq!(got.values[&1][0], (60, Some(b"value 60".to_vec())));
    assert_eq!(got.positions, BTreeMap::from([(0, Offset::new(100)), (1, Offset::new(100))]));
}

#[test]
fn a_stopped_or_panicking_sink_takes_nothing_more() {
    struct Panics;
    impl Sink for Panics {
        fn record(&mut self, _: Partition, _: Record<'_>) -> Flow {
            panic!("no more")
        }
        fn position(&mut self, _: Partition, _: Offset) {}
        fn failed(&mut self, _: Partition, error: Error) -> Flow {
            panic!("{error}")
        }
    }

    let kafka = Kafka::shared(V3_9);
    let broker = broker(kafka);
    let topic = new_topic(&broker, 1);
    raw::produce(&kafka.bootstrap(), "none", &topic, 0, &values(1000));

    let mut reader = consumer(&broker, &topic, &[(0, 0)]);
    let mut got = Got { enough: Some(7), ..Got::default() };
    poll_until(&mut *reader, &mut got, |got| got.count() > 0);
    assert_eq!(got.offsets(0), (0..7).collect::<Vec<_>>());
    reader.close();

    let mut reader = consumer(&broker, &topic, &[(0, 7)]);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let began = Instant::now();
        while began.elapsed() < LIMIT {
            reader.poll(WAIT, &mut Panics).unwrap();
        }
    }));
    assert!(panicked.is_err());
    drop(reader);
}

#[test]
fn aborted_records_stay_unseen_and_the_position_passes_the_markers() {
    let kafka = Kafka::shared(V4_4);
    let broker = broker(kafka);
    let topic = new_topic(&broker, 1);
    let servers = kafka.bootstrap();
    // Offsets 0-2 and marker 3, aborted 4-6 and marker 7, 8-10 and marker 11.
    raw::transaction(&servers, &topic, 0, &values(3), true);
    raw::transaction(&servers, &topic, 0, &values(3), false);
    raw::transaction(&servers, &topic, 0, &values(3), true);

    let end = broker.watermarks_of(&topic, 0).unwrap().end;
    assert_eq!(end, Offset::new(12));
    let mut reader = consumer(&broker, &topic, &[(0, 0)]);
    let mut got = Got::default();
    poll_until(&mut *reader, &mut got, |got| got.positions.get(&0) == Some(&end));
    assert_eq!(got.offsets(0), [0, 1, 2, 8, 9, 10]);
}

#[test]
fn an_offset_outside_the_log_is_out_of_range() {
    let kafka = Kafka::shared(V4_4);
    let broker = broker(kafka);
    let topic = new_topic(&broker, 2);
    raw::produce(&kafka.bootstrap(), "none", &topic, 0, &values(20));
    raw::produce(&kafka.bootstrap(), "none", &topic, 1, &values(20));
    kafka.delete_records(&topic, 1, 10);
    let watermarks = require_all(broker.watermarks(&topic, &[0, 1]).unwrap()).unwrap();
    assert_eq!(watermarks[&0].beginning, Offset::ZERO);
    assert_eq!(watermarks[&1].beginning, Offset::new(10));

    for (partition, offset) in [(0, 21), (1, 9)] {
        let mut reader = consumer(&broker, &topic, &[(partition, offset)]);
        let expected = Error::OffsetOutOfRange {
            topic: topic.clone(),
            partition,
            offset: Offset::new(offset),
        };
        assert_eq!(poll_to_error(&mut *reader, LIMIT), expected);
    }
}

#[test]
fn an_unknown_topic_is_named_and_not_created() {
    let kafka = Kafka::shared(V4_4);
    let broker = broker(kafka);
    let topic = unique("nowhere");
    let unknown = Error::UnknownTopic { topic: topic.clone() };
    assert_eq!(broker.watermarks(&topic, &[0]), Err(unknown.clone()));
    let mut reader = consumer(&broker, &topic, &[(0, 0)]);
    assert_eq!(poll_to_error(&mut *reader, LIMIT), unknown);

    let mut producer = broker.producer(&topic).unwrap();
    assert_eq!(send(&mut *producer, 0, Some(b"x")), Ok(Sent::Accepted));
    assert_eq!(producer.flush(LIMIT), Ok(0));
    let delivery = producer.delivery();
    assert_eq!((delivery.acknowledged, delivery.failed), (0, 1));
    assert!(delivery.last_error.is_some());
    assert_eq!(broker.topic(&topic), Err(unknown));
}

#[test]
fn offsets_are_committed_for_an_empty_group_and_refused_for_one_in_use() {
    let kafka = Kafka::shared(V4_4);
    let broker = broker(kafka);
    let topic = new_topic(&broker, 3);
    let group = unique("group");
    let none = BTreeMap::from([(0, Ok(None)), (1, Ok(None)), (2, Ok(None))]);
    assert_eq!(broker.committed(&group, &topic, &[0, 1, 2]), Ok(none));
    let offsets = [(0, Offset::new(5)), (2, Offset::ZERO)];
    // Again is fine.
    for _ in 0..2 {
        broker.commit(&group, &topic, &offsets).unwrap();
    }
    let committed = broker.committed(&group, &topic, &[0, 1, 2]).unwrap();
    let at = |offset| Ok(Some(Offset::new(offset)));
    assert_eq!(committed, BTreeMap::from([(0, at(5)), (1, Ok(None)), (2, at(0))]));

    let member: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka.bootstrap())
        .set("group.id", &group)
        .create()
        .unwrap();
    member.subscribe(&[&topic]).unwrap();
    let began = Instant::now();
    while member.assignment().unwrap().count() < 3 {
        member.poll(WAIT);
        assert!(began.elapsed() < LIMIT, "no assignment");
    }
    let error = broker.commit(&group, &topic, &offsets).unwrap_err();
    assert!(error.to_string().contains("has active members"), "{error}");
    assert!(matches!(error, CommitError::Refused { .. }), "{error:?}");
}

#[test]
fn messages_that_can_never_be_sent_fail_and_the_others_go_on() {
    let kafka = Kafka::shared(V3_9);
    let broker = broker(kafka);
    let topic = new_topic(&broker, 1);
    let mut producer = broker.producer(&topic).unwrap();
    // Above the broker's limit for a message (1 MiB), and above mb's own buffer.
    send(&mut *producer, 0, Some(&vec![b'x'; 2 << 20])).unwrap();
    assert!(is_broker_error(&send(&mut *producer, 0, Some(&vec![b'x'; 20 << 20]))));
    // The number of partitions is known by now.
    assert_eq!(producer.flush(LIMIT), Ok(0));
    assert!(is_broker_error(&send(&mut *producer, 7, Some(b"x"))));
    for value in [Some(&b"good"[..]), Some(b""), None] {
        send(&mut *producer, 0, value).unwrap();
    }
    assert_eq!(producer.flush(LIMIT), Ok(0));
    let delivery = producer.delivery();
    assert_eq!((delivery.acknowledged, delivery.failed), (3, 1), "{delivery:?}");

    let mut got = Got::default();
    let mut reader = consumer(&broker, &topic, &[(0, 0)]);
    poll_until(&mut *reader, &mut got, |got| got.count() == 3);
    let expected = [(0, Some(b"good".to_vec())), (1, Some(vec![])), (2, None)];
    assert_eq!(got.values[&0], expected);
}

#[test]
fn a_message_larger_than_a_fetch_does_not_block_and_one_larger_than_mb_holds_is_named() {
    let kafka = Kafka::shared(V3_9);
    let broker = broker(kafka);
    let topic = unique("large");
    kafka.create_topic(&topic, 2, &[("max.message.bytes", "20000000")]);
    let large = vec![b'x'; 12 << 20];
    for partition in [0, 1] {
        let batch = [b"small".to_vec(), large.clone(), b"small".to_vec()];
        raw::produce(&kafka.bootstrap(), "none", &topic, partition, &batch);
    }
    let mut got = Got::default();
    let mut reader = consumer(&broker, &topic, &[(0, 0), (1, 0)]);
    poll_until(&mut *reader, &mut got, |got| got.count() == 6);
    reader.close();

    let small = FetchSettings { max_record_bytes: 1 << 20, ..FETCH };
    let mut reader = broker.consumer(&topic, &[(0, Offset::ZERO)], &small).unwrap();
    let error = poll_to_error(&mut *reader, LIMIT);
    assert!(matches!(&error, Error::Unreadable { offset, .. } if offset.get() == 1), "{error}");
}

#[test]
fn calls_to_a_frozen_broker_meet_their_limits_and_work_again_after_it() {
    let kafka = Kafka::start(V3_9);
    let broker = broker(&kafka);
    let topic = new_topic(&broker, 1);
    let group = unique("group");
    raw::produce(&kafka.bootstrap(), "none", &topic, 0, &values(10));
    broker.commit(&group, &topic, &[(0, Offset::new(1))]).unwrap();
    assert_eq!(broker.committed(&group, &topic, &[0]).unwrap().len(), 1);
    let mut before = consumer(&broker, &topic, &[(0, 0)]);
    poll_until(&mut *before, &mut Got::default(), |_| true);
    let mut got = Got::default();
    poll_until(&mut *before, &mut got, |got| got.count() == 10);
    let mut producer = broker.producer(&topic).unwrap();
    send(&mut *producer, 0, Some(b"before")).unwrap();
    assert_eq!(producer.flush(LIMIT), Ok(0));

    kafka.stop_cont(true);
    let began = Instant::now();
    let limit = limits::BROKER_CALL_LIMIT + SLACK;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert!(is_broker_error(&broker.watermarks(&topic, &[0])));
            assert!(began.elapsed() < limit, "watermarks: {:?}", began.elapsed());
        });
        scope.spawn(|| {
            assert!(is_broker_error(&broker.committed(&group, &topic, &[0])));
            assert!(began.elapsed() < limit, "committed: {:?}", began.elapsed());
        });
        scope.spawn(|| {
            // Unknown, or refused if the coordinator was not known yet: then nothing was sent.
            let failed = broker.commit(&group, &topic, &[(0, Offset::new(2))]).unwrap_err();
            assert!(matches!(failed.error(), Error::Broker { .. }), "{failed:?}");
            assert!(began.elapsed() < limit, "commit: {:?}", began.elapsed());
        });
        scope.spawn(|| {
            let error = poll_to_error(&mut *before, limit + limits::BROKER_DOWN_LIMIT);
            assert!(matches!(error, Error::Broker { .. }), "{error}");
            let closing = Instant::now();
            before.close();
            assert!(closing.elapsed() < limits::CONSUMER_CLOSE_LIMIT + SLACK);
        });
        scope.spawn(|| {
            // One that never saw the broker.
            let mut fresh = consumer(&broker, &topic, &[(0, 0)]);
            let error = poll_to_error(&mut *fresh, limit);
            assert!(matches!(error, Error::Broker { .. }), "{error}");
        });
    });
    let mut lost = broker.producer(&topic).unwrap();
    send(&mut *lost, 0, Some(b"lost")).unwrap();
    assert_eq!(lost.flush(WAIT), Ok(1));
    let closing = Instant::now();
    drop(lost);
    assert!(closing.elapsed() < limits::CONSUMER_CLOSE_LIMIT + SLACK);
    send(&mut *producer, 0, Some(b"during")).unwrap();
    kafka.stop_cont(false);

    assert_eq!(producer.flush(LIMIT), Ok(0), "{:?}", producer.delivery());
    assert_eq!(producer.delivery().acknowledged, 2);
    broker.commit(&group, &topic, &[(0, Offset::new(3))]).unwrap();
    assert_eq!(broker.committed(&group, &topic, &[0]).unwrap()[&0], Ok(Some(Offset::new(3))));
    assert_eq!(broker.watermarks_of(&topic, 0).unwrap().end, Offset::new(12));
}

#[test]
fn a_lost_broker_is_an_error_of_the_consumer_and_waited_for_by_the_producer() {
    let kafka = Kafka::start(V4_4);
    let broker = broker(&kafka);
    let topic = new_topic(&broker, 1);
    raw::produce(&kafka.bootstrap(), "none", &topic, 0, &values(10));
    let mut reader = consumer(&broker, &topic, &[(0, 0)]);
    poll_until(&mut *reader, &mut Got::default(), |_| true);
    let mut producer = broker.producer(&topic).unwrap();
    send(&mut *producer, 0, Some(b"before")).unwrap();
    assert_eq!(producer.flush(LIMIT), Ok(0));

    kafka.kill9();
    let error = poll_to_error(&mut *reader, limits::BROKER_DOWN_LIMIT + SLACK);
    assert!(error.to_string().contains("Connection refused"), "{error}");
    let mut fresh = consumer(&broker, &topic, &[(0, 0)]);
    let error = poll_to_error(&mut *fresh, limits::BROKER_DOWN_LIMIT + SLACK);
    assert!(error.to_string().contains("Connection refused"), "{error}");
    send(&mut *producer, 0, Some(b"during")).unwrap();
    assert_eq!(producer.flush(WAIT), Ok(1));
    kafka.restart();

    assert_eq!(producer.flush(LIMIT), Ok(0), "{:?}", producer.delivery());
    let mut got = Got::default();
    let mut reader = consumer(&broker, &topic, &[(0, 10)]);
    poll_until(&mut *reader, &mut got, |got| got.count() == 2);
    let expected = [(10, Some(b"before".to_vec())), (11, Some(b"during".to_vec()))];
    assert_eq!(got.values[&0], expected);
}

/// librdkafka (2.12.1) drops its last broker where that one answers, on its way out, that there are
/// none. It happens to some producers only, so there are many.
#[test]
fn producers_go_on_after_a_broker_that_was_stopped_in_order() {
    let kafka = Kafka::start(V3_9);
    let log = broker(&kafka);
    let topic = unique("stopped");
    log.create_topic(&topic, 1).unwrap();
    let mut producers: Vec<_> = (0..16).map(|_| log.producer(&topic).unwrap()).collect();
    let post = |producers: &mut Vec<Box<dyn Producer>>| {
        for producer in producers {
            let message = Message { partition: 0, key: None, value: Some(b"v"), headers: &[] };
            assert_eq!(producer.send(message, LIMIT).unwrap(), Sent::Accepted);
        }
    };
    post(&mut producers);
    for producer in &mut producers {
        assert_eq!(producer.flush(LIMIT).unwrap(), 0);
    }
    // Messages are under way while it stops: they have the clients ask for leaders.
    let stopping = std::thread::scope(|scope| {
        let stopping = scope.spawn(|| kafka.term());
        while !stopping.is_finished() {
            post(&mut producers);
            std::thread::sleep(Duration::from_millis(20));
        }
        stopping.join()
    });
    stopping.unwrap();
    kafka.restart();
    let deadline = Instant::now() + LIMIT;
    for producer in &mut producers {
        let left = deadline.saturating_duration_since(Instant::now());
        while producer.flush(Duration::from_millis(200)).unwrap() > 0 {
            assert!(Instant::now() < deadline, "{left:?}: {:?}", producer.delivery());
        }
        assert_eq!(producer.delivery().failed, 0);
    }
}

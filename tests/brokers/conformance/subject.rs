//! What the conformance suite runs against: a backend, and a way round it into the same log for
//! what the seam itself does not offer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mb::kafka::embedded::Embedded;
use mb::kafka::{Broker, FetchSettings, Flow, Message, Sent, Sink, require_all};
use mb::model::batch::Record;
use mb::model::error::{Error, Result};
use mb::model::offset::{Epoch, Offset, Partition};

use crate::support::kafka::Kafka;
use crate::support::{eventually, unique};

/// For what must happen, but on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);
/// One poll.
pub const POLL: Duration = Duration::from_millis(200);
/// The largest record that the suite's consumers hold.
pub const HOLD_BYTES: usize = 16 << 20;

pub trait Subject {
    /// Another handle, as another process would have one.
    fn broker(&self) -> Box<dyn Broker>;

    /// Raises the topic's partitions.
    fn add_partitions(&self, topic: &str, partitions: u32);

    /// Removes records below `below` (all of them, or those that can go); more records may be
    /// written behind the present end to bring it about. Returns the new beginning, above 0.
    fn trim(&self, topic: &str, partition: Partition, below: i64) -> i64;

    /// A topic of one partition that takes messages of `bytes`.
    fn topic_for_messages_of(&self, bytes: usize) -> String;

    /// The broker behind it; `None` where it is none of Kafka's.
    fn kafka(&self) -> Option<&'static Kafka>;
}

/// The embedded topic, in a folder of its own.
pub struct EmbeddedSubject {
    _dir: tempfile::TempDir,
    embedded: Embedded,
}

impl EmbeddedSubject {
    pub fn new() -> EmbeddedSubject {
        let dir = tempfile::tempdir().unwrap();
        let embedded = Embedded::open(dir.path(), 16 << 20).unwrap();
        EmbeddedSubject { _dir: dir, embedded }
    }
}

impl Subject for EmbeddedSubject {
    fn broker(&self) -> Box<dyn Broker> {
        Box::new(self.embedded.clone())
    }

    fn add_partitions(&self, topic: &str, partitions: u32) {
        self.embedded.add_partitions(topic, partitions).unwrap();
    }

    fn trim(&self, topic: &str, partition: Partition, below: i64) -> i64 {
        let commit = [(partition, Offset::new(below))];
        self.embedded.commit("trim", topic, &commit).unwrap();
        let mut producer = self.embedded.producer(topic).unwrap();
        let filler = vec![0; 100_000];
        for _ in 0..1000 {
            let marks = self.embedded.watermarks_of(topic, partition).unwrap();
            let beginning = marks.beginning.get();
            if beginning > 0 {
                producer.flush(LIMIT).unwrap();
                return beginning;
            }
            let sent = producer.send(message(partition, None, Some(&filler)), Duration::ZERO);
            assert!(sent.is_ok(), "{sent:?}");
        }
        panic!("retention has removed nothing");
    }

    fn topic_for_messages_of(&self, _bytes: usize) -> String {
        new_topic(self.broker().as_ref(), "large", 1)
    }

    fn kafka(&self) -> Option<&'static Kafka> {
        None
    }
}

/// A client of Kafka's, on a broker that the tests share.
pub struct KafkaSubject {
    pub kafka: &'static Kafka,
    pub connect: fn(&str) -> Box<dyn Broker>,
}

impl Subject for KafkaSubject {
    fn broker(&self) -> Box<dyn Broker> {
        (self.connect)(&self.kafka.bootstrap())
    }

    fn add_partitions(&self, topic: &str, partitions: u32) {
        self.kafka.add_partitions(topic, partitions);
    }

    fn trim(&self, topic: &str, partition: Partition, below: i64) -> i64 {
        self.kafka.delete_records(topic, partition, below);
        below
    }

    fn topic_for_messages_of(&self, bytes: usize) -> String {
        let topic = unique("large");
        self.kafka.create_topic(&topic, 1, &[("max.message.bytes", &bytes.to_string())]);
        topic
    }

    fn kafka(&self) -> Option<&'static Kafka> {
        Some(self.kafka)
    }
}

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    pub partition: Partition,
    pub offset: i64,
    pub timestamp: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// Takes records, checks the promises of `Sink`'s caller, and stops the consumer where it is told.
#[derive(Default)]
pub struct Taker {
    pub read: Vec<Read>,
    /// The leader epochs that were reported.
    pub epochs: Vec<(Partition, Epoch)>,
    /// Per partition, the position that records and `position` calls have reached.
    pub positions: BTreeMap<Partition, i64>,
    /// How many records more it takes; `None` is all.
    pub room: Option<usize>,
    pub stopped: bool,
    /// Partitions that could not be read on.
    pub failed: Vec<(Partition, Error)>,
}

impl Taker {
    pub fn from(cursor: &[(Partition, i64)]) -> Taker {
        Taker { positions: cursor.iter().copied().collect(), ..Taker::default() }
    }

    /// Where a next consumer reads on.
    pub fn cursor(&self) -> Vec<(Partition, i64)> {
        self.positions.iter().map(|(partition, next)| (*partition, *next)).collect()
    }
}

impl Sink for Taker {
    fn epoch(&mut self, partition: Partition, epoch: Epoch) {
        self.epochs.push((partition, epoch));
    }

    fn record(&mut self, partition: Partition, record: Record<'_>) -> Flow {
        assert!(!self.stopped, "a record after Flow::Stop");
        let at = self.positions.get_mut(&partition).expect("a partition that was asked for");
        assert!(record.offset.get() >= *at, "{partition}: {} after {at}", record.offset);
        *at = record.offset.next().get();
        self.read.push(Read {
            partition,
            offset: record.offset.get(),
            timestamp: record.timestamp,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: record
                .headers
                .iter()
                .map(|(name, value)| (name.to_vec(), value.map(<[u8]>::to_vec)))
                .collect(),
        });
        if let Some(room) = &mut self.room {
            *room -= 1;
            if *room == 0 {
                self.stopped = true;
                return Flow::Stop;
            }
        }
        Flow::Continue
    }

    fn position(&mut self, partition: Partition, next: Offset) {
        let at = self.positions.get_mut(&partition).expect("a partition that was asked for");
        *at = next.get().max(*at);
    }

    fn failed(&mut self, partition: Partition, error: Error) -> Flow {
        assert!(self.positions.contains_key(&partition), "a partition that was asked for");
        self.failed.push((partition, error));
        Flow::Continue
    }
}

pub fn message<'a>(
    partition: Partition,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
) -> Message<'a> {
    Message { partition, key, value, headers: &[] }
}

pub fn fetch() -> FetchSettings {
    FetchSettings { min_bytes: 1, max_record_bytes: HOLD_BYTES, isolation: None, turn_bytes: None }
}

pub fn offsets(cursor: &[(Partition, i64)]) -> Vec<(Partition, Offset)> {
    cursor.iter().map(|(partition, next)| (*partition, Offset::new(*next))).collect()
}

/// Creates a topic of its own name, and returns when it shows all its partitions.
pub fn new_topic(broker: &dyn Broker, name: &str, partitions: u32) -> String {
    let topic = unique(name);
    broker.create_topic(&topic, partitions).unwrap();
    eventually(LIMIT, "the new topic shows its partitions", || {
        broker.topic(&topic).is_ok_and(|info| info.partitions.len() == partitions as usize)
    });
    topic
}

/// Writes through the backend's own producer, and returns when all is acknowledged.
pub fn produce(broker: &dyn Broker, topic: &str, messages: &[Message<'_>]) {
    let mut producer = broker.producer(topic).unwrap();
    for message in messages {
        assert_eq!(producer.send(*message, LIMIT).unwrap(), Sent::Accepted);
    }
    assert_eq!(producer.flush(LIMIT).unwrap(), 0, "{:?}", producer.delivery());
    let delivery = producer.delivery();
    assert_eq!(
        (delivery.acknowledged, delivery.failed),
        (messages.len() as u64, 0),
        "{delivery:?}"
    );
}

pub fn produce_values(broker: &dyn Broker, topic: &str, partition: Partition, values: &[Vec<u8>]) {
    let messages: Vec<_> =
        values.iter().map(|value| message(partition, None, Some(value))).collect();
    produce(broker, topic, &messages);
}

/// Values that tell themselves apart, as text.
pub fn values(name: &str, count: usize, bytes: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|at| {
            let mut value = format!("{name} {at} ").into_bytes();
            // Text that compresses, but not to nothing.
            let mut seed = at as u32;
            while value.len() < bytes {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                value.push(b'a' + (seed >> 28) as u8);
            }
            value
        })
        .collect()
}

/// Reads with one consumer from `from` until every position is at its partition's present end.
pub fn read_to_end(broker: &dyn Broker, topic: &str, from: &[(Partition, i64)]) -> Result<Taker> {
    read_to_end_with(broker, topic, from, &fetch())
}

/// As `read_to_end`, the consumer having these settings.
pub fn read_to_end_with(
    broker: &dyn Broker,
    topic: &str,
    from: &[(Partition, i64)],
    settings: &FetchSettings,
) -> Result<Taker> {
    let partitions: Vec<_> = from.iter().map(|(partition, _)| *partition).collect();
    let ends = require_all(broker.watermarks(topic, &partitions)?)?;
    let mut taker = Taker::from(from);
    let mut consumer = broker.consumer(topic, &offsets(from), settings)?;
    let deadline = Instant::now() + LIMIT;
    while taker.positions.iter().any(|(partition, at)| *at < ends[partition].end.get()) {
        assert!(
            Instant::now() < deadline,
            "stuck at {:?} of {ends:?} after {} records",
            taker.positions,
            taker.read.len()
        );
        let polled = consumer.poll(POLL, &mut taker);
        if let Err(error) =
            polled.and_then(|()| taker.failed.pop().map_or(Ok(()), |one| Err(one.1)))
        {
            consumer.close();
            return Err(error);
        }
    }
    consumer.close();
    Ok(taker)
}

/// Reads until a partition fails; what was read before that comes too.
pub fn read_to_error(
    broker: &dyn Broker,
    topic: &str,
    from: &[(Partition, i64)],
    settings: &FetchSettings,
) -> (Vec<Read>, Error) {
    let mut taker = Taker::from(from);
    let mut consumer = match broker.consumer(topic, &offsets(from), settings) {
        Ok(consumer) => consumer,
        Err(error) => return (Vec::new(), error),
    };
    let deadline = Instant::now() + LIMIT;
    loop {
        consumer.poll(POLL, &mut taker).unwrap();
        if let Some((_, error)) = taker.failed.pop() {
            consumer.close();
            return (taker.read, error);
        }
        assert!(Instant::now() < deadline, "no error, and {} records", taker.read.len());
    }
}

/// The values in the order of reading; every record has one.
pub fn values_of(read: &[Read]) -> Vec<Vec<u8>> {
    read.iter().map(|read| read.value.clone().expect("a value")).collect()
}

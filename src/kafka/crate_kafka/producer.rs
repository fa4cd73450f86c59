//! The producer over crate kafka: a bounded buffer, and a thread that sends it chunk by chunk with acks=all. Each
//! partition's messages keep their order through every retry.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::kafka::client::{ProduceMessage, RequiredAcks};
use ::kafka::error::KafkaCode;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::fault::{Fault, words};
use super::guard::Guard;
use crate::config::limits::{
    BROKER_CALL_LIMIT, PRODUCER_QUEUE_KIB, PURE_CHUNK_BYTES, PURE_LINGER, PURE_UNKNOWN_LIMIT,
};
use crate::kafka::wire::Wire;
use crate::kafka::{Delivery, Message, Producer, Sent};
use crate::model::error::{Error, Result};
use crate::model::offset::Partition;
use crate::model::sync::{Condvar, Mutex, MutexGuard};
use crate::model::thread::{Thread, spawn};

/// How long the broker may take for the acknowledgement of all in-sync replicas.
const ACK_LIMIT: Duration = Duration::from_secs(5);

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// How often a chunk is sent again after an error that may be permanent.
const DOUBTFUL_TRIES: u32 = 3;

pub(super) struct CrateKafkaProducer {
    shared: Arc<Shared>,
    wire: Arc<Wire>,
    topic: String,
    partitions: Vec<Partition>,
    /// Closing it ends every wait of the thread.
    stop: Option<Sender<()>>,
    thread: Option<Thread<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Signalled when messages come, and at the end.
    work: Condvar,
    /// Signalled when messages were acknowledged or given up.
    room: Condvar,
}

#[derive(Default)]
struct State {
    /// Full chunks, then the one being filled.
    full: VecDeque<Chunk>,
    open: Chunk,
    /// The bytes of all messages that were accepted and not yet acknowledged or given up.
    bytes: usize,
    under_way: u64,
    delivery: Delivery,
    flushing: bool,
    stopped: bool,
}

/// Messages in one buffer.
#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    index: Vec<Entry>,
}

struct Entry {
    partition: Partition,
    start: usize,
    key_len: Option<usize>,
    value_len: usize,
}

impl Chunk {
    /// The bytes that a message takes in the buffer.
    fn cost(message: &Message<'_>) -> usize {
        message.key.map_or(0, <[u8]>::len)
            + message.value.map_or(0, <[u8]>::len)
            + size_of::<Entry>()
    }

    fn total(&self) -> usize {
        self.bytes.len() + self.index.len() * size_of::<Entry>()
    }

    fn push(&mut self, message: &Message<'_>) {
        let value = message.value.unwrap_or_default();
        self.index.push(Entry {
            partition: message.partition,
            start: self.bytes.len(),
            key_len: message.key.map(<[u8]>::len),
            value_len: value.len(),
        });
        self.bytes.extend_from_slice(message.key.unwrap_or_default());
        self.bytes.extend_from_slice(value);
    }

    fn message<'a>(&'a self, topic: &'a str, entry: usize) -> ProduceMessage<'a, 'a> {
        let entry = &self.index[entry];
        let key_end = entry.start + entry.key_len.unwrap_or(0);
        let key = entry.key_len.map(|_| &self.bytes[entry.start..key_end]);
        let value = &self.bytes[key_end..key_end + entry.value_len];
        ProduceMessage::new(topic, entry.partition, key, Some(value))
    }
}

impl CrateKafkaProducer {
    pub(super) fn start(
        guard: Guard,
        wire: Arc<Wire>,
        topic: &str,
        partitions: Vec<Partition>,
    ) -> Result<CrateKafkaProducer> {
        let shared = Arc::new(Shared::default());
        let (stop, stopped) = bounded(0);
        let sending = Sending {
            shared: Arc::clone(&shared),
            guard,
            wire: Arc::clone(&wire),
            topic: topic.into(),
            stopped,
        };
        let thread = spawn("kafka-producer", move || sending.run())?;
        Ok(CrateKafkaProducer {
            shared,
            wire,
            topic: topic.to_owned(),
            partitions,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    fn check(&mut self, message: &Message<'_>) -> Result<()> {
        if !message.headers.is_empty() {
            return Err(Error::Unsupported {
                what: "--client kafka writes no headers".into(),
                hint: "use --client rdkafka".into(),
            });
        }
        if message.value.is_none() {
            return Err(Error::Unsupported {
                what: "--client kafka does not tell a null value from an empty one".into(),
                hint: "use --client rdkafka".into(),
            });
        }
        if !self.partitions.contains(&message.partition) {
            // The partition may have been added meanwhile.
            self.partitions = self.wire.topic(&self.topic)?.partitions;
            if !self.partitions.contains(&message.partition) {
                return Err(Error::broker(
                    format!("write to topic {}", self.topic),
                    format!("it has no partition {}", message.partition),
                ));
            }
        }
        Ok(())
    }
}

impl Producer for CrateKafkaProducer {
    fn send(&mut self, message: Message<'_>, wait: Duration) -> Result<Sent> {
        self.check(&message)?;
        let cost = Chunk::cost(&message);
        let deadline = Instant::now() + wait;
        let mut state = self.shared.lock();
        // A message larger than the whole buffer is sent alone.
        while state.bytes > 0 && state.bytes + cost > PRODUCER_QUEUE_KIB * 1024 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Sent::Full);
            }
            state = self.shared.wait(&self.shared.room, state, left);
        }
        if !state.open.index.is_empty() && state.open.total() + cost > PURE_CHUNK_BYTES {
            let full = mem::take(&mut state.open);
            state.full.push_back(full);
        }
        let news = state.open.index.is_empty();
        state.open.push(&message);
        state.bytes += cost;
        state.under_way += 1;
        drop(state);
        if news {
            self.shared.work.notify_one();
        }
        Ok(Sent::Accepted)
    }

    fn delivery(&mut self) -> Delivery {
        self.shared.lock().delivery.clone()
    }

    fn flush(&mut self, limit: Duration) -> Result<u64> {
        let deadline = Instant::now() + limit;
        let mut state = self.shared.lock();
        state.flushing = true;
        self.shared.work.notify_one();
        while state.under_way > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.shared.wait(&self.shared.room, state, left);
        }
        state.flushing = false;
        Ok(state.under_way)
    }
}

impl Drop for CrateKafkaProducer {
    fn drop(&mut self) {
        self.stop = None;
        self.shared.lock().stopped = true;
        self.shared.work.notify_one();
        if let Some(thread) = self.thread.take() {
            // Every wait of the thread ends with the stop. Nobody is left to receive its panic.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn wait<'a>(
        &self,
        on: &Condvar,
        mut state: MutexGuard<'a, State>,
        limit: Duration,
    ) -> MutexGuard<'a, State> {
        on.wait_for(&mut state, limit);
        state
    }
}

/// The thread's side.
struct Sending {
    shared: Arc<Shared>,
    guard: Guard,
    wire: Arc<Wire>,
    topic: Arc<str>,
    stopped: Receiver<()>,
}

/// The messages of one partition that are not yet acknowledged: indexes into the chunk, in order.
struct Pending {
    entries: VecDeque<usize>,
    /// How many are sent in one request; halved if the broker finds them too large together.
    at_once: usize,
    /// How many errors came that may be permanent.
    doubts: u32,
}

impl Sending {
    fn run(mut self) {
        while let Some(chunk) = self.next_chunk() {
            if !self.deliver(&Arc::new(chunk)) {
                return;
            }
        }
    }

    /// Waits for a message, and a little longer for others to go with it; `None` at the stop.
    fn next_chunk(&self) -> Option<Chunk> {
        let mut state = self.shared.lock();
        let mut linger_until = None;
        loop {
            if state.stopped {
                return None;
            }
            if let Some(chunk) = state.full.pop_front() {
                return Some(chunk);
            }
            if state.open.index.is_empty() {
                state = self.shared.wait(&self.shared.work, state, BROKER_CALL_LIMIT);
                continue;
            }
            let until = *linger_until.get_or_insert_with(|| Instant::now() + PURE_LINGER);
            let left = until.saturating_duration_since(Instant::now());
            if state.flushing || left.is_zero() {
                return Some(mem::take(&mut state.open));
            }
            state = self.shared.wait(&self.shared.work, state, left);
        }
    }

    /// Sends a chunk until each of its messages was acknowledged or given up; false at the stop.
    fn deliver(&mut self, chunk: &Arc<Chunk>) -> bool {
        let mut pending: BTreeMap<Partition, Pending> = BTreeMap::new();
        for (place, entry) in chunk.index.iter().enumerate() {
            let pending = pending.entry(entry.partition).or_insert_with(|| Pending {
                entries: VecDeque::new(),
                at_once: usize::MAX,
                doubts: 0,
            });
            pending.entries.push_back(place);
        }
        let mut backoff = BACKOFF_MIN;
        let mut unknown_since = None;
        while !pending.is_empty() {
            let trouble = match self.send(chunk, &pending) {
                Ok(answers) => {
                    unknown_since = None;
                    self.settle(chunk, &mut pending, &answers)
                }
                Err(Fault::Stopped) => return false,
                Err(fault) => {
                    let unknown = matches!(
                        fault,
                        Fault::Own(Error::UnknownTopic { .. })
                            | Fault::Client(::kafka::Error::Kafka(
                                KafkaCode::UnknownTopicOrPartition
                            ))
                    ) && matches!(
                        self.wire.topic(&self.topic),
                        Err(Error::UnknownTopic { .. })
                    );
                    let cause = match fault {
                        Fault::Own(error) => error.to_string(),
                        Fault::Client(cause) => words(&cause),
                        Fault::Stopped => unreachable!("handled above"),
                    };
                    let since = *unknown_since.get_or_insert_with(Instant::now);
                    if !unknown {
                        unknown_since = None;
                    } else if since.elapsed() > PURE_UNKNOWN_LIMIT {
                        let cause = format!("topic {} does not exist", self.topic);
                        for (_, gone) in mem::take(&mut pending) {
                            self.give_up(chunk, gone.entries, &cause);
                        }
                    }
                    Some(cause)
                }
            };
            let Some(cause) = trouble else {
                backoff = BACKOFF_MIN;
                continue;
            };
            self.shared.lock().delivery.last_error = Some(cause);
            self.guard.discard();
            if self.stopped.recv_timeout(backoff) != Err(RecvTimeoutError::Timeout) {
                return false;
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
        true
    }

    /// Sends one request: of each partition, as many messages as may go at once.
    fn send(
        &mut self,
        chunk: &Arc<Chunk>,
        pending: &BTreeMap<Partition, Pending>,
    ) -> Result<BTreeMap<Partition, Option<KafkaCode>>, Fault> {
        let entries: Vec<usize> = pending
            .values()
            .flat_map(|one| one.entries.iter().copied().take(one.at_once))
            .collect();
        let (chunk, topic) = (Arc::clone(chunk), Arc::clone(&self.topic));
        let limit = ACK_LIMIT + BROKER_CALL_LIMIT;
        let confirms = self.guard.call(limit, &self.stopped, move |client| {
            let messages = entries.iter().map(|&entry| chunk.message(&topic, entry));
            client.produce_messages(RequiredAcks::All, ACK_LIMIT, messages)
        })?;
        Ok(confirms
            .into_iter()
            .flat_map(|confirm| confirm.partition_confirms)
            .map(|confirm| (confirm.partition, confirm.offset.err()))
            .collect())
    }

    /// Processes each partition's answer; returns why something has to be sent again after a pause.
    fn settle(
        &self,
        chunk: &Chunk,
        pending: &mut BTreeMap<Partition, Pending>,
        answers: &BTreeMap<Partition, Option<KafkaCode>>,
    ) -> Option<String> {
        let mut trouble = None;
        for (partition, one) in pending.iter_mut() {
            let sent = one.at_once.min(one.entries.len());
            let code = match answers.get(partition) {
                Some(None) => {
                    one.doubts = 0;
                    let done = one.entries.drain(..sent).collect();
                    self.acknowledge(chunk, done);
                    continue;
                }
                Some(Some(code)) => *code,
                None => {
                    trouble = Some(format!("no answer for partition {partition}"));
                    continue;
                }
            };
            match verdict(code) {
                Verdict::TooLarge if sent > 1 => one.at_once = sent / 2,
                Verdict::Doubtful if one.doubts < DOUBTFUL_TRIES => {
                    one.doubts += 1;
                    trouble = Some(format!("the broker says {code:?} about partition {partition}"));
                }
                Verdict::Retry => {
                    trouble = Some(format!("the broker says {code:?} about partition {partition}"));
                }
                Verdict::TooLarge | Verdict::Doubtful | Verdict::Permanent => {
                    let gone = one.entries.drain(..sent).collect();
                    let cause = format!("the broker says {code:?} about partition {partition}");
                    self.give_up(chunk, gone, &cause);
                }
            }
        }
        pending.retain(|_, one| !one.entries.is_empty());
        trouble
    }

    fn acknowledge(&self, chunk: &Chunk, entries: VecDeque<usize>) {
        let mut state = self.shared.lock();
        state.delivery.acknowledged += entries.len() as u64;
        self.release(state, chunk, entries);
    }

    fn give_up(&self, chunk: &Chunk, entries: VecDeque<usize>, cause: &str) {
        let mut state = self.shared.lock();
        state.delivery.failed += entries.len() as u64;
        state.delivery.last_error = Some(cause.to_owned());
        self.release(state, chunk, entries);
    }

    fn release(&self, mut state: MutexGuard<'_, State>, chunk: &Chunk, entries: VecDeque<usize>) {
        state.under_way -= entries.len() as u64;
        state.bytes -= entries
            .iter()
            .map(|&entry| &chunk.index[entry])
            .map(|entry| entry.key_len.unwrap_or(0) + entry.value_len + size_of::<Entry>())
            .sum::<usize>();
        drop(state);
        self.shared.room.notify_all();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Send again: the error passes by itself, for example when a leader moves or replicas come back.
    Retry,
    /// The error may pass.
    Doubtful,
    /// Fewer messages at once may fit.
    TooLarge,
    Permanent,
}

fn verdict(code: KafkaCode) -> Verdict {
    use KafkaCode::{
        BrokerNotAvailable, CorruptMessage, LeaderNotAvailable, MessageSizeTooLarge,
        NetworkException, NotEnoughReplicas, NotEnoughReplicasAfterAppend, NotLeaderForPartition,
        RecordListTooLarge, ReplicaNotAvailable, RequestTimedOut, Unknown, UnknownTopicOrPartition,
    };
    match code {
        LeaderNotAvailable
        | NotLeaderForPartition
        | RequestTimedOut
        | BrokerNotAvailable
        | ReplicaNotAvailable
        | NetworkException
        | NotEnoughReplicas
        | NotEnoughReplicasAfterAppend
        // A deleted topic is noticed in its metadata, before anything is sent.
        | UnknownTopicOrPartition => Verdict::Retry,
        MessageSizeTooLarge | RecordListTooLarge => Verdict::TooLarge,
        // `Unknown` also stands for the codes that the crate does not know.
        CorruptMessage | Unknown => Verdict::Doubtful,
        _ => Verdict::Permanent,
    }
}

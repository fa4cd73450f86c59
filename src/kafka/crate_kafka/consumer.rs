//! One tick's consumer over crate kafka: it fetches all partitions together while their offsets have no jumps, and
//! reads a partition with jumps one record batch at a time. What may be believed is decided in `trust`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::kafka::client::fetch::{Data, Response};
use ::kafka::client::{FetchPartition, KafkaClient};
use ::kafka::error::KafkaCode;

use super::answer::{CODECS, Part, is_decoding, leaders, part};
use super::fault::{Fault, explain, words};
use super::guard::{Guard, Pending};
use super::trust::{Caution, believed, complete, stops_short};
use crate::config::limits::{
    BROKER_CALL_LIMIT, PROBE_LIMIT, PURE_FETCH_BYTES, PURE_PARTITION_FETCH_BYTES,
};
use crate::kafka::seam::not_read;
use crate::kafka::wire::{RecordBatchHeader, Wire};
use crate::kafka::{Consumer, FetchSettings, Flow, Sink};
use crate::model::batch::Record;
use crate::model::error::{Error, Result};
use crate::model::headers::Headers;
use crate::model::offset::{Offset, Partition};

/// The size of a record batch beyond its records' keys and values, at most (with room to spare).
const BATCH_OVERHEAD_BYTES: usize = 64 * 1024;

/// How many record batches of one partition one poll reads one by one, at most: the other partitions must have
/// their turn.
const CAREFUL_BATCHES: usize = 64;

pub(super) struct CrateKafkaConsumer {
    guard: Guard,
    wire: Arc<Wire>,
    topic: Arc<str>,
    settings: FetchSettings,
    /// How many bytes a plain fetch requests of one partition.
    fetch_bytes: usize,
    cursors: Vec<Cursor>,
    /// How many plain fetches in a row could not be decoded.
    undecoded: u32,
    /// The next plain fetch, under way while the records of the previous one are handed over.
    ahead: Option<Ahead>,
}

/// What a fetch requests: for each partition the offset, and how many bytes.
type Requested = Vec<(Partition, Offset, i32)>;

struct Ahead {
    requested: Requested,
    pending: Pending<Vec<Response>>,
}

/// What a plain answer has for one partition.
struct Judged<'a> {
    data: &'a Data<'a>,
    /// How many of its messages can be believed.
    count: usize,
    /// The log has more.
    goes_on: bool,
}

/// A partition and the next offset to hand over.
struct Cursor {
    partition: Partition,
    next: Offset,
    caution: Caution,
    /// The last plain answer showed that the log has records from `next` on.
    owed: bool,
    paused: bool,
}

impl Cursor {
    fn new(partition: Partition, next: Offset) -> Cursor {
        Cursor { partition, next, caution: Caution::default(), owed: false, paused: false }
    }
}

impl CrateKafkaConsumer {
    pub(super) fn new(
        guard: Guard,
        wire: Arc<Wire>,
        topic: &str,
        from: &[(Partition, Offset)],
        settings: &FetchSettings,
        fetch_bytes: usize,
    ) -> CrateKafkaConsumer {
        let cursors = from.iter().map(|&(partition, next)| Cursor::new(partition, next));
        CrateKafkaConsumer {
            guard,
            wire,
            topic: topic.into(),
            settings: settings.clone(),
            fetch_bytes,
            cursors: cursors.collect(),
            undecoded: 0,
            ahead: None,
        }
    }

    fn cursor(&mut self, partition: Partition) -> Result<&mut Cursor> {
        let found = self.cursors.iter_mut().find(|cursor| cursor.partition == partition);
        found.ok_or_else(|| not_read(&self.topic, partition))
    }

    /// Reads a partition's record batches one by one while caution is raised. Returns how many were read or
    /// skipped.
    fn read_carefully(&mut self, index: usize, sink: &mut dyn Sink) -> Result<(Flow, usize)> {
        let mut passed = 0;
        while self.cursors[index].caution.is_raised() && passed < CAREFUL_BATCHES {
            let (partition, next) = (self.cursors[index].partition, self.cursors[index].next);
            let Some(batch) = self.wire.record_batch_header(&self.topic, partition, next)? else {
                if self.cursors[index].owed {
                    return Err(self.failure(format!(
                        "the broker announces records of {}/{partition} from offset {next}, and \
                         has none there",
                        self.topic
                    )));
                }
                self.cursors[index].caution.rest();
                break;
            };
            if batch.last < next {
                return Err(self.failure("the broker answers with a batch below that offset"));
            }
            if !batch.is_without_records()
                && self.hand_over_batch(index, &batch, sink)? == Flow::Stop
            {
                return Ok((Flow::Stop, passed));
            }
            let behind = batch.last.next();
            if self.cursors[index].next < behind {
                // Only its header says that there is no record up to here, and nothing checks a header that is read
                // alone: a flipped bit would pass over records. Two equal answers are proof.
                if self.wire.record_batch_header(&self.topic, partition, next)? != Some(batch) {
                    let cause = format!("two answers about the batch at offset {next} differ");
                    return Err(self.failure(cause));
                }
                self.cursors[index].next = behind;
                sink.position(partition, behind);
            }
            let cursor = &mut self.cursors[index];
            cursor.caution.spend();
            cursor.owed = false;
            passed += 1;
        }
        Ok((Flow::Continue, passed))
    }

    /// Fetches exactly one record batch and hands its records over.
    fn hand_over_batch(
        &mut self,
        index: usize,
        batch: &RecordBatchHeader,
        sink: &mut dyn Sink,
    ) -> Result<Flow> {
        let (partition, next) = (self.cursors[index].partition, self.cursors[index].next);
        let first = next.max(batch.base);
        if !CODECS.contains(&batch.codec) {
            return Err(self.unreadable(
                partition,
                first,
                format!(
                    "its batch is compressed with {}, which --client kafka does not read; use \
                         --client rdkafka",
                    batch.codec
                ),
            ));
        }
        let limit =
            self.settings.max_record_bytes.max(PURE_PARTITION_FETCH_BYTES) + BATCH_OVERHEAD_BYTES;
        let bytes = match i32::try_from(batch.bytes) {
            Ok(bytes) if batch.bytes <= limit => bytes,
            _ => {
                let cause = format!(
                    "its batch takes {} bytes, the limit is {limit} (a record may take {}); raise \
                     --queue-bytes",
                    batch.bytes, self.settings.max_record_bytes
                );
                return Err(self.unreadable(partition, first, cause));
            }
        };
        let requested = vec![(partition, next, bytes)];
        let answer = match self.fetch(requested, Duration::from_millis(100), 1) {
            Ok(answer) => answer,
            Err(Fault::Client(cause)) if is_decoding(&cause) => {
                return Err(self.unreadable(partition, first, words(&cause)));
            }
            Err(fault) => return Err(explain(fault, |cause| self.failure(cause))),
        };
        let data = match part(&answer, partition) {
            Part::Data(data) => data,
            Part::Error(KafkaCode::Unknown | KafkaCode::CorruptMessage) => {
                let cause = "the broker cannot convert or check its batch".to_owned();
                return Err(self.unreadable(partition, first, cause));
            }
            Part::Error(code) => return Err(self.broker_error(partition, next, code)),
            Part::Missing => return Err(self.leaderless(partition)),
        };
        let offsets: Vec<i64> = data.messages().iter().map(|message| message.offset).collect();
        let proved = match complete(next, batch, &offsets) {
            Some(complete) => complete,
            // The answer had only this batch if the log still has it unchanged.
            None => self.wire.record_batch_header(&self.topic, partition, next)? == Some(*batch),
        };
        if !proved {
            return Err(self.failure(format!(
                "what came for {}/{partition} from offset {next} is not what the log has there \
                 (was it just compacted?)",
                self.topic
            )));
        }
        self.hand_over(index, data, offsets.len(), sink)
    }

    /// Hands the first `count` messages over and moves the cursor along.
    fn hand_over(
        &mut self,
        index: usize,
        data: &Data<'_>,
        count: usize,
        sink: &mut dyn Sink,
    ) -> Result<Flow> {
        for message in &data.messages()[..count] {
            let cursor = &mut self.cursors[index];
            let offset = Offset::new(message.offset);
            // The crate reads a null key or value as an empty one. An empty key most likely is no key, while an
            // empty value most likely is one.
            let record = Record {
                offset,
                timestamp: None,
                key: (!message.key.is_empty()).then_some(message.key),
                value: Some(message.value),
                headers: Headers::NONE,
                edited: false,
            };
            if record.payload_bytes() > self.settings.max_record_bytes {
                let cause = format!(
                    "the record has {} bytes, the limit is {}; raise --queue-bytes",
                    record.payload_bytes(),
                    self.settings.max_record_bytes
                );
                let partition = cursor.partition;
                return Err(self.unreadable(partition, offset, cause));
            }
            cursor.next = offset.next();
            self.undecoded = 0;
            if sink.record(cursor.partition, record) == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
        Ok(Flow::Continue)
    }

    /// Fetches the partitions that need no caution, all with one request per leader.
    fn read_plainly(&mut self, wait: Duration, sink: &mut dyn Sink) -> Result<Flow> {
        let is_calm = |cursor: &Cursor| !cursor.paused && !cursor.caution.is_raised();
        let calm: Vec<usize> =
            (0..self.cursors.len()).filter(|&i| is_calm(&self.cursors[i])).collect();
        if calm.is_empty() {
            // No broker does the waiting if nothing is fetched.
            if self.cursors.iter().all(|cursor| cursor.paused) {
                std::thread::sleep(wait);
            }
            return Ok(Flow::Continue);
        }
        let share = (PURE_FETCH_BYTES / calm.len()).clamp(1, self.fetch_bytes);
        let requested = self.request(&calm, share);
        let answer = match self.fetch(requested, wait, self.settings.min_bytes) {
            Ok(answer) => answer,
            Err(Fault::Client(cause)) if is_decoding(&cause) && self.undecoded == 0 => {
                // One partition's batch makes the whole answer fail. Read one by one, they show which it is.
                self.undecoded += 1;
                for index in calm {
                    self.cursors[index].caution.raise();
                }
                return Ok(Flow::Continue);
            }
            Err(fault) => return Err(explain(fault, |cause| self.failure(cause))),
        };
        let (mut failed, mut found) = (Vec::new(), Vec::with_capacity(calm.len()));
        let mut goes_on = false;
        for &index in &calm {
            match self.judge(index, &answer, share) {
                Ok(Some(judged)) => {
                    goes_on |= judged.goes_on;
                    found.push((index, judged.data, judged.count));
                }
                Ok(None) => {}
                Err(error) => failed.push((index, error)),
            }
        }
        // A partition that is read carefully needs the client for itself.
        let is_plain = found.len() == calm.len()
            && self.cursors.iter().all(|cursor| cursor.paused || !cursor.caution.is_raised());
        if is_plain && goes_on {
            self.fetch_ahead(&calm, &found, share);
        }
        for (index, data, count) in found {
            match self.hand_over(index, data, count, sink) {
                Ok(Flow::Continue) => {}
                Ok(Flow::Stop) => return Ok(Flow::Stop),
                Err(error) => failed.push((index, error)),
            }
        }
        for (index, error) in failed {
            if self.fail(index, error, sink) == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
        Ok(Flow::Continue)
    }

    /// What is to be handed over of a plain answer for one partition; `None` if the partition is to be read
    /// carefully. Raises and lowers its caution.
    fn judge<'a>(
        &mut self,
        index: usize,
        answer: &'a [Response],
        share: usize,
    ) -> Result<Option<Judged<'a>>> {
        let (partition, next) = (self.cursors[index].partition, self.cursors[index].next);
        let data = match part(answer, partition) {
            Part::Data(data) => data,
            // Among others UNSUPPORTED_COMPRESSION_TYPE (76), which the crate does not know: brokers send it to
            // clients of old versions for batches in zstd (KIP-110).
            Part::Error(KafkaCode::Unknown | KafkaCode::CorruptMessage) => {
                self.cursors[index].caution.raise();
                return Ok(None);
            }
            Part::Error(code) => return Err(self.broker_error(partition, next, code)),
            Part::Missing => return Err(self.leaderless(partition)),
        };
        let messages = data.messages();
        let count = believed(next, messages.iter().map(|message| message.offset));
        // No message although the log has more: a message larger than the fetch, a marker, or a batch whose
        // records from here on were compacted away.
        let hidden = messages.is_empty() && data.highwatermark_offset() > next.get();
        let payloads = messages.iter().map(|message| message.key.len() + message.value.len());
        // The crate stops at the first compressed batch of an answer, while the broker has converted all that
        // was requested: reading batch by batch is cheaper then.
        let end = data.highwatermark_offset();
        let goes_on = messages.last().is_some_and(|last| last.offset < end - 1);
        let short = goes_on && stops_short(payloads, share);
        let cursor = &mut self.cursors[index];
        if hidden || count < messages.len() || short {
            cursor.owed = true;
            cursor.caution.raise();
        } else if count > 0 {
            cursor.caution.lower();
        }
        Ok(Some(Judged { data, count, goes_on }))
    }

    /// The next request for the partitions at `calm`, with `share` bytes of each.
    fn request(&self, calm: &[usize], share: usize) -> Requested {
        let bytes = i32::try_from(share).unwrap_or(i32::MAX);
        let cursors = calm.iter().map(|&index| &self.cursors[index]);
        cursors.map(|cursor| (cursor.partition, cursor.next, bytes)).collect()
    }

    /// Starts the fetch that follows once `found` is handed over. The log goes on, so the broker answers at once.
    /// A fetch that fails is noticed when its answer is taken.
    fn fetch_ahead(&mut self, calm: &[usize], found: &[(usize, &Data<'_>, usize)], share: usize) {
        let mut requested = self.request(calm, share);
        for ((_, next, _), (_, data, count)) in requested.iter_mut().zip(found) {
            if let Some(last) = data.messages()[..*count].last() {
                *next = Offset::new(last.offset).next();
            }
        }
        if let Ok(pending) = self.guard.begin(self.job(requested.clone(), Duration::ZERO, 1)) {
            self.ahead = Some(Ahead { requested, pending });
        }
    }

    fn fetch(
        &mut self,
        requested: Requested,
        wait: Duration,
        min_bytes: usize,
    ) -> Result<Vec<Response>, Fault> {
        let limit = wait + BROKER_CALL_LIMIT;
        if let Some(ahead) = self.ahead.take() {
            match self.guard.finish_to_end(ahead.pending, limit) {
                answer if ahead.requested == requested => return answer,
                // These connections are silent: another request would wait for nothing.
                Err(fault @ Fault::Own(_)) => return Err(fault),
                // Partitions were paused or moved meanwhile, so the answer does not fit.
                _ => {}
            }
        }
        self.guard.call_to_end(limit, self.job(requested, wait, min_bytes))
    }

    fn job(
        &self,
        requested: Requested,
        wait: Duration,
        min_bytes: usize,
    ) -> impl FnOnce(&mut KafkaClient) -> ::kafka::Result<Vec<Response>> + Send + use<> {
        let topic = Arc::clone(&self.topic);
        move |client| {
            // The crate asks one leader after another; each gets its share of the wait.
            let leaders = leaders(client, &topic);
            client.set_fetch_max_wait_time(wait / leaders)?;
            client.set_fetch_min_bytes(i32::try_from(min_bytes).unwrap_or(i32::MAX));
            client.fetch_messages(requested.iter().map(|&(partition, offset, bytes)| {
                FetchPartition::new(&topic, partition, offset.get()).with_max_bytes(bytes)
            }))
        }
    }

    fn unreadable(&self, partition: Partition, offset: Offset, cause: String) -> Error {
        Error::Unreadable { topic: self.topic.to_string(), partition, offset, cause }
    }

    fn failure(&self, cause: impl Into<String>) -> Error {
        Error::broker(format!("read topic {}", self.topic), cause.into())
    }

    fn leaderless(&self, partition: Partition) -> Error {
        Error::NoLeader { topic: self.topic.to_string(), partition }
    }

    /// Pauses the partition and reports why it cannot be read on.
    fn fail(&mut self, index: usize, error: Error, sink: &mut dyn Sink) -> Flow {
        if matches!(error, Error::NoLeader { .. } | Error::Broker { .. }) {
            // The crate never refreshes its metadata by itself: the partition's new leader, if it has one
            // by now, is seen by a new client only.
            self.guard.discard();
        }
        let cursor = &mut self.cursors[index];
        cursor.paused = true;
        sink.failed(cursor.partition, error)
    }

    fn broker_error(&self, partition: Partition, offset: Offset, code: KafkaCode) -> Error {
        let topic = self.topic.to_string();
        match code {
            KafkaCode::OffsetOutOfRange => Error::OffsetOutOfRange { topic, partition, offset },
            KafkaCode::LeaderNotAvailable => Error::NoLeader { topic, partition },
            code => self.failure(format!("the broker says {code:?} about partition {partition}")),
        }
    }
}

impl Consumer for CrateKafkaConsumer {
    fn poll(&mut self, wait: Duration, sink: &mut dyn Sink) -> Result<()> {
        let began = Instant::now();
        let deadline = began + wait;
        let (mut failed, mut passed) = (false, 0);
        for index in 0..self.cursors.len() {
            if self.cursors[index].paused {
                continue;
            }
            match self.read_carefully(index, sink) {
                Ok((Flow::Stop, _)) => return Ok(()),
                Ok((Flow::Continue, batches)) => passed += batches,
                Err(error @ Error::UnknownTopic { .. }) => return Err(error),
                // These connections are silent, and each further partition would wait as long to find that
                // out: the next consumer has new ones.
                Err(error) if began.elapsed() >= PROBE_LIMIT => return Err(error),
                Err(error) => {
                    failed = true;
                    if self.fail(index, error, sink) == Flow::Stop {
                        return Ok(());
                    }
                }
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = if passed > 0 || failed { Duration::ZERO } else { left };
        self.read_plainly(wait, sink).map(drop)
    }

    fn pause(&mut self, partition: Partition) -> Result<()> {
        self.cursor(partition)?.paused = true;
        Ok(())
    }

    fn resume(&mut self, partition: Partition, from: Offset) -> Result<()> {
        let cursor = self.cursor(partition)?;
        if cursor.paused {
            *cursor = Cursor::new(partition, from);
        }
        Ok(())
    }

    fn has_more(&self) -> bool {
        // Only an answer that is here: records that were handed over must not wait for one still to come.
        self.ahead.as_ref().is_some_and(|ahead| ahead.pending.is_answered())
    }

    fn close(self: Box<Self>) {
        // The client is idle, or abandoned with a fetch under way: nothing to wait for.
        drop(self);
    }
}

//! One tick's consumer: hands records to the sink, and decides what librdkafka's errors mean for mb. How records
//! come out of librdkafka is in `native`.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::types::RDKafkaErrorCode;

use super::client::{check_known, close};
use super::context::{self, Client, Failure};
use super::native::{Event, Records};
use crate::config::limits;
use crate::kafka::seam::not_read;
use crate::kafka::{Consumer, FetchSettings, Flow, Sink};
use crate::model::error::{Error, Result};
use crate::model::offset::{Offset, Partition};

/// During a long wait the connection is checked this often.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);
/// The time limit of one check whether the cluster can be reached.
const LOOK_LIMIT: Duration = Duration::from_millis(50);
/// If one poll brings this many records, more will follow.
const BULK_RECORDS: usize = 256;
/// The time limit of the question whether the topic exists, after an error.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

pub(super) struct LibrdkafkaConsumer {
    topic: String,
    max_record_bytes: usize,
    /// `None` once it is closed.
    records: Option<Records>,
    /// Each partition, and whether it is paused.
    paused: BTreeMap<Partition, bool>,
    /// Partitions that failed and are not reported yet; they count as paused.
    failed: VecDeque<(Partition, Error)>,
    doubt: Option<Doubt>,
    has_more: bool,
}

/// librdkafka reports that it has lost one connection, or all. It does so even while it still tries a second
/// address of the same name, and it reconnects by itself, so only a report that persists is an error.
struct Doubt {
    since: Instant,
    cause: String,
}

impl Doubt {
    fn new(cause: String) -> Doubt {
        Doubt { since: Instant::now(), cause }
    }
}

impl LibrdkafkaConsumer {
    pub(super) fn start(
        client: Client,
        topic: &str,
        from: &[(Partition, Offset)],
        settings: &FetchSettings,
    ) -> Result<LibrdkafkaConsumer> {
        let records = Records::start(client, topic, from)
            .map_err(|failure| Error::broker(format!("read topic {topic}"), failure.reason))?;
        Ok(LibrdkafkaConsumer {
            topic: topic.to_owned(),
            max_record_bytes: settings.max_record_bytes,
            records: Some(records),
            paused: from.iter().map(|(partition, _)| (*partition, false)).collect(),
            failed: VecDeque::new(),
            doubt: None,
            has_more: false,
        })
    }

    /// Hands over what is there, waiting at most `wait` for it; whether anything came.
    fn hand_over(&mut self, wait: Duration, sink: &mut dyn Sink) -> Result<bool> {
        let records = self.records.as_mut().expect("a consumer is polled before its close only");
        let mut came = false;
        let mut scratch = Vec::new();
        let mut read = None;
        // The epoch that was reported to the sink last.
        let mut reported = None;
        let mut flow = Flow::Continue;
        let taken = records.take(wait);
        self.has_more = taken.len() >= BULK_RECORDS;
        for message in taken {
            // librdkafka drops records that are outdated by a pause; this makes sure of it, and skips what
            // comes behind an error of the partition.
            if read != Some(message.partition()) {
                if self.paused.get(&message.partition()) != Some(&false) {
                    continue;
                }
                read = Some(message.partition());
            }
            came = true;
            let (partition, error) = match message.event(&mut scratch) {
                Event::Record { partition, record } => {
                    let bytes = record.payload_bytes();
                    if bytes <= self.max_record_bytes {
                        let epoch = message.epoch().map(|epoch| (partition, epoch));
                        if let Some((partition, epoch)) =
                            epoch.filter(|epoch| reported != Some(*epoch))
                        {
                            sink.epoch(partition, epoch);
                            reported = Some((partition, epoch));
                        }
                        flow = sink.record(partition, record);
                        if flow == Flow::Stop {
                            break;
                        }
                        continue;
                    }
                    let cause = format!(
                        "its {bytes} bytes are more than the {} that a record may have here; a \
                         larger --queue-bytes makes room",
                        self.max_record_bytes
                    );
                    let (topic, offset) = (self.topic.clone(), record.offset);
                    (partition, Error::Unreadable { topic, partition, offset, cause })
                }
                Event::End { partition, next } => {
                    if let Some(next) = Offset::checked(next) {
                        sink.position(partition, next);
                    }
                    continue;
                }
                Event::Failure { partition, offset, failure } => {
                    match meaning(&self.topic, partition, offset, &failure) {
                        error @ Error::UnknownTopic { .. } => return Err(error),
                        error => (partition, error),
                    }
                }
            };
            read = None;
            self.paused.insert(partition, true);
            self.failed.push_back((partition, error));
        }
        if came {
            self.doubt = None;
        }
        if flow == Flow::Continue {
            self.report_failed(sink)?;
        }
        Ok(came)
    }

    /// Stops fetching the partitions that failed, and reports them.
    fn report_failed(&mut self, sink: &mut dyn Sink) -> Result<()> {
        let records = self.records.as_ref().expect("a consumer is polled before its close only");
        while let Some((partition, error)) = self.failed.pop_front() {
            let stopped = records.stop_partition(partition);
            stopped.map_err(|failure| self.cannot("pause", partition, failure))?;
            if sink.failed(partition, error) == Flow::Stop {
                break;
            }
        }
        Ok(())
    }

    fn cannot(&self, verb: &str, partition: Partition, failure: Failure) -> Error {
        Error::broker(format!("{verb} {}/{partition}", self.topic), failure.reason)
    }

    /// Serves the client's own queue (log lines, errors of the client as a whole).
    fn watch(&mut self) -> Result<()> {
        let records = self.records.as_ref().expect("a consumer is polled before its close only");
        for failure in context::serve(records.client()) {
            match failure.code {
                Code::Authentication | Code::SSL | Code::Fatal => {
                    return Err(Error::broker(self.doing(), failure.reason));
                }
                // Topics and partitions that do not exist, or that mb may not read.
                Code::Fail => {
                    check_known(records.client(), &self.topic, ANSWER_LIMIT)?;
                    return Err(Error::broker(self.doing(), failure.reason));
                }
                Code::AllBrokersDown => {
                    self.doubt.get_or_insert_with(|| Doubt::new(failure.reason));
                }
                // This machine's limit, and no broker's trouble: it shows in the first connection.
                Code::BrokerTransportFailure if is_without_socket(&failure) => {
                    return Err(Error::broker(self.doing(), failure.reason));
                }
                // A problem of one connection, from which librdkafka recovers by itself if it can. Its text
                // is better than that of AllBrokersDown.
                Code::BrokerTransportFailure | Code::OperationTimedOut | Code::Resolve => {
                    match &mut self.doubt {
                        Some(doubt) => doubt.cause = failure.reason,
                        None => self.doubt = Some(Doubt::new(failure.reason)),
                    }
                }
                // In the log at debug level already, and no reason to stop reading.
                _ => {}
            }
        }
        let Some(doubt) = &self.doubt else { return Ok(()) };
        let lasts = doubt.since.elapsed();
        if lasts < LOOK_LIMIT {
            return Ok(());
        }
        // An empty partition does not show that its broker is back, so ask.
        if records.client().fetch_metadata(Some(&self.topic), LOOK_LIMIT).is_ok() {
            self.doubt = None;
        } else if lasts >= limits::BROKER_DOWN_LIMIT {
            return Err(Error::broker(self.doing(), &doubt.cause));
        }
        Ok(())
    }

    /// Pauses or resumes the partition by `call`, unless it is already in that state.
    fn switch(
        &mut self,
        partition: Partition,
        pause: bool,
        call: impl FnOnce(&Records) -> Result<(), Failure>,
    ) -> Result<()> {
        let records = self.records.as_ref().expect("a consumer is used before its close only");
        let paused =
            *self.paused.get(&partition).ok_or_else(|| not_read(&self.topic, partition))?;
        if paused != pause {
            let verb = if pause { "pause" } else { "resume" };
            call(records).map_err(|failure| self.cannot(verb, partition, failure))?;
            self.paused.insert(partition, pause);
        }
        Ok(())
    }

    fn doing(&self) -> String {
        format!("read topic {}", self.topic)
    }
}

impl Consumer for LibrdkafkaConsumer {
    fn poll(&mut self, wait: Duration, sink: &mut dyn Sink) -> Result<()> {
        let deadline = Instant::now() + wait;
        loop {
            self.watch()?;
            let left = deadline.saturating_duration_since(Instant::now());
            if self.hand_over(left.min(WATCH_INTERVAL), sink)? || left.is_zero() {
                return Ok(());
            }
        }
    }

    fn has_more(&self) -> bool {
        self.has_more
    }

    fn pause(&mut self, partition: Partition) -> Result<()> {
        self.switch(partition, true, |records| records.stop_partition(partition))
    }

    fn resume(&mut self, partition: Partition, from: Offset) -> Result<()> {
        self.switch(partition, false, |records| records.start_partition(partition, from))
    }

    fn close(self: Box<Self>) {
        drop(self);
    }
}

impl Drop for LibrdkafkaConsumer {
    fn drop(&mut self) {
        if let Some(records) = self.records.take() {
            close("consumer", records);
        }
    }
}

/// Whether the machine refused mb a socket, for one because too many files are open. The words are those of
/// librdkafka's rdkafka_transport.c; it has no code for this.
fn is_without_socket(failure: &Failure) -> bool {
    failure.reason.contains("Failed to create socket")
}

/// What an error that came instead of a partition's records means. `offset` is where the partition was to be
/// read.
fn meaning(topic: &str, partition: Partition, offset: i64, failure: &Failure) -> Error {
    let offset = Offset::checked(offset);
    match (failure.code, offset) {
        (Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::LogTruncation, Some(offset)) => {
            Error::OffsetOutOfRange { topic: topic.to_owned(), partition, offset }
        }
        (Code::UnknownTopic | Code::UnknownTopicOrPartition, _) => {
            Error::UnknownTopic { topic: topic.to_owned() }
        }
        (
            Code::BadMessage
            | Code::BadCompression
            | Code::NotImplemented
            | Code::InvalidMessage
            | Code::MessageSizeTooLarge
            | RDKafkaErrorCode::UnsupportedCompressionType,
            Some(offset),
        ) => Error::Unreadable {
            topic: topic.to_owned(),
            partition,
            offset,
            cause: failure.reason.clone(),
        },
        (_, Some(offset)) => {
            Error::broker(format!("read {topic}/{partition} at offset {offset}"), &failure.reason)
        }
        (_, None) => Error::broker(format!("read {topic}/{partition}"), &failure.reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: Code) -> Failure {
        Failure { code, reason: "its own words".to_owned() }
    }

    #[test]
    fn an_offset_outside_the_log_is_named() {
        let error = meaning("t", 3, 17, &failure(Code::AutoOffsetReset));
        let expected =
            Error::OffsetOutOfRange { topic: "t".into(), partition: 3, offset: Offset::new(17) };
        assert_eq!(error, expected);
    }

    #[test]
    fn a_broken_record_is_unreadable_at_its_offset() {
        for code in [Code::BadMessage, Code::BadCompression, Code::InvalidMessage] {
            let error = meaning("t", 0, 5, &failure(code));
            assert_eq!(error.to_string(), "cannot read t/0 at offset 5: its own words");
            assert!(matches!(error, Error::Unreadable { .. }), "{code:?}");
        }
    }

    #[test]
    fn any_other_code_is_a_broker_error() {
        let error = meaning("t", 0, -1001, &failure(Code::TopicAuthorizationFailed));
        assert_eq!(error, Error::broker("read t/0", "its own words"));
        let unknown = meaning("t", -1, -1001, &failure(Code::UnknownTopicOrPartition));
        assert_eq!(unknown, Error::UnknownTopic { topic: "t".into() });
    }
}

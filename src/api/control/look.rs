//! Reads the topic for people, beside the sensors and without touching them: what a tick would read
//! now, and the records of a run.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::requests::Attached;
use super::steer::{Preview, PreviewPartition, Records};
use crate::config::limits;
use crate::history::requests::Place;
use crate::kafka::{Backend, Consumer, FetchSettings, Flow, Sink, Watermarks};
use crate::model::batch::Record;
use crate::model::error::{Error, Result};
use crate::model::lane::lane_of_record;
use crate::model::offset::{Lane, Offset, OffsetRange, Partition};

fn fetch_settings(pipeline: &Attached) -> FetchSettings {
    FetchSettings {
        min_bytes: 1,
        max_record_bytes: pipeline.config.queue_bytes,
        isolation: pipeline.config.isolation,
    }
}

/// What a tick would read now, from where the sensors are: nothing is queued, and they go on
/// meanwhile. It ends at `limits::PREVIEW_LIMIT` or so many records; then each partition has a share.
///
/// # Errors
/// `Broker` where the topic cannot be read.
pub(super) fn preview(pipeline: &Attached) -> Result<Preview> {
    let began = Instant::now();
    let topic = &pipeline.topic.name;
    let info = pipeline.broker.topic(topic)?;
    info.check_id(pipeline.topic.id.as_deref())?;
    let marks: BTreeMap<_, _> = pipeline
        .broker
        .watermarks(topic, &info.partitions)?
        .into_iter()
        // A tick would read nothing of a partition without a leader either.
        .filter_map(|(partition, marks)| Some((partition, marks.ok()?)))
        .collect();
    // Partitions that no sensor has seen yet begin at their beginning.
    let cursors = pipeline.ledgers.positions();
    let max_batch = pipeline.steering.settings().max_batch as u64;
    let limits = (max_batch, pipeline.config.max_batch_bytes as u64);
    let share = (limits::PREVIEW_RECORDS / marks.len().max(1) as u64).max(1);
    let mut sink = Ahead {
        partitions: BTreeMap::new(),
        limits,
        share,
        left: limits::PREVIEW_RECORDS,
        failed: None,
    };
    for (partition, marks) in &marks {
        let cursor = cursors.get(partition).copied().unwrap_or(marks.beginning);
        sink.partitions.insert(*partition, Seen::new(cursor, *marks));
    }
    let unread = |seen: &&Seen| seen.next < seen.marks.end;
    let from: Vec<(Partition, Offset)> = sink
        .partitions
        .iter()
        .filter(|(_, seen)| unread(seen))
        .map(|(p, s)| (*p, s.next))
        .collect();
    if !from.is_empty() {
        let mut consumer = pipeline.broker.consumer(topic, &from, &fetch_settings(pipeline))?;
        let polled = sink.poll(consumer.as_mut(), began + limits::PREVIEW_LIMIT);
        consumer.close();
        polled?;
    }
    let more = sink.partitions.values().any(|seen| unread(&seen));
    let all = sink.partitions.len() <= limits::PREVIEW_PARTITIONS;
    let shown = sink.partitions.into_iter().filter(|(_, seen)| all || seen.records > 0);
    let partitions = shown.map(|(partition, seen)| seen.into_view(partition)).collect();
    Ok(Preview { partitions, more, took_ms: began.elapsed().as_secs_f64() * 1000.0 })
}

/// One partition's part of a preview.
struct Seen {
    cursor: Offset,
    next: Offset,
    marks: Watermarks,
    records: u64,
    bytes: u64,
    /// Batches begun, with records and bytes of the last one.
    batches: u64,
    last: (u64, u64),
    first: Vec<Value>,
    paused: bool,
}

impl Seen {
    fn new(cursor: Offset, marks: Watermarks) -> Seen {
        // What retention took in front of the cursor is not there to be read.
        let next = cursor.max(marks.beginning);
        let (records, bytes, batches, last) = (0, 0, 0, (0, 0));
        Seen {
            cursor,
            next,
            marks,
            records,
            bytes,
            batches,
            last,
            first: Vec::new(),
            paused: false,
        }
    }

    fn take(&mut self, partition: Partition, record: &Record<'_>, limits: (u64, u64)) {
        let bytes = record.payload_bytes() as u64;
        let (records_before, bytes_before) = self.last;
        let is_full = records_before >= limits.0
            || bytes_before >= limits.1
            || bytes_before + bytes > limits.1;
        if self.batches == 0 || is_full {
            self.batches += 1;
            self.last = (0, 0);
        }
        self.last = (self.last.0 + 1, self.last.1 + bytes);
        self.records += 1;
        self.bytes += bytes;
        self.next = record.offset.next();
        if self.first.len() < limits::PREVIEW_SHOWN_RECORDS {
            self.first.push(shown(partition, record));
        }
    }

    fn into_view(self, partition: Partition) -> PreviewPartition {
        PreviewPartition {
            partition,
            cursor: self.cursor.get(),
            next: self.next.get(),
            records: self.records,
            bytes: self.bytes,
            batches: self.batches,
            first: self.first,
        }
    }
}

/// Counts what comes, at most so much of each partition.
struct Ahead {
    partitions: BTreeMap<Partition, Seen>,
    limits: (u64, u64),
    share: u64,
    left: u64,
    /// Why a partition could not be read on.
    failed: Option<Error>,
}

impl Ahead {
    fn poll(&mut self, consumer: &mut dyn Consumer, until: Instant) -> Result<()> {
        while self.left > 0 && self.partitions.values().any(|seen| seen.wants(self.share)) {
            let wait = until.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                break;
            }
            consumer.poll(wait.min(limits::STOP_LOOK_INTERVAL), self)?;
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            // What has its share keeps nobody else waiting.
            for (partition, seen) in &mut self.partitions {
                if seen.records >= self.share && !seen.paused && seen.next < seen.marks.end {
                    consumer.pause(*partition)?;
                    seen.paused = true;
                }
            }
        }
        Ok(())
    }
}

impl Seen {
    fn wants(&self, share: u64) -> bool {
        self.records < share && self.next < self.marks.end
    }
}

impl Sink for Ahead {
    fn record(&mut self, partition: Partition, record: Record<'_>) -> Flow {
        let Some(seen) = self.partitions.get_mut(&partition) else { return Flow::Continue };
        if seen.wants(self.share) && record.offset >= seen.next {
            seen.take(partition, &record, self.limits);
            self.left -= 1;
        }
        if self.left == 0 { Flow::Stop } else { Flow::Continue }
    }

    fn position(&mut self, partition: Partition, next: Offset) {
        // Past a full share there may be records that were not counted.
        if let Some(seen) =
            self.partitions.get_mut(&partition).filter(|seen| seen.wants(self.share))
        {
            seen.next = seen.next.max(next);
        }
    }

    fn failed(&mut self, _partition: Partition, error: Error) -> Flow {
        self.failed = Some(error);
        Flow::Stop
    }
}

/// The first records of a run, read again from the log.
///
/// # Errors
/// `Broker` where the topic cannot be read; what the log has no more is said in the answer.
pub(super) fn records(pipeline: &Attached, place: &Place) -> Result<Records> {
    let nothing =
        |note: String| Records { records: Vec::new(), of: place.records, note: Some(note) };
    let topic = &pipeline.topic.name;
    let is_embedded = pipeline.broker.backend() == Backend::Embedded;
    if place.topic != *topic || place.embedded != is_embedded {
        return Ok(nothing(format!(
            "the run is of topic {}{}; this mb reads {topic}, and cannot look there",
            place.topic,
            if place.embedded == is_embedded { "" } else { " of another log" }
        )));
    }
    let info = pipeline.broker.topic(topic)?;
    if place.cluster_id != info.cluster_id.clone().unwrap_or_default() {
        return Ok(nothing("the run is of another cluster than this mb reads".to_owned()));
    }
    if place.topic_id != info.id.clone().unwrap_or_default() {
        return Ok(nothing(format!(
            "topic {topic} was deleted and made again since: its offsets mean other records now"
        )));
    }
    if !info.partitions.contains(&place.partition) {
        return Ok(nothing(format!("topic {topic} has no partition {} any more", place.partition)));
    }
    let marks = pipeline.broker.watermarks_of(topic, place.partition)?;
    let range = place.range;
    if marks.beginning > range.last {
        return Ok(nothing(format!(
            "retention has removed them: the log of partition {} begins at {} now",
            place.partition, marks.beginning
        )));
    }
    if marks.end <= range.first {
        return Ok(nothing(format!(
            "the log of partition {} ends at {}, in front of them: its end was cut off",
            place.partition, marks.end
        )));
    }
    let mut sink = Again {
        partition: place.partition,
        range,
        lane: place.lane,
        next: range.first.max(marks.beginning),
        records: Vec::new(),
        is_full: false,
        failed: None,
    };
    let from = [(place.partition, sink.next)];
    let mut consumer = pipeline.broker.consumer(topic, &from, &fetch_settings(pipeline))?;
    let polled = sink.poll(consumer.as_mut(), marks.end, limits::RECORDS_LIMIT);
    consumer.close();
    polled?;
    let note = note(place, marks, &sink);
    Ok(Records { records: sink.records, of: place.records, note })
}

/// Why not all are there, where they are not.
fn note(place: &Place, marks: Watermarks, sink: &Again) -> Option<String> {
    let found = sink.records.len() as u64;
    if marks.beginning > place.range.first {
        let gone = OffsetRange::below(marks.beginning, place.range.first);
        return Some(format!("retention has removed those at {gone}: the log begins behind them"));
    }
    if sink.is_full {
        return None;
    }
    if !sink.is_read(marks.end) {
        return Some(format!(
            "the log did not give all of them within {:?}",
            limits::RECORDS_LIMIT
        ));
    }
    if place.is_redrive && found > place.records {
        return Some(format!(
            "the run was a redrive: of these offsets it had the {} that were dead letters",
            place.records
        ));
    }
    if found < place.records {
        return Some(format!(
            "{} of them are not in the log any more (compaction), or hidden from this client",
            place.records - found
        ));
    }
    (found > place.records).then(|| {
        format!("the run had {} of these: others of its range were done before it", place.records)
    })
}

/// The records of a range, a lane's only.
struct Again {
    partition: Partition,
    range: OffsetRange,
    lane: Lane,
    /// All below it was seen.
    next: Offset,
    records: Vec<Value>,
    is_full: bool,
    failed: Option<Error>,
}

impl Again {
    fn is_read(&self, end: Offset) -> bool {
        self.next > self.range.last || self.next >= end
    }

    fn poll(&mut self, consumer: &mut dyn Consumer, end: Offset, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        while !self.is_full && !self.is_read(end) {
            let wait = until.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                break;
            }
            consumer.poll(wait.min(limits::STOP_LOOK_INTERVAL), self)?;
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Sink for Again {
    fn record(&mut self, partition: Partition, record: Record<'_>) -> Flow {
        if partition != self.partition || record.offset < self.next {
            return Flow::Continue;
        }
        self.next = record.offset.next();
        if record.offset > self.range.last {
            return Flow::Stop;
        }
        let Lane { index, count } = self.lane;
        if count > 1 && lane_of_record(&record, count) != index {
            return Flow::Continue;
        }
        if self.records.len() == limits::SHOWN_RECORDS {
            self.is_full = true;
            return Flow::Stop;
        }
        self.records.push(shown(partition, &record));
        Flow::Continue
    }

    fn position(&mut self, partition: Partition, next: Offset) {
        if partition == self.partition && !self.is_full {
            self.next = self.next.max(next);
        }
    }

    fn failed(&mut self, _partition: Partition, error: Error) -> Flow {
        self.failed = Some(error);
        Flow::Stop
    }
}

/// A record for people: text as text, other bytes in base64, long ones cut.
fn shown(partition: Partition, record: &Record<'_>) -> Value {
    let mut map = Map::new();
    map.insert("partition".into(), json!(partition));
    map.insert("offset".into(), json!(record.offset.get()));
    map.insert("timestamp_ms".into(), json!(record.timestamp));
    entry(&mut map, "key", "key_base64", "cut_key_bytes", record.key);
    entry(&mut map, "value", "value_base64", "cut_bytes", record.value);
    Value::Object(map)
}

fn entry(
    map: &mut Map<String, Value>,
    text_name: &str,
    base64_name: &str,
    cut_name: &str,
    bytes: Option<&[u8]>,
) {
    let Some(bytes) = bytes else {
        map.insert(text_name.into(), Value::Null);
        return;
    };
    let (part, text) = cut(bytes);
    match text {
        Some(text) => map.insert(text_name.into(), json!(text)),
        None => map.insert(base64_name.into(), json!(STANDARD.encode(part))),
    };
    if part.len() < bytes.len() {
        map.insert(cut_name.into(), json!(bytes.len() - part.len()));
    }
}

/// What is shown of some bytes, and the same as text where it is that; no character is cut in two.
fn cut(bytes: &[u8]) -> (&[u8], Option<&str>) {
    let part = &bytes[..bytes.len().min(limits::SHOWN_VALUE_BYTES)];
    match std::str::from_utf8(part) {
        Ok(text) => (part, Some(text)),
        Err(error) if error.error_len().is_none() && part.len() < bytes.len() => {
            let whole = &part[..error.valid_up_to()];
            (whole, std::str::from_utf8(whole).ok())
        }
        Err(_) => (part, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(value: &[u8]) -> Value {
        let record = Record { offset: Offset::new(7), value: Some(value), ..Record::default() };
        shown(2, &record)
    }

    #[test]
    fn a_record_is_shown_as_text_or_base64_and_cut_where_it_is_long() {
        let short = record(b"a \x1b[1m");
        assert_eq!((&short["partition"], &short["offset"]), (&json!(2), &json!(7)));
        assert_eq!((&short["value"], &short["key"]), (&json!("a \u{1b}[1m"), &Value::Null));
        assert_eq!(short.get("cut_bytes"), None);
        assert_eq!(record(b"\xfe")["value_base64"], "/g==");
        let long = record(&vec![b'x'; limits::SHOWN_VALUE_BYTES + 5]);
        assert_eq!(long["cut_bytes"], 5);
        assert_eq!(long["value"].as_str().map(str::len), Some(limits::SHOWN_VALUE_BYTES));
        // The last character that fits lies across the edge.
        let text = format!("x{}", "ü".repeat(limits::SHOWN_VALUE_BYTES));
        let cut = record(text.as_bytes());
        assert_eq!(cut["value"].as_str().map(str::len), Some(limits::SHOWN_VALUE_BYTES - 1));
        let left = text.len() - (limits::SHOWN_VALUE_BYTES - 1);
        assert_eq!(cut["cut_bytes"], left as u64);
        assert_eq!(record(b"end \xc3").get("value"), None, "half a character is no text");
    }

    #[test]
    fn batches_are_counted_as_they_would_be_cut() {
        let marks = Watermarks { beginning: Offset::ZERO, end: Offset::new(100) };
        let mut seen = Seen::new(Offset::ZERO, marks);
        let take = |seen: &mut Seen, bytes: usize| {
            let value = vec![b'x'; bytes];
            let record = Record { offset: seen.next, value: Some(&value), ..Record::default() };
            seen.take(0, &record, (3, 10));
            seen.batches
        };
        let batches: Vec<u64> =
            [1, 1, 1, 1, 9, 2, 20, 1].iter().map(|bytes| take(&mut seen, *bytes)).collect();
        assert_eq!(batches, [1, 1, 1, 2, 2, 3, 4, 5]);
        assert_eq!((seen.records, seen.bytes, seen.first.len()), (8, 36, 5));
    }
}

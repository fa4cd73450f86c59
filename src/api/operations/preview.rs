//! What a tick would read now, read beside the sensors without touching them. Nothing is queued.

use std::collections::BTreeMap;
use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Operation;
use crate::api::context::{Context, RunningPipeline};
use crate::api::session::Session;
use crate::config::limits;
use crate::kafka::{Consumer, Flow, Sink, Watermarks};
use crate::model::batch::Record;
use crate::model::error::{Error, Result};
use crate::model::offset::{Offset, Partition};
use crate::step::shown_record::ShownRecord;

/// What a tick would read now.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct PreviewTick {}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Preview {
    pub partitions: Vec<PreviewPartition>,
    /// The log has more than the preview looked at.
    pub more: bool,
    /// How long the preview took, in milliseconds.
    pub took_ms: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PreviewPartition {
    pub partition: i32,
    /// The offset that a tick starts at.
    pub cursor: i64,
    /// The offset after the last record that was seen; the cursor if there was none.
    pub next: i64,
    pub records: u64,
    pub bytes: u64,
    /// How many batches the records would make.
    pub batches: u64,
    /// The first few records.
    pub first: Vec<ShownRecord>,
    /// Why the partition cannot be read on from `next`; null if it can.
    #[serde(default)]
    pub error: Option<String>,
}

impl Operation for PreviewTick {
    type Answer = Preview;

    fn perform(self, context: &Context, _: &mut Session) -> Result<Preview> {
        context.with_pipeline(preview)
    }
}

/// Reads from where the sensors are, until `limits::PREVIEW_LIMIT` is over or each partition has had its share
/// of `limits::PREVIEW_RECORDS`. The sensors go on meanwhile.
///
/// # Errors
/// `Broker` if the topic cannot be read.
fn preview(pipeline: &RunningPipeline) -> Result<Preview> {
    let began = Instant::now();
    let topic = &pipeline.engine.topic.name;
    let info = pipeline.engine.broker.topic(topic)?;
    info.check_id(pipeline.engine.topic.id.as_deref())?;
    let marks = pipeline.engine.broker.watermarks(topic, &info.partitions)?;
    // A tick reads nothing of a partition without a leader either.
    let marks: BTreeMap<_, _> =
        marks.into_iter().filter_map(|(partition, marks)| Some((partition, marks.ok()?))).collect();
    // A partition that no sensor has seen yet begins at its log's first offset.
    let cursors = pipeline.engine.ledgers.positions();
    let max_batch = pipeline.engine.steering.settings().max_batch as u64;
    let limits = (max_batch, pipeline.engine.config.max_batch_bytes as u64);
    let share = (limits::PREVIEW_RECORDS / marks.len().max(1) as u64).max(1);
    let mut sink =
        Counter { partitions: BTreeMap::new(), limits, share, left: limits::PREVIEW_RECORDS };
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
        let mut consumer =
            pipeline.engine.broker.consumer(topic, &from, &pipeline.fetch_settings())?;
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

/// What the preview has seen of one partition.
struct Seen {
    cursor: Offset,
    next: Offset,
    marks: Watermarks,
    records: u64,
    bytes: u64,
    /// Batches so far, and records and bytes of the last one.
    batches: u64,
    last: (u64, u64),
    first: Vec<ShownRecord>,
    paused: bool,
    /// Why it cannot be read on.
    error: Option<String>,
}

impl Seen {
    fn new(cursor: Offset, marks: Watermarks) -> Seen {
        // What retention has removed above the cursor cannot be read.
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
            error: None,
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
            self.first.push(ShownRecord::of(partition, record));
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
            error: self.error,
        }
    }
}

/// Counts records, at most `share` of each partition.
struct Counter {
    partitions: BTreeMap<Partition, Seen>,
    limits: (u64, u64),
    share: u64,
    left: u64,
}

impl Counter {
    fn poll(&mut self, consumer: &mut dyn Consumer, until: Instant) -> Result<()> {
        while self.left > 0 && self.partitions.values().any(|seen| seen.wants(self.share)) {
            let wait = until.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                break;
            }
            consumer.poll(wait.min(limits::STOP_LOOK_INTERVAL), self)?;
            // A partition that has its share is paused, so that it does not keep the others waiting.
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
        self.error.is_none() && self.records < share && self.next < self.marks.end
    }
}

impl Sink for Counter {
    fn record(&mut self, partition: Partition, record: Record<'_>) -> Flow {
        let Some(seen) = self.partitions.get_mut(&partition) else { return Flow::Continue };
        if seen.wants(self.share) && record.offset >= seen.next {
            seen.take(partition, &record, self.limits);
            self.left -= 1;
        }
        if self.left == 0 { Flow::Stop } else { Flow::Continue }
    }

    fn position(&mut self, partition: Partition, next: Offset) {
        // Beyond a full share there may be records that were not counted.
        if let Some(seen) =
            self.partitions.get_mut(&partition).filter(|seen| seen.wants(self.share))
        {
            seen.next = seen.next.max(next);
        }
    }

    fn failed(&mut self, partition: Partition, error: Error) -> Flow {
        if let Some(seen) = self.partitions.get_mut(&partition) {
            seen.error = Some(error.to_string());
        }
        Flow::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

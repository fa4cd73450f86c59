//! The records of a run, for people: those at which it failed from the history, the others from the log, which is read
//! once more.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Operation;
use crate::api::context::{Context, RunningPipeline};
use crate::api::session::Session;
use crate::config::limits;
use crate::history::dead_letters::{self, KeptRecord};
use crate::history::requests::{self, Place};
use crate::kafka::{Backend, Consumer, Flow, Sink, Watermarks};
use crate::model::batch::Record;
use crate::model::error::{Error, Result};
use crate::model::lane::lane_of_record;
use crate::model::offset::{Lane, Offset, OffsetRange, Partition};
use crate::step::shown_record::ShownRecord;

/// The records of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadRecords {
    pub run: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Records {
    /// Those that became dead letters in this run or in those that it was split into, with their errors, as the
    /// history keeps them: the first ones, at most `limits::SHOWN_RECORDS`.
    pub failed: Vec<KeptRecord>,
    /// How many these are.
    pub failed_of: u64,
    /// The others, as the log has them now; of a redrive, as the history has them. The first ones, at most
    /// `limits::SHOWN_RECORDS`.
    pub records: Vec<ShownRecord>,
    /// How many records the run had.
    pub of: u64,
    /// Why some of them are not here: retention removed them, the topic was deleted and created again, …
    pub note: Option<String>,
}

impl Operation for ReadRecords {
    type Answer = Records;

    fn perform(self, context: &Context, session: &mut Session) -> Result<Records> {
        let history = context.history(session)?;
        let place = requests::place(history, self.run)?;
        let most = limits::SHOWN_RECORDS;
        let kept = dead_letters::kept_of_run(history, self.run, place.is_redrive, most)?;
        let failed_of = kept.failed_offsets.len() as u64;
        let of_log = if place.is_redrive && kept.of >= place.records {
            Records { records: kept.others, ..Records::default() }
        } else {
            let read = |pipeline: &RunningPipeline| records(pipeline, &place, kept.failed_offsets);
            match context.with_pipeline(read) {
                // What the history has is shown, whatever the log is like.
                Err(error) if failed_of > 0 => {
                    Records { note: Some(error.to_string()), ..Records::default() }
                }
                read => read?,
            }
        };
        Ok(Records { failed: kept.failed, failed_of, of: place.records, ..of_log })
    }
}

/// Reads a range of the log, without the records at the offsets in `kept`.
///
/// # Errors
/// `Broker` if the topic cannot be read. Records that the log does not have any more are no error: the answer's
/// note says why they are missing.
fn records(pipeline: &RunningPipeline, place: &Place, kept: BTreeSet<Offset>) -> Result<Records> {
    let nothing = |note: String| Records { note: Some(note), ..Records::default() };
    let topic = &pipeline.engine.topic.name;
    let is_embedded = pipeline.engine.broker.backend() == Backend::Embedded;
    if place.topic != *topic || place.embedded != is_embedded {
        return Ok(nothing(format!(
            "the run is of topic {}{}; this mb reads {topic}, and cannot look there",
            place.topic,
            if place.embedded == is_embedded { "" } else { " of another log" }
        )));
    }
    let info = pipeline.engine.broker.topic(topic)?;
    if place.cluster_id != info.cluster_id.clone().unwrap_or_default() {
        return Ok(nothing("the run is of another cluster than this mb reads".to_owned()));
    }
    if place.topic_id != info.id.clone().unwrap_or_default() {
        return Ok(nothing(format!(
            "topic {topic} was deleted and created again since: its offsets belong to other records now"
        )));
    }
    if !info.partitions.contains(&place.partition) {
        return Ok(nothing(format!("topic {topic} has no partition {} any more", place.partition)));
    }
    let marks = pipeline.engine.broker.watermarks_of(topic, place.partition)?;
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
    let mut sink = Collector {
        partition: place.partition,
        range,
        lane: place.lane,
        next: range.first.max(marks.beginning),
        kept,
        found: 0,
        records: Vec::new(),
        is_full: false,
        failed: None,
    };
    let from = [(place.partition, sink.next)];
    let mut consumer = pipeline.engine.broker.consumer(topic, &from, &pipeline.fetch_settings())?;
    let polled = sink.poll(consumer.as_mut(), marks.end, limits::RECORDS_LIMIT);
    consumer.close();
    polled?;
    let note = note(place, marks, &sink);
    Ok(Records { records: sink.records, note, ..Records::default() })
}

/// Why some records are missing, if some are.
fn note(place: &Place, marks: Watermarks, sink: &Collector) -> Option<String> {
    let found = sink.found;
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
            "{} of them are not in the log any more (compaction), or this client cannot see them",
            place.records - found
        ));
    }
    (found > place.records).then(|| {
        format!("the run had {} of these: others of its range were done before it", place.records)
    })
}

/// Collects the records of a range; of a lane's run only the lane's.
struct Collector {
    partition: Partition,
    range: OffsetRange,
    lane: Lane,
    /// Every offset below this was seen.
    next: Offset,
    /// Offsets of records that are shown from the history.
    kept: BTreeSet<Offset>,
    /// How many records the log has, those included.
    found: u64,
    records: Vec<ShownRecord>,
    is_full: bool,
    /// Why the partition could not be read on.
    failed: Option<Error>,
}

impl Collector {
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

impl Sink for Collector {
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
        if self.kept.contains(&record.offset) {
            self.found += 1;
            return Flow::Continue;
        }
        if self.records.len() == limits::SHOWN_RECORDS {
            self.is_full = true;
            return Flow::Stop;
        }
        self.found += 1;
        self.records.push(ShownRecord::of(partition, &record));
        Flow::Continue
    }

    fn position(&mut self, partition: Partition, next: Offset) {
        if partition == self.partition && !self.is_full {
            self.next = self.next.max(next);
        }
    }

    fn failed(&mut self, _: Partition, error: Error) -> Flow {
        self.failed = Some(error);
        Flow::Stop
    }
}

//! A replay: a range of the log is read once more, into runs of its own.

use std::sync::Arc;
use std::time::Instant;

use crate::config::limits;
use crate::history::requests::{CANCELLED, DONE};
use crate::kafka::{Consumer, Flow, Sink};
use crate::model::batch::Record;
use crate::model::budget::Permit;
use crate::model::clock;
use crate::model::error::{Class, Error, Result};
use crate::model::offset::{Offset, OffsetRange, Partition, Reprocess, RunKey};
use crate::model::run::RunId;
use crate::runs::engine::Engine;
use crate::runs::queue::Refused;
use crate::source::batcher::{Batcher, Cut};
use crate::source::claims::Claim;
use crate::source::collect::{self, Collector};
use crate::source::delivery::Outgoing;
use crate::source::partition_reader::PartitionReader;

use super::resources::{Resources, Turn};

pub(super) struct Replay {
    request: i64,
    range: OffsetRange,
    reader: PartitionReader,
    /// The newest run that was planned.
    planned: Option<RunId>,
    /// What retention removed, for the request's row.
    note: Option<String>,
    phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Reading,
    /// The whole range is in runs.
    Read,
    /// The request is over, in the history too.
    Ended,
    /// This process cannot go on, for this reason.
    Blocked(String),
    /// As `Blocked`, and this process has begun nothing: none of the runs is under way.
    NotBegun(String),
}

impl Replay {
    /// Goes on after an earlier process: its batches are made again as it cut them.
    pub(super) fn begin(
        with: &Resources,
        request: i64,
        partition: Partition,
        range: OffsetRange,
    ) -> Result<Replay> {
        log::info!("replay {request}: {}/{partition} {range} started", with.engine.topic_name);
        let backend = with.engine.broker.backend();
        let (stored, phase) = match with.requests.replayed(request, backend)? {
            Ok(stored) => (stored, Phase::Reading),
            Err(client) => {
                let why = format!(
                    "its unfinished runs were read by client {client}, and {backend} may read them \
                     differently: it waits for an mb with --client {client}"
                );
                log::error!("replay {request}: {why}");
                (Vec::new(), Phase::NotBegun(why))
            }
        };
        let batcher = Batcher::new(with.limits(), range.first, stored);
        let reader = PartitionReader::new(partition, batcher);
        Ok(Replay { request, range, reader, planned: None, note: None, phase })
    }

    /// Reads and fills the queue until `until`.
    pub(super) fn work(&mut self, with: &Resources, until: Instant) -> Result<Turn> {
        if let Some(at) = self.reader.retry_at().filter(|at| *at > clock::now()) {
            return match self.unreadable() {
                Some(why) => self.blocked(with, why),
                None => Ok(Turn::NotBefore(at)),
            };
        }
        match &self.phase {
            Phase::Reading => self.read(with, until),
            Phase::Read => self.end_if_done(with),
            Phase::Ended => Ok(Turn::Made),
            Phase::Blocked(why) => self.blocked(with, why.clone()),
            Phase::NotBegun(why) => Ok(Turn::Blocked(why.clone())),
        }
    }

    fn read(&mut self, with: &Resources, until: Instant) -> Result<Turn> {
        let mut reading = Reading { replay: self, with, until, ended: None, error: None };
        let error = reading.poll().err();
        let (error, ended) = (reading.error.take().or(error), reading.ended);
        if let Some(error) = error {
            self.failed(with, error, until);
        }
        if with.is_stopping() || ended == Some(Ended::Stopping) {
            return Ok(Turn::Stopping);
        }
        if ended == Some(Ended::NoMemory) {
            // A batch that is half read holds memory that others may wait for.
            self.reader.drop_fill();
        }
        if self.phase == Phase::Reading && self.reader.cursor() > self.range.last {
            self.phase = Phase::Read;
        }
        if let Some(why) = self.unreadable() {
            return self.blocked(with, why);
        }
        Ok(match (&self.phase, self.reader.retry_at()) {
            (Phase::Reading, Some(at)) => Turn::NotBefore(at),
            (Phase::Reading, None) => Turn::More,
            _ => Turn::Made,
        })
    }

    fn end_if_done(&mut self, with: &Resources) -> Result<Turn> {
        let history = &with.engine.history;
        if self.planned.is_some_and(|run| !history.wait_planned(run)) {
            return Ok(Turn::Stopping);
        }
        if with.requests.unfinished_runs(self.request)? == 0 {
            let (topic, partition) = (&with.engine.topic_name, self.reader.partition());
            log::info!("replay {}: {topic}/{partition} {} is done", self.request, self.range);
            history.end_request(self.request, DONE, self.note.take());
            self.phase = Phase::Ended;
        }
        Ok(Turn::Made)
    }

    /// Why it does not get past a record, which it tries again and again, but may never read here.
    fn unreadable(&self) -> Option<String> {
        let error = self.reader.unreadable_for(limits::UNREADABLE_TRIES)?;
        (self.phase == Phase::Reading).then(|| error.to_string())
    }

    /// This process cannot go on for now. Once no other run of the replay is under way, nobody here waits
    /// for it.
    fn blocked(&self, with: &Resources, why: String) -> Result<Turn> {
        if self.planned.is_some_and(|run| !with.engine.history.wait_planned(run)) {
            return Ok(Turn::Stopping);
        }
        let is_under_way = with.requests.unfinished_runs(self.request)? > self.reader.unmade_runs();
        Ok(if is_under_way { Turn::Made } else { Turn::Blocked(why) })
    }

    fn failed(&mut self, with: &Resources, error: Error, until: Instant) {
        if matches!(error, Error::OffsetOutOfRange { .. }) {
            self.out_of_range(with, error, until);
        } else if error.class() == Class::Retry {
            self.reader.fail(error, clock::now());
        } else {
            self.cancel(with, &error.to_string());
        }
    }

    /// Goes on behind records that retention removed.
    fn out_of_range(&mut self, with: &Resources, error: Error, until: Instant) {
        let (topic, partition) = (&with.engine.topic_name, self.reader.partition());
        let at = self.reader.read_position();
        let marks = match with.engine.broker.watermarks_of(topic, partition) {
            Ok(marks) => marks,
            Err(error) => return self.reader.fail(error, clock::now()),
        };
        let is_about_this = matches!(error, Error::OffsetOutOfRange { offset, .. } if offset == at);
        if is_about_this && at > marks.end {
            return self.cancel(with, &error.to_string());
        }
        if !is_about_this || at >= marks.beginning {
            // It is in the log by now; or the client has named an offset that nobody asked for (see `claims`).
            let doing = format!("read {topic}/{partition} at {at}");
            return self.reader.fail(Error::broker(doing, "offset out of range"), clock::now());
        }
        let last = marks.beginning.get().min(self.range.end().get()) - 1;
        let text = format!(
            "{topic}/{partition} {at}-{last} were removed from the log (retention) before they could be \
             read"
        );
        log::warn!("replay {}: {text}: they are skipped", self.request);
        let note = self.note.take().map_or(String::new(), |note| format!("{note}; "));
        self.note = Some(note + &text);
        let mut reading = Reading { replay: self, with, until, ended: None, error: None };
        // The records before the gap are a batch of their own.
        if let Some(cut) = reading.replay.reader.cut_now()
            && reading.deliver(partition, cut) == Flow::Stop
        {
            return;
        }
        self.reader.skip_to(marks.beginning);
        let mut reading = Reading { replay: self, with, until, ended: None, error: None };
        reading.position(partition, marks.beginning);
    }

    fn cancel(&mut self, with: &Resources, why: &str) {
        log::error!("replay {}: {why}; it is cancelled", self.request);
        with.engine.history.end_request(self.request, CANCELLED, Some(why.to_owned()));
        self.phase = Phase::Ended;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// The range is read, or the turn is over.
    Turn,
    NoMemory,
    Stopping,
}

/// One turn: a fresh consumer, as a sensor's tick has one.
struct Reading<'a> {
    replay: &'a mut Replay,
    with: &'a Resources,
    until: Instant,
    ended: Option<Ended>,
    /// The partition's own error.
    error: Option<Error>,
}

impl Reading<'_> {
    fn poll(&mut self) -> Result<()> {
        let start = self.replay.reader.begin_reading(clock::now());
        if self.is_read() {
            return Ok(());
        }
        let engine = &self.with.engine;
        let from = [(self.replay.reader.partition(), start)];
        let mut consumer = engine.broker.consumer(&engine.topic_name, &from, &self.with.fetch)?;
        let result = self.poll_until_over(consumer.as_mut());
        consumer.close();
        result
    }

    fn poll_until_over(&mut self, consumer: &mut dyn Consumer) -> Result<()> {
        while self.ended.is_none() && !self.is_read() {
            let left = self.until.saturating_duration_since(clock::now());
            if left.is_zero() || self.with.is_stopping() {
                break;
            }
            consumer.poll(left.min(limits::STOP_LOOK_INTERVAL), self)?;
        }
        Ok(())
    }

    fn is_read(&self) -> bool {
        self.replay.reader.cursor() > self.replay.range.last
    }

    fn end(&mut self, why: Ended) -> Flow {
        self.ended.get_or_insert(why);
        Flow::Stop
    }

    /// The last record of the range was seen, or the log has none of it any more.
    fn finish(&mut self) -> Flow {
        let partition = self.replay.reader.partition();
        if collect::passed(self, partition, self.replay.range.end()) == Flow::Continue {
            if let Some(cut) = self.replay.reader.cut_now() {
                self.deliver(partition, cut);
            }
            self.replay.reader.advance();
        }
        Flow::Stop
    }
}

impl Collector for Reading<'_> {
    fn engine(&self) -> &Arc<Engine> {
        &self.with.engine
    }

    fn reader(&mut self, _partition: Partition) -> Option<&mut PartitionReader> {
        Some(&mut self.replay.reader)
    }

    /// If there is no memory, the batch being filled becomes a run as it is; then memory is waited for.
    fn memory(&mut self, partition: Partition, record: &Record<'_>) -> Result<Permit, Flow> {
        let budget = Arc::clone(&self.with.engine.budget);
        let needs = self.replay.reader.needs(record);
        if let Some(permit) = budget.try_acquire(needs) {
            return Ok(permit);
        }
        if let Some(cut) = self.replay.reader.cut_now()
            && self.deliver(partition, cut) == Flow::Stop
        {
            return Err(Flow::Stop);
        }
        let reader = &mut self.replay.reader;
        reader.grow_tightly();
        let needs = reader.needs(record);
        let whole = reader.held_bytes() + needs;
        if whole > budget.limit() {
            let why = format!(
                "the record at {} needs {whole} bytes, more than --queue-bytes ({}) has: it waits for an \
                 mb with a larger --queue-bytes",
                record.offset,
                budget.limit()
            );
            log::error!("replay {}: {why}", self.replay.request);
            self.replay.phase = Phase::Blocked(why);
            return Err(self.end(Ended::NoMemory));
        }
        budget.acquire_until(needs, self.until).ok_or_else(|| self.end(Ended::NoMemory))
    }

    fn deliver(&mut self, partition: Partition, cut: Cut) -> Flow {
        let range = cut.range();
        let engine = &self.with.engine;
        let reprocess = Some(Reprocess::Replay(self.replay.request));
        let key = |range, _| {
            let topic = Arc::clone(&engine.topic_name);
            RunKey { reprocess, ..RunKey::new(topic, partition, range) }
        };
        let mut planned = Vec::new();
        let mut outgoing = Outgoing::new(partition, (cut, None), 1, key, &mut planned);
        if !planned.is_empty() {
            let Some(run) = engine.history.plan(planned) else { return self.end(Ended::Stopping) };
            self.replay.planned = Some(run);
            outgoing.number(&mut (run.0..).map(RunId));
            outgoing.stored.registered = true;
        }
        let push = |run| engine.queue.push(run, self.until, &self.with.stop);
        match outgoing.push(key, push) {
            Ok(delivered) => {
                self.replay.reader.accepted(range);
                engine.live.records_in.add(delivered.records);
                Flow::Continue
            }
            Err((stored, refused)) => {
                self.replay.reader.refused(stored);
                self.end(match refused {
                    Refused::Full => Ended::Turn,
                    Refused::Stopping => Ended::Stopping,
                })
            }
        }
    }

    fn now(&self) -> Instant {
        clock::now()
    }
}

impl Sink for Reading<'_> {
    fn record(&mut self, partition: Partition, record: Record<'_>) -> Flow {
        if self.ended.is_some() || self.is_read() {
            return Flow::Stop;
        }
        if partition != self.replay.reader.partition() {
            return Flow::Continue;
        }
        if record.offset > self.replay.range.last {
            return match collect::believe(self, partition, Claim::Record(record.offset)) {
                Ok(()) => self.finish(),
                Err(flow) => flow,
            };
        }
        match collect::record(self, partition, record) {
            Flow::Continue if record.offset == self.replay.range.last => self.finish(),
            flow => flow,
        }
    }

    fn position(&mut self, partition: Partition, next: Offset) {
        if partition != self.replay.reader.partition() || self.ended.is_some() || self.is_read() {
            return;
        }
        if next > self.replay.range.last {
            if collect::believe(self, partition, Claim::Position(next)).is_ok() {
                self.finish();
            }
        } else {
            collect::passed(self, partition, next);
            self.replay.reader.advance();
        }
    }

    fn failed(&mut self, partition: Partition, error: Error) -> Flow {
        let error = collect::believable(self, partition, error);
        self.error.get_or_insert(error);
        self.end(Ended::Turn)
    }
}

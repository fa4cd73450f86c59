//! A replay: a range of the log is read once more, into runs of its own.

use std::sync::Arc;
use std::time::Instant;

use crate::config::limits;
use crate::history::Planned;
use crate::history::requests::{CANCELLED, DONE};
use crate::kafka::{Consumer, Flow, Sink};
use crate::model::batch::Record;
use crate::model::budget::Permit;
use crate::model::clock;
use crate::model::error::{Class, Error, Result};
use crate::model::live::Trouble;
use crate::model::offset::{Again, Lane, Offset, OffsetRange, Partition, RunKey};
use crate::model::run::{Run, RunId};
use crate::model::stored::{Part, Stored};
use crate::runs::queue::Refused;
use crate::source::batcher::{Batcher, Cut, Identity};

use super::{Requests, Turn};

pub(super) struct Replay {
    request: i64,
    partition: Partition,
    range: OffsetRange,
    batcher: Batcher,
    /// Below it nothing is in the log any more, as far as is known.
    beginning: Offset,
    /// The newest run that was planned.
    planned: Option<RunId>,
    /// What retention took, for the request's row.
    note: Option<String>,
    state: State,
    /// Why this process cannot go on with it, where it cannot.
    blocked: String,
    /// A record that could not be read: its offset, how often, and why.
    unreadable: Option<(Offset, u32, String)>,
    trouble: Trouble,
    failures: u32,
    not_before: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Reading,
    /// All of the range is in runs.
    Read,
    /// The request was told to be over.
    Ended,
    /// This process cannot go on with it; `blocked` says why.
    Blocked,
    /// As `Blocked`, and it has not begun: none of its runs is under way.
    Foreign,
}

const WHAT: &str = "reading the topic for a replay";

impl Replay {
    /// Goes on where an earlier process ended: its batches come again as it cut them.
    pub(super) fn begin(
        with: &Requests,
        request: i64,
        partition: Partition,
        range: OffsetRange,
    ) -> Result<Replay> {
        log::info!("replay {request}: {}/{partition} {range} taken on", with.engine.topic_name);
        let mut blocked = String::new();
        let (stored, state) = match with.reader.replayed(request, with.engine.broker.backend())? {
            Ok(stored) => (stored, State::Reading),
            Err(client) => {
                blocked = format!(
                    "its unfinished runs were read by client {client}, which {} cannot stand in for: it \
                     waits for an mb with --client {client}",
                    with.engine.broker.backend()
                );
                log::error!("replay {request}: {blocked}");
                (Vec::new(), State::Foreign)
            }
        };
        Ok(Replay {
            request,
            partition,
            range,
            batcher: Batcher::new(with.limits(), range.first, stored),
            beginning: range.first,
            planned: None,
            note: None,
            state,
            blocked,
            unreadable: None,
            trouble: Trouble::default(),
            failures: 0,
            not_before: None,
        })
    }

    pub(super) fn work(&mut self, with: &Requests, until: Instant) -> Result<Turn> {
        if let Some(at) = self.not_before.filter(|at| *at > clock::now()) {
            return match self.unreadable() {
                Some(why) => self.blocked(with, why),
                None => Ok(Turn::NotBefore(at)),
            };
        }
        match self.state {
            State::Reading => self.read(with, until),
            State::Read => self.end_if_done(with),
            State::Ended => Ok(Turn::Made),
            State::Blocked => self.blocked(with, self.blocked.clone()),
            State::Foreign => Ok(Turn::Blocked(self.blocked.clone())),
        }
    }

    fn read(&mut self, with: &Requests, until: Instant) -> Result<Turn> {
        let mut tick = Tick { replay: self, with, until, ended: None, failed: None };
        match tick.poll() {
            Ok(()) => {}
            Err(error) => tick.replay.failed(with, error)?,
        }
        let ended = tick.ended;
        if self.failures == 0 {
            self.trouble.end(WHAT);
        }
        if with.is_stopping() || ended == Some(Ended::Stopping) {
            return Ok(Turn::Stopping);
        }
        if ended == Some(Ended::NoMemory) {
            // What is half read holds memory that others may wait for.
            self.batcher.drop_fill();
        }
        if self.state == State::Reading && self.batcher.cursor() > self.range.last {
            self.state = State::Read;
        }
        if let Some(why) = self.unreadable() {
            return self.blocked(with, why);
        }
        match (self.state, self.not_before) {
            (State::Reading, Some(at)) => Ok(Turn::NotBefore(at)),
            (State::Reading, None) => Ok(Turn::More),
            _ => Ok(Turn::Made),
        }
    }

    fn end_if_done(&mut self, with: &Requests) -> Result<Turn> {
        if let Some(run) = self.planned
            && !with.engine.history.wait_planned(run)
        {
            return Ok(Turn::Stopping);
        }
        if with.reader.left(self.request)? == 0 {
            log::info!(
                "replay {}: {}/{} {} is done",
                self.request,
                with.engine.topic_name,
                self.partition,
                self.range
            );
            with.engine.history.end_request(self.request, DONE, self.note.take());
            self.state = State::Ended;
        }
        Ok(Turn::Made)
    }

    /// Why it does not come past a record: it is tried again, but may never be readable here.
    fn unreadable(&self) -> Option<String> {
        let (offset, tries, why) = self.unreadable.as_ref()?;
        let stands = *tries >= limits::UNREADABLE_TRIES && self.position() <= *offset;
        (stands && self.state == State::Reading).then(|| why.clone())
    }

    /// Where the runs that are left are those that cannot be made here, nobody waits for them.
    fn blocked(&self, with: &Requests, why: String) -> Result<Turn> {
        if let Some(run) = self.planned
            && !with.engine.history.wait_planned(run)
        {
            return Ok(Turn::Stopping);
        }
        let is_under_way = with.reader.left(self.request)? > self.batcher.unmade_runs();
        Ok(if is_under_way { Turn::Made } else { Turn::Blocked(why) })
    }

    fn failed(&mut self, with: &Requests, error: Error) -> Result<()> {
        if matches!(error, Error::OffsetOutOfRange { .. }) {
            return self.out_of_range(with, &error);
        }
        if error.class() != Class::Retry {
            self.cancel(with, &error.to_string());
            return Ok(());
        }
        if let Error::Unreadable { offset, .. } = &error {
            let known = self.unreadable.take().filter(|(known, ..)| known == offset);
            let tries = known.map_or(1, |(_, tries, _)| tries.saturating_add(1));
            self.unreadable = Some((*offset, tries, error.to_string()));
        }
        self.trouble.begin(WHAT, &error.to_string());
        self.failures += 1;
        let pause = limits::SENSOR_BACKOFF.pause(self.failures, fastrand::f64());
        self.not_before = Some(clock::now() + pause);
        Ok(())
    }

    fn out_of_range(&mut self, with: &Requests, error: &Error) -> Result<()> {
        let at = self.position();
        let marks = match with.engine.broker.watermarks_of(&with.engine.topic_name, self.partition)
        {
            Ok(marks) => marks,
            Err(error) => return self.failed(with, error),
        };
        match marks {
            marks if at < marks.beginning => {
                let last = marks.beginning.get().min(self.range.end().get()) - 1;
                let text = format!(
                    "{}/{} {at}-{last} were removed from the log (retention) before they could be \
                     read",
                    with.engine.topic_name, self.partition
                );
                log::warn!("replay {}: {text}: they are passed over", self.request);
                let note = self.note.take().map_or(String::new(), |note| format!("{note}; "));
                self.note = Some(note + &text);
                self.batcher.drop_fill();
                self.beginning = marks.beginning;
                let until = clock::now() + limits::REQUEST_TURN;
                let mut tick = Tick { replay: self, with, until, ended: None, failed: None };
                tick.position(tick.replay.partition, marks.beginning);
            }
            marks if at > marks.end => self.cancel(with, &error.to_string()),
            _ => self.not_before = Some(clock::now() + limits::SENSOR_BACKOFF.first),
        }
        Ok(())
    }

    fn cancel(&mut self, with: &Requests, why: &str) {
        log::error!("replay {}: {why}; it is given up on", self.request);
        with.engine.history.end_request(self.request, CANCELLED, Some(why.to_owned()));
        self.state = State::Ended;
    }

    /// Where a fresh consumer starts.
    fn position(&self) -> Offset {
        self.batcher.read_position().max(self.beginning)
    }

    fn key(&self, with: &Requests, range: OffsetRange) -> RunKey {
        let again = Some(Again::Replay(self.request));
        RunKey { again, ..RunKey::new(Arc::clone(&with.engine.topic_name), self.partition, range) }
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
struct Tick<'a> {
    replay: &'a mut Replay,
    with: &'a Requests,
    until: Instant,
    ended: Option<Ended>,
    /// Why the partition could not be read on.
    failed: Option<Error>,
}

impl Tick<'_> {
    fn poll(&mut self) -> Result<()> {
        self.replay.not_before = None;
        self.replay.batcher.skip_finished();
        if self.is_read() {
            return Ok(());
        }
        let from = [(self.replay.partition, self.replay.position())];
        let with = self.with;
        let mut consumer =
            with.engine.broker.consumer(&with.engine.topic_name, &from, &with.fetch)?;
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
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            self.replay.failures = 0;
        }
        Ok(())
    }

    fn is_read(&self) -> bool {
        self.replay.batcher.cursor() > self.replay.range.last
    }

    fn end(&mut self, why: Ended) -> Flow {
        self.ended.get_or_insert(why);
        Flow::Stop
    }

    fn deliver(&mut self, cut: Cut) -> Flow {
        let range = cut.range();
        let records = cut.batch.len();
        let (mut stored, batches) = match cut.identity {
            Identity::Again(stored) => {
                let batches = stored.divide(cut.batch);
                (stored, batches)
            }
            Identity::Fresh(range) => {
                let key = self.replay.key(self.with, range);
                let planned = Planned::whole(key, records, cut.batch.payload_bytes());
                let Some(run) = self.with.engine.history.plan(vec![planned]) else {
                    return self.end(Ended::Stopping);
                };
                self.replay.planned = Some(run);
                let part = Part { run, range, lane: Lane::WHOLE, failed_attempts: 0 };
                (Stored { range, parts: vec![part], registered: true }, vec![cut.batch])
            }
        };
        let permit = Arc::new(cut.permit);
        for batch in batches {
            let part = stored.parts[0];
            let run = Run {
                id: part.run,
                key: self.replay.key(self.with, part.range),
                whole: range,
                batch,
                permit: Arc::clone(&permit),
                failed_attempts: part.failed_attempts,
                queued: clock::now(),
            };
            if let Err(refused) = self.with.engine.queue.push(run, self.until, &self.with.stop) {
                self.replay.batcher.refused(stored);
                return self.end(match refused {
                    Refused::Full => Ended::Turn,
                    Refused::Stopping => Ended::Stopping,
                });
            }
            stored.parts.remove(0);
        }
        self.replay.batcher.accepted(range);
        self.with.engine.live.records_in.add(records as u64);
        Flow::Continue
    }

    /// Memory for the next record; what is being filled is a batch as it is where there is none.
    fn memory(&mut self, record: &Record<'_>) -> Option<Permit> {
        let needs = self.replay.batcher.needs(record);
        if let Some(permit) = self.with.engine.budget.try_acquire(needs) {
            return Some(permit);
        }
        if let Some(cut) = self.replay.batcher.cut_now()
            && self.deliver(cut) == Flow::Stop
        {
            return None;
        }
        self.replay.batcher.grow_tightly();
        let needs = self.replay.batcher.needs(record);
        let whole = self.replay.batcher.held() + needs;
        if whole > self.with.engine.budget.limit() {
            let cause = format!(
                "the record at {} needs {whole} bytes, more than --queue-bytes ({}) has: it waits \
                 for an mb with a larger --queue-bytes",
                record.offset,
                self.with.engine.budget.limit()
            );
            log::error!("replay {}: {cause}", self.replay.request);
            self.replay.blocked = cause;
            self.replay.state = State::Blocked;
            self.end(Ended::NoMemory);
            return None;
        }
        let permit = self.with.engine.budget.acquire_until(needs, self.until);
        if permit.is_none() {
            self.end(Ended::NoMemory);
        }
        permit
    }

    /// All that the range has was seen.
    fn finish(&mut self) -> Flow {
        while self.ended.is_none() {
            let end = self.replay.range.end();
            let cut = self.replay.batcher.cut_passed(end);
            match cut.or_else(|| self.replay.batcher.cut_now()) {
                Some(cut) => {
                    self.deliver(cut);
                }
                None => {
                    self.replay.batcher.advance(end);
                    return Flow::Stop;
                }
            }
        }
        Flow::Stop
    }
}

impl Sink for Tick<'_> {
    fn record(&mut self, partition: Partition, record: Record<'_>) -> Flow {
        if self.ended.is_some() || self.is_read() {
            return Flow::Stop;
        }
        if partition != self.replay.partition {
            return Flow::Continue;
        }
        if record.offset > self.replay.range.last {
            return self.finish();
        }
        loop {
            match self.replay.batcher.cut_before(record.offset, record.payload_bytes()) {
                Some(cut) => {
                    if self.deliver(cut) == Flow::Stop {
                        return Flow::Stop;
                    }
                }
                None if self.replay.batcher.wants(record.offset) => break,
                None if record.offset == self.replay.range.last => return self.finish(),
                None => return Flow::Continue,
            }
        }
        let Some(permit) = self.memory(&record) else { return Flow::Stop };
        self.replay.batcher.take(record, permit, clock::now());
        if let Some(cut) = self.replay.batcher.cut_if_full()
            && self.deliver(cut) == Flow::Stop
        {
            return Flow::Stop;
        }
        if record.offset == self.replay.range.last { self.finish() } else { Flow::Continue }
    }

    fn position(&mut self, partition: Partition, next: Offset) {
        if partition != self.replay.partition || self.ended.is_some() || self.is_read() {
            return;
        }
        if next > self.replay.range.last {
            self.finish();
            return;
        }
        while self.ended.is_none() {
            match self.replay.batcher.cut_passed(next) {
                Some(cut) => {
                    self.deliver(cut);
                }
                None => {
                    self.replay.batcher.advance(next);
                    return;
                }
            }
        }
    }
    fn failed(&mut self, _partition: Partition, error: Error) -> Flow {
        self.failed = Some(error);
        Flow::Stop
    }
}

//! A worker: takes runs from the queue, one at a time, and carries each through an attempt.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crossbeam_channel::Receiver;

use crate::config::limits;
use crate::history::{AttemptRecord, CANCELLED, DeadLetters, Outcome, Planned};
use crate::model::batch::Batch;
use crate::model::budget::Permit;
use crate::model::clock;
use crate::model::crash;
use crate::model::error::Error;
use crate::model::events::Event;
use crate::model::live::Running;
use crate::model::offset::{Offset, RunKey};
use crate::model::run::{Run, RunId, RunState};
use crate::model::thread::panic_message;
use crate::runs::dead_letters::{Undelivered, Undone};
use crate::runs::engine::Engine;
use crate::runs::retry::Verdict;
use crate::runs::split::{self, Piece};
use crate::step::{Attempt, FailedRecord, StepError};

/// One worker. Its thread is started and joined by `pipeline`.
#[derive(Clone)]
pub struct Worker {
    /// From 0.
    pub index: usize,
    pub engine: Arc<Engine>,
}

impl Worker {
    /// Works until the queue is closed, or the sender of `retired` is gone.
    pub fn run(self, retired: &Receiver<()>) {
        while let Some(run) = self.engine.queue.next(retired) {
            if !self.work(run) {
                return;
            }
        }
    }

    /// What happens to one run that was taken from the queue. False where mb is ending.
    pub fn work(&self, run: Run) -> bool {
        let _with_worker = self.engine.queue.with_worker(&run.key);
        // The range must be in the history before its run starts. Whatever was taken is begun, also
        // at a stop: the runs that were begun have no hole, and all of them can be committed.
        if !self.engine.history.wait_planned(run.id) {
            return false;
        }
        self.engine.queue.begun();
        self.attempt(run);
        true
    }

    fn attempt(&self, mut run: Run) {
        if let Some(undelivered) =
            self.engine.dead_letters.as_ref().and_then(|letters| letters.take(run.id))
        {
            // The step is through with it: it is not run again.
            return self.bury(run, undelivered);
        }
        if !self.engine.queue.requested.begin(run.id, &run.key) {
            self.engine.history.withdraw(run.id);
            self.engine.queue.cancels.forget(run.id);
            return;
        }
        let number = run.failed_attempts + 1;
        self.engine.live.start(Running {
            worker: self.index,
            id: run.id,
            key: run.key.clone(),
            attempt: number,
            since: clock::now(),
            stalled: false,
        });
        // Behind its start: who cancels a run that has begun finds it there.
        if let Some(error) = self.engine.queue.cancels.begin(run.id) {
            self.engine.live.end(self.index);
            return self.give_up(run, error);
        }
        let started_ms = clock::now_ms();
        let started = clock::now();
        if run.failed_attempts == 0 {
            self.engine.live.wait_time.observe(started.saturating_duration_since(run.queued));
        }
        let (result, output, failed) = self.step(&run, number);
        let run_time = clock::now() - started;
        self.engine.live.run_time.observe(run_time);
        let attempt = AttemptRecord {
            number,
            started_ms,
            run_us: i64::try_from(run_time.as_micros()).unwrap_or(i64::MAX),
            worker: self.index,
            error: None,
            output,
        };
        let cancelled = self.engine.queue.cancels.step_over(run.id);
        self.engine.live.end(self.index);
        match result {
            Ok(()) if failed.is_empty() => {
                self.engine.live.runs_succeeded.add(1);
                self.engine.live.failures.succeeded();
                self.done(run.batch.len(), run.batch.payload_bytes());
                self.end(run, RunState::Succeeded, attempt, None);
            }
            Err(_) if self.engine.forced.load(Ordering::Acquire) => {
                log::info!(
                    "run {} was ended by force: it is made again at the next start",
                    run.key
                );
                self.engine.queue.cancels.told(run.id, false);
            }
            Err(StepError::NotDone(why)) if cancelled.is_none() => self.give_back(run, &why),
            outcome => {
                self.engine.live.attempts_failed.add(1);
                run.failed_attempts = number;
                self.failed(run, outcome.err(), failed, attempt, cancelled);
            }
        }
    }

    /// The run was cancelled before its turn: its step is not run.
    fn give_up(&self, run: Run, error: String) {
        let attempt = AttemptRecord {
            number: run.failed_attempts,
            started_ms: clock::now_ms(),
            run_us: 0,
            worker: self.index,
            error: Some(error),
            output: None,
        };
        let letters = self.letters(&run, run.batch.clone(), BTreeMap::new(), CANCELLED);
        self.bury(run, Undelivered { attempt, letters, tries: 0 });
    }

    /// The attempt says nothing of its run, and does not count.
    fn give_back(&self, run: Run, why: &str) {
        let why = one_line(why);
        if self.engine.queue.is_closed() {
            log::info!("run {} is not done: {why}; it is made again at the next start", run.key);
            self.engine.queue.cancels.told(run.id, false);
        } else {
            log::warn!("run {} is not done: {why}; it comes again", run.key);
            self.engine.queue.cancels.told(run.id, false);
            self.engine.queue.retry(run, clock::now() + limits::ROOM_RETRY_INTERVAL);
        }
    }

    /// An attempt failed, or it says of some records that they did; then the others are done. One of a
    /// run that was cancelled meanwhile is its last.
    fn failed(
        &self,
        run: Run,
        error: Option<StepError>,
        named: Vec<FailedRecord>,
        mut attempt: AttemptRecord,
        cancelled: Option<String>,
    ) {
        let reasons: BTreeMap<Offset, String> =
            named.into_iter().map(|record| (record.offset, one_line(&record.reason))).collect();
        let suspects = if reasons.is_empty() { run.batch.len() } else { 1 };
        let error = error.unwrap_or_else(|| StepError::DeadLetter("records failed".to_owned()));
        let mut text = one_line(error.message());
        if let Some((offset, reason)) = reasons.first_key_value() {
            let (failed, all) = (reasons.len(), run.batch.len());
            let _ = write!(text, " ({failed} of {all} records named, first {offset}: {reason})");
        }
        let is_cancelled = cancelled.is_some();
        let text = cancelled.unwrap_or(text);
        if !is_cancelled {
            self.engine.live.failures.failed(&text);
        }
        attempt.error = Some(text.clone());
        let number = attempt.number;
        let verdict = if is_cancelled {
            Verdict::DeadLetter
        } else {
            self.engine.retry.after(number, &error, suspects, fastrand::f64())
        };
        match verdict {
            Verdict::Again(pause) => {
                log::warn!(
                    "run {}: attempt {number} of {} failed: {text}; again in {pause:.1?}",
                    run.key,
                    self.engine.retry.max_attempts
                );
                let due = clock::now() + pause;
                if reasons.is_empty() || reasons.len() == run.batch.len() {
                    self.note(&run, RunState::Queued, attempt);
                    self.engine.queue.retry(run, due);
                } else {
                    let pieces = split::pieces(&run.batch, &reasons.into_keys().collect());
                    self.split(run, pieces, number, attempt, due);
                }
            }
            Verdict::Halve => {
                log::warn!(
                    "run {} failed after {number} attempt(s): {text}; its {} records are halved \
                     (--bisect)",
                    run.key,
                    run.batch.len()
                );
                let halves = split::halves(run.key.range, &run.batch);
                self.split(run, halves.into(), 0, attempt, clock::now());
            }
            Verdict::DeadLetter => {
                let batch = if reasons.is_empty() {
                    run.batch.clone()
                } else {
                    run.batch.select(|record| reasons.contains_key(&record.offset))
                };
                let why = match error {
                    _ if is_cancelled => CANCELLED,
                    StepError::DeadLetter(_) => "dead-letter",
                    StepError::RetryFailed(_) => "retry-failed",
                    StepError::Retry(_) | StepError::Stop(_) | StepError::NotDone(_) => "retry",
                };
                let letters = self.letters(&run, batch, reasons, why);
                self.bury(run, Undelivered { attempt, letters, tries: 0 });
            }
            Verdict::Halt => {
                let text = format!(
                    "run {} failed after {number} attempt(s): {text}; halting as asked: nothing is \
                     committed past it",
                    run.key
                );
                self.engine.live.runs_halted.add(1);
                self.note(&run, RunState::Halted, attempt);
                // Full: another end is on its way already.
                let _ = self.engine.events.try_send(Event::Halt(Error::Halt(text)));
            }
        }
    }

    fn letters(
        &self,
        run: &Run,
        batch: Batch,
        reasons: BTreeMap<Offset, String>,
        why: &'static str,
    ) -> DeadLetters {
        let stored = self.engine.dead_letters.as_ref().is_none_or(|letters| letters.stores);
        DeadLetters { batch, permit: Arc::clone(&run.permit), reasons, why, stored }
    }

    /// The run is given up on. Its letters are on their topic, where they go to one, before anything
    /// is settled; where that cannot be, it waits for another try of that alone.
    fn bury(&self, run: Run, undelivered: Undelivered) {
        let Undelivered { attempt, letters, tries } = &undelivered;
        let error = attempt.error.as_deref().unwrap_or_default();
        if let Some(topic) = &self.engine.dead_letters {
            let stopping = || self.engine.queue.is_closed();
            match topic.deliver(&run.key, attempt.number, error, letters, &stopping) {
                Ok(()) if *tries > 0 => topic.delivered_late(),
                Ok(()) => {}
                Err(Undone::Stopping) => return self.engine.queue.cancels.told(run.id, false),
                Err(Undone::Failed(cause)) => {
                    let due = topic.keep(run.id, &run.key, undelivered, &cause);
                    self.engine.queue.cancels.told(run.id, false);
                    self.engine.queue.retry(run, due);
                    return;
                }
            }
        }
        let Undelivered { attempt, letters, .. } = undelivered;
        let (number, error) = (attempt.number, attempt.error.as_deref().unwrap_or_default());
        let kept = letters.batch.len();
        let follows = if run.key.again.is_none() { " and the offsets go on" } else { "" };
        let failed = if letters.why == CANCELLED { "was given up" } else { "failed" };
        log::error!(
            "run {} {failed} after {number} attempt(s): {error}; {kept} record(s) are kept as dead \
             letters{follows}",
            run.key
        );
        self.engine.live.runs_failed.add(1);
        self.done(
            run.batch.len() - letters.batch.len(),
            run.batch.payload_bytes().saturating_sub(letters.batch.payload_bytes()),
        );
        self.engine.live.dead_letters.add(letters.batch.len() as u64);
        self.end(run, RunState::Failed, attempt, Some(letters));
    }

    /// The run ends by becoming others, which have the pieces of its records that are not done.
    fn split(
        &self,
        run: Run,
        pieces: Vec<Piece>,
        failed_attempts: u32,
        attempt: AttemptRecord,
        due: Instant,
    ) {
        let key = |range| RunKey { range, ..run.key.clone() };
        let planned = pieces.iter().map(|(range, batch)| Planned {
            whole: run.whole,
            parent: Some(run.id),
            failed_attempts,
            ..Planned::whole(key(*range), batch.len(), batch.payload_bytes())
        });
        let left: usize = pieces.iter().map(|(_, batch)| batch.len()).sum();
        let left_bytes: usize = pieces.iter().map(|(_, batch)| batch.payload_bytes()).sum();
        let outcome = self.outcome(&run, RunState::Split, attempt, None);
        let Some(first) = self.engine.history.split(outcome, planned.collect()) else { return };
        self.engine.queue.requested.told(run.id, &run.key);
        self.engine.queue.cancels.told(run.id, true);
        self.engine.live.runs_split.add(1);
        self.done(run.batch.len() - left, run.batch.payload_bytes().saturating_sub(left_bytes));
        if run.key.again.is_none() {
            self.engine.ledgers.split(run.key.partition, run.whole, pieces.len());
        }
        // With --bisect they were had with each record. Without, nothing says before a step names
        // records how many pieces there will be, and waiting here could be for ever: they are counted
        // on top, and the sensors wait.
        let permit = if self.engine.retry.bisect {
            Arc::clone(&run.permit)
        } else {
            Arc::new(Permit::overdrawn(&run.permit, pieces.len() * limits::SPLIT_RECORD_BYTES))
        };
        let runs = (first.0..).zip(&pieces).map(|(id, (range, batch))| Run {
            id: RunId(id),
            key: key(*range),
            whole: run.whole,
            batch: batch.clone(),
            permit: Arc::clone(&permit),
            failed_attempts,
            queued: clock::now(),
        });
        self.engine.queue.split(&run.key, runs.collect(), due);
    }

    /// A panic in the step fails this attempt, nothing more.
    fn step(
        &self,
        run: &Run,
        number: u32,
    ) -> (Result<(), StepError>, Option<String>, Vec<FailedRecord>) {
        if run.batch.is_empty() {
            // Compaction left nothing of the range: there is nothing to do.
            return (Ok(()), None, Vec::new());
        }
        let mut attempt =
            Attempt { key: &run.key, number, batch: &run.batch, output: None, failed: Vec::new() };
        let result = catch_unwind(AssertUnwindSafe(|| self.engine.step.run(&mut attempt)));
        crash::point("stepped");
        let Attempt { output, mut failed, .. } = attempt;
        let result = result.unwrap_or_else(|payload| {
            Err(StepError::Retry(format!("the step panicked: {}", panic_message(payload.as_ref()))))
        });
        if matches!(result, Err(StepError::Retry(_) | StepError::Stop(_) | StepError::NotDone(_))) {
            // It may not have come to the others.
            failed.clear();
        }
        // A step of a user's may name what it was not given.
        if !failed.is_empty() {
            let known: BTreeSet<Offset> = run.batch.records().map(|record| record.offset).collect();
            failed.retain(|failed| known.contains(&failed.offset));
        }
        (result, output, failed)
    }

    /// Records were processed.
    fn done(&self, records: usize, bytes: usize) {
        self.engine.live.records_done.add(records as u64);
        self.engine.live.bytes_done.add(bytes as u64);
    }

    fn end(
        &self,
        run: Run,
        state: RunState,
        attempt: AttemptRecord,
        dead_letters: Option<DeadLetters>,
    ) {
        self.engine.history.outcome(self.outcome(&run, state, attempt, dead_letters));
        self.engine.queue.requested.told(run.id, &run.key);
        self.engine.queue.cancels.told(run.id, true);
        self.engine.queue.ended(&run.key);
    }

    /// Writes an attempt of a run that is not at its end.
    fn note(&self, run: &Run, state: RunState, attempt: AttemptRecord) {
        self.engine.history.outcome(self.outcome(run, state, attempt, None));
        self.engine.queue.requested.told(run.id, &run.key);
        self.engine.queue.cancels.told(run.id, false);
    }

    fn outcome(
        &self,
        run: &Run,
        state: RunState,
        attempt: AttemptRecord,
        dead_letters: Option<DeadLetters>,
    ) -> Outcome {
        let (id, key, whole) = (run.id, run.key.clone(), run.whole);
        Outcome { id, key, whole, state, records: run.batch.len(), attempt, dead_letters }
    }
}

/// A step's error as it goes into log and history: one line, bounded, control characters shown.
fn one_line(text: &str) -> String {
    let mut line = String::new();
    for c in text.chars() {
        if line.len() >= limits::ERROR_CHARS {
            line.push('…');
            break;
        }
        match c {
            '\n' => line.push_str("; "),
            c if c.is_control() => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Config;
    use crate::history::{History, ScopeId, schema};
    use crate::kafka::TopicInfo;
    use crate::kafka::embedded::Embedded;
    use crate::model::batch::Record;
    use crate::model::budget::Budget;
    use crate::model::offset::Again;
    use crate::runs::engine::{Lasting, Parts};
    use crate::step::Step;

    #[test]
    fn errors_become_one_harmless_bounded_line() {
        assert_eq!(one_line("a\nb\u{1b}[1m"), "a; b\\u{1b}[1m");
        assert!(one_line(&"x".repeat(1 << 20)).chars().count() <= limits::ERROR_CHARS + 1);
    }

    /// Names every second record.
    struct Names;

    impl Step for Names {
        fn name(&self) -> &str {
            "names"
        }

        fn run(&self, attempt: &mut Attempt<'_>) -> Result<(), StepError> {
            for record in attempt.batch.records().step_by(2) {
                attempt
                    .failed
                    .push(FailedRecord { offset: record.offset, reason: "bad".to_owned() });
            }
            Err(StepError::RetryFailed("some are bad".to_owned()))
        }
    }

    #[test]
    fn pieces_of_named_records_count_against_the_budget_until_they_are_gone() {
        let folder = tempfile::tempdir().unwrap();
        let db = schema::open(&folder.path().join("history.db")).unwrap();
        let (history, _stepped) = History::stepped(db, ScopeId(1), "kafka", 9, |_| {}).unwrap();
        let (events, _received) = crossbeam_channel::bounded(9);
        let config = Config { retry_backoff: Duration::ZERO, ..Config::default() };
        let engine = Engine::new(Parts {
            topic: TopicInfo { name: "t".into(), id: None, cluster_id: None, partitions: vec![0] },
            scope: ScopeId(1),
            broker: Arc::new(Embedded::open(folder.path(), 1 << 20).unwrap()),
            step: Arc::new(Names),
            history,
            ledgers: Arc::default(),
            lasting: Lasting::new(&config),
            events,
            config,
        });
        let worker = Worker { index: 0, engine: Arc::new(engine) };
        let budget = Budget::new(2000);
        let mut batch = Batch::default();
        for offset in 0..10 {
            batch.push(Record { offset: Offset::new(offset), ..Record::default() });
        }
        let whole = batch.range().unwrap();
        // Of a replay, so that no ledger has to know it.
        let key = RunKey { again: Some(Again::Replay(1)), ..RunKey::new("t", 0, whole) };
        worker.attempt(Run {
            id: RunId(1),
            key,
            whole,
            batch,
            permit: Arc::new(budget.try_acquire(1000).unwrap()),
            failed_attempts: 0,
            queued: Instant::now(),
        });
        assert_eq!(budget.used(), 1000 + 5 * limits::SPLIT_RECORD_BYTES);
        let pieces: Vec<Run> = std::iter::from_fn(|| worker.engine.queue.try_next()).collect();
        assert_eq!(pieces.len(), 5);
        drop(pieces);
        assert_eq!(budget.used(), 0);
    }
}

//! A worker: takes runs from the queue, one at a time, and calls the step for each. What follows from the result
//! is decided in `outcome`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crossbeam_channel::Receiver;

use crate::history::{AttemptRecord, micros};
use crate::model::clock;
use crate::model::crash;
use crate::model::live::Running;
use crate::model::run::Run;
use crate::model::thread::panic_message;
use crate::runs::apply::apply;
use crate::runs::engine::Engine;
use crate::runs::outcome::{self, Situation, Turn};
use crate::runs::queue::Evidence;
use crate::step::{Attempt, FailedRecord, StepError};

/// One worker. Its thread is started and joined by `pipeline`.
#[derive(Clone)]
pub struct Worker {
    /// From 0.
    pub index: usize,
    pub engine: Arc<Engine>,
}

/// A turn, and what the history keeps of it.
struct TakenTurn {
    turn: Turn,
    attempt: AttemptRecord,
    began: Instant,
    now: Instant,
}

/// What a step returned and left in its attempt.
struct StepResult {
    result: Result<(), StepError>,
    output: Option<String>,
    failed: Vec<FailedRecord>,
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

    /// Processes one run that was taken from the queue. False if mb is ending.
    pub fn work(&self, run: Run) -> bool {
        let queue = &self.engine.queue;
        let _with_worker = queue.with_worker(&run);
        // A run's range must be in the history before the run starts: after a crash it is repeated with the same
        // range. Every run that was taken starts, even when mb is stopping. Otherwise a run above it could be done
        // already, and its offsets could not be committed.
        if !self.engine.history.wait_planned(run.id) {
            return false;
        }
        queue.started();
        self.process(run);
        true
    }

    fn process(&self, run: Run) {
        let engine = &self.engine;
        // Before the attempt: what succeeds while it fails is no proof against it.
        let proof = if run.failed_attempts > 0 { engine.queue.proof() } else { None };
        let worked_meanwhile = proof
            >= Some(run.failing.map_or(run.queued, |failing| failing.counted_at))
            && proof.is_some();
        let worked_before =
            run.failing.is_some_and(|failing| engine.queue.has_worked_since(failing.began));
        let TakenTurn { turn, attempt, began, now } = self.take_turn(&run);
        let evidence = match &turn {
            Turn::Attempted { result: Ok(()), failed, .. } if failed.is_empty() => {
                Evidence::default()
            }
            _ => {
                let first = run.failing.map_or(began, |failing| failing.began);
                let is_only_attempt = engine.retry.max_attempts == 1;
                let worked_since =
                    worked_before || is_only_attempt && engine.queue.has_worked_since(first);
                engine.queue.evidence(&run, worked_since)
            }
        };
        let topic = engine.dead_letters.as_ref();
        let situation = Situation {
            attempt: run.failed_attempts + 1,
            policy: engine.retry,
            keeps_dead_letters: topic.is_none_or(|topic| topic.is_also_stored),
            has_dead_letter_topic: topic.is_some(),
            is_forced: engine.forced.load(Ordering::Acquire),
            is_stopping: engine.queue.is_closed(),
            began,
            now,
            worked_meanwhile,
            evidence,
            jitter: fastrand::f64(),
        };
        let effects = outcome::decide(&run, turn, &situation);
        apply(engine, run, attempt, effects);
    }

    /// Calls the step, unless the run was cancelled before.
    fn take_turn(&self, run: &Run) -> TakenTurn {
        let Worker { index, engine } = self;
        let number = run.failed_attempts + 1;
        let mut attempt = AttemptRecord {
            number: run.failed_attempts,
            started_ms: clock::now_ms(),
            run_us: 0,
            worker: *index,
            error: None,
            output: None,
        };
        let started = clock::now();
        let without_step =
            |turn, attempt| TakenTurn { turn, attempt, began: started, now: started };
        if !engine.queue.requested.begin(run.id, &run.key) {
            return without_step(Turn::RequestCancelled, attempt);
        }
        engine.live.start(Running {
            worker: *index,
            id: run.id,
            key: run.key.clone(),
            attempt: number,
            since: started,
            stalled: false,
        });
        // After `live.start`: a cancel that finds the run in its step looks there for its worker.
        if let Some(error) = engine.queue.cancels.begin(run.id) {
            engine.live.end(*index);
            return without_step(Turn::CancelledBefore(error), attempt);
        }
        if run.failed_attempts == 0 {
            engine.live.wait_time.observe(started.saturating_duration_since(run.queued));
        }
        let StepResult { result, output, failed } = self.step(run, number);
        let ended = clock::now();
        let run_time = ended - started;
        engine.live.run_time.observe(run_time);
        let cancelled = engine.queue.cancels.step_over(run.id);
        engine.live.end(*index);
        attempt.number = number;
        attempt.run_us = micros(run_time);
        attempt.output = output;
        let turn = Turn::Attempted { result, failed, cancelled };
        TakenTurn { turn, attempt, began: started, now: ended }
    }

    /// Calls the step. A panic in it fails this attempt, and neither the worker nor mb.
    fn step(&self, run: &Run, number: u32) -> StepResult {
        if run.batch.is_empty() {
            // Compaction has removed every record of the range.
            return StepResult { result: Ok(()), output: None, failed: Vec::new() };
        }
        let mut attempt = Attempt::new(&run.key, number, &run.batch);
        let result = catch_unwind(AssertUnwindSafe(|| self.engine.step.run(&mut attempt)));
        crash::point("stepped");
        let Attempt { output, failed, .. } = attempt;
        let result = result.unwrap_or_else(|payload| {
            let text = format!("the step panicked: {}", panic_message(payload.as_ref()));
            Err(StepError::Retry(text))
        });
        StepResult { result, output, failed }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::config::{Config, limits};
    use crate::history::{History, ScopeId, schema};
    use crate::kafka::TopicInfo;
    use crate::kafka::embedded::Embedded;
    use crate::model::batch::{Batch, Record};
    use crate::model::budget::Budget;
    use crate::model::offset::{Offset, Reprocess, RunKey};
    use crate::model::run::RunId;
    use crate::runs::engine::{Lasting, Parts};
    use crate::step::Step;

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
        let (history, _writer) =
            History::without_thread(db, ScopeId(1), "kafka", 9, |_| {}).unwrap();
        let (events, _received) = crossbeam_channel::bounded(9);
        let config = Config { retry_backoff: Duration::ZERO, ..Config::default() };
        let engine = Engine::new(Parts {
            topic: TopicInfo {
                name: "t".into(),
                id: None,
                cluster_id: None,
                is_internal: false,
                partitions: vec![0],
                leader_epochs: BTreeMap::new(),
            },
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
        let key = RunKey { reprocess: Some(Reprocess::Replay(1)), ..RunKey::new("t", 0, whole) };
        worker.process(Run {
            id: RunId(1),
            key,
            whole,
            batch,
            permit: Arc::new(budget.try_acquire(1000).unwrap()),
            failed_attempts: 0,
            queued: Instant::now(),
            failing: None,
        });
        assert_eq!(budget.used(), 1000 + 5 * limits::SPLIT_RECORD_BYTES);
        let pieces: Vec<Run> = std::iter::from_fn(|| worker.engine.queue.try_next()).collect();
        assert_eq!(pieces.len(), 5);
        drop(pieces);
        assert_eq!(budget.used(), 0);
    }
}

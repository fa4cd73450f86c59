//! Applies what `outcome` decided, one effect after another.

use std::collections::HashSet;
use std::sync::Arc;

use crate::history::{AttemptRecord, DeadLetters, Outcome, Planned};
use crate::model::batch::Batch;
use crate::model::budget::Permit;
use crate::model::clock;
use crate::model::events::Event;
use crate::model::live::Live;
use crate::model::offset::RunKey;
use crate::model::run::{Run, RunId, RunState};
use crate::runs::effect::{Count, Effect};
use crate::runs::engine::Engine;
use crate::runs::queue::HoldLine;
use crate::runs::split::Piece;
use crate::runs::undelivered::Undelivered;

/// Applies effects in their order. `attempt` is the attempt that they follow from; the error of the
/// effect that records it is put into it.
pub fn apply(engine: &Engine, mut run: Run, attempt: AttemptRecord, effects: Vec<Effect>) {
    let mut pieces = Vec::new();
    let mut attempt = Some(attempt);
    let mut attempt_with = |error: Option<String>| {
        let attempt = attempt.take().expect("an attempt is recorded or handed over once");
        AttemptRecord { error, ..attempt }
    };
    for effect in effects {
        match effect {
            Effect::Log(level, text) => log::log!(level, "{text}"),
            Effect::Count(what) => count(&engine.live, what),
            Effect::StepWorks => engine.live.failures.succeeded(),
            Effect::StepFails(error) => engine.live.failures.failed(&error),
            Effect::Record { state, error, dead_letters } => {
                if state.is_done() {
                    let given_up = dead_letters.iter().map(|letters| &letters.batch);
                    note_latency(engine, &run, given_up);
                }
                let outcome = outcome(&run, state, attempt_with(error), dead_letters);
                engine.history.outcome(outcome);
            }
            Effect::RecordSplit { error, pieces: parts, failed_attempts, extra_bytes } => {
                note_latency(engine, &run, parts.iter().map(|(_, batch)| batch));
                let outcome = outcome(&run, RunState::Split, attempt_with(Some(error)), None);
                let planned = planned(&run, &parts, failed_attempts);
                let Some(first) = engine.history.split(outcome, planned) else { return };
                pieces = split(&run, parts, first, failed_attempts, extra_bytes);
            }
            Effect::RecordWithdrawal => {
                engine.history.withdraw(run.id);
            }
            Effect::Report { is_over } => {
                engine.queue.requested.reported(run.id, &run.key);
                engine.queue.cancels.reported(run.id, is_over);
            }
            Effect::SplitInLedger { pieces } => {
                engine.ledgers.split(run.key.partition, run.whole, pieces);
            }
            Effect::EndInQueue => engine.queue.ended(&run.key),
            Effect::Retry { due, failed_attempts, failing } => {
                (run.failed_attempts, run.failing) = (failed_attempts, failing);
                return engine.queue.retry(run, due);
            }
            Effect::Hold { cause, failed_attempts, failing } => {
                (run.failed_attempts, run.failing) = (failed_attempts, Some(failing));
                log::debug!("run {} waits until the step works: {cause}", run.key);
                return engine.queue.hold(run, &cause);
            }
            Effect::StepProved { began, ended } => {
                if let Some((held, waiting)) = engine.queue.step_worked(began, ended)
                    && held.was_logged
                {
                    log::info!(
                        "the step works again after {:.0?}: {waiting} run(s) go on",
                        clock::now().saturating_duration_since(held.since)
                    );
                }
            }
            Effect::StepDisproved { error, ended } => {
                let line = engine.queue.step_failed(&run, &error, ended);
                log_hold(line, &run, &error);
            }
            Effect::GiveUpUnproved => engine.queue.gave_up_unproved(&run),
            Effect::StartPieces { due } => return engine.queue.split(&run.key, pieces, due),
            Effect::HandOver { error, dead_letters } => {
                let undelivered = Undelivered::new(attempt_with(Some(error)), dead_letters);
                // A cancel does not have to wait for the topic. The run's request must: it is not over
                // before the run is.
                engine.queue.cancels.reported(run.id, false);
                return engine.queue.keep_undelivered(run, undelivered, clock::now());
            }
            // If the channel is full, mb is ending for another reason already.
            Effect::Halt(error) => {
                let _ = engine.events.try_send(Event::Halt(error));
            }
        }
    }
}

/// The run ends now. It has processed its records, but for those of `others`.
fn note_latency<'a>(engine: &Engine, run: &Run, others: impl Iterator<Item = &'a Batch>) {
    let others: HashSet<_> = others.flat_map(Batch::times).map(|(offset, _)| offset).collect();
    let is_processed = |offset| others.is_empty() || !others.contains(&offset);
    engine.live.latency.processed(run, clock::now_ms(), is_processed);
}

fn log_hold(line: Option<HoldLine>, run: &Run, cause: &str) {
    match line {
        Some(HoldLine::Begins) => log::error!(
            "holding: the step fails for every run, now for {}: {cause}; nothing is given up on, and one run \
             at a time is tried until the step works (mb retry-now, mb give-up)",
            run.key
        ),
        Some(HoldLine::GoesOn(time)) => {
            log::error!("holding for {time:.0?}: the step still fails: {cause}");
        }
        None => {}
    }
}

fn count(live: &Live, what: Count) {
    match what {
        Count::AttemptFailed => live.attempts_failed.add(1),
        Count::RunSucceeded => live.runs_succeeded.add(1),
        Count::RunFailed => live.runs_failed.add(1),
        Count::RunHalted => live.runs_halted.add(1),
        Count::RunSplit => live.runs_split.add(1),
        Count::Processed { records, bytes } => {
            live.records_processed.add(records as u64);
            live.bytes_done.add(bytes as u64);
        }
        Count::DeadLetters(records) => live.dead_letters.add(records as u64),
    }
}

fn outcome(
    run: &Run,
    state: RunState,
    attempt: AttemptRecord,
    dead_letters: Option<Box<DeadLetters>>,
) -> Outcome {
    let (id, key, whole) = (run.id, run.key.clone(), run.whole);
    Outcome { id, key, whole, state, records: run.batch.len(), attempt, dead_letters }
}

fn planned(run: &Run, pieces: &[Piece], failed_attempts: u32) -> Vec<Planned> {
    let plan = |(range, batch): &Piece| {
        let key = RunKey { range: *range, ..run.key.clone() };
        let plan = Planned::whole(key, batch.len(), batch.payload_bytes());
        Planned { whole: run.whole, parent: Some(run.id), failed_attempts, ..plan }
    };
    pieces.iter().map(plan).collect()
}

/// The runs that a run has become, numbered from `first`.
fn split(
    run: &Run,
    pieces: Vec<Piece>,
    first: RunId,
    failed_attempts: u32,
    extra_bytes: usize,
) -> Vec<Run> {
    let permit = match extra_bytes {
        0 => Arc::clone(&run.permit),
        bytes => Arc::new(Permit::overdrawn(&run.permit, bytes)),
    };
    let make = |(id, (range, batch)): (i64, Piece)| Run {
        id: RunId(id),
        key: RunKey { range, ..run.key.clone() },
        whole: run.whole,
        batch,
        permit: Arc::clone(&permit),
        failed_attempts,
        queued: clock::now(),
        failing: None,
    };
    (first.0..).zip(pieces).map(make).collect()
}

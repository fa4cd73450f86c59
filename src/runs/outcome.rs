//! Decides what follows from an attempt, or from a cancel before it: success, retry, split, dead letters, halt.
//! Pure: facts come in, a list of effects goes out, and `apply` applies them in that order.
//!
//! The order of a list keeps mb's promises: the history before the ledger, both before the queue. If the queue
//! came first, the lane's next run could start, and a crash would repeat this one after it. A run is reported (to
//! a cancel that waits for it) before it can be attempted again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Instant;

use log::Level;

use crate::config::limits;
use crate::history::{CANCELLED, DeadLetters};
use crate::model::batch::Batch;
use crate::model::error::Error;
use crate::model::offset::Offset;
use crate::model::offset::Reprocess;
use crate::model::run::{Failing, Run, RunState};
use crate::runs::effect::{Count, Effect};
use crate::runs::queue::Evidence;
use crate::runs::retry::{Attempted, Failure, RetryPolicy, Verdict};
use crate::runs::split::{self, Piece};
use crate::step::{FailedRecord, StepError};

/// What happened when a worker took a run.
#[derive(Debug)]
pub enum Turn {
    /// The run's redrive or replay was cancelled before the step began, so the step did not run.
    RequestCancelled,
    /// The run was cancelled before the step began, so the step did not run. Holds the run's final error.
    CancelledBefore(String),
    /// The step ran (or compaction has emptied the batch, and it had nothing to do).
    Attempted {
        result: Result<(), StepError>,
        /// The records that the step named as failed.
        failed: Vec<FailedRecord>,
        /// The run's final error, if it was cancelled while the step ran.
        cancelled: Option<String>,
    },
}

/// Everything else that decides what follows.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// The number of the attempt, from 1.
    pub attempt: u32,
    pub policy: RetryPolicy,
    /// Where dead letters go: the history, a topic, or both.
    pub keeps_dead_letters: bool,
    pub has_dead_letter_topic: bool,
    /// mb is ending running steps by force. A step that fails now was killed: if that counted as a failed
    /// attempt, a forced stop could turn good records into dead letters.
    pub is_forced: bool,
    /// mb is stopping, and hands out no more runs.
    pub is_stopping: bool,
    /// When the attempt began.
    pub began: Instant,
    /// When it ended.
    pub now: Instant,
    /// Before it began, the step has worked for another run since this run's last failure that counts.
    pub worked_meanwhile: bool,
    pub evidence: Evidence,
    /// A random number in 0..1.
    pub jitter: f64,
}

/// Decides what follows from a run's turn.
pub fn decide(run: &Run, turn: Turn, now: &Situation) -> Vec<Effect> {
    match turn {
        Turn::RequestCancelled => {
            vec![Effect::RecordWithdrawal, Effect::Report { is_over: true }]
        }
        Turn::CancelledBefore(error) => {
            let dead_letters = now.dead_letters(run, BTreeMap::new(), CANCELLED);
            give_up(run, run.failed_attempts, error, dead_letters, now)
        }
        Turn::Attempted { result, failed, cancelled } => {
            let named = names_that_count(&run.batch, &result, failed);
            match result {
                Ok(()) if named.is_empty() => succeeded(run, now),
                Err(_) if now.is_forced => vec![
                    Effect::Log(
                        Level::Info,
                        format!("run {} was interrupted: the next start repeats it", run.key),
                    ),
                    Effect::Report { is_over: false },
                ],
                Err(StepError::NotDone(why)) if cancelled.is_none() => not_done(run, &why, now),
                result => failed_attempt(run, result.err(), named, cancelled, now),
            }
        }
    }
}

/// What follows once the dead-letter topic has the records of a run that is given up on, or at once if
/// there is no such topic.
pub fn settle(
    run: &Run,
    attempts: u32,
    error: String,
    dead_letters: Box<DeadLetters>,
) -> Vec<Effect> {
    let records = dead_letters.batch.len();
    let bytes = dead_letters.batch.payload_bytes();
    let failed = if dead_letters.why == CANCELLED { "was cancelled" } else { "failed" };
    let follows = if run.key.reprocess.is_none() { " and the offsets advance" } else { "" };
    vec![
        Effect::Log(
            Level::Error,
            format!(
                "run {} {failed} after {attempts} attempt(s): {error}; {records} record(s) are kept as \
                 dead letters{follows}",
                run.key
            ),
        ),
        Effect::Count(Count::RunFailed),
        Effect::Count(Count::Processed {
            records: run.batch.len() - records,
            bytes: run.batch.payload_bytes().saturating_sub(bytes),
        }),
        Effect::Count(Count::DeadLetters(records)),
        Effect::Record {
            state: RunState::Failed,
            error: Some(error),
            dead_letters: Some(dead_letters),
        },
        Effect::Report { is_over: true },
        Effect::EndInQueue,
    ]
}

fn succeeded(run: &Run, now: &Situation) -> Vec<Effect> {
    // Of an empty batch the step has seen nothing.
    let proof = (!run.batch.is_empty()).then(|| now.proof());
    let mut effects = Vec::with_capacity(8);
    effects.extend([Effect::Count(Count::RunSucceeded), Effect::StepWorks]);
    effects.extend(proof);
    effects.extend([
        Effect::Count(Count::Processed {
            records: run.batch.len(),
            bytes: run.batch.payload_bytes(),
        }),
        Effect::Record { state: RunState::Succeeded, error: None, dead_letters: None },
        Effect::Report { is_over: true },
        Effect::EndInQueue,
    ]);
    effects
}

/// The step could not process the records for now (a full disk), so the attempt does not count.
fn not_done(run: &Run, why: &str, now: &Situation) -> Vec<Effect> {
    let why = one_line(why);
    let key = &run.key;
    if now.is_stopping {
        let text = format!("run {key} is not done: {why}; the next start repeats it");
        return vec![Effect::Log(Level::Info, text), Effect::Report { is_over: false }];
    }
    let pause = limits::ROOM_RETRY_INTERVAL;
    vec![
        Effect::Log(Level::Warn, format!("run {key} is not done: {why}; retrying in {pause:.1?}")),
        Effect::Report { is_over: false },
        Effect::Retry {
            due: now.now + pause,
            failed_attempts: run.failed_attempts,
            failing: run.failing,
        },
    ]
}

/// The attempt failed, or the step says so of some records and has processed the others. The attempt of a
/// run that was cancelled meanwhile is its last.
fn failed_attempt(
    run: &Run,
    error: Option<StepError>,
    named: BTreeMap<Offset, String>,
    cancelled: Option<String>,
    now: &Situation,
) -> Vec<Effect> {
    let records = run.batch.len();
    let suspects = if named.is_empty() { records } else { 1 };
    let error = error.unwrap_or_else(|| StepError::DeadLetter("records failed".to_owned()));
    let is_cancelled = cancelled.is_some();
    let text = cancelled.unwrap_or_else(|| error_text(&error, &named, records));
    let mut effects = vec![Effect::Count(Count::AttemptFailed)];
    let is_partial = !named.is_empty() && named.len() < records;
    if !is_cancelled {
        effects.push(Effect::StepFails(text.clone()));
        if is_partial {
            effects.push(now.proof());
        } else if !matches!(error, StepError::DeadLetter(_)) {
            effects.push(Effect::StepDisproved { error: text.clone(), ended: now.now });
        }
    }
    let (failure, why) = match &error {
        _ if is_cancelled => (None, CANCELLED),
        StepError::DeadLetter(_) => (Some(Failure::Final), "dead-letter"),
        StepError::RetryFailed(_) => (Some(Failure::Passing), "retry-failed"),
        StepError::NotNow(_) => (Some(Failure::NotNow), "retry"),
        StepError::Stop(_) => (Some(Failure::Stop), "retry"),
        // `NotDone` comes here for cancelled runs only.
        StepError::Retry(_) | StepError::NotDone(_) => (Some(Failure::Passing), "retry"),
    };
    let is_not_now = failure == Some(Failure::NotNow);
    let (failing, counts) = count(run, is_partial, is_not_now, now);
    let attempted = Attempted {
        number: if is_not_now { now.attempt } else { now.attempt - failing.not_now },
        failing,
        counts,
        suspects,
        is_redrive: matches!(run.key.reprocess, Some(Reprocess::Redrive(_))),
        evidence: now.evidence,
        now: now.now,
    };
    let verdict = failure.map_or(Verdict::DeadLetter { unproved: false }, |failure| {
        now.policy.after(failure, &attempted, now.jitter)
    });
    if verdict == (Verdict::DeadLetter { unproved: true }) {
        effects.push(Effect::GiveUpUnproved);
    }
    effects.extend(match verdict {
        Verdict::Retry(pause) => retry(run, text, &named, failing, pause, now),
        Verdict::Hold => hold(text, failing, now),
        Verdict::Halve => halve(run, text, now),
        Verdict::DeadLetter { .. } => {
            let dead_letters = now.dead_letters(run, named, why);
            give_up(run, now.attempt, text, dead_letters, now)
        }
        Verdict::Halt => halt(run, text, now),
    });
    effects
}

/// Counts the attempt: against the run, if the step has worked for another run since the last one that counts.
/// The first one counts anyway: a single outage can make no more than that one count. If the step says that it cannot
/// work now, the attempt says nothing of the run.
fn count(run: &Run, is_partial: bool, is_not_now: bool, now: &Situation) -> (Failing, bool) {
    let needed = now.policy.needed();
    let counts = now.worked_meanwhile || is_partial || run.failed_attempts == 0;
    // Attempts before a restart, or of the run that this one was split from: which of them counted is not known.
    let before = run.failing.unwrap_or(Failing {
        began: now.began,
        since: now.now,
        was_held: false,
        counted: run.failed_attempts.min(needed - 1),
        counted_at: run.queued,
        not_now: 0,
    });
    if is_not_now {
        return (Failing { not_now: before.not_now + 1, ..before }, counts);
    }
    if !counts {
        return (before, false);
    }
    // The step has worked for other records of the same batch: no more proof is needed.
    let is_proved = is_partial && now.attempt >= now.policy.max_attempts;
    let counted = if is_proved { needed } else { before.counted + 1 };
    (Failing { counted, counted_at: now.now, ..before }, true)
}

/// The run waits until the step works. The log says that of all such runs together.
fn hold(cause: String, failing: Failing, now: &Situation) -> Vec<Effect> {
    vec![
        Effect::Record { state: RunState::Queued, error: Some(cause.clone()), dead_letters: None },
        Effect::Report { is_over: false },
        Effect::Hold {
            cause,
            failed_attempts: now.attempt,
            failing: Failing { was_held: true, ..failing },
        },
    ]
}

fn retry(
    run: &Run,
    error: String,
    named: &BTreeMap<Offset, String>,
    failing: Failing,
    pause: std::time::Duration,
    now: &Situation,
) -> Vec<Effect> {
    let (key, attempt, most) = (&run.key, now.attempt, now.policy.max_attempts);
    let of = if attempt <= most { format!(" of {most}") } else { String::new() };
    let text = format!("run {key}: attempt {attempt}{of} failed: {error}; retrying in {pause:.1?}");
    // While the step fails for many, the first one has said why, and a hold will say the rest.
    let level = if now.evidence.others_fail { Level::Debug } else { Level::Warn };
    let mut effects = vec![Effect::Log(level, text)];
    let due = now.now + pause;
    if named.is_empty() || named.len() == run.batch.len() {
        effects.extend([
            Effect::Record { state: RunState::Queued, error: Some(error), dead_letters: None },
            Effect::Report { is_over: false },
            Effect::Retry { due, failed_attempts: now.attempt, failing: Some(failing) },
        ]);
    } else {
        // The other records are processed: only the named ones are retried.
        let failed: BTreeSet<Offset> = named.keys().copied().collect();
        let pieces = split::pieces(&run.batch, &failed);
        effects.extend(become_pieces(run, error, pieces, now.attempt, due, now));
    }
    effects
}

fn halve(run: &Run, error: String, now: &Situation) -> Vec<Effect> {
    let text = format!(
        "run {} failed after {} attempt(s): {error}; its {} records are halved (--bisect)",
        run.key,
        now.attempt,
        run.batch.len()
    );
    let halves = split::halves(run.key.range, &run.batch);
    let mut effects = vec![Effect::Log(Level::Warn, text)];
    effects.extend(become_pieces(run, error, halves.into(), 0, now.now, now));
    effects
}

fn become_pieces(
    run: &Run,
    error: String,
    pieces: Vec<Piece>,
    failed_attempts: u32,
    due: Instant,
    now: &Situation,
) -> Vec<Effect> {
    let count = pieces.len();
    let open: usize = pieces.iter().map(|(_, batch)| batch.len()).sum();
    let open_bytes: usize = pieces.iter().map(|(_, batch)| batch.payload_bytes()).sum();
    // With --bisect each record has acquired the memory for a run of its own. Without it the number of pieces
    // is not known before a step names records. Waiting here for their memory could deadlock: all memory may
    // be held by runs that need memory for their pieces. So the budget is overdrawn, and the sensors wait.
    let extra_bytes = if now.policy.bisect { 0 } else { count * limits::SPLIT_RECORD_BYTES };
    let mut effects = vec![
        Effect::RecordSplit { error, pieces, failed_attempts, extra_bytes },
        Effect::Report { is_over: true },
        Effect::Count(Count::RunSplit),
        Effect::Count(Count::Processed {
            records: run.batch.len() - open,
            bytes: run.batch.payload_bytes().saturating_sub(open_bytes),
        }),
    ];
    if run.key.reprocess.is_none() {
        effects.push(Effect::SplitInLedger { pieces: count });
    }
    effects.push(Effect::StartPieces { due });
    effects
}

fn give_up(
    run: &Run,
    attempts: u32,
    error: String,
    dead_letters: Box<DeadLetters>,
    now: &Situation,
) -> Vec<Effect> {
    if now.has_dead_letter_topic {
        vec![Effect::HandOver { error, dead_letters }]
    } else {
        settle(run, attempts, error, dead_letters)
    }
}

fn halt(run: &Run, error: String, now: &Situation) -> Vec<Effect> {
    let text = format!(
        "run {} failed after {} attempt(s): {error}; halting: nothing is committed past it",
        run.key, now.attempt
    );
    vec![
        Effect::Count(Count::RunHalted),
        Effect::Record { state: RunState::Halted, error: Some(error), dead_letters: None },
        Effect::Report { is_over: false },
        Effect::Halt(Error::Halt(text)),
    ]
}

impl Situation {
    fn proof(&self) -> Effect {
        Effect::StepProved { began: self.began, ended: self.now }
    }

    /// The named records as dead letters, or all of the run's if none was named.
    fn dead_letters(
        &self,
        run: &Run,
        reasons: BTreeMap<Offset, String>,
        why: &'static str,
    ) -> Box<DeadLetters> {
        let batch = if reasons.is_empty() {
            run.batch.clone()
        } else {
            run.batch.select(|record| reasons.contains_key(&record.offset))
        };
        let permit = std::sync::Arc::clone(&run.permit);
        Box::new(DeadLetters { batch, permit, reasons, why, stored: self.keeps_dead_letters })
    }
}

/// The records that count as failed, with the reasons that the step gave.
fn names_that_count(
    batch: &Batch,
    result: &Result<(), StepError>,
    failed: Vec<FailedRecord>,
) -> BTreeMap<Offset, String> {
    match result {
        Ok(())
        | Err(StepError::DeadLetter(_) | StepError::RetryFailed(_) | StepError::NotNow(_)) => {
            failed
                .into_iter()
                // A user's step can push an offset that is not in its batch.
                .filter(|failed| batch.contains(failed.offset))
                .map(|failed| (failed.offset, reason(&failed)))
                .collect()
        }
        // The step may have failed before it reached the other records.
        Err(StepError::Retry(_) | StepError::Stop(_) | StepError::NotDone(_)) => BTreeMap::new(),
    }
}

/// Why a named record failed. An empty text would look like a dead letter whose cause was lost.
fn reason(failed: &FailedRecord) -> String {
    match failed.reason.trim() {
        "" => "the step named this record as failed, without a reason".to_owned(),
        _ => one_line(&failed.reason),
    }
}

fn error_text(error: &StepError, named: &BTreeMap<Offset, String>, records: usize) -> String {
    let mut text = one_line(error.message());
    if let Some((offset, reason)) = named.first_key_value() {
        let failed = named.len();
        let _ = write!(text, " ({failed} of {records} records named, first {offset}: {reason})");
    }
    text
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

//! A worker: takes runs from the queue, one at a time, and carries each through an attempt.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::Sender;

use crate::clock;
use crate::error::Error;
use crate::events::Event;
use crate::history::{AttemptRecord, History, Outcome};
use crate::limits;
use crate::live::{Live, Running};
use crate::retry::{RetryPolicy, Verdict};
use crate::run::{Run, RunState};
use crate::run_queue::RunQueue;
use crate::step::{Attempt, Step, StepError};
use crate::thread::panic_message;

pub struct Worker {
    pub index: usize,
    pub queue: Arc<RunQueue>,
    pub history: Arc<History>,
    pub step: Arc<dyn Step>,
    pub policy: RetryPolicy,
    pub live: Arc<Live>,
    pub events: Sender<Event>,
    /// Set before running steps are ended by force: what fails from then on says nothing about
    /// its run.
    pub forced: Arc<AtomicBool>,
}

impl Worker {
    /// Works until the queue is closed.
    pub fn run(self) {
        while let Some(run) = self.queue.next() {
            if !self.work(run) {
                return;
            }
        }
    }

    /// What happens to one run that was taken from the queue. False where mb is ending.
    pub fn work(&self, run: Run) -> bool {
        // The range must be in the history before its run starts.
        if !self.history.wait_planned(run.id) || self.queue.is_closed() {
            return false;
        }
        self.attempt(run);
        true
    }

    fn attempt(&self, mut run: Run) {
        let number = run.failed_attempts + 1;
        self.live.start(Running {
            worker: self.index,
            id: run.id,
            key: run.key.clone(),
            attempt: number,
            since: clock::now(),
            stalled: false,
        });
        let started_ms = clock::now_ms();
        let started = clock::now();
        let (result, output) = self.step(&run, number);
        let mut attempt = AttemptRecord {
            number,
            started_ms,
            run_us: i64::try_from((clock::now() - started).as_micros()).unwrap_or(i64::MAX),
            worker: self.index,
            error: None,
            output,
        };
        self.live.end(self.index);
        match result {
            Ok(()) => {
                self.live.runs_succeeded.add(1);
                self.live.records_done.add(run.batch.len() as u64);
                self.end(run, RunState::Succeeded, attempt);
            }
            Err(_) if self.forced.load(Ordering::Acquire) => {
                log::info!(
                    "run {} was ended by force: it is made again at the next start",
                    run.key
                );
            }
            Err(error) => {
                attempt.error = Some(one_line(error.message()));
                self.live.attempts_failed.add(1);
                match self.policy.after(number, &error, fastrand::f64()) {
                    Verdict::Again(pause) => {
                        log::warn!(
                            "run {}: attempt {number} of {} failed: {}; again in {pause:.1?}",
                            run.key,
                            self.policy.max_attempts,
                            attempt.error.as_deref().unwrap_or_default()
                        );
                        run.failed_attempts = number;
                        self.note(&run, RunState::Queued, attempt);
                        self.queue.retry(run, clock::now() + pause);
                    }
                    Verdict::DeadLetter => {
                        log::error!(
                            "run {} failed after {number} attempt(s): {}; its {} record(s) are kept as \
                             dead letters and the offsets go on",
                            run.key,
                            attempt.error.as_deref().unwrap_or_default(),
                            run.batch.len()
                        );
                        self.live.runs_failed.add(1);
                        self.live.dead_letters.add(run.batch.len() as u64);
                        self.end(run, RunState::Failed, attempt);
                    }
                    Verdict::Halt => {
                        let text = format!(
                            "run {} failed after {number} attempt(s): {}; halting as asked: nothing \
                             is committed past it",
                            run.key,
                            attempt.error.as_deref().unwrap_or_default()
                        );
                        self.live.runs_halted.add(1);
                        self.note(&run, RunState::Halted, attempt);
                        // Full: another end is on its way already.
                        let _ = self.events.try_send(Event::Halt(Error::Halt(text)));
                    }
                }
            }
        }
    }

    /// A panic in the step fails this attempt, nothing more.
    fn step(&self, run: &Run, number: u32) -> (Result<(), StepError>, Option<String>) {
        if run.batch.is_empty() {
            // Compaction left nothing of the range: there is nothing to do.
            return (Ok(()), None);
        }
        let mut attempt = Attempt { key: &run.key, number, batch: &run.batch, output: None };
        let result = catch_unwind(AssertUnwindSafe(|| self.step.run(&mut attempt)));
        let result = result.unwrap_or_else(|payload| {
            Err(StepError::Retry(format!("the step panicked: {}", panic_message(payload.as_ref()))))
        });
        (result, attempt.output)
    }

    fn end(&self, run: Run, state: RunState, attempt: AttemptRecord) {
        let Run { id, key, batch, permit, .. } = run;
        let records = batch.len();
        let dead_letters = (state == RunState::Failed).then_some((batch, permit));
        self.history.outcome(Outcome { id, key, state, records, attempt, dead_letters });
    }

    /// Writes an attempt of a run that is not at its end.
    fn note(&self, run: &Run, state: RunState, attempt: AttemptRecord) {
        let (id, key, records) = (run.id, run.key.clone(), run.batch.len());
        self.history.outcome(Outcome { id, key, state, records, attempt, dead_letters: None });
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
    use super::*;

    #[test]
    fn errors_become_one_harmless_bounded_line() {
        assert_eq!(one_line("a\nb\u{1b}[1m"), "a; b\\u{1b}[1m");
        assert!(one_line(&"x".repeat(1 << 20)).chars().count() <= limits::ERROR_CHARS + 1);
    }
}

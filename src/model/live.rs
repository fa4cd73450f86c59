//! What is going on now: counters, and what each worker runs. Written by the threads of a pipeline, read by
//! the page, the metrics and the commands.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::model::clock;
use crate::model::latency::Latency;
use crate::model::measure::{Counter, Histogram, RUN_BOUNDS_S};
use crate::model::offset::RunKey;
use crate::model::run::RunId;
use crate::model::sync::{Mutex, MutexGuard};

#[derive(Debug)]
pub struct Live {
    pub records_in: Counter,
    pub bytes_in: Counter,
    /// Records that the step has processed.
    pub records_processed: Counter,
    pub bytes_done: Counter,
    pub runs_succeeded: Counter,
    pub runs_failed: Counter,
    pub runs_halted: Counter,
    pub runs_split: Counter,
    /// Offsets that were skipped without being processed (`--on-missing-offsets skip`).
    pub offsets_skipped: Counter,
    /// Messages that the broker had not acknowledged when the producer ended.
    pub messages_failed: Counter,
    /// Messages that the producer has sent.
    pub messages_posted: Counter,
    pub attempts_failed: Counter,
    pub dead_letters: Counter,
    pub ticks: Counter,
    /// The time that each attempt spent in its step.
    pub run_time: Histogram,
    /// The time from entering the queue to the first attempt.
    pub wait_time: Histogram,
    pub latency: Latency,
    pub failures: Failures,
    pub troubles: Troubles,
    /// When offsets were last committed, in ms since 1970; 0 if they were not yet.
    last_commit_ms: AtomicI64,
    /// What each worker runs, by the worker's number.
    workers: Mutex<Vec<Option<Running>>>,
}

/// A run that is with a worker.
#[derive(Clone, Debug)]
pub struct Running {
    pub worker: usize,
    pub id: RunId,
    pub key: RunKey,
    /// From 1.
    pub attempt: u32,
    pub since: Instant,
    /// It has exceeded `--step-timeout`, or was cancelled, in a step that cannot be ended.
    pub stalled: bool,
}

impl Live {
    pub fn new(workers: usize) -> Live {
        Live {
            records_in: Counter::default(),
            bytes_in: Counter::default(),
            records_processed: Counter::default(),
            bytes_done: Counter::default(),
            runs_succeeded: Counter::default(),
            runs_failed: Counter::default(),
            runs_halted: Counter::default(),
            runs_split: Counter::default(),
            offsets_skipped: Counter::default(),
            messages_failed: Counter::default(),
            messages_posted: Counter::default(),
            attempts_failed: Counter::default(),
            dead_letters: Counter::default(),
            ticks: Counter::default(),
            run_time: Histogram::new(
                "mb_run_duration_seconds",
                "Time in the step, of each attempt.",
                &RUN_BOUNDS_S,
            ),
            wait_time: Histogram::new(
                "mb_run_wait_seconds",
                "Time from the queue to the first attempt.",
                &RUN_BOUNDS_S,
            ),
            latency: Latency::default(),
            failures: Failures::default(),
            troubles: Troubles::default(),
            last_commit_ms: AtomicI64::new(0),
            workers: Mutex::new(vec![None; workers]),
        }
    }

    /// Records that are done with: processed, or kept as dead letters.
    pub fn records_done(&self) -> u64 {
        self.records_processed.get() + self.dead_letters.get()
    }

    /// Offsets have just been committed.
    pub fn committed(&self) {
        self.last_commit_ms.store(clock::now_ms(), Ordering::Relaxed);
    }

    /// When offsets were last committed, in ms since 1970.
    pub fn last_commit_ms(&self) -> Option<i64> {
        Some(self.last_commit_ms.load(Ordering::Relaxed)).filter(|ms| *ms > 0)
    }

    pub fn start(&self, running: Running) {
        let mut workers = self.workers_lock();
        let worker = running.worker;
        if workers.len() <= worker {
            workers.resize(worker + 1, None);
        }
        workers[worker] = Some(running);
    }

    pub fn end(&self, worker: usize) {
        if let Some(running) = self.workers_lock().get_mut(worker) {
            *running = None;
        }
    }

    /// The runs that are with workers.
    pub fn running(&self) -> Vec<Running> {
        self.workers_lock().iter().flatten().cloned().collect()
    }

    /// What each worker runs, by the worker's number.
    #[cfg(any(test, feature = "testing"))]
    pub fn workers(&self) -> Vec<Option<Running>> {
        self.workers_lock().clone()
    }

    /// Sets the number of workers. Those of higher numbers stay until they have ended their run.
    pub fn set_workers(&self, count: usize) {
        let mut workers = self.workers_lock();
        let busy = workers.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        workers.resize(count.max(busy), None);
    }

    /// Marks a run as stalled, if it is with a worker: its step cannot be ended.
    pub fn stall(&self, run: RunId) -> Option<Running> {
        let mut workers = self.workers_lock();
        let running = workers.iter_mut().flatten().find(|running| running.id == run)?;
        running.stalled = true;
        Some(running.clone())
    }

    /// Marks the runs as stalled that have been in their step for longer than `limit`; returns those that
    /// were not marked before.
    pub fn mark_stalled(&self, limit: Duration) -> Vec<Running> {
        let mut found = Vec::new();
        for running in self.workers_lock().iter_mut().flatten() {
            if !running.stalled && running.since.elapsed() > limit {
                running.stalled = true;
                found.push(running.clone());
            }
        }
        found
    }

    fn workers_lock(&self) -> MutexGuard<'_, Vec<Option<Running>>> {
        self.workers.lock()
    }
}

/// How many attempts have failed in a row, and why the last one did.
#[derive(Debug, Default)]
pub struct Failures {
    in_a_row: AtomicU64,
    last: Mutex<Option<(String, Instant)>>,
}

impl Failures {
    pub fn succeeded(&self) {
        // It is 0 nearly always; not to write it then leaves the other cores' caches alone.
        if self.in_a_row.load(Ordering::Relaxed) > 0 {
            self.in_a_row.store(0, Ordering::Relaxed);
        }
    }

    pub fn failed(&self, error: &str) {
        self.in_a_row.fetch_add(1, Ordering::Relaxed);
        let last = Some((error.to_owned(), clock::now()));
        *self.last.lock() = last;
    }

    /// How many failed in a row; the error of the last one, and when it was.
    pub fn read(&self) -> (u64, Option<(String, Instant)>) {
        let last = self.last.lock().clone();
        (self.in_a_row.load(Ordering::Relaxed), last)
    }
}

/// What the threads fail at now, by the thread's name.
#[derive(Debug, Default)]
pub struct Troubles(Mutex<BTreeMap<String, Failing>>);

/// What a sensor fails at while a partition cannot be read and the others can.
pub const READING_A_PARTITION: &str = "reading a partition";

/// What one thread fails at.
#[derive(Clone, Debug)]
pub struct Failing {
    /// For example "committing offsets".
    pub what: &'static str,
    pub since: Instant,
    /// The newest cause.
    pub cause: String,
}

impl Troubles {
    /// The thread `who` has failed, perhaps not for the first time.
    pub fn begin(&self, who: &str, what: &'static str, cause: &str) {
        let mut troubles = self.0.lock();
        let since = troubles.get(who).map_or_else(clock::now, |known| known.since);
        troubles.insert(who.to_owned(), Failing { what, since, cause: cause.to_owned() });
    }

    /// The thread `who` works, or works again.
    pub fn end(&self, who: &str) {
        self.0.lock().remove(who);
    }

    pub fn read(&self) -> Vec<Failing> {
        let troubles = self.0.lock();
        troubles.values().cloned().collect()
    }
}

/// Logs a temporary failure once: when it begins, when its cause changes, and when it is over.
#[derive(Debug, Default)]
pub struct Trouble {
    cause: Mutex<Option<(String, Instant)>>,
    present: AtomicBool,
}

impl Trouble {
    /// `what` failed because of `cause`; logged unless the cause was the same before.
    pub fn begin(&self, what: &str, cause: &str) {
        let mut known = self.cause.lock();
        let since = known.as_ref().map_or_else(Instant::now, |(_, since)| *since);
        if known.as_ref().is_none_or(|(known, _)| known != cause) {
            log::warn!("{what}: {cause}; retrying until it works");
        }
        *known = Some((cause.to_owned(), since));
        self.present.store(true, Ordering::Release);
    }

    /// `what` works again.
    pub fn end(&self, what: &str) {
        if !self.present.swap(false, Ordering::AcqRel) {
            return;
        }
        let known = self.cause.lock().take();
        if let Some((_, since)) = known {
            log::info!("{what}: works again, after {:.1} s", since.elapsed().as_secs_f64());
        }
    }
}

//! What is going on now: counters, and what each worker runs. Written by the threads of a
//! pipeline, read by whoever shows it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::offset::RunKey;
use crate::run::RunId;

#[derive(Debug)]
pub struct Live {
    pub started: Instant,
    pub records_in: Counter,
    pub records_done: Counter,
    pub runs_succeeded: Counter,
    pub runs_failed: Counter,
    pub runs_halted: Counter,
    pub runs_split: Counter,
    /// Offsets passed over without being processed (`--on-missing-offsets skip`).
    pub offsets_skipped: Counter,
    /// Messages of the producer that the broker has not acknowledged, at its end.
    pub messages_failed: Counter,
    /// Messages that the producer has handed over, at its end.
    pub messages_posted: Counter,
    pub attempts_failed: Counter,
    pub dead_letters: Counter,
    pub ticks: Counter,
    /// By their number.
    workers: Mutex<Vec<Option<Running>>>,
}

/// A run that a worker has now.
#[derive(Clone, Debug)]
pub struct Running {
    pub worker: usize,
    pub id: RunId,
    pub key: RunKey,
    /// From 1.
    pub attempt: u32,
    pub since: Instant,
    /// Past `--step-timeout`, or cancelled, in a step that cannot be ended.
    pub stalled: bool,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Live {
    pub fn new(workers: usize) -> Live {
        Live {
            started: Instant::now(),
            records_in: Counter::default(),
            records_done: Counter::default(),
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
            workers: Mutex::new(vec![None; workers]),
        }
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

    /// What the workers run now.
    pub fn running(&self) -> Vec<Running> {
        self.workers_lock().iter().flatten().cloned().collect()
    }

    /// Each worker that there is, by its number, with what it runs.
    pub fn workers(&self) -> Vec<Option<Running>> {
        self.workers_lock().clone()
    }

    /// There are so many workers, and those of higher numbers that have a run still.
    pub fn set_workers(&self, count: usize) {
        let mut workers = self.workers_lock();
        let busy = workers.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        workers.resize(count.max(busy), None);
    }

    /// Marks a run as stalled, where it runs: what it runs in cannot be ended.
    pub fn stall(&self, run: RunId) -> Option<Running> {
        let mut workers = self.workers_lock();
        let running = workers.iter_mut().flatten().find(|running| running.id == run)?;
        running.stalled = true;
        Some(running.clone())
    }

    /// Marks runs that have been in their step for longer than `limit` as stalled; returns those
    /// that were not marked before.
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
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says a passing trouble once: when it comes, when its cause changes, and when it is over.
#[derive(Debug, Default)]
pub struct Trouble {
    cause: Mutex<Option<(String, Instant)>>,
    present: AtomicBool,
}

impl Trouble {
    /// `what` failed because of `cause`; logged unless it was the same before.
    pub fn begin(&self, what: &str, cause: &str) {
        let mut known = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
        let since = known.as_ref().map_or_else(Instant::now, |(_, since)| *since);
        if known.as_ref().is_none_or(|(known, _)| known != cause) {
            log::warn!("{what}: {cause}; trying again until it works");
        }
        *known = Some((cause.to_owned(), since));
        self.present.store(true, Ordering::Release);
    }

    /// `what` works again.
    pub fn end(&self, what: &str) {
        if !self.present.swap(false, Ordering::AcqRel) {
            return;
        }
        let known = self.cause.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((_, since)) = known {
            log::info!("{what}: works again, after {:.1} s", since.elapsed().as_secs_f64());
        }
    }
}

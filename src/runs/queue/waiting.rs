//! A heap of runs that wait for a point in time: retries, and dead letters that are to be delivered.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use crate::model::run::{Run, RunId};

/// Runs by the time at which they are due; of those due at the same time, the oldest run is first.
#[derive(Debug)]
pub(super) struct Waiting<T>(BinaryHeap<Reverse<Entry<T>>>);

#[derive(Debug)]
struct Entry<T> {
    due: Instant,
    run: Run,
    with: T,
}

impl<T> Default for Waiting<T> {
    fn default() -> Waiting<T> {
        Waiting(BinaryHeap::new())
    }
}

impl<T> Waiting<T> {
    pub fn push(&mut self, due: Instant, run: Run, with: T) {
        self.0.push(Reverse(Entry { due, run, with }));
    }

    /// The first run if it is due, otherwise how long it is until one is. `None` if no run waits.
    pub fn pop_due(&mut self, now: Instant) -> Option<Result<(Run, T), Duration>> {
        let wait = self.0.peek()?.0.due.saturating_duration_since(now);
        if !wait.is_zero() {
            return Some(Err(wait));
        }
        self.0.pop().map(|Reverse(entry)| Ok((entry.run, entry.with)))
    }

    /// The first run, due or not.
    pub fn pop_first(&mut self) -> Option<(Run, T)> {
        self.0.pop().map(|Reverse(entry)| (entry.run, entry.with))
    }

    /// Makes all runs due at `now`; they keep their order.
    pub fn hurry_all(&mut self, now: Instant) {
        let mut all = std::mem::take(&mut self.0).into_sorted_vec();
        all.iter_mut().for_each(|Reverse(entry)| entry.due = entry.due.min(now));
        self.0 = all.into();
    }

    pub fn iter(&self) -> impl Iterator<Item = &Run> {
        self.0.iter().map(|Reverse(entry)| &entry.run)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Removes the runs for which `is_taken` is true; they keep the times at which they are due.
    pub fn split_off(&mut self, is_taken: impl Fn(&Run) -> bool) -> Waiting<T> {
        let all = std::mem::take(&mut self.0).into_vec();
        let (taken, kept): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|Reverse(entry)| is_taken(&entry.run));
        self.0 = kept.into();
        Waiting(taken.into())
    }

    pub fn append(&mut self, mut other: Waiting<T>) {
        self.0.append(&mut other.0);
    }

    pub fn into_runs(self) -> impl Iterator<Item = Run> {
        self.0.into_vec().into_iter().map(|Reverse(entry)| entry.run)
    }

    /// Makes a run due at `now`, if it is here.
    pub fn hurry(&mut self, run: RunId, now: Instant) {
        let mut all = std::mem::take(&mut self.0).into_vec();
        for Reverse(entry) in all.iter_mut().filter(|Reverse(entry)| entry.run.id == run) {
            entry.due = entry.due.min(now);
        }
        self.0 = all.into();
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Entry<T>) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Entry<T>) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Entry<T>) -> Ordering {
        (self.due, self.run.id).cmp(&(other.due, other.run.id))
    }
}

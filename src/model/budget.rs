//! The byte budget: how much memory batches may hold, being filled, queued and running together.
//!
//! Bytes are acquired before they are used (`Permit`) and released when the permit is dropped.

use std::sync::Arc;
use std::time::Instant;

use crate::model::clock;
use crate::model::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::model::sync::{Condvar, Mutex};

/// A shared bound in bytes (`--queue-bytes`).
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
    closed: AtomicBool,
    /// Waiters sleep here; the lock guards nothing but their falling asleep.
    released: (Mutex<()>, Condvar),
    /// How many waiters sleep, or are about to. A release notifies only if there are any: each side writes
    /// its own number before it reads the other's, in one order for all threads (`SeqCst`). With a weaker
    /// ordering, a waiter could see no free bytes while the release sees no waiter, and sleep for ever.
    waiting: AtomicUsize,
}

impl Budget {
    pub fn new(limit: usize) -> Arc<Budget> {
        Arc::new(Budget {
            limit,
            used: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            released: (Mutex::new(()), Condvar::new()),
            waiting: AtomicUsize::new(0),
        })
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    pub fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// Acquires `bytes`, or returns `None` if they are not free now.
    pub fn try_acquire(self: &Arc<Budget>, bytes: usize) -> Option<Permit> {
        let taken = self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |used| {
            used.checked_add(bytes).filter(|sum| *sum <= self.limit)
        });
        taken.ok().map(|_| Permit { budget: Some(Arc::clone(self)), bytes, base: None })
    }

    /// Waits for `bytes` until `deadline`; `None` if they are not free by then.
    pub fn acquire_until(self: &Arc<Budget>, bytes: usize, deadline: Instant) -> Option<Permit> {
        loop {
            if let Some(permit) = self.try_acquire(bytes) {
                return Some(permit);
            }
            let wait = deadline.checked_duration_since(clock::now())?;
            if self.is_closed() {
                return None;
            }
            if !clock::wait_simulated(wait) {
                break;
            }
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let permit = self.sleep_until_acquired(bytes, deadline);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        permit
    }

    fn sleep_until_acquired(self: &Arc<Budget>, bytes: usize, deadline: Instant) -> Option<Permit> {
        let (lock, released) = &self.released;
        let mut guard = lock.lock();
        loop {
            if let Some(permit) = self.try_acquire(bytes) {
                return Some(permit);
            }
            let wait = deadline.checked_duration_since(clock::now())?;
            if self.closed.load(Ordering::SeqCst) {
                return None;
            }
            released.wait_for(&mut guard, wait);
        }
    }

    /// mb is stopping: whoever waits for bytes gets none.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.wake_all();
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn release(&self, bytes: usize) {
        let before = self.used.fetch_sub(bytes, Ordering::SeqCst);
        assert!(before >= bytes, "no more bytes are released than were acquired");
        self.wake_all();
    }

    fn wake_all(&self) {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        // Under the lock no waiter is between its look at `used` and its sleep.
        drop(self.released.0.lock());
        self.released.1.notify_all();
    }
}

/// Bytes acquired from a budget; dropping it releases them.
#[derive(Debug)]
pub struct Permit {
    budget: Option<Arc<Budget>>,
    bytes: usize,
    /// The permit that these bytes were overdrawn on top of.
    base: Option<Arc<Permit>>,
}

impl Permit {
    /// No bytes, of no budget.
    pub fn nothing() -> Permit {
        Permit { budget: None, bytes: 0, base: None }
    }

    pub fn bytes(&self) -> usize {
        self.bytes + self.base.as_ref().map_or(0, |base| base.bytes())
    }

    /// Acquires `bytes` more of the budget of `base` (which it keeps), even if they are not free. For memory
    /// that is in use already: once it is counted, nothing else is acquired until as much was released.
    pub fn overdrawn(base: &Arc<Permit>, bytes: usize) -> Permit {
        let budget = base.budget().cloned();
        if let Some(budget) = &budget {
            budget.used.fetch_add(bytes, Ordering::AcqRel);
        }
        Permit { budget, bytes, base: Some(Arc::clone(base)) }
    }

    fn budget(&self) -> Option<&Arc<Budget>> {
        self.budget.as_ref().or_else(|| self.base.as_ref()?.budget())
    }

    /// Adds another permit of the same budget to this one.
    pub fn merge(&mut self, mut other: Permit) {
        if self.budget.is_none() {
            self.budget = other.budget.take();
        }
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(budget) = &self.budget
            && self.bytes > 0
        {
            budget.release(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_full_budget_gives_nothing_until_bytes_are_released() {
        let budget = Budget::new(100);
        let mut first = budget.try_acquire(60).expect("room for 60");
        assert!(budget.try_acquire(41).is_none());
        first.merge(budget.try_acquire(40).expect("room for 40 more"));
        assert_eq!(first.bytes(), 100);
        assert!(budget.acquire_until(1, Instant::now() + Duration::from_millis(5)).is_none());
        drop(first);
        assert_eq!(budget.used(), 0);
        assert!(budget.try_acquire(usize::MAX).is_none());
    }

    #[test]
    fn overdrawn_bytes_are_counted_and_released_together_with_their_base() {
        let budget = Budget::new(100);
        let base = Arc::new(budget.try_acquire(90).expect("room for 90"));
        let more = Permit::overdrawn(&base, 40);
        drop(base);
        assert_eq!((more.bytes(), budget.used()), (130, 130));
        assert!(budget.try_acquire(1).is_none());
        drop(more);
        assert_eq!(budget.used(), 0);
        let more = Permit::overdrawn(&Arc::new(Permit::nothing()), 40);
        assert_eq!((more.bytes(), budget.used()), (40, 0));
    }

    #[test]
    fn nobody_waits_for_a_closed_budget() {
        let budget = Budget::new(10);
        let _held = budget.try_acquire(10);
        budget.close();
        assert!(budget.acquire_until(1, Instant::now() + Duration::from_secs(60)).is_none());
    }

    #[test]
    fn a_waiter_wakes_when_bytes_are_released() {
        let budget = Budget::new(10);
        let held = budget.try_acquire(10);
        let waiter = {
            let budget = Arc::clone(&budget);
            crate::model::thread::spawn("waiter", move || {
                budget.acquire_until(10, Instant::now() + Duration::from_secs(60)).is_some()
            })
            .unwrap()
        };
        drop(held);
        assert!(waiter.join().unwrap());
    }
}

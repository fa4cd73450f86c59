//! The memory budget: whoever waits for bytes gets them, or learns that mb stops.

use std::sync::Arc;
use std::time::Instant;

use models::model::budget::Budget;
use shuttle::thread;

use crate::{HOUR, explore};

/// Fails if a release looks for waiters before it gives the bytes back, if a waiter counts itself only after it
/// has looked for bytes, or if a release notifies without taking the lock.
#[test]
fn every_waiter_for_the_budget_gets_its_bytes() {
    explore(|| {
        let budget = Budget::new(10);
        let waiters: Vec<_> = [6, 10, 5]
            .into_iter()
            .map(|bytes| {
                let budget = Arc::clone(&budget);
                thread::spawn(move || {
                    let permit = budget.acquire_until(bytes, Instant::now() + HOUR);
                    assert_eq!(permit.map(|permit| permit.bytes()), Some(bytes));
                })
            })
            .collect();
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
        assert_eq!(budget.used(), 0);
    });
}

/// Fails if `close` notifies without taking the lock.
#[test]
fn nobody_waits_for_a_budget_that_was_closed() {
    explore(|| {
        let budget = Budget::new(10);
        let _all = budget.try_acquire(10);
        let waiters: Vec<_> = (0..2)
            .map(|_| {
                let budget = Arc::clone(&budget);
                thread::spawn(move || {
                    assert!(budget.acquire_until(1, Instant::now() + HOUR).is_none());
                })
            })
            .collect();
        budget.close();
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
    });
}

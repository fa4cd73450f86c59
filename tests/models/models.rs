//! Models of the synchronisers that mb makes by hand: each runs under thousands of interleavings, of a fixed
//! seed. A lost wake-up is a deadlock, which shuttle reports with the schedule that leads to it.
//!
//! Each of them fails if the code is broken in the way that its comment says.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use models::model::budget::Budget;
use models::model::run::RunId;
use models::model::sync::{Condvar, Mutex};
use models::runs::cancels::{Cancels, Found};
use models::runs::idle::IdleWorkers;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::thread;
use shuttle::{Config, Runner};

const SEED: u64 = 13;
const HOUR: Duration = Duration::from_secs(3600);

/// Runs a model under random schedules, and under schedules with few preemptions at unlucky places.
fn explore(model: impl Fn() + Copy + Send + Sync + 'static) {
    Runner::new(RandomScheduler::new_from_seed(SEED, 2000), Config::new()).run(model);
    Runner::new(PctScheduler::new_from_seed(SEED, 3, 2000), Config::new()).run(model);
}

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

/// Fails if `step_over` forgets the cancel that came within the step, or if `reported` wakes nobody.
#[test]
fn a_cancel_is_seen_by_its_run_or_learns_that_it_is_late() {
    const RUNS: i64 = 3;
    explore(|| {
        let cancels = Arc::new(Cancels::default());
        let canceller = {
            let cancels = Arc::clone(&cancels);
            thread::spawn(move || -> Vec<bool> {
                let cancel = |run| {
                    let found = cancels.cancel(RunId(run), "no", HOUR);
                    assert_ne!(found, Found::Ending, "it waits for the report");
                    // As the canceller does if the history says that the run has ended.
                    found == Found::InStep || !cancels.take_back(RunId(run))
                };
                (0..RUNS).map(cancel).collect()
            })
        };
        let seen: Vec<bool> = (0..RUNS)
            .map(|run| {
                let before = cancels.begin(RunId(run)).is_some();
                let within = !before && cancels.step_over(RunId(run)).is_some();
                cancels.reported(RunId(run), true);
                before || within
            })
            .collect();
        assert_eq!(canceller.join().unwrap(), seen);
    });
}

/// What the workers of the next model look for.
#[derive(Default)]
struct Work {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    runs: VecDeque<usize>,
    at_work: usize,
    done: usize,
    is_closed: bool,
}

/// Fails if a worker that has arrived does not wake another one although there is more; if `sleep` ignores that a
/// worker is wanted; or if it does not look at `is_over`.
#[test]
fn as_many_workers_are_woken_as_there_are_runs_and_all_at_the_end() {
    const RUNS: usize = 3;
    const WORKERS: usize = 3;
    explore(|| {
        let work = Arc::new(Work::default());
        let idle = Arc::new(IdleWorkers::default());
        let workers: Vec<_> = (0..WORKERS)
            .map(|_| {
                let (work, idle) = (Arc::clone(&work), Arc::clone(&idle));
                thread::spawn(move || work_until_closed(&work, &idle))
            })
            .collect();
        // One by one, and two at once: as a sensor does.
        work.state.lock().runs.push_back(0);
        idle.wake_one();
        work.state.lock().runs.extend([1, 2]);
        idle.wake_one();
        let mut state = work.state.lock();
        // Each run goes on only when all are with workers: one that nobody takes holds up the others.
        while state.done < RUNS {
            work.changed.wait(&mut state);
        }
        state.is_closed = true;
        drop(state);
        idle.wake_all();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    });

    fn work_until_closed(work: &Work, idle: &IdleWorkers) {
        loop {
            let mut state = work.state.lock();
            if state.is_closed {
                return;
            }
            if state.runs.pop_front().is_none() {
                drop(state);
                idle.sleep(HOUR, || work.state.lock().is_closed);
                continue;
            }
            drop(state);
            idle.arrived(|| !work.state.lock().runs.is_empty());
            let mut state = work.state.lock();
            state.at_work += 1;
            work.changed.notify_all();
            while state.at_work < RUNS {
                work.changed.wait(&mut state);
            }
            state.done += 1;
            work.changed.notify_all();
        }
    }
}

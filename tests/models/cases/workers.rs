//! Where idle workers sleep: as many are woken as there are runs.

use std::collections::VecDeque;
use std::sync::Arc;

use models::model::sync::{Condvar, Mutex};
use models::runs::queue::idle::IdleWorkers;
use shuttle::thread;

use crate::{HOUR, explore};

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

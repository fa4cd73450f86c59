//! The run queue: which runs wait for what, and what wakes a worker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, never};

use super::*;
use crate::config::{Order, limits};
use crate::model::batch::Batch;
use crate::model::budget::Budget;
use crate::model::offset::{Offset, OffsetRange, RunKey};
use crate::model::run::{Run, RunId};
use crate::model::sync::Mutex;
use crate::model::thread;

fn run(id: i64) -> Run {
    let range = OffsetRange::new(Offset::new(id), Offset::new(id));
    Run::for_tests(id, RunKey::new("t", 0, range), Batch::default())
}

fn queue(runs: usize) -> RunQueue {
    RunQueue::new(runs, Order::None, usize::MAX)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(5)
}

fn late() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

#[test]
fn a_full_queue_holds_the_sensor_back_until_its_deadline() {
    let queue = queue(1);
    let (_running, stop) = bounded(0);
    queue.push(run(1), late(), &stop).unwrap();
    assert_eq!(queue.push(run(2), soon(), &stop), Err(Refused::Full));
    assert_eq!(queue.next(&never()).unwrap().id, RunId(1));
    queue.push(run(3), late(), &stop).unwrap();
}

#[test]
fn a_stop_ends_the_wait_for_room() {
    let queue = queue(1);
    let (running, stop) = bounded(0);
    queue.push(run(1), late(), &stop).unwrap();
    drop(running);
    assert_eq!(queue.push(run(2), late(), &stop), Err(Refused::Stopping));
}

#[test]
fn room_made_while_waiting_is_used() {
    let queue = Arc::new(queue(1));
    let (_running, stop) = bounded(0);
    queue.push(run(1), late(), &stop).unwrap();
    let taker = {
        let queue = Arc::clone(&queue);
        thread::spawn("taker", move || {
            [queue.next(&never()), queue.next(&never())].map(|run| run.unwrap().id.0)
        })
        .unwrap()
    };
    queue.push(run(2), late(), &stop).unwrap();
    assert_eq!(taker.join().unwrap(), [1, 2]);
}

#[test]
fn due_retries_come_in_order_and_before_queued_runs() {
    let queue = queue(5);
    let (_running, stop) = bounded(0);
    let now = Instant::now();
    queue.push(run(9), late(), &stop).unwrap();
    queue.retry(run(2), now + Duration::from_millis(2));
    queue.retry(run(1), now + Duration::from_millis(1));
    assert_eq!(queue.next(&never()).unwrap().id, RunId(9), "nothing else is due yet");
    assert_eq!(queue.next(&never()).unwrap().id, RunId(1));
    assert_eq!(queue.next(&never()).unwrap().id, RunId(2));
}

#[test]
fn an_idle_worker_is_woken_for_a_retry_even_if_the_one_that_watched_for_it_is_busy() {
    let queue = Arc::new(queue(5));
    let (taken, got) = bounded(10);
    let (release, wait) = bounded::<()>(0);
    let workers: Vec<_> = (0..2)
        .map(|_| {
            let (queue, taken, wait) = (Arc::clone(&queue), taken.clone(), wait.clone());
            thread::spawn("idle", move || {
                while let Some(run) = queue.next(&never()) {
                    queue.started();
                    taken.send(run.id.0).unwrap();
                    let _ = wait.recv();
                }
            })
            .unwrap()
        })
        .collect();
    let (_running, stop) = bounded(0);
    queue.retry(run(7), Instant::now() + Duration::from_millis(30));
    queue.push(run(1), late(), &stop).unwrap();
    assert_eq!(got.recv_timeout(Duration::from_secs(60)), Ok(1));
    // One worker is held by run 1: the other one must take the retry.
    assert_eq!(got.recv_timeout(Duration::from_secs(60)), Ok(7));
    queue.close();
    drop(release);
    workers.into_iter().for_each(|worker| worker.join().unwrap());
}

#[test]
fn one_wake_up_for_many_runs_starts_as_many_workers_as_there_are_runs() {
    const WORKERS: usize = 4;
    let queue = Arc::new(queue(2 * WORKERS));
    let (taken, got) = bounded(10);
    let (release, wait) = bounded::<()>(0);
    let work = |_| {
        let (queue, taken, wait) = (Arc::clone(&queue), taken.clone(), wait.clone());
        let work = move || {
            while let Some(run) = queue.next(&never()) {
                queue.started();
                taken.send(run.id.0).unwrap();
                let _ = wait.recv();
            }
        };
        thread::spawn("worker", work).unwrap()
    };
    let workers: Vec<_> = (0..WORKERS).map(work).collect();
    let (_running, stop) = bounded(0);
    for id in 0..WORKERS as i64 {
        queue.push_while(run(id), late(), &stop, (&never(), &|| true)).unwrap();
    }
    queue.wake();
    let mut ids: Vec<i64> =
        (0..WORKERS).map(|_| got.recv_timeout(Duration::from_secs(60)).unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, [0, 1, 2, 3], "each holds one, none waits");
    queue.close();
    drop(release);
    workers.into_iter().for_each(|worker| worker.join().unwrap());
}

#[test]
fn a_retired_worker_ends_and_another_one_watches_for_its_retries() {
    let queue = Arc::new(queue(5));
    let (taken, got) = bounded(10);
    let (employed, retired) = bounded::<()>(0);
    let work = |retired: Receiver<()>| {
        let (queue, taken) = (Arc::clone(&queue), taken.clone());
        let work = move || {
            while let Some(run) = queue.next(&retired) {
                taken.send(run.id.0).unwrap();
            }
        };
        thread::spawn("worker", work).unwrap()
    };
    let first = work(retired);
    queue.retry(run(7), Instant::now() + Duration::from_millis(200));
    let second = work(never());
    drop(employed);
    queue.look_again();
    first.join().unwrap();
    assert_eq!(got.recv_timeout(Duration::from_secs(60)), Ok(7), "at its time, not in an hour");
    queue.close();
    second.join().unwrap();
}

#[test]
fn a_retry_that_is_hurried_is_due_at_once() {
    let queue = queue(5);
    queue.retry(run(1), late());
    queue.retry(run(2), late());
    queue.hurry(RunId(2));
    assert_eq!(queue.next(&never()).unwrap().id, RunId(2));
    assert_eq!(queue.waiting_retries(), 1);
}

#[test]
fn a_sensor_that_waits_for_room_evaluates_its_condition_whenever_it_is_woken() {
    let queue = queue(1);
    let (_running, stop) = bounded(0);
    queue.push(run(1), late(), &stop).unwrap();
    let (waker, wake) = bounded(1);
    waker.send(()).unwrap();
    let looks = std::cell::Cell::new(0);
    let waits = || looks.replace(looks.get() + 1) == 0;
    let refused = queue.push_while(run(2), late(), &stop, (&wake, &waits));
    assert_eq!((refused, looks.get()), (Err(Refused::Full), 2));
}

#[test]
fn in_order_a_run_waits_for_the_one_before_it_even_while_that_is_retried() {
    let queue = RunQueue::new(5, Order::Partition, usize::MAX);
    let (_running, stop) = bounded(0);
    for id in [1, 2, 3] {
        queue.push(run(id), late(), &stop).unwrap();
    }
    let mut other = run(4);
    other.key.partition = 1;
    queue.push(other, late(), &stop).unwrap();
    let first = queue.next(&never()).unwrap();
    assert_eq!(first.id, RunId(1));
    assert_eq!(queue.next(&never()).unwrap().id, RunId(4), "another partition goes on");
    assert_eq!(queue.parked(), 2);
    queue.retry(first, Instant::now());
    let first = queue.next(&never()).unwrap();
    assert_eq!(first.id, RunId(1));
    queue.ended(&first.key);
    let second = queue.next(&never()).unwrap();
    assert_eq!(second.id, RunId(2));
    let halves = vec![run(20), run(21)];
    queue.split(&second.key, halves, Instant::now());
    for id in [20, 21, 3] {
        let next = queue.next(&never()).unwrap();
        assert_eq!(next.id, RunId(id));
        queue.ended(&next.key);
    }
    assert_eq!(queue.parked(), 0);
}

#[test]
fn a_partition_whose_lane_is_stuck_is_held_until_half_of_its_runs_have_gone() {
    let queue = RunQueue::new(200, Order::Partition, usize::MAX);
    let (_running, stop) = bounded(0);
    let runs = limits::PARKED_RUNS as i64;
    for id in 0..=runs {
        queue.push(run(id), late(), &stop).unwrap();
    }
    let mut other = run(runs + 1);
    other.key.partition = 1;
    queue.push(other, late(), &stop).unwrap();
    let stuck = queue.next(&never()).unwrap();
    assert!(!queue.is_held(0, false));
    assert_eq!(queue.next(&never()).unwrap().id, RunId(runs + 1));
    assert!(queue.is_held(0, false) && !queue.is_held(1, false));
    let mut running = stuck;
    while queue.is_held(0, true) {
        queue.ended(&running.key);
        running = queue.next(&never()).unwrap();
    }
    assert_eq!(queue.parked(), limits::PARKED_RUNS / 2 - 1);
}

#[test]
fn few_large_parked_runs_hold_their_partition_too() {
    let budget = Budget::new(4000);
    let queue = RunQueue::new(9, Order::Partition, budget.limit());
    let (_running, stop) = bounded(0);
    for id in 0..4 {
        let permit = Arc::new(budget.try_acquire(1000).unwrap());
        queue.push(Run { permit, ..run(id) }, late(), &stop).unwrap();
    }
    queue
        .push(
            {
                let mut run = run(9);
                run.key.partition = 1;
                run
            },
            late(),
            &stop,
        )
        .unwrap();
    queue.next(&never()).unwrap();
    queue.next(&never()).unwrap();
    assert!(queue.is_held(0, false), "three of four hold more than half of all bytes");
    assert!(!queue.is_held(1, false), "nothing of it waits");
}

#[test]
fn the_memory_of_a_batch_counts_once_however_many_of_its_runs_are_parked() {
    let budget = Budget::new(4000);
    let queue = RunQueue::new(9, Order::Partition, budget.limit());
    let (_running, stop) = bounded(0);
    let permit = Arc::new(budget.try_acquire(1500).unwrap());
    for id in 0..4 {
        let permit = Arc::clone(&permit);
        queue.push(Run { permit, ..run(id) }, late(), &stop).unwrap();
    }
    let first = queue.next(&never()).unwrap();
    assert!(queue.try_next().is_none());
    assert_eq!(queue.parked(), 3);
    assert!(!queue.is_held(0, false), "1500 of 4000 bytes");
    queue.ended(&first.key);
    for id in 1..4 {
        let next = queue.next(&never()).unwrap();
        assert_eq!(next.id, RunId(id));
        queue.ended(&next.key);
    }
    assert!(queue.keeps_no_memory());
}

#[test]
fn workers_that_take_runs_at_once_keep_the_order_of_a_lane() {
    const RUNS: i64 = 20_000;
    let queue = Arc::new(RunQueue::new(100, Order::Partition, usize::MAX));
    let started = Arc::new(Mutex::new(Vec::new()));
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let (queue, started) = (Arc::clone(&queue), Arc::clone(&started));
            thread::spawn("taker", move || {
                while let Some(run) = queue.next(&never()) {
                    started.lock().push(run.id.0);
                    queue.ended(&run.key);
                }
            })
            .unwrap()
        })
        .collect();
    let (_running, stop) = bounded(0);
    for id in 0..RUNS {
        queue.push(run(id), late(), &stop).unwrap();
    }
    while started.lock().len() < RUNS as usize {
        std::thread::yield_now();
    }
    queue.close();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    assert!(started.lock().is_sorted());
}

#[test]
fn a_closed_queue_hands_out_nothing() {
    let queue = queue(5);
    let (_running, stop) = bounded(0);
    queue.push(run(1), late(), &stop).unwrap();
    queue.retry(run(2), Instant::now());
    queue.close();
    // A closed queue wins always.
    for _ in 0..50 {
        assert!(queue.next(&never()).is_none());
    }
}

#[test]
fn during_a_hold_one_run_at_a_time_probes_and_a_success_lets_all_go_on() {
    let queue = queue(9);
    let (_running, stop) = bounded(0);
    let began = Instant::now();
    for id in [1, 2, 3] {
        queue.push(run(id), late(), &stop).unwrap();
    }
    let failed = queue.try_next().unwrap();
    assert_eq!(queue.step_failed(&failed, "away", Instant::now()), None);
    queue.hold(Run { failed_attempts: 1, ..failed }, "away");
    assert!(queue.try_next().is_none(), "the pause before the first probe");
    assert!(queue.probe_now());
    let probe = queue.try_next().unwrap();
    assert_eq!(probe.id, RunId(2), "a fresh one first");
    let guard = queue.with_worker(&probe);
    assert!(queue.probe_now() && queue.try_next().is_none(), "one is under way");
    let line = queue.step_failed(&probe, "away", Instant::now());
    assert_eq!(line, Some(HoldLine::Begins), "the probe has failed too");
    queue.retry(probe, late());
    drop(guard);
    let probe = queue.try_next().unwrap();
    assert_eq!(probe.id, RunId(1), "then one that has failed, without a pause");
    assert!(queue.step_worked(began, Instant::now()).is_some());
    assert_eq!(queue.held(), None);
    drop(queue.with_worker(&probe));
    let rest = [queue.try_next(), queue.try_next()].map(|run| run.unwrap().id);
    assert_eq!(rest, [RunId(2), RunId(3)], "at once, whenever their attempts were due");
}

#[test]
fn in_a_hold_a_run_probes_once_a_round_and_then_all_pause() {
    let queue = queue(9);
    for id in [1, 2] {
        queue.hold(run(id), "away");
    }
    for _ in 0..3 {
        assert!(queue.probe_now());
        let mut tried = Vec::new();
        while let Some(probe) = queue.try_next() {
            tried.push(probe.id.0);
            let guard = queue.with_worker(&probe);
            queue.hold(probe, "away");
            drop(guard);
        }
        tried.sort_unstable();
        assert_eq!(tried, [1, 2]);
    }
}

#[test]
fn a_hold_that_begins_after_a_success_of_another_run_ends_with_the_next_one() {
    let queue = queue(9);
    let failed = run(1);
    queue.step_failed(&failed, "away", Instant::now());
    // Before its worker comes to hold it, another run succeeds.
    let began = Instant::now();
    assert!(queue.step_worked(began, Instant::now()).is_none());
    queue.hold(failed, "away");
    assert!(queue.step_worked(began, Instant::now()).is_some());
    assert_eq!(queue.held(), None);
}

#[test]
fn a_hold_of_nothing_ends() {
    let queue = queue(9);
    queue.hold(run(1), "away");
    queue.withdraw_partition(0);
    assert!(queue.held().is_some() && queue.probe_now());
    assert!(queue.try_next().is_none());
    assert_eq!(queue.held(), None);
}

#[test]
fn a_run_that_is_hurried_passes_a_hold() {
    let queue = queue(9);
    queue.hold(run(1), "away");
    queue.hold(run(2), "away");
    assert!(queue.try_next().is_none());
    queue.hurry(RunId(2));
    assert_eq!(queue.try_next().unwrap().id, RunId(2));
    assert!(queue.try_next().is_none());
    assert_eq!(queue.waiting_retries(), 1);
}

#[test]
fn a_worker_that_sleeps_in_a_hold_is_woken_for_the_next_probe_and_by_its_end() {
    let queue = Arc::new(queue(9));
    let (taken, got) = bounded(10);
    queue.hold(run(1), "away");
    queue.hold(run(2), "away");
    let worker = {
        let (queue, taken) = (Arc::clone(&queue), taken);
        let work = move || {
            while let Some(run) = queue.next(&never()) {
                let began = Instant::now();
                let guard = queue.with_worker(&run);
                queue.started();
                taken.send(run.id.0).unwrap();
                if run.id == RunId(1) {
                    queue.hold(run, "away");
                } else {
                    queue.step_failed(&run, "away", began);
                    queue.step_worked(began, Instant::now());
                }
                drop(guard);
            }
        };
        thread::spawn("worker", work).unwrap()
    };
    let ids: Vec<i64> =
        (0..3).map(|_| got.recv_timeout(Duration::from_secs(60)).unwrap()).collect();
    assert_eq!(ids, [1, 2, 1], "the second ends the hold");
    queue.close();
    worker.join().unwrap();
}

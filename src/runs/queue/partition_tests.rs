//! A partition is suspended, waited for, and taken out of the queue or resumed, while others go on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, never};
use proptest::prelude::*;

use super::*;
use crate::config::Order;
use crate::model::batch::Batch;
use crate::model::budget::{Budget, Permit};
use crate::model::offset::{Lane, Offset, OffsetRange, Partition, Reprocess, RunKey};
use crate::model::run::{Run, RunId};
use crate::model::sync::atomic::{AtomicBool, Ordering};
use crate::model::thread;

fn run(id: i64, partition: Partition, lane: u32, permit: Permit) -> Run {
    let range = OffsetRange::new(Offset::new(id), Offset::new(id));
    let key = RunKey { lane: Lane { index: lane, count: 3 }, ..RunKey::new("t", partition, range) };
    Run {
        id: RunId(id),
        key,
        whole: range,
        batch: Batch::default(),
        permit: Arc::new(permit),
        failed_attempts: 0,
        queued: Instant::now(),
        failing: None,
    }
}

fn late() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn push(queue: &RunQueue, run: Run) {
    queue.push(run, late(), &never()).unwrap();
}

fn next_ids(queue: &RunQueue) -> Vec<i64> {
    std::iter::from_fn(|| queue.try_next()).map(|run| run.id.0).collect()
}

/// A queue with runs of partition 0 in every place where runs can wait, and one with a worker: 1 waits
/// for a retry, 2 is with a worker, 3 waits behind 1, 4 and 8 are queued. 9 is of partition 1, 7 of a
/// replay of partition 0.
fn filled(budget: &Arc<Budget>) -> (RunQueue, Run) {
    let queue = RunQueue::new(9, Order::Key, budget.limit());
    let permit = || budget.try_acquire(10).unwrap();
    for (id, lane) in [(1, 0), (2, 1), (3, 0)] {
        push(&queue, run(id, 0, lane, permit()));
    }
    let waits = queue.try_next().unwrap();
    let running = queue.try_next().unwrap();
    assert!(queue.try_next().is_none());
    drop(queue.with_worker(&waits));
    queue.retry(waits, late());
    push(&queue, run(4, 0, 2, permit()));
    push(&queue, run(9, 1, 0, permit()));
    let mut replayed = run(7, 0, 0, permit());
    replayed.key.reprocess = Some(Reprocess::Replay(1));
    push(&queue, replayed);
    push(&queue, run(8, 0, 0, permit()));
    assert_eq!((running.id, queue.parked(), queue.waiting_retries()), (RunId(2), 1, 1));
    (queue, running)
}

#[test]
fn a_withdrawn_partition_leaves_nothing_but_the_run_that_is_with_a_worker() {
    let budget = Budget::new(1000);
    let (queue, running) = filled(&budget);
    queue.suspend_partition(0);
    assert_eq!(next_ids(&queue), [9, 7], "another partition and a replay go on");
    assert!(!queue.wait_idle(0, Instant::now(), || false));
    let guard = queue.with_worker(&running);
    // Its attempt failed.
    queue.retry(running, Instant::now());
    drop(guard);
    assert!(queue.try_next().is_none(), "the retry is due, and its partition suspended");
    assert!(queue.wait_idle(0, late(), || false));
    assert_eq!(queue.withdraw_partition(0), 5);
    assert!(queue.try_next().is_none() && queue.is_empty());
    assert_eq!((queue.parked(), queue.waiting_retries(), budget.used()), (0, 0, 0));
    assert!(queue.keeps_no_memory());
    // All lanes are free.
    for lane in 0..3 {
        push(&queue, run(20 + i64::from(lane), 0, lane, Permit::nothing()));
    }
    assert_eq!(next_ids(&queue), [20, 21, 22]);
}

#[test]
fn a_lane_stays_taken_while_its_run_is_with_a_worker_though_the_partition_is_withdrawn() {
    let (queue, running) = filled(&Budget::new(1000));
    assert_eq!(queue.withdraw_partition(0), 4);
    assert_eq!(next_ids(&queue), [7, 9]);
    push(&queue, run(20, 0, 1, Permit::nothing()));
    assert!(queue.try_next().is_none());
    queue.ended(&running.key);
    assert_eq!(next_ids(&queue), [20]);
}

#[test]
fn a_partition_that_is_resumed_goes_on_where_it_was() {
    let (queue, running) = filled(&Budget::new(1000));
    queue.suspend_partition(0);
    assert_eq!(next_ids(&queue), [9, 7]);
    queue.resume_partition(0);
    assert_eq!(next_ids(&queue), [4], "3 and 8 wait behind 1, which waits for its retry");
    queue.ended(&running.key);
    queue.hurry(RunId(1));
    for id in [1, 3, 8] {
        let next = queue.try_next().unwrap();
        assert_eq!(next.id, RunId(id));
        queue.ended(&next.key);
    }
}

#[test]
fn who_waits_for_a_partition_is_woken_by_its_last_run_and_by_a_call_off() {
    let queue = Arc::new(RunQueue::new(9, Order::None, 1000));
    let called_off = Arc::new(AtomicBool::new(false));
    let wait = || {
        let (queue, called_off) = (Arc::clone(&queue), Arc::clone(&called_off));
        let (begins, begun) = bounded(1);
        let wait = move || {
            queue.wait_idle(0, Instant::now() + Duration::from_secs(3600), || {
                let _ = begins.try_send(());
                called_off.load(Ordering::SeqCst)
            })
        };
        let waiter = thread::spawn("waiter", wait).unwrap();
        begun.recv().unwrap();
        waiter
    };
    for id in [1, 2] {
        push(&queue, run(id, 0, 0, Permit::nothing()));
    }
    let guards = [(); 2].map(|()| queue.with_worker(&queue.try_next().unwrap()));
    assert!(queue.is_idle(1) && !queue.is_idle(0));
    let waiter = wait();
    called_off.store(true, Ordering::SeqCst);
    queue.look_again();
    assert_eq!(waiter.join(), Ok(false));
    called_off.store(false, Ordering::SeqCst);
    let waiter = wait();
    drop(guards);
    assert_eq!(waiter.join(), Ok(true));
    push(&queue, run(3, 0, 0, Permit::nothing()));
    queue.try_next().unwrap();
    let waiter = wait();
    queue.close();
    assert_eq!(waiter.join(), Ok(false), "mb stops");
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Push(Partition, u32),
    Take,
    /// What becomes of the nth run that is with a worker.
    End(usize),
    Retry(usize),
    Suspend(Partition),
    Resume(Partition),
    Withdraw(Partition),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let partition = 0..2i32;
    let act = prop_oneof![
        6 => (partition.clone(), 0..3u32).prop_map(|(partition, lane)| Act::Push(partition, lane)),
        6 => Just(Act::Take),
        4 => (0..9usize).prop_map(Act::End),
        2 => (0..9usize).prop_map(Act::Retry),
        1 => partition.clone().prop_map(Act::Suspend),
        1 => partition.clone().prop_map(Act::Resume),
        1 => partition.prop_map(Act::Withdraw),
    ];
    proptest::collection::vec(act, 1..200)
}

proptest! {
    /// Whatever happens in between, every run is handed out until it ends or is withdrawn, never while
    /// its partition is suspended, never two of a lane at once, and in the order of its lane.
    #[test]
    fn every_run_ends_or_is_withdrawn(acts in acts(), ordered in any::<bool>()) {
        let order = if ordered { Order::Key } else { Order::None };
        let queue = RunQueue::new(1000, order, usize::MAX);
        let mut taken: Vec<Run> = Vec::new();
        let mut suspended = BTreeSet::new();
        let (mut pushed, mut ended, mut withdrawn) = (0, 0, 0);
        let mut last_of_lane = std::collections::BTreeMap::new();
        let mut take = |taken: &mut Vec<Run>, suspended: &BTreeSet<Partition>| {
            let Some(run) = queue.try_next() else { return Ok(false) };
            prop_assert!(!suspended.contains(&run.key.partition));
            if ordered {
                let lane = (run.key.partition, run.key.lane.index);
                let of_lane = |other: &Run| (other.key.partition, other.key.lane.index) == lane;
                prop_assert!(!taken.iter().any(of_lane));
                let last = last_of_lane.insert(lane, run.id);
                prop_assert!(last.is_none_or(|last| last <= run.id));
            }
            taken.push(run);
            Ok(true)
        };
        let put_down = |run: Run, retries: bool| {
            let key = run.key.clone();
            let guard = queue.with_worker(&run);
            if retries { queue.retry(run, Instant::now()) } else { queue.ended(&key) }
            drop(guard);
        };
        for act in acts {
            match act {
                Act::Push(partition, lane) => {
                    pushed += 1;
                    push(&queue, run(pushed, partition, lane, Permit::nothing()));
                }
                Act::Take => {
                    take(&mut taken, &suspended)?;
                }
                Act::End(nth) if nth < taken.len() => {
                    put_down(taken.remove(nth), false);
                    ended += 1;
                }
                Act::Retry(nth) if nth < taken.len() => put_down(taken.remove(nth), true),
                Act::End(_) | Act::Retry(_) => {}
                Act::Suspend(partition) => {
                    queue.suspend_partition(partition);
                    suspended.insert(partition);
                }
                Act::Resume(partition) => {
                    queue.resume_partition(partition);
                    suspended.remove(&partition);
                }
                Act::Withdraw(partition) => {
                    withdrawn += queue.withdraw_partition(partition) as i64;
                    suspended.remove(&partition);
                }
            }
            for partition in [0, 1] {
                let is_idle = taken.iter().all(|run| run.key.partition != partition);
                prop_assert_eq!(queue.is_idle(partition), is_idle);
            }
        }
        for partition in [0, 1] {
            queue.resume_partition(partition);
        }
        while take(&mut taken, &BTreeSet::new())? || !taken.is_empty() {
            if let Some(run) = taken.pop() {
                put_down(run, false);
                ended += 1;
            }
        }
        prop_assert_eq!(pushed, ended + withdrawn);
        prop_assert!(queue.is_empty() && queue.parked() == 0 && queue.waiting_retries() == 0);
        prop_assert!(queue.keeps_no_memory());
    }
}

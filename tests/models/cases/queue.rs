//! The run queue: each run is taken once, a partition that is moved stands still, and nobody waits for ever.

use std::sync::Arc;

use models::config::Order;
use models::history::{AttemptRecord, DeadLetters};
use models::model::batch::Batch;
use models::model::budget::Permit;
use models::model::clock;
use models::model::offset::{Offset, OffsetRange, Partition, RunKey};
use models::model::run::{Run, RunId};
use models::model::sync::{Condvar, Mutex};
use models::runs::queue::RunQueue;
use models::runs::undelivered::Undelivered;
use models::{Receiver, Sender, bounded, never};
use shuttle::thread::{self, JoinHandle};

use crate::{HOUR, explore, explore_more};

pub fn run(partition: Partition, offset: i64) -> Run {
    let range = OffsetRange::new(Offset::new(offset), Offset::new(offset));
    Run {
        id: RunId(i64::from(partition) * 100 + offset),
        key: RunKey::new("t", partition, range),
        whole: range,
        batch: Batch::default(),
        permit: Arc::new(Permit::nothing()),
        failed_attempts: 0,
        queued: clock::now(),
        failing: None,
    }
}

fn undelivered() -> Undelivered {
    let attempt =
        AttemptRecord { number: 1, started_ms: 0, run_us: 0, worker: 0, error: None, output: None };
    let dead_letters = DeadLetters {
        batch: Batch::default(),
        permit: Arc::new(Permit::nothing()),
        reasons: Default::default(),
        why: "retry",
        stored: false,
    };
    Undelivered::new(attempt, Box::new(dead_letters))
}

/// A queue, and what its workers have done.
struct World {
    queue: RunQueue,
    seen: Mutex<Seen>,
    changed: Condvar,
}

#[derive(Default)]
struct Seen {
    /// Partition and offset of each run that has ended.
    done: Vec<(Partition, i64)>,
    /// Runs that are with a worker.
    at_work: Vec<Partition>,
    /// No run of it may be with a worker.
    still: Option<Partition>,
}

impl World {
    fn new(runs: usize, order: Order) -> Arc<World> {
        let queue = RunQueue::new(runs, order, 1 << 20);
        Arc::new(World { queue, seen: Mutex::default(), changed: Condvar::new() })
    }

    fn worker(self: &Arc<World>, retired: Receiver<()>) -> JoinHandle<()> {
        let world = Arc::clone(self);
        thread::spawn(move || {
            while let Some(run) = world.queue.next(&retired) {
                world.work(&run);
            }
        })
    }

    /// As a worker does, with a step that others may come between.
    fn work(&self, run: &Run) {
        let _with_worker = self.queue.with_worker(run);
        self.queue.started();
        let partition = run.key.partition;
        let mut seen = self.seen.lock();
        assert_ne!(seen.still, Some(partition), "its partition is being moved");
        seen.at_work.push(partition);
        drop(seen);
        let mut seen = self.seen.lock();
        assert_ne!(seen.still, Some(partition), "its partition is being moved");
        let at = seen.at_work.iter().position(|of| *of == partition);
        seen.at_work.swap_remove(at.expect("it is at work"));
        seen.done.push((partition, run.key.range.first.get()));
        self.changed.notify_all();
        drop(seen);
        self.queue.ended(&run.key);
    }

    fn push(&self, run: Run) {
        let pushed = self.queue.push(run, clock::now() + HOUR, &never());
        assert_eq!(pushed, Ok(()));
    }

    fn wait_for(&self, done: usize) {
        let mut seen = self.seen.lock();
        while seen.done.len() < done {
            self.changed.wait(&mut seen);
        }
    }

    fn done(&self) -> Vec<(Partition, i64)> {
        let mut done = self.seen.lock().done.clone();
        done.sort_unstable();
        done
    }
}

/// Two workers that are never retired: dropping the senders would retire them.
fn workers(world: &Arc<World>) -> (Vec<JoinHandle<()>>, Vec<Sender<()>>) {
    (0..2)
        .map(|_| {
            let (employed, retired) = bounded(0);
            (world.worker(retired), employed)
        })
        .unzip()
}

fn join(threads: Vec<JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Fails if a run that was pushed wakes nobody, or if a worker that sleeps does not hear of the close.
#[test]
fn every_run_is_taken_once_and_all_workers_end_with_the_queue() {
    explore(|| {
        let world = World::new(1, Order::None);
        let (threads, _employed) = workers(&world);
        for offset in 0..3 {
            world.push(run(0, offset));
        }
        world.wait_for(3);
        world.queue.close();
        join(threads);
        assert_eq!(world.done(), [(0, 0), (0, 1), (0, 2)]);
    });
}

/// Fails if a run is taken out of the channel and given its turn under two locks.
#[test]
fn the_runs_of_a_partition_are_done_in_order_one_at_a_time() {
    explore(|| {
        let world = World::new(2, Order::Partition);
        let (threads, _employed) = workers(&world);
        for offset in 0..4 {
            world.push(run(0, offset));
        }
        world.wait_for(4);
        world.queue.close();
        join(threads);
        assert_eq!(world.seen.lock().done, [(0, 0), (0, 1), (0, 2), (0, 3)]);
    });
}

/// Fails if a run is counted as being with a worker only after it was handed out; if the last run of a partition
/// wakes nobody; if whoever waits looks outside of the lock; or if a partition that goes on wakes no worker.
#[test]
fn no_run_of_a_partition_is_with_a_worker_while_the_partition_is_moved() {
    explore(|| {
        let world = World::new(2, Order::None);
        let (threads, _employed) = workers(&world);
        let sensor = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                for offset in 0..2 {
                    world.push(run(0, offset));
                    world.push(run(1, offset));
                }
            })
        };
        world.queue.suspend_partition(0);
        assert!(world.queue.wait_idle(0, clock::now() + HOUR, || false));
        let mut seen = world.seen.lock();
        assert!(!seen.at_work.contains(&0));
        seen.still = Some(0);
        drop(seen);
        thread::yield_now();
        world.seen.lock().still = None;
        world.queue.resume_partition(0);
        sensor.join().unwrap();
        world.wait_for(4);
        world.queue.close();
        join(threads);
        assert_eq!(world.done(), [(0, 0), (0, 1), (1, 0), (1, 1)]);
    });
}

/// Fails if runs of other partitions leave the channel and wake nobody, or get lost.
#[test]
fn withdrawing_a_partition_takes_what_waits_of_it_and_nothing_else() {
    explore(|| {
        let world = World::new(4, Order::Partition);
        let (threads, _employed) = workers(&world);
        for offset in 0..2 {
            world.push(run(0, offset));
            world.push(run(1, offset));
        }
        world.queue.suspend_partition(0);
        assert!(world.queue.wait_idle(0, clock::now() + HOUR, || false));
        let withdrawn = world.queue.withdraw_partition(0);
        world.wait_for(4 - withdrawn);
        world.push(run(0, 7));
        world.wait_for(5 - withdrawn);
        world.queue.close();
        join(threads);
        let done = world.done();
        assert!(done.contains(&(0, 7)) && done.contains(&(1, 0)) && done.contains(&(1, 1)));
        assert_eq!(done.len(), 5 - withdrawn);
    });
}

/// Fails if `look_again` wakes without the lock, or `wait_idle` looks at its condition outside of it.
#[test]
fn a_move_that_is_called_off_does_not_wait_for_the_partition() {
    explore(|| {
        let world = World::new(1, Order::None);
        world.push(run(0, 0));
        let (_employed, retired) = bounded::<()>(0);
        let taken = world.queue.next(&retired).expect("it was pushed");
        let with_worker = world.queue.with_worker(&taken);
        let is_called_off = Arc::new(Mutex::new(false));
        let mover = {
            let (world, is_called_off) = (Arc::clone(&world), Arc::clone(&is_called_off));
            thread::spawn(move || {
                world.queue.suspend_partition(0);
                world.queue.wait_idle(0, clock::now() + HOUR, || *is_called_off.lock())
            })
        };
        *is_called_off.lock() = true;
        world.queue.look_again();
        assert!(!mover.join().unwrap());
        drop(with_worker);
    });
}

/// Fails if a worker that is retired does not pass on what it was woken for, or is not woken itself.
#[test]
fn a_worker_that_is_retired_leaves_its_runs_to_the_others() {
    explore_more(20_000, || {
        let world = World::new(1, Order::None);
        let (mut threads, mut employed) = workers(&world);
        drop(employed.pop());
        world.queue.look_again();
        world.push(run(0, 0));
        threads.pop().unwrap().join().unwrap();
        world.wait_for(1);
        world.queue.close();
        join(threads);
        assert_eq!(world.done(), [(0, 0)]);
    });
}

/// Fails if the end of a run wakes nobody although it does not end with a worker, which would look again.
#[test]
fn a_run_starts_once_the_dead_letters_of_the_one_before_it_are_delivered() {
    explore(|| {
        let world = World::new(2, Order::Partition);
        world.push(run(0, 0));
        world.push(run(0, 1));
        let (_employed, retired) = bounded::<()>(0);
        let first = world.queue.next(&retired).expect("it was pushed");
        let with_worker = world.queue.with_worker(&first);
        world.queue.started();
        let worker = world.worker(retired.clone());
        let deliverer = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                while let Some((run, _)) = world.queue.next_undelivered() {
                    let _with_worker = world.queue.with_worker(&run);
                    world.queue.ended(&run.key);
                }
            })
        };
        world.queue.keep_undelivered(first, undelivered(), clock::now());
        drop(with_worker);
        world.wait_for(1);
        world.queue.close();
        join(vec![worker, deliverer]);
        assert_eq!(world.done(), [(0, 1)]);
    });
}

/// Fails if dead letters that come, or whose partition goes on, wake nobody; or if the close does not.
#[test]
fn dead_letters_are_delivered_once_also_if_their_partition_stood_still() {
    explore(|| {
        let world = World::new(1, Order::None);
        let delivered = Arc::new(Mutex::new(Vec::new()));
        let (each, came) = bounded(3);
        let deliverer = {
            let (world, delivered) = (Arc::clone(&world), Arc::clone(&delivered));
            thread::spawn(move || {
                while let Some((run, _)) = world.queue.next_undelivered() {
                    let _with_worker = world.queue.with_worker(&run);
                    delivered.lock().push(run.id.0);
                    each.send(()).unwrap();
                }
            })
        };
        let keeper = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                world.queue.keep_undelivered(run(0, 1), undelivered(), clock::now());
                world.queue.keep_undelivered(run(0, 2), undelivered(), clock::now() + HOUR);
                world.queue.hurry(RunId(2));
            })
        };
        world.queue.suspend_partition(0);
        if world.queue.wait_idle(0, clock::now() + HOUR, || false) {
            world.queue.resume_partition(0);
        }
        for _ in 0..2 {
            came.recv().unwrap();
        }
        keeper.join().unwrap();
        world.queue.close();
        deliverer.join().unwrap();
        let mut delivered = delivered.lock().clone();
        delivered.sort_unstable();
        assert_eq!(delivered, [1, 2]);
    });
}

/// A run has failed, and before it is held another run succeeds: after that, nobody watches for successes.
#[test]
fn a_hold_ends_with_the_next_success_whenever_it_begins() {
    explore(|| {
        let world = World::new(9, Order::None);
        let failed = run(0, 1);
        let holds = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                world.queue.step_failed(&failed, "away", clock::now());
                world.queue.hold(failed, "away");
            })
        };
        world.queue.step_worked(clock::now(), clock::now());
        holds.join().unwrap();
        world.queue.step_worked(clock::now(), clock::now());
        assert_eq!(world.queue.held(), None);
    });
}

//! The run queue: a bounded channel between sensors and workers, and beside it the runs that wait:
//! for another attempt, or (with `--order`) behind another run of their lane.
//!
//! The channel bounds the number of queued runs; the byte budget, whose permits the runs hold,
//! bounds all together, so the retries need no bound of their own. Of runs that wait in their lane
//! a partition has few: `is_held` tells the sensor to stop reading it. Which run waits for which is
//! decided in `lanes`.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::budget::Permit;
use crate::clock;
use crate::config::Order;
use crate::lanes::Lanes;
use crate::limits;
use crate::offset::{Partition, RunKey};
use crate::requested::Requested;
use crate::run::{Run, RunId};
use crate::thread::stopped_within;

/// Why a run was not taken. It is dropped, with its memory: its records are read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No room until the deadline.
    Full,
    /// mb is stopping.
    Stopping,
}

#[derive(Debug)]
pub struct RunQueue {
    sender: Sender<Run>,
    receiver: Receiver<Run>,
    retries: Mutex<BinaryHeap<Reverse<Retry>>>,
    /// `None` without an order: nothing waits for anything.
    lanes: Option<Mutex<Parked>>,
    /// One message is in it whenever some idle worker should look at the retries again.
    wake: (Sender<()>, Receiver<()>),
    /// Dropping the sender wakes every worker; the flag says why.
    open: Mutex<Option<Sender<()>>>,
    closing: Receiver<()>,
    closed: AtomicBool,
    /// Of redrives and replays.
    pub requested: Requested,
}

/// Runs that wait behind others of their lane, and what they hold.
#[derive(Debug)]
struct Parked {
    lanes: Lanes<Run>,
    /// How many, by partition.
    held: BTreeMap<Partition, usize>,
    /// The memory that they keep, by the address of its permit: each batch's once, with how many of
    /// its runs wait.
    memory: HashMap<usize, (usize, usize)>,
    bytes: usize,
    /// Where the waiting runs hold more than so many bytes together, partitions that have any are
    /// not read any further.
    most_bytes: usize,
}

#[derive(Debug)]
struct Retry {
    due: Instant,
    run: Run,
}

/// A worker with nothing due sleeps this long at most; it is woken before by whatever comes.
const IDLE: Duration = Duration::from_secs(3600);

impl RunQueue {
    /// A queue for at most `runs` runs, which hold at most `bytes` together.
    pub fn new(runs: usize, order: Order, bytes: usize) -> RunQueue {
        let (sender, receiver) = bounded(runs);
        let (open, closing) = bounded(0);
        RunQueue {
            sender,
            receiver,
            retries: Mutex::default(),
            lanes: (order != Order::None).then(|| Mutex::new(Parked::new(order, bytes / 2))),
            wake: bounded(1),
            open: Mutex::new(Some(open)),
            closing,
            closed: AtomicBool::new(false),
            requested: Requested::default(),
        }
    }

    /// Gives a run to the workers; waits for room until `deadline`, or until `stop` is closed.
    pub fn push(&self, run: Run, deadline: Instant, stop: &Receiver<()>) -> Result<(), Refused> {
        let mut run = match self.sender.try_send(run) {
            Ok(()) => return Ok(()),
            Err(refused) => refused.into_inner(),
        };
        loop {
            let wait = deadline.saturating_duration_since(clock::now());
            if wait.is_zero() {
                return Err(Refused::Full);
            }
            if clock::wait_simulated(wait) {
                if stopped_within(stop, Duration::ZERO) {
                    return Err(Refused::Stopping);
                }
                run = match self.sender.try_send(run) {
                    Ok(()) => return Ok(()),
                    Err(refused) => refused.into_inner(),
                };
                continue;
            }
            // A send inside select! takes the value even where another arm wins, so readiness is
            // awaited first and the send tried after it.
            let mut select = crossbeam_channel::Select::new();
            let room = select.send(&self.sender);
            let stopped = select.recv(stop);
            match select.ready_timeout(wait) {
                Ok(ready) if ready == stopped => return Err(Refused::Stopping),
                Ok(ready) => debug_assert_eq!(ready, room),
                Err(_) => return Err(Refused::Full),
            }
            run = match self.sender.try_send(run) {
                Ok(()) => return Ok(()),
                Err(refused) => refused.into_inner(),
            };
        }
    }

    /// Keeps a run for another attempt at `due`.
    pub fn retry(&self, run: Run, due: Instant) {
        self.lock_retries().push(Reverse(Retry { due, run }));
        self.wake_one();
    }

    /// The next run for a worker, a due retry before a queued run; `None` when the queue is closed.
    pub fn next(&self) -> Option<Run> {
        loop {
            if self.is_closed() {
                return None;
            }
            let wait = match self.due_retry() {
                Ok(run) => return Some(run),
                Err(wait) => wait,
            };
            let mut select = crossbeam_channel::Select::new();
            select.recv(&self.closing);
            let woken = select.recv(&self.wake.1);
            let queued = select.recv(&self.receiver);
            let run = match select.ready_timeout(wait) {
                Ok(ready) if ready == queued => self.take(),
                Ok(ready) if ready == woken => {
                    // Another worker may have been quicker: then it looks.
                    let _ = self.wake.1.try_recv();
                    continue;
                }
                _ => continue,
            };
            // Even where the queue was closed meanwhile: another worker may have taken the run behind
            // this one, and what is done above a hole cannot be committed.
            let Some(run) = run else { continue };
            // Who watched for the next due retry now has other work: another one watches.
            if wait < IDLE {
                self.wake_one();
            }
            return Some(run);
        }
    }

    /// A queued run that may start. Taking it and finding its turn are one: else a run could be
    /// overtaken by the next of its lane, which another worker has taken.
    fn take(&self) -> Option<Run> {
        let lanes = self.lanes.as_ref().map(lock);
        let run = self.receiver.try_recv().ok()?;
        match lanes {
            Some(mut lanes) if run.key.again.is_none() => lanes.admit(run),
            _ => Some(run),
        }
    }

    /// As `next`, for a caller that does not wait.
    pub fn try_next(&self) -> Option<Run> {
        while !self.is_closed() {
            if let Ok(run) = self.due_retry() {
                return Some(run);
            }
            if self.receiver.is_empty() {
                return None;
            }
            if let Some(run) = self.take() {
                return Some(run);
            }
        }
        None
    }

    /// A run has ended for good: who waited behind it may start.
    pub fn ended(&self, run: &RunKey) {
        let Some(mut lanes) = self.lanes_of(run) else { return };
        let ready = lanes.ended(run);
        drop(lanes);
        self.start_now(ready);
    }

    /// A run has become several, to be processed in this order where there is one; `due` is when.
    pub fn split(&self, parent: &RunKey, runs: Vec<Run>, due: Instant) {
        let ready = match self.lanes_of(parent) {
            Some(mut lanes) => lanes.replaced(parent, runs),
            None => runs,
        };
        for run in ready {
            self.retry(run, due);
        }
    }

    /// No run of the request starts any more; those that have. What waits for another attempt goes.
    pub fn cancel(&self, request: i64) -> Vec<RunId> {
        let started = self.requested.cancel(request);
        self.lock_retries().retain(|Reverse(Retry { run, .. })| {
            run.key.again.is_none_or(|again| again.request() != request)
                || started.contains(&run.id)
        });
        started
    }

    /// Whether runs may have to wait for others.
    pub fn is_ordered(&self) -> bool {
        self.lanes.is_some()
    }

    /// Whether so much of the partition waits that no more of it should be read. `was` is the
    /// answer before: it is read again when half of that has gone.
    pub fn is_held(&self, partition: Partition, was: bool) -> bool {
        self.lanes.as_ref().is_some_and(|lanes| lock(lanes).is_held(partition, was))
    }

    /// Runs that wait behind others of their lane.
    pub fn parked(&self) -> usize {
        let parked = |lanes| lock(lanes).held.values().sum();
        self.lanes.as_ref().map_or(0, parked)
    }

    fn start_now(&self, runs: Vec<Run>) {
        for run in runs {
            self.retry(run, clock::now());
        }
    }

    /// What a request asked for has no order to keep.
    fn lanes_of(&self, key: &RunKey) -> Option<MutexGuard<'_, Parked>> {
        self.lanes.as_ref().filter(|_| key.again.is_none()).map(lock)
    }

    /// No run is handed out any more; workers end after the one they have.
    pub fn close(&self) {
        self.closed.store(true, Release);
        self.open.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Acquire)
    }

    /// Runs in the channel.
    pub fn len(&self) -> usize {
        self.receiver.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Runs that wait for another attempt.
    pub fn waiting_retries(&self) -> usize {
        self.lock_retries().len()
    }

    /// A retry that is due, or how long nothing is.
    fn due_retry(&self) -> Result<Run, Duration> {
        let mut retries = self.lock_retries();
        let Some(Reverse(first)) = retries.peek() else { return Err(IDLE) };
        let wait = first.due.saturating_duration_since(clock::now());
        if !wait.is_zero() {
            return Err(wait.clamp(Duration::from_micros(1), IDLE));
        }
        let Reverse(retry) = retries.pop().expect("peeked just now");
        if !retries.is_empty() {
            self.wake_one();
        }
        Ok(retry.run)
    }

    fn wake_one(&self) {
        // A full channel means that a wake-up is on its way already.
        let _ = self.wake.0.try_send(());
    }

    fn lock_retries(&self) -> MutexGuard<'_, BinaryHeap<Reverse<Retry>>> {
        self.retries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Parked {
    fn new(order: Order, most_bytes: usize) -> Parked {
        Parked {
            lanes: Lanes::new(order),
            held: BTreeMap::new(),
            memory: HashMap::new(),
            bytes: 0,
            most_bytes,
        }
    }

    fn admit(&mut self, run: Run) -> Option<Run> {
        let (partition, lane) = (run.key.partition, run.key.lane);
        let permit = Arc::clone(&run.permit);
        let run = self.lanes.admit(partition, lane, run);
        if run.is_none() {
            self.wait(partition, &permit);
        }
        run
    }

    fn ended(&mut self, key: &RunKey) -> Vec<Run> {
        let ready = self.lanes.ended(key.partition, key.lane);
        for run in &ready {
            self.waits_no_more(key.partition, &run.permit);
        }
        ready
    }

    fn replaced(&mut self, parent: &RunKey, by: Vec<Run>) -> Vec<Run> {
        for run in by.iter().skip(1) {
            self.wait(parent.partition, &run.permit);
        }
        self.lanes.replaced(parent.partition, parent.lane, by)
    }

    fn wait(&mut self, partition: Partition, permit: &Arc<Permit>) {
        *self.held.entry(partition).or_default() += 1;
        let (runs, bytes) = self.memory.entry(Arc::as_ptr(permit).addr()).or_default();
        if *runs == 0 {
            *bytes = permit.bytes();
            self.bytes += *bytes;
        }
        *runs += 1;
    }

    fn waits_no_more(&mut self, partition: Partition, permit: &Arc<Permit>) {
        let held = self.held.get_mut(&partition).expect("it waited until now");
        *held -= 1;
        if *held == 0 {
            self.held.remove(&partition);
        }
        let of_batch = Arc::as_ptr(permit).addr();
        let (runs, bytes) = self.memory.get_mut(&of_batch).expect("it waited until now");
        *runs -= 1;
        if *runs == 0 {
            self.bytes -= *bytes;
            self.memory.remove(&of_batch);
        }
    }

    fn is_held(&self, partition: Partition, was: bool) -> bool {
        let Some(runs) = self.held.get(&partition) else { return false };
        let share = if was { 2 } else { 1 };
        *runs >= limits::PARKED_RUNS / share || self.bytes > self.most_bytes / share
    }
}

fn lock(lanes: &Mutex<Parked>) -> MutexGuard<'_, Parked> {
    lanes.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PartialEq for Retry {
    fn eq(&self, other: &Retry) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Retry {}

impl PartialOrd for Retry {
    fn partial_cmp(&self, other: &Retry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Retry {
    fn cmp(&self, other: &Retry) -> Ordering {
        (self.due, self.run.id).cmp(&(other.due, other.run.id))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::batch::Batch;
    use crate::budget::{Budget, Permit};
    use crate::offset::{Offset, OffsetRange};
    use crate::thread;

    fn run(id: i64) -> Run {
        let range = OffsetRange::new(Offset::new(id), Offset::new(id));
        Run {
            id: RunId(id),
            key: RunKey::new("t", 0, range),
            whole: range,
            batch: Batch::default(),
            permit: Arc::new(Permit::nothing()),
            failed_attempts: 0,
            queued: Instant::now(),
        }
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
        assert_eq!(queue.next().unwrap().id, RunId(1));
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
                [queue.next(), queue.next()].map(|run| run.unwrap().id.0)
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
        assert_eq!(queue.next().unwrap().id, RunId(9), "nothing else is due yet");
        assert_eq!(queue.next().unwrap().id, RunId(1));
        assert_eq!(queue.next().unwrap().id, RunId(2));
    }

    #[test]
    fn an_idle_worker_is_woken_for_a_retry_even_when_the_watching_one_left() {
        let queue = Arc::new(queue(5));
        let (taken, got) = bounded(10);
        let (release, wait) = bounded::<()>(0);
        let workers: Vec<_> = (0..2)
            .map(|_| {
                let (queue, taken, wait) = (Arc::clone(&queue), taken.clone(), wait.clone());
                thread::spawn("idle", move || {
                    while let Some(run) = queue.next() {
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
    fn in_order_a_run_waits_for_the_one_before_it_even_while_that_is_tried_again() {
        let queue = RunQueue::new(5, Order::Partition, usize::MAX);
        let (_running, stop) = bounded(0);
        for id in [1, 2, 3] {
            queue.push(run(id), late(), &stop).unwrap();
        }
        let mut other = run(4);
        other.key.partition = 1;
        queue.push(other, late(), &stop).unwrap();
        let first = queue.next().unwrap();
        assert_eq!(first.id, RunId(1));
        assert_eq!(queue.next().unwrap().id, RunId(4), "another partition goes on");
        assert_eq!(queue.parked(), 2);
        queue.retry(first, Instant::now());
        let first = queue.next().unwrap();
        assert_eq!(first.id, RunId(1));
        queue.ended(&first.key);
        let second = queue.next().unwrap();
        assert_eq!(second.id, RunId(2));
        let halves = vec![run(20), run(21)];
        queue.split(&second.key, halves, Instant::now());
        for id in [20, 21, 3] {
            let next = queue.next().unwrap();
            assert_eq!(next.id, RunId(id));
            queue.ended(&next.key);
        }
        assert_eq!(queue.parked(), 0);
    }

    #[test]
    fn a_partition_whose_lane_is_stuck_is_held_and_read_again_when_half_has_gone() {
        let queue = RunQueue::new(200, Order::Partition, usize::MAX);
        let (_running, stop) = bounded(0);
        let runs = limits::PARKED_RUNS as i64;
        for id in 0..=runs {
            queue.push(run(id), late(), &stop).unwrap();
        }
        let mut other = run(runs + 1);
        other.key.partition = 1;
        queue.push(other, late(), &stop).unwrap();
        let stuck = queue.next().unwrap();
        assert!(!queue.is_held(0, false));
        assert_eq!(queue.next().unwrap().id, RunId(runs + 1));
        assert!(queue.is_held(0, false) && !queue.is_held(1, false));
        let mut running = stuck;
        while queue.is_held(0, true) {
            queue.ended(&running.key);
            running = queue.next().unwrap();
        }
        assert_eq!(queue.parked(), limits::PARKED_RUNS / 2 - 1);
    }

    #[test]
    fn few_large_waiting_runs_hold_their_partition_too() {
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
        queue.next().unwrap();
        queue.next().unwrap();
        assert!(queue.is_held(0, false), "three of four hold more than half of all bytes");
        assert!(!queue.is_held(1, false), "nothing of it waits");
    }

    #[test]
    fn runs_of_one_batch_keep_its_memory_once() {
        let budget = Budget::new(4000);
        let queue = RunQueue::new(9, Order::Partition, budget.limit());
        let (_running, stop) = bounded(0);
        let permit = Arc::new(budget.try_acquire(1500).unwrap());
        for id in 0..4 {
            let permit = Arc::clone(&permit);
            queue.push(Run { permit, ..run(id) }, late(), &stop).unwrap();
        }
        let first = queue.next().unwrap();
        assert!(queue.try_next().is_none());
        assert_eq!(queue.parked(), 3);
        assert!(!queue.is_held(0, false), "1500 of 4000 bytes");
        queue.ended(&first.key);
        for id in 1..4 {
            let next = queue.next().unwrap();
            assert_eq!(next.id, RunId(id));
            queue.ended(&next.key);
        }
        assert!(lock(queue.lanes.as_ref().unwrap()).memory.is_empty());
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
                    while let Some(run) = queue.next() {
                        started.lock().unwrap().push(run.id.0);
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
        while started.lock().unwrap().len() < RUNS as usize {
            std::thread::yield_now();
        }
        queue.close();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        assert!(started.lock().unwrap().is_sorted());
    }

    #[test]
    fn a_closed_queue_hands_out_nothing() {
        let queue = queue(5);
        let (_running, stop) = bounded(0);
        queue.push(run(1), late(), &stop).unwrap();
        queue.retry(run(2), Instant::now());
        queue.close();
        // Which arm of a select wins is chance; a closed queue must win always.
        for _ in 0..50 {
            assert!(queue.next().is_none());
        }
    }
}

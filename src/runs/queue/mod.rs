//! The run queue: a bounded channel between sensors and workers, and beside it the runs that wait:
//! for another attempt, or (with `--order`) behind another run of their lane.
//!
//! The channel bounds the number of queued runs; the byte budget, whose permits the runs hold,
//! bounds all together, so the retries need no bound of their own. Of runs that wait in their lane
//! a partition has few: `is_held` tells the sensor to stop reading it. Which run waits for which is
//! decided in `lanes`.

mod idle;

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, never};

use crate::config::Order;
use crate::config::limits;
use crate::model::budget::Permit;
use crate::model::clock;
use crate::model::offset::{Partition, RunKey};
use crate::model::run::{Run, RunId};
use crate::model::sync::{Mutex, MutexGuard};
use crate::model::thread::stopped_within;
use crate::runs::cancels::Cancels;
use crate::runs::lanes::Lanes;
use crate::runs::requested::Requested;

use self::idle::IdleWorkers;

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
    /// They look at queue and retries again when they are woken.
    idle: IdleWorkers,
    closed: AtomicBool,
    /// Of redrives and replays.
    pub requested: Requested,
    /// Runs that were given up.
    pub cancels: Arc<Cancels>,
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
        RunQueue {
            sender,
            receiver,
            retries: Mutex::default(),
            lanes: (order != Order::None).then(|| Mutex::new(Parked::new(order, bytes / 2))),
            idle: IdleWorkers::default(),
            closed: AtomicBool::new(false),
            requested: Requested::default(),
            cancels: Arc::default(),
        }
    }

    /// With the cancels of the queue before it: a pipeline that begins anew makes the same runs again.
    pub fn with_cancels(mut self, cancels: &Arc<Cancels>) -> RunQueue {
        self.cancels = Arc::clone(cancels);
        self
    }

    /// Gives a run to the workers; waits for room until `deadline`, or until `stop` is closed.
    pub fn push(&self, run: Run, deadline: Instant, stop: &Receiver<()>) -> Result<(), Refused> {
        let pushed = self.push_while(run, deadline, stop, (&never(), &|| true));
        self.wake();
        pushed
    }

    /// As `push`, and waits no longer than a condition holds: it is looked at whenever a message
    /// comes. Several can be pushed so; `wake` comes behind them.
    pub fn push_while(
        &self,
        run: Run,
        deadline: Instant,
        stop: &Receiver<()>,
        (wake, waits): (&Receiver<()>, &dyn Fn() -> bool),
    ) -> Result<(), Refused> {
        let mut run = match self.sender.try_send(run) {
            Ok(()) => return Ok(()),
            Err(refused) => refused.into_inner(),
        };
        self.wake();
        loop {
            let wait = deadline.saturating_duration_since(clock::now());
            if wait.is_zero() || !waits() {
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
            let woken = select.recv(wake);
            match select.ready_timeout(wait) {
                Ok(ready) if ready == stopped => return Err(Refused::Stopping),
                Ok(ready) if ready == woken => {
                    let _ = wake.try_recv();
                    continue;
                }
                Ok(ready) => debug_assert_eq!(ready, room),
                Err(_) => return Err(Refused::Full),
            }
            run = match self.sender.try_send(run) {
                Ok(()) => return Ok(()),
                Err(refused) => refused.into_inner(),
            };
        }
    }

    /// Runs were pushed: a worker comes for them.
    pub fn wake(&self) {
        self.idle.wake_one();
    }

    /// Keeps a run for another attempt at `due`.
    pub fn retry(&self, run: Run, due: Instant) {
        self.lock_retries().push(Reverse(Retry { due, run }));
        self.idle.wake_one();
    }

    /// The next run for a worker, a due retry before a queued run; `None` when the queue is closed, or
    /// the sender of `retired` is gone (`look_again` tells those that sleep). Whoever gets one must call
    /// `begun` before the step: until then no other worker is woken.
    pub fn next(&self, retired: &Receiver<()>) -> Option<Run> {
        loop {
            if self.is_closed() {
                return None;
            }
            if is_gone(retired) {
                // It may have watched for the next due retry, or come because one was wanted: another
                // one does.
                self.idle.begun(|| true);
                return None;
            }
            let wait = match self.due_retry() {
                Ok(run) => return Some(run),
                Err(wait) => wait,
            };
            if self.receiver.is_empty() {
                self.idle.sleep(wait, || self.is_closed() || is_gone(retired));
                continue;
            }
            // Even where the queue was closed meanwhile: another worker may have taken the run behind
            // this one, and what is done above a hole cannot be committed.
            let Some(run) = self.take() else { continue };
            // Who watched for the next due retry now has other work: another one watches.
            if wait < IDLE {
                self.idle.wake_one();
            }
            return Some(run);
        }
    }

    /// A worker begins what it took: where there is more, another one is woken for it.
    pub fn begun(&self) {
        self.idle.begun(|| !self.receiver.is_empty());
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

    /// Idle workers look whether they are to go.
    pub fn look_again(&self) {
        self.idle.wake_all();
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

    /// A run that waits for another attempt is due now.
    pub fn hurry(&self, run: RunId) {
        let mut retries = self.lock_retries();
        let mut waiting = std::mem::take(&mut *retries).into_vec();
        for Reverse(retry) in waiting.iter_mut().filter(|Reverse(retry)| retry.run.id == run) {
            retry.due = clock::now();
        }
        *retries = waiting.into();
        drop(retries);
        self.idle.wake_one();
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
        self.idle.wake_all();
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Acquire)
    }

    /// Runs in the channel.
    pub fn len(&self) -> usize {
        self.receiver.len()
    }

    /// Runs that the channel has room for now.
    pub fn room(&self) -> usize {
        self.sender.capacity().map_or(usize::MAX, |all| all.saturating_sub(self.sender.len()))
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
        let has_more = !retries.is_empty();
        drop(retries);
        if has_more {
            self.idle.wake_one();
        }
        Ok(retry.run)
    }

    fn lock_retries(&self) -> MutexGuard<'_, BinaryHeap<Reverse<Retry>>> {
        self.retries.lock()
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

fn is_gone(retired: &Receiver<()>) -> bool {
    retired.try_recv() == Err(TryRecvError::Disconnected)
}

fn lock(lanes: &Mutex<Parked>) -> MutexGuard<'_, Parked> {
    lanes.lock()
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
mod tests;

//! The run queue: a bounded channel of fresh runs between sensors and workers, and beside it the runs that wait
//! for a retry, a lane or the dead-letter topic. Which of those may start is decided in `state`.
//!
//! The channel bounds the number of queued runs. All runs hold permits of the byte budget, which bounds them
//! together, so retries need no bound of their own. If too many runs of a partition wait behind others of their
//! lane, `is_held` makes the sensor stop reading that partition.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, never};

use crate::config::Order;
use crate::model::clock;
use crate::model::offset::{Partition, RunKey};
use crate::model::run::{Run, RunId};
use crate::model::sync::atomic::AtomicBool;
use crate::model::sync::atomic::Ordering::{Acquire, Release};
use crate::model::sync::{Condvar, Mutex};
use crate::model::thread::stopped_within;
use crate::runs::cancels::Cancels;
use crate::runs::requested::Requested;
use crate::runs::undelivered::Undelivered;

use super::idle::IdleWorkers;
use super::latest::Latest;
use super::state::State;

/// Why the queue refused a run. The run is dropped with its memory, and its records are read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There was no room until the deadline.
    Full,
    /// mb is stopping.
    Stopping,
}

#[derive(Debug)]
pub struct RunQueue {
    sender: Sender<Run>,
    pub(super) receiver: Receiver<Run>,
    pub(super) state: Mutex<State>,
    /// Whether runs may have to wait for others. Outside the lock, because sensors read it for every record.
    pub(super) is_ordered: bool,
    /// Some failure has no success after it yet, so successes are looked at.
    pub(super) is_watched: AtomicBool,
    /// When an attempt last ended in success.
    pub(super) worked_at: Latest,
    /// Signalled when a partition's last run leaves its worker, and by `look_again`.
    idle_partitions: Condvar,
    /// Signalled when a run's dead letters are to be delivered, or mb is stopping.
    undelivered: Condvar,
    /// Workers without a run, asleep.
    pub(super) idle: IdleWorkers,
    closed: AtomicBool,
    /// The requests (redrives and replays) whose runs have started or must not.
    pub requested: Requested,
    /// Runs that were cancelled.
    pub cancels: Arc<Cancels>,
}

/// While this exists, the run counts as being with a worker, and its partition as busy.
#[must_use]
#[derive(Debug)]
pub struct WithWorker<'a> {
    queue: &'a RunQueue,
    id: RunId,
    /// `None` for a run of a redrive or replay.
    partition: Option<Partition>,
}

/// How long a worker sleeps at most if no retry is due; anything new in the queue wakes it before.
pub(super) const IDLE: Duration = Duration::from_secs(3600);

impl RunQueue {
    /// A queue for at most `runs` runs, which hold at most `bytes` together.
    pub fn new(runs: usize, order: Order, bytes: usize) -> RunQueue {
        let (sender, receiver) = bounded(runs);
        RunQueue {
            sender,
            receiver,
            state: Mutex::new(State::new(order, bytes)),
            is_ordered: order != Order::None,
            is_watched: AtomicBool::new(false),
            worked_at: Latest::new(),
            idle_partitions: Condvar::new(),
            undelivered: Condvar::new(),
            idle: IdleWorkers::default(),
            closed: AtomicBool::new(false),
            requested: Requested::default(),
            cancels: Arc::default(),
        }
    }

    /// Takes over the cancels of an earlier queue: a pipeline that restarts within the process repeats the same
    /// runs.
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

    /// Like `push`, but waits only while `waits` is true, which is evaluated after each message on `wake`. After
    /// pushing several runs like this, `RunQueue::wake` must be called once.
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
            // A send inside select! moves the run even if another arm wins, and the run would be lost. So this
            // waits until the channel is ready, and tries to send after that.
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

    /// Wakes a worker for runs that were pushed.
    pub fn wake(&self) {
        self.idle.wake_one();
    }

    /// Keeps a run for another attempt at `due`.
    pub fn retry(&self, run: Run, due: Instant) {
        self.state.lock().retry(run, due);
        self.idle.wake_one();
    }

    /// The next run for a worker, a due retry before a queued run; `None` if the queue is closed, or
    /// the sender of `retired` is gone (`look_again` makes sleeping workers notice). A worker that gets
    /// a run must call `with_worker` for it, and `started` before the step: until then no other worker is
    /// woken.
    pub fn next(&self, retired: &Receiver<()>) -> Option<Run> {
        loop {
            if self.is_closed() {
                return None;
            }
            if is_gone(retired) {
                // This worker may have been the one that waits for the next due retry, or the one that was woken
                // for a run. Another worker takes over, or the run would wait until the next wake-up.
                self.idle.arrived(|| true);
                return None;
            }
            match self.take() {
                // Even if the queue was closed meanwhile: another worker may have taken the run above this one,
                // whose offsets cannot be committed before this one's.
                Ok((run, others_wait)) => {
                    if others_wait {
                        self.idle.wake_one();
                    }
                    return Some(run);
                }
                Err(wait) => self.idle.sleep(wait, || self.is_closed() || is_gone(retired)),
            }
        }
    }

    /// Like `next`, for a caller that does not wait.
    #[cfg(any(test, feature = "testing"))]
    pub fn try_next(&self) -> Option<Run> {
        if self.is_closed() {
            return None;
        }
        self.take().ok().map(|(run, _)| run)
    }

    /// A run that may start, and whether retries are left for which another worker must wait; or how long it is
    /// until a retry is due.
    ///
    /// A run is taken from the channel and admitted to its lane under one lock. Otherwise another worker could
    /// take the next run of the lane and admit it first, and the order would be lost.
    fn take(&self) -> Result<(Run, bool), Duration> {
        let mut state = self.state.lock();
        if state.hold.held().is_some() {
            return self.take_probe(&mut state);
        }
        // This happens for each run, so the clock is read only if a retry waits.
        let due = if state.has_retries() { state.take_due(clock::now()) } else { None };
        let wait = match due {
            Some(Ok(run)) => return Ok((run, state.has_retries())),
            Some(Err(wait)) => wait.clamp(Duration::from_micros(1), IDLE),
            None => IDLE,
        };
        self.take_fresh(&mut state).map(|run| (run, state.has_retries())).ok_or(wait)
    }

    /// A run from the channel that may start.
    pub(super) fn take_fresh(&self, state: &mut State) -> Option<Run> {
        while let Ok(run) = self.receiver.try_recv() {
            let admitted = state.admit(run);
            if admitted.is_some() {
                return admitted;
            }
        }
        None
    }

    /// A worker must call this for the run that `next` returned. The run's partition is not idle before the
    /// returned value is dropped.
    pub fn with_worker(&self, run: &Run) -> WithWorker<'_> {
        let partition = run.key.reprocess.is_none().then_some(run.key.partition);
        WithWorker { queue: self, id: run.id, partition }
    }

    /// A worker starts the run that it took: if there are more runs, another worker is woken for them.
    pub fn started(&self) {
        self.idle.arrived(|| !self.receiver.is_empty());
    }

    /// Makes idle workers check whether they must end, and `wait_idle` check its condition.
    pub fn look_again(&self) {
        self.idle.wake_all();
        // Under the lock no thread is between checking its condition and sleeping, so none misses this.
        let _state = self.state.lock();
        self.idle_partitions.notify_all();
        self.undelivered.notify_all();
    }

    /// Keeps a run that is given up on until its dead letters are delivered; not before `due`.
    pub fn keep_undelivered(&self, run: Run, undelivered: Undelivered, due: Instant) {
        self.state.lock().keep_undelivered(run, undelivered, due);
        self.undelivered.notify_one();
    }

    /// The next run whose dead letters are to be delivered; waits until one is due. `None` if the queue
    /// is closed. As with `next`, `with_worker` must be called for it.
    pub fn next_undelivered(&self) -> Option<(Run, Undelivered)> {
        let mut state = self.state.lock();
        while !self.is_closed() {
            let wait = match state.take_undelivered(clock::now()) {
                Some(Ok(taken)) => return Some(taken),
                Some(Err(wait)) => wait,
                None => IDLE,
            };
            self.undelivered.wait_for(&mut state, wait);
        }
        None
    }

    /// Like `next_undelivered`, for a caller that does not wait.
    #[cfg(feature = "testing")]
    pub fn try_next_undelivered(&self) -> Option<(Run, Undelivered)> {
        if self.is_closed() {
            return None;
        }
        self.state.lock().take_undelivered(clock::now())?.ok()
    }

    /// Whether dead letters of any run wait to be delivered.
    pub fn has_undelivered(&self) -> bool {
        self.state.lock().has_undelivered()
    }

    /// A run has ended for good: those that waited behind it may start.
    pub fn ended(&self, run: &RunKey) {
        if self.is_ordered && self.state.lock().ended(run, clock::now()) {
            self.idle.wake_one();
        }
    }

    /// A run has become several, to be processed at `due`, in this order if there is an order.
    pub fn split(&self, parent: &RunKey, runs: Vec<Run>, due: Instant) {
        self.state.lock().replaced(parent, runs, due);
        self.idle.wake_one();
    }

    /// Cancels a request: none of its runs starts any more. Returns those that have started, and drops those that
    /// wait for another attempt.
    pub fn cancel(&self, request: i64) -> Vec<RunId> {
        let started = self.requested.cancel(request);
        let dropped = self.state.lock().drop_retries(|run| {
            run.key.reprocess.is_some_and(|reprocess| reprocess.request() == request)
                && !started.contains(&run.id)
        });
        drop(dropped);
        started
    }

    /// A run that waits for another attempt, or for its dead letters to be delivered, is due now.
    pub fn hurry(&self, run: RunId) {
        self.state.lock().hurry(run, clock::now());
        self.undelivered.notify_one();
        self.idle.wake_one();
    }

    /// From now on no run of the partition starts; those with workers finish their attempt. The caller then waits
    /// with `wait_idle`, and calls `withdraw_partition`, or `resume_partition` to undo the suspension.
    pub fn suspend_partition(&self, partition: Partition) {
        self.state.lock().suspend(partition);
    }

    /// Undoes a suspension: the partition's runs go on as if it had not happened.
    pub fn resume_partition(&self, partition: Partition) {
        self.state.lock().resume(partition, clock::now());
        self.undelivered.notify_one();
        self.idle.wake_one();
    }

    /// Drops all waiting runs of the partition: their memory is released, their lanes are free, and nothing is
    /// written to the history. Ends a suspension. Returns the number of runs.
    ///
    /// Runs that are with a worker stay and keep their lanes; a caller that needs them gone suspends the
    /// partition first and waits with `wait_idle`. The partition's sensor must have stopped pushing: runs that it
    /// pushes afterwards start.
    pub fn withdraw_partition(&self, partition: Partition) -> usize {
        let mut state = self.state.lock();
        // Bounded by the present length: sensors of other partitions go on pushing.
        let queued = self.receiver.try_iter().take(self.receiver.len()).collect();
        let withdrawn = state.withdraw(partition, queued, clock::now());
        drop(state);
        // Runs of other partitions left the channel too, and wait for a worker elsewhere now.
        self.idle.wake_one();
        withdrawn.len()
    }

    /// Whether no run of the partition is with a worker.
    #[cfg(any(test, feature = "testing"))]
    pub fn is_idle(&self, partition: Partition) -> bool {
        self.state.lock().is_idle(partition)
    }

    /// Waits until no run of the partition is with a worker. False if one still is at `deadline`, when the queue
    /// is closed, or when `is_called_off` is true (which must become true before `look_again` is called).
    pub fn wait_idle(
        &self,
        partition: Partition,
        deadline: Instant,
        is_called_off: impl Fn() -> bool,
    ) -> bool {
        let mut state = self.state.lock();
        loop {
            if state.is_idle(partition) {
                return true;
            }
            let now = clock::now();
            if now >= deadline || self.is_closed() || is_called_off() {
                return false;
            }
            drop(state);
            let is_simulated = clock::wait_simulated(deadline - now);
            state = self.state.lock();
            let goes_on = || !self.is_closed() && !is_called_off();
            if !is_simulated && !state.is_idle(partition) && goes_on() {
                self.idle_partitions.wait_until(&mut state, deadline);
            }
        }
    }

    /// Whether runs may have to wait for others.
    pub fn is_ordered(&self) -> bool {
        self.is_ordered
    }

    /// Whether too many runs of the partition wait behind others of their lane, so that its sensor must not read
    /// it. `was` is the previous answer: once held, a partition is read again when half of them have left.
    pub fn is_held(&self, partition: Partition, was: bool) -> bool {
        self.state.lock().is_held(partition, was)
    }

    /// Runs that wait behind others of their lane.
    pub fn parked(&self) -> usize {
        self.state.lock().parked()
    }

    /// Hands out no more runs; each worker ends after its current one.
    pub fn close(&self) {
        self.closed.store(true, Release);
        self.look_again();
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Acquire)
    }

    /// Runs that no worker has taken yet.
    pub fn len(&self) -> usize {
        self.receiver.len() + self.state.lock().set_aside()
    }

    /// How many more runs the channel has room for.
    pub fn room(&self) -> usize {
        self.sender.capacity().map_or(usize::MAX, |all| all.saturating_sub(self.sender.len()))
    }

    #[cfg(any(test, feature = "testing"))]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Runs that wait for another attempt, or for the dead-letter topic.
    pub fn waiting_retries(&self) -> usize {
        self.state.lock().retries()
    }

    #[cfg(test)]
    pub(super) fn keeps_no_memory(&self) -> bool {
        self.state.lock().keeps_no_memory()
    }
}

impl Drop for WithWorker<'_> {
    fn drop(&mut self) {
        let mut state = self.queue.state.lock();
        let was_probe = state.hold.is_probe(self.id)
            && state.hold.put_down(self.id, clock::now(), fastrand::f64());
        if self.partition.is_some_and(|partition| state.put_down(partition)) {
            self.queue.idle_partitions.notify_all();
        }
        drop(state);
        if was_probe {
            self.queue.idle.wake_one();
        }
    }
}

fn is_gone(retired: &Receiver<()>) -> bool {
    retired.try_recv() == Err(TryRecvError::Disconnected)
}

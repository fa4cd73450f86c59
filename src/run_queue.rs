//! The run queue: a bounded channel between sensors and workers, and beside it the runs that wait
//! for another attempt.
//!
//! The channel bounds the number of queued runs; the byte budget, whose permits the runs hold,
//! bounds both together, so the retries need no bound of their own.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};

use crate::clock;
use crate::run::Run;
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
    /// One message is in it whenever some idle worker should look at the retries again.
    wake: (Sender<()>, Receiver<()>),
    /// Dropping the sender wakes every worker; the flag says why.
    open: Mutex<Option<Sender<()>>>,
    closing: Receiver<()>,
    closed: AtomicBool,
}

#[derive(Debug)]
struct Retry {
    due: Instant,
    run: Run,
}

/// A worker with nothing due sleeps this long at most; it is woken before by whatever comes.
const IDLE: Duration = Duration::from_secs(3600);

impl RunQueue {
    /// A queue for at most `runs` runs.
    pub fn new(runs: usize) -> RunQueue {
        let (sender, receiver) = bounded(runs);
        let (open, closing) = bounded(0);
        RunQueue {
            sender,
            receiver,
            retries: Mutex::default(),
            wake: bounded(1),
            open: Mutex::new(Some(open)),
            closing,
            closed: AtomicBool::new(false),
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
            let mut waits_for_retry = wait < IDLE;
            let run = select! {
                recv(self.closing) -> _ => return None,
                recv(self.receiver) -> run => run.ok(),
                recv(self.wake.1) -> _ => { waits_for_retry = false; None }
                default(wait) => { waits_for_retry = false; None }
            };
            // Which arm of a select wins is chance: a queue that was closed meanwhile hands out
            // nothing.
            if let Some(run) = run.filter(|_| !self.is_closed()) {
                // Who watched for the next due retry now has other work: another one watches.
                if waits_for_retry {
                    self.wake_one();
                }
                return Some(run);
            }
        }
    }

    /// As `next`, for a caller that does not wait.
    pub fn try_next(&self) -> Option<Run> {
        if self.is_closed() {
            return None;
        }
        self.due_retry().ok().or_else(|| self.receiver.try_recv().ok())
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
    use crate::budget::Permit;
    use crate::offset::{Lane, Offset, OffsetRange, RunKey};
    use crate::run::RunId;
    use crate::thread;

    fn run(id: i64) -> Run {
        let range = OffsetRange::new(Offset::new(id), Offset::new(id));
        Run {
            id: RunId(id),
            key: RunKey { topic: "t".into(), partition: 0, range, lane: Lane::WHOLE },
            batch: Batch::default(),
            permit: Permit::nothing(),
            failed_attempts: 0,
            queued: Instant::now(),
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(5)
    }

    fn late() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn a_full_queue_holds_the_sensor_back_until_its_deadline() {
        let queue = RunQueue::new(1);
        let (_running, stop) = bounded(0);
        queue.push(run(1), late(), &stop).unwrap();
        assert_eq!(queue.push(run(2), soon(), &stop), Err(Refused::Full));
        assert_eq!(queue.next().unwrap().id, RunId(1));
        queue.push(run(3), late(), &stop).unwrap();
    }

    #[test]
    fn a_stop_ends_the_wait_for_room() {
        let queue = RunQueue::new(1);
        let (running, stop) = bounded(0);
        queue.push(run(1), late(), &stop).unwrap();
        drop(running);
        assert_eq!(queue.push(run(2), late(), &stop), Err(Refused::Stopping));
    }

    #[test]
    fn room_made_while_waiting_is_used() {
        let queue = Arc::new(RunQueue::new(1));
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
        let queue = RunQueue::new(5);
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
        let queue = Arc::new(RunQueue::new(5));
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
    fn a_closed_queue_hands_out_nothing() {
        let queue = RunQueue::new(5);
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

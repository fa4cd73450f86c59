//! Moves the cursors of single partitions of a running mb, while the others go on.
//!
//! 1. The run queue suspends the partition: its queued runs do not start.
//! 2. The partition's sensor releases it: nothing of it is read, planned or queued any more. Its running runs get the
//!    time that the caller gives. If that time is over, or the caller calls the move off, the partition goes on as before.
//! 3. The committer, the only thread that commits, voids the partition's planned ranges in the history, commits the
//!    new offset and replaces the ledger. No earlier commit can arrive after it: the committer sends one commit at
//!    a time, and refuses a move as long as an unanswered commit may still reach the log.
//! 4. Queued runs are dropped, and the sensor takes the partition up at its new offset.
//!
//! After a kill anywhere, the log's committed offset decides. The next start takes it for mb's own, because the
//! history has both the old and the new one. A consumer group's rebalance needs the same steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};

use crate::commit::committer::{MoveError, MoveJob, Moved};
use crate::commit::ledger::Ledger;
use crate::commit::reset;
use crate::config::limits;
use crate::history::recovery::Resume;
use crate::history::reset::Reset;
use crate::kafka::Watermarks;
use crate::model::clock;
use crate::model::error::{Error, Result};
use crate::model::offset::{Offset, Partition};
use crate::model::sync::Mutex;
use crate::runs::engine::Engine;
use crate::source::signals::SensorHandle;

/// Moves cursors of a running pipeline; may be called by any thread.
pub struct CursorMover {
    /// Shared with the job that the committer performs, which needs it at its end.
    parts: Arc<Parts>,
    committer: Sender<MoveJob>,
    /// One move at a time.
    moving: Mutex<()>,
    called_off: AtomicBool,
    /// The partitions of a move that waits for running runs.
    waiting: Mutex<Vec<Partition>>,
}

struct Parts {
    engine: Arc<Engine>,
    /// By a sensor's number.
    sensors: Vec<SensorHandle>,
    /// The committer has a move that is not decided yet.
    is_undecided: AtomicBool,
}

impl CursorMover {
    pub fn new(
        engine: Arc<Engine>,
        sensors: Vec<SensorHandle>,
        committer: Sender<MoveJob>,
    ) -> CursorMover {
        CursorMover {
            parts: Arc::new(Parts { engine, sensors, is_undecided: AtomicBool::new(false) }),
            committer,
            moving: Mutex::new(()),
            called_off: AtomicBool::new(false),
            waiting: Mutex::new(Vec::new()),
        }
    }

    /// The old and the new offset of each partition, and the beginning and end of its log. Queries the broker, and
    /// changes nothing.
    ///
    /// # Errors
    /// As `reset::plan`; `LogReplaced` if the topic was deleted and created again.
    pub fn plan(&self, targets: &[(Partition, Offset)]) -> Result<Vec<(Reset, Watermarks)>> {
        let Engine { broker, config, topic, .. } = &*self.parts.engine;
        // Partitions may have been added since the start.
        let now = broker.topic(&topic.name)?;
        now.check_id(topic.id.as_deref())?;
        reset::plan(broker.as_ref(), &config.connection.group, &now, targets)
    }

    /// Moves partitions to their next offsets, and returns when the log has confirmed them. `limit` is how long
    /// to wait for the partitions' running runs.
    ///
    /// # Errors
    /// `Usage` for an offset outside the log; `Broker` if the broker does not answer or refuses; `Other` if a run
    /// is still running at the end of the time, if the move was called off, or if another one is under way. In
    /// each of these cases the cursor was not moved, unless the message says that the move is still under way.
    pub fn move_to(&self, targets: &[(Partition, Offset)], limit: Duration) -> Result<Vec<Reset>> {
        let resets = self.perform(targets, limit, |_| true)?;
        for Reset { partition, from, to, .. } in &resets {
            let from = from.map_or_else(|| "none".to_owned(), |from| from.to_string());
            let topic = &self.parts.engine.topic.name;
            log::info!("moved the cursor of {topic}/{partition} from {from} to {to}");
        }
        Ok(resets)
    }

    /// Goes on where the log has the group's offsets already, if it still has: somebody has moved them. As `move_to`;
    /// if one partition keeps the others from it, each goes by itself.
    ///
    /// # Errors
    /// As `move_to`: the first partition's that did not go.
    pub fn follow(&self, found: &[(Partition, Offset)]) -> Result<()> {
        if found.is_empty() {
            return Ok(());
        }
        let follow = |found: &[(Partition, Offset)]| {
            let is_there = |reset: &Reset| reset.from == Some(reset.to);
            for Reset { partition, to, .. } in
                self.perform(found, limits::CURSOR_MOVE_WAIT, is_there)?
            {
                let topic = &self.parts.engine.topic.name;
                log::info!("{topic}/{partition} is read from {to} on, as the group's offset says");
            }
            Ok(())
        };
        let together = follow(found);
        if together.is_ok() || found.len() == 1 {
            return together;
        }
        let mut all = Ok(());
        for one in found.chunks(1) {
            all = all.and(follow(one));
        }
        all
    }

    fn perform(
        &self,
        targets: &[(Partition, Offset)],
        limit: Duration,
        is_wanted: impl Fn(&Reset) -> bool,
    ) -> Result<Vec<Reset>> {
        let moving = self.moving.try_lock();
        if moving.is_none() || self.parts.is_undecided.load(Ordering::Acquire) {
            return Err(Error::Other(
                "the cursor was not moved: another cursor move is under way; try again".to_owned(),
            ));
        }
        self.called_off.store(false, Ordering::Release);
        let deadline = clock::now() + limit;
        let planned = self.plan(targets)?.into_iter().map(|(reset, _)| reset);
        let resets: Vec<Reset> = planned.filter(is_wanted).collect();
        let partitions: Vec<_> = resets.iter().map(|reset| reset.partition).collect();
        let ready =
            self.release(&partitions, clock::now() + limits::CURSOR_RELEASE_LIMIT).and_then(|()| {
                self.waiting.lock().clone_from(&partitions);
                self.wait_for_runs(&partitions, deadline)
            });
        self.waiting.lock().clear();
        if let Err(error) = ready {
            self.parts.restore(&partitions);
            return Err(error);
        }
        self.commit(&resets)?;
        Ok(resets)
    }

    /// The partitions of a move that waits for running runs; empty if there is none.
    pub fn waiting(&self) -> Vec<Partition> {
        self.waiting.lock().clone()
    }

    /// Calls off a move that waits for running runs; false if there is none.
    pub fn call_off(&self) -> bool {
        if self.waiting().is_empty() {
            return false;
        }
        self.called_off.store(true, Ordering::Release);
        self.parts.engine.queue.look_again();
        true
    }

    /// Lets the sensors release the partitions, and keeps queued runs from starting.
    fn release(&self, partitions: &[Partition], deadline: Instant) -> Result<()> {
        let release = |partition: &Partition| {
            self.parts.engine.queue.suspend_partition(*partition);
            (*partition, self.parts.sensor(*partition).release(*partition))
        };
        let asked: Vec<_> = partitions.iter().map(release).collect();
        for (partition, released) in asked {
            answer_until(&released, deadline).map_err(|_| {
                Error::Other(format!(
                    "the cursor was not moved: the sensor did not release partition {partition} in time; it \
                     waits for the broker, or mb is stopping"
                ))
            })?;
        }
        Ok(())
    }

    fn wait_for_runs(&self, partitions: &[Partition], deadline: Instant) -> Result<()> {
        let queue = &self.parts.engine.queue;
        let is_called_off = || self.called_off.load(Ordering::Acquire);
        for partition in partitions {
            if queue.wait_idle(*partition, deadline, is_called_off) {
                continue;
            }
            if is_called_off() {
                return Err(Error::Other("the cursor move was called off".to_owned()));
            }
            let running = self.parts.engine.live.running();
            let run = running.iter().find(|run| run.key.partition == *partition);
            return Err(Error::Other(match run {
                Some(run) => format!(
                    "the cursor was not moved: run {} is still running after {:.0?}; try again with more \
                     time, or cancel the run",
                    run.key,
                    run.since.elapsed()
                ),
                None => "the cursor was not moved: mb is stopping".to_owned(),
            }));
        }
        Ok(())
    }

    /// Hands the move to the committer and waits for what becomes of it.
    fn commit(&self, resets: &[Reset]) -> Result<()> {
        let (answer, answered) = bounded(1);
        let parts = Arc::clone(&self.parts);
        let done = move |moved: &Result<Moved, MoveError>, resets: &[Reset]| {
            parts.finish(moved, resets);
            parts.is_undecided.store(false, Ordering::Release);
            // The caller may have stopped waiting.
            let _ = answer.send(moved.clone());
        };
        let job = MoveJob { resets: resets.to_vec(), done: Box::new(done) };
        self.parts.is_undecided.store(true, Ordering::Release);
        // There is room: the committer has no other job.
        if self.committer.try_send(job).is_err() {
            return Err(Error::Other("the cursor was not moved: mb is stopping".to_owned()));
        }
        match answer_until(&answered, clock::now() + limits::CURSOR_MOVE_LIMIT) {
            Ok(Ok(Moved { void_runs })) => {
                if void_runs > 0 {
                    log::info!("{void_runs} unfinished run(s) of the old offsets are void");
                }
                Ok(())
            }
            Ok(Err(failed)) => Err(failed.error),
            Err(RecvTimeoutError::Timeout) => Err(Error::Other(
                "the broker has not confirmed the new offsets yet: the move is still under way, and its \
                 partitions are read again once it is decided"
                    .to_owned(),
            )),
            Err(RecvTimeoutError::Disconnected) => Err(Error::Other(
                "mb stopped before the move was confirmed: the next start goes on from the offsets that \
                 are committed then"
                    .to_owned(),
            )),
        }
    }
}

impl Parts {
    fn sensor(&self, partition: Partition) -> &SensorHandle {
        let index = usize::try_from(partition).expect("partition numbers are not negative");
        &self.sensors[index % self.sensors.len()]
    }

    /// Lets partitions go on as if nothing had happened.
    fn restore(&self, partitions: &[Partition]) {
        for partition in partitions {
            self.sensor(*partition).restore(*partition);
            self.engine.queue.resume_partition(*partition);
        }
    }

    /// On the committer's thread, once the move is decided.
    fn finish(&self, moved: &Result<Moved, MoveError>, resets: &[Reset]) {
        match moved {
            Ok(_) => {
                for Reset { partition, to, .. } in resets {
                    self.start_over(*partition, *to, Some(*to));
                }
            }
            Err(MoveError { are_ranges_void: false, .. }) => {
                let partitions: Vec<_> = resets.iter().map(|reset| reset.partition).collect();
                self.restore(&partitions);
            }
            Err(MoveError { are_ranges_void: true, .. }) => {
                let committable = self.engine.ledgers.committable();
                for Reset { partition, from, .. } in resets {
                    // Everything below it is done and in the history.
                    match committable.get(partition) {
                        Some(position) => {
                            let ledger = Ledger::new(*position, *from);
                            self.engine.ledgers.add(*partition, ledger);
                            self.start_over(*partition, *position, *from);
                        }
                        // The sensor had not begun with it.
                        None => self.restore(&[*partition]),
                    }
                }
            }
        }
    }

    /// The partition is read from `position` on, without the runs that are queued.
    fn start_over(&self, partition: Partition, position: Offset, committed: Option<Offset>) {
        self.engine.queue.withdraw_partition(partition);
        let resume = Resume { position, committed, read: None, stored: Vec::new() };
        self.sensor(partition).take_up(partition, resume);
    }
}

/// A channel's next message, within the time that is left. Works under simulated time too.
fn answer_until<T>(answers: &Receiver<T>, deadline: Instant) -> Result<T, RecvTimeoutError> {
    loop {
        match answers.try_recv() {
            Ok(answer) => return Ok(answer),
            Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
            Err(TryRecvError::Empty) => {}
        }
        let left = deadline.saturating_duration_since(clock::now());
        if left.is_zero() {
            return Err(RecvTimeoutError::Timeout);
        }
        if !clock::wait_simulated(left) {
            return answers.recv_timeout(left);
        }
    }
}

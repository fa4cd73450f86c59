//! Records that are processed again because somebody asked: redrives of dead letters, replays of a
//! range of the log. A thread, `requests`, makes runs of them, beside the topic's own.
//!
//! Requests come through the history, so they outlive any process; their runs are planned there like
//! all runs, and share queue, workers and memory with them. They are in no ledger (nothing is
//! committed for them) and have no order to keep.

mod redrive;
mod replay;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, never, select};

use crate::config::limits;
use crate::history::History;
use crate::history::requests::{CANCELLED, Kind, Reader};
use crate::kafka::FetchSettings;
use crate::model::clock;
use crate::model::error::{Error, Result};
use crate::model::live::Trouble;
use crate::runs::engine::Engine;
use crate::runs::queue::RunQueue;
use crate::source::batcher::BatchLimits;

use redrive::Redrive;
use replay::Replay;

/// How the thread learns of new requests, and how others see whether any is left.
#[derive(Debug)]
pub struct Bell {
    queue: Arc<RunQueue>,
    history: Arc<History>,
    wake: Sender<()>,
    /// One message is in it where the thread has looked and nothing was left.
    rests: Sender<()>,
    /// How often it was rung.
    rung: AtomicU64,
    /// How often it had been when nothing was left to do for this process.
    idle_at: AtomicU64,
    /// Requests that only another process can go on with, and why.
    blocked: Mutex<BTreeMap<i64, String>>,
}

const NEVER: u64 = u64::MAX;

impl Bell {
    /// A bell, what it rings, and what tells that nothing is left.
    pub fn new(
        queue: &Arc<RunQueue>,
        history: &Arc<History>,
    ) -> (Arc<Bell>, Receiver<()>, Receiver<()>) {
        let (wake, woken) = bounded(1);
        let (rests, rest) = bounded(1);
        let bell = Bell {
            queue: Arc::clone(queue),
            history: Arc::clone(history),
            wake,
            rests,
            rung: AtomicU64::new(0),
            idle_at: AtomicU64::new(NEVER),
            blocked: Mutex::default(),
        };
        (Arc::new(bell), woken, rest)
    }

    fn rest(&self, idle_at: u64) {
        self.idle_at.store(idle_at, Ordering::Release);
        if idle_at != NEVER {
            // Full: it is not yet heard of the last time.
            let _ = self.rests.try_send(());
        }
    }

    /// There may be a new request.
    pub fn ring(&self) {
        self.rung.fetch_add(1, Ordering::AcqRel);
        // Full: it will look anyhow.
        let _ = self.wake.try_send(());
    }

    /// Nothing was left to do for this process when the thread looked last: no request, or only those
    /// that are blocked.
    pub fn is_idle(&self) -> bool {
        self.idle_at.load(Ordering::Acquire) == self.rung.load(Ordering::Acquire)
    }

    /// Cancels open requests. First in the queue, so that none of their runs starts behind the look at
    /// those that have; then in the history, behind the outcomes of all that ended before.
    ///
    /// # Errors
    /// `Other` where the history cannot be written in time.
    pub fn cancel(&self, requests: &[i64], note: &str) -> Result<()> {
        let started = requests.iter().map(|request| (*request, self.queue.cancel(*request)));
        let written = self.history.cancel(started.collect(), note, limits::HISTORY_STOP_LIMIT);
        self.ring();
        if written {
            return Ok(());
        }
        Err(Error::Other(
            "the history could not be written yet: no run of these requests starts any more, and they \
             are cancelled once it can be; see mb requests list"
                .to_owned(),
        ))
    }

    /// Requests that stay open for another process: each with the reason.
    pub fn blocked(&self) -> BTreeMap<i64, String> {
        self.lock_blocked().clone()
    }

    fn lock_blocked(&self) -> MutexGuard<'_, BTreeMap<i64, String>> {
        self.blocked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread works with.
pub struct Requests {
    pub engine: Arc<Engine>,
    pub limits: BatchLimits,
    pub fetch: FetchSettings,
    pub reader: Reader,
    pub bell: Arc<Bell>,
    pub woken: Receiver<()>,
    pub stop: Receiver<()>,
}

/// How far a request is after its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Turn {
    /// There is more to be made into runs.
    More,
    /// Nothing can be done before this.
    NotBefore(Instant),
    /// All of it is made into runs, or can be only by another process; some of them go on.
    Made,
    /// What is left of it can be made only by another process, for this reason.
    Blocked(String),
    /// mb is stopping.
    Stopping,
}

enum Job {
    Redrive(Redrive),
    Replay(Box<Replay>),
}

const WHAT: &str = "working on redrives and replays";

impl Requests {
    /// Works until `stop` is closed.
    pub fn run(self) {
        let trouble = Trouble::default();
        let mut jobs: BTreeMap<i64, Job> = BTreeMap::new();
        if let Err(error) = self.cancel_those_of_predecessors() {
            trouble.begin(WHAT, &error.to_string());
        }
        loop {
            let wait = match self.round(&mut jobs) {
                Ok(None) => return,
                Ok(wait) => {
                    trouble.end(WHAT);
                    wait
                }
                Err(error) => {
                    trouble.begin(WHAT, &error.to_string());
                    Some(limits::HISTORY_RETRY_INTERVAL)
                }
            };
            let due = wait.map_or_else(never, crossbeam_channel::after);
            select! {
                recv(self.stop) -> _ => return,
                recv(self.woken) -> _ => {}
                recv(due) -> _ => {}
            }
        }
    }

    fn cancel_those_of_predecessors(&self) -> Result<()> {
        for request in self.reader.of_predecessors()? {
            let why =
                "the topic was deleted and made again since: its offsets mean other records now";
            log::warn!("replay {request} is given up on: {why}");
            self.engine.history.end_request(request, CANCELLED, Some(why.to_owned()));
        }
        Ok(())
    }

    /// Gives each open request a turn; how long the next round can wait. `None` where mb stops.
    fn round(&self, jobs: &mut BTreeMap<i64, Job>) -> Result<Option<Duration>> {
        // Before the look: who rings after it is looked for again.
        let rung = self.bell.rung.load(Ordering::Acquire);
        let open = self.reader.open_requests()?;
        jobs.retain(|id, _| open.iter().any(|request| request.id == *id));
        let mut blocked = BTreeMap::new();
        if open.is_empty() {
            *self.bell.lock_blocked() = blocked;
            self.bell.rest(rung);
            // Woken by the bell, or by the stop.
            return Ok(Some(limits::DURATION_MAX));
        }
        let now = clock::now();
        let mut next = now + limits::REQUESTS_LOOK_INTERVAL;
        let mut idle_at = rung;
        for request in open {
            let job = match jobs.get_mut(&request.id) {
                Some(job) => job,
                None => {
                    let job = match request.kind {
                        Kind::Redrive => Job::Redrive(Redrive::begin(self, request.id)?),
                        Kind::Replay { partition, range } => Job::Replay(Box::new(Replay::begin(
                            self, request.id, partition, range,
                        )?)),
                    };
                    jobs.entry(request.id).or_insert(job)
                }
            };
            let until = clock::now() + limits::REQUEST_TURN;
            let turn = match job {
                Job::Redrive(redrive) => redrive.work(self, until)?,
                Job::Replay(replay) => replay.work(self, until)?,
            };
            match turn {
                Turn::Blocked(why) => {
                    blocked.insert(request.id, why);
                    continue;
                }
                Turn::More => next = now,
                Turn::NotBefore(_) | Turn::Made => {}
                Turn::Stopping => return Ok(None),
            }
            idle_at = NEVER;
        }
        *self.bell.lock_blocked() = blocked;
        self.bell.rest(idle_at);
        Ok(Some(next.saturating_duration_since(clock::now())))
    }

    /// How large a batch may be that is begun now.
    fn limits(&self) -> BatchLimits {
        BatchLimits { max_records: self.engine.steering.settings().max_batch, ..self.limits }
    }

    fn is_stopping(&self) -> bool {
        self.engine.budget.is_closed() || self.engine.queue.is_closed()
    }
}

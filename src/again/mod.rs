//! Records that are processed again because somebody asked: redrives of dead letters, replays of a
//! range of the log. A thread, `requests`, makes runs of them, beside the topic's own.
//!
//! Requests come through the history, so they outlive any process; their runs are planned there like
//! all runs, and share queue, workers and memory with them. They are in no ledger (nothing is
//! committed for them) and have no order to keep.

mod redrive;
mod replay;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, never, select};

use crate::batcher::BatchLimits;
use crate::broker::{Broker, FetchSettings};
use crate::budget::Budget;
use crate::clock;
use crate::error::Result;
use crate::history::requests::{CANCELLED, Kind, Reader};
use crate::history::{History, ScopeId};
use crate::limits;
use crate::live::{Live, Trouble};
use crate::run_queue::RunQueue;

use redrive::Redrive;
use replay::Replay;

/// How the thread learns of new requests, and how others see whether any is left.
#[derive(Debug)]
pub struct Bell {
    pub scope: ScopeId,
    wake: Sender<()>,
    idle: AtomicBool,
}

impl Bell {
    /// A bell and what it rings.
    pub fn new(scope: ScopeId) -> (Arc<Bell>, Receiver<()>) {
        let (wake, woken) = bounded(1);
        (Arc::new(Bell { scope, wake, idle: AtomicBool::new(false) }), woken)
    }

    /// There may be a new request.
    pub fn ring(&self) {
        self.idle.store(false, Ordering::Release);
        // Full: it will look anyhow.
        let _ = self.wake.try_send(());
    }

    /// No request was left when the thread looked last.
    pub fn is_idle(&self) -> bool {
        self.idle.load(Ordering::Acquire)
    }
}

/// What the thread works with.
pub struct Requests {
    pub topic: Arc<str>,
    pub limits: BatchLimits,
    pub fetch: FetchSettings,
    pub reader: Reader,
    pub broker: Arc<dyn Broker>,
    pub queue: Arc<RunQueue>,
    pub budget: Arc<Budget>,
    pub history: Arc<History>,
    pub live: Arc<Live>,
    pub bell: Arc<Bell>,
    pub woken: Receiver<()>,
    pub stop: Receiver<()>,
}

/// How far a request is after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// There is more to be made into runs.
    More,
    /// Nothing can be done before this.
    NotBefore(Instant),
    /// All of it is made into runs, or can be only by another process.
    Made,
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
            self.history.end_request(request, CANCELLED, Some(why.to_owned()));
        }
        Ok(())
    }

    /// Gives each open request a turn; how long the next round can wait. `None` where mb stops.
    fn round(&self, jobs: &mut BTreeMap<i64, Job>) -> Result<Option<Duration>> {
        let open = self.reader.open_requests()?;
        jobs.retain(|id, _| open.iter().any(|request| request.id == *id));
        if open.is_empty() {
            self.bell.idle.store(true, Ordering::Release);
            // Woken by the bell, or by the stop.
            return Ok(Some(limits::DURATION_MAX));
        }
        let now = clock::now();
        let mut next = now + limits::REQUESTS_LOOK_INTERVAL;
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
                Turn::More => next = now,
                Turn::NotBefore(_) | Turn::Made => {}
                Turn::Stopping => return Ok(None),
            }
        }
        Ok(Some(next.saturating_duration_since(clock::now())))
    }

    fn is_stopping(&self) -> bool {
        self.budget.is_closed() || self.queue.is_closed()
    }
}

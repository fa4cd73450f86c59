//! The thread `requests`: gives each open redrive and replay a turn, until all are done.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select};

use crate::config::limits;
#[cfg(feature = "testing")]
use crate::history::requests::Reader;
use crate::history::requests::{CANCELLED, Kind, Request};
use crate::model::clock;
use crate::model::error::Result;
use crate::model::live::Trouble;

use super::redrive::Redrive;
use super::replay::Replay;
use super::resources::{Resources, Turn};
use super::work_signal::WorkSignal;

/// Works on redrives and replays; `run` is the body of its thread.
pub struct Reprocessor {
    resources: Resources,
    signal: Arc<WorkSignal>,
    woken: Receiver<()>,
    /// The requests that were begun.
    jobs: BTreeMap<i64, Job>,
    /// When the next look is due if nobody wakes the thread before.
    due: Instant,
    trouble: Trouble,
}

enum Job {
    Redrive(Redrive),
    Replay(Box<Replay>),
}

const WHAT: &str = "working on redrives and replays";

impl Reprocessor {
    /// `woken` is what `signal` wakes.
    pub fn new(resources: Resources, signal: Arc<WorkSignal>, woken: Receiver<()>) -> Reprocessor {
        let (jobs, due, trouble) = (BTreeMap::new(), clock::now(), Trouble::default());
        Reprocessor { resources, signal, woken, jobs, due, trouble }
    }

    /// Works until mb stops.
    pub fn run(mut self) {
        if let Err(error) = self.cancel_those_of_predecessors() {
            self.trouble.begin(WHAT, &error.to_string());
        }
        while self.look() {
            let due = crossbeam_channel::at(self.due);
            select! {
                recv(self.resources.stop) -> _ => return,
                recv(self.woken) -> _ => {}
                recv(due) -> _ => {}
            }
        }
    }

    /// Looks at the requests if the thread would: it was woken, or its wait is over. For a caller that does not
    /// wait.
    #[cfg(feature = "testing")]
    pub fn step(&mut self) -> bool {
        let looks = self.woken.try_recv().is_ok() || clock::now() >= self.due;
        looks && self.look()
    }

    /// What it reads the requests with outlives it.
    #[cfg(feature = "testing")]
    pub fn into_reader(self) -> Reader {
        self.resources.requests
    }

    /// Gives each open request a turn; false if mb stops.
    fn look(&mut self) -> bool {
        let wait = match self.round() {
            Ok(None) => return false,
            Ok(Some(wait)) => {
                self.trouble.end(WHAT);
                wait
            }
            Err(error) => {
                self.trouble.begin(WHAT, &error.to_string());
                limits::HISTORY_RETRY_INTERVAL
            }
        };
        self.due = clock::now() + wait;
        true
    }

    fn cancel_those_of_predecessors(&self) -> Result<()> {
        for request in self.resources.requests.replays_of_predecessors()? {
            let why = "the topic was deleted and created again since: its offsets mean other records \
                       now";
            log::warn!("replay {request} is cancelled: {why}");
            let history = &self.resources.engine.history;
            history.end_request(request, CANCELLED, Some(why.to_owned()));
        }
        Ok(())
    }

    /// Gives each open request a turn; how long the next round can wait. `None` if mb stops.
    fn round(&mut self) -> Result<Option<Duration>> {
        let raised = self.signal.raised();
        let open = self.resources.requests.open_requests()?;
        self.jobs.retain(|id, _| open.iter().any(|request| request.id == *id));
        let mut blocked = BTreeMap::new();
        if open.is_empty() {
            self.signal.looked(blocked, Some(raised));
            // The signal ends the wait, or the stop.
            return Ok(Some(limits::DURATION_MAX));
        }
        let now = clock::now();
        let mut next = now + limits::REQUESTS_LOOK_INTERVAL;
        let mut is_idle = true;
        for request in open {
            let until = clock::now() + limits::REQUEST_TURN;
            let with = &self.resources;
            let turn = match job(with, &mut self.jobs, request)? {
                Job::Redrive(redrive) => redrive.work(with, until)?,
                Job::Replay(replay) => replay.work(with, until)?,
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
            is_idle = false;
        }
        self.signal.looked(blocked, is_idle.then_some(raised));
        Ok(Some(next.saturating_duration_since(clock::now())))
    }
}

/// The job of the request, which begins with its first turn.
fn job<'a>(
    with: &Resources,
    jobs: &'a mut BTreeMap<i64, Job>,
    request: Request,
) -> Result<&'a mut Job> {
    use std::collections::btree_map::Entry;
    Ok(match jobs.entry(request.id) {
        Entry::Occupied(job) => job.into_mut(),
        Entry::Vacant(place) => place.insert(match request.kind {
            Kind::Redrive => Job::Redrive(Redrive::begin(with, request.id)?),
            Kind::Replay { partition, range } => {
                Job::Replay(Box::new(Replay::begin(with, request.id, partition, range)?))
            }
        }),
    })
}

//! The thread `requests`: gives each open redrive and replay a turn, until all are done.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, never, select};

use crate::config::limits;
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
}

enum Job {
    Redrive(Redrive),
    Replay(Box<Replay>),
}

const WHAT: &str = "working on redrives and replays";

impl Reprocessor {
    /// `woken` is what `signal` wakes.
    pub fn new(resources: Resources, signal: Arc<WorkSignal>, woken: Receiver<()>) -> Reprocessor {
        Reprocessor { resources, signal, woken }
    }

    /// Works until mb stops.
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
                recv(self.resources.stop) -> _ => return,
                recv(self.woken) -> _ => {}
                recv(due) -> _ => {}
            }
        }
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
    fn round(&self, jobs: &mut BTreeMap<i64, Job>) -> Result<Option<Duration>> {
        let raised = self.signal.raised();
        let open = self.resources.requests.open_requests()?;
        jobs.retain(|id, _| open.iter().any(|request| request.id == *id));
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
            let turn = match self.job(jobs, request)? {
                Job::Redrive(redrive) => redrive.work(&self.resources, until)?,
                Job::Replay(replay) => replay.work(&self.resources, until)?,
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

    /// The job of the request, which begins with its first turn.
    fn job<'a>(&self, jobs: &'a mut BTreeMap<i64, Job>, request: Request) -> Result<&'a mut Job> {
        use std::collections::btree_map::Entry;
        let with = &self.resources;
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
}

//! The committer: sends what the ledgers hold as done to the log, at least once a second while
//! runs finish, and a last time at the stop.
//!
//! Each commit is written to the history as an intent before it is sent, so that a restart can
//! tell its own commits from somebody's reset.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, select};

use crate::commit::ledgers::Ledgers;
use crate::config::limits;
use crate::history::History;
use crate::kafka::Broker;
use crate::model::clock;
use crate::model::crash;
use crate::model::error::{Class, Result};
use crate::model::events::Event;
use crate::model::live::{Live, Trouble};

pub struct Committer {
    pub broker: Arc<dyn Broker>,
    pub group: String,
    pub topic: String,
    /// The topic's id at the start: another one's offsets are not ours to commit.
    pub topic_id: Option<String>,
    pub history: Arc<History>,
    pub ledgers: Arc<Ledgers>,
    pub live: Arc<Live>,
    pub events: Sender<Event>,
    /// A commit of an earlier process may still be on its way.
    pub in_doubt: bool,
}

/// How the last commit went.
#[derive(Debug, PartialEq)]
pub enum LastCommit {
    /// The log has all that was done.
    Confirmed,
    /// It has not; the next start passes over what is done all the same.
    Open(String),
}

/// Since when the fate of some commit is not known.
#[derive(Clone, Copy, Debug)]
pub struct Doubt(Option<Instant>);

impl Doubt {
    /// `in_doubt`: the process before may have sent a commit that is still on its way.
    pub fn at_start(in_doubt: bool) -> Doubt {
        Doubt(in_doubt.then(clock::now))
    }
}

const WHO: &str = "committer";
const WHAT: &str = "committing offsets";

impl Committer {
    /// Commits until `stop` is closed, then a last time.
    pub fn run(self, stop: &Receiver<()>) -> LastCommit {
        let trouble = Trouble::default();
        let mut failures = 0;
        let mut doubt = Doubt::at_start(self.in_doubt);
        let stop_or_wait = |wait: Duration| {
            select! {
                recv(stop) -> _ => true,
                recv(self.ledgers.reached()) -> _ => false,
                default(wait) => false,
            }
        };
        loop {
            let wait = match failures {
                0 => limits::COMMIT_INTERVAL,
                n => limits::COMMIT_BACKOFF.pause(n, fastrand::f64()),
            };
            if stop_or_wait(wait) {
                break;
            }
            match self.commit(&mut doubt) {
                Ok(()) => {
                    trouble.end(WHAT);
                    self.live.troubles.end(WHO);
                    failures = 0;
                    if self.ledgers.is_caught_up() {
                        // Full: another end is on its way already.
                        let _ = self.events.try_send(Event::CaughtUp);
                    }
                }
                Err(error) if error.class() != Class::Retry => {
                    // Full: another end is on its way already.
                    let _ = self.events.try_send(Event::Halt(error));
                    break;
                }
                Err(error) => {
                    trouble.begin(WHAT, &error.to_string());
                    self.live.troubles.begin(WHO, WHAT, &error.to_string());
                    failures += 1;
                }
            }
        }
        self.commit_finally(&mut doubt)
    }

    /// The last commit is tried again within its time limit: at a stop the broker may be busy.
    fn commit_finally(&self, doubt: &mut Doubt) -> LastCommit {
        let deadline = Instant::now() + limits::FINAL_COMMIT_LIMIT;
        loop {
            match self.commit(doubt) {
                Ok(()) => return LastCommit::Confirmed,
                Err(error) if error.class() != Class::Retry || Instant::now() >= deadline => {
                    return LastCommit::Open(error.to_string());
                }
                Err(_) => {
                    // Nothing can be awaited here but time: the broker is away.
                    std::thread::sleep(limits::SENSOR_BACKOFF.first);
                }
            }
        }
    }

    /// One commit of all that is due; `run` repeats it. `doubt` goes from one to the next.
    pub fn commit(&self, doubt: &mut Doubt) -> Result<()> {
        let offsets = self.ledgers.to_commit();
        if offsets.is_empty() {
            return Ok(());
        }
        // Kafka commits by name: a topic made again would get the offsets of the one before. What
        // is made again between this look and the commit, the next start notices.
        self.broker.topic(&self.topic)?.check_id(self.topic_id.as_deref())?;
        if !self.history.intend(&offsets)? {
            return Ok(());
        }
        crash::point("intended");
        // What arrives late may arrive behind this one, as long as it can when this one is sent.
        let sent = clock::now();
        if let Err(error) = self.broker.commit(&self.group, &self.topic, &offsets) {
            // It may have reached the log all the same, now or later: its intent stays.
            doubt.0 = Some(clock::now());
            return Err(error.into());
        }
        crash::point("committed");
        self.ledgers.confirm(&offsets);
        self.live.committed();
        let settles = settles(doubt.0, sent);
        if settles {
            doubt.0 = None;
        }
        self.history.confirm(&offsets, settles);
        Ok(())
    }
}

/// Whether a commit confirmed at `now` settles all before it; `doubt` is when one failed last.
fn settles(doubt: Option<Instant>, now: Instant) -> bool {
    doubt.is_none_or(|since| now.saturating_duration_since(since) >= limits::COMMIT_DOUBT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubt_about_a_failed_commit_ends() {
        let now = Instant::now();
        assert!(settles(None, now));
        assert!(!settles(Some(now), now + limits::COMMIT_DOUBT / 2), "it may still arrive");
        assert!(settles(Some(now), now + limits::COMMIT_DOUBT), "or intents would pile up");
    }
}

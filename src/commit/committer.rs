//! The committer: the only thread of a running mb that commits offsets. It commits what the ledgers hold as done,
//! at least once a second while runs finish, and a last time at the stop. (While no mb runs, `mb offsets --execute`
//! commits, in `reset`; a start that passes over missing offsets does, in `pipeline::cut_off`.) Offsets that do not
//! change are committed again in time, before the log forgets them (`renewal`).
//!
//! Each commit is written to the history as an intent before it is sent, so that a restart can tell mb's own
//! commits from a person's reset. A cursor move is a commit by this thread too: if another thread sent it, a
//! commit of an older offset could arrive after it and undo the move.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, select};

use crate::commit::in_log::{Finding, judge};
use crate::commit::ledger::Ledger;
use crate::commit::ledgers::Ledgers;
use crate::commit::renewal::Renewals;
use crate::commit::reset::{commits, look_epochs_up};
use crate::config::limits;
use crate::history::History;
use crate::history::reset::{Intended, Reset};
use crate::kafka::{Broker, Commit, CommitError};
use crate::model::clock;
use crate::model::crash;
use crate::model::error::{Class, Error, Result};
use crate::model::events::Event;
use crate::model::live::{Live, Trouble};
use crate::model::offset::{Epoch, Offset, Partition};
use crate::model::thread::stopped_within;

pub struct Committer {
    pub broker: Arc<dyn Broker>,
    pub group: String,
    pub topic: String,
    /// The topic's id at the start: offsets of another topic of this name are not ours to commit.
    pub topic_id: Option<String>,
    pub history: Arc<History>,
    pub ledgers: Arc<Ledgers>,
    pub live: Arc<Live>,
    pub events: Sender<Event>,
    /// A commit of an earlier process got no answer, and may still reach the log.
    pub in_doubt: bool,
}

/// How the last commit went.
#[derive(Debug, PartialEq)]
pub enum LastCommit {
    /// The log has the offset of everything that is done.
    Confirmed,
    /// The commit failed, for this cause. Nothing is repeated: the next start finds in the history what is done.
    Open(String),
}

/// Whether a commit got no answer and may still reach the log, and since when.
#[derive(Clone, Copy, Debug)]
pub struct Doubt(Option<Instant>);

/// Moves partitions to other offsets. Each is released: no sensor reads it, and none of its runs is with a worker.
pub struct MoveJob {
    pub resets: Vec<Reset>,
    /// Called on the committer's thread once the move is decided, before the next commit.
    pub done: MoveDone,
}

/// Called with what became of a move.
pub type MoveDone = Box<dyn FnOnce(&Result<Moved, MoveError>, &[Reset]) + Send>;

/// The log has confirmed the new offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Unfinished runs that are void, because they belong to the old offsets.
    pub void_runs: usize,
}

/// The partitions were not moved.
#[derive(Clone, Debug, PartialEq)]
pub struct MoveError {
    pub error: Error,
    /// The history has forgotten the partitions' planned ranges all the same.
    pub are_ranges_void: bool,
}

impl Doubt {
    /// `in_doubt`: a commit of the previous process got no answer.
    pub fn at_start(in_doubt: bool) -> Doubt {
        Doubt(in_doubt.then(clock::now))
    }

    /// For how long a commit that was sent before `now` may still reach the log; `None` if none can.
    fn remaining(self, now: Instant) -> Option<Duration> {
        let since = self.0?;
        let left = limits::COMMIT_DOUBT.saturating_sub(now.saturating_duration_since(since));
        Some(left).filter(|left| !left.is_zero())
    }
}

const WHO: &str = "committer";
const WHAT: &str = "committing offsets";

impl Committer {
    /// Commits until `stop` is closed, then a last time.
    pub fn run(self, jobs: &Receiver<MoveJob>, stop: &Receiver<()>) -> LastCommit {
        let trouble = Trouble::default();
        let mut failures = 0;
        let mut doubt = Doubt::at_start(self.in_doubt);
        let mut renewals = Renewals::default();
        loop {
            let wait = match failures {
                0 => limits::COMMIT_INTERVAL,
                n => limits::COMMIT_BACKOFF.pause(n, fastrand::f64()),
            };
            select! {
                recv(stop) -> _ => break,
                recv(jobs) -> job => {
                    if let Ok(job) = job {
                        self.serve(job, &mut doubt, stop);
                    }
                    continue;
                }
                recv(self.ledgers.reached()) -> _ => {}
                default(wait) => {}
            }
            let committed = self.commit(&mut doubt);
            if committed.is_ok() && self.ledgers.is_caught_up() {
                // A full channel has another reason to stop in it.
                let _ = self.events.try_send(Event::CaughtUp);
            }
            match committed.and_then(|offsets| self.renew(&mut renewals, &offsets, &mut doubt)) {
                Ok(()) => {
                    trouble.end(WHAT);
                    self.live.troubles.end(WHO);
                    failures = 0;
                }
                Err(error) if error.class() != Class::Retry => {
                    // A full channel has another reason to stop in it.
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

    /// Retries the last commit until its time limit, because the broker may be busy at a stop.
    fn commit_finally(&self, doubt: &mut Doubt) -> LastCommit {
        let deadline = Instant::now() + limits::FINAL_COMMIT_LIMIT;
        loop {
            match self.commit(doubt) {
                Ok(_) => return LastCommit::Confirmed,
                Err(error) if error.class() != Class::Retry || Instant::now() >= deadline => {
                    return LastCommit::Open(error.to_string());
                }
                Err(_) => {
                    // The broker does not answer, so there is no event to wait for.
                    std::thread::sleep(limits::SENSOR_BACKOFF.first);
                }
            }
        }
    }

    /// One commit of everything that is due; `run` repeats it. `doubt` goes from one to the next. Returns what was
    /// committed.
    pub fn commit(&self, doubt: &mut Doubt) -> Result<Vec<(Partition, Offset)>> {
        let due = self.ledgers.to_commit();
        let is_left =
            |finding: &Finding| matches!(finding, Finding::Foreign(foreign) if foreign.is_left());
        let found = self.look_at(&due)?.into_iter();
        let offsets: Vec<_> =
            found.filter_map(|(one, finding)| (!is_left(&finding)).then_some(one)).collect();
        self.send(&offsets, doubt)?;
        Ok(offsets)
    }

    /// Whose the offsets are that those of `due` would replace.
    fn look_at(&self, due: &[(Partition, Offset)]) -> Result<Vec<((Partition, Offset), Finding)>> {
        let views: BTreeMap<_, _> = self.ledgers.views().into_iter().collect();
        let has_committed = |(partition, _): &&(Partition, Offset)| {
            views.get(partition).is_some_and(|view| view.committed.is_some())
        };
        if !due.iter().any(|one| has_committed(&one)) {
            // The group's first offsets replace nobody's.
            return Ok(due.iter().map(|one| (*one, Finding::Ours)).collect());
        }
        let partitions: Vec<_> = due.iter().map(|(partition, _)| *partition).collect();
        let in_log = self.broker.group_offsets(&self.group, &self.topic, &partitions)?;
        let mut found = Vec::with_capacity(due.len());
        for &(partition, offset) in due {
            let Some(view) = views.get(&partition) else { continue };
            let finding = match in_log.get(&partition) {
                Some(Ok(in_log)) => judge(self.history.own(), view, view, in_log.as_ref()),
                Some(Err(error)) => return Err(error.clone()),
                None => continue,
            };
            found.push(((partition, offset), finding));
        }
        Ok(found)
    }

    /// Commits offsets again that have not changed for an interval, or that the log has as it was before mb started.
    /// `committed`: what was just committed. `run` calls it after each commit.
    pub fn renew(
        &self,
        renewals: &mut Renewals,
        committed: &[(Partition, Offset)],
        doubt: &mut Doubt,
    ) -> Result<()> {
        renewals.committed(committed, clock::now());
        let due = renewals.due(&self.ledgers.unchanged(), clock::now());
        if renewals.needs_interval() || !due.is_empty() {
            let retention = self.broker.offsets_retention(&self.group);
            let retention = retention.unwrap_or_else(|error| {
                log::debug!("{error}: offsets are committed again each hour");
                None
            });
            renewals.set_retention(retention);
        }
        if due.is_empty() {
            return Ok(());
        }
        let is_ours = |(one, finding): (_, Finding)| match finding {
            Finding::Ours | Finding::Lost(_) => Some(one),
            Finding::Foreign(_) => None,
        };
        let offsets: Vec<_> = self.look_at(&due)?.into_iter().filter_map(is_ours).collect();
        self.send(&offsets, doubt)?;
        // Those that are somebody else's are looked at again an interval later.
        renewals.committed(&due, clock::now());
        Ok(())
    }

    fn send(&self, offsets: &[(Partition, Offset)], doubt: &mut Doubt) -> Result<()> {
        if offsets.is_empty() {
            return Ok(());
        }
        self.check_topic()?;
        let commits = self.with_epochs(offsets);
        let Some(sequence) = self.history.intend(offsets)? else { return Ok(()) };
        let commits = self.marked(commits, sequence);
        crash::point("intended");
        // An unanswered commit that arrives after this one was sent before this moment.
        let sent = clock::now();
        match self.broker.commit_all(&self.group, &self.topic, &commits) {
            Ok(()) => {
                crash::point("committed");
                self.confirm(commits, sequence, doubt, sent);
                Ok(())
            }
            Err(CommitError::Unknown(error)) => {
                // The log may have stored it, or may store it later, so its intent stays.
                doubt.0 = Some(clock::now());
                Err(error)
            }
            Err(CommitError::Refused { partitions, error }) => {
                let refused: BTreeSet<Partition> = partitions.into_iter().collect();
                let (refused, stored): (Vec<_>, Vec<_>) =
                    commits.into_iter().partition(|commit| refused.contains(&commit.partition));
                if !stored.is_empty() {
                    self.confirm(stored, sequence, doubt, sent);
                }
                // The history has one row for all intents of a partition. While an unanswered commit may still
                // arrive, dropping the row would make the next start take that commit for a person's reset.
                if doubt.remaining(sent).is_none() {
                    self.history.drop_intents(&places(&refused));
                }
                Err(error)
            }
        }
    }

    /// The offsets with the leader epochs of the records below them. What the client did not tell is looked up in the
    /// log, by a small request for each partition.
    fn with_epochs(&self, offsets: &[(Partition, Offset)]) -> Vec<Commit> {
        let epochs = self.ledgers.epochs_at(offsets);
        let mut commits: Vec<Commit> = offsets.iter().copied().map(Commit::plain).collect();
        let mut unknown = Vec::new();
        for (commit, epoch) in commits.iter_mut().zip(epochs) {
            commit.epoch = epoch;
            if epoch.is_none()
                && let Some(last) = commit.offset.before()
            {
                unknown.push((commit.partition, last));
            }
        }
        if !unknown.is_empty() {
            let found = self.broker.epochs_at(&self.topic, &unknown);
            for commit in commits.iter_mut().filter(|commit| commit.epoch.is_none()) {
                // What the log has there now may have replaced what was read, if the sensor has not asked its leader
                // yet: with that epoch, the offset would look as if it were of the new log for ever.
                let (partition, found) = (commit.partition, found.get(&commit.partition));
                let known = |epoch: &Epoch| self.ledgers.is_of_known_log(partition, *epoch);
                commit.epoch = found.and_then(|found| found.clone().ok().flatten()).filter(known);
            }
        }
        commits
    }

    /// Says beside each offset that it is ours; and if its epoch is not known, what was read below it.
    fn marked(&self, mut commits: Vec<Commit>, sequence: i64) -> Vec<Commit> {
        let mut stamp = self.history.stamp(sequence);
        for commit in &mut commits {
            stamp.read = match commit.epoch {
                Some(_) => None,
                None => self.ledgers.read_below(commit.partition, commit.offset),
            };
            commit.metadata = stamp.to_string();
        }
        commits
    }

    fn confirm(&self, commits: Vec<Commit>, sequence: i64, doubt: &mut Doubt, sent: Instant) {
        self.ledgers.confirm(&places(&commits));
        self.live.committed();
        let settles = doubt.remaining(sent).is_none();
        if settles {
            doubt.0 = None;
        }
        self.history.confirm(commits, sequence, settles);
    }

    /// Kafka commits by the topic's name: a topic that was deleted and created again would get the old topic's
    /// offsets. If that happens between this check and the commit, the next start notices it.
    fn check_topic(&self) -> Result<()> {
        self.broker.topic(&self.topic)?.check_id(self.topic_id.as_deref())
    }

    /// Performs a move, and reports its result to `done`. `run` calls it.
    pub fn serve(&self, job: MoveJob, doubt: &mut Doubt, stop: &Receiver<()>) {
        let MoveJob { mut resets, done } = job;
        // Commits went on while the move waited for running runs. With an older offset on record, the next start
        // would take mb's own last commit for a person's reset.
        for (partition, view) in self.ledgers.views() {
            for reset in resets.iter_mut().filter(|reset| reset.partition == partition) {
                reset.from = view.committed.or(reset.from);
            }
        }
        let moved = self.move_partitions(&resets, doubt, stop);
        if matches!(moved, Err(MoveError { are_ranges_void: true, .. })) && is_closed(stop) {
            // mb is stopping, and the next start decides by the offset that the log has then.
            return;
        }
        done(&moved, &resets);
    }

    /// Moves released partitions: writes the new offsets to the history, commits them, and gives each partition
    /// a new ledger. A commit without an answer is repeated until the log says where it stands, or mb stops.
    fn move_partitions(
        &self,
        resets: &[Reset],
        doubt: &mut Doubt,
        stop: &Receiver<()>,
    ) -> Result<Moved, MoveError> {
        let unchanged = |error| MoveError { error, are_ranges_void: false };
        if let Some(left) = doubt.remaining(clock::now()) {
            // That commit would arrive after the move, and undo it.
            return Err(unchanged(Error::Other(format!(
                "the cursor was not moved: an earlier commit got no answer and may still reach the log, where it \
                 would undo the move; try again in {:.0} s",
                left.as_secs_f64().ceil()
            ))));
        }
        self.check_topic().map_err(unchanged)?;
        let mut resets = resets.to_vec();
        look_epochs_up(self.broker.as_ref(), &self.topic, &mut resets);
        let Intended { void_runs, sequence } =
            self.history.reset(resets.clone(), limits::HISTORY_STOP_LIMIT).map_err(unchanged)?;
        let offsets: Vec<_> = resets.iter().map(|reset| (reset.partition, reset.to)).collect();
        let commits = commits(&resets, &self.history.stamp(sequence));
        self.commit_move(&commits, doubt, stop)
            .map_err(|error| MoveError { error, are_ranges_void: true })?;
        let in_doubt = doubt.remaining(clock::now()).is_some();
        self.history.confirm_reset(resets, sequence, in_doubt);
        for (partition, to) in offsets {
            self.ledgers.add(partition, Ledger::new(to, Some(to)));
        }
        self.live.committed();
        Ok(Moved { void_runs })
    }

    fn commit_move(
        &self,
        commits: &[Commit],
        doubt: &mut Doubt,
        stop: &Receiver<()>,
    ) -> Result<()> {
        let trouble = Trouble::default();
        let mut failures = 0;
        loop {
            match self.broker.commit_all(&self.group, &self.topic, commits) {
                Ok(()) => {
                    trouble.end(WHAT);
                    return Ok(());
                }
                // An earlier, unanswered try may have been stored.
                Err(CommitError::Refused { .. }) if failures > 0 && self.holds(commits) => {
                    return Ok(());
                }
                Err(CommitError::Refused { error, .. }) => return Err(error),
                Err(CommitError::Unknown(error)) => {
                    doubt.0 = Some(clock::now());
                    trouble.begin(WHAT, &error.to_string());
                    self.live.troubles.begin(WHO, WHAT, &error.to_string());
                    failures += 1;
                    let pause = limits::COMMIT_BACKOFF.pause(failures, fastrand::f64());
                    if !clock::wait_simulated(pause) && stopped_within(stop, pause) {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Whether the log has exactly these offsets.
    fn holds(&self, commits: &[Commit]) -> bool {
        let partitions: Vec<_> = commits.iter().map(|commit| commit.partition).collect();
        let committed = self.broker.committed(&self.group, &self.topic, &partitions);
        committed.is_ok_and(|committed| {
            commits.iter().all(|Commit { partition, offset: to, .. }| {
                matches!(committed.get(partition), Some(Ok(Some(offset))) if offset == to)
            })
        })
    }
}

fn places(commits: &[Commit]) -> Vec<(Partition, Offset)> {
    commits.iter().map(|commit| (commit.partition, commit.offset)).collect()
}

fn is_closed(stop: &Receiver<()>) -> bool {
    matches!(stop.try_recv(), Err(TryRecvError::Disconnected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubt_about_a_failed_commit_ends() {
        let now = Instant::now();
        assert_eq!(Doubt(None).remaining(now), None);
        let half = limits::COMMIT_DOUBT / 2;
        assert_eq!(Doubt(Some(now)).remaining(now + half), Some(half), "it may still arrive");
        let later = Doubt(Some(now)).remaining(now + limits::COMMIT_DOUBT);
        assert_eq!(later, None, "or intents would pile up");
    }
}

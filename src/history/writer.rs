//! The history thread: groups writes into transactions. If SQLite cannot write (a full disk, a locked file), it
//! retries the same group every second. Until it works, no run starts and nothing is committed; the inbox bounds the
//! memory of what waits.
//!
//! Order is the promise here: effects (a run may start, a run is done, a commit may be sent) are announced
//! only after the transaction that holds them.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rusqlite::Connection;

use super::clean_shutdown;
use super::inbox::Inbox;
use super::place::Place;
use super::progress::{ExitGuard, Progress};
use super::pruning::Pruner;
#[cfg(any(test, feature = "testing"))]
use super::records::Outcome;
use super::records::Settled;
use super::schema::is_damage;
use super::scope::ScopeId;
use super::transaction::{self, Effects};
use super::write::Write;
use crate::config::limits;
use crate::model::clock;
use crate::model::crash;
#[cfg(any(test, feature = "testing"))]
use crate::model::error::{Error, Result};

/// Called after each transaction with the runs that it ended for good.
pub(super) type OnSettled = Box<dyn Fn(&[Settled]) + Send>;

/// The work of the history thread. A test or the simulation calls `write` and `conclude` itself instead of `run`.
pub struct WriterTask {
    writer: Writer,
    inbox: Arc<Inbox<Write>>,
    settled: OnSettled,
    /// Writes that are in the file and not announced yet.
    group: Vec<Write>,
    _exit_guard: ExitGuard,
}

impl WriterTask {
    pub(super) fn new(
        writer: Writer,
        inbox: Arc<Inbox<Write>>,
        settled: OnSettled,
        exit_guard: ExitGuard,
    ) -> WriterTask {
        WriterTask { writer, inbox, settled, group: Vec::new(), _exit_guard: exit_guard }
    }

    /// Writes until the history is closed and everything sent before is written.
    pub(super) fn run(mut self) {
        while self.inbox.take_group(&mut self.group, limits::HISTORY_GROUP_WRITES) {
            if !self.writer.write_until_it_succeeds(&self.group) {
                return;
            }
            self.writer.conclude(&mut self.group, &self.settled);
        }
        while self.writer.prune() {}
    }
}

#[cfg(any(test, feature = "testing"))]
impl WriterTask {
    /// How many writes wait.
    pub fn waiting(&self) -> usize {
        self.inbox.len()
    }

    /// Writes the next writes, at most `most`, in one transaction.
    ///
    /// # Errors
    /// `Storage`.
    pub fn write(&mut self, most: usize) -> Result<()> {
        self.inbox.take_now(&mut self.group, most);
        self.writer.write(&self.group).map_err(|cause| Error::storage("write the history", cause))
    }

    /// The outcomes that were written and are not announced yet, without those of void runs.
    pub fn outcomes(&self) -> impl Iterator<Item = &Outcome> {
        let ignored = &self.writer.effects.ignored;
        let group = self.group.iter().enumerate().filter(|(at, _)| !ignored.contains(at));
        group.filter_map(|(_, write)| match write {
            Write::Outcome(outcome, _) => Some(&**outcome),
            _ => None,
        })
    }

    /// The runs that were split in what was written, each with the number of records that its pieces have.
    pub fn splits(&self) -> impl Iterator<Item = (&Outcome, usize)> {
        self.group.iter().filter_map(|write| match write {
            Write::Split(parent, pieces) => {
                Some((&**parent, pieces.iter().map(|piece| piece.records).sum()))
            }
            _ => None,
        })
    }

    /// Announces what was written.
    pub fn conclude(&mut self) {
        self.writer.conclude(&mut self.group, &self.settled);
    }

    pub fn db(&self) -> &Connection {
        &self.writer.db
    }

    /// Loses what is not in the file, as a kill does. Callers that wait for it get an error.
    pub fn lose(&mut self) {
        self.group.clear();
        let mut lost = Vec::new();
        self.inbox.take_now(&mut lost, usize::MAX);
    }

    /// The file outlives its writer.
    pub fn into_db(self) -> Connection {
        self.writer.db
    }
}

pub(super) struct Writer {
    db: Connection,
    place: Option<Place>,
    scope: ScopeId,
    client: &'static str,
    pruner: Pruner,
    /// This thread syncs intents to the disk. False if the committer does it (`journal`).
    syncs_intents: bool,
    /// Whether `PRAGMA synchronous` is FULL now; `None` if that is not known.
    is_synchronous_full: Option<bool>,
    /// The effects of the group that was written last.
    effects: Effects,
    progress: Arc<Progress>,
}

impl Writer {
    pub fn new(
        db: Connection,
        scope: ScopeId,
        client: &'static str,
        keep_runs: u64,
        syncs_intents: bool,
        progress: Arc<Progress>,
    ) -> Writer {
        let place = db.path().and_then(|path| Place::of(Path::new(path)));
        Writer {
            db,
            place,
            scope,
            client,
            pruner: Pruner::new(scope, keep_runs),
            syncs_intents,
            is_synchronous_full: None,
            effects: Effects::default(),
            progress,
        }
    }

    /// The group is in the file: announces it, and removes old runs if that is due.
    fn conclude(&mut self, group: &mut Vec<Write>, settled: &impl Fn(&[Settled])) {
        group.iter().filter_map(Write::crash_point).for_each(crash::point);
        let may_unblock = group.iter().any(Write::may_unblock_pruning);
        self.announce(group, settled);
        if self.pruner.is_due(may_unblock) {
            self.prune();
        }
    }

    /// Retries until the group is in the file (on a full disk, for example). Meanwhile the inbox fills, so no run
    /// starts and nothing is committed. False if the file is damaged or gone, which no retry repairs: mb must end,
    /// and its next start moves a damaged file aside.
    fn write_until_it_succeeds(&mut self, group: &[Write]) -> bool {
        let mut failing_since = None;
        if let Some(Err(gone)) = self.place.as_mut().map(Place::check) {
            log::error!(
                "the history is gone: {gone}; mb ends, and commits nothing more: the next start repeats \
                 what was done since the last commit"
            );
            self.require_check();
            return false;
        }
        while let Err(cause) = self.write(group) {
            if is_damage(&cause) {
                log::error!(
                    "the history is damaged: {cause}; mb ends, and its next start moves the file aside \
                     and continues from the committed offsets"
                );
                self.require_check();
                return false;
            }
            if failing_since.is_none() {
                failing_since = Some(Instant::now());
                self.progress.set_failing(true);
                log::error!(
                    "cannot write the history: {cause}; nothing is started or committed until it \
                     can be written again (retried every {:?})",
                    limits::HISTORY_RETRY_INTERVAL
                );
            }
            clock::sleep(limits::HISTORY_RETRY_INTERVAL);
        }
        if let Some(since) = failing_since {
            self.progress.set_failing(false);
            let seconds = since.elapsed().as_secs();
            log::info!("the history can be written again, after {seconds} s");
        }
        true
    }

    /// Makes the next start check the whole file, even after a clean shutdown.
    fn require_check(&self) {
        if let Some(path) = self.db.path()
            && let Err(cause) = clean_shutdown::invalidate(Path::new(path))
        {
            log::warn!("cannot remove the clean-shutdown marker beside the history: {cause}");
        }
    }

    fn write(&mut self, group: &[Write]) -> rusqlite::Result<()> {
        let written = self.try_write(group);
        if written.is_err() {
            for write in group {
                if let Write::Reset(reset) = write {
                    reset.claim.give_back();
                }
            }
        }
        written
    }

    fn try_write(&mut self, group: &[Write]) -> rusqlite::Result<()> {
        // This cannot be changed within a transaction.
        let full = group.iter().any(|write| write.must_survive_power_loss(self.syncs_intents));
        if self.is_synchronous_full != Some(full) {
            self.is_synchronous_full = None;
            self.db.execute_batch(if full {
                "PRAGMA synchronous = FULL"
            } else {
                "PRAGMA synchronous = NORMAL"
            })?;
            self.is_synchronous_full = Some(full);
        }
        self.effects = transaction::write(&mut self.db, self.scope, self.client, group)?;
        Ok(())
    }

    fn announce(&mut self, group: &mut Vec<Write>, settled: &impl Fn(&[Settled])) {
        let Effects { ignored, mut sequences, resets: mut intended } =
            std::mem::take(&mut self.effects);
        let mut ended = Vec::new();
        let mut planned = None;
        let mut answers = Vec::new();
        let (mut resets, mut intents) = (Vec::new(), Vec::new());
        for (at, write) in group.drain(..).enumerate() {
            match write {
                Write::Outcome(outcome, _) if ignored.contains(&at) => {
                    log::warn!(
                        "run {} of {} ended as {} after its partition's offsets were moved: its outcome is \
                         not recorded",
                        outcome.id,
                        outcome.key,
                        outcome.state
                    );
                }
                Write::Planned(runs) | Write::Split(_, runs) => {
                    planned = runs.last().map(|run| run.id).or(planned);
                    self.pruner.count(runs.len());
                }
                Write::Outcome(outcome, output_memory) => {
                    drop(output_memory);
                    // Runs of a redrive or replay are not in the ledger.
                    if outcome.state.is_done() && outcome.key.reprocess.is_none() {
                        ended.push(Settled {
                            partition: outcome.key.partition,
                            batch: outcome.whole,
                            state: outcome.state,
                        });
                    }
                }
                Write::Flush(done) | Write::Cancel(_, _, done) => answers.push(done),
                Write::Intend(_, done) => {
                    intents.extend(sequences.remove(&at).map(|sequence| (done, sequence)));
                }
                Write::Reset(reset) => {
                    resets.extend(intended.remove(&at).map(|intended| (reset.done, intended)));
                }
                Write::Tick(_)
                | Write::Start(..)
                | Write::Gap(..)
                | Write::EndRequest(..)
                | Write::Withdraw(_)
                | Write::Confirm(..)
                | Write::DropIntents(_)
                | Write::ConfirmReset(..) => {}
            }
        }
        if let Some(newest) = planned {
            self.progress.planned(newest);
        }
        if !ended.is_empty() {
            settled(&ended);
        }
        // After the ledgers have the outcomes that were sent before. A cursor move replaces its partition's ledger
        // when it gets this answer, and the new ledger must not get outcomes of the old one's runs. (A caller may
        // have stopped waiting.)
        for done in answers {
            let _ = done.send(());
        }
        for (done, sequence) in intents {
            let _ = done.send(sequence);
        }
        for (done, intended) in resets {
            let _ = done.send(intended);
        }
    }

    /// Removes old runs, as many as one transaction takes. Returns whether there are more.
    fn prune(&mut self) -> bool {
        match self.pruner.prune(&mut self.db) {
            Ok(has_more) => has_more,
            Err(cause) => {
                if is_damage(&cause) {
                    self.require_check();
                }
                log::warn!("cannot remove old runs from the history: {cause}; retried later");
                false
            }
        }
    }
}

//! The sending side of the history: what sensors, workers, the committer and people's changes call.
//!
//! Each call puts a write into the inbox of the history thread. Some return at once, some when the write is in
//! the file, and what has to outlive a loss of power when it is on the disk.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError, bounded};
use rusqlite::Connection;

use super::claim::Claim;
use super::inbox::Inbox;
use super::journal::Journal;
use super::mark::{Own, Stamp};
use super::progress::{ExitGuard, Progress};
use super::records::{Outcome, Planned, Settled, TickRecord};
use super::reset::{Intended, Reset};
use super::scope::{self, Instance, ScopeId};
use super::write::{ResetWrite, Write};
use super::writer::{Writer, WriterTask};
use crate::config::limits;
use crate::kafka::Commit;
use crate::model::budget::{Budget, Permit};
use crate::model::clock;
use crate::model::error::{Error, Result};
use crate::model::offset::{Offset, OffsetRange, Partition};
use crate::model::run::RunId;
use crate::model::sync::Mutex;
use crate::model::sync::atomic::{AtomicI64, Ordering};
use crate::model::thread::{self, Thread};

/// The way to the history thread, shared by all who write.
#[derive(Debug)]
pub struct History {
    inbox: Arc<Inbox<Write>>,
    /// Held from taking a run's number until the run is in the inbox, so that numbers ascend there.
    next_id: Mutex<i64>,
    journal: Option<Journal>,
    /// Bytes of steps' output on their way into the file.
    outputs: Arc<Budget>,
    progress: Arc<Progress>,
    /// Whose commits those of this history are.
    instance: String,
    /// The number of the newest commit.
    newest_commit: AtomicI64,
}

impl History {
    /// Starts the history thread on an open file. After each transaction `settled` is called with the runs
    /// that the transaction ended for good.
    ///
    /// # Errors
    /// `Storage` if the file cannot be read.
    pub fn start(
        db: Connection,
        scope: ScopeId,
        client: &'static str,
        keep_runs: u64,
        settled: impl Fn(&[Settled]) + Send + 'static,
    ) -> Result<(Arc<History>, Thread<()>)> {
        let (history, writer) = History::with_writer(db, scope, client, keep_runs, settled)?;
        let thread = thread::spawn("history", move || writer.run())?;
        Ok((history, thread))
    }

    /// A history without a thread: the owner of the `WriterTask` makes its writes.
    ///
    /// # Errors
    /// As `start`.
    #[cfg(any(test, feature = "testing"))]
    pub fn without_thread(
        db: Connection,
        scope: ScopeId,
        client: &'static str,
        keep_runs: u64,
        settled: impl Fn(&[Settled]) + Send + 'static,
    ) -> Result<(Arc<History>, WriterTask)> {
        History::with_writer(db, scope, client, keep_runs, settled)
    }

    fn with_writer(
        db: Connection,
        scope: ScopeId,
        client: &'static str,
        keep_runs: u64,
        settled: impl Fn(&[Settled]) + Send + 'static,
    ) -> Result<(Arc<History>, WriterTask)> {
        // Runs may have been removed, but no number may be given twice: whatever says of all runs up to a
        // number that they are over would be believed of the new run too.
        let newest: i64 = db
            .query_row(
                "SELECT max(ifnull((SELECT max(id) FROM runs), 0), \
                 ifnull((SELECT max(up_to) FROM settled), 0), \
                 ifnull((SELECT max(void_up_to) FROM partitions), 0))",
                [],
                |row| row.get(0),
            )
            .map_err(|cause| Error::storage("read the history", cause))?;
        let Instance { id: instance, newest: newest_commit } = scope::instance(&db)?;
        let inbox = Arc::new(Inbox::new(limits::HISTORY_QUEUE_WRITES));
        let progress = Arc::new(Progress::new(newest));
        let journal = Journal::of(&db)
            .map_err(|cause| Error::storage("open the history's journal", cause))?;
        // Without a journal the transactions themselves have to wait for the disk.
        let syncs_intents = journal.is_none();
        let exit_guard = ExitGuard { progress: Arc::clone(&progress), inbox: Arc::clone(&inbox) };
        let writer =
            Writer::new(db, scope, client, keep_runs, syncs_intents, Arc::clone(&progress));
        let writer = WriterTask::new(writer, Arc::clone(&inbox), Box::new(settled), exit_guard);
        let history = History {
            inbox,
            next_id: Mutex::new(newest + 1),
            journal,
            outputs: Budget::new(limits::HISTORY_OUTPUT_BYTES),
            progress,
            instance,
            newest_commit: AtomicI64::new(newest_commit),
        };
        Ok((Arc::new(history), writer))
    }

    /// Gives the runs of one batch consecutive numbers (`Planned::id` is ignored) and sends them to the file,
    /// where they appear together. Returns the first number, or `None` if the history has ended.
    pub fn plan(&self, runs: Vec<Planned>) -> Option<RunId> {
        self.number(runs, Write::Planned)
    }

    /// Ends a run by replacing it with others, which are numbered as by `plan` and appear in the file
    /// together with the end of their parent.
    pub fn split(&self, parent: Outcome, runs: Vec<Planned>) -> Option<RunId> {
        self.number(runs, |runs| Write::Split(Box::new(parent), runs))
    }

    fn number(
        &self,
        mut runs: Vec<Planned>,
        write: impl FnOnce(Vec<Planned>) -> Write,
    ) -> Option<RunId> {
        let mut next = self.next_id.lock();
        let first = RunId(*next);
        for run in &mut runs {
            run.id = RunId(*next);
            *next += 1;
        }
        self.send(write(runs)).then_some(first)
    }

    /// Waits until the run's range is in the file. While the file cannot be written, no run may start:
    /// its outcome could not be kept. False if mb stops or the history ends before that.
    pub fn wait_planned(&self, id: RunId) -> bool {
        self.progress.wait_planned(id)
    }

    /// mb is stopping: nobody waits for a run to be planned any more.
    pub fn stop_waiting(&self) {
        self.progress.stop_waiting();
    }

    /// Sends what became of a run. Waits while the outputs of earlier runs take all the memory that they
    /// may have on their way to the file.
    pub fn outcome(&self, mut outcome: Outcome) -> bool {
        let output = outcome.attempt.output.as_mut();
        let permit = output.map(|output| {
            truncate(output, limits::HISTORY_OUTPUT_BYTES / 8);
            loop {
                let wait = clock::now() + limits::HISTORY_RETRY_INTERVAL;
                if let Some(permit) = self.outputs.acquire_until(output.len(), wait) {
                    return permit;
                }
                if self.progress.has_ended() {
                    return Permit::nothing();
                }
            }
        });
        self.send(Write::Outcome(Box::new(outcome), permit))
    }

    /// Records one evaluation of a sensor.
    pub fn tick(&self, tick: TickRecord) -> bool {
        self.send(Write::Tick(tick))
    }

    /// Records a partition's first position in this scope, unless it has one.
    pub fn start_partition(&self, partition: Partition, start: Offset) -> bool {
        self.send(Write::Start(partition, start))
    }

    /// Records offsets that are passed over without being processed, and why.
    pub fn gap(&self, partition: Partition, missing: OffsetRange, reason: &'static str) -> bool {
        self.send(Write::Gap(partition, missing, reason))
    }

    /// Whose commits those of this history are, and the number of the newest.
    pub fn own(&self) -> Own<'_> {
        Own { instance: &self.instance, newest: self.newest_commit.load(Ordering::Acquire) }
    }

    /// The mark of this history's commits with this number.
    pub fn stamp(&self, sequence: i64) -> Stamp {
        Stamp { instance: self.instance.clone(), sequence, read: None }
    }

    /// Writes what is about to be committed, and returns when that is on the disk with everything written
    /// before: the log will go past records that only the history has. Returns the number of the commit, for its mark;
    /// `None` if the history was closed meanwhile. Then nothing may be committed any more, since the next process may be
    /// at work already.
    ///
    /// The disk is waited for here and not by the history thread, so that no run waits with it.
    ///
    /// # Errors
    /// `Other` if the intent may not be on the disk. Then nothing may be committed, ever.
    pub fn intend(&self, offsets: &[(Partition, Offset)]) -> Result<Option<i64>> {
        let (done, wait) = bounded(1);
        if !self.send(Write::Intend(offsets.to_vec(), done)) {
            return Ok(None);
        }
        let Ok(sequence) = answer(&wait, None) else { return Ok(None) };
        self.newest_commit.fetch_max(sequence, Ordering::AcqRel);
        Ok(self.bring_to_disk()?.then_some(sequence))
    }

    /// Returns when everything that was announced is on the disk; false if the history was closed meanwhile.
    fn bring_to_disk(&self) -> Result<bool> {
        let synced = self.journal.as_ref().map_or(Ok(()), Journal::sync);
        if self.inbox.is_closed() { Ok(false) } else { synced.map(|()| true) }
    }

    /// The log has confirmed these commits of the number that `intend` gave. `settles`: no earlier commit is in doubt
    /// any more.
    pub fn confirm(&self, commits: Vec<Commit>, sequence: i64, settles: bool) -> bool {
        self.send(Write::Confirm(commits, sequence, settles))
    }

    /// The log has certainly refused these commits, so no later start can find them there. If their intents
    /// stayed, a group that may not commit would add one with each try, for as long as mb runs.
    ///
    /// Not for an offset of which an earlier commit is still in doubt: both have the same intent.
    pub fn drop_intents(&self, offsets: &[(Partition, Offset)]) -> bool {
        self.send(Write::DropIntents(offsets.to_vec()))
    }

    /// The first half of moving partitions to other offsets, called before those are committed; see the
    /// module `reset`. Everything sent before is written first. Returns once the move is on the disk.
    ///
    /// From then on the history ignores what is sent about the void runs: their outcomes change no row, keep
    /// no dead letters and settle nothing; runs that a void run is split into are void too; a commit that
    /// was intended before is not recorded as confirmed. Runs that are planned later belong to the new
    /// position. So no run of the old position may be planned any more, and none of the new one before
    /// `confirm_reset`.
    ///
    /// If the new offsets are then not committed, nothing needs to be undone: the partition goes on at
    /// `Reset::from`, without its ranges.
    ///
    /// # Errors
    /// `Storage` if the move could not be written within `limit`, or the history has ended: nothing is
    /// moved, and nothing will be. `Other` if the move may not be on the disk. Then nothing may be
    /// committed, ever.
    pub fn reset(&self, resets: Vec<Reset>, limit: Duration) -> Result<Intended> {
        let failed = |cause: &str| Err(Error::storage("record the new offsets", cause));
        let closed = "mb is stopping";
        let deadline = clock::now() + limit;
        let (done, wait) = bounded(1);
        let claim = Arc::new(Claim::default());
        let write = ResetWrite { resets, claim: Arc::clone(&claim), done };
        if !self.inbox.send(Write::Reset(write), true, Some(deadline)) {
            let cause = "too much waits to be written to the history";
            return failed(if self.inbox.is_closed() { closed } else { cause });
        }
        let mut until = deadline;
        let intended = loop {
            match answer(&wait, Some(until)) {
                Ok(intended) => break intended,
                Err(RecvTimeoutError::Disconnected) => return failed(closed),
                Err(RecvTimeoutError::Timeout) if claim.call_off() => {
                    return failed(&format!("the history could not be written within {limit:?}"));
                }
                // The transaction is under way, and ends within a moment, one way or the other.
                Err(RecvTimeoutError::Timeout) => {
                    until = clock::now() + limits::HISTORY_RETRY_INTERVAL;
                }
            }
        };
        self.newest_commit.fetch_max(intended.sequence, Ordering::AcqRel);
        if self.bring_to_disk()? { Ok(intended) } else { failed(closed) }
    }

    /// The second half of `reset`: the log has confirmed the new offsets. As with a confirmed commit, nobody
    /// has to wait until it is written: if mb is killed before that, the next start finds the intent.
    ///
    /// `in_doubt`: an unanswered try of the commit may still reach the log.
    pub fn confirm_reset(&self, resets: Vec<Reset>, sequence: i64, in_doubt: bool) -> bool {
        self.send(Write::ConfirmReset(resets, sequence, in_doubt))
    }

    /// A redrive or replay has ended, in a state of the module `requests`.
    pub fn end_request(&self, request: i64, state: i64, note: Option<String>) -> bool {
        self.send(Write::EndRequest(request, state, note))
    }

    /// Cancels open requests, each except for its runs that have `started`. False if that is not in the file
    /// within `limit`; it will be once the file can be written.
    pub fn cancel(&self, started: Vec<(i64, Vec<RunId>)>, note: &str, limit: Duration) -> bool {
        let deadline = clock::now() + limit;
        let (done, wait) = bounded(1);
        self.send(Write::Cancel(started, note.to_owned(), done))
            && answer(&wait, Some(deadline)).is_ok()
    }

    /// A run whose request was cancelled does not start.
    pub fn withdraw(&self, run: RunId) -> bool {
        self.send(Write::Withdraw(run))
    }

    /// Returns when everything sent before is in the file, or false after `limit`.
    pub fn flush(&self, limit: Duration) -> bool {
        let deadline = clock::now() + limit;
        let (done, wait) = bounded(1);
        self.inbox.send(Write::Flush(done), true, Some(deadline))
            && answer(&wait, Some(deadline)).is_ok()
    }

    /// Whether the file cannot be written for now.
    pub fn is_failing(&self) -> bool {
        self.progress.is_failing()
    }

    /// Takes no more writes. The history thread ends once it has written those that were sent before.
    pub fn close(&self) {
        self.inbox.close();
    }

    fn send(&self, write: Write) -> bool {
        let hurry = write.is_awaited();
        self.inbox.send(write, hurry, None)
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.close();
    }
}

/// What the history thread answers once the write is in the file. `Disconnected` if the thread has ended,
/// `Timeout` if `deadline` passed before it answered.
fn answer<T>(wait: &Receiver<T>, deadline: Option<Instant>) -> Result<T, RecvTimeoutError> {
    loop {
        match wait.try_recv() {
            Ok(answer) => return Ok(answer),
            Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
            Err(TryRecvError::Empty) => {}
        }
        if deadline.is_some_and(|deadline| clock::now() >= deadline) {
            return Err(RecvTimeoutError::Timeout);
        }
        if !clock::wait_simulated(limits::HISTORY_RETRY_INTERVAL) {
            return match deadline {
                Some(deadline) => wait.recv_deadline(deadline),
                None => wait.recv().map_err(RecvTimeoutError::from),
            };
        }
    }
}

/// Cuts a text to at most `bytes`, between two characters.
fn truncate(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::query::{self, RunDetail};
    use crate::history::records::AttemptRecord;
    use crate::history::schema::{self, FILE};
    use crate::model::offset::RunKey;
    use crate::model::run::RunState;

    fn planned(offset: i64) -> Vec<Planned> {
        let range = OffsetRange::new(Offset::new(offset), Offset::new(offset));
        vec![Planned::whole(RunKey::new("t", 0, range), 1, 1)]
    }

    #[test]
    fn a_run_that_succeeds_after_a_halt_keeps_no_error_of_the_failed_attempt() {
        let folder = tempfile::tempdir().unwrap();
        let db = schema::open(&folder.path().join(FILE)).unwrap();
        db.execute("INSERT INTO scopes VALUES (1, 'kafka', '', 'g', 't', '', 0)", []).unwrap();
        let (history, mut file) =
            History::without_thread(db, ScopeId(1), "rdkafka", 100, |_| {}).unwrap();
        let mut runs = planned(1);
        let id = history.plan(runs.clone()).unwrap();
        let Planned { key, whole, .. } = runs.remove(0);
        let outcome = |state, error: Option<&str>| Outcome {
            id,
            key: key.clone(),
            state,
            records: 1,
            attempt: AttemptRecord {
                number: 1,
                started_ms: 10,
                run_us: 5,
                worker: 0,
                error: error.map(str::to_owned),
                output: error.map(str::to_owned),
            },
            whole,
            dead_letters: None,
        };
        let row = |file: &mut WriterTask| {
            file.write(usize::MAX).unwrap();
            file.conclude();
            let RunDetail { run, output, .. } = query::run(file.db(), 1).unwrap().unwrap();
            (run.state, run.attempts, run.error, output)
        };
        history.outcome(outcome(RunState::Halted, Some("bad")));
        let bad = || Some("bad".to_owned());
        assert_eq!(row(&mut file), (RunState::Halted.name().to_owned(), 1, bad(), bad()));
        history.outcome(outcome(RunState::Succeeded, None));
        assert_eq!(row(&mut file), (RunState::Succeeded.name().to_owned(), 1, None, None));
        let mut printed = outcome(RunState::Succeeded, None);
        printed.attempt.output = Some("done".to_owned());
        history.outcome(printed);
        assert_eq!(row(&mut file).3.as_deref(), Some("done"));
        let row_is_short = "SELECT output IS NULL FROM runs WHERE id = 1";
        let row_is_short: bool = file.db().query_row(row_is_short, [], |row| row.get(0)).unwrap();
        assert!(row_is_short, "counts go through all rows");
    }

    #[test]
    fn offsets_whose_intent_may_not_be_on_the_disk_are_never_committed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let db = schema::open(&path).unwrap();
        db.execute("INSERT INTO scopes VALUES (1, 'kafka', '', 'g', 't', '', 0)", []).unwrap();
        let (history, thread) = History::start(db, ScopeId(1), "rdkafka", 100, |_| {}).unwrap();
        let offsets = [(0, Offset::new(1))];
        assert_eq!(history.intend(&offsets), Ok(Some(1)));
        std::fs::remove_file(crate::config::own_files::with_ending(&path, "-wal")).unwrap();
        let error = history.intend(&offsets).unwrap_err();
        assert_eq!(error.class(), crate::model::error::Class::Fatal, "{error}");
        history.close();
        thread.join().unwrap();
        assert_eq!(history.intend(&offsets), Ok(None), "the next process may be at work");
    }

    #[test]
    fn while_the_file_cannot_be_written_no_run_starts_and_a_stop_does_not_wait() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let db = schema::open(&path).unwrap();
        db.busy_timeout(Duration::ZERO).unwrap();
        db.execute("INSERT INTO scopes VALUES (1, 'kafka', '', 'g', 't', '', 0)", []).unwrap();
        let (history, thread) = History::start(db, ScopeId(1), "rdkafka", 100, |_| {}).unwrap();
        let first = history.plan(planned(1)).unwrap();
        assert!(history.wait_planned(first));

        let other = Connection::open(&path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        history.plan(planned(2)).unwrap();
        while !history.is_failing() {
            std::thread::yield_now();
        }
        let (started, starts) = bounded(1);
        let waiter = {
            let history = Arc::clone(&history);
            thread::spawn("waiter", move || started.send(history.wait_planned(first))).unwrap()
        };
        let while_failing = starts.recv_timeout(Duration::from_millis(50));
        assert!(while_failing.is_err(), "its outcome could not be kept");
        assert!(!history.flush(Duration::from_millis(5)));
        other.execute_batch("ROLLBACK").unwrap();
        assert_eq!(starts.recv_timeout(Duration::from_secs(60)), Ok(true));
        waiter.join().unwrap().unwrap();

        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let last = history.plan(planned(3)).unwrap();
        history.stop_waiting();
        assert!(!history.wait_planned(last));
        other.execute_batch("ROLLBACK").unwrap();
        assert!(history.flush(Duration::from_secs(60)));
        history.close();
        thread.join().unwrap();
    }
}

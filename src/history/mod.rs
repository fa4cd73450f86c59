//! The history: ranges before they run, what became of them, ticks, dead letters, and what was
//! committed; a SQLite file in the data directory.
//!
//! `schema` makes the file, `recovery` reads it at the start, `writer` is the one thread that
//! writes it, `query`, `letters` and `asked` answer people, `requests` says what was asked for. Positions
//! are never taken from here alone: the log's committed offsets are the truth.

pub mod asked;
mod inbox;
mod journal;
pub mod left;
pub mod letters;
mod place;
mod pruning;
pub mod query;
pub mod recovery;
pub mod requests;
pub mod reset;
pub mod schema;
mod writer;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
use rusqlite::Connection;

use crate::config::limits;
use crate::model::batch::Batch;
use crate::model::budget::{Budget, Permit};
use crate::model::clock;
use crate::model::error::{Error, Result};
use crate::model::offset::{Offset, OffsetRange, Partition, RunKey};
use crate::model::run::{RunId, RunState};
use crate::model::thread::{self, Thread};

use self::inbox::Inbox;
use self::journal::Journal;
use self::reset::{Claim, Reset};
use self::writer::Writer;
pub use writer::{Settled, Stepped};

/// `DeadLetters::why` of a run that somebody cancelled.
pub const CANCELLED: &str = "cancelled";

/// The history's file in the data directory.
pub const FILE: &str = "history.db";

/// Which scope's ranges a process works on (a row of `scopes`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScopeId(pub i64);

/// A run that gets its identity: written before it starts.
#[derive(Clone, Debug)]
pub struct Planned {
    pub id: RunId,
    pub key: RunKey,
    /// The range of the batch that it is a run of.
    pub whole: OffsetRange,
    /// The run that it was split from.
    pub parent: Option<RunId>,
    /// Attempts that failed before it was split off.
    pub failed_attempts: u32,
    pub records: usize,
    pub bytes: usize,
    pub queued_ms: i64,
}

impl Planned {
    /// A run that has all records of a batch.
    pub fn whole(key: RunKey, records: usize, bytes: usize) -> Planned {
        Planned {
            id: RunId(0),
            whole: key.range,
            key,
            parent: None,
            failed_attempts: 0,
            records,
            bytes,
            queued_ms: clock::now_ms(),
        }
    }
}

/// One attempt's figures.
#[derive(Clone, Debug)]
pub struct AttemptRecord {
    pub number: u32,
    pub started_ms: i64,
    /// Microseconds in the step.
    pub run_us: i64,
    pub worker: usize,
    pub error: Option<String>,
    pub output: Option<String>,
}

/// A run has ended, for now or for good.
#[derive(Debug)]
pub struct Outcome {
    pub id: RunId,
    pub key: RunKey,
    /// `Queued` where another attempt follows.
    pub state: RunState,
    pub records: usize,
    pub attempt: AttemptRecord,
    pub whole: OffsetRange,
    /// Records to be kept whole; for `Failed`.
    pub dead_letters: Option<DeadLetters>,
}

impl Outcome {
    /// A run that was cancelled before its turn has no attempt: its step was not run.
    fn is_of_an_attempt(&self) -> bool {
        let why = self.dead_letters.as_ref().map(|letters| letters.why);
        self.attempt.run_us > 0 || why != Some(CANCELLED)
    }
}

/// Records that are given up on.
#[derive(Debug)]
pub struct DeadLetters {
    pub batch: Batch,
    /// The memory that the batch is in.
    pub permit: Arc<Permit>,
    /// Why, of those whose step said it; of the others the run's error holds.
    pub reasons: BTreeMap<Offset, String>,
    /// How the attempts ended: "retry" where they were used up, "retry-failed" where the step asked
    /// for the named records only, "dead-letter" where it gave up at once, `CANCELLED` where a person
    /// did.
    pub why: &'static str,
    /// Whether the history keeps them (`--dead-letter store|both`).
    pub stored: bool,
}

/// One evaluation of a sensor.
#[derive(Clone, Debug)]
pub struct TickRecord {
    pub sensor: usize,
    pub started_ms: i64,
    pub run_us: i64,
    pub records: u64,
    pub bytes: u64,
    pub batches: u64,
    pub ended_by: &'static str,
    pub error: Option<String>,
}

#[derive(Debug)]
enum Write {
    /// The runs of one batch, numbered in this order.
    Planned(Vec<Planned>),
    /// A run ends by becoming these.
    Split(Box<Outcome>, Vec<Planned>),
    /// With the memory of its output.
    Outcome(Box<Outcome>, Option<Permit>),
    Tick(TickRecord),
    /// A partition's first position in this scope.
    Start(Partition, Offset),
    /// Offsets that are passed over, and why.
    Gap(Partition, OffsetRange, &'static str),
    Intend(Vec<(Partition, Offset)>, Sender<()>),
    /// A request is over: its number, its state, and what there is to say of it.
    EndRequest(i64, i64, Option<String>),
    /// Requests are cancelled: each with its runs that have started; and why.
    Cancel(Vec<(i64, Vec<RunId>)>, String, Sender<()>),
    /// A run whose request was cancelled before it could start.
    Withdraw(RunId),
    /// Confirmed commits; whether older intents are settled by them.
    Confirm(Vec<(Partition, Offset)>, bool),
    /// Commits that the log has refused.
    DropIntents(Vec<(Partition, Offset)>),
    /// A person moves offsets: before they are committed.
    Reset(ResetWrite),
    /// The same, after they are committed.
    ConfirmReset(Vec<Reset>),
    Flush(Sender<()>),
}

/// A reset on its way to the history thread.
#[derive(Debug)]
struct ResetWrite {
    resets: Vec<Reset>,
    /// The caller may call it off as long as it is not being written.
    claim: Arc<Claim>,
    /// Gets the number of runs that became void.
    done: Sender<usize>,
}

/// The way to the history thread; shared by all who write.
#[derive(Debug)]
pub struct History {
    inbox: Arc<Inbox<Write>>,
    /// Held from taking a run's number to its way into the inbox: numbers ascend there.
    next_id: Mutex<i64>,
    journal: Option<Journal>,
    /// Bytes of steps' output on their way into the file.
    outputs: Arc<Budget>,
    progress: Arc<Progress>,
}

/// How far the file is.
#[derive(Debug)]
struct Progress {
    /// Every run up to this number is in the file.
    planned: AtomicI64,
    /// The file cannot be written for now.
    failing: AtomicBool,
    /// No more will be written.
    ended: AtomicBool,
    /// mb is stopping: nobody waits for a run to be planned any more.
    stopping: AtomicBool,
    changed: (Mutex<()>, Condvar),
    /// How many wait for a change, or are about to: nobody is woken where nobody sleeps. Each side
    /// writes its own before it reads the other's, in one order for all (`SeqCst`).
    waiting: AtomicUsize,
}

impl History {
    /// Starts the history thread on an open file. `settled` is called after each transaction with
    /// the runs that it ended for good.
    ///
    /// # Errors
    /// `Storage` where the file cannot be read.
    pub fn start(
        db: Connection,
        scope: ScopeId,
        client: &'static str,
        keep_runs: u64,
        settled: impl Fn(&[Settled]) + Send + 'static,
    ) -> Result<(Arc<History>, Thread<()>)> {
        let (history, stepped) = History::stepped(db, scope, client, keep_runs, settled)?;
        let thread = thread::spawn("history", move || stepped.run())?;
        Ok((history, thread))
    }

    /// A history whose writes are made by whoever has the `Stepped`.
    ///
    /// # Errors
    /// As `start`.
    pub fn stepped(
        db: Connection,
        scope: ScopeId,
        client: &'static str,
        keep_runs: u64,
        settled: impl Fn(&[Settled]) + Send + 'static,
    ) -> Result<(Arc<History>, Stepped)> {
        // Above all that say of runs up to them that they are over, also where those are gone.
        let newest: i64 = db
            .query_row(
                "SELECT max(ifnull((SELECT max(id) FROM runs), 0), \
                 ifnull((SELECT max(up_to) FROM settled), 0), \
                 ifnull((SELECT max(void_up_to) FROM partitions), 0))",
                [],
                |row| row.get(0),
            )
            .map_err(|cause| Error::storage("read the history", cause))?;
        let inbox = Arc::new(Inbox::new(limits::HISTORY_QUEUE_WRITES));
        let progress = Arc::new(Progress {
            planned: AtomicI64::new(newest),
            failing: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            changed: (Mutex::new(()), Condvar::new()),
            waiting: AtomicUsize::new(0),
        });
        let journal = Journal::of(&db)
            .map_err(|cause| Error::storage("open the history's journal", cause))?;
        // Without one the transactions themselves have to wait for the disk.
        let syncs_intents = journal.is_none();
        let writer =
            Writer::new(db, scope, client, keep_runs, syncs_intents, Arc::clone(&progress));
        let ending = Ending(Arc::clone(&progress), Arc::clone(&inbox));
        let history = History {
            inbox: Arc::clone(&inbox),
            next_id: Mutex::new(newest + 1),
            journal,
            outputs: Budget::new(limits::HISTORY_OUTPUT_BYTES),
            progress,
        };
        Ok((Arc::new(history), Stepped::new(writer, inbox, Box::new(settled), ending)))
    }

    /// Gives the runs of one batch their numbers (consecutive; `id` is ignored) and sends them to
    /// the file, where they appear together. Returns the first number; `None` where the history
    /// has ended.
    pub fn plan(&self, runs: Vec<Planned>) -> Option<RunId> {
        self.number(runs, Write::Planned)
    }

    /// A run ends by becoming others: numbered as by `plan`, and in the file together with its end.
    pub fn split(&self, parent: Outcome, runs: Vec<Planned>) -> Option<RunId> {
        self.number(runs, |runs| Write::Split(Box::new(parent), runs))
    }

    fn number(
        &self,
        mut runs: Vec<Planned>,
        write: impl FnOnce(Vec<Planned>) -> Write,
    ) -> Option<RunId> {
        let mut next = self.next_id.lock().unwrap_or_else(PoisonError::into_inner);
        let first = RunId(*next);
        for run in &mut runs {
            run.id = RunId(*next);
            *next += 1;
        }
        self.send(write(runs)).then_some(first)
    }

    /// Waits until the run's range is in the file, and while the file cannot be written: what a
    /// run did could not be kept. False where mb stops or the history ended before.
    pub fn wait_planned(&self, id: RunId) -> bool {
        let planned = |progress: &Progress| {
            progress.planned.load(Ordering::SeqCst) >= id.0
                && !progress.failing.load(Ordering::SeqCst)
        };
        self.wait(planned)
    }

    /// mb is stopping: who waits for a run to be planned waits no more.
    pub fn stop_waiting(&self) {
        self.progress.stopping.store(true, Ordering::SeqCst);
        self.progress.announce();
    }

    /// Waits where much output is on its way already.
    pub fn outcome(&self, mut outcome: Outcome) -> bool {
        let output = outcome.attempt.output.as_mut();
        let permit = output.map(|output| {
            cut(output, limits::HISTORY_OUTPUT_BYTES / 8);
            loop {
                let wait = clock::now() + limits::HISTORY_RETRY_INTERVAL;
                if let Some(permit) = self.outputs.acquire_until(output.len(), wait) {
                    return permit;
                }
                if self.progress.ended.load(Ordering::Acquire) {
                    return Permit::nothing();
                }
            }
        });
        self.send(Write::Outcome(Box::new(outcome), permit))
    }

    pub fn tick(&self, tick: TickRecord) -> bool {
        self.send(Write::Tick(tick))
    }

    pub fn start_partition(&self, partition: Partition, start: Offset) -> bool {
        self.send(Write::Start(partition, start))
    }

    pub fn gap(&self, partition: Partition, missing: OffsetRange, reason: &'static str) -> bool {
        self.send(Write::Gap(partition, missing, reason))
    }

    /// Writes what is about to be committed, and returns when it is on the disk, with all that was
    /// written before: the log will go past what only the history has. False where the history was
    /// closed meanwhile: nothing may be committed any more, the next process may be at work already.
    ///
    /// The disk is waited for here and not by the history's thread, so that no run waits with it.
    ///
    /// # Errors
    /// `Other` where it may not be on the disk; then nothing may be committed, ever.
    pub fn intend(&self, offsets: &[(Partition, Offset)]) -> Result<bool> {
        let (done, wait) = bounded(1);
        if !self.send(Write::Intend(offsets.to_vec(), done)) || answer(&wait, None).is_err() {
            return Ok(false);
        }
        self.bring_to_disk()
    }

    /// Returns when all that was announced is on the disk; false if the history was closed meanwhile.
    fn bring_to_disk(&self) -> Result<bool> {
        let synced = self.journal.as_ref().map_or(Ok(()), Journal::sync);
        if self.inbox.is_closed() { Ok(false) } else { synced.map(|()| true) }
    }

    /// The log has confirmed these. `settles`: no commit before it is still in doubt.
    pub fn confirm(&self, offsets: &[(Partition, Offset)], settles: bool) -> bool {
        self.send(Write::Confirm(offsets.to_vec(), settles))
    }

    /// The log has refused these commits for certain: no later start will find them there. Without this,
    /// a group that may not commit would add an intent with each try, for as long as mb runs.
    ///
    /// Not for an offset of which an earlier commit is still in doubt: its intent is the same row.
    pub fn drop_intents(&self, offsets: &[(Partition, Offset)]) -> bool {
        self.send(Write::DropIntents(offsets.to_vec()))
    }

    /// The first half of moving partitions to other offsets, to be called before those are committed; see
    /// `reset`. Everything sent before is written first. Returns, once the move is on the disk, how many
    /// unfinished runs of the partitions it made void.
    ///
    /// From then on the history ignores whatever is sent about the void runs: an outcome neither changes
    /// their rows, nor keeps dead letters, nor settles anything; what a void run is split into is void
    /// too; and a commit of before is not recorded as confirmed. Runs that are planned afterwards belong to
    /// the new position, so no run of the old one may be planned any more, and none of the new one before
    /// `confirm_reset`.
    ///
    /// If the new offsets are then not committed, nothing needs to be undone: the partition goes on at
    /// `Reset::from`, without its ranges.
    ///
    /// # Errors
    /// `Storage` if the move could not be written within `limit`, or the history has ended: nothing is
    /// moved, and nothing will be. `Other` if the move may not be on the disk; then nothing may be
    /// committed, ever.
    pub fn reset(&self, resets: Vec<Reset>, limit: Duration) -> Result<usize> {
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
        let voided = loop {
            match answer(&wait, Some(until)) {
                Ok(voided) => break voided,
                Err(RecvTimeoutError::Disconnected) => return failed(closed),
                Err(RecvTimeoutError::Timeout) if claim.call_off() => {
                    return failed(&format!("the history could not be written within {limit:?}"));
                }
                // The transaction is under way. It ends within a moment, one way or the other.
                Err(RecvTimeoutError::Timeout) => {
                    until = clock::now() + limits::HISTORY_RETRY_INTERVAL;
                }
            }
        };
        if self.bring_to_disk()? { Ok(voided) } else { failed(closed) }
    }

    /// The second half of `reset`: the log has confirmed the new offsets. Like a confirmed commit, nobody
    /// has to wait for it: if mb is killed before it is written, the next start finds the intent.
    pub fn confirm_reset(&self, resets: Vec<Reset>) -> bool {
        self.send(Write::ConfirmReset(resets))
    }

    /// A redrive or replay is over; `state` as in `requests`.
    pub fn end_request(&self, request: i64, state: i64, note: Option<String>) -> bool {
        self.send(Write::EndRequest(request, state, note))
    }

    /// Open requests are cancelled, each but for its runs that have `started`. False where that is not
    /// in the file within `limit`: it will be once the file can be written.
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

    /// Returns when everything sent before is in the file; false where that is not so within
    /// `limit`.
    pub fn flush(&self, limit: Duration) -> bool {
        let deadline = clock::now() + limit;
        let (done, wait) = bounded(1);
        self.inbox.send(Write::Flush(done), true, Some(deadline))
            && answer(&wait, Some(deadline)).is_ok()
    }

    /// Whether the file cannot be written for now.
    pub fn is_failing(&self) -> bool {
        self.progress.failing.load(Ordering::Acquire)
    }

    /// The thread ends when it has written what was sent before.
    pub fn close(&self) {
        self.inbox.close();
    }

    fn send(&self, write: Write) -> bool {
        let hurry = write.is_awaited();
        self.inbox.send(write, hurry, None)
    }

    fn wait(&self, reached: impl Fn(&Progress) -> bool) -> bool {
        let gone = |progress: &Progress| {
            progress.ended.load(Ordering::SeqCst) || progress.stopping.load(Ordering::SeqCst)
        };
        while !reached(&self.progress) {
            if gone(&self.progress) {
                return false;
            }
            if !clock::wait_simulated(limits::HISTORY_RETRY_INTERVAL) {
                self.progress.waiting.fetch_add(1, Ordering::SeqCst);
                let reached = self.wait_for_thread(reached, gone);
                self.progress.waiting.fetch_sub(1, Ordering::SeqCst);
                return reached;
            }
        }
        true
    }

    fn wait_for_thread(
        &self,
        reached: impl Fn(&Progress) -> bool,
        gone: impl Fn(&Progress) -> bool,
    ) -> bool {
        let (lock, changed) = &self.progress.changed;
        let mut guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if reached(&self.progress) {
                return true;
            }
            if gone(&self.progress) {
                return false;
            }
            guard = changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.close();
    }
}

impl Progress {
    fn announce(&self) {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        drop(self.changed.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.1.notify_all();
    }
}

/// Tells waiters when the thread ends, by a panic too.
struct Ending(Arc<Progress>, Arc<Inbox<Write>>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::SeqCst);
        self.1.abandon();
        self.0.announce();
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
fn cut(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes));
    }
}

impl Write {
    /// Whether somebody waits until it is in the file: a run to start, a commit to be sent.
    fn is_awaited(&self) -> bool {
        match self {
            Write::Outcome(outcome, _) => outcome.state != RunState::Succeeded,
            Write::Tick(_) | Write::Confirm(..) | Write::DropIntents(_) => false,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(offset: i64) -> Vec<Planned> {
        let range = OffsetRange::new(Offset::new(offset), Offset::new(offset));
        vec![Planned::whole(RunKey::new("t", 0, range), 1, 1)]
    }

    #[test]
    fn a_run_that_succeeds_when_it_is_made_again_after_a_halt_keeps_nothing_of_that() {
        let folder = tempfile::tempdir().unwrap();
        let db = schema::open(&folder.path().join(FILE)).unwrap();
        db.execute("INSERT INTO scopes VALUES (1, 'kafka', '', 'g', 't', '', 0)", []).unwrap();
        let (history, mut file) = History::stepped(db, ScopeId(1), "rdkafka", 100, |_| {}).unwrap();
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
        let row = |file: &mut Stepped| {
            file.write(usize::MAX).unwrap();
            file.conclude();
            let columns = "SELECT state, attempts, error, output FROM runs WHERE id = 1";
            type Row = (i64, u32, Option<String>, Option<String>);
            let row = |row: &rusqlite::Row<'_>| -> rusqlite::Result<Row> {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            };
            file.db().query_row(columns, [], row).unwrap()
        };
        history.outcome(outcome(RunState::Halted, Some("bad")));
        let bad = || Some("bad".to_owned());
        assert_eq!(row(&mut file), (RunState::Halted.code(), 1, bad(), bad()));
        history.outcome(outcome(RunState::Succeeded, None));
        assert_eq!(row(&mut file), (RunState::Succeeded.code(), 1, None, None));
    }

    #[test]
    fn what_cannot_be_brought_to_the_disk_may_not_be_committed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let db = schema::open(&path).unwrap();
        db.execute("INSERT INTO scopes VALUES (1, 'kafka', '', 'g', 't', '', 0)", []).unwrap();
        let (history, thread) = History::start(db, ScopeId(1), "rdkafka", 100, |_| {}).unwrap();
        let offsets = [(0, Offset::new(1))];
        assert_eq!(history.intend(&offsets), Ok(true));
        std::fs::remove_file(crate::config::data_dir::with_ending(&path, "-wal")).unwrap();
        let error = history.intend(&offsets).unwrap_err();
        assert_eq!(error.class(), crate::model::error::Class::Fatal, "{error}");
        history.close();
        thread.join().unwrap();
        assert_eq!(history.intend(&offsets), Ok(false), "the next process may be at work");
    }

    #[test]
    fn while_the_file_cannot_be_written_no_run_starts_and_a_stop_does_not_wait_for_it() {
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

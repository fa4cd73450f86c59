//! The history thread: groups writes into transactions, and tries again what cannot be written.
//!
//! Order is the promise here: effects (a run may start, a run is done, a commit may be sent) are
//! announced only after the transaction that holds them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rusqlite::{CachedStatement, Connection, Transaction, TransactionBehavior, params};

use super::asked;
use super::inbox::Inbox;
use super::left;
use super::letters;
use super::place::Place;
use super::pruning::Pruner;
use super::reset;
use super::schema::{KIND_REDRIVE, KIND_REPLAY, KIND_TOPIC, is_damage};
use super::{AttemptRecord, DeadLetters, Ending, Outcome, Planned, Progress, ScopeId, Write};
use crate::config::limits;
use crate::model::clock;
use crate::model::crash;
use crate::model::error::{Error, Result};
use crate::model::offset::{Again, OffsetRange, Partition};
use crate::model::run::RunState;

/// A run that ended for good and is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    pub partition: Partition,
    /// The batch that it was a run of.
    pub batch: OffsetRange,
    pub state: RunState,
}

/// Told after each transaction which runs it ended for good.
pub(super) type OnSettled = Box<dyn Fn(&[Settled]) + Send>;

/// The writing end: the history thread's, or a simulation's, which makes each step itself.
pub struct Stepped {
    writer: Writer,
    inbox: Arc<Inbox<Write>>,
    settled: OnSettled,
    /// What is in the file, and not yet announced.
    group: Vec<Write>,
    _ending: Ending,
}

impl Stepped {
    pub(super) fn new(
        writer: Writer,
        inbox: Arc<Inbox<Write>>,
        settled: OnSettled,
        ending: Ending,
    ) -> Stepped {
        Stepped { writer, inbox, settled, group: Vec::new(), _ending: ending }
    }

    /// The history thread: writes until it is closed.
    pub(super) fn run(mut self) {
        while self.inbox.take_group(&mut self.group, limits::HISTORY_GROUP_WRITES) {
            if !self.writer.write_whatever_it_takes(&self.group) {
                return;
            }
            self.conclude();
        }
        while self.writer.prune() {}
    }

    /// Writes that wait.
    pub fn waiting(&self) -> usize {
        self.inbox.len()
    }

    /// Makes one transaction of the next writes, `most` at most.
    ///
    /// # Errors
    /// `Storage`.
    pub fn write(&mut self, most: usize) -> Result<()> {
        self.inbox.take_now(&mut self.group, most);
        self.writer.write(&self.group).map_err(|cause| Error::storage("write the history", cause))
    }

    /// Announces what was written.
    pub fn conclude(&mut self) {
        self.writer.conclude(&mut self.group, &self.settled);
    }

    pub fn db(&self) -> &Connection {
        &self.writer.db
    }

    /// Loses what is not in the file, as a kill does; whoever waits for it is told so.
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
    /// Nobody else brings intents to the disk.
    syncs_intents: bool,
    /// Whether `PRAGMA synchronous` is FULL now; `None` where that is not known.
    is_full: Option<bool>,
    effects: Effects,
    progress: Arc<Progress>,
}

/// What the group that was written last has done, by the place of each write in the group.
#[derive(Debug, Default)]
struct Effects {
    /// Outcomes of void runs, which changed nothing.
    ignored: BTreeSet<usize>,
    /// How many runs each reset made void.
    voided: BTreeMap<usize, usize>,
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
            is_full: None,
            effects: Effects::default(),
            progress,
        }
    }

    /// The group is in the file: says so, and removes old runs where that is due.
    fn conclude(&mut self, group: &mut Vec<Write>, settled: &impl Fn(&[Settled])) {
        for write in &*group {
            match write {
                Write::Planned(_) => crash::point("planned"),
                Write::Outcome(..) => crash::point("recorded"),
                Write::Split(..) => crash::point("split"),
                Write::Confirm(..) => crash::point("confirmed"),
                _ => {}
            }
        }
        let moves = |write: &Write| {
            matches!(
                write,
                Write::Confirm(..)
                    | Write::ConfirmReset(_)
                    | Write::EndRequest(..)
                    | Write::Cancel(..)
            )
        };
        let moved = group.iter().any(moves);
        self.announce(group, settled);
        if self.pruner.is_due(moved) {
            self.prune();
        }
    }

    /// Tries until the group is in the file: meanwhile the channel fills, and with it everything
    /// that would start or commit a run waits. False where the file is broken or gone, which no
    /// waiting mends: mb has to end, and its next start moves a broken file aside.
    fn write_whatever_it_takes(&mut self, group: &[Write]) -> bool {
        let mut failing_since = None;
        if let Some(Err(gone)) = self.place.as_mut().map(Place::check) {
            log::error!(
                "the history is gone: {gone}; mb ends, and commits nothing more: what it did since its \
                 last commit is done again"
            );
            self.suspect();
            return false;
        }
        while let Err(cause) = self.write(group) {
            if is_damage(&cause) {
                log::error!(
                    "the history is damaged: {cause}; mb ends, its next start moves the file aside \
                     and goes on from the committed offsets"
                );
                self.suspect();
                return false;
            }
            if failing_since.is_none() {
                failing_since = Some(Instant::now());
                self.progress.failing.store(true, Ordering::SeqCst);
                log::error!(
                    "cannot write the history: {cause}; nothing is started or committed until it \
                     can be written again (tried each {:?})",
                    limits::HISTORY_RETRY_INTERVAL
                );
            }
            std::thread::sleep(limits::HISTORY_RETRY_INTERVAL);
        }
        if let Some(since) = failing_since {
            self.progress.failing.store(false, Ordering::SeqCst);
            self.progress.announce();
            let seconds = since.elapsed().as_secs();
            log::info!("the history can be written again, after {seconds} s");
        }
        true
    }

    /// The next start is to look at all of the file, however this mb ends.
    fn suspect(&self) {
        if let Some(path) = self.db.path()
            && let Err(cause) = left::forget(Path::new(path))
        {
            log::warn!("cannot remove the note beside the history: {cause}");
        }
    }

    fn write(&mut self, group: &[Write]) -> rusqlite::Result<()> {
        let written = self.write_all(group);
        if written.is_err() {
            for write in group {
                if let Write::Reset(reset) = write {
                    reset.claim.give_back();
                }
            }
        }
        written
    }

    fn write_all(&mut self, group: &[Write]) -> rusqlite::Result<()> {
        let (scope, client) = (self.scope, self.client);
        self.effects = Effects::default();
        // Cannot be changed within a transaction.
        let full = is_to_outlive_power(group, self.syncs_intents);
        if self.is_full != Some(full) {
            self.is_full = None;
            self.db.execute_batch(if full {
                "PRAGMA synchronous = FULL"
            } else {
                "PRAGMA synchronous = NORMAL"
            })?;
            self.is_full = Some(full);
        }
        let change = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut statements = Statements::prepare(&change)?;
        for (at, write) in group.iter().enumerate() {
            apply(&change, &mut statements, scope, client, (at, write), &mut self.effects)?;
        }
        drop(statements);
        if group.iter().any(|write| matches!(write, Write::Outcome(..))) {
            crash::point("recording");
        }
        change.commit()
    }

    fn announce(&mut self, group: &mut Vec<Write>, settled: &impl Fn(&[Settled])) {
        let Effects { ignored, mut voided } = std::mem::take(&mut self.effects);
        let mut ended = Vec::new();
        let mut planned = None;
        let mut answers = Vec::new();
        let mut resets = Vec::new();
        for (at, write) in group.drain(..).enumerate() {
            match write {
                Write::Outcome(outcome, _) if ignored.contains(&at) => {
                    log::warn!(
                        "run {} of {} ended as {} after its partition's offsets were moved: what became \
                         of it is not recorded",
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
                    // What a request asked for is not in the ledger.
                    if outcome.state.is_done() && outcome.key.again.is_none() {
                        ended.push(Settled {
                            partition: outcome.key.partition,
                            batch: outcome.whole,
                            state: outcome.state,
                        });
                    }
                }
                Write::Intend(_, done) | Write::Flush(done) | Write::Cancel(_, _, done) => {
                    answers.push(done);
                }
                Write::Reset(reset) => {
                    resets.extend(voided.remove(&at).map(|voided| (reset.done, voided)));
                }
                Write::Tick(_)
                | Write::Start(..)
                | Write::Gap(..)
                | Write::EndRequest(..)
                | Write::Withdraw(_)
                | Write::Confirm(..)
                | Write::DropIntents(_)
                | Write::ConfirmReset(_) => {}
            }
        }
        if let Some(id) = planned {
            self.progress.planned.store(id.0, Ordering::SeqCst);
            self.progress.announce();
        }
        if !ended.is_empty() {
            settled(&ended);
        }
        // After the ledgers know what was sent before: whoever moves a partition replaces its ledger. Who
        // asked may have given up waiting.
        for done in answers {
            let _ = done.send(());
        }
        for (done, voided) in resets {
            let _ = done.send(voided);
        }
    }

    /// Removes old runs, a chunk of them. Returns whether there are more.
    fn prune(&mut self) -> bool {
        match self.pruner.prune(&mut self.db) {
            Ok(has_more) => has_more,
            Err(cause) => {
                if is_damage(&cause) {
                    self.suspect();
                }
                log::warn!("cannot remove old runs from the history: {cause}; tried again later");
                false
            }
        }
    }
}

/// Whether it has dead letters, which the offsets in Kafka will go past while only this file has them:
/// such a transaction is on the disk, not only in the system's memory, before it is announced. Others may
/// be lost with the power until the next intent, which brings all before it to the disk, and are made
/// again.
fn is_to_outlive_power(group: &[Write], intents: bool) -> bool {
    group.iter().any(|write| match write {
        Write::Outcome(outcome, _) => outcome.dead_letters.is_some(),
        Write::Intend(..) | Write::Reset(_) => intents,
        _ => false,
    })
}

/// The two statements that nearly all of a busy history's writes are, found once for a group.
struct Statements<'c> {
    insert_run: CachedStatement<'c>,
    end_attempt: CachedStatement<'c>,
}

impl Statements<'_> {
    fn prepare<'c>(change: &'c Transaction<'_>) -> rusqlite::Result<Statements<'c>> {
        Ok(Statements {
            insert_run: change.prepare_cached(
                "INSERT INTO runs(id, scope, client, partition, first_offset, last_offset, batch_first, \
                 batch_last, lane, lanes, parent, attempts, kind, request, records, bytes, state, queued_ms) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)",
            )?,
            end_attempt: change.prepare_cached(
                "UPDATE runs SET state = ?2, attempts = ?3, started_ms = ?4, ended_ms = ?5, run_us = ?6, \
                 worker = ?7, error = ?8, output = ?9, records = ?10 WHERE id = ?1 AND state <> ?11",
            )?,
        })
    }
}

fn apply(
    change: &Transaction<'_>,
    statements: &mut Statements<'_>,
    scope: ScopeId,
    client: &str,
    (at, write): (usize, &Write),
    effects: &mut Effects,
) -> rusqlite::Result<()> {
    match write {
        Write::Planned(runs) => {
            insert_runs(change, statements, scope, client, RunState::Queued, runs)?;
        }
        Write::Split(parent, runs) => {
            if !apply_outcome(change, statements, scope, parent)? {
                // Pieces of a void run are void too, whatever a worker makes of them.
                insert_runs(change, statements, scope, client, RunState::Voided, runs)?;
                return Ok(());
            }
            insert_runs(change, statements, scope, client, RunState::Queued, runs)?;
            if let Some(Again::Redrive(request)) = parent.key.again {
                letters::settle(change, parent, request)?;
            }
        }
        Write::Outcome(outcome, _) => {
            if !apply_outcome(change, statements, scope, outcome)? {
                effects.ignored.insert(at);
            }
        }
        Write::EndRequest(request, state, note) => {
            change.execute(
                "UPDATE requests SET state = ?2, ended_ms = ?3, note = ifnull(?4, note) \
                 WHERE id = ?1 AND state = 0",
                params![request, state, clock::now_ms(), note],
            )?;
        }
        Write::Cancel(requests, note, _) => {
            for (request, started) in requests {
                asked::end(change, *request, started, note)?;
            }
        }
        Write::Withdraw(run) => asked::end_run(change, *run)?,
        Write::Tick(tick) => {
            change
                .prepare_cached(
                    "INSERT INTO ticks(scope, sensor, started_ms, run_us, records, bytes, batches, \
                     ended_by, error) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                )?
                .execute(params![
                    scope.0,
                    tick.sensor,
                    tick.started_ms,
                    tick.run_us,
                    tick.records,
                    tick.bytes,
                    tick.batches,
                    tick.ended_by,
                    tick.error
                ])?;
        }
        Write::Start(partition, start) => {
            change
                .prepare_cached(
                    "INSERT OR IGNORE INTO partitions(scope, partition, start_offset) VALUES (?1, ?2, ?3)",
                )?
                .execute(params![scope.0, partition, start.get()])?;
        }
        Write::Gap(partition, missing, reason) => {
            insert_gap(change, scope, *partition, *missing, reason)?;
        }
        Write::Intend(offsets, _) => {
            let mut insert = change.prepare_cached(
                "INSERT OR IGNORE INTO intents(scope, partition, committing) VALUES (?1, ?2, ?3)",
            )?;
            for (partition, offset) in offsets {
                insert.execute(params![scope.0, partition, offset.get()])?;
            }
        }
        Write::Confirm(offsets, settles) => {
            // Each was intended before. If its intent is gone, the partition was moved meanwhile, and the
            // commit belongs to the position of before.
            let mut update = change.prepare_cached(
                "UPDATE partitions SET confirmed = ?3 WHERE scope = ?1 AND partition = ?2 \
                 AND EXISTS (SELECT 1 FROM intents \
                 WHERE scope = ?1 AND partition = ?2 AND committing = ?3)",
            )?;
            let mut settle = change.prepare_cached(
                "DELETE FROM intents WHERE scope = ?1 AND partition = ?2 AND committing <= ?3",
            )?;
            for (partition, offset) in offsets {
                update.execute(params![scope.0, partition, offset.get()])?;
                if *settles {
                    settle.execute(params![scope.0, partition, offset.get()])?;
                }
            }
        }
        Write::DropIntents(offsets) => {
            let mut delete = change.prepare_cached(
                "DELETE FROM intents WHERE scope = ?1 AND partition = ?2 AND committing = ?3",
            )?;
            for (partition, offset) in offsets {
                delete.execute(params![scope.0, partition, offset.get()])?;
            }
        }
        Write::Reset(write) if write.claim.take() => {
            effects.voided.insert(at, reset::intend_in(change, scope, &write.resets)?);
        }
        Write::Reset(_) => {}
        Write::ConfirmReset(resets) => reset::confirm_in(change, scope, resets)?,
        Write::Flush(_) => {}
    }
    Ok(())
}

/// Keeps offsets that are passed over without being processed.
pub(super) fn insert_gap(
    db: &Connection,
    scope: ScopeId,
    partition: Partition,
    missing: OffsetRange,
    reason: &str,
) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO gaps(scope, partition, first_offset, last_offset, reason, at_ms) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        scope.0,
        partition,
        missing.first.get(),
        missing.last.get(),
        reason,
        clock::now_ms()
    ])?;
    Ok(())
}

fn insert_runs(
    change: &Transaction<'_>,
    statements: &mut Statements<'_>,
    scope: ScopeId,
    client: &str,
    state: RunState,
    runs: &[Planned],
) -> rusqlite::Result<()> {
    for run in runs {
        let (range, whole, lane) = (run.key.range, run.whole, run.key.lane);
        // Of most runs the batch is theirs alone.
        let whole = (whole != range).then_some(whole);
        let (kind, request) = match run.key.again {
            None => (KIND_TOPIC, None),
            Some(Again::Redrive(request)) => (KIND_REDRIVE, Some(request)),
            Some(Again::Replay(request)) => (KIND_REPLAY, Some(request)),
        };
        statements.insert_run.execute(params![
            run.id.0,
            scope.0,
            client,
            run.key.partition,
            range.first.get(),
            range.last.get(),
            whole.map(|whole| whole.first.get()),
            whole.map(|whole| whole.last.get()),
            lane.index,
            lane.count,
            run.parent.map(|parent| parent.0),
            run.failed_attempts,
            kind,
            request,
            run.records,
            run.bytes,
            state.code(),
            run.queued_ms
        ])?;
        if let Some(Again::Redrive(request)) = run.key.again
            && state == RunState::Queued
        {
            letters::take(change, run, request)?;
        }
    }
    Ok(())
}

/// False for a run that is void, whose row may be gone too: then nothing is changed. Its partition's offsets
/// were moved while it ran, and the file has said so; were its outcome written over that, its range would
/// count as done in the new position.
fn apply_outcome(
    change: &Transaction<'_>,
    statements: &mut Statements<'_>,
    scope: ScopeId,
    outcome: &Outcome,
) -> rusqlite::Result<bool> {
    let AttemptRecord { number, started_ms, run_us, worker, error, output } = &outcome.attempt;
    let rows = statements.end_attempt.execute(params![
        outcome.id.0,
        outcome.state.code(),
        number,
        started_ms,
        started_ms + run_us / 1000,
        run_us,
        worker,
        error,
        output,
        outcome.records,
        RunState::Voided.code()
    ])?;
    if rows == 0 {
        return Ok(false);
    }
    if let Some(error) = error.as_ref().filter(|_| outcome.is_of_an_attempt()) {
        change
            .prepare_cached(
                "INSERT INTO attempts(run, number, started_ms, run_us, worker, error, output) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![outcome.id.0, number, started_ms, run_us, worker, error, output])?;
    }
    let redrive = match outcome.key.again {
        Some(Again::Redrive(request)) => Some(request),
        _ => None,
    };
    if let Some(request) = redrive
        && outcome.state.is_done()
    {
        letters::settle(change, outcome, request)?;
    }
    let Some(DeadLetters { batch, reasons, stored, .. }) = &outcome.dead_letters else {
        return Ok(true);
    };
    change
        .prepare_cached("UPDATE runs SET dead_letters = ?2 WHERE id = ?1")?
        .execute(params![outcome.id.0, batch.len()])?;
    // Those of a redrive have their rows.
    if !stored || redrive.is_some() {
        return Ok(true);
    }
    let key = outcome.key.to_string();
    let mut insert = change.prepare_cached(
        "INSERT INTO dead_letters(scope, run, run_key, topic, partition, record_offset, \
         timestamp_ms, key, value, headers, error, attempts, at_ms) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?;
    for record in batch.records() {
        insert.execute(params![
            scope.0,
            outcome.id.0,
            key,
            &*outcome.key.topic,
            outcome.key.partition,
            record.offset.get(),
            record.timestamp,
            record.key,
            record.value,
            (!record.headers.is_empty()).then(|| record.headers.encoded()),
            reasons.get(&record.offset).or(error.as_ref()),
            number,
            started_ms + run_us / 1000
        ])?;
    }
    Ok(true)
}

//! Turns a group of writes into one transaction on the history's file.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{CachedStatement, Connection, ToSql, Transaction, TransactionBehavior, params};

use super::dead_letters;
use super::migrations::{KIND_REDRIVE, KIND_REPLAY, KIND_TOPIC, LANE_HASH};
use super::records::{AttemptRecord, DeadLetters, Outcome, Planned, TickRecord, micros};
use super::recovery::insert_gap;
use super::requests;
use super::reset;
use super::scope::{self, ScopeId};
use super::write::Write;
use crate::kafka::Commit;
use crate::model::batch::Batch;
use crate::model::clock;
use crate::model::crash;
use crate::model::offset::{Epoch, Offset, Partition, Reprocess};
use crate::model::run::RunState;

/// What a group has done, beyond what its writes say: by the place of a write in the group.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// Outcomes of void runs, which changed nothing.
    pub ignored: BTreeSet<usize>,
    /// The number of the commits that each intent is for.
    pub sequences: BTreeMap<usize, i64>,
    /// What each reset has done.
    pub resets: BTreeMap<usize, reset::Intended>,
}

/// Writes the group, all of it or nothing.
///
/// # Errors
/// SQLite's.
pub(super) fn write(
    db: &mut Connection,
    scope: ScopeId,
    client: &str,
    group: &[Write],
) -> rusqlite::Result<Effects> {
    let mut effects = Effects::default();
    let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let (mut insert_run, mut end_attempt) =
        (change.prepare_cached(INSERT_RUN)?, change.prepare_cached(END_ATTEMPT)?);
    bind(&mut insert_run, RUN_CONSTANTS, params![scope.0, client, LANE_HASH])?;
    bind(&mut end_attempt, ATTEMPT_CONSTANTS, params![RunState::Voided.code()])?;
    let mut target = Target { change: &change, scope, insert_run, end_attempt };
    for (at, write) in group.iter().enumerate() {
        target.apply(at, write, &mut effects)?;
    }
    drop(target);
    if group.iter().any(|write| matches!(write, Write::Outcome(..))) {
        crash::point("recording");
    }
    change.commit()?;
    Ok(effects)
}

/// The parameters from `RUN_CONSTANTS` on are the same for all runs.
const INSERT_RUN: &str = "INSERT INTO runs(id, partition, first_offset, last_offset, batch_first, batch_last, lane, \
     lanes, parent, attempts, kind, request, records, bytes, state, queued_ms, leader_epoch, read_us, \
     scope, client, lane_hash) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)";
const RUN_CONSTANTS: usize = 19;
/// The parameters from `ATTEMPT_CONSTANTS` on are the same for all attempts.
const END_ATTEMPT: &str = "UPDATE runs SET state = ?2, attempts = ?3, started_ms = ?4, ended_ms = ?5, \
     run_us = ?6, worker = ?7, error = ?8, output = NULL, records = ?9 WHERE id = ?1 AND state <> ?10";
const ATTEMPT_CONSTANTS: usize = 10;

/// An open transaction, with the two statements that nearly all writes of a busy history need: they are
/// looked up once for a group.
struct Target<'c> {
    change: &'c Transaction<'c>,
    scope: ScopeId,
    insert_run: CachedStatement<'c>,
    end_attempt: CachedStatement<'c>,
}

/// Binds the parameters from index `from` on. SQLite keeps the others, so what is the same for the whole group is bound
/// once.
fn bind(
    statement: &mut CachedStatement<'_>,
    from: usize,
    values: &[&dyn ToSql],
) -> rusqlite::Result<()> {
    let end = from + values.len() - 1;
    debug_assert!(end <= statement.parameter_count(), "a statement without parameter {end}");
    for (index, value) in (from..).zip(values) {
        statement.raw_bind_parameter(index, value)?;
    }
    Ok(())
}

impl Target<'_> {
    fn apply(&mut self, at: usize, write: &Write, effects: &mut Effects) -> rusqlite::Result<()> {
        let (change, scope) = (self.change, self.scope);
        match write {
            Write::Planned(runs) => {
                self.insert_runs(runs, RunState::Queued)?;
                self.end_those_of_cancelled(runs)?;
            }
            Write::Split(parent, runs) => self.split(parent, runs)?,
            Write::Outcome(outcome, _) => {
                if !self.end_run(outcome)? {
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
                    requests::end_cancelled(change, *request, started, note)?;
                }
            }
            Write::Withdraw(run) => requests::end_cancelled_run(change, *run)?,
            Write::Tick(tick) => insert_tick(change, scope, tick)?,
            Write::Start(partition, start) => {
                change
                    .prepare_cached(
                        "INSERT OR IGNORE INTO partitions(scope, partition, start_offset) \
                         VALUES (?1, ?2, ?3)",
                    )?
                    .execute(params![scope.0, partition, start.get()])?;
            }
            Write::Gap(partition, missing, reason) => {
                insert_gap(change, scope, *partition, *missing, reason)?;
            }
            Write::Intend(offsets, _) => {
                change_intents(
                    change,
                    scope,
                    offsets,
                    "INSERT OR IGNORE INTO intents(scope, partition, committing) VALUES (?1, ?2, ?3)",
                )?;
                effects.sequences.insert(at, scope::next_sequence(change)?);
            }
            Write::Confirm(commits, sequence, settles) => {
                confirm(change, scope, commits, *sequence, *settles)?;
            }
            Write::DropIntents(offsets) => {
                change_intents(
                    change,
                    scope,
                    offsets,
                    "DELETE FROM intents WHERE scope = ?1 AND partition = ?2 AND committing = ?3",
                )?;
            }
            Write::Reset(write) => {
                if write.claim.take() {
                    effects.resets.insert(at, reset::intend_in(change, scope, &write.resets)?);
                }
            }
            Write::ConfirmReset(resets, sequence, in_doubt) => {
                reset::confirm_in(change, scope, resets, *sequence, *in_doubt)?;
            }
            Write::Flush(_) => {}
        }
        Ok(())
    }

    /// A run has become others. Pieces of a void run are void too: they must not count as the new position's.
    fn split(&mut self, parent: &Outcome, runs: &[Planned]) -> rusqlite::Result<()> {
        if !self.end_run(parent)? {
            return self.insert_runs(runs, RunState::Voided);
        }
        self.insert_runs(runs, RunState::Queued)?;
        let passed_on: usize = runs.iter().map(|run| run.records).sum();
        self.change
            .prepare_cached("UPDATE runs SET passed_on = ?2 WHERE id = ?1")?
            .execute(params![parent.id.0, passed_on])?;
        if let Some(Reprocess::Redrive(request)) = parent.key.reprocess {
            dead_letters::settle(self.change, parent, request)?;
        }
        Ok(())
    }

    /// If a replay or redrive is cancelled while a run of it is on its way here, and the queue then has no room
    /// for that run, nobody withdraws it: it would be shown as queued until mb starts again.
    fn end_those_of_cancelled(&self, runs: &[Planned]) -> rusqlite::Result<()> {
        let reprocess = runs.first().and_then(|run| run.key.reprocess);
        let Some(request) = reprocess.map(Reprocess::request) else { return Ok(()) };
        if requests::is_cancelled(self.change, request)? {
            for run in runs {
                requests::end_cancelled_run(self.change, run.id)?;
            }
        }
        Ok(())
    }

    fn insert_runs(&mut self, runs: &[Planned], state: RunState) -> rusqlite::Result<()> {
        for run in runs {
            let (range, whole, lane) = (run.key.range, run.whole, run.key.lane);
            // Most runs have a batch of their own.
            let whole = (whole != range).then_some(whole);
            let (kind, request) = match run.key.reprocess {
                None => (KIND_TOPIC, None),
                Some(Reprocess::Redrive(request)) => (KIND_REDRIVE, Some(request)),
                Some(Reprocess::Replay(request)) => (KIND_REPLAY, Some(request)),
            };
            let values = params![
                run.id.0,
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
                run.queued_ms,
                run.epoch.map(Epoch::get),
                run.reading.map(micros)
            ];
            bind(&mut self.insert_run, 1, values)?;
            self.insert_run.raw_execute()?;
            if let Some(parent) = run.parent {
                self.change
                    .prepare_cached(
                        "UPDATE runs SET leader_epoch = (SELECT leader_epoch FROM runs WHERE id = ?2) \
                         WHERE id = ?1",
                    )?
                    .execute([run.id.0, parent.0])?;
            }
            if let Some(Reprocess::Redrive(request)) = run.key.reprocess
                && state == RunState::Queued
            {
                dead_letters::take(self.change, run, request)?;
            }
        }
        Ok(())
    }

    /// Records what became of a run. False for a run that is void (or whose row, being void, was removed):
    /// then nothing is changed. Its partition's offsets were moved while it ran; written over that, its
    /// outcome would count as done in the new position.
    fn end_run(&mut self, outcome: &Outcome) -> rusqlite::Result<bool> {
        let AttemptRecord { number, started_ms, run_us, worker, error, output } = &outcome.attempt;
        let values = params![
            outcome.id.0,
            outcome.state.code(),
            number,
            started_ms,
            started_ms + run_us / 1000,
            run_us,
            worker,
            error,
            outcome.records
        ];
        bind(&mut self.end_attempt, 1, values)?;
        let rows = self.end_attempt.raw_execute()?;
        if rows == 0 {
            return Ok(false);
        }
        if let Some(error) = error.as_ref().filter(|_| outcome.is_of_an_attempt()) {
            self.change
                .prepare_cached(
                    "INSERT INTO attempts(run, number, started_ms, run_us, worker, error, output) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                )?
                .execute(params![
                    outcome.id.0,
                    number,
                    started_ms,
                    run_us,
                    worker,
                    error,
                    output
                ])?;
        } else if let Some(output) = output {
            self.change
                .prepare_cached("INSERT OR REPLACE INTO outputs(run, output) VALUES (?1, ?2)")?
                .execute(params![outcome.id.0, output])?;
        }
        let redrive = match outcome.key.reprocess {
            Some(Reprocess::Redrive(request)) => Some(request),
            _ => None,
        };
        if let Some(request) = redrive
            && outcome.state.is_done()
        {
            dead_letters::settle(self.change, outcome, request)?;
        }
        let Some(DeadLetters { batch, reasons, stored, .. }) = outcome.dead_letters.as_deref()
        else {
            return Ok(true);
        };
        self.change
            .prepare_cached("UPDATE runs SET dead_letters = ?2 WHERE id = ?1")?
            .execute(params![outcome.id.0, batch.len()])?;
        // Records of a redrive have their rows already.
        if *stored && redrive.is_none() {
            insert_dead_letters(self.change, self.scope, outcome, batch, reasons)?;
        }
        Ok(true)
    }
}

fn insert_dead_letters(
    change: &Transaction<'_>,
    scope: ScopeId,
    outcome: &Outcome,
    batch: &Batch,
    reasons: &BTreeMap<Offset, String>,
) -> rusqlite::Result<()> {
    let AttemptRecord { number, started_ms, run_us, error, .. } = &outcome.attempt;
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
    Ok(())
}

fn insert_tick(
    change: &Transaction<'_>,
    scope: ScopeId,
    tick: &TickRecord,
) -> rusqlite::Result<()> {
    change
        .prepare_cached(
            "INSERT INTO ticks(scope, sensor, started_ms, run_us, records, bytes, batches, ended_by, \
             error) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
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
    Ok(())
}

fn change_intents(
    change: &Transaction<'_>,
    scope: ScopeId,
    offsets: &[(Partition, Offset)],
    sql: &str,
) -> rusqlite::Result<()> {
    let mut statement = change.prepare_cached(sql)?;
    for (partition, offset) in offsets {
        statement.execute(params![scope.0, partition, offset.get()])?;
    }
    Ok(())
}

/// Each of these commits was intended before. If the intent is gone, the partition was moved meanwhile, and
/// the commit belongs to the position of before.
fn confirm(
    change: &Transaction<'_>,
    scope: ScopeId,
    commits: &[Commit],
    sequence: i64,
    settles: bool,
) -> rusqlite::Result<()> {
    let mut update = change.prepare_cached(
        "UPDATE partitions SET confirmed = ?3, leader_epoch = ?4, sequence = ?5 \
         WHERE scope = ?1 AND partition = ?2 \
         AND EXISTS (SELECT 1 FROM intents WHERE scope = ?1 AND partition = ?2 AND committing = ?3)",
    )?;
    let mut settle = change.prepare_cached(
        "DELETE FROM intents WHERE scope = ?1 AND partition = ?2 AND committing <= ?3",
    )?;
    for Commit { partition, offset, epoch, .. } in commits {
        let epoch = epoch.map(Epoch::get);
        update.execute(params![scope.0, partition, offset.get(), epoch, sequence])?;
        if settles {
            settle.execute(params![scope.0, partition, offset.get()])?;
        }
    }
    Ok(())
}

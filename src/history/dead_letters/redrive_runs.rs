//! Dead letters whose redrive has a run: assigned to it, and settled when it ends.

use rusqlite::{Transaction, params};

use super::state::DeadLetterState;
use crate::history::records::{DeadLetters, Outcome, Planned};

/// Assigns to a redrive's new run its dead letters, in the transaction that holds the run.
pub fn take(change: &Transaction<'_>, run: &Planned, request: i64) -> rusqlite::Result<()> {
    let (first, last) = (run.key.range.first.get(), run.key.range.last.get());
    let state = DeadLetterState::Redriving.code();
    match run.parent {
        None => change
            .prepare_cached(
                "UPDATE dead_letters SET redrive_run = ?1 WHERE request = ?2 AND partition = ?3 \
                 AND record_offset BETWEEN ?4 AND ?5 AND state = ?6 AND redrive_run IS NULL",
            )?
            .execute(params![run.id.0, request, run.key.partition, first, last, state])?,
        Some(parent) => change
            .prepare_cached(
                "UPDATE dead_letters SET redrive_run = ?1 WHERE redrive_run = ?2 \
                 AND record_offset BETWEEN ?3 AND ?4 AND state = ?5",
            )?
            .execute(params![run.id.0, parent.0, first, last, state])?,
    };
    Ok(())
}

/// A redrive's run has ended, or became others that have its dead letters by now: those that failed again are
/// open again, the others are redriven. In the transaction of the run's outcome.
pub fn settle(change: &Transaction<'_>, outcome: &Outcome, request: i64) -> rusqlite::Result<()> {
    let attempt = &outcome.attempt;
    let now = attempt.started_ms + attempt.run_us / 1000;
    let redriving = DeadLetterState::Redriving.code();
    if let Some(DeadLetters { batch, reasons, .. }) = outcome.dead_letters.as_deref() {
        let mut reopen = change.prepare_cached(
            "UPDATE dead_letters SET state = ?3, request = NULL, error = ?4, \
             attempts = attempts + ?5, at_ms = ?6 \
             WHERE redrive_run = ?1 AND record_offset = ?2 AND state = ?7",
        )?;
        for record in batch.records() {
            reopen.execute(params![
                outcome.id.0,
                record.offset.get(),
                DeadLetterState::Open.code(),
                reasons.get(&record.offset).or(attempt.error.as_ref()),
                attempt.number,
                now,
                redriving
            ])?;
        }
    }
    change
        .prepare_cached(
            "UPDATE dead_letters SET state = ?2, request = NULL, resolved_ms = ?3 \
             WHERE redrive_run = ?1 AND state = ?4",
        )?
        .execute(params![outcome.id.0, DeadLetterState::Redriven.code(), now, redriving])?;
    change
        .prepare_cached(
            "UPDATE requests SET state = 1, ended_ms = ?2 WHERE id = ?1 AND state = 0 \
             AND NOT EXISTS (SELECT 1 FROM dead_letters WHERE request = ?1)",
        )?
        .execute(params![request, now])?;
    Ok(())
}

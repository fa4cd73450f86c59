//! How many runs and dead letters there are, for the overview.

use rusqlite::Connection;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::history::dead_letters::DeadLetterState;
use crate::model::error::{Error, Result};
use crate::model::live::Running;
use crate::model::run::RunState;

/// How many runs the history has in each state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunCounts {
    pub queued: u64,
    pub running: u64,
    pub succeeded: u64,
    /// Failed and halted runs together.
    pub failed: u64,
    pub split: u64,
}

/// How many runs are in which state. `running` is as in `runs_now`; `failed` counts halted runs too.
///
/// # Errors
/// `Storage` if the file cannot be read.
pub fn counts(db: &Connection, running: &[Running]) -> Result<RunCounts> {
    let ids: Vec<String> = running.iter().map(|run| run.id.to_string()).collect();
    let queued = RunState::Queued.code();
    let states = [
        RunState::Queued,
        RunState::Succeeded,
        RunState::Failed,
        RunState::Halted,
        RunState::Split,
    ];
    // One pass over the table, without sorting it by state.
    let sums = states.map(|state| format!("ifnull(sum(state = {}), 0)", state.code()));
    let select = format!(
        "SELECT {}, (SELECT count(*) FROM runs WHERE state = {queued} AND id IN ({})) FROM runs",
        sums.join(", "),
        ids.join(", ")
    );
    let read = || -> rusqlite::Result<[u64; 6]> {
        let mut found = [0; 6];
        db.query_row(&select, [], |row| {
            for (column, runs) in found.iter_mut().enumerate() {
                *runs = row.get(column)?;
            }
            Ok(())
        })?;
        Ok(found)
    };
    let [queued, succeeded, failed, halted, split, running] = read().map_err(storage)?;
    Ok(RunCounts {
        queued: queued.saturating_sub(running),
        running,
        succeeded,
        failed: failed + halted,
        split,
    })
}

/// How many dead letters are neither redriven nor discarded.
///
/// # Errors
/// `Storage` if the file cannot be read.
pub fn open_dead_letters(db: &Connection) -> Result<u64> {
    let open = [DeadLetterState::Open, DeadLetterState::Redriving].map(DeadLetterState::code);
    let count = || -> rusqlite::Result<u64> {
        db.prepare_cached("SELECT count(*) FROM dead_letters WHERE state IN (?1, ?2)")?
            .query_row(open, |row| row.get(0))
    };
    count().map_err(storage)
}

fn storage(cause: rusqlite::Error) -> Error {
    Error::storage("read the history", cause)
}

//! The dead letters of one run, and of the runs that it was split into: those to redrive if the run is to be made again,
//! and their records, for people.

use std::collections::BTreeSet;

use rusqlite::{Connection, Row};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::redriven::{redriven_columns, redriven_record};
use super::state::DeadLetterState;
use crate::model::error::{Error, Result};
use crate::model::offset::Offset;
use crate::step::shown_record::ShownRecord;

/// Begins a statement that reads `family`: the run of number `?1`, and all that it was split into.
pub const FAMILY: &str = "WITH RECURSIVE family(id) AS (SELECT ?1 UNION \
     SELECT runs.id FROM family JOIN runs ON runs.parent = family.id) ";

/// The dead letters that these runs left, or redrove.
const LETTERS: &str = "SELECT id FROM dead_letters WHERE run IN (SELECT id FROM family) \
     UNION SELECT id FROM dead_letters WHERE redrive_run IN (SELECT id FROM family)";

/// A record that the history keeps as a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "FailedRecord")]
pub struct KeptRecord {
    /// The number of the dead letter, and its state now.
    pub dead_letter: i64,
    pub state: String,
    pub error: String,
    #[serde(flatten)]
    pub record: ShownRecord,
}

/// What the history keeps of a run's records.
#[derive(Debug, Default)]
pub struct KeptRecords {
    /// Those at which the run failed, ascending: the first ones.
    pub failed: Vec<KeptRecord>,
    /// The offsets of all of them.
    pub failed_offsets: BTreeSet<Offset>,
    /// Of a redrive's run: the first of those that it has processed, or is to process.
    pub others: Vec<ShownRecord>,
    /// How many records of the run the history has.
    pub of: u64,
}

/// The open dead letters of a run, and the requests that redrive other ones of it now.
///
/// # Errors
/// `Storage`, here and below, if the file cannot be read.
pub fn open_of_run(db: &Connection, run: i64) -> Result<(Vec<i64>, BTreeSet<i64>)> {
    let select = format!(
        "{FAMILY} SELECT id, state, request FROM dead_letters WHERE id IN ({LETTERS}) \
         AND state IN ({}, {}) ORDER BY id",
        DeadLetterState::Open.code(),
        DeadLetterState::Redriving.code()
    );
    let read = || -> rusqlite::Result<(Vec<i64>, BTreeSet<i64>)> {
        let (mut open, mut requests) = (Vec::new(), BTreeSet::new());
        let mut select = db.prepare_cached(&select)?;
        let mut rows = select.query([run])?;
        while let Some(row) = rows.next()? {
            if row.get::<_, i64>(1)? == DeadLetterState::Open.code() {
                open.push(row.get(0)?);
            } else {
                requests.extend(row.get::<_, Option<i64>>(2)?);
            }
        }
        Ok((open, requests))
    };
    read().map_err(storage)
}

/// The records of a run that the history keeps, as far as they were in the run: `most` of each kind.
pub fn kept_of_run(
    db: &Connection,
    run: i64,
    is_redrive: bool,
    most: usize,
) -> Result<KeptRecords> {
    let which = if is_redrive { "redrive_run" } else { "run" };
    let select = format!(
        "{FAMILY} SELECT id, state, error, partition, {} FROM dead_letters \
         WHERE {which} IN (SELECT id FROM family) ORDER BY record_offset, id",
        redriven_columns()
    );
    let read = || -> rusqlite::Result<KeptRecords> {
        let mut kept = KeptRecords::default();
        let mut select = db.prepare_cached(&select)?;
        let mut rows = select.query([run])?;
        while let Some(row) = rows.next()? {
            let state = DeadLetterState::from_code(row.get(1)?);
            // A redrive's run has processed the one, and the other is still with it.
            let is_other = is_redrive
                && matches!(state, Some(DeadLetterState::Redriven | DeadLetterState::Redriving));
            kept.of += 1;
            if is_other {
                if kept.others.len() < most {
                    kept.others.push(record(row)?);
                }
                continue;
            }
            kept.failed_offsets.insert(Offset::new(row.get(4)?));
            if kept.failed.len() < most {
                kept.failed.push(KeptRecord {
                    dead_letter: row.get(0)?,
                    state: state.map_or("unknown", DeadLetterState::name).to_owned(),
                    error: row.get(2)?,
                    record: record(row)?,
                });
            }
        }
        Ok(kept)
    };
    read().map_err(storage)
}

fn record(row: &Row<'_>) -> rusqlite::Result<ShownRecord> {
    Ok(ShownRecord::of(row.get(3)?, &redriven_record(row, 4)?))
}

fn storage(cause: rusqlite::Error) -> Error {
    Error::storage("use the dead letters in the history", cause)
}

#[cfg(test)]
mod tests {
    use super::super::tests::history;
    use super::*;

    /// Runs 1 to 5: 1 was split into 2 and 3, and 3 into 4 and 5. Of ten dead letters, run 2 left those of odd
    /// numbers, run 5 the others; run 9 redrives number 3, redrove number 1, and failed at number 5.
    fn family() -> (tempfile::TempDir, Connection) {
        let (folder, db) = history(10);
        for (run, parent) in [(1, None), (2, Some(1)), (3, Some(1)), (4, Some(3)), (5, Some(3))] {
            db.execute(
                "INSERT INTO runs(id, scope, client, partition, first_offset, last_offset, records, \
                 bytes, state, queued_ms, parent) VALUES (?1, 1, 'c', 0, 0, 9, 1, 1, 3, 0, ?2)",
                rusqlite::params![run, parent],
            )
            .unwrap();
        }
        db.execute_batch(
            "UPDATE dead_letters SET run = iif(id % 2 = 1, 2, 5);
             UPDATE dead_letters SET state = 2, redrive_run = 9 WHERE id = 1;
             UPDATE dead_letters SET state = 1, redrive_run = 9, request = 4 WHERE id = 3;
             UPDATE dead_letters SET redrive_run = 9, edited_ms = 1, edited_value = x'61' WHERE id = 5;",
        )
        .unwrap();
        (folder, db)
    }

    #[test]
    fn a_run_has_the_dead_letters_of_all_that_it_was_split_into() {
        let (_folder, db) = family();
        let open = |run| open_of_run(&db, run).unwrap();
        assert_eq!(open(1), (vec![2, 4, 5, 6, 7, 8, 9, 10], [4].into()));
        assert_eq!(open(3), (vec![2, 4, 6, 8, 10], [].into()));
        assert_eq!(open(4), (vec![], [].into()));
        assert_eq!(open(9), (vec![5], [4].into()), "the redrive's run");
        let plan: Vec<String> = db
            .prepare(&format!("EXPLAIN QUERY PLAN {FAMILY} {LETTERS}"))
            .unwrap()
            .query_map([1], |row| row.get(3))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        for index in ["runs_of_parent", "dead_letters_of_run", "dead_letters_of_redrive"] {
            assert!(plan.iter().any(|line| line.contains(index)), "{index}: {plan:?}");
        }
    }

    #[test]
    fn a_runs_failed_records_come_with_their_errors() {
        let (_folder, db) = family();
        let kept = kept_of_run(&db, 1, false, 3).unwrap();
        let numbers = |kept: &KeptRecords| {
            kept.failed.iter().map(|kept| kept.dead_letter).collect::<Vec<_>>()
        };
        assert_eq!((numbers(&kept), kept.failed_offsets.len(), kept.of), (vec![1, 2, 3], 10, 10));
        assert_eq!((kept.failed[0].state.as_str(), kept.others.len()), ("redriven", 0));
        assert!(kept.failed[0].error.contains("exit code"), "{kept:?}");
        let redrive = kept_of_run(&db, 9, true, 100).unwrap();
        assert_eq!((numbers(&redrive), redrive.of), (vec![5], 3));
        assert!(redrive.failed[0].record.edited);
        let offsets: Vec<_> = redrive.others.iter().map(|record| record.offset).collect();
        assert_eq!(offsets, [1, 3]);
    }
}

//! Removes old runs from the history: those beyond `--history-keep`, except what a restart needs.
//!
//! What a restart needs: runs that are not finished; finished ones above the confirmed offset (an older commit that
//! arrives late has an older number in its mark, and is not gone back to); and those of a request that is still open.
//! Dead letters go only once they are redriven or discarded.
//!
//! One stuck run keeps every later run of its partition, which may be millions. So runs that had to stay are
//! not looked at again until the lowest of them may go: each row is visited when it becomes old enough, and
//! once more when it goes, however many others stay. Work is done a chunk at a time, since runs wait for the
//! history thread meanwhile.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::dead_letters::DeadLetterState;
use super::scope::ScopeId;
use crate::model::offset::Partition;

/// Ticks that are kept.
const KEEP_TICKS: i64 = 10_000;
/// Old runs are removed each time this many new ones came.
const PRUNE_EVERY: i64 = 2_000;
/// Numbers of runs that one transaction goes through; more than come until the next.
const CHUNK: i64 = 4_000;

/// Whether a row of `runs` may go, in SQL, with the numbers of `RunState`: 5 voided, 2 succeeded, 3 failed,
/// 6 split.
macro_rules! may_go {
    () => {
        "(NOT EXISTS (SELECT 1 FROM requests WHERE requests.id = runs.request AND requests.state = 0) \
         AND (state = 5 OR state IN (2, 3, 6) AND (kind <> 0 OR \
         ifnull(batch_last, last_offset) < ifnull( \
             (SELECT confirmed FROM partitions \
              WHERE partitions.scope = runs.scope AND partitions.partition = runs.partition), 0))))"
    };
}

const REMOVE: &str = concat!("DELETE FROM runs WHERE id BETWEEN ?1 AND ?2 AND ", may_go!());
const KEEPERS: &str = "SELECT iif(kind = 0, NULL, request), partition, min(id) FROM runs \
     WHERE id BETWEEN ?1 AND ?2 AND (kind <> 0 OR scope = ?3) GROUP BY 1, iif(kind = 0, partition, 0)";
const KEPT_BY_PARTITION: &str = concat!(
    "SELECT id FROM runs WHERE id BETWEEN ?1 AND ?2 AND scope = ?3 AND partition = ?4 AND kind = 0 AND NOT ",
    may_go!(),
    " ORDER BY id LIMIT 1"
);
const KEPT_BY_REQUEST: &str = concat!(
    "SELECT id FROM runs WHERE id BETWEEN ?1 AND ?2 AND request = ?3 AND NOT ",
    may_go!(),
    " ORDER BY id LIMIT 1"
);
const REMOVE_OF_PARTITION: &str = "DELETE FROM runs WHERE id BETWEEN ?1 AND ?2 AND scope = ?3 \
     AND partition = ?4 AND kind = 0";
const REMOVE_OF_REQUEST: &str = "DELETE FROM runs WHERE id BETWEEN ?1 AND ?2 AND request = ?3";
const REMOVE_ATTEMPTS: &str = "DELETE FROM attempts WHERE run BETWEEN ?1 AND ?2 \
     AND NOT EXISTS (SELECT 1 FROM runs WHERE id = run)";

const REMOVE_OUTPUTS: &str = "DELETE FROM outputs WHERE run BETWEEN ?1 AND ?2 \
     AND NOT EXISTS (SELECT 1 FROM runs WHERE id = run)";

/// What keeps old runs in the file, until it moves on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Keeper {
    /// The partition's confirmed offset. Those of other scopes do not move while this mb runs.
    Partition(Partition),
    Request(i64),
}

#[derive(Clone)]
pub(super) struct Pruner {
    scope: ScopeId,
    keep_runs: i64,
    /// Runs planned since the last time.
    planned: i64,
    /// Every run up to this number is removed, or kept by something.
    looked_at: i64,
    /// The lowest run that each keeper keeps.
    kept: BTreeMap<Keeper, i64>,
    /// Resolved dead letters of runs up to this number are removed.
    letters_removed: i64,
    /// There is more to remove than fitted into the last transaction.
    has_more: bool,
}

impl Pruner {
    pub fn new(scope: ScopeId, keep_runs: u64) -> Pruner {
        Pruner {
            scope,
            keep_runs: i64::try_from(keep_runs).unwrap_or(i64::MAX),
            planned: 0,
            looked_at: 0,
            kept: BTreeMap::new(),
            letters_removed: 0,
            has_more: true,
        }
    }

    /// This many runs are new in the file.
    pub fn count(&mut self, planned: usize) {
        self.planned += planned as i64;
    }

    /// Whether something may go, as far as can be told without looking. `moved`: a commit was confirmed, or
    /// a request has ended.
    pub fn is_due(&self, moved: bool) -> bool {
        self.has_more
            || self.planned >= PRUNE_EVERY.min(self.keep_runs)
            || (moved && !self.kept.is_empty())
    }

    /// Removes what may go, as much as one transaction takes. Returns whether there is more.
    ///
    /// # Errors
    /// SQLite's; nothing is removed then, and it is tried again once more runs were planned.
    pub fn prune(&mut self, db: &mut Connection) -> rusqlite::Result<bool> {
        (self.planned, self.has_more) = (0, false);
        let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let newest: i64 = change
            .prepare_cached("SELECT ifnull(max(id), 0) FROM runs")?
            .query_row([], |row| row.get(0))?;
        let cutoff = newest.saturating_sub(self.keep_runs);
        let mut after = self.clone();
        after.remove_unblocked(&change)?;
        after.remove_aged(&change, cutoff)?;
        after.remove_letters(&change, cutoff)?;
        change
            .prepare_cached("DELETE FROM ticks WHERE id <= (SELECT max(id) FROM ticks) - ?1")?
            .execute([KEEP_TICKS])?;
        change.commit()?;
        *self = after;
        Ok(self.has_more)
    }

    /// Goes on with each keeper from the lowest run that it kept, up to the first that it still keeps.
    fn remove_unblocked(&mut self, change: &Transaction<'_>) -> rusqlite::Result<()> {
        let mut room = CHUNK;
        for (keeper, first) in self.kept.clone() {
            if room <= 0 {
                self.has_more = true;
                break;
            }
            let last = self.looked_at.min(first.saturating_add(room - 1));
            let kept = self.first_kept(change, keeper, first, last)?;
            let end = kept.unwrap_or(last + 1);
            if end > first {
                self.remove_of(change, keeper, first, end - 1)?;
            }
            room -= end - first;
            if kept.is_none() && last == self.looked_at {
                self.kept.remove(&keeper);
            } else {
                self.has_more |= kept.is_none();
                self.kept.insert(keeper, end);
            }
        }
        Ok(())
    }

    /// Looks at runs that have become old enough, for the first time.
    fn remove_aged(&mut self, change: &Transaction<'_>, cutoff: i64) -> rusqlite::Result<()> {
        if cutoff <= self.looked_at {
            return Ok(());
        }
        let first = self.looked_at + 1;
        let there: Option<i64> = change
            .prepare_cached("SELECT min(id) FROM runs WHERE id BETWEEN ?1 AND ?2")?
            .query_row([first, cutoff], |row| row.get(0))?;
        // Runs that were removed before leave no rows to count.
        let last = there.map_or(cutoff, |there| cutoff.min(there.saturating_add(CHUNK - 1)));
        change.prepare_cached(REMOVE)?.execute([first, last])?;
        remove_rest(change, first, last)?;
        let mut keepers = change.prepare_cached(KEEPERS)?;
        let mut rows = keepers.query([first, last, self.scope.0])?;
        while let Some(row) = rows.next()? {
            let keeper = match row.get::<_, Option<i64>>(0)? {
                Some(request) => Keeper::Request(request),
                None => Keeper::Partition(row.get(1)?),
            };
            self.kept.entry(keeper).or_insert(row.get(2)?);
        }
        self.looked_at = last;
        self.has_more |= last < cutoff;
        Ok(())
    }

    /// Removes resolved dead letters of old runs. All of them are read for it, so not each time: each one
    /// is read about eight times before it goes.
    fn remove_letters(&mut self, change: &Transaction<'_>, cutoff: i64) -> rusqlite::Result<()> {
        if cutoff - self.letters_removed < (self.keep_runs / 8).max(1) {
            return Ok(());
        }
        change
            .prepare_cached(
                "DELETE FROM dead_letters WHERE state IN (?2, ?3) \
                 AND ifnull(max(run, redrive_run), run) <= ?1",
            )?
            .execute(params![
                cutoff,
                DeadLetterState::Redriven.code(),
                DeadLetterState::Discarded.code()
            ])?;
        self.letters_removed = cutoff;
        Ok(())
    }

    fn first_kept(
        &self,
        change: &Transaction<'_>,
        keeper: Keeper,
        first: i64,
        last: i64,
    ) -> rusqlite::Result<Option<i64>> {
        let id = |row: &rusqlite::Row<'_>| row.get(0);
        match keeper {
            Keeper::Partition(partition) => change
                .prepare_cached(KEPT_BY_PARTITION)?
                .query_row(params![first, last, self.scope.0, partition], id),
            Keeper::Request(request) => {
                change.prepare_cached(KEPT_BY_REQUEST)?.query_row(params![first, last, request], id)
            }
        }
        .optional()
    }

    fn remove_of(
        &self,
        change: &Transaction<'_>,
        keeper: Keeper,
        first: i64,
        last: i64,
    ) -> rusqlite::Result<()> {
        match keeper {
            Keeper::Partition(partition) => change
                .prepare_cached(REMOVE_OF_PARTITION)?
                .execute(params![first, last, self.scope.0, partition])?,
            Keeper::Request(request) => {
                change.prepare_cached(REMOVE_OF_REQUEST)?.execute(params![first, last, request])?
            }
        };
        remove_rest(change, first, last)
    }
}

/// Removes attempts and outputs of runs that are gone.
fn remove_rest(change: &Transaction<'_>, first: i64, last: i64) -> rusqlite::Result<()> {
    for remove in [REMOVE_ATTEMPTS, REMOVE_OUTPUTS] {
        change.prepare_cached(remove)?.execute([first, last])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;
    use crate::history::{FILE, schema};
    use crate::model::run::RunState;

    /// A history of one partition per entry of `confirmed`, on which runs of one record each were made in
    /// turn, and all succeeded: run 1 at offset 0 of partition 0, run 2 at offset 0 of partition 1, …
    fn history(runs: i64, confirmed: &[i64]) -> (tempfile::TempDir, Connection) {
        let folder = tempfile::tempdir().unwrap();
        let db = schema::open(&folder.path().join(FILE)).unwrap();
        db.execute("INSERT INTO scopes VALUES (1, 'kafka', '', 'g', 't', '', 0)", []).unwrap();
        for (partition, confirmed) in confirmed.iter().enumerate() {
            db.execute(
                "INSERT INTO partitions(scope, partition, start_offset, confirmed) \
                 VALUES (1, ?1, 0, ?2)",
                params![partition as i64, confirmed],
            )
            .unwrap();
        }
        let partitions = confirmed.len();
        db.execute_batch(&format!(
            "WITH RECURSIVE n(id) AS (SELECT 0 UNION ALL SELECT id + 1 FROM n WHERE id + 1 < {runs})
             INSERT INTO runs(id, scope, client, partition, first_offset, last_offset, records, bytes,
                 state, queued_ms)
             SELECT id + 1, 1, 'rdkafka', id % {partitions}, id / {partitions}, id / {partitions}, 1, 1,
                 2, 0 FROM n;
             INSERT INTO attempts SELECT id, 1, 0, 0, 0, 'bad', NULL FROM runs;
             INSERT INTO outputs SELECT id, 'done' FROM runs;"
        ))
        .unwrap();
        (folder, db)
    }

    fn pruner_with(keep_runs: u64) -> Pruner {
        Pruner::new(ScopeId(1), keep_runs)
    }

    fn confirm(db: &Connection, partition: Partition, offset: i64) {
        db.execute(
            "UPDATE partitions SET confirmed = ?2 WHERE partition = ?1",
            params![partition, offset],
        )
        .unwrap();
    }

    fn prune_all(pruner: &mut Pruner, db: &mut Connection) {
        while pruner.prune(db).unwrap() {}
    }

    fn ids(db: &Connection, table: &str) -> Vec<i64> {
        let id = if matches!(table, "attempts" | "outputs") { "run" } else { "id" };
        let mut ids = db.prepare(&format!("SELECT {id} FROM {table} ORDER BY 1")).unwrap();
        ids.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    /// Steps of SQLite's machine that the statements of one `prune` took, of which each row that is
    /// visited takes some.
    fn steps(pruner: &mut Pruner, db: &mut Connection) -> i32 {
        let all = [
            REMOVE,
            KEEPERS,
            KEPT_BY_PARTITION,
            KEPT_BY_REQUEST,
            REMOVE_OF_PARTITION,
            REMOVE_OF_REQUEST,
            REMOVE_ATTEMPTS,
            REMOVE_OUTPUTS,
        ];
        let reset = |db: &Connection| -> i32 {
            all.map(|sql| db.prepare_cached(sql).unwrap().reset_status(StatementStatus::VmStep))
                .iter()
                .sum()
        };
        reset(db);
        prune_all(pruner, db);
        reset(db)
    }

    #[test]
    fn states_of_runs_are_those_that_the_statements_name() {
        let states = [RunState::Voided, RunState::Succeeded, RunState::Failed, RunState::Split];
        assert_eq!(states.map(RunState::code), [5, 2, 3, 6]);
    }

    #[test]
    fn one_stuck_run_costs_nothing_for_the_runs_behind_it() {
        // Partition 0 is stuck at its first run; partition 1 goes on.
        let (_folder, mut db) = history(20_000, &[0, 10_000]);
        let mut pruner = pruner_with(1_000);
        prune_all(&mut pruner, &mut db);
        assert_eq!(ids(&db, "runs").len(), 9_500 + 1_000);
        assert!(pruner.is_due(true) && !pruner.is_due(false));
        let still_stuck = steps(&mut pruner, &mut db);
        assert!(still_stuck < 200, "{still_stuck} steps for 9,500 runs that may not go");

        // One run after the other is confirmed: each costs its own row.
        confirm(&db, 0, 1);
        let one_goes = steps(&mut pruner, &mut db);
        assert!(one_goes < 500, "{one_goes} steps for one run that goes");
        assert_eq!(ids(&db, "runs")[..2], [3, 5]);

        confirm(&db, 0, 10_000);
        prune_all(&mut pruner, &mut db);
        assert_eq!(ids(&db, "runs"), (19_001..=20_000).collect::<Vec<_>>());
        assert_eq!(ids(&db, "attempts"), ids(&db, "runs"));
        assert_eq!(ids(&db, "outputs"), ids(&db, "runs"));
        assert!(!pruner.is_due(true), "nothing is kept any more");
    }

    #[test]
    fn a_transaction_removes_a_chunk_at_most() {
        let (_folder, mut db) = history(10_000, &[10_000]);
        let mut pruner = pruner_with(0);
        for left in [6_000, 2_000] {
            assert!(pruner.prune(&mut db).unwrap());
            assert_eq!(ids(&db, "runs").len(), left);
        }
        assert!(!pruner.prune(&mut db).unwrap());
        assert_eq!(ids(&db, "runs").len(), 0);

        let (_folder, mut db) = history(10_000, &[0]);
        let mut pruner = pruner_with(0);
        prune_all(&mut pruner, &mut db);
        confirm(&db, 0, 10_000);
        assert!(pruner.prune(&mut db).unwrap());
        assert_eq!(ids(&db, "runs").len(), 6_000);
    }

    #[test]
    fn a_run_stays_until_its_commit_is_confirmed_and_all_before_it_are_finished() {
        let (_folder, mut db) = history(10, &[4]);
        db.execute("UPDATE runs SET state = ?1 WHERE id = 2", [RunState::Halted.code()]).unwrap();
        let mut pruner = pruner_with(2);
        prune_all(&mut pruner, &mut db);
        assert_eq!(ids(&db, "runs"), [2, 5, 6, 7, 8, 9, 10]);
        confirm(&db, 0, 10);
        prune_all(&mut pruner, &mut db);
        assert_eq!(ids(&db, "runs").len(), 7, "behind the one that is not finished");
        db.execute("UPDATE runs SET state = ?1 WHERE id = 2", [RunState::Voided.code()]).unwrap();
        prune_all(&mut pruner, &mut db);
        assert_eq!(ids(&db, "runs"), [9, 10]);
    }

    #[test]
    fn runs_of_a_request_stay_until_it_has_ended() {
        let (_folder, mut db) = history(10, &[0]);
        db.execute("UPDATE runs SET kind = 2, request = 1 WHERE id IN (2, 5)", []).unwrap();
        db.execute("UPDATE runs SET kind = 2, request = 2 WHERE id IN (3, 6)", []).unwrap();
        for request in [1, 2] {
            db.execute(
                "INSERT INTO requests(id, scope, kind, asked_ms) VALUES (?1, 1, 2, 0)",
                [request],
            )
            .unwrap();
        }
        confirm(&db, 0, 10);
        let mut pruner = pruner_with(2);
        prune_all(&mut pruner, &mut db);
        assert_eq!(ids(&db, "runs"), [2, 3, 5, 6, 9, 10]);
        db.execute("UPDATE requests SET state = 1 WHERE id = 1", []).unwrap();
        assert!(pruner.is_due(true));
        prune_all(&mut pruner, &mut db);
        assert_eq!(ids(&db, "runs"), [3, 6, 9, 10]);
        db.execute("UPDATE requests SET state = 2 WHERE id = 2", []).unwrap();
        prune_all(&mut pruner, &mut db);
        assert_eq!(ids(&db, "runs"), [9, 10]);
    }

    #[test]
    fn what_other_scopes_left_goes_or_stays_and_is_not_looked_at_again() {
        let (_folder, mut db) = history(10, &[5]);
        let mut other = Pruner::new(ScopeId(2), 2);
        prune_all(&mut other, &mut db);
        assert_eq!(ids(&db, "runs"), [6, 7, 8, 9, 10]);
        assert!(!other.is_due(true));
    }

    #[test]
    fn dead_letters_go_with_old_runs_once_they_are_resolved() {
        let (_folder, mut db) = history(10, &[10]);
        for (run, state, redrive) in [(1, 0, None), (2, 2, Some(3)), (3, 3, None), (4, 2, Some(9))]
        {
            db.execute(
                "INSERT INTO dead_letters(id, scope, run, run_key, topic, partition, record_offset, \
                 error, attempts, at_ms, state, redrive_run) \
                 VALUES (?1, 1, ?1, 'k', 't', 0, 0, 'bad', 1, 0, ?2, ?3)",
                params![run, state, redrive],
            )
            .unwrap();
        }
        prune_all(&mut pruner_with(2), &mut db);
        assert_eq!(ids(&db, "dead_letters"), [1, 4]);
    }
}

//! A person's move of a group's offsets, as the history records it.
//!
//! The log and the history cannot change in one transaction, so a move has two halves with the commit to the
//! log between them: `intend` before it, `confirm` after it. If mb is killed anywhere in between, the next
//! start finds either the old or the new offset in the log, takes both for its own, and goes on from
//! whichever it is, without the ranges of before.
//!
//! A running mb makes both halves on the history thread (`History::reset`, `History::confirm_reset`);
//! `commit::reset` makes them on a file that no mb has open.

use rusqlite::{Connection, OptionalExtension, params};

use super::recovery::{insert_start, void_in};
use super::scope::{ScopeId, next_sequence};
use crate::model::error::{Error, Result};
use crate::model::offset::{Epoch, Offset, Partition};

/// The move of one partition: the offset that the log has for the group now (`None` if it has none), and the
/// offset that is about to be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    pub partition: Partition,
    pub from: Option<Offset>,
    pub to: Offset,
    /// The leader epoch of the record below `to`, once it was looked up.
    pub epoch: Option<Epoch>,
}

/// What the first half of a move has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intended {
    /// How many unfinished runs became void.
    pub void_runs: usize,
    /// The number of the commit that is about to be sent.
    pub sequence: i64,
}

/// The first half, in a transaction of its own.
///
/// # Errors
/// `Storage` if the file cannot be read or written; nothing is changed then.
pub fn intend(db: &Connection, scope: ScopeId, resets: &[Reset]) -> Result<Intended> {
    let change = db.unchecked_transaction().map_err(storage)?;
    let intended = intend_in(&change, scope, resets).map_err(storage)?;
    change.commit().map_err(storage)?;
    Ok(intended)
}

/// The second half, in a transaction of its own.
///
/// # Errors
/// `Storage` if the file cannot be written; the intents say the same to the next start.
pub fn confirm(db: &Connection, scope: ScopeId, resets: &[Reset], sequence: i64) -> Result<()> {
    let change = db.unchecked_transaction().map_err(storage)?;
    confirm_in(&change, scope, resets, sequence, false).map_err(storage)?;
    change.commit().map_err(storage)
}

/// Voids the partitions' ranges, and records both the log's offset and the one about to be committed as
/// this group's own.
pub(super) fn intend_in(
    change: &Connection,
    scope: ScopeId,
    resets: &[Reset],
) -> rusqlite::Result<Intended> {
    let sequence = next_sequence(change)?;
    let mut void_runs = 0;
    let mut recorded = change.prepare_cached(
        "SELECT ifnull(confirmed, start_offset) FROM partitions WHERE scope = ?1 AND partition = ?2",
    )?;
    for Reset { partition, from, to, .. } in resets {
        let at = recorded.query_row(params![scope.0, partition], |row| row.get(0)).optional()?;
        // A partition that is not recorded has no ranges, and begins at whatever is committed.
        let Some(at) = at.map(Offset::new) else { continue };
        void_runs += void_in(change, scope, *partition, from.unwrap_or(at))?;
        change.execute(
            "UPDATE partitions SET confirmed = ?3 WHERE scope = ?1 AND partition = ?2",
            params![scope.0, partition, from.map(Offset::get)],
        )?;
        change.execute(
            "INSERT INTO intents(scope, partition, committing) VALUES (?1, ?2, ?3)",
            params![scope.0, partition, to.get()],
        )?;
    }
    Ok(Intended { void_runs, sequence })
}

/// Records the new offsets as confirmed. `in_doubt`: one of the commits may still reach the log once more. Its
/// intent stays then, or a start after that would take it for a person's reset and void what was done meanwhile.
pub(super) fn confirm_in(
    change: &Connection,
    scope: ScopeId,
    resets: &[Reset],
    sequence: i64,
    in_doubt: bool,
) -> rusqlite::Result<()> {
    for Reset { partition, to, epoch, .. } in resets {
        void_in(change, scope, *partition, *to)?;
        insert_start(change, scope, *partition, *to, Some((*to, *epoch)))?;
        change.execute(
            "UPDATE partitions SET sequence = ?3 WHERE scope = ?1 AND partition = ?2",
            params![scope.0, partition, sequence],
        )?;
        if in_doubt {
            change.execute(
                "INSERT INTO intents(scope, partition, committing) VALUES (?1, ?2, ?3)",
                params![scope.0, partition, to.get()],
            )?;
        }
    }
    Ok(())
}

fn storage(cause: rusqlite::Error) -> Error {
    Error::storage("use the history", cause)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::{Path, PathBuf};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::*;
    use crate::history::recovery::{self, Decision, Mover, Recorded, Resume};
    use crate::history::scope::{self, ScopeKey};
    use crate::history::{
        AttemptRecord, DeadLetters, FILE, History, Outcome, Planned, Settled, WriterTask, schema,
    };
    use crate::kafka::{Commit, Committed};
    use crate::model::batch::{Batch, Record};
    use crate::model::budget::Permit;
    use crate::model::offset::{OffsetRange, RunKey};
    use crate::model::run::{RunId, RunState};
    use crate::model::thread;

    const LIMIT: Duration = Duration::from_secs(60);

    fn at(offset: i64) -> Offset {
        Offset::new(offset)
    }

    fn range(first: i64, last: i64) -> OffsetRange {
        OffsetRange::new(at(first), at(last))
    }

    fn moved(from: i64, to: i64) -> Vec<Reset> {
        vec![Reset { partition: 0, from: Some(at(from)), to: at(to), epoch: None }]
    }

    /// A history whose partitions 0 and 1 begin at offset 10, which is committed.
    fn begun(path: &Path) -> (Connection, ScopeId) {
        let db = schema::open(path).unwrap();
        let key = ScopeKey {
            log: "kafka",
            cluster_id: String::new(),
            group: "g".into(),
            topic: "t".into(),
            topic_id: String::new(),
        };
        let scope = scope::find_or_add(&db, &key).unwrap();
        let resume =
            || Resume { position: at(10), committed: Some(at(10)), read: None, stored: vec![] };
        let resumes = BTreeMap::from([(0, resume()), (1, resume())]);
        recovery::begin_all(&db, scope, &resumes, RunId(0)).unwrap();
        (db, scope)
    }

    /// A history that a test writes step by step.
    struct World {
        _folder: tempfile::TempDir,
        path: PathBuf,
        scope: ScopeId,
        history: Arc<History>,
        file: WriterTask,
        settled: Arc<Mutex<Vec<OffsetRange>>>,
    }

    impl World {
        fn new() -> World {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(FILE);
            let (db, scope) = begun(&path);
            let settled = Arc::new(Mutex::new(Vec::new()));
            let on_settled = {
                let settled = Arc::clone(&settled);
                move |runs: &[Settled]| {
                    settled.lock().unwrap().extend(runs.iter().map(|run| run.batch));
                }
            };
            let (history, file) =
                History::without_thread(db, scope, "rdkafka", 100, on_settled).unwrap();
            World { _folder: folder, path, scope, history, file, settled }
        }

        fn plan(&self, partition: Partition, range: OffsetRange) -> Planned {
            let mut run = Planned::whole(RunKey::new("t", partition, range), 1, 1);
            run.id = self.history.plan(vec![run.clone()]).unwrap();
            run
        }

        fn write(&mut self) {
            self.file.write(usize::MAX).unwrap();
            self.file.conclude();
        }

        /// `History::reset`, called from a thread of its own as in mb, and written by this one.
        fn reset(&mut self, resets: &[Reset]) -> usize {
            self.write();
            let (history, resets) = (Arc::clone(&self.history), resets.to_vec());
            let caller =
                thread::spawn("caller", move || history.reset(resets, LIMIT).unwrap()).unwrap();
            while self.file.waiting() == 0 {
                std::thread::yield_now();
            }
            self.write();
            caller.join().unwrap().void_runs
        }

        fn states(&self) -> Vec<(i64, RunState)> {
            let mut rows =
                self.file.db().prepare("SELECT id, state FROM runs ORDER BY id").unwrap();
            let row = |row: &rusqlite::Row<'_>| {
                Ok((row.get(0)?, RunState::from_code(row.get(1)?).unwrap()))
            };
            rows.query_map([], row).unwrap().map(rusqlite::Result::unwrap).collect()
        }

        fn count(&self, table: &str) -> i64 {
            let select = format!("SELECT count(*) FROM {table}");
            self.file.db().query_row(&select, [], |row| row.get(0)).unwrap()
        }

        fn settled(&self) -> Vec<OffsetRange> {
            std::mem::take(&mut self.settled.lock().unwrap())
        }

        fn decide(&self, partition: Partition, committed: i64) -> Decision {
            let recorded = recovery::recorded(self.file.db(), self.scope).unwrap();
            decide(recorded.get(&partition), committed)
        }
    }

    fn ended(run: &Planned, state: RunState) -> Outcome {
        let failed = state != RunState::Succeeded;
        let mut batch = Batch::default();
        batch.push(Record { offset: run.key.range.first, ..Record::default() });
        Outcome {
            id: run.id,
            key: run.key.clone(),
            state,
            records: 1,
            attempt: AttemptRecord {
                number: 1,
                started_ms: 5,
                run_us: 5,
                worker: 0,
                error: failed.then(|| "bad".to_owned()),
                output: None,
            },
            whole: run.whole,
            dead_letters: (state == RunState::Failed).then(|| {
                Box::new(DeadLetters {
                    batch,
                    permit: Arc::new(Permit::nothing()),
                    reasons: BTreeMap::new(),
                    why: "retry",
                    stored: true,
                })
            }),
        }
    }

    /// Whose an offset is that was committed without a mark.
    fn decide(recorded: Option<&Recorded>, committed: i64) -> Decision {
        recovery::decide(recorded, Some(&Committed::plain(at(committed))), "me")
    }

    fn ours(position: i64, stored: usize) -> impl Fn(Decision) {
        move |decision| match decision {
            Decision::Ours(resume) => {
                assert_eq!((resume.position, resume.stored.len()), (at(position), stored));
            }
            other => panic!("expected ours, got {other:?}"),
        }
    }

    #[test]
    fn a_move_voids_the_ranges_of_its_partitions_and_of_no_other() {
        let mut world = World::new();
        let first = world.plan(0, range(10, 19));
        world.plan(0, range(20, 29));
        world.plan(1, range(10, 19));
        world.history.outcome(ended(&first, RunState::Succeeded));
        assert_eq!(world.reset(&moved(10, 40)), 1, "one run was done already");
        world.history.confirm_reset(moved(10, 40), 1, false);
        let next = world.plan(0, range(40, 49));
        world.write();
        use RunState::{Queued, Succeeded, Voided};
        let states = [(1, Succeeded), (2, Voided), (3, Queued), (next.id.0, Queued)];
        assert_eq!(world.states(), states);
        ours(40, 1)(world.decide(0, 40));
        ours(10, 1)(world.decide(1, 10));
        assert_eq!(
            world.decide(0, 10),
            Decision::Moved { expected: Some(at(40)), by: Mover::Person }
        );
    }

    #[test]
    fn what_was_sent_before_a_move_settles_its_ledger_before_the_move_is_answered() {
        let mut world = World::new();
        let run = world.plan(0, range(10, 19));
        world.history.outcome(ended(&run, RunState::Succeeded));
        let seen = {
            let (history, settled) = (Arc::clone(&world.history), Arc::clone(&world.settled));
            thread::spawn("caller", move || {
                assert_eq!(history.reset(moved(10, 40), LIMIT).unwrap().void_runs, 0);
                settled.lock().unwrap().clone()
            })
        };
        while world.file.waiting() < 3 {
            std::thread::yield_now();
        }
        world.write();
        assert_eq!(seen.unwrap().join().unwrap(), [range(10, 19)]);
    }

    #[test]
    fn whatever_becomes_of_a_void_run_changes_nothing() {
        for state in [RunState::Succeeded, RunState::Failed, RunState::Halted, RunState::Queued] {
            let mut world = World::new();
            let run = world.plan(0, range(10, 19));
            assert_eq!(world.reset(&moved(10, 10)), 1);
            world.history.outcome(ended(&run, state));
            world.history.confirm_reset(moved(10, 10), 1, false);
            world.write();
            assert_eq!(world.states(), [(run.id.0, RunState::Voided)], "{state}");
            assert_eq!(world.settled(), [], "{state}");
            assert_eq!((world.count("dead_letters"), world.count("attempts")), (0, 0), "{state}");
            ours(10, 0)(world.decide(0, 10));
            // The same range in its new life.
            let run = world.plan(0, range(10, 19));
            world.history.outcome(ended(&run, RunState::Succeeded));
            world.write();
            assert_eq!(world.settled(), [range(10, 19)]);
        }
    }

    #[test]
    fn an_outcome_in_the_transaction_of_the_move_is_ignored_if_it_was_sent_after_it() {
        let mut world = World::new();
        let run = world.plan(0, range(10, 19));
        let caller = {
            let history = Arc::clone(&world.history);
            thread::spawn("caller", move || history.reset(moved(10, 40), LIMIT)).unwrap()
        };
        while world.file.waiting() < 2 {
            std::thread::yield_now();
        }
        world.history.outcome(ended(&run, RunState::Failed));
        world.write();
        assert_eq!(caller.join().unwrap().unwrap().void_runs, 1);
        assert_eq!(world.states(), [(run.id.0, RunState::Voided)]);
        assert_eq!((world.settled(), world.count("dead_letters")), (vec![], 0));
    }

    #[test]
    fn pieces_of_a_void_run_are_void_and_so_is_what_becomes_of_them() {
        let mut world = World::new();
        let parent = world.plan(0, range(10, 11));
        assert_eq!(world.reset(&moved(10, 10)), 1);
        world.history.confirm_reset(moved(10, 10), 1, false);
        let replanned = world.plan(0, range(10, 11));
        let piece = |offset| Planned {
            whole: parent.whole,
            parent: Some(parent.id),
            ..Planned::whole(RunKey::new("t", 0, range(offset, offset)), 1, 1)
        };
        let mut pieces = vec![piece(10), piece(11)];
        let first = world.history.split(ended(&parent, RunState::Split), pieces.clone()).unwrap();
        pieces[0].id = first;
        world.history.outcome(ended(&pieces[0], RunState::Succeeded));
        world.write();
        let pieces = [(first.0, RunState::Voided), (first.0 + 1, RunState::Voided)];
        let runs = [(parent.id.0, RunState::Voided), (replanned.id.0, RunState::Queued)];
        assert_eq!(world.states(), [runs, pieces].concat());
        assert_eq!(world.settled(), []);
        ours(10, 1)(world.decide(0, 10));
    }

    #[test]
    fn pieces_and_their_pieces_have_the_leader_epoch_of_the_batch() {
        let mut world = World::new();
        let epoch = Epoch::checked(3);
        let key = |first, last| RunKey::new("t", 0, range(first, last));
        let mut run = Planned { epoch, ..Planned::whole(key(10, 13), 4, 4) };
        run.id = world.history.plan(vec![run.clone()]).unwrap();
        for last in [11, 10] {
            let piece = Planned { parent: Some(run.id), ..Planned::whole(key(10, last), 1, 1) };
            let ended = ended(&run, RunState::Split);
            let id = world.history.split(ended, vec![piece.clone()]).unwrap();
            run = Planned { id, ..piece };
        }
        world.write();
        let recorded = recovery::recorded(world.file.db(), world.scope).unwrap();
        let epochs: Vec<_> = recorded[&0].runs.iter().map(|run| run.epoch).collect();
        assert!(!epochs.is_empty() && epochs.iter().all(|of| *of == epoch), "{epochs:?}");
        let unknown = "SELECT count(*) FROM runs WHERE leader_epoch IS NOT 3";
        let unknown: i64 = world.file.db().query_row(unknown, [], |row| row.get(0)).unwrap();
        assert_eq!((world.count("runs"), unknown), (3, 0));
    }

    #[test]
    fn killed_between_the_halves_mb_goes_on_at_whichever_offset_the_log_has() {
        for to in [0, 10, 20, 90] {
            let mut world = World::new();
            let first = world.plan(0, range(10, 19));
            world.plan(0, range(20, 29));
            world.history.outcome(ended(&first, RunState::Succeeded));
            world.reset(&moved(10, to));
            // What is not in the file is lost.
            world.history.confirm_reset(moved(10, to), 1, false);
            world.file.lose();
            let World { path, scope, .. } = world;
            let db = schema::open(&path).unwrap();
            let recorded = recovery::recorded(&db, scope).unwrap();
            for committed in [10, to] {
                ours(committed, 0)(decide(recorded.get(&0), committed));
            }
            let elsewhere = decide(recorded.get(&0), 55);
            assert_eq!(elsewhere, Decision::Moved { expected: Some(at(10)), by: Mover::Person });
        }
    }

    #[test]
    fn a_commit_of_before_the_move_is_not_recorded_as_confirmed() {
        let mut world = World::new();
        let offsets = [(0, at(20))];
        let commits = offsets.map(Commit::plain);
        let intend = {
            let history = Arc::clone(&world.history);
            thread::spawn("committer", move || history.intend(&offsets)).unwrap()
        };
        while world.file.waiting() == 0 {
            std::thread::yield_now();
        }
        world.write();
        let sequence = intend.join().unwrap().unwrap().unwrap();
        world.reset(&moved(10, 40));
        world.history.confirm(commits.to_vec(), sequence, true);
        world.write();
        ours(10, 0)(world.decide(0, 10));
        ours(40, 0)(world.decide(0, 40));
        world.history.confirm_reset(moved(10, 40), 1, false);
        world.history.confirm(commits.to_vec(), sequence, true);
        world.write();
        ours(40, 0)(world.decide(0, 40));
    }

    #[test]
    fn a_refused_commit_leaves_no_intent() {
        let mut world = World::new();
        world.file.db().execute("INSERT INTO intents VALUES (1, 0, 20), (1, 0, 30)", []).unwrap();
        world.history.drop_intents(&[(0, at(20))]);
        world.write();
        assert_eq!(world.count("intents"), 1);
        assert_eq!(
            world.decide(0, 20),
            Decision::Moved { expected: Some(at(10)), by: Mover::Person }
        );
        ours(30, 0)(world.decide(0, 30));
    }

    #[test]
    fn a_move_that_cannot_be_written_in_time_is_never_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let (db, scope) = begun(&path);
        db.busy_timeout(Duration::ZERO).unwrap();
        let (history, thread) = History::start(db, scope, "rdkafka", 100, |_| {}).unwrap();
        let run =
            history.plan(vec![Planned::whole(RunKey::new("t", 0, range(10, 19)), 1, 1)]).unwrap();
        assert!(history.wait_planned(run));
        let other = Connection::open(&path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let error = history.reset(moved(10, 40), Duration::from_millis(5)).unwrap_err();
        assert!(matches!(error, Error::Storage { .. }), "{error}");
        other.execute_batch("ROLLBACK").unwrap();
        assert!(history.flush(LIMIT));
        let recorded = recovery::recorded(&other, scope).unwrap();
        ours(10, 1)(decide(recorded.get(&0), 10));
        let intended = history.reset(moved(10, 40), LIMIT).unwrap();
        assert_eq!(intended.void_runs, 1, "asked again, it is made");
        history.close();
        thread.join().unwrap();
        assert!(history.reset(moved(40, 10), LIMIT).is_err(), "the history has ended");
    }
}

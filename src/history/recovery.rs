//! Reads what an earlier process recorded of a scope's partitions, and voids or begins them. Runs at the start,
//! before the history thread does. What follows from the records is decided in `resume`.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};

use super::migrations::{KIND_TOPIC, LANE_HASH};
pub use super::resume::{Decision, Mover, Recorded, RecordedRun, Resume, decide};
use super::scope::ScopeId;
use crate::kafka::Backend;
use crate::model::clock;
use crate::model::error::{Error, Result};
use crate::model::offset::{Epoch, Lane, Offset, OffsetRange, Partition};
use crate::model::run::{RunId, RunState};

/// Everything that the history holds of a scope's partitions.
///
/// # Errors
/// `Storage` if the file cannot be read.
#[cfg(any(test, feature = "testing"))]
pub fn recorded(db: &Connection, scope: ScopeId) -> Result<BTreeMap<Partition, Recorded>> {
    Ok(recorded_and_settled(db, scope)?.0)
}

/// `recorded`, and the number up to which no later start needs to know a run of this scope: each is void, or
/// done and below the committed offset. Neither is ever undone, since moving offsets back voids all runs.
///
/// # Errors
/// `Storage` if the file cannot be read.
pub fn recorded_and_settled(
    db: &Connection,
    scope: ScopeId,
) -> Result<(BTreeMap<Partition, Recorded>, RunId)> {
    let (recorded, settled, other_hash) = read(db, scope).map_err(storage)?;
    match other_hash {
        None => Ok((recorded, settled)),
        Some(hash) => Err(Error::Config(format!(
            "--data-dir: the history has unfinished runs whose keys were divided among lanes by hash {hash}, \
             and this mb has hash {LANE_HASH} only: let the mb that planned them finish them"
        ))),
    }
}

/// What `recorded_and_settled` returns, and the hash of unfinished lane runs if it is not this mb's.
type Read = (BTreeMap<Partition, Recorded>, RunId, Option<i64>);

/// The partitions without their runs, and the number up to which each partition's runs are void.
type Positions = (BTreeMap<Partition, Recorded>, BTreeMap<Partition, i64>);

fn read_positions(db: &Connection, scope: ScopeId) -> rusqlite::Result<Positions> {
    let mut partitions: BTreeMap<Partition, Recorded> = BTreeMap::new();
    let mut void_up_to = BTreeMap::new();
    let mut rows = db.prepare_cached(
        "SELECT partition, start_offset, confirmed, void_up_to, leader_epoch, sequence FROM partitions WHERE scope = ?1",
    )?;
    let mut rows = rows.query([scope.0])?;
    while let Some(row) = rows.next()? {
        let partition: Partition = row.get(0)?;
        let start = Offset::new(row.get(1)?);
        let confirmed = row.get::<_, Option<i64>>(2)?.map(Offset::new);
        void_up_to.insert(partition, row.get::<_, i64>(3)?);
        let epoch = row.get::<_, Option<i32>>(4)?.and_then(Epoch::checked);
        let sequence = row.get(5)?;
        let recorded = Recorded { start, confirmed, epoch, sequence, ..Recorded::default() };
        partitions.insert(partition, recorded);
    }
    let mut rows =
        db.prepare_cached("SELECT partition, committing FROM intents WHERE scope = ?1")?;
    let mut rows = rows.query([scope.0])?;
    while let Some(row) = rows.next()? {
        let partition: Partition = row.get(0)?;
        if let Some(recorded) = partitions.get_mut(&partition) {
            recorded.intents.push(Offset::new(row.get(1)?));
        }
    }
    Ok((partitions, void_up_to))
}

fn read(db: &Connection, scope: ScopeId) -> rusqlite::Result<Read> {
    let (mut partitions, void_up_to) = read_positions(db, scope)?;
    let settled: i64 = db.query_row(
        "SELECT ifnull(max(up_to), 0) FROM settled WHERE scope = ?1",
        [scope.0],
        |row| row.get(0),
    )?;
    let newest: i64 = db.query_row("SELECT ifnull(max(id), 0) FROM runs", [], |row| row.get(0))?;
    let mut oldest_needed = None;
    let mut other_hash = None;
    // Of a long history, hardly a run is needed. The columns that tell are read for every run since the last
    // start, the others for the few that are needed.
    let mut states = db.prepare_cached(
        "SELECT id, partition, state, ifnull(batch_last, last_offset) FROM runs \
         WHERE scope = ?1 AND id > ?5 AND state NOT IN (?2, ?3) AND kind = ?4 ORDER BY id",
    )?;
    let left_out = [RunState::Voided.code(), RunState::Split.code()];
    let mut states =
        states.query(params![scope.0, left_out[0], left_out[1], KIND_TOPIC, settled])?;
    let mut details = db.prepare_cached(
        "SELECT client, first_offset, last_offset, attempts, lane, lanes, \
         ifnull(batch_first, first_offset), lane_hash, leader_epoch FROM runs WHERE id = ?1",
    )?;
    while let Some(row) = states.next()? {
        let (id, partition): (i64, Partition) = (row.get(0)?, row.get(1)?);
        let Some(recorded) = partitions.get_mut(&partition) else {
            oldest_needed.get_or_insert(id);
            continue;
        };
        let state = RunState::from_code(row.get(2)?).unwrap_or(RunState::Queued);
        let last = Offset::new(row.get(3)?);
        let committed_since =
            state.is_done() && recorded.confirmed.is_some_and(|confirmed| last < confirmed);
        if committed_since || id <= void_up_to[&partition] {
            continue;
        }
        oldest_needed.get_or_insert(id);
        recorded.runs.push(details.query_row([id], |row| {
            let lane = Lane { index: row.get(4)?, count: row.get(5)? };
            let hash = row.get(7)?;
            if lane != Lane::WHOLE && !state.is_done() && hash != LANE_HASH {
                other_hash = Some(hash);
            }
            Ok(RecordedRun {
                id: RunId(id),
                client: Backend::from_name(&row.get::<_, String>(0)?),
                whole: OffsetRange::new(Offset::new(row.get(6)?), last),
                range: OffsetRange::new(Offset::new(row.get(1)?), Offset::new(row.get(2)?)),
                lane,
                state,
                failed_attempts: row.get(3)?,
                epoch: row.get::<_, Option<i32>>(8)?.and_then(Epoch::checked),
            })
        })?);
    }
    for recorded in partitions.values_mut() {
        recorded.runs.sort_by_key(|run| (run.whole.first, run.range.first, run.id));
    }
    Ok((partitions, RunId(oldest_needed.map_or(newest, |id| id - 1)), other_hash))
}

/// Whether a commit was sent, or was about to be, whose fate is not known.
///
/// # Errors
/// `Storage` if the file cannot be read.
pub fn has_intents(db: &Connection, scope: ScopeId) -> Result<bool> {
    let select = "SELECT EXISTS (SELECT 1 FROM intents WHERE scope = ?1)";
    db.query_row(select, [scope.0], |row| row.get(0)).map_err(storage)
}

/// Marks a partition's recorded ranges void: they are neither made again nor passed over any more. The
/// partition begins anew at `start`.
///
/// # Errors
/// `Storage` if the file cannot be written.
pub fn void(db: &Connection, scope: ScopeId, partition: Partition, start: Offset) -> Result<()> {
    let change = || -> rusqlite::Result<()> {
        let change = db.unchecked_transaction()?;
        void_in(&change, scope, partition, start)?;
        change.commit()
    };
    change().map_err(storage)
}

/// `void`, as statements of the caller's transaction. Returns how many unfinished runs became void.
pub(super) fn void_in(
    change: &Connection,
    scope: ScopeId,
    partition: Partition,
    start: Offset,
) -> rusqlite::Result<usize> {
    // Runs that no start needs to know any more are all finished or void: the table need not be searched
    // for them.
    let voided = change.execute(
        "UPDATE runs SET state = ?3 WHERE scope = ?1 AND partition = ?2 AND state IN (?4, ?5) \
         AND kind = ?6 AND id > (SELECT ifnull(max(up_to), 0) FROM settled WHERE scope = ?1)",
        params![
            scope.0,
            partition,
            RunState::Voided.code(),
            RunState::Queued.code(),
            RunState::Halted.code(),
            // Redrives and replays do not depend on the group's offsets.
            KIND_TOPIC
        ],
    )?;
    change.execute(
        "UPDATE partitions SET start_offset = ?3, confirmed = NULL, leader_epoch = NULL, \
         void_up_to = (SELECT ifnull(max(id), 0) FROM runs) WHERE scope = ?1 AND partition = ?2",
        params![scope.0, partition, start.get()],
    )?;
    change.execute(
        "DELETE FROM intents WHERE scope = ?1 AND partition = ?2",
        params![scope.0, partition],
    )?;
    Ok(voided)
}

/// Voids unfinished runs that lie below the position at which their partition goes on. There are some if a cursor
/// move got no answer, mb was killed and began at the old offset, planned runs there, and the move reached the log
/// after all: nobody makes these runs any more, and they would be shown as queued for ever.
///
/// # Errors
/// `Storage` if the file cannot be written.
pub fn void_skipped(
    db: &Connection,
    recorded: &BTreeMap<Partition, Recorded>,
    resumes: &BTreeMap<Partition, Resume>,
) -> Result<()> {
    for (partition, resume) in resumes {
        let runs = recorded.get(partition).into_iter().flat_map(|recorded| &recorded.runs);
        for run in runs.filter(|run| !run.state.is_done() && run.whole.last < resume.position) {
            db.execute(
                "UPDATE runs SET state = ?2 WHERE id = ?1",
                [run.id.0, RunState::Voided.code()],
            )
            .map_err(storage)?;
        }
    }
    Ok(())
}

/// Marks those of a partition's recorded ranges void that reach above `end`, finished ones too: the log has other
/// records there now. The ranges below stay as they are.
///
/// # Errors
/// `Storage` if the file cannot be written.
pub fn void_above(
    db: &Connection,
    scope: ScopeId,
    partition: Partition,
    end: Offset,
) -> Result<()> {
    db.execute(
        "UPDATE runs SET state = ?3 WHERE scope = ?1 AND partition = ?2 AND kind = ?4 AND state <> ?5 \
         AND ifnull(batch_last, last_offset) >= ?6 \
         AND id > (SELECT ifnull(max(up_to), 0) FROM settled WHERE scope = ?1)",
        params![
            scope.0,
            partition,
            RunState::Voided.code(),
            KIND_TOPIC,
            RunState::Split.code(),
            end.get()
        ],
    )
    .map_err(storage)?;
    Ok(())
}

/// Records offsets that are passed over without being processed, and why.
///
/// # Errors
/// `Storage` if the file cannot be written.
pub fn gap(
    db: &Connection,
    scope: ScopeId,
    partition: Partition,
    missing: OffsetRange,
    reason: &str,
) -> Result<()> {
    insert_gap(db, scope, partition, missing, reason).map_err(storage)
}

/// `gap`, as a statement of the caller's transaction.
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

/// Records where each partition begins, all of them or none: a partition without a row would later be taken
/// for one that was added since, and be read from its beginning. Also records that no later start needs to
/// look at runs up to `settled`.
///
/// # Errors
/// `Storage` if the file cannot be written.
pub fn begin_all(
    db: &Connection,
    scope: ScopeId,
    resumes: &BTreeMap<Partition, Resume>,
    settled: RunId,
) -> Result<()> {
    let change = db.unchecked_transaction().map_err(storage)?;
    for (partition, resume) in resumes {
        begin(&change, scope, *partition, resume)?;
    }
    change
        .execute(
            "INSERT INTO settled(scope, up_to) VALUES (?1, ?2) \
             ON CONFLICT DO UPDATE SET up_to = ?2 WHERE up_to < ?2",
            params![scope.0, settled.0],
        )
        .map_err(storage)?;
    change.commit().map_err(storage)
}

/// Records the numbers of this history's own commits, as the log has them: the process that sent one may not have lived
/// to record it.
///
/// # Errors
/// `Storage` if the file cannot be written.
pub fn note_sequences(db: &Connection, scope: ScopeId, found: &[(Partition, i64)]) -> Result<()> {
    let note = || -> rusqlite::Result<()> {
        for (partition, sequence) in found {
            db.execute(
                "UPDATE partitions SET sequence = max(sequence, ?3) WHERE scope = ?1 AND partition = ?2",
                params![scope.0, partition, sequence],
            )?;
            db.execute("UPDATE instance SET sequence = max(sequence, ?1)", [sequence])?;
        }
        Ok(())
    };
    note().map_err(storage)
}

/// Records where a partition begins in this scope, and what is committed there already.
///
/// # Errors
/// `Storage` if the file cannot be written.
pub fn begin(db: &Connection, scope: ScopeId, partition: Partition, resume: &Resume) -> Result<()> {
    let epoch = |offset| resume.read.filter(|read| read.end == offset).map(|read| read.epoch);
    let confirmed = resume.committed.map(|offset| (offset, epoch(offset)));
    insert_start(db, scope, partition, resume.position, confirmed).map_err(storage)
}

/// `begin`, as a statement of the caller's transaction.
pub(super) fn insert_start(
    db: &Connection,
    scope: ScopeId,
    partition: Partition,
    start: Offset,
    confirmed: Option<(Offset, Option<Epoch>)>,
) -> rusqlite::Result<()> {
    let epoch = confirmed.and_then(|(_, epoch)| epoch);
    db.prepare_cached(
        "INSERT INTO partitions(scope, partition, start_offset, confirmed, leader_epoch) \
         VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET confirmed = ifnull(?4, confirmed), \
         leader_epoch = CASE WHEN ?4 IS NULL THEN leader_epoch ELSE ?5 END",
    )?
    .execute(params![
        scope.0,
        partition,
        start.get(),
        confirmed.map(|(offset, _)| offset.get()),
        epoch.map(Epoch::get)
    ])?;
    Ok(())
}

fn storage(cause: rusqlite::Error) -> Error {
    Error::storage("use the history", cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::schema;
    use crate::history::scope::{self, ScopeKey};

    fn at(offset: i64) -> Offset {
        Offset::new(offset)
    }

    /// A scope of partition 3, which begins at 0.
    fn begun(db: &Connection, committed: i64) -> ScopeId {
        let key = ScopeKey {
            log: "kafka",
            cluster_id: String::new(),
            group: "g".into(),
            topic: "t".into(),
            topic_id: String::new(),
        };
        let scope = scope::find_or_add(db, &key).unwrap();
        let at_start =
            Resume { position: at(0), committed: Some(at(committed)), read: None, stored: vec![] };
        begin(db, scope, 3, &at_start).unwrap();
        scope
    }

    /// A run of the one record at ten times its number.
    fn insert_run(db: &Connection, scope: ScopeId, partition: Partition, id: i64, state: RunState) {
        db.execute(
            "INSERT INTO runs(id, scope, client, partition, first_offset, last_offset, records, \
             bytes, state, queued_ms) VALUES (?1, ?2, 'rdkafka', ?3, ?4, ?4, 1, 1, ?5, 0)",
            params![id, scope.0, partition, id * 10, state.code()],
        )
        .unwrap();
    }

    #[test]
    fn runs_are_settled_up_to_the_first_that_a_start_may_need() {
        let folder = tempfile::tempdir().unwrap();
        let db = schema::open(&folder.path().join("history.db")).unwrap();
        let scope = begun(&db, 31);
        let states = [
            (1, RunState::Succeeded),
            (2, RunState::Voided),
            (3, RunState::Failed),
            (4, RunState::Succeeded),
            (5, RunState::Queued),
        ];
        for (id, state) in states {
            insert_run(&db, scope, 3, id, state);
        }
        let settled = || recorded_and_settled(&db, scope).unwrap().1;
        assert_eq!(settled(), RunId(3), "4 lies above what was committed");
        begin_all(&db, scope, &BTreeMap::new(), settled()).unwrap();
        // What was said holds, and is not looked at again.
        db.execute("UPDATE runs SET state = ?1 WHERE id = 1", [RunState::Queued.code()]).unwrap();
        let ids = |recorded: &BTreeMap<Partition, Recorded>| -> Vec<RunId> {
            recorded[&3].runs.iter().map(|run| run.id).collect()
        };
        assert_eq!(ids(&super::recorded(&db, scope).unwrap()), [RunId(4), RunId(5)]);
        begin_all(&db, scope, &BTreeMap::new(), RunId(1)).unwrap();
        assert_eq!(ids(&super::recorded(&db, scope).unwrap()), [RunId(4), RunId(5)]);
        db.execute("UPDATE runs SET state = ?1", [RunState::Succeeded.code()]).unwrap();
        db.execute("UPDATE partitions SET confirmed = 51", []).unwrap();
        assert_eq!(settled(), RunId(5));
        insert_run(&db, scope, 7, 6, RunState::Succeeded);
        insert_run(&db, scope, 3, 7, RunState::Voided);
        assert_eq!(settled(), RunId(5), "a partition that is not known may be later");
    }

    #[test]
    fn unfinished_runs_of_lanes_of_another_hash_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let db = schema::open(&folder.path().join("history.db")).unwrap();
        let scope = begun(&db, 0);
        insert_run(&db, scope, 3, 1, RunState::Queued);
        insert_run(&db, scope, 3, 2, RunState::Succeeded);
        db.execute("UPDATE runs SET lane_hash = 2", []).unwrap();
        db.execute("UPDATE runs SET lanes = 4 WHERE id = 2", []).unwrap();
        assert!(super::recorded(&db, scope).is_ok(), "neither is to be divided among lanes");
        db.execute("UPDATE runs SET lanes = 4", []).unwrap();
        let error = super::recorded(&db, scope).unwrap_err();
        assert_eq!(error.exit_code(), 78);
        assert!(error.to_string().contains("by hash 2, and this mb has hash 1"), "{error}");
    }

    #[test]
    fn unfinished_runs_below_the_position_become_void() {
        let folder = tempfile::tempdir().unwrap();
        let db = schema::open(&folder.path().join("history.db")).unwrap();
        let scope = begun(&db, 0);
        let states = [(1, RunState::Queued), (2, RunState::Succeeded), (3, RunState::Queued)];
        for (id, state) in states {
            insert_run(&db, scope, 3, id, state);
        }
        let recorded = super::recorded(&db, scope).unwrap();
        let resume =
            Resume { position: at(30), committed: Some(at(30)), read: None, stored: vec![] };
        void_skipped(&db, &recorded, &BTreeMap::from([(3, resume)])).unwrap();
        let left = super::recorded(&db, scope).unwrap();
        let left: Vec<_> = left[&3].runs.iter().map(|run| (run.id.0, run.state)).collect();
        assert_eq!(left, [(2, RunState::Succeeded), (3, RunState::Queued)]);
    }

    #[test]
    fn void_ranges_are_not_read_any_more() {
        let folder = tempfile::tempdir().unwrap();
        let db = schema::open(&folder.path().join("history.db")).unwrap();
        let scope = begun(&db, 0);
        insert_run(&db, scope, 3, 1, RunState::Succeeded);
        insert_run(&db, scope, 3, 2, RunState::Queued);
        assert_eq!(super::recorded(&db, scope).unwrap()[&3].runs.len(), 2);
        void(&db, scope, 3, at(15)).unwrap();
        let after = super::recorded(&db, scope).unwrap();
        assert_eq!(after[&3], Recorded { start: at(15), ..Recorded::default() });
    }
}

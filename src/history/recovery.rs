//! What an earlier process left: scopes, recorded positions, ranges to be made again.
//!
//! The decision whether the log's committed offset is ours is the pure function `resume`; the rest
//! reads and marks rows, before the history thread starts.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::ScopeId;
use super::schema::KIND_TOPIC;
use super::writer::insert_gap;
use crate::kafka::{Backend, TopicInfo};
use crate::model::clock;
use crate::model::error::{Error, Result};
use crate::model::offset::{Lane, Offset, OffsetRange, Partition};
use crate::model::run::{RunId, RunState};
use crate::model::stored::{Part, Stored};

/// What ranges belong to. Any difference is another scope, and ranges never cross scopes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeKey {
    /// "kafka" or "embedded".
    pub log: &'static str,
    pub cluster_id: String,
    pub group: String,
    pub topic: String,
    /// Empty where the broker has no topic ids.
    pub topic_id: String,
}

impl ScopeKey {
    /// The scope of one group's ranges of one topic, on the log that `backend` reads.
    pub fn of(backend: Backend, group: &str, topic: &TopicInfo) -> ScopeKey {
        ScopeKey {
            log: if backend == Backend::Embedded { "embedded" } else { "kafka" },
            cluster_id: topic.cluster_id.clone().unwrap_or_default(),
            group: group.to_owned(),
            topic: topic.name.clone(),
            topic_id: topic.id.clone().unwrap_or_default(),
        }
    }
}

/// What the history holds of one partition in a scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Where the group began.
    pub start: Offset,
    /// The last commit that the log confirmed.
    pub confirmed: Option<Offset>,
    /// Commits that were sent, or about to be, and never confirmed.
    pub intents: Vec<Offset>,
    /// Ascending by the first offset of their batch, then by number: all that is not done, and what
    /// is done but may lie above the committed offset. Runs that were split are not among them:
    /// what they became is.
    pub runs: Vec<RecordedRun>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordedRun {
    pub id: RunId,
    pub client: Option<Backend>,
    /// The batch that it is a run of.
    pub whole: OffsetRange,
    pub range: OffsetRange,
    pub lane: Lane,
    pub state: RunState,
    pub failed_attempts: u32,
}

/// Where a partition goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    pub position: Offset,
    pub committed: Option<Offset>,
    pub stored: Vec<Stored>,
}

/// What the log's committed offset says about the recorded ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is recorded and nothing committed: the start is chosen by `--from`.
    New,
    /// Go on from here; the ranges hold.
    Ours(Resume),
    /// The log has forgotten the group's offset (it expires where nobody commits for long, or
    /// somebody deleted the group): go on from the last one that it had confirmed. To start over
    /// could lose records, or process all of them again.
    Forgotten(Resume),
    /// Somebody moved the group's offsets: the ranges are void. `expected` is where we left them.
    Moved { expected: Option<Offset> },
}

/// The committed offset is ours where it equals the last confirmed one or an intent.
pub fn resume(recorded: Option<&Recorded>, committed: Option<Offset>) -> Standing {
    let Some(recorded) = recorded else {
        return match committed {
            None => Standing::New,
            Some(position) => Standing::Ours(Resume { position, committed, stored: Vec::new() }),
        };
    };
    let forgotten = committed.is_none() && recorded.confirmed.is_some();
    let ours = forgotten
        || committed == recorded.confirmed
        || committed.is_some_and(|offset| recorded.intents.contains(&offset));
    let position = committed.or(recorded.confirmed).unwrap_or(recorded.start);
    let moved = Standing::Moved { expected: recorded.confirmed };
    if !ours {
        return moved;
    }
    let mut stored: Vec<Stored> = Vec::new();
    let mut at = position;
    for run in recorded.runs.iter().filter(|run| run.whole.last >= position) {
        if stored.last().is_none_or(|batch| batch.range != run.whole) {
            // Ours never commits inside a batch, and batches never overlap: anything else is not
            // ours.
            if run.whole.first < at {
                return moved;
            }
            at = run.whole.end();
            stored.push(Stored { range: run.whole, parts: Vec::new(), registered: false });
        }
        let batch = stored.last_mut().expect("pushed just now");
        batch.parts.extend(run.part());
    }
    let resume = Resume { position, committed, stored };
    if forgotten { Standing::Forgotten(resume) } else { Standing::Ours(resume) }
}

impl RecordedRun {
    /// What is to be made again of it; `None` where it is done.
    fn part(&self) -> Option<Part> {
        let failed_attempts = match self.state {
            RunState::Succeeded | RunState::Failed | RunState::Split => return None,
            // A halt was answered by starting mb again: all attempts anew.
            RunState::Halted => 0,
            RunState::Queued | RunState::Running | RunState::Voided => self.failed_attempts,
        };
        Some(Part { run: self.id, range: self.range, lane: self.lane, failed_attempts })
    }
}

/// The scope's number, made where it is new.
///
/// # Errors
/// `Storage` where the file cannot be read or written.
pub fn scope(db: &Connection, key: &ScopeKey) -> Result<ScopeId> {
    let names = params![key.log, key.cluster_id, key.group, key.topic, key.topic_id];
    let find = "SELECT id FROM scopes WHERE log = ?1 AND cluster_id = ?2 AND group_name = ?3 \
                AND topic = ?4 AND topic_id = ?5";
    let found = || {
        db.prepare_cached(find)
            .and_then(|mut find| find.query_row(names, |row| row.get(0)).optional())
            .map_err(storage)
    };
    if let Some(id) = found()? {
        return Ok(ScopeId(id));
    }
    // A command may make it at the same time.
    db.execute(
        "INSERT OR IGNORE INTO scopes(log, cluster_id, group_name, topic, topic_id, created_ms) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![key.log, key.cluster_id, key.group, key.topic, key.topic_id, clock::now_ms()],
    )
    .map_err(storage)?;
    found()?
        .map(ScopeId)
        .ok_or_else(|| Error::storage("use the history", "a row that was just written is gone"))
}

/// What this mb committed under the same name to topics that are gone: another id than the key's.
/// A commit that comes after its topic was made again stands in the log as if it were the new
/// one's.
///
/// # Errors
/// `Storage` where the file cannot be read.
pub fn of_predecessors(
    db: &Connection,
    key: &ScopeKey,
) -> Result<BTreeMap<Partition, Vec<Offset>>> {
    let read = || -> rusqlite::Result<BTreeMap<Partition, Vec<Offset>>> {
        let mut committed = BTreeMap::<_, Vec<_>>::new();
        let mut rows = db.prepare_cached(
            "WITH gone AS (SELECT id FROM scopes WHERE log = ?1 AND cluster_id = ?2 \
                 AND group_name = ?3 AND topic = ?4 AND topic_id NOT IN ('', ?5) AND ?5 <> '') \
             SELECT partition, confirmed FROM partitions \
                 WHERE scope IN gone AND confirmed IS NOT NULL \
             UNION SELECT partition, committing FROM intents WHERE scope IN gone",
        )?;
        let mut rows =
            rows.query(params![key.log, key.cluster_id, key.group, key.topic, key.topic_id])?;
        while let Some(row) = rows.next()? {
            committed.entry(row.get(0)?).or_default().push(Offset::new(row.get(1)?));
        }
        Ok(committed)
    };
    read().map_err(storage)
}

/// Everything that the history holds of a scope's partitions.
///
/// # Errors
/// `Storage` where the file cannot be read.
pub fn recorded(db: &Connection, scope: ScopeId) -> Result<BTreeMap<Partition, Recorded>> {
    Ok(recorded_and_settled(db, scope)?.0)
}

/// `recorded`, and the number up to which no later start needs to know a run of this scope any more:
/// all are void, or done and below what was committed. Neither is ever undone; what moves offsets back
/// voids all runs.
///
/// # Errors
/// `Storage` where the file cannot be read.
pub fn recorded_and_settled(
    db: &Connection,
    scope: ScopeId,
) -> Result<(BTreeMap<Partition, Recorded>, RunId)> {
    read(db, scope).map_err(storage)
}

fn read(
    db: &Connection,
    scope: ScopeId,
) -> rusqlite::Result<(BTreeMap<Partition, Recorded>, RunId)> {
    let mut partitions: BTreeMap<Partition, Recorded> = BTreeMap::new();
    let mut void_up_to = BTreeMap::new();
    let mut rows = db.prepare_cached(
        "SELECT partition, start_offset, confirmed, void_up_to FROM partitions WHERE scope = ?1",
    )?;
    let mut rows = rows.query([scope.0])?;
    while let Some(row) = rows.next()? {
        let partition: Partition = row.get(0)?;
        let start = Offset::new(row.get(1)?);
        let confirmed = row.get::<_, Option<i64>>(2)?.map(Offset::new);
        void_up_to.insert(partition, row.get::<_, i64>(3)?);
        partitions.insert(partition, Recorded { start, confirmed, ..Recorded::default() });
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
    let settled: i64 = db.query_row(
        "SELECT ifnull(max(up_to), 0) FROM settled WHERE scope = ?1",
        [scope.0],
        |row| row.get(0),
    )?;
    let newest: i64 = db.query_row("SELECT ifnull(max(id), 0) FROM runs", [], |row| row.get(0))?;
    let mut oldest_needed = None;
    // Of a long history next to nothing is needed: what says so of a row is read of all that came since
    // the last start, the rest of few.
    let mut states = db.prepare_cached(
        "SELECT id, partition, state, ifnull(batch_last, last_offset) FROM runs \
         WHERE scope = ?1 AND id > ?5 AND state NOT IN (?2, ?3) AND kind = ?4 ORDER BY id",
    )?;
    let left_out = [RunState::Voided.code(), RunState::Split.code()];
    let mut states =
        states.query(params![scope.0, left_out[0], left_out[1], KIND_TOPIC, settled])?;
    let mut details = db.prepare_cached(
        "SELECT client, first_offset, last_offset, attempts, lane, lanes, \
         ifnull(batch_first, first_offset) FROM runs WHERE id = ?1",
    )?;
    while let Some(row) = states.next()? {
        let (id, partition): (i64, Partition) = (row.get(0)?, row.get(1)?);
        let Some(recorded) = partitions.get_mut(&partition) else {
            oldest_needed.get_or_insert(id);
            continue;
        };
        let state = RunState::from_code(row.get(2)?).unwrap_or(RunState::Queued);
        let last = Offset::new(row.get(3)?);
        let committed_since = state.is_done()
            && recorded.confirmed.is_some_and(|confirmed| last < confirmed)
            && recorded.intents.iter().all(|intent| last < *intent);
        if committed_since || id <= void_up_to[&partition] {
            continue;
        }
        oldest_needed.get_or_insert(id);
        recorded.runs.push(details.query_row([id], |row| {
            Ok(RecordedRun {
                id: RunId(id),
                client: Backend::from_name(&row.get::<_, String>(0)?),
                whole: OffsetRange::new(Offset::new(row.get(6)?), last),
                range: OffsetRange::new(Offset::new(row.get(1)?), Offset::new(row.get(2)?)),
                lane: Lane { index: row.get(4)?, count: row.get(5)? },
                state,
                failed_attempts: row.get(3)?,
            })
        })?);
    }
    for recorded in partitions.values_mut() {
        recorded.runs.sort_by_key(|run| (run.whole.first, run.range.first, run.id));
    }
    Ok((partitions, RunId(oldest_needed.map_or(newest, |id| id - 1))))
}

/// Whether commits were sent, or about to be, of which the log has not said what became of them.
///
/// # Errors
/// `Storage` where the file cannot be read.
pub fn has_intents(db: &Connection, scope: ScopeId) -> Result<bool> {
    let select = "SELECT EXISTS (SELECT 1 FROM intents WHERE scope = ?1)";
    db.query_row(select, [scope.0], |row| row.get(0)).map_err(storage)
}

/// Marks a partition's recorded ranges void: they are neither made again nor skipped any more.
/// Its position starts anew at `start`.
///
/// # Errors
/// `Storage` where the file cannot be written.
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
        "UPDATE partitions SET start_offset = ?3, confirmed = NULL, \
         void_up_to = (SELECT ifnull(max(id), 0) FROM runs) WHERE scope = ?1 AND partition = ?2",
        params![scope.0, partition, start.get()],
    )?;
    change.execute(
        "DELETE FROM intents WHERE scope = ?1 AND partition = ?2",
        params![scope.0, partition],
    )?;
    Ok(voided)
}

/// Records offsets that are passed over without being processed, and why.
///
/// # Errors
/// `Storage` where the file cannot be written.
pub fn gap(
    db: &Connection,
    scope: ScopeId,
    partition: Partition,
    missing: OffsetRange,
    reason: &str,
) -> Result<()> {
    insert_gap(db, scope, partition, missing, reason).map_err(storage)
}

/// Records where each partition begins, all or none: one that is missing later would be taken for
/// one that came since, and be read from its beginning. And that runs up to `settled` need not be looked
/// at again.
///
/// # Errors
/// `Storage` where the file cannot be written.
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

/// Records where a partition begins in this scope, and what is committed there already.
///
/// # Errors
/// `Storage` where the file cannot be written.
pub fn begin(db: &Connection, scope: ScopeId, partition: Partition, resume: &Resume) -> Result<()> {
    insert_start(db, scope, partition, resume.position, resume.committed).map_err(storage)
}

/// `begin`, as a statement of the caller's transaction.
pub(super) fn insert_start(
    db: &Connection,
    scope: ScopeId,
    partition: Partition,
    start: Offset,
    confirmed: Option<Offset>,
) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO partitions(scope, partition, start_offset, confirmed) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT DO UPDATE SET confirmed = ifnull(?4, confirmed)",
    )?
    .execute(params![scope.0, partition, start.get(), confirmed.map(Offset::get)])?;
    Ok(())
}

fn storage(cause: rusqlite::Error) -> Error {
    Error::storage("use the history", cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::schema;

    fn at(offset: i64) -> Offset {
        Offset::new(offset)
    }

    fn run(id: i64, first: i64, last: i64, state: RunState) -> RecordedRun {
        let range = OffsetRange::new(at(first), at(last));
        RecordedRun {
            id: RunId(id),
            client: Some(Backend::Rdkafka),
            whole: range,
            range,
            lane: Lane::WHOLE,
            state,
            failed_attempts: 1,
        }
    }

    fn recorded() -> Recorded {
        Recorded {
            start: at(5),
            confirmed: Some(at(10)),
            intents: vec![at(20)],
            runs: vec![
                run(1, 10, 19, RunState::Succeeded),
                run(2, 20, 29, RunState::Queued),
                run(3, 30, 39, RunState::Succeeded),
                run(4, 40, 49, RunState::Halted),
            ],
        }
    }

    fn ours(standing: Standing) -> Resume {
        match standing {
            Standing::Ours(resume) => resume,
            other => panic!("expected ours, got {other:?}"),
        }
    }

    #[test]
    fn the_confirmed_offset_and_an_intent_are_ours() {
        let from_confirmed = ours(resume(Some(&recorded()), Some(at(10))));
        assert_eq!(from_confirmed.stored.len(), 4);
        assert!(from_confirmed.stored[0].is_finished());
        let from_intent = ours(resume(Some(&recorded()), Some(at(20))));
        assert_eq!(from_intent.position, at(20));
        let failed_attempts: Vec<Option<u32>> = from_intent
            .stored
            .iter()
            .map(|stored| stored.parts.first().map(|part| part.failed_attempts))
            .collect();
        assert_eq!(failed_attempts, [Some(1), None, Some(0)]);
    }

    #[test]
    fn of_a_batch_in_several_runs_those_are_made_again_that_are_not_done() {
        let whole = OffsetRange::new(at(10), at(19));
        let part = |id, index, range, state| RecordedRun {
            whole,
            lane: Lane { index, count: 3 },
            ..run(id, range, range + 4, state)
        };
        let runs = vec![
            part(1, 0, 10, RunState::Succeeded),
            part(2, 1, 10, RunState::Queued),
            part(4, 2, 10, RunState::Failed),
            part(5, 2, 15, RunState::Halted),
            run(6, 20, 29, RunState::Succeeded),
        ];
        let resume = ours(resume(Some(&Recorded { runs, ..recorded() }), Some(at(10))));
        let ids: Vec<Vec<i64>> = resume
            .stored
            .iter()
            .map(|stored| stored.parts.iter().map(|part| part.run.0).collect())
            .collect();
        assert_eq!(ids, [vec![2, 5], vec![]]);
        assert_eq!(resume.stored[0].range, whole);
    }

    #[test]
    fn any_other_offset_was_set_by_somebody_else() {
        for committed in [Some(at(0)), Some(at(9)), Some(at(11)), Some(at(1000))] {
            let expected = Standing::Moved { expected: Some(at(10)) };
            assert_eq!(resume(Some(&recorded()), committed), expected, "{committed:?}");
        }
    }

    #[test]
    fn an_offset_that_the_log_has_forgotten_is_taken_from_the_history() {
        let Standing::Forgotten(resume) = resume(Some(&recorded()), None) else {
            panic!("the log has no offset, the history has");
        };
        assert_eq!((resume.position, resume.committed), (at(10), None));
        assert_eq!(resume.stored.len(), 4);
    }

    #[test]
    fn before_the_first_commit_the_recorded_start_holds() {
        let recorded = Recorded { confirmed: None, intents: vec![], ..recorded() };
        assert_eq!(ours(resume(Some(&recorded), None)).position, at(5));
    }

    #[test]
    fn without_records_the_committed_offset_is_taken_and_none_is_new() {
        assert_eq!(resume(None, None), Standing::New);
        assert_eq!(ours(resume(None, Some(at(7)))).position, at(7));
    }

    #[test]
    fn scopes_are_kept_apart_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let db = schema::open(&folder.path().join("history.db")).unwrap();
        let key = ScopeKey {
            log: "kafka",
            cluster_id: "c".into(),
            group: "g".into(),
            topic: "t".into(),
            topic_id: "i".into(),
        };
        let first = scope(&db, &key).unwrap();
        for other in [
            ScopeKey { log: "embedded", ..key.clone() },
            ScopeKey { cluster_id: "d".into(), ..key.clone() },
            ScopeKey { group: "h".into(), ..key.clone() },
            ScopeKey { topic: "u".into(), ..key.clone() },
            ScopeKey { topic_id: "j".into(), ..key.clone() },
        ] {
            assert_ne!(scope(&db, &other), Ok(first), "{other:?}");
        }
        assert_eq!(scope(&db, &key), Ok(first));
    }

    #[test]
    fn what_was_committed_to_a_topic_that_is_gone_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let db = schema::open(&folder.path().join("history.db")).unwrap();
        let key = |topic: &str, topic_id: &str| ScopeKey {
            log: "kafka",
            cluster_id: "c".into(),
            group: "g".into(),
            topic: topic.into(),
            topic_id: topic_id.into(),
        };
        for (topic, id, committed) in [("t", "old", 20), ("t", "new", 30), ("other", "old", 40)] {
            let scope = scope(&db, &key(topic, id)).unwrap();
            let resume = Resume { position: at(0), committed: Some(at(committed)), stored: vec![] };
            begin(&db, scope, 1, &resume).unwrap();
            db.execute("INSERT INTO intents VALUES (?1, 1, ?2)", params![scope.0, committed + 5])
                .unwrap();
        }
        let gone = of_predecessors(&db, &key("t", "new")).unwrap();
        assert_eq!(gone, [(1, vec![at(20), at(25)])].into());
        // Without ids nothing tells one topic from another.
        assert_eq!(of_predecessors(&db, &key("t", "")).unwrap(), [].into());
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
        let scope = scope(db, &key).unwrap();
        let at_start = Resume { position: at(0), committed: Some(at(committed)), stored: vec![] };
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
        db.execute("INSERT INTO intents VALUES (?1, 3, 20)", [scope.0]).unwrap();
        assert_eq!(settled(), RunId(2), "a commit of 20 may yet arrive");
        db.execute("DELETE FROM intents", []).unwrap();
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
    fn voided_ranges_are_not_seen_again() {
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

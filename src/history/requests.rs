//! Redrives and replays that were asked for, as the history holds them: what is still to be made, and
//! with which records. The thread that makes it is `again`.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};
use serde::{Deserialize, Serialize};

use super::letters::LetterState;
use super::recovery::{self, ScopeKey};
use super::schema::{self, KIND_REDRIVE, KIND_REPLAY};
use super::{FILE, ScopeId};
use crate::kafka::Backend;
use crate::model::batch::{Batch, Record};
use crate::model::clock;
use crate::model::error::{Error, Result};
use crate::model::headers::Headers;
use crate::model::offset::{Lane, Offset, OffsetRange, Partition};
use crate::model::run::{RunId, RunState};
use crate::model::stored::{Part, Stored};

/// `requests.state`.
pub const OPEN: i64 = 0;
pub const DONE: i64 = 1;
pub const CANCELLED: i64 = 2;

/// A request that is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub id: i64,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Redrive,
    Replay { partition: Partition, range: OffsetRange },
}

/// A run of a redrive that has its identity and is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished {
    pub run: RunId,
    pub partition: Partition,
    pub range: OffsetRange,
    pub whole: OffsetRange,
    pub failed_attempts: u32,
}

/// The next letters of a redrive that no run has yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub partition: Partition,
    pub range: OffsetRange,
    pub records: usize,
    pub bytes: usize,
}

/// A replay that is asked for, on its way into the history; the scope as in `recovery::ScopeKey`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    pub embedded: bool,
    pub cluster_id: String,
    pub group: String,
    pub topic: String,
    pub topic_id: String,
    /// Partition, first and last offset of each; both are included.
    pub ranges: Vec<(Partition, i64, i64)>,
}

/// Reads requests while another thread writes the file.
pub struct Reader {
    db: Connection,
    scope: ScopeId,
}

impl Reader {
    /// # Errors
    /// As `schema::open_read_only`.
    pub fn open(data_dir: &Path, scope: ScopeId) -> Result<Reader> {
        Ok(Reader { db: schema::open_read_only(&data_dir.join(FILE))?, scope })
    }

    /// The open requests of this scope, the oldest first. Dead letters have their records with them,
    /// so those of a topic that was made again since count too.
    ///
    /// # Errors
    /// `Storage`, here and below, where the file cannot be read.
    pub fn open_requests(&self) -> Result<Vec<Request>> {
        let request = |row: &Row<'_>| -> rusqlite::Result<Request> {
            let kind = match row.get::<_, i64>(1)? {
                KIND_REDRIVE => Kind::Redrive,
                _ => Kind::Replay { partition: row.get(2)?, range: range(row, 3)? },
            };
            Ok(Request { id: row.get(0)?, kind })
        };
        self.all(
            "SELECT r.id, r.kind, r.partition, r.first_offset, r.last_offset FROM requests r \
             JOIN scopes s ON s.id = r.scope JOIN scopes mine ON mine.id = ?1 \
             WHERE r.state = 0 AND (r.scope = mine.id OR r.kind = ?2 AND s.topic = mine.topic \
             AND s.group_name = mine.group_name) ORDER BY r.id",
            params![self.scope.0, KIND_REDRIVE],
            request,
        )
    }

    /// Open replays of a topic that was deleted and made again since: their offsets mean other records
    /// now.
    pub fn of_predecessors(&self) -> Result<Vec<i64>> {
        self.all(
            "SELECT r.id FROM requests r JOIN scopes s ON s.id = r.scope \
             JOIN scopes mine ON mine.id = ?1 WHERE r.state = 0 AND r.kind = ?2 AND s.log = mine.log \
             AND s.cluster_id = mine.cluster_id AND s.topic = mine.topic \
             AND s.group_name = mine.group_name AND s.topic_id <> mine.topic_id ORDER BY r.id",
            params![self.scope.0, KIND_REPLAY],
            |row| row.get(0),
        )
    }

    /// The runs of a redrive that an earlier process left.
    pub fn unfinished(&self, request: i64) -> Result<Vec<Unfinished>> {
        let run = |row: &Row<'_>| -> rusqlite::Result<Unfinished> {
            Ok(Unfinished {
                run: RunId(row.get(0)?),
                partition: row.get(1)?,
                range: range(row, 2)?,
                whole: range(row, 4)?,
                failed_attempts: failed_attempts(row.get(6)?, row.get(7)?),
            })
        };
        self.all(
            "SELECT id, partition, first_offset, last_offset, ifnull(batch_first, first_offset), \
             ifnull(batch_last, last_offset), state, attempts FROM runs \
             WHERE request = ?1 AND kind = ?2 AND state IN (?3, ?4, ?5) ORDER BY id",
            params![request, KIND_REDRIVE, UNFINISHED[0], UNFINISHED[1], UNFINISHED[2]],
            run,
        )
    }

    /// The next letters behind `after`, of one partition, at most so many records and bytes (but one
    /// letter at least).
    pub fn next_letters(
        &self,
        request: i64,
        after: (Partition, i64),
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Option<Chunk>> {
        let letter = |row: &Row<'_>| -> rusqlite::Result<(Partition, i64, usize)> {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        };
        let letters = self.all(
            "SELECT partition, record_offset, ifnull(length(key), 0) + ifnull(length(value), 0) \
             + ifnull(length(headers), 0) FROM dead_letters \
             WHERE request = ?1 AND (partition, record_offset) > (?2, ?3) AND state = ?4 \
             AND redrive_run IS NULL ORDER BY partition, record_offset, id LIMIT ?5",
            params![request, after.0, after.1, LetterState::Redriving.code(), max_records],
            letter,
        )?;
        let mut chunk: Option<Chunk> = None;
        for (partition, offset, bytes) in letters {
            let offset = Offset::new(offset);
            match &mut chunk {
                None => {
                    let range = OffsetRange::new(offset, offset);
                    chunk = Some(Chunk { partition, range, records: 1, bytes });
                }
                Some(chunk) if chunk.partition == partition && chunk.range.last == offset => {}
                Some(chunk) if chunk.partition == partition && chunk.bytes + bytes <= max_bytes => {
                    chunk.range.last = offset;
                    chunk.records += 1;
                    chunk.bytes += bytes;
                }
                Some(_) => break,
            }
        }
        Ok(chunk)
    }

    /// Records and bytes of a redrive's run.
    pub fn size(&self, run: RunId) -> Result<(usize, usize)> {
        let sizes = self.all(
            "SELECT count(DISTINCT record_offset), ifnull(sum(ifnull(length(key), 0) \
             + ifnull(length(value), 0) + ifnull(length(headers), 0)), 0) \
             FROM dead_letters WHERE redrive_run = ?1 AND state = ?2",
            params![run.0, LetterState::Redriving.code()],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        Ok(sizes.first().copied().unwrap_or_default())
    }

    /// The records of a redrive's run, `size` of them, in memory that was had before.
    pub fn letters(&self, run: RunId, (records, bytes): (usize, usize)) -> Result<Batch> {
        let read = || -> rusqlite::Result<Batch> {
            let mut batch = Batch::default();
            batch.expect(bytes, records);
            let mut select = self.db.prepare_cached(
                "SELECT record_offset, timestamp_ms, key, value, headers FROM dead_letters \
                 WHERE redrive_run = ?1 AND state = ?2 ORDER BY record_offset, id",
            )?;
            let mut rows = select.query(params![run.0, LetterState::Redriving.code()])?;
            while let Some(row) = rows.next()? {
                let offset = Offset::new(row.get(0)?);
                // The same record twice is one record: both letters have its outcome.
                if batch.range().is_some_and(|range| range.last >= offset) {
                    continue;
                }
                let headers = row.get_ref(4)?.as_blob_or_null()?.unwrap_or_default();
                let record = Record {
                    offset,
                    timestamp: row.get(1)?,
                    key: row.get_ref(2)?.as_blob_or_null()?,
                    value: row.get_ref(3)?.as_blob_or_null()?,
                    headers: Headers::decode(headers).unwrap_or(Headers::NONE),
                };
                batch.grow_for(&record);
                batch.push(record);
            }
            Ok(batch)
        };
        read().map_err(storage)
    }

    /// The batches of a replay as an earlier process cut them, ascending: with the runs of each that
    /// are not done. `Err` inside: a client that read some of those, and this one cannot stand in for.
    pub fn replayed(
        &self,
        request: i64,
        backend: Backend,
    ) -> Result<std::result::Result<Vec<Stored>, String>> {
        struct Row {
            whole: OffsetRange,
            part: Option<Part>,
            client: String,
        }
        let run = |row: &rusqlite::Row<'_>| -> rusqlite::Result<Row> {
            let state: i64 = row.get(4)?;
            let part = UNFINISHED.contains(&state).then_some(Part {
                run: RunId(row.get(5)?),
                range: range(row, 2)?,
                lane: Lane::WHOLE,
                failed_attempts: failed_attempts(state, row.get(6)?),
            });
            Ok(Row { whole: range(row, 0)?, part, client: row.get(7)? })
        };
        let runs = self.all(
            "SELECT ifnull(batch_first, first_offset) AS whole, ifnull(batch_last, last_offset), \
             first_offset, last_offset, state, id, attempts, client FROM runs \
             WHERE request = ?1 AND kind = ?2 AND state NOT IN (?3, ?4) ORDER BY whole, id",
            params![request, KIND_REPLAY, RunState::Split.code(), RunState::Voided.code()],
            run,
        )?;
        let mut stored: Vec<Stored> = Vec::new();
        for Row { whole, part, client } in runs {
            if part.is_some()
                && Backend::from_name(&client).is_some_and(|client| !backend.reads_all_of(client))
            {
                return Ok(Err(client));
            }
            if stored.last().is_none_or(|batch| batch.range != whole) {
                stored.push(Stored { range: whole, parts: Vec::new(), registered: true });
            }
            stored.last_mut().expect("pushed just now").parts.extend(part);
        }
        Ok(Ok(stored))
    }

    /// Runs of a replay that are not done.
    pub fn left(&self, request: i64) -> Result<usize> {
        let left = self.all(
            "SELECT count(*) FROM runs WHERE request = ?1 AND state IN (?2, ?3, ?4)",
            params![request, UNFINISHED[0], UNFINISHED[1], UNFINISHED[2]],
            |row| row.get(0),
        )?;
        Ok(left.first().copied().unwrap_or_default())
    }

    fn all<T>(
        &self,
        select: &str,
        values: impl rusqlite::Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        let rows = || -> rusqlite::Result<Vec<T>> {
            self.db.prepare_cached(select)?.query_map(values, read)?.collect()
        };
        rows().map_err(storage)
    }
}

/// Where a run's records are in which log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub scope: ScopeId,
    pub cluster_id: String,
    pub group: String,
    pub topic: String,
    pub topic_id: String,
    pub embedded: bool,
    pub partition: Partition,
    pub range: OffsetRange,
    pub lane: Lane,
    pub is_redrive: bool,
    pub records: u64,
    /// As `RunState::code`.
    pub state: i64,
}

impl Place {
    pub fn is_unfinished(&self) -> bool {
        UNFINISHED.contains(&self.state)
    }
}

/// Where the run of this number is.
///
/// # Errors
/// `Usage` where the history has none such (any more); `Storage`.
pub fn place(db: &Connection, run: i64) -> Result<Place> {
    let row = |row: &Row<'_>| -> rusqlite::Result<Place> {
        Ok(Place {
            scope: ScopeId(row.get(0)?),
            cluster_id: row.get(1)?,
            group: row.get(2)?,
            topic: row.get(3)?,
            topic_id: row.get(4)?,
            embedded: row.get::<_, String>(5)? == "embedded",
            partition: row.get(6)?,
            range: range(row, 7)?,
            lane: Lane { index: row.get(9)?, count: row.get(10)? },
            is_redrive: row.get::<_, i64>(11)? == KIND_REDRIVE,
            records: row.get(12)?,
            state: row.get(13)?,
        })
    };
    let select = "SELECT scope, cluster_id, group_name, topic, topic_id, log, partition, \
         first_offset, last_offset, lane, lanes, kind, records, state \
         FROM runs JOIN scopes ON scopes.id = runs.scope WHERE runs.id = ?1";
    let found =
        db.prepare_cached(select).and_then(|mut place| place.query_row([run], row).optional());
    found.map_err(storage)?.ok_or_else(|| {
        Error::Usage(format!("run {run}: the history has no run of this number (any more)"))
    })
}

/// Writes a replay's ranges down, each as a request of its own; their numbers.
///
/// # Errors
/// `Storage` where the file cannot be written.
pub fn ask(db: &mut Connection, replay: &Replay) -> Result<Vec<i64>> {
    let key = ScopeKey {
        log: if replay.embedded { "embedded" } else { "kafka" },
        cluster_id: replay.cluster_id.clone(),
        group: replay.group.clone(),
        topic: replay.topic.clone(),
        topic_id: replay.topic_id.clone(),
    };
    let change = db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(storage)?;
    let scope = recovery::scope(&change, &key)?;
    let mut numbers = Vec::new();
    for (partition, first, last) in &replay.ranges {
        change
            .execute(
                "INSERT INTO requests(scope, kind, partition, first_offset, last_offset, asked_ms) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![scope.0, KIND_REPLAY, partition, first, last, clock::now_ms()],
            )
            .map_err(storage)?;
        numbers.push(change.last_insert_rowid());
    }
    change.commit().map_err(storage)?;
    Ok(numbers)
}

/// States of runs that are to be made again.
pub(super) const UNFINISHED: [i64; 3] = [0, 1, 4];

/// A halt was answered by starting mb again: all attempts anew.
fn failed_attempts(state: i64, attempts: u32) -> u32 {
    if state == RunState::Halted.code() { 0 } else { attempts }
}

fn range(row: &Row<'_>, first: usize) -> rusqlite::Result<OffsetRange> {
    Ok(OffsetRange::new(Offset::new(row.get(first)?), Offset::new(row.get(first + 1)?)))
}

fn storage(cause: rusqlite::Error) -> Error {
    Error::storage("use the requests in the history", cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_states_are_those_that_are_made_again() {
        let states = [RunState::Queued, RunState::Running, RunState::Halted];
        assert_eq!(states.map(RunState::code), UNFINISHED);
    }
}

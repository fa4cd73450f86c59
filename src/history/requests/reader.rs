//! Reads open requests: which of their runs are still to be made, and with which records.

use std::path::Path;

use rusqlite::{Connection, Row, params};

use super::state::{UNFINISHED, failed_attempts, range};
use crate::history::dead_letters::{DeadLetterState, redriven_columns, redriven_record};
use crate::history::migrations::{KIND_REDRIVE, KIND_REPLAY};
use crate::history::schema::{self, FILE};
use crate::history::scope::ScopeId;
use crate::kafka::Backend;
use crate::model::batch::Batch;
use crate::model::error::{Error, Result};
use crate::model::offset::{Lane, Offset, OffsetRange, Partition};
use crate::model::planned::{PlannedBatch, PlannedRun};
use crate::model::run::{RunId, RunState};

/// An open request.
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

/// A run of a redrive that was planned and is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished {
    pub run: RunId,
    pub partition: Partition,
    pub range: OffsetRange,
    /// The range of the batch that the run belongs to.
    pub whole: OffsetRange,
    pub failed_attempts: u32,
}

/// The next dead letters of a redrive that have no run yet: those of one partition in a range of offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub partition: Partition,
    pub range: OffsetRange,
    pub records: usize,
    pub bytes: usize,
}

/// The bytes of a dead letter's record, as a redrive processes it.
const BYTES: &str = "iif(edited_ms IS NULL, ifnull(length(key), 0) + ifnull(length(value), 0), \
     ifnull(length(edited_key), 0) + ifnull(length(edited_value), 0)) + ifnull(length(headers), 0)";

/// Reads the requests of a scope, while the history thread writes the file.
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

    /// Reads over a connection that is open.
    #[cfg(feature = "testing")]
    pub fn over(db: Connection, scope: ScopeId) -> Reader {
        Reader { db, scope }
    }

    #[cfg(feature = "testing")]
    pub fn into_db(self) -> Connection {
        self.db
    }

    /// The open requests of this scope, the oldest first. Since dead letters hold their records, redrives of
    /// an earlier topic of the same name are among them.
    ///
    /// # Errors
    /// `Storage`, here and below, if the file cannot be read.
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

    /// Open replays of an earlier topic of the same name, whose offsets mean other records now.
    pub fn replays_of_predecessors(&self) -> Result<Vec<i64>> {
        self.all(
            "SELECT r.id FROM requests r JOIN scopes s ON s.id = r.scope \
             JOIN scopes mine ON mine.id = ?1 WHERE r.state = 0 AND r.kind = ?2 AND s.log = mine.log \
             AND s.cluster_id = mine.cluster_id AND s.topic = mine.topic \
             AND s.group_name = mine.group_name AND s.topic_id <> mine.topic_id ORDER BY r.id",
            params![self.scope.0, KIND_REPLAY],
            |row| row.get(0),
        )
    }

    /// Runs of a redrive that an earlier process has left.
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

    /// The next dead letters after the partition and offset `after`: of one partition, at least one, and not
    /// more than `max_records` and `max_bytes` otherwise.
    pub fn next_dead_letters(
        &self,
        request: i64,
        after: (Partition, i64),
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Option<Chunk>> {
        let dead_letter = |row: &Row<'_>| -> rusqlite::Result<(Partition, i64, usize)> {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        };
        let found = self.all(
            &format!(
                "SELECT partition, record_offset, {BYTES} FROM dead_letters \
                 WHERE request = ?1 AND (partition, record_offset) > (?2, ?3) AND state = ?4 \
                 AND redrive_run IS NULL ORDER BY partition, record_offset, id LIMIT ?5"
            ),
            params![request, after.0, after.1, DeadLetterState::Redriving.code(), max_records],
            dead_letter,
        )?;
        let mut chunk: Option<Chunk> = None;
        for (partition, offset, bytes) in found {
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

    /// How many records and bytes a redrive's run has.
    pub fn size(&self, run: RunId) -> Result<(usize, usize)> {
        let sizes = self.all(
            &format!(
                "SELECT count(DISTINCT record_offset), ifnull(sum({BYTES}), 0) \
                 FROM dead_letters WHERE redrive_run = ?1 AND state = ?2"
            ),
            params![run.0, DeadLetterState::Redriving.code()],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        Ok(sizes.first().copied().unwrap_or_default())
    }

    /// The records of a redrive's run, whose `size` has been acquired from the memory budget before.
    pub fn records(&self, run: RunId, (records, bytes): (usize, usize)) -> Result<Batch> {
        let read = || -> rusqlite::Result<Batch> {
            let mut batch = Batch::default();
            batch.expect(bytes, records);
            let mut select = self.db.prepare_cached(&format!(
                "SELECT {} FROM dead_letters WHERE redrive_run = ?1 AND state = ?2 \
                 ORDER BY record_offset, id",
                redriven_columns()
            ))?;
            let mut rows = select.query(params![run.0, DeadLetterState::Redriving.code()])?;
            while let Some(row) = rows.next()? {
                let record = redriven_record(row, 0)?;
                // The same record twice is read once; its outcome counts for both dead letters.
                if batch.range().is_some_and(|range| range.last >= record.offset) {
                    continue;
                }
                batch.grow_for(&record);
                batch.push(record);
            }
            Ok(batch)
        };
        read().map_err(storage)
    }

    /// The batches of a replay as an earlier process cut them, ascending, each with its unfinished runs, ascending too
    /// (a half that was halved again has newer numbers than the other half; by number, its records would be
    /// dropped when the batch is divided). The
    /// inner error names a client that read some of these and that this client cannot replace.
    pub fn replayed(
        &self,
        request: i64,
        backend: Backend,
    ) -> Result<std::result::Result<Vec<PlannedBatch>, String>> {
        struct Row {
            whole: OffsetRange,
            part: Option<PlannedRun>,
            client: String,
        }
        let run = |row: &rusqlite::Row<'_>| -> rusqlite::Result<Row> {
            let state: i64 = row.get(4)?;
            let part = UNFINISHED.contains(&state).then_some(PlannedRun {
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
             WHERE request = ?1 AND kind = ?2 AND state NOT IN (?3, ?4) ORDER BY whole, first_offset, id",
            params![request, KIND_REPLAY, RunState::Split.code(), RunState::Voided.code()],
            run,
        )?;
        let mut stored: Vec<PlannedBatch> = Vec::new();
        for Row { whole, part, client } in runs {
            if part.is_some()
                && Backend::from_name(&client).is_some_and(|client| !backend.reads_all_of(client))
            {
                return Ok(Err(client));
            }
            if stored.last().is_none_or(|batch| batch.range != whole) {
                stored.push(PlannedBatch { range: whole, parts: Vec::new(), registered: true });
            }
            stored.last_mut().expect("pushed just now").parts.extend(part);
        }
        Ok(Ok(stored))
    }

    /// How many runs of a replay are not done.
    pub fn unfinished_runs(&self, request: i64) -> Result<usize> {
        let runs = self.all(
            "SELECT count(*) FROM runs WHERE request = ?1 AND state IN (?2, ?3, ?4)",
            params![request, UNFINISHED[0], UNFINISHED[1], UNFINISHED[2]],
            |row| row.get(0),
        )?;
        Ok(runs.first().copied().unwrap_or_default())
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

fn storage(cause: rusqlite::Error) -> Error {
    Error::storage("use the requests in the history", cause)
}

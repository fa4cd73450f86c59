//! Reading the embedded topic: one chunk at a time, partitions in turn; a wait ends with the first new record.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension};

use super::chunk::Records;
use super::faults::{Call, Faults, is_leaderless, under};
use super::shared::Shared;
use super::store::failed;
use super::tables::{Epochs, epoch_at, epochs, find_topic, no_partition, watermarks};
use crate::config::limits;
use crate::kafka::seam::not_read;
use crate::kafka::{Consumer, FetchSettings, Flow, Sink};
use crate::model::error::{Error, Result};
use crate::model::offset::{Offset, Partition};

/// `FetchSettings::min_bytes` has no effect: there are no round trips to save, so records are handed over as soon
/// as they are there. `Sink::position` is never called, because the log has no gaps.
pub(super) struct EmbeddedConsumer {
    shared: Arc<Shared>,
    faults: Option<Faults>,
    /// `None` only while it is returned.
    reader: Option<Connection>,
    topic: String,
    topic_id: i64,
    /// The topic's id: SQLite gives the row id of a deleted topic to the next one.
    topic_uuid: String,
    cursors: Vec<Cursor>,
    /// The cursor whose turn is next.
    turn: usize,
    max_record_bytes: usize,
    /// The chunk being handed over; kept to reuse its allocation.
    chunk: Vec<u8>,
}

struct Cursor {
    partition: Partition,
    next: Offset,
    /// The partition's row id, and the partition's end when it was last read.
    row: i64,
    end: Offset,
    /// The partition's epochs when it was last read.
    epochs: Epochs,
    paused: bool,
}

impl EmbeddedConsumer {
    pub(super) fn new(
        shared: &Arc<Shared>,
        faults: Option<Faults>,
        topic: &str,
        from: &[(Partition, Offset)],
        settings: &FetchSettings,
    ) -> Result<EmbeddedConsumer> {
        let doing = &format!("read topic {topic}");
        let reader = shared.take_reader(doing)?;
        let (topic_id, topic_uuid) = find_topic(&reader, topic, doing)?;
        let rows = watermarks(&reader, topic_id).map_err(failed(doing))?;
        let cursors = from
            .iter()
            .map(|&(partition, next)| {
                let row =
                    rows.get(&partition).ok_or_else(|| no_partition(doing, topic, partition))?;
                let (row, end, epochs) = (row.id, row.marks.end, Vec::new());
                Ok(Cursor { partition, next, row, end, epochs, paused: false })
            })
            .collect::<Result<_>>()?;
        Ok(EmbeddedConsumer {
            shared: Arc::clone(shared),
            faults,
            reader: Some(reader),
            topic: topic.to_owned(),
            topic_id,
            topic_uuid,
            cursors,
            turn: 0,
            max_record_bytes: settings.max_record_bytes,
            chunk: Vec::new(),
        })
    }

    /// Hands over what is there, up to `limits::EMBEDDED_POLL_RECORDS`; false if nothing is.
    fn read(&mut self, sink: &mut dyn Sink) -> Result<bool> {
        let mut came = false;
        for (at, error) in self.look()? {
            came = true;
            if self.fail(at, error, sink) == Flow::Stop {
                return Ok(true);
            }
        }
        let mut handed = 0;
        let mut at_end = 0;
        while at_end < self.cursors.len()
            && handed + limits::EMBEDDED_CHUNK_RECORDS <= limits::EMBEDDED_POLL_RECORDS
        {
            let at = self.turn % self.cursors.len();
            self.turn = at + 1;
            if self.cursors[at].paused || self.cursors[at].next >= self.cursors[at].end {
                at_end += 1;
                continue;
            }
            (at_end, came) = (0, true);
            let flow = match self.hand_over_chunk(at, sink) {
                Ok((records, flow)) => {
                    handed += records;
                    flow
                }
                Err(error @ (Error::OffsetOutOfRange { .. } | Error::Unreadable { .. })) => {
                    self.fail(at, error, sink)
                }
                Err(error) => return Err(error),
            };
            if flow == Flow::Stop {
                break;
            }
        }
        Ok(came)
    }

    /// Pauses the partition and reports why it cannot be read on.
    fn fail(&mut self, at: usize, error: Error, sink: &mut dyn Sink) -> Flow {
        self.cursors[at].paused = true;
        sink.failed(self.cursors[at].partition, error)
    }

    /// Reads where the partitions end; returns those that cannot be read: their cursor is outside their log,
    /// or a fault has taken their leader.
    fn look(&mut self) -> Result<Vec<(usize, Error)>> {
        let reader = self.reader.as_ref().expect("a consumer has its reader until it is dropped");
        let doing = format!("read topic {}", self.topic);
        // A topic that is gone may come again, as on Kafka: the sensor looks at its id then.
        let uuid = match find_topic(reader, &self.topic, &doing) {
            Ok((_, uuid)) => Some(uuid),
            Err(Error::UnknownTopic { .. }) => None,
            Err(error) => return Err(error),
        };
        if uuid.as_ref() != Some(&self.topic_uuid) {
            return Err(Error::broker(doing, "the topic was deleted, or created again"));
        }
        let rows = watermarks(reader, self.topic_id).map_err(failed(&doing))?;
        let mut epochs = epochs(reader, self.topic_id).map_err(failed(&doing))?;
        let mut unreadable = Vec::new();
        for (at, cursor) in self.cursors.iter_mut().enumerate().filter(|(_, one)| !one.paused) {
            let marks = rows[&cursor.partition].marks;
            if is_leaderless(self.faults.as_ref(), cursor.partition) {
                let (topic, partition) = (self.topic.clone(), cursor.partition);
                unreadable.push((at, Error::NoLeader { topic, partition }));
            } else if cursor.next < marks.beginning || cursor.next > marks.end {
                unreadable.push((at, out_of_range(&self.topic, cursor)));
            }
            cursor.end = marks.end;
            cursor.epochs = epochs.remove(&cursor.partition).unwrap_or_default();
        }
        Ok(unreadable)
    }

    fn cursor(&mut self, partition: Partition) -> Result<&mut Cursor> {
        let found = self.cursors.iter_mut().find(|cursor| cursor.partition == partition);
        found.ok_or_else(|| not_read(&self.topic, partition))
    }

    /// Hands over the rest of the chunk that the cursor points into.
    fn hand_over_chunk(&mut self, at: usize, sink: &mut dyn Sink) -> Result<(usize, Flow)> {
        let cursor = &mut self.cursors[at];
        let reader = self.reader.as_ref().expect("a consumer has its reader until it is dropped");
        let first = load_chunk(reader, cursor, &mut self.chunk)
            .map_err(failed(&format!("read {}/{}", self.topic, cursor.partition)))?;
        // If the chunk begins above the cursor, retention has removed the chunks before it meanwhile.
        let Some(first) = first.filter(|first| *first <= cursor.next) else {
            return Err(out_of_range(&self.topic, cursor));
        };
        let unreadable = |offset, cause| Error::Unreadable {
            topic: self.topic.clone(),
            partition: cursor.partition,
            offset,
            cause,
        };
        sink.epoch(cursor.partition, epoch_at(&cursor.epochs, cursor.next));
        let mut handed = 0;
        for read in Records::new(&self.chunk, first) {
            let Some(record) = read else {
                return Err(unreadable(cursor.next, "its chunk in the file is broken".to_owned()));
            };
            if record.offset < cursor.next {
                continue;
            }
            if record.payload_bytes() > self.max_record_bytes {
                let cause = format!(
                    "it has {} bytes and {} can be held; a larger --queue-bytes takes it",
                    record.payload_bytes(),
                    self.max_record_bytes
                );
                return Err(unreadable(record.offset, cause));
            }
            cursor.next = record.offset.next();
            handed += 1;
            if sink.record(cursor.partition, record) == Flow::Stop {
                return Ok((handed, Flow::Stop));
            }
        }
        Ok((handed, Flow::Continue))
    }
}

/// Loads the chunk that holds the cursor's record, or the next one; returns its first offset. No transaction stays
/// open while records are handed over, because the sink may block.
fn load_chunk(
    reader: &Connection,
    cursor: &Cursor,
    chunk: &mut Vec<u8>,
) -> rusqlite::Result<Option<Offset>> {
    reader
        .prepare_cached(
            "SELECT first_offset, records FROM chunks WHERE partition = ?1 AND last_offset >= ?2
             ORDER BY last_offset LIMIT 1",
        )?
        .query_row([cursor.row, cursor.next.get()], |row| {
            chunk.clear();
            chunk.extend_from_slice(row.get_ref(1)?.as_blob()?);
            Ok(Offset::new(row.get(0)?))
        })
        .optional()
}

fn out_of_range(topic: &str, cursor: &Cursor) -> Error {
    Error::OffsetOutOfRange {
        topic: topic.to_owned(),
        partition: cursor.partition,
        offset: cursor.next,
    }
}

impl Consumer for EmbeddedConsumer {
    fn poll(&mut self, wait: Duration, sink: &mut dyn Sink) -> Result<()> {
        under(self.faults.as_ref(), Call::Poll, "read the embedded topic", || Ok(()))?;
        let deadline = Instant::now() + wait;
        loop {
            let seen = self.shared.version();
            let due = self.shared.settle();
            if self.read(sink)? || Instant::now() >= deadline {
                return Ok(());
            }
            self.shared.wait(seen, due.map_or(deadline, |due| due.min(deadline)));
        }
    }

    fn has_more(&self) -> bool {
        self.cursors.iter().any(|cursor| !cursor.paused && cursor.next < cursor.end)
    }

    fn pause(&mut self, partition: Partition) -> Result<()> {
        self.cursor(partition)?.paused = true;
        Ok(())
    }

    fn resume(&mut self, partition: Partition, from: Offset) -> Result<()> {
        let cursor = self.cursor(partition)?;
        if cursor.paused {
            cursor.paused = false;
            cursor.next = from;
        }
        Ok(())
    }

    fn close(self: Box<Self>) {}
}

impl Drop for EmbeddedConsumer {
    fn drop(&mut self) {
        if let Some(reader) = self.reader.take() {
            self.shared.give_reader(reader);
        }
    }
}

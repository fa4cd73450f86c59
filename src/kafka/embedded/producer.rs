//! Writing to the embedded topic: messages gather in an outbox and go to the file in groups.
//!
//! There is no thread for it. A message is written at once when the last write is
//! `limits::EMBEDDED_LINGER` ago or more; else it waits for company, until the next call of the
//! producer or of anybody who reads finds it due.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, params};

use super::faults::{Call, Faults, under};
use super::retention::{self, CHUNK_OVERHEAD_BYTES};
use super::store::{failed, immediate};
use super::{Embedded, Shared, chunk, find_topic, lock, no_partition, watermarks};
use crate::config::limits;
use crate::kafka::{Delivery, Message, Producer, Sent};
use crate::model::error::{Error, Result};
use crate::model::offset::Partition;

pub(super) struct EmbeddedProducer {
    shared: Arc<Shared>,
    topic: String,
    topic_id: i64,
    /// As last read: new ones are looked for when a message names one that is not here.
    partitions: BTreeSet<Partition>,
    outbox: Arc<Mutex<Outbox>>,
}

/// What a producer has accepted and not yet written, in chunks, in the order of their writing.
pub(super) struct Outbox {
    topic_id: i64,
    doing: String,
    faults: Option<Faults>,
    /// Where a chunk closes: small enough that retention can work in steps.
    chunk_bytes: usize,
    chunks: VecDeque<Chunk>,
    /// Where in `chunks` each partition's open chunk is.
    open: BTreeMap<Partition, usize>,
    bytes: usize,
    records: u64,
    /// When the oldest message came in; `None` for an empty outbox.
    since: Option<Instant>,
    last_write: Option<Instant>,
    /// Not before then, after a write that failed.
    retry_at: Option<Instant>,
    /// The last write found no room: only a commit makes some, or a group that goes.
    no_room: bool,
    delivery: Delivery,
}

struct Chunk {
    partition: Partition,
    records: usize,
    bytes: Vec<u8>,
}

impl EmbeddedProducer {
    pub(super) fn new(embedded: &Embedded, topic: &str, doing: &str) -> Result<EmbeddedProducer> {
        let shared = Arc::clone(&embedded.shared);
        let (topic_id, partitions) = shared.read(doing, |reader| {
            let (topic_id, _) = find_topic(reader, topic, doing)?;
            let rows = watermarks(reader, topic_id).map_err(failed(doing))?;
            Ok((topic_id, rows.into_keys().collect()))
        })?;
        // Room for eight chunks at least, so that retention never has to take all or nothing.
        let eighth = usize::try_from(shared.retention_bytes / 8).unwrap_or(usize::MAX);
        let outbox = Arc::new(Mutex::new(Outbox {
            topic_id,
            doing: doing.to_owned(),
            faults: embedded.faults.clone(),
            chunk_bytes: limits::EMBEDDED_CHUNK_BYTES.min(eighth),
            chunks: VecDeque::new(),
            open: BTreeMap::new(),
            bytes: 0,
            records: 0,
            since: None,
            last_write: None,
            retry_at: None,
            no_room: false,
            delivery: Delivery::default(),
        }));
        let mut outboxes = lock(&shared.outboxes);
        outboxes.retain(|outbox| outbox.strong_count() > 0);
        outboxes.push(Arc::downgrade(&outbox));
        drop(outboxes);
        Ok(EmbeddedProducer { shared, topic: topic.to_owned(), topic_id, partitions, outbox })
    }

    fn check(&mut self, message: &Message<'_>, bytes: usize) -> Result<()> {
        let doing = || format!("write to topic {}", self.topic);
        let room =
            usize::try_from(self.shared.retention_bytes.saturating_sub(CHUNK_OVERHEAD_BYTES))
                .unwrap_or(usize::MAX);
        if bytes > room.min(limits::EMBEDDED_RECORD_BYTES) {
            return Err(Error::broker(
                doing(),
                format!(
                    "the message takes {bytes} bytes, and the embedded topic holds messages of up \
                     to {} and no more than --embedded-retention-bytes ({})",
                    limits::EMBEDDED_RECORD_BYTES,
                    self.shared.retention_bytes
                ),
            ));
        }
        if !self.partitions.contains(&message.partition) {
            let rows = self.shared.read(&doing(), |reader| {
                watermarks(reader, self.topic_id).map_err(failed(&doing()))
            })?;
            self.partitions = rows.into_keys().collect();
            if !self.partitions.contains(&message.partition) {
                return Err(no_partition(&doing(), &self.topic, message.partition));
            }
        }
        Ok(())
    }
}

impl Producer for EmbeddedProducer {
    fn send(&mut self, message: Message<'_>, wait: Duration) -> Result<Sent> {
        let bytes = chunk::encoded_bytes(&message);
        self.check(&message, bytes)?;
        let mut now = Instant::now();
        let deadline = now + wait;
        loop {
            let seen = self.shared.version();
            let mut outbox = lock(&self.outbox);
            if outbox.is_full(bytes) && outbox.may_try(now) {
                outbox.write(&self.shared);
            }
            if !outbox.is_full(bytes) {
                let first = outbox.since.is_none();
                outbox.push(&message, bytes, now);
                if outbox.write_if_due(&self.shared, now).is_some() && first {
                    drop(outbox);
                    // A reader that waits must learn when this is due.
                    self.shared.notify();
                }
                return Ok(Sent::Accepted);
            }
            let until = outbox.retry_at.map_or(deadline, |at| at.min(deadline));
            drop(outbox);
            now = Instant::now();
            if now >= deadline {
                return Ok(Sent::Full);
            }
            self.shared.wait(seen, until);
            now = Instant::now();
        }
    }

    fn delivery(&mut self) -> Delivery {
        let mut outbox = lock(&self.outbox);
        outbox.write_if_due(&self.shared, Instant::now());
        outbox.delivery.clone()
    }

    fn flush(&mut self, limit: Duration) -> Result<u64> {
        let deadline = Instant::now() + limit;
        loop {
            let seen = self.shared.version();
            let mut outbox = lock(&self.outbox);
            if outbox.may_try(Instant::now()) {
                outbox.write(&self.shared);
            }
            let until = outbox.retry_at.map_or(deadline, |at| at.min(deadline));
            if outbox.records == 0 || Instant::now() >= deadline {
                return Ok(outbox.records);
            }
            drop(outbox);
            self.shared.wait(seen, until);
        }
    }
}

/// What is left is written if it can be; what cannot was never acknowledged.
impl Drop for EmbeddedProducer {
    fn drop(&mut self) {
        lock(&self.outbox).write(&self.shared);
        let gone = Arc::downgrade(&self.outbox);
        lock(&self.shared.outboxes).retain(|outbox| !Weak::ptr_eq(outbox, &gone));
    }
}

impl Outbox {
    /// Whether a message of `bytes` has no place; a message that is larger than the outbox goes
    /// into an empty one.
    fn is_full(&self, bytes: usize) -> bool {
        let over = self.bytes + bytes > limits::EMBEDDED_OUTBOX_BYTES && self.bytes > 0;
        over || (self.no_room && self.bytes > 0)
    }

    fn may_try(&self, now: Instant) -> bool {
        self.retry_at.is_none_or(|at| at <= now)
    }

    fn push(&mut self, message: &Message<'_>, bytes: usize, now: Instant) {
        let open = self.open.get(&message.partition).copied();
        let fits = |chunk: &Chunk| {
            chunk.records < limits::EMBEDDED_CHUNK_RECORDS
                && chunk.bytes.len() + bytes <= self.chunk_bytes
        };
        let at = open.filter(|at| fits(&self.chunks[*at])).unwrap_or_else(|| {
            let chunk = Chunk { partition: message.partition, records: 0, bytes: Vec::new() };
            self.chunks.push_back(chunk);
            self.chunks.len() - 1
        });
        self.open.insert(message.partition, at);
        let chunk = &mut self.chunks[at];
        chunk::encode(&mut chunk.bytes, message, milliseconds_since_1970());
        chunk.records += 1;
        self.bytes += bytes;
        self.records += 1;
        self.since.get_or_insert(now);
    }

    /// When the gathered messages are to be written; `None` where there are none, or no room.
    fn due(&self) -> Option<Instant> {
        let since = self.since?;
        if self.no_room {
            return None;
        }
        let full = self.bytes >= self.chunk_bytes;
        let due = match self.last_write {
            Some(last) if !full => last + limits::EMBEDDED_LINGER,
            _ => since,
        };
        Some(self.retry_at.map_or(due, |at| at.max(due)))
    }

    /// Writes what is due; returns when what is left will be.
    pub(super) fn write_if_due(&mut self, shared: &Shared, now: Instant) -> Option<Instant> {
        if self.due().is_some_and(|due| due <= now) {
            self.write(shared);
        }
        self.due()
    }

    /// Writes all that there is room for, in one transaction, and acknowledges it.
    pub(super) fn write(&mut self, shared: &Shared) {
        if self.chunks.is_empty() {
            return;
        }
        let written = under(self.faults.as_ref(), Call::Write, &self.doing, || {
            let mut writer = lock(&shared.writer);
            write_chunks(&mut writer, self.topic_id, &self.chunks, shared)
                .map_err(failed(&self.doing))
        });
        let now = Instant::now();
        self.last_write = Some(now);
        match written {
            Ok(written) => {
                self.retry_at = None;
                if written > 0 {
                    shared.notify();
                }
                for chunk in self.chunks.drain(..written) {
                    self.bytes -= chunk.bytes.len();
                    self.records -= chunk.records as u64;
                    self.delivery.acknowledged += chunk.records as u64;
                }
                self.no_room = !self.chunks.is_empty();
                if self.no_room {
                    let cause = "no room: unread records fill --embedded-retention-bytes";
                    self.delivery.last_error = Some(format!("cannot {}: {cause}", self.doing));
                }
            }
            Err(error) => {
                self.retry_at = Some(now + limits::EMBEDDED_RETRY_INTERVAL);
                self.delivery.last_error = Some(error.to_string());
            }
        }
        self.reopen();
    }

    /// Finds the chunks that are still open, after some have gone.
    fn reopen(&mut self) {
        self.open = self.chunks.iter().enumerate().map(|(at, c)| (c.partition, at)).collect();
        if self.chunks.is_empty() {
            self.since = None;
        }
    }
}

/// Writes chunks, the first ones first, until one has no room; returns how many. Nothing is
/// written at an error.
fn write_chunks(
    writer: &mut Connection,
    topic_id: i64,
    chunks: &VecDeque<Chunk>,
    shared: &Shared,
) -> rusqlite::Result<usize> {
    let tx = immediate(writer)?;
    let mut used = retention::used(&tx)?;
    let mut unwritten = chunks.iter().map(Chunk::cost).sum::<u64>();
    let mut written = 0;
    for chunk in chunks {
        let cost = chunk.cost();
        if used + cost > shared.retention_bytes {
            // A little more than is needed, so that this is not done for each write.
            let over = used + unwritten - shared.retention_bytes;
            used -= retention::remove(&tx, over + shared.retention_bytes / 16)?;
        }
        if used + cost > shared.retention_bytes {
            say_who_holds_back(shared, retention::holder(&tx)?);
            break;
        }
        insert(&tx, topic_id, chunk)?;
        used += cost;
        unwritten -= cost;
        written += 1;
    }
    tx.commit()?;
    Ok(written)
}

impl Chunk {
    /// What it counts for in `--embedded-retention-bytes`.
    fn cost(&self) -> u64 {
        self.bytes.len() as u64 + CHUNK_OVERHEAD_BYTES
    }
}

fn insert(tx: &Connection, topic_id: i64, chunk: &Chunk) -> rusqlite::Result<()> {
    let records = chunk.records as i64;
    let cost = chunk.cost() as i64;
    let (row, end): (i64, i64) = tx
        .prepare_cached(
            "UPDATE partitions SET next_offset = next_offset + ?3, bytes = bytes + ?4
             WHERE topic = ?1 AND partition = ?2 RETURNING id, next_offset",
        )?
        .query_row(params![topic_id, chunk.partition, records, cost], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    tx.prepare_cached(
        "INSERT INTO chunks (partition, first_offset, last_offset, bytes, records)
         VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![row, end - records, end - 1, cost, chunk.bytes])?;
    Ok(())
}

/// Once, and again only where it is somebody else.
fn say_who_holds_back(shared: &Shared, holder: (String, Option<String>)) {
    let mut said = lock(&shared.held_back);
    if said.as_ref() == Some(&holder) {
        return;
    }
    log::warn!("{}", held_back(&holder, shared.retention_bytes));
    *said = Some(holder);
}

/// Why a producer waits, and what ends that. A topic of dead letters may have no group for ever, and
/// still they are kept: they can be the only ones.
fn held_back((topic, group): &(String, Option<String>), retention_bytes: u64) -> String {
    let cause = match group {
        Some(group) => format!("group {group} has not yet committed them"),
        None => format!(
            "no group has committed on it yet (read it with a group, or give its records up: mb \
             offsets --client embedded --topic {topic} --group GROUP --to-latest --execute, while no \
             mb runs; or raise the limit)"
        ),
    };
    format!(
        "the embedded topic is full: unread records of {topic} fill --embedded-retention-bytes \
         ({retention_bytes}), {cause}; the producer waits"
    )
}

fn milliseconds_since_1970() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_without_a_group_is_named_with_the_way_out() {
        let text = held_back(&("letters".to_owned(), None), 1000);
        assert!(text.contains("of letters fill --embedded-retention-bytes (1000)"), "{text}");
        assert!(text.contains("--topic letters --group GROUP --to-latest --execute"), "{text}");
        let text = held_back(&("orders".to_owned(), Some("mb".to_owned())), 1000);
        assert!(text.contains("group mb has not yet committed them; the producer waits"), "{text}");
    }
}

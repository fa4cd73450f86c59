//! Writing to the embedded topic: messages gather in an outbox and are written to the file in groups.
//!
//! No thread exists for it. A message is written at once if the last write is `limits::EMBEDDED_LINGER` ago or
//! more. Otherwise it waits for others, until the next call of the producer or of any reader finds it due.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, params};

use super::chunk;
use super::faults::{Call, Faults, under};
use super::retention::{self, CHUNK_OVERHEAD_BYTES};
use super::shared::{Shared, Unwritten};
use super::store::{failed, immediate};
use super::tables::{find_topic, no_partition, watermarks};
use crate::config::limits;
use crate::kafka::{Delivery, Message, Producer, Sent};
use crate::model::error::{Error, Result};
use crate::model::offset::Partition;
use crate::model::sync::Mutex;

pub(super) struct EmbeddedProducer {
    shared: Arc<Shared>,
    topic: String,
    topic_id: i64,
    /// As last read. They are read again when a message names a partition that is not among them.
    partitions: BTreeSet<Partition>,
    outbox: Arc<Mutex<Outbox>>,
}

/// What a producer has accepted and not yet written: chunks, in the order in which they are written.
pub(super) struct Outbox {
    topic_id: i64,
    doing: String,
    faults: Option<Faults>,
    /// The size at which a chunk is closed: small enough for retention to remove records in steps.
    chunk_bytes: usize,
    chunks: VecDeque<Chunk>,
    /// The index in `chunks` of each partition's open chunk.
    open: BTreeMap<Partition, usize>,
    bytes: usize,
    records: u64,
    /// When the oldest message came; `None` if the outbox is empty.
    since: Option<Instant>,
    last_write: Option<Instant>,
    /// When a failed write may be retried.
    retry_at: Option<Instant>,
    /// The last write found no room. Only a commit makes room, or the removal of a group.
    no_room: bool,
    delivery: Delivery,
}

struct Chunk {
    partition: Partition,
    records: usize,
    bytes: Vec<u8>,
}

impl EmbeddedProducer {
    pub(super) fn new(
        shared: &Arc<Shared>,
        faults: Option<Faults>,
        topic: &str,
    ) -> Result<EmbeddedProducer> {
        let shared = Arc::clone(shared);
        let doing = &format!("write to topic {topic}");
        let (topic_id, partitions) = shared.read(doing, |reader| {
            let (topic_id, _) = find_topic(reader, topic, doing)?;
            let rows = watermarks(reader, topic_id).map_err(failed(doing))?;
            Ok((topic_id, rows.into_keys().collect()))
        })?;
        // Room for at least eight chunks, so that retention never has to remove everything or nothing.
        let eighth = usize::try_from(shared.retention_bytes / 8).unwrap_or(usize::MAX);
        let outbox = Arc::new(Mutex::new(Outbox {
            topic_id,
            doing: doing.to_owned(),
            faults,
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
        let waits = Arc::downgrade(&outbox);
        let mut outboxes = shared.outboxes.lock();
        outboxes.retain(|outbox| outbox.strong_count() > 0);
        outboxes.push(waits);
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
            let mut outbox = self.outbox.lock();
            if outbox.is_full(bytes) && outbox.may_try(now) {
                outbox.write(&self.shared);
            }
            if !outbox.is_full(bytes) {
                let first = outbox.since.is_none();
                outbox.push(&message, bytes, now);
                if outbox.write_if_due(&self.shared, now).is_some() && first {
                    drop(outbox);
                    // A waiting reader must learn when this is due.
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
        let mut outbox = self.outbox.lock();
        outbox.write_if_due(&self.shared, Instant::now());
        outbox.delivery.clone()
    }

    fn flush(&mut self, limit: Duration) -> Result<u64> {
        let deadline = Instant::now() + limit;
        loop {
            let seen = self.shared.version();
            let mut outbox = self.outbox.lock();
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

/// Writes what is left, if there is room. The rest was never acknowledged.
impl Drop for EmbeddedProducer {
    fn drop(&mut self) {
        self.outbox.lock().write(&self.shared);
        let gone: Weak<Mutex<dyn Unwritten>> = Arc::downgrade(&self.outbox) as _;
        self.shared.outboxes.lock().retain(|outbox| !Weak::ptr_eq(outbox, &gone));
    }
}

impl Outbox {
    /// Whether a message of `bytes` has no room. A message that is larger than the outbox fits an empty one.
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

    /// When the gathered messages are to be written; `None` if there are none, or no room for them.
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

    /// Finds the open chunks after some were written.
    fn reopen(&mut self) {
        self.open = self.chunks.iter().enumerate().map(|(at, c)| (c.partition, at)).collect();
        if self.chunks.is_empty() {
            self.since = None;
        }
    }
}

impl Unwritten for Outbox {
    fn write_if_due(&mut self, shared: &Shared, now: Instant) -> Option<Instant> {
        if self.due().is_some_and(|due| due <= now) {
            self.write(shared);
        }
        self.due()
    }

    fn write(&mut self, shared: &Shared) {
        if self.chunks.is_empty() {
            return;
        }
        let written = under(self.faults.as_ref(), Call::Write, &self.doing, || {
            let mut writer = shared.writer.lock();
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
}

/// Writes chunks, in order, until one has no room; returns how many. After an error nothing was written.
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
            // A little more than necessary, so that not every write has to remove something.
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
    /// How many bytes it counts as in `--embedded-retention-bytes`.
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

/// Logs once who holds retention back, and again only if it is another group.
fn say_who_holds_back(shared: &Shared, holder: (String, Option<String>)) {
    let mut said = shared.held_back.lock();
    if said.as_ref() == Some(&holder) {
        return;
    }
    log::warn!("{}", held_back(&holder, shared.retention_bytes));
    *said = Some(holder);
}

/// Why a producer waits, and what ends the wait. A topic of dead letters may never have a group; its records are
/// kept all the same, because they may be the only copy.
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

//! What the embedded topic promises beyond the conformance suite: retention, grouped writes, waits that end with an
//! event, faults, a full disk.

use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::{Call, Embedded, Faults, store};
use crate::kafka::{Broker, FetchSettings, Flow, Message, Sent, Sink};
use crate::model::batch::Record;
use crate::model::error::{Error, Result};
use crate::model::offset::{Offset, Partition};

pub(super) const NOW: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_secs(20);

pub(super) type Read = (Partition, i64, Vec<u8>);

/// Takes records until it has `room`.
pub(super) struct Taker {
    pub(super) read: Vec<Read>,
    room: usize,
    failed: Vec<(Partition, Error)>,
}

impl Taker {
    pub(super) fn new(room: usize) -> Taker {
        Taker { read: Vec::new(), room, failed: Vec::new() }
    }
}

impl Sink for Taker {
    fn record(&mut self, partition: Partition, record: Record<'_>) -> Flow {
        let value = record.value.expect("these tests write values").to_vec();
        self.read.push((partition, record.offset.get(), value));
        if self.read.len() == self.room { Flow::Stop } else { Flow::Continue }
    }

    fn position(&mut self, _partition: Partition, _next: Offset) {
        panic!("a log without gaps needs no positions");
    }

    fn failed(&mut self, partition: Partition, error: Error) -> Flow {
        self.failed.push((partition, error));
        Flow::Continue
    }
}

pub(super) fn open(dir: &Path, retention_bytes: u64) -> Embedded {
    Embedded::open(dir, retention_bytes).unwrap()
}

fn topic(partitions: u32) -> (tempfile::TempDir, Embedded) {
    let dir = tempfile::tempdir().unwrap();
    let embedded = open(dir.path(), 4 << 20);
    embedded.create_topic("t", partitions).unwrap();
    (dir, embedded)
}

pub(super) fn message(partition: Partition, value: &[u8]) -> Message<'_> {
    Message { partition, key: None, value: Some(value), headers: &[] }
}

pub(super) fn settings() -> FetchSettings {
    FetchSettings { min_bytes: 1, max_record_bytes: 1 << 20, isolation: None, turn_bytes: None }
}

/// Reads from `from` until nothing more comes at once.
pub(super) fn read_all(embedded: &Embedded, from: &[(Partition, i64)]) -> Result<Vec<Read>> {
    let from: Vec<_> = from.iter().map(|(p, offset)| (*p, Offset::new(*offset))).collect();
    let mut consumer = embedded.consumer("t", &from, &settings())?;
    let mut taker = Taker::new(usize::MAX);
    loop {
        let before = taker.read.len();
        consumer.poll(NOW, &mut taker)?;
        if let Some((_, error)) = taker.failed.pop() {
            return Err(error);
        }
        if taker.read.len() == before {
            return Ok(taker.read);
        }
    }
}

pub(super) fn marks(embedded: &Embedded, partition: Partition) -> (i64, i64) {
    let marks = embedded.watermarks_of("t", partition).unwrap();
    (marks.beginning.get(), marks.end.get())
}

fn write(embedded: &Embedded, partition: Partition, values: &[&[u8]]) {
    let mut producer = embedded.producer("t").unwrap();
    for value in values {
        assert_eq!(producer.send(message(partition, value), LONG), Ok(Sent::Accepted));
    }
    assert_eq!(producer.flush(LONG), Ok(0));
}

#[test]
fn a_lone_message_is_seen_at_once_by_a_reader_that_waits() {
    let (_dir, embedded) = topic(1);
    let reader = embedded.clone();
    let (waits, waiting) = mpsc::channel();
    let thread = thread::spawn(move || {
        let mut consumer = reader.consumer("t", &[(0, Offset::ZERO)], &settings()).unwrap();
        let mut taker = Taker::new(usize::MAX);
        waits.send(()).unwrap();
        while taker.read.len() < 3 {
            consumer.poll(LONG, &mut taker).unwrap();
        }
        taker.read.len()
    });
    waiting.recv().unwrap();
    let mut producer = embedded.producer("t").unwrap();
    // The second and third come within the linger of the first, and nobody calls the producer
    // again: the reader itself has to see to them.
    for value in [b"1", b"2", b"3"] {
        producer.send(message(0, value), NOW).unwrap();
    }
    let began = Instant::now();
    assert_eq!(thread.join().unwrap(), 3);
    assert!(began.elapsed() < LONG, "the reader waited for its whole wait");
    assert_eq!(producer.delivery().acknowledged, 3);
}

#[test]
fn an_empty_poll_ends_with_its_wait() {
    let (_dir, embedded) = topic(2);
    let wait = Duration::from_millis(50);
    let mut consumer =
        embedded.consumer("t", &[(0, Offset::ZERO), (1, Offset::ZERO)], &settings()).unwrap();
    let mut taker = Taker::new(usize::MAX);
    let began = Instant::now();
    consumer.poll(wait, &mut taker).unwrap();
    assert!(began.elapsed() >= wait && began.elapsed() < LONG);
    assert_eq!(taker.read, []);
}

#[test]
fn partitions_are_read_in_turn() {
    let (_dir, embedded) = topic(3);
    for partition in 0..3 {
        let values = vec![&[7u8; 100][..]; 3000];
        write(&embedded, partition, &values);
    }
    let from: Vec<_> = (0..3).map(|partition| (partition, Offset::ZERO)).collect();
    let mut consumer = embedded.consumer("t", &from, &settings()).unwrap();
    let mut taker = Taker::new(usize::MAX);
    consumer.poll(NOW, &mut taker).unwrap();
    // Chunk by chunk, however time has cut them: each partition has its turn before one has its next.
    let chunks: Vec<_> = taker.read.chunk_by(|(one, ..), (other, ..)| one == other).collect();
    for (turn, chunk) in chunks.iter().enumerate() {
        assert_eq!(chunk[0].0, turn as Partition % 3, "turn {turn} of {}", chunks.len());
        assert!(chunk.len() <= crate::config::limits::EMBEDDED_CHUNK_RECORDS);
    }
    assert!(
        taker.read.len()
            > crate::config::limits::EMBEDDED_POLL_RECORDS
                - crate::config::limits::EMBEDDED_CHUNK_RECORDS
    );
    assert!(taker.read.len() <= crate::config::limits::EMBEDDED_POLL_RECORDS);
}

#[test]
fn retention_removes_what_every_group_has_committed_and_reports_the_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let embedded = open(dir.path(), 64 << 10);
    embedded.create_topic("t", 1).unwrap();
    let value = [1u8; 1000];
    write(&embedded, 0, &[&value[..]; 50]);
    embedded.commit("ahead", "t", &[(0, Offset::new(50))]).unwrap();
    embedded.commit("behind", "t", &[(0, Offset::new(20))]).unwrap();
    write(&embedded, 0, &[&value[..]; 15]);
    let (beginning, end) = marks(&embedded, 0);
    assert!(beginning > 0 && beginning <= 20, "{beginning}");
    assert_eq!(end, 65);
    let missing = read_all(&embedded, &[(0, beginning - 1)]).unwrap_err();
    assert!(matches!(missing, Error::OffsetOutOfRange { .. }), "{missing:?}");
    let read = read_all(&embedded, &[(0, beginning)]).unwrap();
    assert_eq!(read.len() as i64, 65 - beginning);
}

#[test]
fn unread_records_hold_the_producer_until_they_are_committed() {
    let dir = tempfile::tempdir().unwrap();
    let embedded = open(dir.path(), 64 << 10);
    embedded.create_topic("t", 1).unwrap();
    let mut producer = embedded.producer("t").unwrap();
    let value = [1u8; 1000];
    let mut accepted = 0;
    while producer.send(message(0, &value), NOW).unwrap() == Sent::Accepted {
        accepted += 1;
        assert!(accepted < 2000, "more than the outbox and the retention hold");
    }
    let waiting = producer.flush(NOW).unwrap();
    let (beginning, end) = marks(&embedded, 0);
    assert_eq!((beginning, end as u64 + waiting), (0, accepted), "unread: nothing is removed");
    assert!(waiting > 0);
    let error = producer.delivery().last_error.unwrap();
    assert!(error.contains("--embedded-retention-bytes"), "{error}");
    assert_eq!(
        *embedded.shared.held_back.lock(),
        Some(("t".to_owned(), None)),
        "the log names who holds the room"
    );

    // A commit makes room, and wakes the producer that waits for it.
    let committer = embedded.clone();
    let thread = thread::spawn(move || committer.commit("g", "t", &[(0, Offset::new(end))]));
    assert_eq!(producer.send(message(0, &value), LONG), Ok(Sent::Accepted));
    thread.join().unwrap().unwrap();
    while producer.flush(NOW).unwrap() > 0 {
        let (_, end) = marks(&embedded, 0);
        embedded.commit("g", "t", &[(0, Offset::new(end))]).unwrap();
    }
    assert_eq!(marks(&embedded, 0).1 as u64, accepted + 1);
    assert_eq!(producer.delivery().acknowledged, accepted + 1);
}

#[test]
fn the_file_stays_within_the_retention() {
    let dir = tempfile::tempdir().unwrap();
    let retention = 1 << 20;
    let embedded = open(dir.path(), retention);
    embedded.create_topic("t", 2).unwrap();
    let mut producer = embedded.producer("t").unwrap();
    for round in 0..40 {
        for at in 0..200 {
            let sent = producer.send(message(at % 2, &[3u8; 1000]), LONG);
            assert_eq!(sent, Ok(Sent::Accepted), "round {round}");
        }
        assert_eq!(producer.flush(LONG), Ok(0));
        let ends: Vec<_> = (0..2).map(|p| (p, Offset::new(marks(&embedded, p).1))).collect();
        embedded.commit("g", "t", &ends).unwrap();
    }
    assert_eq!(marks(&embedded, 0).1 + marks(&embedded, 1).1, 8000);
    let size = fs::metadata(store::file(dir.path())).unwrap().len();
    assert!(size < 2 * retention, "{size} bytes for 8 MB that went through 1 MiB");
}

#[test]
fn a_full_disk_is_an_error_that_passes_and_tears_nothing() {
    let (_dir, embedded) = topic(1);
    write(&embedded, 0, &[b"before"]);
    let pages = |limit: i64| {
        embedded
            .shared
            .writer
            .lock()
            .query_row(&format!("PRAGMA max_page_count = {limit}"), [], |row| row.get::<_, i64>(0))
            .unwrap();
    };
    pages(1); // SQLite takes the present size for it
    let mut producer = embedded.producer("t").unwrap();
    for _ in 0..100 {
        assert_eq!(producer.send(message(0, &[9u8; 1000]), LONG), Ok(Sent::Accepted));
    }
    let held = producer.flush(NOW).unwrap();
    let delivery = producer.delivery();
    assert!(held > 90, "{held} of 100: pages that are there already may take a few");
    assert_eq!((delivery.acknowledged, delivery.failed), (100 - held, 0));
    assert!(delivery.last_error.unwrap().contains("disk is full"));
    let mut refused = None;
    for number in 0..500 {
        // Names that fill pages.
        let name = format!("{number}-{}", "x".repeat(200));
        refused = refused.or(embedded.create_topic(&name, 50).err());
    }
    assert!(matches!(refused, Some(Error::Storage { .. })), "{refused:?}");
    assert_eq!(marks(&embedded, 0), (0, 101 - held as i64));
    pages(1 << 20);
    assert_eq!(producer.flush(LONG), Ok(0));
    assert_eq!(read_all(&embedded, &[(0, 0)]).unwrap().len(), 101);
}

#[test]
fn failed_writes_are_tried_again_and_lose_nothing() {
    let (_dir, plain) = topic(2);
    let faults = Faults::new(42);
    let embedded = plain.with_faults(faults.clone());
    faults.fail_next(Call::Write, 2);
    let mut producer = embedded.producer("t").unwrap();
    for at in 0..100u8 {
        assert_eq!(producer.send(message(i32::from(at % 2), &[at]), LONG), Ok(Sent::Accepted));
    }
    assert_eq!(producer.flush(LONG), Ok(0));
    assert_eq!(faults.struck(), 2);
    for partition in 0..2 {
        let read = read_all(&plain, &[(partition, 0)]).unwrap();
        let expected: Vec<_> = (0..50u8)
            .map(|at| (partition, i64::from(at), vec![at * 2 + partition as u8]))
            .collect();
        assert_eq!(read, expected);
    }
}

#[test]
fn what_was_acknowledged_outlives_the_handle() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path(), 1 << 20);
    first.create_topic("t", 1).unwrap();
    let before = first.topic("t").unwrap();
    write(&first, 0, &[b"a", b"b"]);
    first.commit("g", "t", &[(0, Offset::new(1))]).unwrap();
    drop(first);
    let second = open(dir.path(), 1 << 20);
    assert_eq!(second.topic("t").unwrap(), before);
    assert!(before.id.is_some() && before.cluster_id.is_some() && before.id != before.cluster_id);
    assert_eq!(read_all(&second, &[(0, 0)]).unwrap().len(), 2);
    assert_eq!(second.committed("g", "t", &[0]).unwrap()[&0], Ok(Some(Offset::new(1))));
}

#[test]
fn a_record_larger_than_the_caller_can_hold_is_named() {
    let (_dir, embedded) = topic(1);
    write(&embedded, 0, &[b"small", &[0; 5000]]);
    let settings = FetchSettings { max_record_bytes: 4000, ..settings() };
    let mut consumer = embedded.consumer("t", &[(0, Offset::ZERO)], &settings).unwrap();
    let mut taker = Taker::new(usize::MAX);
    consumer.poll(NOW, &mut taker).unwrap();
    let (_, error) = taker.failed.pop().expect("the partition failed");
    assert_eq!(taker.read.len(), 1);
    assert!(
        matches!(error, Error::Unreadable { offset, .. } if offset == Offset::new(1)),
        "{error:?}"
    );
}

#[test]
fn a_message_that_can_never_fit_is_refused() {
    let (_dir, embedded) = topic(1);
    let mut producer = embedded.producer("t").unwrap();
    let error = producer.send(message(0, &vec![0; 4 << 20]), NOW).unwrap_err();
    assert!(error.to_string().contains("--embedded-retention-bytes"), "{error}");
    let error = producer.send(message(1, b"x"), NOW).unwrap_err();
    assert!(error.to_string().contains("no partition 1"), "{error}");
    embedded.add_partitions("t", 2).unwrap();
    assert_eq!(producer.send(message(1, b"x"), NOW), Ok(Sent::Accepted));
    assert!(matches!(embedded.add_partitions("t", 1), Err(Error::Config(_))));
}

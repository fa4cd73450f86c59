//! A batch's records in one buffer: no allocation per record, and its size in bytes is exact.
//!
//! Which records make a batch is decided in `batcher`; how many bytes may be held, in `budget`.

use crate::offset::{Offset, OffsetRange};

/// One record, borrowed from wherever it lies: a client's buffer or a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub offset: Offset,
    /// Milliseconds since 1970, UTC; `None` where the log or the client has none.
    pub timestamp: Option<i64>,
    pub key: Option<&'a [u8]>,
    /// `None` is Kafka's null value (a tombstone), which is not an empty value.
    pub value: Option<&'a [u8]>,
}

impl Record<'_> {
    /// Bytes of key and value together.
    pub fn payload_bytes(&self) -> usize {
        self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len)
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    offset: Offset,
    /// `i64::MIN` stands for none: an index entry stays at 32 bytes.
    timestamp: i64,
    start: u32,
    /// `NONE` stands for no key, no value.
    key_len: u32,
    value_len: u32,
}

const NONE: u32 = u32::MAX;
const NO_TIMESTAMP: i64 = i64::MIN;

/// Records of one partition in offset order.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    index: Vec<Entry>,
    /// Payload bytes and records that the first growth makes room for.
    expected: (usize, usize),
    tight: bool,
}

impl Batch {
    /// Bytes that one record's index entry takes.
    pub const ENTRY_BYTES: usize = size_of::<Entry>();

    /// The largest payload, in bytes, that a batch holds (its buffer is addressed by 32 bits).
    pub const MAX_PAYLOAD_BYTES: usize = (u32::MAX / 2) as usize;

    /// What the batch will likely hold: the first growth makes room for it at once.
    pub fn expect(&mut self, payload_bytes: usize, records: usize) {
        self.expected = (payload_bytes, records);
    }

    /// Growth takes little more than is needed, at the price of more copying.
    pub fn grow_tightly(&mut self) {
        self.tight = true;
    }

    /// Bytes by which `heap_bytes` grows when room is made for this record.
    pub fn growth_for(&self, record: &Record<'_>) -> usize {
        let (bytes, index) = self.grown(record);
        bytes - self.bytes.capacity() + (index - self.index.capacity()) * Batch::ENTRY_BYTES
    }

    /// Makes room for this record, at least doubling, so that pushing costs little on average.
    pub fn grow_for(&mut self, record: &Record<'_>) {
        let (bytes, index) = self.grown(record);
        self.bytes.reserve_exact(bytes - self.bytes.len());
        self.index.reserve_exact(index - self.index.len());
    }

    /// Capacities of buffer and index that hold this record too.
    fn grown(&self, record: &Record<'_>) -> (usize, usize) {
        let (expected_bytes, expected_records) = self.expected;
        let grow = |capacity: usize, needed: usize, expected: usize| {
            let generous = if self.tight { 0 } else { (2 * capacity).max(expected) };
            if needed <= capacity { capacity } else { needed.max(generous) }
        };
        (
            grow(self.bytes.capacity(), self.bytes.len() + record.payload_bytes(), expected_bytes),
            grow(self.index.capacity(), self.index.len() + 1, expected_records),
        )
    }

    /// Adds a record behind the others.
    ///
    /// # Panics
    /// Where its offset is not above the last one's, or the payload outgrows
    /// `MAX_PAYLOAD_BYTES`: both are the caller's to prevent.
    pub fn push(&mut self, record: Record<'_>) {
        assert!(
            self.index.last().is_none_or(|last| last.offset < record.offset),
            "records of a batch come in offset order"
        );
        assert!(self.bytes.len() + record.payload_bytes() <= Batch::MAX_PAYLOAD_BYTES);
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(record.key.unwrap_or_default());
        self.bytes.extend_from_slice(record.value.unwrap_or_default());
        self.index.push(Entry {
            offset: record.offset,
            timestamp: record.timestamp.unwrap_or(NO_TIMESTAMP),
            start,
            key_len: record.key.map_or(NONE, |key| key.len() as u32),
            value_len: record.value.map_or(NONE, |value| value.len() as u32),
        });
    }

    /// How many records it holds.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Bytes of keys and values.
    pub fn payload_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of memory that the batch takes on the heap, room to grow included.
    pub fn heap_bytes(&self) -> usize {
        self.bytes.capacity() + self.index.capacity() * Batch::ENTRY_BYTES
    }

    /// Offsets of the first and the last record; `None` for an empty batch.
    pub fn range(&self) -> Option<OffsetRange> {
        Some(OffsetRange::new(self.index.first()?.offset, self.index.last()?.offset))
    }

    /// Whether one of its records has this offset.
    pub fn contains(&self, offset: Offset) -> bool {
        self.index.binary_search_by_key(&offset, |entry| entry.offset).is_ok()
    }

    pub fn records(&self) -> impl ExactSizeIterator<Item = Record<'_>> {
        self.index.iter().map(|entry| {
            let key_end = entry.start as usize + length(entry.key_len);
            let value_end = key_end + length(entry.value_len);
            Record {
                offset: entry.offset,
                timestamp: (entry.timestamp != NO_TIMESTAMP).then_some(entry.timestamp),
                key: (entry.key_len != NONE).then(|| &self.bytes[entry.start as usize..key_end]),
                value: (entry.value_len != NONE).then(|| &self.bytes[key_end..value_end]),
            }
        })
    }
}

fn length(len: u32) -> usize {
    if len == NONE { 0 } else { len as usize }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record<'a>(offset: i64, key: Option<&'a [u8]>, value: Option<&'a [u8]>) -> Record<'a> {
        Record { offset: Offset::new(offset), timestamp: Some(offset * 10), key, value }
    }

    #[test]
    fn records_come_back_as_they_went_in() {
        let records = [
            record(3, None, Some(b"plain")),
            record(4, Some(b"key"), None),
            Record { timestamp: None, ..record(9, Some(b""), Some(b"")) },
            record(10, Some(b"\xff\x00"), Some(b"\n")),
        ];
        let mut batch = Batch::default();
        for record in records {
            batch.push(record);
        }
        assert_eq!(batch.records().collect::<Vec<_>>(), records);
        assert_eq!(batch.range(), Some(OffsetRange::new(Offset::new(3), Offset::new(10))));
        assert_eq!(batch.payload_bytes(), 5 + 3 + 2 + 1);
        assert_eq!(batch.len(), 4);
    }

    #[test]
    fn it_knows_its_offsets_gaps_too() {
        let mut batch = Batch::default();
        assert!(!batch.contains(Offset::ZERO));
        for offset in [3, 4, 9] {
            batch.push(record(offset, None, None));
        }
        let known: Vec<_> = (0..12).filter(|n| batch.contains(Offset::new(*n))).collect();
        assert_eq!(known, [3, 4, 9]);
    }

    #[test]
    fn growth_is_foretold_exactly() {
        let mut batch = Batch::default();
        batch.expect(100, 4);
        let mut held = 0;
        for offset in 0..50 {
            let value = vec![b'x'; (offset as usize * 7) % 90];
            let record = record(offset, Some(b"key"), Some(&value));
            held += batch.growth_for(&record);
            batch.grow_for(&record);
            batch.push(record);
            assert_eq!(batch.heap_bytes(), held);
        }
        assert!(batch.heap_bytes() <= 2 * (batch.payload_bytes() + 50 * Batch::ENTRY_BYTES));
    }

    #[test]
    fn a_null_value_is_not_an_empty_one() {
        let mut batch = Batch::default();
        batch.push(record(0, None, None));
        batch.push(record(1, None, Some(b"")));
        let values: Vec<_> = batch.records().map(|record| record.value).collect();
        assert_eq!(values, [None, Some(&b""[..])]);
    }

    #[test]
    #[should_panic(expected = "offset order")]
    fn a_record_out_of_order_is_refused() {
        let mut batch = Batch::default();
        batch.push(record(5, None, None));
        batch.push(record(5, None, None));
    }
}

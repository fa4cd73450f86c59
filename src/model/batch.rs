//! A batch's records in one buffer: no allocation per record, and its size in bytes is known exactly.
//!
//! Which records make a batch is decided in `source::batcher`; how many bytes may be held, in `budget`.

use std::sync::Arc;

use crate::model::headers::Headers;
use crate::model::offset::{Offset, OffsetRange};

/// One record, borrowed from a client's buffer or from a batch.
///
/// ```
/// let record = mb::Record { key: Some(b"k"), value: Some(b"value"), ..mb::Record::default() };
/// assert_eq!(record.payload_bytes(), 6);
/// assert_eq!(record.timestamp, None);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record<'a> {
    pub offset: Offset,
    /// Milliseconds since 1970, UTC; `None` if the log has none, or the client in use does not report it.
    pub timestamp: Option<i64>,
    pub key: Option<&'a [u8]>,
    /// `None` is Kafka's null value (a tombstone), which is not an empty value.
    pub value: Option<&'a [u8]>,
    /// Empty if the record has none, or the client in use does not report them.
    pub headers: Headers<'a>,
    /// A person has edited key or value, which the log has in another form: the record is a dead letter that is redriven.
    pub edited: bool,
}

impl Record<'_> {
    /// Bytes of key, value and headers (in their encoded form) together.
    pub fn payload_bytes(&self) -> usize {
        self.key.map_or(0, <[u8]>::len)
            + self.value.map_or(0, <[u8]>::len)
            + self.headers.encoded().len()
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    offset: Offset,
    /// `i64::MIN` stands for none, so that an index entry has 32 bytes.
    timestamp: i64,
    start: u32,
    /// `NONE` stands for no key, no value.
    key_len: u32,
    value_len: u32,
    /// With `EDITED` added if the record is edited.
    headers_len: u32,
}

impl Entry {
    fn time(&self) -> Option<i64> {
        (self.timestamp != NO_TIMESTAMP).then_some(self.timestamp)
    }
}

const NONE: u32 = u32::MAX;
/// Above every length of headers, which are a part of the payload.
const EDITED: u32 = 1 << 31;
const _: () = assert!(Batch::MAX_PAYLOAD_BYTES < EDITED as usize);
const NO_TIMESTAMP: i64 = i64::MIN;

/// Records of one partition, in offset order; gaps are normal.
///
/// A clone shares the bytes with its original, as do the batches that `select` and `divide` make.
///
/// ```
/// use mb::{Batch, Offset, Record};
///
/// let record = |offset, value| Record { offset: Offset::new(offset), value, ..Record::default() };
/// // A null value (a tombstone) is not an empty one.
/// let batch: Batch = [record(3, Some(&b"a"[..])), record(7, None)].into_iter().collect();
///
/// assert_eq!(batch.len(), 2);
/// assert_eq!(batch.range().unwrap().to_string(), "3-7");
/// let values: Vec<_> = batch.records().map(|record| record.value).collect();
/// assert_eq!(values, [Some(&b"a"[..]), None]);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Key, value and headers of one record after another. Not shared while the batch is being filled.
    bytes: Arc<Vec<u8>>,
    index: Vec<Entry>,
    /// How many of `bytes` belong to the records of this index.
    payload_bytes: usize,
    /// Payload bytes and records that the first growth makes room for.
    expected: (usize, usize),
    tight: bool,
}

impl Batch {
    /// Bytes that one record's index entry takes.
    pub const ENTRY_BYTES: usize = size_of::<Entry>();

    /// The largest payload, in bytes, that a batch holds (its buffer is addressed by 32 bits).
    pub const MAX_PAYLOAD_BYTES: usize = (u32::MAX / 2) as usize;

    /// Says what the batch will probably hold: the first growth makes room for it at once.
    pub fn expect(&mut self, payload_bytes: usize, records: usize) {
        self.expected = (payload_bytes, records);
    }

    /// From now on, growth takes little more than is needed, at the price of more copying.
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
        if self.has_room_for(record) {
            return;
        }
        let (bytes, index) = self.grown(record);
        let buffer = self.buffer();
        buffer.reserve_exact(bytes - buffer.len());
        self.index.reserve_exact(index - self.index.len());
    }

    /// Whether the record can be pushed without any growth.
    pub fn has_room_for(&self, record: &Record<'_>) -> bool {
        self.bytes.len() + record.payload_bytes() <= self.bytes.capacity()
            && self.index.len() < self.index.capacity()
    }

    /// Capacities of buffer and index that hold this record too.
    fn grown(&self, record: &Record<'_>) -> (usize, usize) {
        let (expected_bytes, expected_records) = self.expected;
        let needed_bytes = self.bytes.len() + record.payload_bytes();
        (
            grown(self.bytes.capacity(), needed_bytes, expected_bytes, self.tight),
            grown(self.index.capacity(), self.index.len() + 1, expected_records, self.tight),
        )
    }

    /// What `growth_for` would say for an empty batch after `expect`.
    pub fn first_growth_for(record: &Record<'_>, expected: (usize, usize), tight: bool) -> usize {
        grown(0, record.payload_bytes(), expected.0, tight)
            + grown(0, 1, expected.1, tight) * Batch::ENTRY_BYTES
    }

    /// Appends a record.
    ///
    /// # Panics
    /// If the offset is not above that of the last record, or the payload grows beyond
    /// `MAX_PAYLOAD_BYTES`. The caller has to prevent both.
    pub fn push(&mut self, record: Record<'_>) {
        assert!(
            self.index.last().is_none_or(|last| last.offset < record.offset),
            "records of a batch ascend by offset"
        );
        let payload_bytes = record.payload_bytes();
        assert!(self.bytes.len() + payload_bytes <= Batch::MAX_PAYLOAD_BYTES);
        let buffer = self.buffer();
        let start = buffer.len() as u32;
        buffer.extend_from_slice(record.key.unwrap_or_default());
        buffer.extend_from_slice(record.value.unwrap_or_default());
        buffer.extend_from_slice(record.headers.encoded());
        self.payload_bytes += payload_bytes;
        self.index.push(Entry {
            offset: record.offset,
            timestamp: record.timestamp.unwrap_or(NO_TIMESTAMP),
            start,
            key_len: record.key.map_or(NONE, |key| key.len() as u32),
            value_len: record.value.map_or(NONE, |value| value.len() as u32),
            headers_len: record.headers.encoded().len() as u32
                | if record.edited { EDITED } else { 0 },
        });
    }

    fn buffer(&mut self) -> &mut Vec<u8> {
        Arc::get_mut(&mut self.bytes).expect("not shared while it is being filled")
    }

    /// A batch of the records for which `keep` returns true. It shares this batch's bytes: only its index
    /// takes memory of its own, exactly as much as it needs.
    pub fn select(&self, keep: impl Fn(&Record<'_>) -> bool) -> Batch {
        let mut payload_bytes = 0;
        let mut index = Vec::new();
        for (entry, record) in self.index.iter().zip(self.records()) {
            if keep(&record) {
                payload_bytes += record.payload_bytes();
                index.push(*entry);
            }
        }
        index.shrink_to_fit();
        Batch { bytes: Arc::clone(&self.bytes), index, payload_bytes, ..Batch::default() }
    }

    /// Divides the records among `count` batches that share this batch's bytes: `place` says in which
    /// batch a record goes, or `None` for no batch. One pass, however many batches there are.
    pub fn divide(
        &self,
        count: usize,
        mut place: impl FnMut(&Record<'_>) -> Option<usize>,
    ) -> Vec<Batch> {
        let part = || Batch { bytes: Arc::clone(&self.bytes), ..Batch::default() };
        let mut parts: Vec<Batch> = std::iter::repeat_with(part).take(count).collect();
        for (entry, record) in self.index.iter().zip(self.records()) {
            if let Some(part) = place(&record).map(|place| &mut parts[place]) {
                part.index.push(*entry);
                part.payload_bytes += record.payload_bytes();
            }
        }
        for part in &mut parts {
            part.index.shrink_to_fit();
        }
        parts
    }

    /// The number of records.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Bytes of the records' keys, values and headers together.
    pub fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// Bytes of memory that the batch takes on the heap, room to grow included. Batches that share their
    /// bytes each count them.
    pub fn heap_bytes(&self) -> usize {
        self.bytes.capacity() + self.index.capacity() * Batch::ENTRY_BYTES
    }

    /// Offsets of the first and the last record; `None` for an empty batch.
    pub fn range(&self) -> Option<OffsetRange> {
        Some(OffsetRange::new(self.index.first()?.offset, self.index.last()?.offset))
    }

    /// Offset of the last record.
    pub fn last_offset(&self) -> Option<Offset> {
        self.index.last().map(|entry| entry.offset)
    }

    /// Whether one of its records has this offset.
    pub fn contains(&self, offset: Offset) -> bool {
        self.index.binary_search_by_key(&offset, |entry| entry.offset).is_ok()
    }

    /// Offset and timestamp of each record, ascending by offset.
    pub fn times(&self) -> impl Iterator<Item = (Offset, Option<i64>)> {
        self.index.iter().map(|entry| (entry.offset, entry.time()))
    }

    /// The records, ascending by offset.
    pub fn records(&self) -> impl ExactSizeIterator<Item = Record<'_>> {
        self.index.iter().map(|entry| {
            let key_end = entry.start as usize + length(entry.key_len);
            let value_end = key_end + length(entry.value_len);
            let headers_end = value_end + (entry.headers_len & !EDITED) as usize;
            Record {
                offset: entry.offset,
                timestamp: entry.time(),
                key: (entry.key_len != NONE).then(|| &self.bytes[entry.start as usize..key_end]),
                value: (entry.value_len != NONE).then(|| &self.bytes[key_end..value_end]),
                headers: Headers::trusted(&self.bytes[value_end..headers_end]),
                edited: entry.headers_len & EDITED != 0,
            }
        })
    }
}

impl<'a> FromIterator<Record<'a>> for Batch {
    /// # Panics
    /// As `push`: the offsets must ascend.
    fn from_iter<I: IntoIterator<Item = Record<'a>>>(records: I) -> Batch {
        let mut batch = Batch::default();
        for record in records {
            batch.push(record);
        }
        batch
    }
}

/// A capacity that is enough for `needed`.
fn grown(capacity: usize, needed: usize, expected: usize, tight: bool) -> usize {
    let generous = if tight { 0 } else { (2 * capacity).max(expected) };
    if needed <= capacity { capacity } else { needed.max(generous) }
}

fn length(len: u32) -> usize {
    if len == NONE { 0 } else { len as usize }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record<'a>(offset: i64, key: Option<&'a [u8]>, value: Option<&'a [u8]>) -> Record<'a> {
        let (offset, timestamp) = (Offset::new(offset), Some(offset * 10));
        Record { offset, timestamp, key, value, ..Record::default() }
    }

    #[test]
    fn records_come_back_as_they_went_in() {
        let headers = Headers::encode([("name", Some("value")), ("null", None)]);
        let records = [
            record(3, None, Some(b"plain")),
            record(4, Some(b"key"), None),
            Record { timestamp: None, ..record(9, Some(b""), Some(b"")) },
            record(10, Some(b"\xff\x00"), Some(b"\n")),
            Record { headers: Headers::trusted(&headers), ..record(11, None, None) },
            Record {
                headers: Headers::trusted(&headers),
                edited: true,
                ..record(12, Some(b"k"), Some(b"v"))
            },
            Record { edited: true, ..record(13, None, None) },
        ];
        let mut batch = Batch::default();
        for record in records {
            batch.push(record);
        }
        assert_eq!(batch.records().collect::<Vec<_>>(), records);
        assert_eq!(batch.range(), Some(OffsetRange::new(Offset::new(3), Offset::new(13))));
        assert_eq!(batch.payload_bytes(), 5 + 3 + 2 + 1 + 2 * headers.len() + 2);
        assert_eq!(batch.len(), 7);
        let edited = batch.select(|record| record.edited);
        assert_eq!(edited.records().collect::<Vec<_>>(), records[5..]);
    }

    #[test]
    fn it_knows_which_offsets_it_has_and_which_are_gaps() {
        let mut batch = Batch::default();
        assert!(!batch.contains(Offset::ZERO));
        for offset in [3, 4, 9] {
            batch.push(record(offset, None, None));
        }
        let known: Vec<_> = (0..12).filter(|n| batch.contains(Offset::new(*n))).collect();
        assert_eq!(known, [3, 4, 9]);
    }

    #[test]
    fn growth_is_predicted_exactly() {
        let mut batch = Batch::default();
        batch.expect(100, 4);
        let mut held = 0;
        let first = Batch::first_growth_for(&record(0, Some(b"key"), Some(b"")), (100, 4), false);
        assert_eq!(first, batch.growth_for(&record(0, Some(b"key"), Some(b""))));
        for offset in 0..50 {
            let value = vec![b'x'; (offset as usize * 7) % 90];
            let headers =
                Headers::encode((0..offset % 3).map(|at| (vec![b'n'; 5], Some([at as u8]))));
            let headers = Headers::trusted(&headers);
            let record = Record { headers, ..record(offset, Some(b"key"), Some(&value)) };
            held += batch.growth_for(&record);
            batch.grow_for(&record);
            batch.push(record);
            assert_eq!(batch.heap_bytes(), held);
        }
        assert!(batch.heap_bytes() <= 2 * (batch.payload_bytes() + 50 * Batch::ENTRY_BYTES));
    }

    #[test]
    fn an_index_entry_stays_at_32_bytes() {
        assert_eq!(Batch::ENTRY_BYTES, 32);
    }

    #[test]
    fn a_selection_shares_the_bytes_and_counts_its_own_records() {
        let mut batch = Batch::default();
        batch.expect(1000, 100);
        for offset in 0..10 {
            let record = record(offset, None, Some(&[b'x'; 10][..offset as usize]));
            batch.grow_for(&record);
            batch.push(record);
        }
        let odd = batch.select(|record| record.offset.get() % 2 == 1);
        let even = batch.select(|record| record.offset.get() % 2 == 0);
        assert!(odd.records().eq(batch.records().skip(1).step_by(2)));
        assert!(even.records().eq(batch.records().step_by(2)));
        assert_eq!(odd.range(), Some(OffsetRange::new(Offset::new(1), Offset::new(9))));
        assert_eq!((odd.payload_bytes(), even.payload_bytes()), (1 + 3 + 5 + 7 + 9, 2 + 4 + 6 + 8));
        assert!(Arc::ptr_eq(&odd.bytes, &batch.bytes) && Arc::ptr_eq(&even.bytes, &batch.bytes));
        assert_eq!(odd.index.capacity(), 5);

        // A selection of a selection, and an empty one; each outlives what it was made from.
        drop(batch);
        let last = odd.select(|record| record.offset.get() > 6);
        drop(odd);
        let lengths: Vec<_> = last.records().map(|record| record.payload_bytes()).collect();
        assert_eq!(lengths, [7, 9]);
        let none = last.select(|_| false);
        assert!(none.is_empty() && none.payload_bytes() == 0 && none.range().is_none());
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
    #[should_panic(expected = "ascend by offset")]
    fn a_record_out_of_order_is_refused() {
        let mut batch = Batch::default();
        batch.push(record(5, None, None));
        batch.push(record(5, None, None));
    }
}

//! The encoding of records in a chunk: consecutive offsets of one partition, in one row of the file.
//!
//! A record is a head of 20 bytes (timestamp i64, then the lengths of key, value and headers as u32, little-endian; a
//! length of `u32::MAX` is a missing key or a null value), followed by key, value and headers. Headers are encoded by
//! `model::headers`. Offsets are not written: the row has the first one, and they are dense.

use rusqlite::{Connection, OptionalExtension};

use crate::kafka::Message;
use crate::model::batch::Record;
use crate::model::headers::{self, Headers};
use crate::model::offset::Offset;

const HEAD_BYTES: usize = 20;
const NONE: u32 = u32::MAX;

/// How many bytes the message takes in a chunk.
pub(super) fn encoded_bytes(message: &Message<'_>) -> usize {
    HEAD_BYTES
        + message.key.map_or(0, <[u8]>::len)
        + message.value.map_or(0, <[u8]>::len)
        + headers_bytes(message)
}

fn headers_bytes(message: &Message<'_>) -> usize {
    let bytes =
        |(name, value): &(&str, Option<&[u8]>)| headers::encoded_bytes(name.as_bytes(), *value);
    message.headers.iter().map(bytes).sum()
}

/// Appends the message to `chunk`. The caller has checked its size against `limits::EMBEDDED_RECORD_BYTES`, so each
/// length fits 32 bits.
pub(super) fn encode(chunk: &mut Vec<u8>, message: &Message<'_>, timestamp: i64) {
    let length = |bytes: Option<&[u8]>| bytes.map_or(NONE, |bytes| bytes.len() as u32);
    chunk.extend_from_slice(&timestamp.to_le_bytes());
    chunk.extend_from_slice(&length(message.key).to_le_bytes());
    chunk.extend_from_slice(&length(message.value).to_le_bytes());
    chunk.extend_from_slice(&(headers_bytes(message) as u32).to_le_bytes());
    chunk.extend_from_slice(message.key.unwrap_or_default());
    chunk.extend_from_slice(message.value.unwrap_or_default());
    for (name, value) in message.headers {
        headers::append(chunk, name.as_bytes(), *value);
    }
}

/// Reads a chunk's records in offset order. An item `None` means that the chunk is broken from there on.
pub(super) struct Records<'a> {
    rest: &'a [u8],
    offset: Offset,
}

impl<'a> Records<'a> {
    pub(super) fn new(chunk: &'a [u8], first: Offset) -> Records<'a> {
        Records { rest: chunk, offset: first }
    }

    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(taken)
    }

    fn take_u32(&mut self) -> Option<u32> {
        self.take(4).map(|bytes| u32::from_le_bytes(bytes.try_into().expect("four bytes")))
    }

    fn take_optional(&mut self, length: u32) -> Option<Option<&'a [u8]>> {
        if length == NONE { Some(None) } else { self.take(length as usize).map(Some) }
    }

    fn read(&mut self) -> Option<Record<'a>> {
        let timestamp = i64::from_le_bytes(self.take(8)?.try_into().expect("eight bytes"));
        let (key, value, headers) = (self.take_u32()?, self.take_u32()?, self.take_u32()?);
        let record = Record {
            offset: self.offset,
            timestamp: Some(timestamp),
            key: self.take_optional(key)?,
            value: self.take_optional(value)?,
            headers: Headers::decode(self.take(headers as usize)?)?,
            edited: false,
        };
        self.offset = self.offset.next();
        Some(record)
    }
}

impl<'a> Iterator for Records<'a> {
    /// A record as it was written; `None` if the chunk is broken.
    type Item = Option<Record<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let read = self.read();
        if read.is_none() {
            self.rest = &[];
        }
        Some(read)
    }
}

/// The offset of the first record of a partition (by its row id) whose timestamp is at or after `timestamp_ms`. A
/// broken chunk counts as far as it can be read.
pub(super) fn first_at(
    reader: &Connection,
    partition_row: i64,
    timestamp_ms: i64,
) -> rusqlite::Result<Option<Offset>> {
    let mut statement = reader.prepare_cached(
        "SELECT first_offset, last_offset, records FROM chunks \
         WHERE partition = ?1 AND last_offset > ?2 ORDER BY last_offset LIMIT 1",
    )?;
    // One chunk per query, so that no read transaction stays open for the whole search.
    let mut passed = -1_i64;
    loop {
        let looked = statement.query_row([partition_row, passed], |row| {
            let mut records = Records::new(row.get_ref(2)?.as_blob()?, Offset::new(row.get(0)?));
            let found = records.find_map(|read| {
                let record = read?;
                record.timestamp.is_some_and(|at| at >= timestamp_ms).then_some(record.offset)
            });
            Ok((row.get(1)?, found))
        });
        match looked.optional()? {
            Some((last, None)) => passed = last,
            Some((_, found)) => return Ok(found),
            None => return Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<'a>(
        key: Option<&'a [u8]>,
        value: Option<&'a [u8]>,
        headers: &'a [(&'a str, Option<&'a [u8]>)],
    ) -> Message<'a> {
        Message { partition: 0, key, value, headers }
    }

    #[test]
    fn records_come_back_with_their_offsets_and_headers() {
        let messages = [
            message(None, None, &[]),
            message(Some(b""), Some(b""), &[("a", Some(b"1")), ("", Some(b"")), ("null", None)]),
            message(Some(b"\xff"), Some(b"value"), &[("trace", Some(b"\0"))]),
        ];
        let mut chunk = Vec::new();
        for (at, message) in messages.iter().enumerate() {
            let before = chunk.len();
            encode(&mut chunk, message, 1000 + at as i64);
            assert_eq!(chunk.len() - before, encoded_bytes(message));
        }
        let read: Vec<_> =
            Records::new(&chunk, Offset::new(7)).map(|record| record.expect("whole")).collect();
        assert_eq!(read.len(), 3);
        for (at, record) in read.iter().enumerate() {
            assert_eq!(record.offset, Offset::new(7 + at as i64));
            assert_eq!(record.timestamp, Some(1000 + at as i64));
            assert_eq!((record.key, record.value), (messages[at].key, messages[at].value));
            assert!(
                record
                    .headers
                    .iter()
                    .eq(messages[at].headers.iter().map(|(n, v)| (n.as_bytes(), *v)))
            );
        }
        assert_eq!(read[2].headers.encoded(), b"\x05\0\0\0\x01\0\0\0trace\0");
    }

    #[test]
    fn a_truncated_chunk_yields_its_whole_records_and_then_none() {
        let mut chunk = Vec::new();
        encode(&mut chunk, &message(None, Some(b"one"), &[]), 1);
        let whole = chunk.len();
        encode(&mut chunk, &message(None, Some(b"two"), &[]), 2);
        for cut in whole + 1..chunk.len() {
            let read: Vec<_> = Records::new(&chunk[..cut], Offset::ZERO).collect();
            assert_eq!(read.len(), 2, "cut at {cut}");
            assert!(read[0].is_some() && read[1].is_none(), "cut at {cut}");
        }
    }
}

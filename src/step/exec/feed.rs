//! Writes records to a command's stdin as JSON lines, a piece at a time, as the pipe has room. A whole batch as
//! JSON would take memory that `--queue-bytes` does not count.

use std::io;
use std::os::fd::AsFd;

use rustix::io::Errno;

use crate::config::limits::FEED_BYTES;
use crate::model::batch::Record;
use crate::model::offset::Partition;
use crate::step::record_json;

/// Whether the pipe is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The pipe is full, and more is to be written.
    Full,
    /// Everything was written, or the reader has closed its end.
    Over,
}

/// Records that are still to be written. Their lines are made about `FEED_BYTES` at a time, or one longer record.
#[derive(Debug)]
pub struct Feed<R> {
    partition: Partition,
    records: R,
    lines: Vec<u8>,
    written: usize,
}

impl<'a, R: Iterator<Item = Record<'a>>> Feed<R> {
    pub fn new(partition: Partition, records: R) -> Feed<R> {
        Feed { partition, records, lines: Vec::new(), written: 0 }
    }

    /// Writes until the (nonblocking) pipe is full or everything is written. If the reader has closed its end,
    /// that is no error: a command need not read its input.
    pub fn write(&mut self, pipe: impl AsFd) -> io::Result<Progress> {
        loop {
            if self.written == self.lines.len() && !self.refill()? {
                return Ok(Progress::Over);
            }
            match rustix::io::write(&pipe, &self.lines[self.written..]) {
                Ok(bytes) => self.written += bytes,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Progress::Full),
                Err(Errno::PIPE) => return Ok(Progress::Over),
                Err(cause) => return Err(cause.into()),
            }
        }
    }

    /// Makes the next lines; false if no record is left.
    fn refill(&mut self) -> io::Result<bool> {
        self.lines.clear();
        self.written = 0;
        while self.lines.len() < FEED_BYTES {
            let Some(record) = self.records.next() else { break };
            record_json::write_lines(&mut self.lines, self.partition, std::iter::once(record))?;
        }
        Ok(!self.lines.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::model::batch::Batch;
    use crate::model::offset::Offset;

    fn pipe() -> (std::fs::File, std::os::fd::OwnedFd) {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        (reader.into(), writer)
    }

    fn batch(records: i64, value_bytes: usize) -> Batch {
        let value = vec![b'v'; value_bytes];
        let mut batch = Batch::default();
        for offset in 0..records {
            let offset = Offset::new(offset);
            batch.push(Record { offset, value: Some(&value), ..Record::default() });
        }
        batch
    }

    #[test]
    fn a_batch_larger_than_the_pipe_comes_in_pieces_and_stays_bounded() {
        let (mut reader, writer) = pipe();
        let batch = batch(20_000, 100);
        let mut feed = Feed::new(0, batch.records());
        let mut got = Vec::new();
        let mut pieces = 0;
        let mut buffer = [0; 4096];
        while feed.write(&writer).unwrap() == Progress::Full {
            assert!(feed.lines.len() < FEED_BYTES + 1000, "{}", feed.lines.len());
            pieces += 1;
            let bytes = reader.read(&mut buffer).unwrap();
            got.extend_from_slice(&buffer[..bytes]);
        }
        drop(writer);
        reader.read_to_end(&mut got).unwrap();
        let mut expected = Vec::new();
        record_json::write_lines(&mut expected, 0, batch.records()).unwrap();
        assert!(got == expected, "{} bytes, expected {}", got.len(), expected.len());
        assert!(pieces > 10, "{pieces}");
    }

    #[test]
    fn a_closed_reader_ends_it() {
        let (reader, writer) = pipe();
        let batch = batch(20_000, 100);
        let mut feed = Feed::new(0, batch.records());
        assert_eq!(feed.write(&writer).unwrap(), Progress::Full);
        drop(reader);
        assert_eq!(feed.write(&writer).unwrap(), Progress::Over);
    }

    #[test]
    fn no_record_is_over_at_once() {
        let (_reader, writer) = pipe();
        assert_eq!(Feed::new(0, std::iter::empty()).write(&writer).unwrap(), Progress::Over);
    }
}

//! What a producer posts: numbered messages of its own, or the lines of a stream.
//!
//! This file makes keys and values. When they are posted is decided in `pacing`, to which partition in
//! `kafka::partitioner`.

use std::io::{BufRead, BufReader, Read, Write};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, bounded, never, select};

use crate::config::Produce;
use crate::config::limits;
use crate::model::error::{Error, Result};
use crate::model::thread;

/// A source of messages, one at a time.
pub trait Messages: Send {
    /// Goes to the next message; waits for it until `deadline`, or until `stop` has a message or is
    /// disconnected.
    fn next(&mut self, stop: &Receiver<()>, deadline: Instant) -> Next;

    /// Key and value of the message that `next` has made ready.
    fn current(&self) -> (Option<&[u8]>, &[u8]);
}

#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// `current` is the next message.
    Ready,
    /// No message came in time.
    Pending,
    /// The stop came first.
    Stopped,
    /// There are no more messages.
    End,
    /// There may be more messages, but they cannot be read.
    Failed(Error),
}

/// Numbered messages: `{"seq":0,"sent_ms":1700000000000}` and so on, padded to a size with a `"pad"` string;
/// with keys `key-0`, `key-1`, … in turn, or without.
#[derive(Debug)]
pub struct Sequence {
    settings: Produce,
    next: u64,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Sequence {
    /// Messages from number `next` on, up to `settings.count`. `settings.rate` has no effect here.
    pub fn from(next: u64, settings: Produce) -> Sequence {
        Sequence { settings, next, key: Vec::new(), value: Vec::new() }
    }

    fn fill(&mut self, sent_ms: u128) {
        const PAD: &[u8] = b",\"pad\":\"";
        const NO_FAIL: &str = "a Vec takes all that is written to it";
        self.value.clear();
        write!(self.value, "{{\"seq\":{},\"sent_ms\":{sent_ms}", self.next).expect(NO_FAIL);
        if self.value.len() + 1 < self.settings.message_bytes {
            self.value.extend_from_slice(PAD);
            let full = self.settings.message_bytes.saturating_sub(2);
            self.value.resize(full.max(self.value.len()), b'x');
            self.value.push(b'"');
        }
        self.value.push(b'}');
        if let Some(number) = self.next.checked_rem(self.settings.keys) {
            self.key.clear();
            write!(self.key, "key-{number}").expect(NO_FAIL);
        }
        self.next += 1;
    }
}

impl Messages for Sequence {
    fn next(&mut self, _stop: &Receiver<()>, _deadline: Instant) -> Next {
        if self.settings.count.is_some_and(|count| self.next >= count) {
            return Next::End;
        }
        // A clock before 1970 shows as 0.
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        self.fill(now.map_or(0, |since| since.as_millis()));
        Next::Ready
    }

    fn current(&self) -> (Option<&[u8]>, &[u8]) {
        ((self.settings.keys > 0).then_some(&self.key), &self.value)
    }
}

/// Consecutive lines, without their newlines.
#[derive(Debug, Default)]
struct Chunk {
    bytes: Vec<u8>,
    /// Where each line begins and ends.
    lines: Vec<(usize, usize)>,
}

/// The lines of a stream, with their bytes unchanged. A thread of its own reads them, since a read from a pipe or
/// a terminal has no time limit.
#[derive(Debug)]
pub struct Lines {
    chunks: Receiver<Result<Chunk>>,
    chunk: Chunk,
    /// Where the current line begins and ends in the chunk.
    line: (usize, usize),
    /// The number of the next line in the chunk.
    next: usize,
    key_separator: Option<Vec<u8>>,
}

impl Lines {
    /// Starts reading. The thread ends with the stream, or with the next read after the `Lines` are dropped;
    /// nobody waits for it.
    ///
    /// # Errors
    /// `Other` if the thread cannot be started.
    pub fn read(
        stream: impl Read + Send + 'static,
        key_separator: Option<String>,
    ) -> Result<Lines> {
        let (sender, chunks) = bounded(limits::STDIN_CHUNKS_AHEAD);
        thread::spawn("stdin", move || {
            let mut reader = BufReader::with_capacity(limits::STDIN_CHUNK_BYTES, stream);
            let mut lines_before = 0;
            loop {
                let (chunk, end) = match read_chunk(&mut reader, lines_before) {
                    Ok(read) => read,
                    Err(error) => {
                        // The receiver is gone if the producer has stopped.
                        let _ = sender.send(Err(error));
                        return;
                    }
                };
                lines_before += chunk.lines.len() as u64;
                if sender.send(Ok(chunk)).is_err() || end {
                    return;
                }
            }
        })?;
        let key_separator = key_separator.map(String::into_bytes);
        Ok(Lines { chunks, chunk: Chunk::default(), line: (0, 0), next: 0, key_separator })
    }
}

impl Messages for Lines {
    fn next(&mut self, stop: &Receiver<()>, deadline: Instant) -> Next {
        while self.next == self.chunk.lines.len() {
            let timeout = crossbeam_channel::at(deadline);
            select! {
                recv(stop) -> _ => return Next::Stopped,
                recv(timeout) -> _ => return Next::Pending,
                recv(self.chunks) -> chunk => match chunk {
                    Ok(Ok(chunk)) => (self.chunk, self.next) = (chunk, 0),
                    Ok(Err(error)) => {
                        self.chunks = never();
                        return Next::Failed(error);
                    }
                    Err(_) => return Next::End,
                },
            }
        }
        self.line = self.chunk.lines[self.next];
        self.next += 1;
        Next::Ready
    }

    fn current(&self) -> (Option<&[u8]>, &[u8]) {
        let line = &self.chunk.bytes[self.line.0..self.line.1];
        let Some(separator) = &self.key_separator else { return (None, line) };
        let place = line.windows(separator.len()).position(|window| window == separator);
        match place {
            Some(place) => (Some(&line[..place]), &line[place + separator.len()..]),
            None => (None, line),
        }
    }
}

/// Reads lines until the chunk is full or the next read might block; and whether the stream ended.
fn read_chunk(reader: &mut BufReader<impl Read>, lines_before: u64) -> Result<(Chunk, bool)> {
    let mut chunk = Chunk::default();
    loop {
        let start = chunk.bytes.len();
        let limit = limits::STDIN_LINE_BYTES as u64 + 1;
        let read = reader
            .by_ref()
            .take(limit)
            .read_until(b'\n', &mut chunk.bytes)
            .map_err(|cause| Error::Other(format!("cannot read stdin: {cause}")))?;
        if read == 0 {
            return Ok((chunk, true));
        }
        let whole = chunk.bytes.last() == Some(&b'\n');
        if !whole && read as u64 == limit {
            let number = lines_before + chunk.lines.len() as u64 + 1;
            let limit = crate::config::units::format_bytes(limits::STDIN_LINE_BYTES as u64);
            return Err(Error::Other(format!(
                "line {number} of stdin: got more than {limit}, expected a shorter line"
            )));
        }
        chunk.lines.push((start, chunk.bytes.len() - usize::from(whole)));
        if chunk.bytes.len() >= limits::STDIN_CHUNK_BYTES || reader.buffer().is_empty() {
            return Ok((chunk, false));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    fn all(mut messages: impl Messages) -> Vec<(Option<Vec<u8>>, Vec<u8>)> {
        let (_open, stop) = bounded(0);
        let mut found = Vec::new();
        loop {
            match messages.next(&stop, later()) {
                Next::Ready => {
                    let (key, value) = messages.current();
                    found.push((key.map(<[u8]>::to_vec), value.to_vec()));
                }
                Next::End => return found,
                other => panic!("{other:?}"),
            }
        }
    }

    fn lines(text: &[u8], separator: Option<&str>) -> Vec<(Option<Vec<u8>>, Vec<u8>)> {
        let stream = std::io::Cursor::new(text.to_vec());
        all(Lines::read(stream, separator.map(str::to_owned)).unwrap())
    }

    #[test]
    fn a_sequence_is_numbered_json_of_the_size_asked_for() {
        for message_bytes in [1, 34, 35, 50, 100, 5000] {
            let settings =
                Produce { count: Some(12), message_bytes, keys: 5, ..Produce::default() };
            let found = all(Sequence::from(0, settings));
            assert_eq!(found.len(), 12);
            for (number, (key, value)) in found.iter().enumerate() {
                let json: serde_json::Value = serde_json::from_slice(value).unwrap();
                assert_eq!(json["seq"], number);
                assert!(json["sent_ms"].as_u64().unwrap() > 1_600_000_000_000);
                assert!(value.len() >= message_bytes, "{} of {message_bytes}", value.len());
                if message_bytes >= 50 {
                    assert_eq!(value.len(), message_bytes);
                }
                assert_eq!(key.as_deref(), Some(format!("key-{}", number % 5).as_bytes()));
            }
        }
    }

    #[test]
    fn a_sequence_without_keys_has_null_keys() {
        let found = all(Sequence::from(0, Produce { count: Some(1), ..Produce::default() }));
        assert_eq!(found[0].0, None);
        assert!(
            all(Sequence::from(0, Produce { count: Some(0), ..Produce::default() })).is_empty()
        );
    }

    #[test]
    fn each_line_is_a_message_and_the_last_needs_no_newline() {
        let values = |text: &[u8]| -> Vec<Vec<u8>> {
            lines(text, None).into_iter().map(|(_, value)| value).collect()
        };
        assert_eq!(values(b""), Vec::<Vec<u8>>::new());
        assert_eq!(values(b"a\nb\n"), [b"a", b"b"]);
        assert_eq!(values(b"a\n\nb\r\n\xff\0"), [&b"a"[..], b"", b"b\r", b"\xff\0"]);
        assert_eq!(values(b"\n"), [b""]);
    }

    #[test]
    fn a_line_is_split_at_its_first_separator() {
        let expected = [
            (Some(b"k".to_vec()), b"v::w".to_vec()),
            (None, b"plain".to_vec()),
            (Some(vec![]), vec![]),
        ];
        assert_eq!(lines(b"k::v::w\nplain\n::", Some("::")), expected);
    }

    #[test]
    fn a_silent_stream_is_pending_and_the_stop_ends_the_wait() {
        let (silent, _writer) = std::io::pipe().unwrap();
        let mut messages = Lines::read(silent, None).unwrap();
        let (open, stop) = bounded::<()>(0);
        assert_eq!(messages.next(&stop, Instant::now() + Duration::from_millis(5)), Next::Pending);
        drop(open);
        assert_eq!(messages.next(&stop, later()), Next::Stopped);
    }

    #[test]
    fn a_line_is_ready_before_the_stream_has_ended() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut messages = Lines::read(reader, None).unwrap();
        let (_open, stop) = bounded::<()>(0);
        writer.write_all(b"first\n").unwrap();
        assert_eq!(messages.next(&stop, later()), Next::Ready);
        assert_eq!(messages.current(), (None, &b"first"[..]));
    }

    #[test]
    fn a_stream_that_breaks_is_an_error() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(std::io::Error::other("gone"))
            }
        }
        let (_open, stop) = bounded::<()>(0);
        let outcome = Lines::read(Broken, None).unwrap().next(&stop, later());
        assert_eq!(outcome, Next::Failed(Error::Other("cannot read stdin: gone".into())));
    }

    #[test]
    fn a_line_without_end_is_an_error_that_names_it() {
        let stream = (&b"short\n"[..]).chain(std::io::repeat(b'x'));
        let mut messages = Lines::read(stream, None).unwrap();
        let (_open, stop) = bounded::<()>(0);
        let mut outcome = Next::Ready;
        while outcome == Next::Ready {
            outcome = messages.next(&stop, later());
        }
        let Next::Failed(error) = outcome else { panic!("{outcome:?}") };
        assert!(error.to_string().starts_with("line 2 of stdin: got more than 64MiB"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn lines_are_those_that_split_finds(text in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..2000)) {
            let mut expected: Vec<Vec<u8>> = text.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
            // What follows the last newline is a line only if it is not empty.
            if expected.last().is_some_and(Vec::is_empty) {
                expected.pop();
            }
            let found: Vec<Vec<u8>> = lines(&text, None).into_iter().map(|(_, value)| value).collect();
            prop_assert_eq!(found, expected);
        }
    }
}

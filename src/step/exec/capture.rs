//! Keeps a command's output in bounded memory: its beginning and its end, without the middle. A command that
//! prints gigabytes must not fill mb's memory. Reading the pipes is in `process`.

use std::collections::VecDeque;

use crate::config::limits::CAPTURE_BYTES;
use crate::model::sync::Mutex;

/// What a command has printed so far, on stdout and on stderr. The thread that watches the command writes it, and others
/// may read it meanwhile.
#[derive(Debug, Default)]
pub struct Captured {
    pub stdout: Mutex<Capture>,
    pub stderr: Mutex<Capture>,
}

impl Captured {
    /// Both streams as one text; `None` if both are empty.
    pub fn text(&self) -> Option<String> {
        let (stdout, stderr) = (self.stdout.lock().clone(), self.stderr.lock().clone());
        together(stdout, stderr)
    }

    /// As `text`; nothing is kept.
    pub fn take_text(&self) -> Option<String> {
        let take = |stream: &Mutex<Capture>| std::mem::take(&mut *stream.lock());
        together(take(&self.stdout), take(&self.stderr))
    }

    /// What another command of the same attempt has printed is forgotten.
    pub fn clear(&self) {
        *self.stdout.lock() = Capture::default();
        *self.stderr.lock() = Capture::default();
    }
}

/// Both streams as one text: stdout first, then stderr under the heading `[stderr]`.
fn together(stdout: Capture, stderr: Capture) -> Option<String> {
    if stdout.is_empty() && stderr.is_empty() {
        return None;
    }
    let mut text = stdout.into_text();
    if !stderr.is_empty() {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str("[stderr]\n");
        text.push_str(&stderr.into_text());
    }
    Some(text)
}

/// Keeps at most `2 * half` bytes of a stream, however long it gets.
#[derive(Clone, Debug)]
pub struct Capture {
    half: usize,
    first: Vec<u8>,
    last: VecDeque<u8>,
    /// Bytes seen between the two.
    left_out: u64,
}

impl Default for Capture {
    fn default() -> Capture {
        Capture::new(CAPTURE_BYTES)
    }
}

impl Capture {
    /// # Panics
    /// If `bound`, in bytes, is below 2.
    pub fn new(bound: usize) -> Capture {
        assert!(bound >= 2, "there is a first half and a last half");
        Capture { half: bound / 2, first: Vec::new(), last: VecDeque::new(), left_out: 0 }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        let room = (self.half - self.first.len()).min(bytes.len());
        let (first, rest) = bytes.split_at(room);
        self.first.extend_from_slice(first);
        let (skipped, tail) = rest.split_at(rest.len().saturating_sub(self.half));
        let surplus = (self.last.len() + tail.len()).saturating_sub(self.half);
        self.last.drain(..surplus);
        self.last.extend(tail);
        self.left_out += (skipped.len() + surplus) as u64;
    }

    pub fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    /// The last line that is not blank, as text; without its beginning if that was not kept.
    pub fn last_line(&self) -> Option<String> {
        // If nothing was left out, the line may begin in the first half.
        let kept: Vec<u8> = if self.left_out == 0 {
            self.first.iter().chain(&self.last).copied().collect()
        } else {
            self.last.iter().copied().collect()
        };
        let line = kept.trim_ascii_end().rsplit(|byte| *byte == b'\n').next()?.trim_ascii();
        (!line.is_empty()).then(|| String::from_utf8_lossy(line).into_owned())
    }

    /// Everything that was kept, as text, with a line in the middle that says how much is missing there.
    /// Bytes that are not UTF-8 become U+FFFD.
    pub fn into_text(mut self) -> String {
        let last = self.last.make_contiguous();
        if self.left_out == 0 {
            self.first.extend_from_slice(last);
            return match String::from_utf8(self.first) {
                Ok(text) => text,
                Err(bytes) => String::from_utf8_lossy(bytes.as_bytes()).into_owned(),
            };
        }
        format!(
            "{}\n[… {} bytes left out …]\n{}",
            String::from_utf8_lossy(&self.first),
            self.left_out,
            String::from_utf8_lossy(last)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(bound: usize, pieces: &[&[u8]]) -> Capture {
        let mut capture = Capture::new(bound);
        for piece in pieces {
            capture.push(piece);
        }
        capture
    }

    #[test]
    fn both_streams_come_as_one_text_as_often_as_it_is_asked_for() {
        let text = |stdout: &str, stderr: &str| {
            let captured = Captured::default();
            captured.stdout.lock().push(stdout.as_bytes());
            captured.stderr.lock().push(stderr.as_bytes());
            let text = captured.text();
            assert_eq!((captured.text(), captured.take_text()), (text.clone(), text.clone()));
            assert_eq!(captured.text(), None);
            text
        };
        assert_eq!(text("", ""), None);
        assert_eq!(text("a", ""), Some("a".into()));
        assert_eq!(text("a", "b\n"), Some("a\n[stderr]\nb\n".into()));
        assert_eq!(text("", "b"), Some("[stderr]\nb".into()));
    }

    #[test]
    fn what_fits_is_kept_as_it_is() {
        assert_eq!(captured(8, &[b"abcd", b"efgh"]).into_text(), "abcdefgh");
        assert_eq!(captured(8, &[]).into_text(), "");
        // A character of two bytes across the halves.
        assert_eq!(captured(4, &["aü".as_bytes(), b"b"]).into_text(), "aüb");
    }

    #[test]
    fn the_middle_is_left_out_and_counted() {
        let expected = "abcd\n[… 3 bytes left out …]\nhijk";
        assert_eq!(captured(8, &[b"abcdefghijk"]).into_text(), expected);
        let bytes: Vec<_> = b"abcdefghijk".chunks(1).collect();
        assert_eq!(captured(8, &bytes).into_text(), expected);
        assert_eq!(captured(8, &[b"abcdef", b"ghijk"]).into_text(), expected);
    }

    #[test]
    fn memory_stays_within_the_bound() {
        let mut capture = Capture::new(1000);
        for length in 0..3000 {
            capture.push(&vec![b'x'; length]);
            assert!(capture.first.len() + capture.last.len() <= 1000);
        }
        assert_eq!(capture.left_out, (0..3000).sum::<u64>() - 1000);
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        assert_eq!(captured(100, &[b"a\xff\xfeb"]).into_text(), "a\u{fffd}\u{fffd}b");
    }

    #[test]
    fn the_last_line_is_the_last_with_something_in_it() {
        let last_line = |text: &str| captured(20, &[text.as_bytes()]).last_line();
        assert_eq!(last_line("one\ntwo\r\n\n  \n"), Some("two".into()));
        assert_eq!(last_line("one"), Some("one".into()));
        assert_eq!(last_line("123456789012345"), Some("123456789012345".into()));
        assert_eq!(last_line("123456789012345678901234"), Some("5678901234".into()));
        assert_eq!(last_line(""), None);
        assert_eq!(last_line("\n\n"), None);
    }
}

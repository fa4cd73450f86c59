//! One run's `MB_FAILED_FILE`: where a command names the records that failed, one offset a line.
//!
//! The file does not exist until a command writes to it, so a run without failures costs nothing.
//! A command may leave anything at that path: a symlink, a FIFO, a device, a file without end. So this module
//! follows no symlink, does not block, and reads no more than the limits. Whether the names count at all is
//! decided in `outcome`.

use std::fmt::Write;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, statat, unlinkat};
use rustix::io::Errno;

use super::folder::{self, Folder};
use super::outcome::shown;
use crate::config::limits::{ERROR_LINE_CHARS, FAILED_FILE_BYTES, FAILED_FILE_BYTES_PER_RECORD};
use crate::model::batch::Batch;
use crate::model::offset::Offset;
use crate::step::FailedRecord;

/// The variable that names the file.
pub const VARIABLE: &str = "MB_FAILED_FILE";

/// The file's path. Whatever is there is removed when this value is dropped.
#[derive(Debug)]
pub struct FailedFile {
    folder: Arc<Folder>,
    name: String,
}

impl FailedFile {
    /// `number` must be unique among the files of this folder.
    pub fn new(folder: Arc<Folder>, number: u64) -> FailedFile {
        FailedFile { folder, name: number.to_string() }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join(&self.name)
    }

    /// Whether the folder's parent was neither removed nor replaced.
    pub fn is_parent_in_place(&self) -> bool {
        self.folder.is_parent_in_place()
    }

    /// The records that the command named: ascending, each one once with its first reason.
    ///
    /// # Errors
    /// A text for people: what was found, and what was expected. No name of the file counts then.
    pub fn read(&self, batch: &Batch) -> Result<Vec<FailedRecord>, String> {
        match self.content(batch.len()) {
            Ok(content) => parse(&content, batch),
            Err(problem) => Err(format!("{VARIABLE}: {problem}")),
        }
    }

    /// The file's bytes; empty if there is no file.
    fn content(&self, records: usize) -> Result<Vec<u8>, String> {
        let unreadable = |cause: Errno| format!("cannot read it: {}", io::Error::from(cause));
        let limit = FAILED_FILE_BYTES + FAILED_FILE_BYTES_PER_RECORD * records as u64;
        // Checked before it is opened: opening a device or a FIFO can have side effects.
        match statat(self.folder.handle(), &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => check(&found, limit, records)?,
            Err(Errno::NOENT) if self.folder.is_in_place() => return Ok(Vec::new()),
            // The names that the command wrote, if any, are lost. "Nothing failed" would be a guess that loses
            // records.
            Err(Errno::NOENT) => {
                return Err(
                    "its folder was removed while the command ran; expected it to stay".to_owned()
                );
            }
            Err(cause) => return Err(unreadable(cause)),
        }
        // Checked again once it is open: a process that left the command's group may have replaced it.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let flags = flags | OFlags::CLOEXEC;
        let file = openat(self.folder.handle(), &self.name, flags, Mode::empty());
        let file = file.map_err(unreadable)?;
        check(&fstat(&file).map_err(unreadable)?, limit, records)?;
        let mut content = Vec::new();
        File::from(file)
            .take(limit + 1)
            .read_to_end(&mut content)
            .map_err(|cause| format!("cannot read it: {cause}"))?;
        check_size(content.len() as u64, limit, records)?;
        Ok(content)
    }
}

impl Drop for FailedFile {
    fn drop(&mut self) {
        match unlinkat(self.folder.handle(), &self.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            // A folder in its place.
            Err(Errno::ISDIR) => folder::remove(&self.path()),
            Err(cause) => {
                log::warn!(target: "mb::step", "cannot remove {}: {cause}", self.path().display());
            }
        }
    }
}

fn check(found: &Stat, limit: u64, records: usize) -> Result<(), String> {
    let kind = match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => {
            let bytes = u64::try_from(found.st_size).unwrap_or(u64::MAX);
            return check_size(bytes, limit, records);
        }
        FileType::Symlink => "a symlink",
        FileType::Directory => "a directory",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        _ => "a device",
    };
    Err(format!("got {kind}, expected a regular file with one offset a line"))
}

fn check_size(bytes: u64, limit: u64, records: usize) -> Result<(), String> {
    if bytes <= limit {
        return Ok(());
    }
    Err(format!("got more than {limit} bytes, expected at most that for {records} record(s)"))
}

/// Parses one offset a line, in decimal digits; text after a blank is the reason. Blank lines are ignored, and
/// a line may end in CR LF.
pub fn parse(content: &[u8], batch: &Batch) -> Result<Vec<FailedRecord>, String> {
    let mut failed = Vec::new();
    for (index, line) in content.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
        let (digits, reason) = line.split_at(end);
        let Some(offset) = offset(digits).filter(|offset| batch.contains(*offset)) else {
            return Err(stray(index + 1, line, batch));
        };
        let reason = String::from_utf8_lossy(reason.trim_ascii_start()).into_owned();
        failed.push(FailedRecord { offset, reason });
    }
    // Stable, so the first reason stays.
    failed.sort_by_key(|record| record.offset);
    failed.dedup_by_key(|record| record.offset);
    Ok(failed)
}

/// An offset in digits alone; `None` for a sign, or a number too large for an offset.
fn offset(digits: &[u8]) -> Option<Offset> {
    let digits = str::from_utf8(digits).ok()?;
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    is_plain.then(|| digits.parse().ok()).flatten().and_then(Offset::checked)
}

fn stray(number: usize, line: &[u8], batch: &Batch) -> String {
    // A character has at most 4 bytes.
    let line = String::from_utf8_lossy(&line[..line.len().min(4 * (ERROR_LINE_CHARS + 1))]);
    let mut text = format!(
        "{VARIABLE}, line {number}: got \"{}\", expected the offset of a record of this batch",
        shown(&line)
    );
    if let Some(range) = batch.range() {
        let _ = write!(text, " (of {range})");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::batch::Record;

    /// Offsets 100, 101, 102 and 109.
    fn batch() -> Batch {
        let mut batch = Batch::default();
        for offset in [100, 101, 102, 109] {
            let offset = Offset::new(offset);
            batch.push(Record { offset, ..Record::default() });
        }
        batch
    }

    fn named(content: &[u8]) -> Vec<(i64, String)> {
        let failed = parse(content, &batch()).unwrap();
        failed.into_iter().map(|record| (record.offset.get(), record.reason)).collect()
    }

    fn just(offsets: &[i64]) -> Vec<(i64, String)> {
        offsets.iter().map(|offset| (*offset, String::new())).collect()
    }

    #[test]
    fn each_line_names_an_offset() {
        for content in ["101\n109\n", "101\n109", "109\n101\n101\n", "101\r\n109\r\n"] {
            assert_eq!(named(content.as_bytes()), just(&[101, 109]), "{content:?}");
        }
        for nothing in ["", "\n", "\r\n", " \t\n\n"] {
            assert_eq!(named(nothing.as_bytes()), just(&[]), "{nothing:?}");
        }
        assert_eq!(named(b"\n\n  00000000000000000101 \n\n"), just(&[101]), "padded both ways");
    }

    #[test]
    fn a_reason_follows_a_blank() {
        assert_eq!(named(b"101 no such customer: 7 \r\n"), [(101, "no such customer: 7".into())]);
        assert_eq!(named(b"101\t\tx\n"), [(101, "x".into())]);
        assert_eq!(named(b"101 \xff\0\n"), [(101, "\u{fffd}\0".into())]);
        assert_eq!(named(b"101 first\n102\n101 second\n")[0], (101, "first".into()));
    }

    #[test]
    fn what_is_no_offset_of_the_batch_is_named_with_its_line() {
        for (line, shown) in [
            (&b"garbage"[..], "garbage"),
            (b"-1", "-1"),
            (b"+101", "+101"),
            (b"1e2", "1e2"),
            (b"101,102", "101,102"),
            (b"101.", "101."),
            (b"0x65", "0x65"),
            (b"101\0", "101\\u{0}"),
            (b"\0\0", "\\u{0}\\u{0}"),
            (b"\xff", "\u{fffd}"),
            (b"\xef\xbb\xbf101", "\u{feff}101"),
            ("١٠١".as_bytes(), "١٠١"),
            (b"99 below", "99 below"),
            (b"105", "105"),
            (b"110", "110"),
            (b"9223372036854775807", "9223372036854775807"),
            (b"9223372036854775808", "9223372036854775808"),
            (b"18446744073709551616", "18446744073709551616"),
            (b"\x1b[2J101", "\\u{1b}[2J101"),
        ] {
            let content = [b"101\n\n", line, b"\n102\n"].concat();
            let expected = format!(
                "MB_FAILED_FILE, line 3: got \"{shown}\", expected the offset of a record of this \
                 batch (of 100-109)"
            );
            assert_eq!(parse(&content, &batch()), Err(expected));
        }
    }

    #[test]
    fn a_line_without_end_is_shown_in_part() {
        let text = parse(&vec![b'x'; 1 << 20], &batch()).unwrap_err();
        assert!(text.chars().count() < ERROR_LINE_CHARS + 200 && text.contains("x…"), "{text}");
    }

    #[test]
    fn an_empty_batch_has_nothing_to_name() {
        assert_eq!(parse(b"", &Batch::default()), Ok(Vec::new()));
        assert!(parse(b"0", &Batch::default()).is_err());
    }
}

//! How mb left the history when it ended in order: who finds the file just so need not read all of it
//! to see that it is whole, unless it was read last more than a day ago.
//!
//! The note beside the file says when it was read, and its device, inode, size, and times of
//! modification and of change. The last no program can set: whatever writes to the file while mb does
//! not run, or takes its place, is noticed. What is not is bytes that were changed under a running mb,
//! or by the disk itself: they are found where they are read, which ends mb without a note, or a day
//! later.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::schema::with_ending;
use crate::clock;
use crate::data_dir::check_file;
use crate::error::{Error, Result};

/// Smaller files are read in a moment: of them nothing is noted, and they are checked each time.
const LEAST_BYTES: u64 = 16 << 20;

/// So long after the file was read it is read again.
const CHECKED_FOR_MS: i64 = 24 * 3600 * 1000;

/// Kernels before 6.13 keep times by the clock's ticks, of 10 ms at the most: two changes within one
/// look alike.
const TICK: Duration = Duration::from_millis(10);

/// The file is about to be used: the note says no more than when it was read, which is now where it
/// `was_read`. Where that cannot be written, the disk being full for one, it says nothing.
///
/// # Errors
/// `Config` where something else is at the note's place; `Storage` where an old note cannot be removed.
pub fn begin(path: &Path, was_read: bool) -> Result<()> {
    check_file(&note_of(path), "mb's note of the history")?;
    let read_ms = if was_read { Some(clock::now_ms()) } else { read_ms(&noted(path)) };
    let written = fs::write(note_of(path), read_ms.map_or(String::new(), first_line));
    written
        .or_else(|_| forget(path))
        .map_err(|cause| Error::storage(format!("remove {}", note_of(path).display()), cause))
}

/// Notes how the file is left by who began with it. Nobody has it open. Where that cannot be noted, the
/// next start reads it.
pub fn note(path: &Path) {
    note_from(path, LEAST_BYTES);
}

pub(super) fn note_from(path: &Path, least_bytes: u64) {
    let state = |path| state(path).filter(|(_, found)| found.len() >= least_bytes);
    let (Some((_, found)), Some(read_ms)) = (state(path), read_ms(&noted(path))) else { return };
    // What would change it from here on has to have another time.
    match SystemTime::now().duration_since(changed(&found)) {
        Ok(age) => std::thread::sleep(TICK.saturating_sub(age)),
        // The clock was set back: its times say nothing.
        Err(_) => return,
    }
    if let Some((state, _)) = state(path)
        && let Err(cause) = fs::write(note_of(path), first_line(read_ms) + &state)
    {
        log::debug!("how the history was left is not noted: {cause}");
    }
}

/// Whether nobody has touched the file since it was noted, and it was read not long ago.
pub fn is_as_noted(path: &Path) -> bool {
    is_as_noted_at(path, clock::now_ms())
}

fn is_as_noted_at(path: &Path, now_ms: i64) -> bool {
    let noted = noted(path);
    let (Some(read_ms), Some((state, _))) = (read_ms(&noted), state(path)) else { return false };
    (read_ms..=read_ms.saturating_add(CHECKED_FOR_MS)).contains(&now_ms)
        && noted == first_line(read_ms) + &state
}

/// Lets the next start read the file.
///
/// # Errors
/// Where the note cannot be removed.
pub fn forget(path: &Path) -> io::Result<()> {
    match fs::remove_file(note_of(path)) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause),
        _ => Ok(()),
    }
}

/// Empty where there is none.
fn noted(path: &Path) -> String {
    let note = note_of(path);
    // SQLite is not the only one that would wait for ever at a FIFO.
    let is_file = fs::metadata(&note).is_ok_and(|found| found.is_file());
    if is_file { fs::read_to_string(note).unwrap_or_default() } else { String::new() }
}

fn first_line(read_ms: i64) -> String {
    format!("read {read_ms}\n")
}

fn read_ms(noted: &str) -> Option<i64> {
    noted.lines().next()?.strip_prefix("read ")?.parse().ok()
}

/// `None` where a journal lies beside the file: a writer has it, or was killed.
fn state(path: &Path) -> Option<(String, Metadata)> {
    if with_ending(path, "-wal").exists() {
        return None;
    }
    let found = fs::metadata(path).ok()?;
    let text = format!(
        "device {} inode {}, {} bytes, modified {}.{:09}, changed {}.{:09}\n",
        found.dev(),
        found.ino(),
        found.len(),
        found.mtime(),
        found.mtime_nsec(),
        found.ctime(),
        found.ctime_nsec()
    );
    Some((text, found))
}

fn changed(found: &Metadata) -> SystemTime {
    let seconds = Duration::from_secs(u64::try_from(found.ctime()).unwrap_or(0));
    let nanos = Duration::from_nanos(u64::try_from(found.ctime_nsec()).unwrap_or(0));
    SystemTime::UNIX_EPOCH + seconds + nanos
}

fn note_of(path: &Path) -> PathBuf {
    with_ending(path, "-left")
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes, OpenOptions};
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::history::schema;

    fn noted() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.db");
        drop(schema::open(&path).unwrap());
        begin(&path, true).unwrap();
        assert!(!is_as_noted(&path));
        note_from(&path, 1);
        assert!(is_as_noted(&path));
        (folder, path)
    }

    #[test]
    fn whatever_is_done_to_the_file_is_noticed() {
        type Deed = fn(&Path);
        let deeds: [(&str, Deed); 7] = [
            ("damaged, and its time set back", |path| {
                let modified = fs::metadata(path).unwrap().modified().unwrap();
                let file = OpenOptions::new().write(true).open(path).unwrap();
                file.write_all_at(&[0xff; 64], 4096).unwrap();
                file.set_times(FileTimes::new().set_modified(modified)).unwrap();
            }),
            ("replaced by its copy", |path| {
                let copy = with_ending(path, "-copy");
                fs::copy(path, &copy).unwrap();
                fs::rename(copy, path).unwrap();
            }),
            ("cut", |path| {
                OpenOptions::new().write(true).open(path).unwrap().set_len(8192).unwrap();
            }),
            ("a journal put beside it", |path| {
                File::create(with_ending(path, "-wal")).unwrap();
            }),
            ("removed", |path| fs::remove_file(path).unwrap()),
            ("used", |path| begin(path, true).unwrap()),
            ("forgotten", |path| forget(path).unwrap()),
        ];
        for (what, deed) in deeds {
            let (_folder, path) = noted();
            deed(&path);
            assert!(!is_as_noted(&path), "{what}");
        }
    }

    #[test]
    fn an_open_file_and_a_small_one_are_not_noted() {
        let (_folder, path) = noted();
        let db = schema::open(&path).unwrap();
        begin(&path, true).unwrap();
        note_from(&path, 1);
        assert!(!is_as_noted(&path));
        drop(db);
        note(&path);
        assert!(!is_as_noted(&path), "it is smaller than what is worth it");
        note_from(&path, 1);
        assert!(is_as_noted(&path));
    }

    #[test]
    fn reading_the_file_changes_nothing_and_writing_it_does() {
        let (_folder, path) = noted();
        drop(schema::open_read_only(&path).unwrap());
        assert!(is_as_noted(&path));
        let db = schema::open(&path).unwrap();
        db.execute("INSERT INTO scopes VALUES (1, 'kafka', '', 'g', 't', '', 0)", []).unwrap();
        assert!(!is_as_noted(&path));
        drop(db);
        assert!(!is_as_noted(&path));
    }

    #[test]
    fn a_day_after_it_was_read_it_is_read_again_however_often_it_was_used_since() {
        let (_folder, path) = noted();
        let now = clock::now_ms();
        let was_read = read_ms(&super::noted(&path)).unwrap();
        assert!(is_as_noted_at(&path, was_read + CHECKED_FOR_MS));
        assert!(!is_as_noted_at(&path, was_read + CHECKED_FOR_MS + 1));
        assert!(!is_as_noted_at(&path, was_read - 1), "the clock was set back");
        let long_ago = now - CHECKED_FOR_MS / 2;
        fs::write(note_of(&path), first_line(long_ago)).unwrap();
        for _ in 0..2 {
            begin(&path, false).unwrap();
            note_from(&path, 1);
        }
        assert!(is_as_noted_at(&path, now));
        assert_eq!(read_ms(&super::noted(&path)), Some(long_ago));
        begin(&path, true).unwrap();
        assert!(read_ms(&super::noted(&path)) >= Some(now));
        // Who has not begun with it knows nothing of it.
        forget(&path).unwrap();
        note_from(&path, 1);
        assert!(!is_as_noted(&path));
    }
}

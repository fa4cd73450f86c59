//! How mb left the history when it ended in order: who finds the file just so need not read all of it
//! to see that it is whole, unless it was read last more than a day ago.
//!
//! The note beside the file says when it was read, the system's boot, and the file's device, inode,
//! size, and times of modification and of change. The last no program can set: whatever writes to the
//! file while mb does not run, or takes its place, is noticed. What is not is bytes that were changed
//! under a running mb, or by the disk itself: they are found where mb reads them to write, which leaves
//! no note, or a day later.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::config::data_dir::{check_file, with_ending};
use crate::model::clock;
use crate::model::error::{Error, Result};

/// Smaller files are read in a moment: of them nothing is noted, and they are checked each time.
const LEAST_BYTES: u64 = 16 << 20;

/// So long after the file was read it is read again.
const READ_FOR_MS: i64 = 24 * 3600 * 1000;

/// Kernels before 6.13 keep times by the clock's ticks, of 10 ms at the most: two changes within one
/// look alike.
const TICK: Duration = Duration::from_millis(10);

/// Another one each time the system starts.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// When all of the file was read last, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadAt(i64);

impl ReadAt {
    pub fn now() -> ReadAt {
        ReadAt(clock::now_ms())
    }

    fn line(self) -> String {
        format!("read {}\n", self.0)
    }
}

/// Before anything is opened: a note can be where it is to be.
///
/// # Errors
/// `Config` where something else is there.
pub fn check_place(path: &Path) -> Result<()> {
    [note_of(path), new_note_of(path)]
        .iter()
        .try_for_each(|note| check_file(note, "mb's note of the history"))
}

/// Somebody uses the file, and the note says no more than when it was read.
#[derive(Debug)]
pub struct InUse {
    path: PathBuf,
    read: Option<ReadAt>,
}

impl InUse {
    /// `read`: `None` where all of it was not read, or not to its end. Where the note cannot be written,
    /// the disk being full for one, there is none.
    ///
    /// # Errors
    /// `Storage` where an old note cannot be removed.
    pub fn begin(path: &Path, read: Option<ReadAt>) -> Result<InUse> {
        let line = read.map_or(String::new(), ReadAt::line);
        write(path, &line).or_else(|_| forget(path)).map_err(|cause| {
            Error::storage(format!("remove {}", note_of(path).display()), cause)
        })?;
        Ok(InUse { path: path.to_owned(), read })
    }

    /// Notes how the file is left: nobody has it open. Where that cannot be noted, or somebody has
    /// forgotten or begun anew since, the next start reads it.
    pub fn end(self) {
        self.end_from(LEAST_BYTES);
    }

    pub(super) fn end_from(self, least_bytes: u64) {
        let state = || state(&self.path).filter(|(_, found)| found.len() >= least_bytes);
        let (Some((_, found)), Some(read)) = (state(), self.read) else { return };
        if noted(&self.path) != read.line() {
            return;
        }
        // What would change it from here on has to have another time.
        match SystemTime::now().duration_since(changed(&found)) {
            Ok(age) => std::thread::sleep(TICK.saturating_sub(age)),
            // The clock was set back: its times say nothing.
            Err(_) => return,
        }
        if let Some((state, _)) = state()
            && let Err(cause) = write(&self.path, &(read.line() + &state))
        {
            log::debug!("how the history was left is not noted: {cause}");
        }
    }
}

/// When the file was read, where nobody has touched it since it was noted, and not long ago.
pub fn as_noted(path: &Path) -> Option<ReadAt> {
    as_noted_at(path, clock::now_ms())
}

fn as_noted_at(path: &Path, now_ms: i64) -> Option<ReadAt> {
    let noted = noted(path);
    let read = ReadAt(noted.lines().next()?.strip_prefix("read ")?.parse().ok()?);
    let is_fresh = (read.0..=read.0.saturating_add(READ_FOR_MS)).contains(&now_ms);
    (is_fresh && noted == read.line() + &state(path)?.0).then_some(read)
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

fn write(path: &Path, text: &str) -> io::Result<()> {
    fs::write(new_note_of(path), text)?;
    fs::rename(new_note_of(path), note_of(path))
}

/// Empty where there is none.
fn noted(path: &Path) -> String {
    let note = note_of(path);
    // SQLite is not the only one that would wait for ever at a FIFO.
    let is_file = fs::metadata(&note).is_ok_and(|found| found.is_file());
    if is_file { fs::read_to_string(note).unwrap_or_default() } else { String::new() }
}

/// `None` where a journal lies beside the file (a writer has it, or was killed), for a link, whose
/// journal lies elsewhere, and where the file system keeps whole seconds only.
fn state(path: &Path) -> Option<(String, Metadata)> {
    let found = fs::symlink_metadata(path).ok()?;
    if !found.is_file() || found.ctime_nsec() == 0 || with_ending(path, "-wal").exists() {
        return None;
    }
    let text = format!(
        "boot {}, device {}, inode {}, {} bytes, modified {}.{:09}, changed {}.{:09}\n",
        fs::read_to_string(BOOT_ID).ok()?.trim(),
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

/// Where it is written before it takes the old one's place.
fn new_note_of(path: &Path) -> PathBuf {
    with_ending(path, "-left.new")
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes, OpenOptions};
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::history::schema;

    fn noted_file() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.db");
        drop(schema::open(&path).unwrap());
        let in_use = InUse::begin(&path, Some(ReadAt::now())).unwrap();
        assert_eq!(as_noted(&path), None);
        in_use.end_from(1);
        assert!(as_noted(&path).is_some());
        (folder, path)
    }

    fn damage(path: &Path) {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&[0xff; 64], 4096).unwrap();
    }

    #[test]
    fn whatever_is_done_to_the_file_is_noticed() {
        type Deed = fn(&Path);
        let deeds: [(&str, Deed); 8] = [
            ("damaged, and its time set back", |path| {
                let modified = fs::metadata(path).unwrap().modified().unwrap();
                damage(path);
                let file = OpenOptions::new().write(true).open(path).unwrap();
                file.set_times(FileTimes::new().set_modified(modified)).unwrap();
            }),
            ("replaced by its copy", |path| {
                let copy = with_ending(path, "-copy");
                fs::copy(path, &copy).unwrap();
                fs::rename(copy, path).unwrap();
            }),
            ("moved, and a link put there", |path| {
                let elsewhere = with_ending(path, "-elsewhere");
                fs::rename(path, &elsewhere).unwrap();
                std::os::unix::fs::symlink(elsewhere, path).unwrap();
            }),
            ("cut", |path| {
                OpenOptions::new().write(true).open(path).unwrap().set_len(8192).unwrap();
            }),
            ("a journal put beside it", |path| {
                File::create(with_ending(path, "-wal")).unwrap();
            }),
            ("removed", |path| fs::remove_file(path).unwrap()),
            ("used", |path| drop(InUse::begin(path, Some(ReadAt::now())).unwrap())),
            ("forgotten", |path| forget(path).unwrap()),
        ];
        for (what, deed) in deeds {
            let (_folder, path) = noted_file();
            deed(&path);
            assert_eq!(as_noted(&path), None, "{what}");
        }
    }

    #[test]
    fn who_uses_it_notes_nothing_where_the_file_is_suspect_since_or_was_never_read() {
        type Deed = fn(&Path);
        let deeds: [(&str, Deed); 3] = [
            ("SQLite found it damaged", |path| forget(path).unwrap()),
            ("used anew", |path| drop(InUse::begin(path, Some(ReadAt(1))).unwrap())),
            ("open", |path| std::mem::forget(schema::open(path).unwrap())),
        ];
        for (what, deed) in deeds {
            let (_folder, path) = noted_file();
            let in_use = InUse::begin(&path, Some(ReadAt::now())).unwrap();
            deed(&path);
            in_use.end_from(1);
            assert_eq!(as_noted(&path), None, "{what}");
        }
        let (_folder, path) = noted_file();
        InUse::begin(&path, None).unwrap().end_from(1);
        assert_eq!(as_noted(&path), None);
        InUse::begin(&path, Some(ReadAt::now())).unwrap().end();
        assert_eq!(as_noted(&path), None, "it is smaller than what is worth it");
    }

    #[test]
    fn reading_the_file_changes_nothing_and_writing_it_does() {
        let (_folder, path) = noted_file();
        drop(schema::open_read_only(&path).unwrap());
        assert!(as_noted(&path).is_some());
        let db = schema::open(&path).unwrap();
        db.execute("INSERT INTO scopes VALUES (1, 'kafka', '', 'g', 't', '', 0)", []).unwrap();
        assert_eq!(as_noted(&path), None);
        drop(db);
        assert_eq!(as_noted(&path), None);
    }

    #[test]
    fn a_day_after_it_was_read_it_is_read_again_however_often_it_was_used_since() {
        let (_folder, path) = noted_file();
        let now = clock::now_ms();
        let read = ReadAt(now - READ_FOR_MS / 2);
        for _ in 0..2 {
            InUse::begin(&path, Some(read)).unwrap().end_from(1);
            assert_eq!(as_noted_at(&path, now), Some(read));
        }
        assert_eq!(as_noted_at(&path, now + READ_FOR_MS / 2), Some(read));
        assert_eq!(as_noted_at(&path, now + READ_FOR_MS / 2 + 1), None);
        assert_eq!(as_noted_at(&path, now - READ_FOR_MS), None, "the clock was set back");
    }

    #[test]
    fn a_file_as_noted_is_opened_without_a_check_unless_it_cannot_be() {
        // Damage that only a check sees, and damage that everybody does.
        for (at, is_moved) in [(4096 * 3, false), (0, true)] {
            let (folder, path) = noted_file();
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&[0xff; 100], at).unwrap();
            // Not the moment in which it is read again.
            let read = ReadAt(clock::now_ms() - 1000);
            write(&path, &(read.line() + &state(&path).unwrap().0)).unwrap();
            let (db, in_use) = schema::open_or_set_aside(&path).unwrap();
            drop(db);
            let names = fs::read_dir(folder.path()).unwrap();
            let mut names = names.map(|entry| entry.unwrap().file_name());
            let moved = names.any(|name| name.to_string_lossy().contains("damaged"));
            assert_eq!(moved, is_moved, "at {at}");
            assert_eq!(in_use.read == Some(read), !is_moved);
        }
    }
}

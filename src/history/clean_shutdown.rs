//! The clean-shutdown marker beside the history. A file that has not changed since mb ended cleanly need not be
//! read from end to end at the next start to see that it is whole, which takes seconds for a large one. Once
//! a day it is read all the same.
//!
//! The marker says when the file was checked, and after a clean shutdown also the system's boot, the file's
//! device, inode and size, and its times of modification and of change. No program can set the last one, so
//! whatever writes to the file or takes its place while mb does not run is noticed. Bytes that were changed
//! under a running mb, or by the disk itself, are not. They are found when mb reads them in order to write,
//! which removes the marker, or a day later.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::config::own_files::{self, check_file, with_ending};
use crate::model::clock;
use crate::model::error::{Error, Result};

/// Smaller files are checked at each start, which takes no time.
const LEAST_BYTES: u64 = 16 << 20;

/// How long a check of the file holds.
const CHECK_VALID_MS: i64 = 24 * 3600 * 1000;

/// Kernels before 6.13 keep file times by the clock's ticks, of at most 10 ms: two changes within one tick look
/// alike.
const TICK: Duration = Duration::from_millis(10);

/// Holds another id each time the system starts.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// When the whole file was read last, in milliseconds since 1970 (UTC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckedAt(i64);

impl CheckedAt {
    pub fn now() -> CheckedAt {
        CheckedAt(clock::now_ms())
    }

    fn line(self) -> String {
        format!("read {}\n", self.0)
    }
}

/// Whether the marker can be written and read. To be called before anything is opened.
///
/// # Errors
/// `Config` if something other than a file has its name.
pub fn check_place(path: &Path) -> Result<()> {
    [marker_of(path), new_marker_of(path)]
        .iter()
        .try_for_each(|marker| check_file(marker, "mb's clean-shutdown marker"))
}

/// The history is in use: until `end`, the marker says no more than when the file was checked.
#[derive(Debug)]
pub struct InUse {
    path: PathBuf,
    checked: Option<CheckedAt>,
}

impl InUse {
    /// `checked`: `None` if the file was not read to its end. If the marker cannot be written (the disk may be
    /// full), there is none.
    ///
    /// # Errors
    /// `Storage` if an old marker cannot be removed.
    pub fn begin(path: &Path, checked: Option<CheckedAt>) -> Result<InUse> {
        let line = checked.map_or(String::new(), CheckedAt::line);
        write(path, &line).or_else(|_| invalidate(path)).map_err(|cause| {
            Error::storage(format!("remove {}", marker_of(path).display()), cause)
        })?;
        Ok(InUse { path: path.to_owned(), checked })
    }

    /// Marks a clean shutdown; nobody has the file open any more. If the marker cannot be written, or was
    /// invalidated or begun anew meanwhile, the next start checks the file.
    pub fn end(self) {
        self.end_from(LEAST_BYTES);
    }

    pub(super) fn end_from(self, least_bytes: u64) {
        let state = || state(&self.path).filter(|(_, found)| found.len() >= least_bytes);
        let (Some((_, found)), Some(checked)) = (state(), self.checked) else { return };
        if marker(&self.path) != checked.line() {
            return;
        }
        // A change from here on must have another time than the file has now.
        match SystemTime::now().duration_since(changed(&found)) {
            Ok(age) => std::thread::sleep(TICK.saturating_sub(age)),
            // The clock was set back, so its times say nothing.
            Err(_) => return,
        }
        if let Some((state, _)) = state()
            && let Err(cause) = write(&self.path, &(checked.line() + &state))
        {
            log::debug!("cannot write the clean-shutdown marker of the history: {cause}");
        }
    }
}

/// When the file was checked, if mb ended cleanly, nobody has touched the file since, and the check still
/// holds.
pub fn unchanged_since(path: &Path) -> Option<CheckedAt> {
    unchanged_at(path, clock::now_ms())
}

fn unchanged_at(path: &Path, now_ms: i64) -> Option<CheckedAt> {
    let marker = marker(path);
    let checked = CheckedAt(marker.lines().next()?.strip_prefix("read ")?.parse().ok()?);
    let is_fresh = (checked.0..=checked.0.saturating_add(CHECK_VALID_MS)).contains(&now_ms);
    (is_fresh && marker == checked.line() + &state(path)?.0).then_some(checked)
}

/// Makes the next start check the file.
///
/// # Errors
/// The system's, if the marker cannot be removed.
pub fn invalidate(path: &Path) -> io::Result<()> {
    match fs::remove_file(marker_of(path)) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause),
        _ => Ok(()),
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    own_files::replace(&marker_of(path), &new_marker_of(path), text)
}

/// The marker's text; empty if there is none.
fn marker(path: &Path) -> String {
    let marker = marker_of(path);
    // Opening a FIFO would wait for ever.
    let is_file = fs::symlink_metadata(&marker).is_ok_and(|found| found.is_file());
    if is_file { fs::read_to_string(marker).unwrap_or_default() } else { String::new() }
}

/// What the file system says of the file. `None` if a journal lies beside the file (somebody writes it, or was
/// killed), if it is a link, whose journal lies elsewhere, or if the file system keeps whole seconds only.
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

fn marker_of(path: &Path) -> PathBuf {
    with_ending(path, "-left")
}

/// Where a marker is written before it replaces the old one.
fn new_marker_of(path: &Path) -> PathBuf {
    with_ending(path, "-left.new")
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes, OpenOptions};
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::history::schema;

    fn marked_file() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.db");
        drop(schema::open(&path).unwrap());
        let in_use = InUse::begin(&path, Some(CheckedAt::now())).unwrap();
        assert_eq!(unchanged_since(&path), None);
        in_use.end_from(1);
        assert!(unchanged_since(&path).is_some());
        (folder, path)
    }

    fn damage(path: &Path) {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&[0xff; 64], 4096).unwrap();
    }

    #[test]
    fn a_file_that_was_changed_or_replaced_is_checked() {
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
            ("used", |path| drop(InUse::begin(path, Some(CheckedAt::now())).unwrap())),
            ("invalidated", |path| invalidate(path).unwrap()),
        ];
        for (what, deed) in deeds {
            let (_folder, path) = marked_file();
            deed(&path);
            assert_eq!(unchanged_since(&path), None, "{what}");
        }
    }

    #[test]
    fn a_file_that_is_suspect_or_was_never_checked_gets_no_marker() {
        type Deed = fn(&Path);
        let deeds: [(&str, Deed); 3] = [
            ("SQLite found it damaged", |path| invalidate(path).unwrap()),
            ("used anew", |path| drop(InUse::begin(path, Some(CheckedAt(1))).unwrap())),
            ("open", |path| std::mem::forget(schema::open(path).unwrap())),
        ];
        for (what, deed) in deeds {
            let (_folder, path) = marked_file();
            let in_use = InUse::begin(&path, Some(CheckedAt::now())).unwrap();
            deed(&path);
            in_use.end_from(1);
            assert_eq!(unchanged_since(&path), None, "{what}");
        }
        let (_folder, path) = marked_file();
        InUse::begin(&path, None).unwrap().end_from(1);
        assert_eq!(unchanged_since(&path), None);
        InUse::begin(&path, Some(CheckedAt::now())).unwrap().end();
        assert_eq!(unchanged_since(&path), None, "it is smaller than what is worth it");
    }

    #[test]
    fn reading_the_file_changes_nothing_and_writing_it_does() {
        let (_folder, path) = marked_file();
        drop(schema::open_read_only(&path).unwrap());
        assert!(unchanged_since(&path).is_some());
        let db = schema::open(&path).unwrap();
        db.execute("INSERT INTO scopes VALUES (1, 'kafka', '', 'g', 't', '', 0)", []).unwrap();
        assert_eq!(unchanged_since(&path), None);
        drop(db);
        assert_eq!(unchanged_since(&path), None);
    }

    #[test]
    fn a_check_holds_for_a_day_however_often_the_file_was_used_since() {
        let (_folder, path) = marked_file();
        let now = clock::now_ms();
        let checked = CheckedAt(now - CHECK_VALID_MS / 2);
        for _ in 0..2 {
            InUse::begin(&path, Some(checked)).unwrap().end_from(1);
            assert_eq!(unchanged_at(&path, now), Some(checked));
        }
        assert_eq!(unchanged_at(&path, now + CHECK_VALID_MS / 2), Some(checked));
        assert_eq!(unchanged_at(&path, now + CHECK_VALID_MS / 2 + 1), None);
        assert_eq!(unchanged_at(&path, now - CHECK_VALID_MS), None, "the clock was set back");
    }

    #[test]
    fn an_unchanged_file_is_opened_without_a_check_unless_it_cannot_be_opened() {
        // Damage that only a check sees, and damage that everybody does.
        for (at, is_moved) in [(4096 * 3, false), (0, true)] {
            let (folder, path) = marked_file();
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&[0xff; 100], at).unwrap();
            // Not the moment in which it is read again.
            let checked = CheckedAt(clock::now_ms() - 1000);
            write(&path, &(checked.line() + &state(&path).unwrap().0)).unwrap();
            let (db, in_use) = schema::open_or_set_aside(&path).unwrap();
            drop(db);
            let names = fs::read_dir(folder.path()).unwrap();
            let mut names = names.map(|entry| entry.unwrap().file_name());
            let moved = names.any(|name| name.to_string_lossy().contains("damaged"));
            assert_eq!(moved, is_moved, "at {at}");
            assert_eq!(in_use.checked == Some(checked), !is_moved);
        }
    }
}

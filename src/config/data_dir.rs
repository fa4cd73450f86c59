//! The data directory and its lock: one process at a time uses it, for as long as that process lives.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use rustix::fs::{FlockOperation, flock};

use crate::config::own_files::{self, check_file};
use crate::config::{limits, rights};
use crate::model::error::{Error, Result};

const LOCK_FILE: &str = "mb.lock";

/// A locked data directory. The lock is released when this value is dropped, and by the kernel when the
/// process ends in any way.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
    /// Locked too, shared, for the sake of users who may not look into it: see `rights`.
    _folder: Option<File>,
}

impl DataDir {
    /// Creates the directory if it does not exist, and locks it. A command holds the lock only for moments,
    /// so this waits up to `limits::LOCK_LIMIT` for it. The directory and mb's files in it are for this user
    /// alone then.
    ///
    /// # Errors
    /// `Config` if the directory cannot be created or written, belongs to another user, or another mb runs on
    /// it.
    pub fn lock(path: &Path) -> Result<DataDir> {
        let deadline = Instant::now() + limits::LOCK_LIMIT;
        loop {
            if let Some(locked) = DataDir::try_lock(path)? {
                return Ok(locked);
            }
            if Instant::now() >= deadline {
                return Err(Error::Config(format!(
                    "--data-dir: {} runs on {}; stop it, or name another directory",
                    named(path),
                    path.display()
                )));
            }
            thread::sleep(limits::LOCK_LOOK_INTERVAL);
        }
    }

    /// As `lock`, but without waiting: `None` if another process holds the lock.
    ///
    /// # Errors
    /// `Config` if the directory cannot be created or written.
    pub fn try_lock(path: &Path) -> Result<Option<DataDir>> {
        let cannot_use = |what: &Path, cause: &io::Error| {
            Error::Config(format!(
                "--data-dir: cannot use {}: {cause}; name a directory that mb may write to",
                what.display()
            ))
        };
        rights::check(path)?;
        own_files::make_folder(path).map_err(|cause| cannot_use(path, &cause))?;
        // Once and for all: a link that leads elsewhere later leads nobody there.
        let path = &fs::canonicalize(path).map_err(|cause| cannot_use(path, &cause))?;
        let lock_file = path.join(LOCK_FILE);
        let unusable = |cause: &io::Error| cannot_use(&lock_file, cause);
        check_file(&lock_file, "mb's lock")?;
        let mut file = own_files::open(&lock_file, true).map_err(|cause| unusable(&cause))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(errno) => return Err(unusable(&io::Error::from(errno))),
        }
        let write_pid = |file: &mut File| -> io::Result<()> {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write_pid(&mut file).map_err(|cause| unusable(&cause))?;
        own_files::tighten(path);
        // A file system that has no locks for folders is no reason to stop.
        let folder = File::open(path)
            .ok()
            .filter(|folder| flock(folder, FlockOperation::NonBlockingLockShared).is_ok());
        Ok(Some(DataDir { path: path.to_owned(), _lock: file, _folder: folder }))
    }

    /// Absolute, without links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The process that holds the lock on this directory, as errors name it, with its pid if that can be
    /// read; `None` if nobody holds it.
    pub fn holder(path: &Path) -> Option<String> {
        DataDir::is_held(path).then(|| named(path))
    }

    /// Whether a process holds the lock on this directory.
    pub fn is_held(path: &Path) -> bool {
        let Some(file) = open_to_look(path) else { return false };
        flock(&file, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
    }
}

/// Opens the lock's file without blocking, even if it is a FIFO.
fn open_to_look(path: &Path) -> Option<File> {
    own_files::open(&path.join(LOCK_FILE), false).ok()
}

/// The process that runs on this directory: with its pid, unless the file cannot be read.
fn named(path: &Path) -> String {
    let mut pid = String::new();
    if let Some(mut file) = open_to_look(path) {
        let _ = file.read_to_string(&mut pid);
    }
    match pid.trim() {
        "" => "another mb".to_owned(),
        pid => format!("another mb (pid {pid})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_second_process_names_the_holder_of_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/deep");
        assert!(!DataDir::is_held(&path));
        let held = DataDir::lock(&path).unwrap();
        assert!(DataDir::is_held(&path));
        let holder = format!("another mb (pid {})", std::process::id());
        assert_eq!(DataDir::holder(&path), Some(holder));
        let error = DataDir::lock(&path).unwrap_err();
        assert_eq!(error.exit_code(), 78);
        assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
        drop(held);
        assert_eq!(DataDir::holder(&path), None);
        DataDir::lock(&path).unwrap();
    }

    #[test]
    fn a_lock_that_is_released_soon_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let held = DataDir::lock(folder.path()).unwrap();
        assert!(DataDir::try_lock(folder.path()).unwrap().is_none());
        let path = folder.path().to_owned();
        let (tell, trying) = std::sync::mpsc::channel();
        let starting = thread::spawn(move || {
            tell.send(()).unwrap();
            DataDir::lock(&path)
        });
        trying.recv().unwrap();
        drop(held);
        starting.join().unwrap().unwrap();
    }

    #[test]
    fn two_processes_can_look_at_the_lock_at_the_same_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        drop(DataDir::lock(&path).unwrap());
        // What a command that looks at the lock holds for a moment.
        let asking = File::open(path.join(LOCK_FILE)).unwrap();
        flock(&asking, FlockOperation::NonBlockingLockShared).unwrap();
        assert!(!DataDir::is_held(&path));
        let starting = thread::spawn(move || DataDir::lock(&path));
        drop(asking);
        starting.join().unwrap().unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_created_is_a_configuration_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = DataDir::lock(&file.join("below")).unwrap_err();
        assert_eq!(error.exit_code(), 78);
        assert!(error.to_string().contains("--data-dir"), "{error}");
    }
}

//! The data directory and its lock: one process at a time, for as long as that process lives.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::error::{Error, Result};

const LOCK_FILE: &str = "mb.lock";

/// A locked data directory; the lock ends with this value, and with the process in any case.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the folder where it is missing, and locks it.
    ///
    /// # Errors
    /// `Config`: it cannot be made or written, or another mb runs on it.
    pub fn lock(path: &Path) -> Result<DataDir> {
        let cannot_use = |what: &Path, cause: &io::Error| {
            Error::Config(format!(
                "--data-dir: cannot use {}: {cause}; name a folder that mb may write to",
                what.display()
            ))
        };
        let lock_file = path.join(LOCK_FILE);
        let unusable = |cause: &io::Error| cannot_use(&lock_file, cause);
        fs::create_dir_all(path).map_err(|cause| cannot_use(path, &cause))?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_file)
            .map_err(|cause| unusable(&cause))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                // The number is a help for people; without it the message is still right.
                let _ = file.read_to_string(&mut holder);
                let holder = holder.trim();
                let who =
                    if holder.is_empty() { String::new() } else { format!(" (pid {holder})") };
                return Err(Error::Config(format!(
                    "--data-dir: another mb{who} runs on {}; stop it, or name another folder",
                    path.display()
                )));
            }
            Err(errno) => return Err(unusable(&io::Error::from(errno))),
        }
        let note = |file: &mut File| -> io::Result<()> {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        note(&mut file).map_err(|cause| unusable(&cause))?;
        Ok(DataDir { path: path.to_owned(), _lock: file })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The process that holds the lock on this folder, as errors name it: with its pid where that
    /// can be read.
    pub fn holder(path: &Path) -> Option<String> {
        if !DataDir::is_held(path) {
            return None;
        }
        let pid = fs::read_to_string(path.join(LOCK_FILE)).unwrap_or_default();
        Some(match pid.trim() {
            "" => "another mb".to_owned(),
            pid => format!("another mb (pid {pid})"),
        })
    }

    /// Whether some process holds the lock on this folder.
    pub fn is_held(path: &Path) -> bool {
        let Ok(file) = File::open(path.join(LOCK_FILE)) else { return false };
        flock(&file, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_is_told_who_holds_the_folder() {
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
    fn a_folder_that_cannot_be_made_is_a_configuration_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = DataDir::lock(&file.join("below")).unwrap_err();
        assert_eq!(error.exit_code(), 78);
        assert!(error.to_string().contains("--data-dir"), "{error}");
    }
}

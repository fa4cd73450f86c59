//! Syncs the history's journal (SQLite's write-ahead log) to the disk, so that intents survive a power cut.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;

use rusqlite::Connection;

use crate::config::own_files::with_ending;
use crate::model::error::{Error, Result};

/// SQLite's write-ahead log, which exists for as long as the history's connection is open. One descriptor is
/// kept for all that time, since the system reports an error in writing once to each descriptor.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    /// Why a sync failed once: from then on it is not known what is in the file.
    failed: OnceLock<String>,
}

impl Journal {
    /// `None` for a database in memory, one without a journal, and one whose path SQLite does not know.
    ///
    /// # Errors
    /// The system's, if the journal cannot be opened.
    pub(super) fn of(db: &Connection) -> io::Result<Option<Journal>> {
        let Some(path) = db.path().filter(|path| !path.is_empty()) else { return Ok(None) };
        match File::open(with_ending(Path::new(path), "-wal")) {
            Ok(file) => Ok(Some(Journal { file, failed: OnceLock::new() })),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(cause),
        }
    }

    /// Returns when all earlier transactions are on the disk. What has left the journal is in the database,
    /// which SQLite brings to the disk before it overwrites the journal.
    ///
    /// # Errors
    /// `Other`, and from then on each time: a later success says nothing about what an earlier sync should
    /// have written.
    pub(super) fn sync(&self) -> Result<()> {
        let cause = match self.failed.get() {
            Some(cause) => cause,
            None => match self.try_sync() {
                Ok(()) => return Ok(()),
                Err(cause) => self.failed.get_or_init(|| cause.to_string()),
            },
        };
        Err(Error::Other(format!(
            "the history may not be on the disk: {cause}; mb ends, and commits nothing more: the next \
             start may repeat what was done since the last commit"
        )))
    }

    fn try_sync(&self) -> io::Result<()> {
        self.file.sync_data()?;
        if self.file.metadata()?.nlink() == 0 {
            return Err(io::Error::new(io::ErrorKind::NotFound, "its journal was removed"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::schema;

    #[test]
    fn after_one_failed_sync_every_sync_fails() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.db");
        let db = schema::open(&path).unwrap();
        let journal = Journal::of(&db).unwrap().unwrap();
        assert_eq!(journal.sync(), Ok(()));
        let (name, other) = (with_ending(&path, "-wal"), with_ending(&path, "-other"));
        std::fs::rename(&name, &other).unwrap();
        assert_eq!(journal.sync(), Ok(()), "it is still the file that was written");
        std::fs::remove_file(other).unwrap();
        let error = journal.sync().unwrap_err();
        assert!(error.to_string().contains("removed"), "{error}");
        assert_eq!(journal.sync(), Err(error));
    }

    #[test]
    fn a_database_in_memory_has_no_journal() {
        let db = Connection::open_in_memory().unwrap();
        assert!(Journal::of(&db).unwrap().is_none());
    }
}

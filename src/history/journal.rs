//! The history's journal, for who has to know that what was written is on the disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;

use rusqlite::Connection;

use crate::config::data_dir::with_ending;
use crate::model::error::{Error, Result};

/// SQLite's write-ahead log, which is there for as long as the history's connection is open. One
/// descriptor for all that time: the system tells each descriptor once of an error in writing.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    /// Why it could not be synced once: what is in the file from then on is not known.
    failed: OnceLock<String>,
}

impl Journal {
    /// `None` for a database in memory, without a journal, or whose path SQLite cannot say.
    ///
    /// # Errors
    /// Where it cannot be opened.
    pub(super) fn of(db: &Connection) -> io::Result<Option<Journal>> {
        let Some(path) = db.path().filter(|path| !path.is_empty()) else { return Ok(None) };
        match File::open(with_ending(Path::new(path), "-wal")) {
            Ok(file) => Ok(Some(Journal { file, failed: OnceLock::new() })),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(cause),
        }
    }

    /// Returns when all transactions of before are on the disk. What the journal has not any more is in
    /// the database, which SQLite brings to the disk before it writes over the journal.
    ///
    /// # Errors
    /// `Other`, and from then on each time: that a later try succeeds says nothing of what an earlier
    /// one should have written.
    pub(super) fn sync(&self) -> Result<()> {
        let cause = match self.failed.get() {
            Some(cause) => cause,
            None => match self.try_sync() {
                Ok(()) => return Ok(()),
                Err(cause) => self.failed.get_or_init(|| cause.to_string()),
            },
        };
        Err(Error::Other(format!(
            "the history may not be on the disk: {cause}; mb ends, and commits nothing more: what it did \
             since its last commit may be done again"
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
    fn once_it_could_not_be_synced_it_never_can() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.db");
        let db = schema::open(&path).unwrap();
        let journal = Journal::of(&db).unwrap().unwrap();
        assert_eq!(journal.sync(), Ok(()));
        let (name, other) = (with_ending(&path, "-wal"), with_ending(&path, "-other"));
        std::fs::rename(&name, &other).unwrap();
        assert_eq!(journal.sync(), Ok(()), "it is where it was written to");
        std::fs::remove_file(other).unwrap();
        let error = journal.sync().unwrap_err();
        assert!(error.to_string().contains("removed"), "{error}");
        assert_eq!(journal.sync(), Err(error));
    }

    #[test]
    fn a_database_in_memory_has_none() {
        let db = Connection::open_in_memory().unwrap();
        assert!(Journal::of(&db).unwrap().is_none());
    }
}

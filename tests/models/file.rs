//! rusqlite, as far as the history's handle and writer name it, and what stands in for the history's file: the
//! writes that are in it, and the transactions that it refuses.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The disk is full, or somebody else is writing.
    Refused,
    Damaged,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A connection to a file, which a model keeps a clone of.
#[derive(Clone, Debug, Default)]
pub struct Connection(Arc<Mutex<File>>);

#[derive(Debug, Default)]
struct File {
    written: Vec<Written>,
    /// How many of them are on the disk.
    synced: usize,
    /// What becomes of the next transactions.
    refuses: usize,
    damaged_after: Option<usize>,
}

/// One write in the file, as text, with the runs that it plans or ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    Planned(Vec<i64>),
    Outcome(i64),
    Tick(usize),
    Reset(i32),
    /// The runs of the request that had started.
    Cancelled(Vec<i64>),
    Other,
}

pub struct Row;

impl Row {
    pub fn get<T: From<i64>>(&self, _index: usize) -> Result<T> {
        Ok(T::from(0))
    }
}

impl Connection {
    /// The file refuses this many transactions before it takes one.
    pub fn refuse(&self, transactions: usize) {
        self.file().refuses = transactions;
    }

    /// The file is damaged once it has taken this many transactions.
    pub fn damage_after(&self, transactions: usize) {
        self.file().damaged_after = Some(transactions);
    }

    pub fn written(&self) -> Vec<Written> {
        self.file().written.clone()
    }

    pub fn is_planned(&self, run: i64) -> bool {
        self.written()
            .iter()
            .any(|write| matches!(write, Written::Planned(runs) if runs.contains(&run)))
    }

    /// How many writes are on the disk.
    pub fn synced(&self) -> usize {
        self.file().synced
    }

    pub(crate) fn sync(&self) {
        let written = self.file().written.len();
        shuttle::thread::yield_now();
        self.file().synced = written;
    }

    /// Takes all of a transaction, or nothing.
    pub(crate) fn commit(&self, writes: Vec<Written>) -> Result<()> {
        let mut file = self.file();
        if file.damaged_after == Some(0) {
            return Err(Error::Damaged);
        }
        if file.refuses > 0 {
            file.refuses -= 1;
            return Err(Error::Refused);
        }
        file.damaged_after = file.damaged_after.map(|left| left - 1);
        file.written.extend(writes);
        Ok(())
    }

    pub fn path(&self) -> Option<&str> {
        None
    }

    pub fn execute_batch(&self, _sql: &str) -> Result<()> {
        Ok(())
    }

    pub fn query_row<T>(
        &self,
        _sql: &str,
        _parameters: [(); 0],
        read: impl FnOnce(&Row) -> Result<T>,
    ) -> Result<T> {
        read(&Row)
    }

    fn file(&self) -> MutexGuard<'_, File> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

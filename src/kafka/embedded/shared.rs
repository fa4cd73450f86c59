//! What all handles, consumers and producers of one topic file share: its connections, who waits for a change, and
//! the messages that producers have not written yet.

use std::path::{Path, PathBuf};
use std::sync::Weak;
use std::time::Instant;

use rusqlite::Connection;

use super::store::{self, failed};
use crate::model::error::Result;
use crate::model::sync::{Condvar, Mutex};

/// How many connections for reading are kept for the next consumer.
const IDLE_READERS: usize = 8;

/// A producer's messages that are not written yet.
pub(super) trait Unwritten: Send {
    /// Writes what is due; returns when the rest will be.
    fn write_if_due(&mut self, shared: &Shared, now: Instant) -> Option<Instant>;

    /// Writes everything that there is room for, in one transaction, and acknowledges it.
    fn write(&mut self, shared: &Shared);
}

/// What all handles, consumers and producers of one file share.
pub(super) struct Shared {
    pub(super) path: PathBuf,
    pub(super) retention_bytes: u64,
    pub(super) writer: Mutex<Connection>,
    readers: Mutex<Vec<Connection>>,
    /// Rises with every change that somebody may wait for; `changed` announces it.
    version: Mutex<u64>,
    changed: Condvar,
    /// Producers' messages that are not written yet. Readers write them when they are due.
    pub(super) outboxes: Mutex<Vec<Weak<Mutex<dyn Unwritten>>>>,
    /// The topic and group that the log has named as the reason why retention makes no room.
    pub(super) held_back: Mutex<Option<(String, Option<String>)>>,
}

impl Shared {
    pub(super) fn open(path: &Path, retention_bytes: u64) -> Result<Shared> {
        Ok(Shared {
            path: path.to_owned(),
            retention_bytes,
            writer: Mutex::new(store::open_writer(path)?),
            readers: Mutex::default(),
            version: Mutex::new(0),
            changed: Condvar::new(),
            outboxes: Mutex::default(),
            held_back: Mutex::default(),
        })
    }

    /// Runs `body` on a connection for reading. After an error the connection is not used again.
    pub(super) fn read<T>(
        &self,
        doing: &str,
        body: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T> {
        let reader = self.take_reader(doing)?;
        let result = body(&reader)?;
        self.give_reader(reader);
        Ok(result)
    }

    pub(super) fn take_reader(&self, doing: &str) -> Result<Connection> {
        let idle = self.readers.lock().pop();
        match idle {
            Some(reader) => Ok(reader),
            None => store::open_reader(&self.path).map_err(failed(doing)),
        }
    }

    pub(super) fn give_reader(&self, reader: Connection) {
        let mut readers = self.readers.lock();
        if readers.len() < IDLE_READERS {
            readers.push(reader);
        }
    }

    pub(super) fn version(&self) -> u64 {
        *self.version.lock()
    }

    /// Announces new records, partitions or commits to all who wait.
    pub(super) fn notify(&self) {
        *self.version.lock() += 1;
        self.changed.notify_all();
    }

    /// Waits until something has changed since version `seen`, at most until `until`.
    pub(super) fn wait(&self, seen: u64, until: Instant) {
        let mut version = self.version.lock();
        while *version == seen {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            self.changed.wait_for(&mut version, left);
        }
    }

    /// Writes what producers have held for long enough; returns when the next write is due. No thread exists for
    /// these writes: whoever reads does them, so a lone message is seen in time.
    pub(super) fn settle(&self) -> Option<Instant> {
        self.each_outbox(|outbox| outbox.write_if_due(self, Instant::now()))
    }

    /// Writes everything that producers hold.
    pub(super) fn settle_all(&self) {
        self.each_outbox(|outbox| {
            outbox.write(self);
            None
        });
    }

    fn each_outbox(
        &self,
        mut visit: impl FnMut(&mut dyn Unwritten) -> Option<Instant>,
    ) -> Option<Instant> {
        let outboxes: Vec<_> = self.outboxes.lock().iter().filter_map(Weak::upgrade).collect();
        outboxes.iter().filter_map(|outbox| visit(&mut *outbox.lock())).min()
    }
}

//! A pipeline's threads by name, until they are joined.

use std::collections::BTreeMap;

use crate::model::error::Error;
use crate::model::thread::Thread;

/// Threads by name, until they are joined.
#[derive(Default)]
pub(super) struct Threads {
    running: BTreeMap<String, Thread<()>>,
    /// The first one that a thread ended by.
    pub(super) panic: Option<Error>,
}

impl Threads {
    pub(super) fn add(&mut self, thread: Thread<()>) {
        let before = self.running.insert(thread.name().to_owned(), thread);
        assert!(before.is_none(), "no two threads have one name");
    }

    /// Whether a thread whose name begins so is not joined yet.
    pub(super) fn has(&self, name: &str) -> bool {
        self.running.keys().any(|known| known.starts_with(name))
    }

    /// Whether the thread of this very name is not joined yet.
    pub(super) fn is_running(&self, name: &str) -> bool {
        self.running.contains_key(name)
    }

    /// Joins a thread that said farewell; false where there is none of that name. Its panic is
    /// kept.
    pub(super) fn join(&mut self, name: &str) -> bool {
        let Some(thread) = self.running.remove(name) else { return false };
        if let Err(panic) = thread.join() {
            self.panic.get_or_insert(panic);
        }
        true
    }

    /// Joins all threads but the one of this name, however long that takes.
    pub(super) fn join_others_than(&mut self, name: &str) {
        let others: Vec<_> = self.running.keys().filter(|known| *known != name).cloned().collect();
        for other in others {
            self.join(&other);
        }
    }
}

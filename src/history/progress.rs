//! How far the history thread is: which runs are in the file, and whether it fails or has ended. Workers wait here
//! until their run's range is written.

use std::sync::Arc;

use super::inbox::Inbox;
use super::write::Write;
use crate::config::limits;
use crate::model::clock;
use crate::model::run::RunId;
use crate::model::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use crate::model::sync::{Condvar, Mutex};

#[derive(Debug)]
pub(super) struct Progress {
    /// Every run up to this number is in the file.
    planned: AtomicI64,
    /// The file cannot be written for now.
    failing: AtomicBool,
    /// Nothing more will be written.
    ended: AtomicBool,
    /// mb is stopping: nobody waits for a run to be planned any more.
    stopping: AtomicBool,
    changed: (Mutex<()>, Condvar),
    /// How many wait for a change, or are about to. With none, a change wakes nobody and so makes no system
    /// call. Each side writes its own value before it reads the other's, in one order for all (`SeqCst`).
    waiting: AtomicUsize,
}

impl Progress {
    /// Of a file that has runs up to `newest`.
    pub fn new(newest: i64) -> Progress {
        Progress {
            planned: AtomicI64::new(newest),
            failing: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            changed: (Mutex::new(()), Condvar::new()),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Every run up to this number is in the file.
    pub fn planned(&self, newest: RunId) {
        self.planned.store(newest.0, Ordering::SeqCst);
        self.announce();
    }

    pub fn set_failing(&self, failing: bool) {
        self.failing.store(failing, Ordering::SeqCst);
        self.announce();
    }

    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::SeqCst)
    }

    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Ends all waits for planned runs, now and later.
    pub fn stop_waiting(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.announce();
    }

    /// Waits until the run is in the file and the file can be written. False if mb stops, or the history
    /// ends, before that.
    pub fn wait_planned(&self, run: RunId) -> bool {
        while !self.can_start(run) {
            if self.is_over() {
                return false;
            }
            if !clock::wait_simulated(limits::HISTORY_RETRY_INTERVAL) {
                self.waiting.fetch_add(1, Ordering::SeqCst);
                let can_start = self.wait_for_thread(run);
                self.waiting.fetch_sub(1, Ordering::SeqCst);
                return can_start;
            }
        }
        true
    }

    fn wait_for_thread(&self, run: RunId) -> bool {
        let (lock, changed) = &self.changed;
        let mut guard = lock.lock();
        loop {
            if self.can_start(run) {
                return true;
            }
            if self.is_over() {
                return false;
            }
            changed.wait(&mut guard);
        }
    }

    fn can_start(&self, run: RunId) -> bool {
        self.planned.load(Ordering::SeqCst) >= run.0 && !self.is_failing()
    }

    fn is_over(&self) -> bool {
        self.has_ended() || self.stopping.load(Ordering::SeqCst)
    }

    fn announce(&self) {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        drop(self.changed.0.lock());
        self.changed.1.notify_all();
    }
}

/// Wakes every thread that waits for the history thread when that ends, even by a panic.
pub(super) struct ExitGuard {
    pub progress: Arc<Progress>,
    pub inbox: Arc<Inbox<Write>>,
}

impl Drop for ExitGuard {
    fn drop(&mut self) {
        self.progress.ended.store(true, Ordering::SeqCst);
        self.inbox.abandon();
        self.progress.announce();
    }
}

//! How the thread `requests` learns of new work, and how others learn whether any is left.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::config::limits;
use crate::history::History;
use crate::model::error::{Error, Result};
use crate::model::sync::Mutex;
use crate::model::sync::atomic::{AtomicU64, Ordering};
use crate::runs::queue::RunQueue;

/// The work signal of redrives and replays, shared by whoever makes requests and the thread that works on them.
#[derive(Debug)]
pub struct WorkSignal {
    queue: Arc<RunQueue>,
    history: Arc<History>,
    wake: Sender<()>,
    /// Holds one message if the thread has looked and nothing was left.
    rests: Sender<()>,
    /// How often there was news.
    raised: AtomicU64,
    /// What `raised` was when the thread found nothing left to do in this process.
    idle_at: AtomicU64,
    /// Requests that only another process can go on with, and why.
    blocked: Mutex<BTreeMap<i64, String>>,
}

const NEVER: u64 = u64::MAX;

impl WorkSignal {
    /// A signal; what it wakes; and what gets a message when nothing is left.
    pub fn new(
        queue: &Arc<RunQueue>,
        history: &Arc<History>,
    ) -> (Arc<WorkSignal>, Receiver<()>, Receiver<()>) {
        let (wake, woken) = bounded(1);
        let (rests, rest) = bounded(1);
        let signal = WorkSignal {
            queue: Arc::clone(queue),
            history: Arc::clone(history),
            wake,
            rests,
            raised: AtomicU64::new(0),
            idle_at: AtomicU64::new(NEVER),
            blocked: Mutex::default(),
        };
        (Arc::new(signal), woken, rest)
    }

    /// There may be a new request.
    pub fn raise(&self) {
        self.raised.fetch_add(1, Ordering::AcqRel);
        // Full: the thread is about to look anyway.
        let _ = self.wake.try_send(());
    }

    /// Whether nothing was left to do in this process when the thread looked last: no request, or only
    /// requests that are blocked.
    pub fn is_idle(&self) -> bool {
        self.idle_at.load(Ordering::Acquire) == self.raised.load(Ordering::Acquire)
    }

    /// Cancels open requests. First in the queue, so that none of their runs starts after the look at those
    /// that have; then in the history, after the outcomes of all runs that ended before.
    ///
    /// # Errors
    /// `Other` if the history cannot be written in time.
    pub fn cancel(&self, requests: &[i64], note: &str) -> Result<()> {
        let started = requests.iter().map(|request| (*request, self.queue.cancel(*request)));
        let written = self.history.cancel(started.collect(), note, limits::HISTORY_STOP_LIMIT);
        self.raise();
        if written {
            return Ok(());
        }
        Err(Error::Other(
            "the history could not be written yet: no run of these requests starts any more, and they \
             are cancelled once it can be; see mb requests list"
                .to_owned(),
        ))
    }

    /// Requests that stay open for another process: each with the reason.
    pub fn blocked(&self) -> BTreeMap<i64, String> {
        self.blocked.lock().clone()
    }

    /// How often there was news so far. Read it before looking for work: news that comes after is found by
    /// the next look.
    pub(super) fn raised(&self) -> u64 {
        self.raised.load(Ordering::Acquire)
    }

    /// What the thread found when it looked: the requests that are blocked, and what `raised` was, if there
    /// is nothing else left to do.
    pub(super) fn looked(&self, blocked: BTreeMap<i64, String>, idle_at: Option<u64>) {
        *self.blocked.lock() = blocked;
        self.idle_at.store(idle_at.unwrap_or(NEVER), Ordering::Release);
        if idle_at.is_some() {
            // Full: the message of the last time was not taken yet.
            let _ = self.rests.try_send(());
        }
    }
}

//! `model::clock` over shuttle.
//!
//! At first time stands still: no wait with a time limit ends by itself, so a model passes only if nothing relies
//! on a time limit to make up for a lost wake-up. Once a model has called `let_pass`, each wait for less than a
//! minute ends early, whenever the scheduler likes.

use std::cell::Cell;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_secs(60);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

// All threads of a model are on one thread of the system.
thread_local! {
    /// How much time has passed; `None` while it stands still.
    static PASSED: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// The beginning of a model.
pub fn stand_still() {
    PASSED.set(None);
}

/// From now on time passes.
pub fn let_pass() {
    PASSED.set(Some(Duration::ZERO));
}

pub fn now() -> Instant {
    *START + PASSED.get().unwrap_or_default()
}

pub fn now_ms() -> i64 {
    0
}

pub fn wait_simulated(_limit: Duration) -> bool {
    false
}

pub fn sleep(_limit: Duration) {
    shuttle::thread::yield_now();
}

/// Whether a wait of this length ends by itself.
pub fn ends(limit: Duration) -> bool {
    PASSED.get().is_some() && limit < SHORT
}

/// The caller waits for something, `limit` at most, and the time passes meanwhile.
pub fn pass(limit: Duration) {
    shuttle::thread::yield_now();
    PASSED.set(PASSED.get().map(|passed| passed + limit));
}

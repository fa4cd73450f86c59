//! Named places between two steps of a record's way. A test sets `MB_CRASH_AT`, and the process is killed
//! when it gets there, as by kill -9. Without the feature `testing` there are no such places.

/// One of `POINTS` is reached.
#[cfg(not(feature = "testing"))]
#[inline(always)]
pub(crate) fn point(_name: &str) {}

#[cfg(feature = "testing")]
pub use armed::{POINTS, point};

#[cfg(feature = "testing")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    /// Every point, in the order in which a record passes them.
    pub const POINTS: &[&str] = &[
        // A batch is cut, and its range is on its way to the history.
        "cut",
        // The range is in the history; no worker knows that yet.
        "planned",
        // The file of the step `files` is complete, but not yet at its place.
        "half-written",
        // The step is done; nothing else knows that yet.
        "stepped",
        // The dead letters are on their topic; nothing else knows that yet.
        "dead-letter-acked",
        // The transaction with the outcome is written, but not committed.
        "recording",
        // The outcome is in the history; the ledger does not know that yet.
        "recorded",
        // A run is split in the history; the worker does not know that yet.
        "split",
        // The intent is in the history; the commit is not sent.
        "intended",
        // The log has the commit; the history does not have its confirmation.
        "committed",
        // The history has the confirmation.
        "confirmed",
        // The history is ready for offsets that a person moves; the log does not have them yet.
        "move-intended",
        // The log has the moved offsets; the history does not have their confirmation.
        "move-committed",
    ];

    /// What `MB_CRASH_AT=POINT` or `MB_CRASH_AT=POINT:N` asks for: the N-th passing, counted from 1.
    struct Plan {
        point: String,
        passings_left: AtomicU64,
    }

    fn plan() -> Option<&'static Plan> {
        static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
        let read = || {
            let text = std::env::var("MB_CRASH_AT").ok()?;
            let (point, passing) = text.split_once(':').unwrap_or((&text, "1"));
            assert!(
                POINTS.contains(&point),
                "MB_CRASH_AT: got {point}, expected one of {POINTS:?}"
            );
            let passing = passing.parse().expect("MB_CRASH_AT: a number behind the colon");
            Some(Plan { point: point.to_owned(), passings_left: AtomicU64::new(passing) })
        };
        PLAN.get_or_init(read).as_ref()
    }

    /// One of `POINTS` is reached: if `MB_CRASH_AT` names it, the process is gone after this.
    pub fn point(name: &str) {
        debug_assert!(POINTS.contains(&name), "{name} is missing in POINTS");
        let Some(plan) = plan().filter(|plan| plan.point == name) else { return };
        if plan.passings_left.fetch_sub(1, Ordering::SeqCst) == 1 {
            // Without destructors and buffers being written, as the real thing.
            let _ = kill_process(getpid(), Signal::KILL);
            loop {
                std::thread::park();
            }
        }
    }
}

//! The history thread with writes that have queued up, and a count of the transactions that it makes
//! of them.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::bounded;
use mb::history::{self, AttemptRecord, History, Outcome, Planned, ScopeId, schema};
use mb::model::offset::{Offset, OffsetRange, RunKey};
use mb::model::run::{RunId, RunState};
use rusqlite::{Connection, ffi};

const LIMIT: Duration = Duration::from_secs(60);

/// Transactions in which the plans and outcomes of `runs` runs are written, all of which had queued up
/// before.
pub fn of_queued_runs(runs: i64) -> u64 {
    let dir = tempfile::tempdir().expect("a folder for temporary files");
    let db = schema::open(&dir.path().join(history::FILE)).expect("a fresh history");
    db.execute("INSERT INTO scopes VALUES (1, 'kafka', '', 'g', 't', '', 0)", []).expect("a scope");
    let commits = count_commits(&db);
    let (entered, enters) = bounded(1);
    let (let_go, waits) = bounded::<()>(0);
    // Behind its first transaction the thread waits here, and everything else queues up.
    let settled = move |_: &[_]| {
        let _ = entered.try_send(());
        let _ = waits.recv();
    };
    let (history, thread) =
        History::start(db, ScopeId(1), "rdkafka", 100_000, settled).expect("a history thread");
    run(&history, 0);
    enters.recv_timeout(LIMIT).expect("the first run is written");
    for number in 1..=runs {
        run(&history, number);
    }
    let before = commits.load(Ordering::Relaxed);
    drop(let_go);
    assert!(history.flush(LIMIT), "not written within {LIMIT:?}");
    let made = commits.load(Ordering::Relaxed) - before;
    history.close();
    thread.join().expect("it ends in order");
    let db = schema::open_read_only(&dir.path().join(history::FILE)).expect("it is there");
    let done = "SELECT count(*) FROM runs WHERE state = ?1";
    let done: i64 =
        db.query_row(done, [RunState::Succeeded.code()], |row| row.get(0)).expect("it can be read");
    assert_eq!(done, runs + 1);
    made
}

fn run(history: &History, number: i64) {
    let range = OffsetRange::new(Offset::new(number), Offset::new(number));
    let key = RunKey::new("t", 0, range);
    let planned = Planned::whole(key.clone(), 1, 100);
    let id: RunId = history.plan(vec![planned]).expect("it goes on");
    let attempt =
        AttemptRecord { number: 1, started_ms: 1, run_us: 1, worker: 0, error: None, output: None };
    let outcome = Outcome {
        id,
        key,
        state: RunState::Succeeded,
        records: 1,
        attempt,
        whole: range,
        dead_letters: None,
    };
    assert!(history.outcome(outcome));
}

/// Rises with each transaction that the connection commits (SQLite's commit hook, by its C function:
/// crate rusqlite has it behind a feature that mb does not need).
fn count_commits(db: &Connection) -> &'static AtomicU64 {
    unsafe extern "C" fn count(commits: *mut c_void) -> c_int {
        // SAFETY: what was registered below, which is never freed.
        unsafe { &*commits.cast::<AtomicU64>() }.fetch_add(1, Ordering::Relaxed);
        0
    }
    let commits: &'static AtomicU64 = Box::leak(Box::default());
    let argument = std::ptr::from_ref(commits).cast_mut().cast();
    // SAFETY: the handle is open, and both function and argument outlive it.
    unsafe { ffi::sqlite3_commit_hook(db.handle(), Some(count), argument) };
    commits
}

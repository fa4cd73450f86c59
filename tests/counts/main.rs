//! What mb's work takes, in numbers that do not depend on how fast the machine is: allocations,
//! transactions, system calls, each against a written bound. No test of this project asserts a time.
//!
//! Each test prints what it measured (`cargo test --profile ci --test counts -- --nocapture`). Where a
//! number goes down for good, its row in the table goes down with it.

mod allocations;
mod building;
mod one_thread;
mod traced;
mod transactions;

use std::sync::{Mutex, MutexGuard, PoisonError};

use traced::Calls;

struct Bound {
    what: &'static str,
    /// For people: what it was when the row was written, or from where to where it went.
    measured: &'static str,
    at_most: f64,
}

const fn bound(what: &'static str, measured: &'static str, at_most: f64) -> Bound {
    Bound { what, measured, at_most }
}

// On one thread the same is counted in every run, so these have hardly any room.
const BUILD: Bound = bound("allocations to build a batch of 500", "3", 3.0);
const RUN_OF_500: Bound = bound("allocations of a run of 500 records", "12.26", 12.5);
const RUN_OF_1: Bound = bound("allocations of a run of 1 record", "12.26", 12.5);
const QUEUED: Bound = bound("transactions per 1000 runs that had queued up", "1.22", 1.5);

// Of the built binary, per 1000 runs, of one record and of 500. Its threads meet as the system lets
// them, and it commits by the clock, so these have room; but one call more per run is 1000 more here,
// which most of them have no room for. Runs of one record queue up, and share transactions. Those of
// 500 come more slowly than the history can be written: some have one for themselves.
const CALLS_1: Bound = bound("system calls per 1000 runs of 1", "370-550", 1200.0);
const CALLS_500: Bound = bound("system calls per 1000 runs of 500", "19720-22000", 38_000.0);
const TRANSACTIONS_1: Bound = bound("transactions per 1000 runs of 1", "15-27", 100.0);
const TRANSACTIONS_500: Bound = bound("transactions per 1000 runs of 500", "265-400", 1000.0);
const PWRITE_1: Bound = bound("pwrite64 per 1000 runs of 1", "180-235", 700.0);
const PWRITE_500: Bound = bound("pwrite64 per 1000 runs of 500", "930-1500", 3000.0);
const SYNC_1: Bound = bound("fsync and fdatasync per 1000 runs of 1", "0-1", 20.0);
const SYNC_500: Bound = bound("fsync and fdatasync per 1000 runs of 500", "2-37", 100.0);
const READS_500: Bound = bound("pread64 of topic.db per 1000 runs of 500", "14890-15540", 16_000.0);
const WRITE_1: Bound = bound("write per 1000 runs of 1", "0", 20.0);
const WRITE_500: Bound = bound("write per 1000 runs of 500", "0", 20.0);
const MEMORY_1: Bound = bound("calls for memory per 1000 runs of 1", "-17 to 1", 50.0);
const MEMORY_500: Bound = bound("calls for memory per 1000 runs of 500", "-52 to 280", 800.0);

impl Bound {
    /// Says what was measured; whether it holds.
    fn holds(&self, now: f64) -> bool {
        let Bound { what, measured, at_most } = self;
        let holds = now <= *at_most;
        let word = if holds { "ok" } else { "TOO MANY" };
        println!("{what}: {now:.2}, at most {at_most} (measured then: {measured}) {word}");
        holds
    }

    fn assert(&self, now: f64) {
        let Bound { what, measured, at_most } = self;
        assert!(self.holds(now), "{what}: {now:.2}, at most {at_most} (it was {measured})");
    }
}

/// What `twice` takes more than `once`, for each of `units`.
fn per(units: u64, once: u64, twice: u64) -> f64 {
    (twice as f64 - once as f64) / units as f64
}

#[test]
fn a_record_put_into_a_batch_allocates_nothing() {
    const BATCHES: usize = 100;
    let [small, large] = [500, 5000].map(|records| building::build(BATCHES, records));
    assert_eq!(small, large, "batches of 500, batches of 5000: a record may cost no allocation");
    BUILD.assert(per(BATCHES as u64, 0, small));
}

/// Allocations of 1000 runs of so many records: by a difference, so that the start falls out, and with
/// it what the first run learns; behind a drain that counts for nothing but what a thread needs once.
fn of_1000_runs(records: usize) -> u64 {
    one_thread::drain(1, records);
    let [once, twice] = [1000, 2000].map(|batches| one_thread::drain(batches, records));
    twice - once
}

#[test]
fn a_record_on_its_way_through_mb_allocates_nothing() {
    let [small, large] = [500, 1000].map(of_1000_runs);
    assert_eq!(small, large, "1000 runs of 500, and of 1000: a record may cost no allocation");
}

#[test]
fn a_run_allocates_little() {
    for (records, bound) in [(500, RUN_OF_500), (1, RUN_OF_1)] {
        bound.assert(of_1000_runs(records) as f64 / 1000.0);
    }
}

#[test]
fn runs_that_queue_up_share_transactions() {
    // Two writes each: as many as the history's channel holds.
    const RUNS: i64 = mb::config::limits::HISTORY_QUEUE_WRITES as i64 / 2;
    let made = transactions::of_queued_runs(RUNS);
    QUEUED.assert(per(1, 0, made) * 1000.0 / RUNS as f64);
}

/// Two traced processes at once would only wait for one another.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Bounds {
    calls: Bound,
    transactions: Bound,
    pwrite: Bound,
    reads: Option<Bound>,
    sync: Bound,
    write: Bound,
    memory: Bound,
}

/// Drains `runs` runs and twice as many: what the second takes more is the runs', and neither start
/// nor end.
fn hold_traced(runs: u64, batch: u64, bounds: &Bounds) {
    let _alone = alone();
    let [once, twice] = [1, 2].map(|times| traced::drain(times * runs * batch, batch));
    println!("{runs} runs took {:?}, twice as many {:?}", once.took, twice.took);
    let per_1000 = |of: &dyn Fn(&Calls) -> u64| per(runs, of(&once), of(&twice)) * 1000.0;
    let memory = ["mmap", "munmap", "mremap", "brk", "madvise"];
    let holds = [
        bounds.calls.holds(per_1000(&Calls::all)),
        bounds.transactions.holds(per_1000(&|calls| calls.transactions)),
        bounds.pwrite.holds(per_1000(&|calls| calls.of(&["pwrite64", "pwritev"]))),
        bounds
            .reads
            .as_ref()
            .is_none_or(|reads| reads.holds(per_1000(&|calls| calls.on(&["pread64"], "topic.db")))),
        bounds.sync.holds(per_1000(&|calls| calls.of(&["fsync", "fdatasync"]))),
        bounds.write.holds(per_1000(&|calls| calls.of(&["write", "writev"]))),
        bounds.memory.holds(per_1000(&|calls| calls.of(&memory))),
    ];
    assert!(
        holds.iter().all(|holds| *holds),
        "TOO MANY of some system calls, see the lines above; the most frequent ones of {} runs:\n{}",
        2 * runs,
        twice.most()
    );
}

#[test]
fn a_run_of_one_record_asks_little_of_the_system() {
    let bounds = Bounds {
        calls: CALLS_1,
        transactions: TRANSACTIONS_1,
        pwrite: PWRITE_1,
        reads: None,
        sync: SYNC_1,
        write: WRITE_1,
        memory: MEMORY_1,
    };
    hold_traced(3000, 1, &bounds);
}

#[test]
fn a_run_of_500_records_asks_little_of_the_system() {
    let bounds = Bounds {
        calls: CALLS_500,
        transactions: TRANSACTIONS_500,
        pwrite: PWRITE_500,
        reads: Some(READS_500),
        sync: SYNC_500,
        write: WRITE_500,
        memory: MEMORY_500,
    };
    hold_traced(600, 500, &bounds);
}

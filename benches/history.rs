//! The history writer: plans and outcomes of 10,000 runs into a fresh SQLite file, on a temporary
//! folder. By its thread, as in mb, and stepped: then transactions of 1, 100 and 4096 writes, which
//! shows what sharing them is worth.
//!
//! `cargo bench --bench history`. Throughput is in runs.

use std::time::Duration;

use criterion::{
    BatchSize, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use mb::history::{self, AttemptRecord, History, Outcome, Planned, ScopeId, schema};
use mb::model::offset::{Offset, OffsetRange, RunKey};
use mb::model::run::RunState;
use rusqlite::Connection;
use tempfile::TempDir;

const RUNS: i64 = 10_000;
/// Runs that may queue up in the history's inbox, with two writes each.
const PART: i64 = mb::config::limits::HISTORY_QUEUE_WRITES as i64 / 2;
const LIMIT: Duration = Duration::from_secs(60);
const KEEP_RUNS: u64 = 100_000;

fn fresh() -> (TempDir, Connection) {
    let dir = tempfile::tempdir().expect("a folder for temporary files");
    let db = schema::open(&dir.path().join(history::FILE)).expect("a fresh history");
    db.execute("INSERT INTO scopes VALUES (1, 'kafka', '', 'g', 't', '', 0)", []).expect("a scope");
    (dir, db)
}

/// Plan and outcome of a run of 50 records.
fn run(history: &History, number: i64) {
    let range = OffsetRange::new(Offset::new(number * 50), Offset::new(number * 50 + 49));
    let key = RunKey::new("orders", 0, range);
    let planned = Planned::whole(key.clone(), 50, 5000);
    let id = history.plan(vec![planned]).expect("it goes on");
    let attempt =
        AttemptRecord { number: 1, started_ms: 1, run_us: 1, worker: 0, error: None, output: None };
    let outcome = Outcome {
        id,
        key,
        state: RunState::Succeeded,
        records: 50,
        attempt,
        whole: range,
        dead_letters: None,
    };
    assert!(history.outcome(outcome));
}

fn by_its_thread(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("history");
    group.throughput(Throughput::Elements(RUNS as u64)).sampling_mode(SamplingMode::Flat);
    group.bench_function("its thread", |bencher| {
        let start = || {
            let (dir, db) = fresh();
            let started = History::start(db, ScopeId(1), "rdkafka", KEEP_RUNS, |_| {});
            (dir, started.expect("a history thread"))
        };
        bencher.iter_batched(
            start,
            |(dir, (history, thread))| {
                (0..RUNS).for_each(|number| run(&history, number));
                assert!(history.flush(LIMIT));
                (dir, history, thread)
            },
            BatchSize::PerIteration,
        );
    });
    for writes in [1, 100, 4096] {
        let step = || {
            let (dir, db) = fresh();
            let writer = History::without_thread(db, ScopeId(1), "rdkafka", KEEP_RUNS, |_| {});
            (dir, writer.expect("a history"))
        };
        group.bench_function(BenchmarkId::new("writes per transaction", writes), |bencher| {
            bencher.iter_batched_ref(
                step,
                |(_, (history, writer))| {
                    for first in (0..RUNS).step_by(PART as usize) {
                        let end = RUNS.min(first + PART);
                        (first..end).for_each(|number| run(history, number));
                        while writer.waiting() > 0 {
                            writer.write(writes).expect("the file can be written");
                            writer.conclude();
                        }
                    }
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_secs(2));
    targets = by_its_thread
}
criterion_main!(benches);

//! The ledgers: batches go into flight, are settled in order and out of it, and after each settlement
//! it is asked what may be committed. One partition, and sixteen with their lock.
//!
//! `cargo bench --bench ledger`. Throughput is in batches.

use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mb::commit::ledger::Ledger;
use mb::commit::ledgers::Ledgers;
use mb::history::Settled;
use mb::model::offset::{Offset, OffsetRange, Partition};
use mb::model::run::RunState;

/// Batches in flight at once: what queue and workers have by default.
const IN_FLIGHT: i64 = 105;
const ROUNDS: i64 = 100;
const BATCHES: u64 = (IN_FLIGHT * ROUNDS) as u64;
const RECORDS: i64 = 50;

fn range(batch: i64) -> OffsetRange {
    OffsetRange::new(Offset::new(batch * RECORDS), Offset::new((batch + 1) * RECORDS - 1))
}

/// The orders in which the batches in flight end.
fn orders() -> [(&'static str, Vec<i64>); 3] {
    let mut random = fastrand::Rng::with_seed(1);
    let mut shuffled: Vec<i64> = (0..IN_FLIGHT).collect();
    random.shuffle(&mut shuffled);
    [
        ("in order", (0..IN_FLIGHT).collect()),
        ("shuffled", shuffled),
        ("backwards", (0..IN_FLIGHT).rev().collect()),
    ]
}

fn one_partition(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ledger");
    group.throughput(Throughput::Elements(BATCHES));
    for (name, order) in orders() {
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            let fresh = || Ledger::new(Offset::ZERO, Some(Offset::ZERO));
            bencher.iter_batched_ref(
                fresh,
                |ledger| {
                    for round in 0..ROUNDS {
                        let first = round * IN_FLIGHT;
                        (0..IN_FLIGHT).for_each(|batch| ledger.register(range(first + batch), 1));
                        for batch in &order {
                            ledger.done(range(first + batch));
                            if let Some(offset) = ledger.to_commit() {
                                ledger.confirm(offset);
                            }
                        }
                    }
                    assert_eq!(ledger.in_flight(), 0);
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn many_partitions(criterion: &mut Criterion) {
    const PARTITIONS: Partition = 16;
    let mut group = criterion.benchmark_group("ledgers of 16 partitions");
    group.throughput(Throughput::Elements(BATCHES));
    for (name, order) in orders() {
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            let fresh = || {
                let ledgers = Ledgers::default();
                for partition in 0..PARTITIONS {
                    ledgers.add(partition, Ledger::new(Offset::ZERO, Some(Offset::ZERO)));
                }
                ledgers
            };
            bencher.iter_batched_ref(
                fresh,
                |ledgers| {
                    for round in 0..ROUNDS {
                        let first = round * IN_FLIGHT;
                        let of = |batch: i64| (batch % i64::from(PARTITIONS)) as Partition;
                        for batch in first..first + IN_FLIGHT {
                            ledgers.register(of(batch), range(batch), 1, None);
                        }
                        // As the history thread does, several with one transaction.
                        for some in order.chunks(8) {
                            let settled: Vec<Settled> = some
                                .iter()
                                .map(|batch| Settled {
                                    partition: of(first + batch),
                                    batch: range(first + batch),
                                    state: RunState::Succeeded,
                                })
                                .collect();
                            ledgers.settle(&settled);
                        }
                        let due = ledgers.to_commit();
                        ledgers.confirm(&due);
                    }
                    assert_eq!(ledgers.in_flight(), 0);
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = one_partition, many_partitions
}
criterion_main!(benches);

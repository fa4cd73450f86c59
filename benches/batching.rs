//! Batch building as a sensor drives it: records of 100 bytes from a client's buffer into batches, the
//! memory had from the budget record by record.
//!
//! `cargo bench --bench batching`; one of them with its name behind it, as in `-- 500`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mb::config::limits;
use mb::model::batch::Record;
use mb::model::budget::Budget;
use mb::model::offset::Offset;
use mb::source::batcher::{BatchLimits, Batcher};

/// Records of one iteration.
const RECORDS: usize = 10_000;

fn building(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batching");
    group.throughput(Throughput::Elements(RECORDS as u64));
    let value = [b'x'; 100];
    for max_records in [1, 50, 500] {
        let limits = BatchLimits {
            max_records,
            max_bytes: 1 << 20,
            max_wait: Duration::from_millis(100),
            batch_overhead: limits::RUN_OVERHEAD_BYTES,
            record_overhead: 0,
        };
        let budget = Budget::new(32 << 20);
        let mut batcher = Batcher::new(limits, Offset::ZERO, Vec::new());
        let mut next = Offset::ZERO;
        let now = Instant::now();
        group.bench_function(BenchmarkId::from_parameter(max_records), |bencher| {
            bencher.iter(|| {
                for _ in 0..RECORDS {
                    let record = Record {
                        offset: next,
                        timestamp: Some(1),
                        value: Some(black_box(&value)),
                        ..Record::default()
                    };
                    next = next.next();
                    while let Some(cut) = batcher.cut_before(record.offset, record.payload_bytes())
                    {
                        batcher.accepted(cut.range());
                    }
                    assert!(batcher.wants(record.offset));
                    let permit = budget.try_acquire(batcher.needs(&record)).expect("there is room");
                    batcher.take(record, permit, now);
                    if let Some(cut) = batcher.cut_if_full() {
                        batcher.accepted(cut.range());
                        black_box(cut);
                    }
                }
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = building
}
criterion_main!(benches);

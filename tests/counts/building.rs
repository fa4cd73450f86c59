//! Batch building alone: records go into a batcher as the sensor's tick puts them there.

use std::time::{Duration, Instant};

use mb::config::limits;
use mb::model::batch::{Batch, Record};
use mb::model::budget::Budget;
use mb::model::headers::Headers;
use mb::model::offset::Offset;
use mb::source::batcher::{BatchLimits, Batcher, Cut};

use crate::allocations::allocations;

/// With a key, a timestamp and headers: none of them may cost an allocation.
pub fn record<'a>(offset: i64, headers: &'a [u8]) -> Record<'a> {
    Record {
        offset: Offset::new(offset),
        timestamp: Some(offset),
        key: Some(b"key-0000"),
        value: Some(&[b'x'; 92]),
        headers: Headers::decode(headers).expect("well-formed"),
        ..Record::default()
    }
}

/// Builds `batches` batches of `records` records, and counts after the first few, which learn how
/// large a batch is. Each goes as soon as it is complete.
pub fn build(batches: usize, records: usize) -> u64 {
    const FIRST: usize = 3;
    let limits = BatchLimits {
        max_records: records,
        max_bytes: 1 << 30,
        max_wait: Duration::from_secs(1),
        batch_overhead: limits::RUN_OVERHEAD_BYTES,
        record_overhead: 0,
    };
    let headers = Headers::encode([("name", Some("value"))]);
    let budget = Budget::new(1 << 30);
    let mut batcher = Batcher::new(limits, Offset::ZERO, Vec::new());
    let now = Instant::now();
    let mut next = 0;
    let mut fill = |batches: usize| {
        let mut cuts = 0;
        while cuts < batches {
            let record = record(next, &headers);
            next += 1;
            assert!(batcher.cut_before(record.offset, record.payload_bytes()).is_none());
            assert!(batcher.wants(record.offset));
            let permit = budget.try_acquire(batcher.needs(&record)).expect("there is room");
            batcher.take(record, permit, now);
            if let Some(cut) = batcher.cut_if_full() {
                check(&cut, records);
                batcher.accepted(cut.range());
                cuts += 1;
            }
        }
    };
    fill(FIRST);
    allocations(|| fill(batches)).0
}

fn check(cut: &Cut, records: usize) {
    assert_eq!(cut.batch.len(), records);
    assert!(cut.permit.bytes() >= records * Batch::ENTRY_BYTES);
}

//! The way from records that a consumer hands over to batches that are cut: the same loop for a sensor's
//! tick and for a replay.

use std::time::Instant;

use crate::kafka::Flow;
use crate::model::batch::Record;
use crate::model::budget::Permit;
use crate::model::offset::{Offset, Partition};
use crate::source::batcher::Cut;
use crate::source::partition_reader::{Offer, PartitionReader};

/// Who collects a consumer's records into batches.
pub(super) trait Collector {
    /// The reader of the partition; `None` if its records are to be dropped.
    fn reader(&mut self, partition: Partition) -> Option<&mut PartitionReader>;

    /// Memory for a record that needs some, or what to do without: `Flow::Continue` drops the record, to be
    /// read again later.
    fn memory(&mut self, partition: Partition, record: &Record<'_>) -> Result<Permit, Flow>;

    /// Makes runs of a batch.
    fn deliver(&mut self, partition: Partition, cut: Cut) -> Flow;

    /// Makes runs of a batch that its last record has just completed.
    fn completed(&mut self, partition: Partition, cut: Cut) -> Flow {
        self.deliver(partition, cut)
    }

    /// The time that counts as a record's arrival.
    fn now(&self) -> Instant;
}

/// Takes one record.
pub(super) fn record(
    collector: &mut impl Collector,
    partition: Partition,
    record: Record<'_>,
) -> Flow {
    loop {
        let Some(reader) = collector.reader(partition) else { return Flow::Continue };
        match reader.offer(&record) {
            Offer::Done => return Flow::Continue,
            Offer::NeedsMemory => break,
            Offer::CutFirst(cut) => {
                if collector.deliver(partition, cut) == Flow::Stop {
                    return Flow::Stop;
                }
            }
        }
    }
    let permit = match collector.memory(partition, &record) {
        Ok(permit) => permit,
        Err(flow) => return flow,
    };
    let now = collector.now();
    let Some(reader) = collector.reader(partition) else { return Flow::Continue };
    match reader.take(record, permit, now) {
        Some(cut) => collector.completed(partition, cut),
        None => Flow::Continue,
    }
}

/// The log has no further record of the partition below `next`.
pub(super) fn passed(collector: &mut impl Collector, partition: Partition, next: Offset) -> Flow {
    loop {
        let cut = collector.reader(partition).and_then(|reader| reader.pass(next));
        let Some(cut) = cut else { return Flow::Continue };
        if collector.deliver(partition, cut) == Flow::Stop {
            return Flow::Stop;
        }
    }
}

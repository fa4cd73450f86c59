//! Passes each record that a consumer hands over to the reader of its partition, and delivers the batches that are
//! cut: the same loop for a sensor's tick and for a replay.

use std::sync::Arc;
use std::time::Instant;

use crate::kafka::{Flow, Sink};
use crate::model::batch::Record;
use crate::model::budget::Permit;
use crate::model::error::Error;
use crate::model::offset::{Offset, Partition};
use crate::runs::engine::Engine;
use crate::source::batcher::Cut;
use crate::source::claims::{Claim, prove};
use crate::source::partition_reader::{Offer, PartitionReader};

/// Who collects a consumer's records into batches.
pub(super) trait Collector: Sink {
    fn engine(&self) -> &Arc<Engine>;

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
            Offer::Doubtful => {
                if let Err(flow) = believe(collector, partition, Claim::Record(record.offset)) {
                    return flow;
                }
            }
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

/// Believes what the client says if the log reaches so far; else the partition fails. See `claims`.
pub(super) fn believe(
    collector: &mut impl Collector,
    partition: Partition,
    claim: Claim,
) -> Result<(), Flow> {
    let Some(reader) = collector.reader(partition) else { return Ok(()) };
    // While it pauses, nothing of it is taken.
    if reader.believes(claim) || reader.retry_at().is_some() {
        return Ok(());
    }
    match prove(collector.engine(), partition, claim) {
        Ok(end) => {
            if let Some(reader) = collector.reader(partition) {
                reader.log_ends_at(end);
            }
            Ok(())
        }
        Err(error) => Err(collector.failed(partition, error)),
    }
}

/// What a client reports of a partition, if the record that it cannot read may be one of the log. A partition that
/// waited for a record that is in no log would count as unreadable for ever.
pub(super) fn believable(
    collector: &mut impl Collector,
    partition: Partition,
    error: Error,
) -> Error {
    let Some((_, offset)) = error.unreadable() else { return error };
    let claim = Claim::Record(offset);
    if collector.reader(partition).is_none_or(|reader| reader.believes(claim)) {
        return error;
    }
    match prove(collector.engine(), partition, claim) {
        Ok(_) => error,
        Err(broken) => broken,
    }
}

/// The log has no further record of the partition below `next`.
pub(super) fn passed(collector: &mut impl Collector, partition: Partition, next: Offset) -> Flow {
    if let Err(flow) = believe(collector, partition, Claim::Position(next)) {
        return flow;
    }
    loop {
        let cut = collector.reader(partition).and_then(|reader| reader.pass(next));
        let Some(cut) = cut else { return Flow::Continue };
        if collector.deliver(partition, cut) == Flow::Stop {
            return Flow::Stop;
        }
    }
}

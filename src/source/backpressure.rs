//! Holds a tick back: if there is no memory for the next record, and if too many runs of a partition wait.
//!
//! The batcher computes how much memory a record needs; the limit itself is in `model::budget`.

use std::time::Instant;

use crate::config::limits;
use crate::kafka::Consumer;
use crate::model::batch::Record;
use crate::model::budget::Permit;
use crate::model::clock;
use crate::model::error::{Error, Result};
use crate::model::offset::Partition;
use crate::source::delivery::Delivery;
use crate::source::intake::{Intake, Reads};
use crate::source::signals::Ended;

/// Why there is no memory for a record.
pub(super) enum NoMemory {
    /// The tick must end; the record is read again.
    Ends(Ended),
    /// It needs more than there is at all: the partition cannot go on.
    TooLarge(Error),
}

impl From<Ended> for NoMemory {
    fn from(ended: Ended) -> NoMemory {
        NoMemory::Ends(ended)
    }
}

/// Memory for the next record of a partition. Waits until `deadline` for runs to give theirs back.
pub(super) fn memory(
    intake: &mut Intake,
    delivery: &mut Delivery,
    partition: Partition,
    record: &Record<'_>,
    deadline: Instant,
) -> Result<Permit, NoMemory> {
    let needs = intake.readers.get(partition).map_or(0, |reader| reader.needs(record));
    if needs == 0 {
        return Ok(Permit::nothing());
    }
    if let Some(permit) = intake.engine.budget.try_acquire(needs) {
        return Ok(permit);
    }
    // Waiting would be in vain, and would hold up the other partitions at each try.
    let least = intake.readers.get(partition).map_or(0, |reader| reader.least(record));
    if least > intake.engine.budget.limit() {
        return Err(too_large(intake, partition, record, least));
    }
    // Cuts hold memory, and give it back as runs.
    delivery.flush(intake)?;
    if let Some(permit) = memory_of_runs(intake, needs, deadline)? {
        return Ok(permit);
    }
    // The batches being filled hold memory that only a run gives back.
    for partition in 0..intake.readers.numbers() {
        let cut = intake.readers.get_mut(partition).and_then(|reader| reader.cut_now());
        if let Some(cut) = cut {
            delivery.add(intake, partition, cut, clock::now())?;
        }
    }
    delivery.flush(intake)?;
    let needs = tightly(intake, partition, record)?;
    loop {
        let look = (clock::now() + limits::STOP_LOOK_INTERVAL).min(deadline);
        if let Some(permit) = intake.engine.budget.acquire_until(needs, look) {
            return Ok(permit);
        }
        if let Some(why) = intake.signals.interrupts() {
            return Err(why.into());
        }
        if look >= deadline || intake.engine.budget.is_closed() {
            break;
        }
    }
    give_way(intake, partition);
    Err(Ended::MemoryFull.into())
}

/// Waits for memory that runs give back, as long as there are runs in flight. Cutting the batches being filled
/// instead would make ever smaller runs, each of which gives back little.
fn memory_of_runs(
    intake: &Intake,
    needs: usize,
    deadline: Instant,
) -> Result<Option<Permit>, Ended> {
    let budget = &intake.engine.budget;
    while !budget.is_closed() && intake.engine.ledgers.in_flight() > 0 {
        let look = clock::now() + limits::STOP_LOOK_INTERVAL;
        if let Some(permit) = budget.acquire_until(needs, look.min(deadline)) {
            return Ok(Some(permit));
        }
        if let Some(why) = intake.signals.interrupts() {
            return Err(why);
        }
        if look >= deadline {
            break;
        }
    }
    Ok(None)
}

/// The bytes that the record needs if its batch reserves none to spare.
fn tightly(
    intake: &mut Intake,
    partition: Partition,
    record: &Record<'_>,
) -> Result<usize, NoMemory> {
    let limit = intake.engine.budget.limit();
    let Some(reader) = intake.readers.get_mut(partition) else { return Ok(0) };
    reader.grow_tightly();
    let needs = reader.needs(record);
    let whole = reader.held_bytes() + needs;
    if whole <= limit {
        return Ok(needs);
    }
    if reader.refill_tightly() {
        return Err(Ended::MemoryFull.into());
    }
    Err(too_large(intake, partition, record, whole))
}

/// The record, with the part of its batch that cannot be cut off before it, is larger than the memory for all
/// batches.
fn too_large(
    intake: &mut Intake,
    partition: Partition,
    record: &Record<'_>,
    needs: usize,
) -> NoMemory {
    if let Some(reader) = intake.readers.get_mut(partition) {
        // The other partitions can use what it holds.
        reader.drop_stored_fill();
    }
    NoMemory::TooLarge(Error::Unreadable {
        topic: intake.settings.topic.to_string(),
        partition,
        offset: record.offset,
        cause: format!(
            "its {} bytes and those of its batch need {needs} bytes, more than --queue-bytes ({}) has; a \
             larger --queue-bytes lets it pass",
            record.payload_bytes(),
            intake.engine.budget.limit()
        ),
    })
}

/// No memory was released for a whole tick: half-read stored ranges hold it, and no run will release it. All other
/// partitions drop the batch that they are filling and read it again later; the next tick reads this one alone.
fn give_way(intake: &mut Intake, partition: Partition) {
    let mut dropped = false;
    for reader in intake.readers.iter_mut().filter(|reader| reader.partition() != partition) {
        dropped |= reader.drop_fill();
    }
    intake.alone = dropped.then_some(partition);
    // Another sensor may wait in the same way for memory that this one holds. Chance decides which one drops its
    // batch: if both did, they could repeat that for ever.
    if !dropped
        && intake.settings.count > 1
        && fastrand::bool()
        && let Some(reader) = intake.readers.get_mut(partition)
    {
        reader.drop_fill();
    }
}

/// Pauses the partitions of which too many runs wait for their turn, or which pause after an error, and
/// resumes the others; the consumer knows only the partitions that the tick `reads`. True if one is held for its runs.
///
/// # Errors
/// As the consumer's.
pub(super) fn open_and_close(
    intake: &mut Intake,
    reads: Reads,
    now: Instant,
    consumer: &mut dyn Consumer,
) -> Result<bool> {
    let queue = &intake.engine.queue;
    let is_ordered = queue.is_ordered();
    let mut any_held = false;
    for reader in intake.readers.iter_mut().filter(|reader| reads.includes(reader.partition())) {
        let held = is_ordered && queue.is_held(reader.partition(), reader.is_held());
        reader.open_or_close(held, now, consumer)?;
        any_held |= held;
    }
    Ok(any_held)
}

//! Holds a tick back: if there is no memory for the next record, and if too many runs of a partition wait. And shares the
//! run queue among the partitions.
//!
//! The batcher computes how much memory a record needs; the limit itself is in `model::budget`.

use std::time::{Duration, Instant};

use crate::config::limits;
use crate::kafka::Consumer;
use crate::model::batch::Record;
use crate::model::budget::Permit;
use crate::model::clock;
use crate::model::error::{Error, Result};
use crate::model::offset::Partition;
use crate::runs::engine::Engine;
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

/// While the workers are the bottleneck: how many bytes an answer may bring of one partition, so that what it brings takes
/// no more than the partition's share of the run queue. Otherwise one partition's backlog could fill the queue, and the
/// records of the others, however few, would wait for all of it. `None` while the queue has room or empties quickly: then
/// large answers cost less.
pub(super) fn turn_bytes(engine: &Engine, max_records: usize) -> Option<usize> {
    let Engine { queue, live, topic, config, steering, .. } = engine;
    let (attempts, in_step) = live.run_time.count_and_sum();
    let (bytes, records) = (live.bytes_in.get(), live.records_in.get());
    turn(&Filled {
        queued: queue.len(),
        places: config.queue,
        partitions: topic.partitions.len(),
        workers: steering.settings().max_concurrent_runs,
        step: in_step.checked_div(u32::try_from(attempts).unwrap_or(u32::MAX))?,
        run_bytes: usize::try_from(bytes.checked_div(records)?).ok()?.saturating_mul(max_records),
    })
}

/// How full the run queue is, and of what.
#[derive(Clone, Copy, Debug)]
struct Filled {
    queued: usize,
    places: usize,
    partitions: usize,
    workers: usize,
    /// An attempt's mean time in the step.
    step: Duration,
    /// Of a full batch with records of the usual size.
    run_bytes: usize,
}

fn turn(filled: &Filled) -> Option<usize> {
    let Filled { queued, places, partitions, workers, step, run_bytes } = *filled;
    let empties_in = step.as_secs_f64() * queued as f64 / workers.max(1) as f64;
    let is_slow = empties_in >= limits::FAIR_QUEUE_EMPTIES_IN.as_secs_f64();
    (partitions > 1 && 2 * queued >= places && is_slow).then(|| {
        let share = (places / partitions).max(1);
        share.saturating_mul(run_bytes).max(limits::TURN_BYTES_MIN)
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_a_share_of_the_queue_while_the_workers_are_the_bottleneck() {
        let slow = Filled {
            queued: 100,
            places: 100,
            partitions: 4,
            workers: 5,
            step: Duration::from_millis(50),
            run_bytes: 50_000,
        };
        assert_eq!(turn(&slow), Some(25 * 50_000));
        assert_eq!(turn(&Filled { partitions: 1000, ..slow }), Some(50_000));
        assert_eq!(turn(&Filled { run_bytes: 5, ..slow }), Some(limits::TURN_BYTES_MIN));
        assert_eq!(turn(&Filled { queued: 49, ..slow }), None, "there is room");
        assert_eq!(turn(&Filled { step: Duration::from_micros(50), ..slow }), None, "it is quick");
        assert_eq!(turn(&Filled { partitions: 1, ..slow }), None);
    }
}

//! Memory for a tick's next record: from the byte budget, or by giving way.
//!
//! How much a record needs is known by the batcher; the bound itself is in `budget`.

use super::*;

impl Tick<'_> {
    /// Memory for the next record of the partition; waits for runs to give theirs back.
    pub(super) fn memory(&mut self, partition: Partition, record: &Record<'_>) -> Option<Permit> {
        let slot = self.sensor.slot(partition)?;
        let needs = slot.batcher.needs(record);
        if needs == 0 {
            return Some(Permit::nothing());
        }
        if let Some(permit) = self.sensor.engine.budget.try_acquire(needs) {
            return Some(permit);
        }
        // What was cut holds memory, and gives it back as runs.
        if self.flush() == Flow::Stop {
            return None;
        }
        if let Some(permit) = self.memory_of_ended_runs(needs) {
            return Some(permit);
        }
        // What is being filled holds memory that only a run gives back.
        for index in 0..self.sensor.slots.len() {
            let cut = self.sensor.slots[index].as_mut().and_then(|slot| slot.batcher.cut_now());
            if let Some(cut) = cut
                && self.deliver(index as Partition, cut) == Flow::Stop
            {
                return None;
            }
        }
        if self.flush() == Flow::Stop {
            return None;
        }
        let limit = self.sensor.engine.budget.limit();
        let slot = self.sensor.slot(partition)?;
        slot.batcher.grow_tightly();
        let needs = slot.batcher.needs(record);
        let whole = slot.batcher.held() + needs;
        if whole > limit && slot.batcher.refill_tightly() {
            slot.passed = None;
            self.end(Ended::MemoryFull);
            return None;
        }
        if whole > limit {
            self.error = Some(Error::Unreadable {
                topic: self.sensor.settings.topic.to_string(),
                partition,
                offset: record.offset,
                cause: format!(
                    "its {} bytes and those of its batch need {whole} bytes, more than --queue-bytes \
                     ({limit}) has; a larger --queue-bytes lets it pass",
                    record.payload_bytes()
                ),
            });
            self.end(Ended::Error);
            return None;
        }
        loop {
            let look = (clock::now() + limits::STOP_LOOK_INTERVAL).min(self.deadline);
            let permit = self.sensor.engine.budget.acquire_until(needs, look);
            if permit.is_some() {
                return permit;
            }
            if self.sensor.orders.ends_tick() {
                self.end(Ended::Paused);
                return None;
            }
            if look >= self.deadline || self.sensor.engine.budget.is_closed() {
                break;
            }
        }
        self.run_out_of_memory(partition);
        None
    }

    /// Runs that end give memory back, which is waited for while there are any. To cut what is
    /// being filled instead would make small runs, which give back little each, for smaller ones.
    fn memory_of_ended_runs(&mut self, needs: usize) -> Option<Permit> {
        let budget = &self.sensor.engine.budget;
        let orders = &self.sensor.orders;
        while !budget.is_closed()
            && self.sensor.engine.ledgers.in_flight() > 0
            && !orders.ends_tick()
        {
            let look = clock::now() + limits::STOP_LOOK_INTERVAL;
            if let Some(permit) = budget.acquire_until(needs, look.min(self.deadline)) {
                return Some(permit);
            }
            if look >= self.deadline {
                break;
            }
        }
        None
    }

    /// Nothing came back for a whole tick. Stored ranges that are half read hold memory that no
    /// run gives back: all but this one are read again later, and this one goes first, alone.
    fn run_out_of_memory(&mut self, partition: Partition) {
        let mut dropped = false;
        for (other, slot) in self.sensor.slots() {
            if other != partition {
                dropped |= slot.batcher.drop_fill();
                slot.passed = None;
            }
        }
        self.sensor.alone = dropped.then_some(partition);
        // Another sensor may wait just so for what this one holds: one of them gives way, and
        // chance says which.
        if !dropped
            && self.sensor.settings.count > 1
            && fastrand::bool()
            && let Some(slot) = self.sensor.slot(partition)
        {
            slot.batcher.drop_fill();
            slot.passed = None;
        }
        self.end(Ended::MemoryFull);
    }
}

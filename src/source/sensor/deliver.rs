//! How cuts become runs: planned in the history, in flight in the ledger, on the queue.
//!
//! Several cuts, of one poll or of a few, go together, so that history and workers are woken once for all of them.

use super::*;

/// A cut that becomes runs at the next `flush`.
struct Planning {
    partition: Partition,
    stored: Stored,
    batches: Vec<Batch>,
    permit: Permit,
    records: usize,
    bytes: usize,
}

impl Tick<'_> {
    /// A cut becomes a run, or with lanes several: soon, with others, or now.
    pub(super) fn deliver(&mut self, partition: Partition, cut: Cut) -> Flow {
        // Ranges from before are in the batcher until they are accepted, and its cursor steps over them.
        let can_wait = matches!(cut.identity, Identity::Fresh(_))
            && self.sensor.slot(partition).is_some_and(|slot| slot.batcher.unmade_batches() == 0);
        if self.cuts.is_empty() {
            self.gathered = self.now + limits::PLAN_LINGER;
        }
        self.cuts.push((partition, cut));
        let runs = self.cuts.len() * self.sensor.settings.lanes as usize;
        // What the queue has no room for would be planned in vain.
        if can_wait && runs < limits::PLAN_RUNS.min(self.sensor.engine.queue.room()) {
            return Flow::Continue;
        }
        self.flush()
    }

    /// What was cut goes on its way, in its order.
    pub(super) fn flush(&mut self) -> Flow {
        if self.cuts.is_empty() {
            return Flow::Continue;
        }
        crate::model::crash::point("cut");
        let Some(mut planning) = self.plan() else {
            // The history has ended: what was cut is read again by the next process.
            self.sensor.slots().for_each(|(_, slot)| slot.passed = None);
            return self.end(Ended::Stopping);
        };
        for cut in planning.iter_mut().filter(|cut| !cut.stored.registered) {
            self.sensor.engine.ledgers.register(
                cut.partition,
                cut.stored.range,
                cut.stored.parts.len(),
            );
            cut.stored.registered = true;
        }
        let flow = self.push_planned(planning);
        self.sensor.engine.queue.wake();
        flow
    }

    fn push_planned(&mut self, planning: Vec<Planning>) -> Flow {
        let mut planning = planning.into_iter();
        while let Some(cut) = planning.next() {
            let Err((stored, refused)) = self.push_all(cut) else { continue };
            // Nor is there room for those behind it.
            let others = planning.map(|cut| (cut.partition, cut.stored));
            let all: Vec<_> = std::iter::once(stored).chain(others).collect();
            for (partition, stored) in all.into_iter().rev() {
                let slot = self.sensor.slot(partition).expect("the cut came from this slot");
                slot.batcher.refused(stored);
                slot.passed = None;
            }
            return self.end(match refused {
                Refused::Full if self.sensor.orders.ends_tick() => Ended::Paused,
                Refused::Full => Ended::QueueFull,
                Refused::Stopping => Ended::Stopping,
            });
        }
        Flow::Continue
    }

    /// Gives fresh cuts their runs' numbers; `None` where the history has ended.
    fn plan(&mut self) -> Option<Vec<Planning>> {
        let topic = Arc::clone(&self.sensor.settings.topic);
        let count = self.sensor.settings.lanes;
        let mut planned = Vec::with_capacity(self.cuts.len());
        let mut planning = Vec::with_capacity(self.cuts.len());
        for (partition, cut) in self.cuts.drain(..) {
            let (records, bytes) = (cut.batch.len(), cut.batch.payload_bytes());
            let (stored, batches) = match cut.identity {
                Identity::Again(stored) => {
                    let batches = stored.divide(cut.batch);
                    (stored, batches)
                }
                Identity::Fresh(range) => {
                    let (lanes, batches) = split_by_key(cut.batch, count);
                    let part = |(lane, batch): (&Lane, &Batch)| {
                        let key = RunKey {
                            lane: *lane,
                            ..RunKey::new(Arc::clone(&topic), partition, range)
                        };
                        planned.push(Planned::whole(key, batch.len(), batch.payload_bytes()));
                        Part { run: RunId(0), range, lane: *lane, failed_attempts: 0 }
                    };
                    let parts = lanes.iter().zip(&batches).map(part).collect();
                    (Stored { range, parts, registered: false }, batches)
                }
            };
            let permit = cut.permit;
            planning.push(Planning { partition, stored, batches, permit, records, bytes });
        }
        if planned.is_empty() {
            return Some(planning);
        }
        let first = self.sensor.engine.history.plan(planned)?;
        let fresh = planning.iter_mut().flat_map(|cut| &mut cut.stored.parts);
        for (part, run) in fresh.filter(|part| part.run == RunId(0)).zip(first.0..) {
            part.run = RunId(run);
        }
        Some(planning)
    }

    /// What the queue takes is its own from then on; only the rest, which comes back, is read again.
    fn push_all(&mut self, cut: Planning) -> Result<(), ((Partition, Stored), Refused)> {
        let Planning { partition, mut stored, batches, permit, records, bytes } = cut;
        let range = stored.range;
        let permit = Arc::new(permit);
        for batch in batches {
            let part = stored.parts[0];
            let topic = Arc::clone(&self.sensor.settings.topic);
            let key = RunKey { lane: part.lane, ..RunKey::new(topic, partition, part.range) };
            let run = Run {
                id: part.run,
                key,
                whole: range,
                batch,
                permit: Arc::clone(&permit),
                failed_attempts: part.failed_attempts,
                queued: clock::now(),
            };
            if let Err(refused) = self.push(run) {
                return Err(((partition, stored), refused));
            }
            stored.parts.remove(0);
        }
        let slot = self.sensor.slot(partition).expect("the cut came from this slot");
        slot.batcher.accepted(range);
        self.batches += 1;
        self.records += records as u64;
        self.bytes += bytes as u64;
        self.sensor.engine.live.records_in.add(records as u64);
        self.sensor.engine.live.bytes_in.add(bytes as u64);
        Ok(())
    }

    /// Waits for room until the tick is over, by a pause too.
    fn push(&self, run: Run) -> Result<(), Refused> {
        let Sensor { engine, orders, stop, .. } = &*self.sensor;
        let waits = || !orders.ends_tick();
        engine.queue.push_while(run, self.deadline, stop, (orders.wake(), &waits))
    }
}

/// A fresh batch by the lanes of its keys: those that have records, each with its own.
fn split_by_key(batch: Batch, count: u32) -> (Vec<Lane>, Vec<Batch>) {
    if count == 1 {
        return (vec![Lane::WHOLE], vec![batch]);
    }
    let lanes = (0..count).map(|index| Lane { index, count });
    let batches =
        batch.divide(count as usize, |record| Some(lane_of_record(record, count) as usize));
    lanes.zip(batches).filter(|(_, records)| !records.is_empty()).unzip()
}

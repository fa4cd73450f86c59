//! The consumer of the simulated log: it hands out a few records at a time, and fails when the world says so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mb::kafka::{Consumer, Flow, Sink};
use mb::model::batch::Record;
use mb::model::error::{Error, Result};
use mb::model::offset::{Epoch, Offset, Partition};

use crate::log::ask;
use crate::world::world;

pub struct SimulatedConsumer {
    cursors: Vec<(Partition, i64)>,
    /// The epochs that were reported to the sink last.
    reported: BTreeMap<Partition, i32>,
    /// What it says of what is left: a guess, as a client's may be.
    has_more: bool,
    turn: usize,
    paused: BTreeSet<Partition>,
}

impl SimulatedConsumer {
    pub fn new(from: &[(Partition, Offset)]) -> SimulatedConsumer {
        SimulatedConsumer {
            cursors: from.iter().map(|(partition, next)| (*partition, next.get())).collect(),
            reported: BTreeMap::new(),
            has_more: false,
            turn: 0,
            paused: BTreeSet::new(),
        }
    }
}

impl Consumer for SimulatedConsumer {
    fn poll(&mut self, wait: Duration, sink: &mut dyn Sink) -> Result<()> {
        let world = world();
        ask(&world, "poll")?;
        let calm = world.calm.get();
        let most = if calm { 40 } else { world.below(9) };
        let mut handed = 0;
        self.has_more = most > 0 && world.one_in(2);
        for _ in 0..most {
            if world.one_in(3) {
                self.turn += 1;
            }
            let index = self.turn % self.cursors.len();
            let (partition, next) = self.cursors[index];
            if self.paused.contains(&partition) {
                self.turn += 1;
                continue;
            }
            let (next_record, end) = {
                let log = world.log.borrow();
                let of = &log.partitions[partition as usize];
                let record = of.now.next(next);
                let record = record.map(|entry| {
                    let epoch = of.now.epoch_of(entry.offset);
                    (entry.offset, entry.key.clone(), entry.value.clone(), epoch)
                });
                (record, of.end)
            };
            if next > end {
                world.note(|| format!("{partition}: {next} is out of range"));
                self.paused.insert(partition);
                let (topic, offset) = ("t".to_owned(), Offset::new(next));
                let error = Error::OffsetOutOfRange { topic, partition, offset };
                if sink.failed(partition, error) == Flow::Stop {
                    return Ok(());
                }
                continue;
            }
            // The log shows that there is nothing up to here; which part of it is chance.
            let until = next_record.as_ref().map_or(end, |(offset, ..)| *offset);
            if until > next && (calm || world.one_in(2)) {
                let shown = until - if calm { 0 } else { i64::from(world.below(2)) };
                if shown > next {
                    self.cursors[index].1 = shown;
                    world.note(|| format!("{partition}: nothing below {shown}"));
                    sink.position(partition, Offset::new(shown));
                }
            }
            let Some((offset, key, value, epoch)) = next_record else {
                self.turn += 1;
                continue;
            };
            if world.is_dead() || world.one_in(12) && world.hits(world.plan.broker_faults) {
                return Err(Error::broker("poll", "simulated, in the middle"));
            }
            self.cursors[index].1 = offset + 1;
            handed += 1;
            let record = Record {
                offset: Offset::new(offset),
                key: key.as_deref(),
                value: value.as_deref(),
                ..Record::default()
            };
            if self.reported.insert(partition, epoch) != Some(epoch)
                && let Some(epoch) = Epoch::checked(epoch)
            {
                sink.epoch(partition, epoch);
            }
            world.note(|| format!("{partition}: record {offset} of epoch {epoch}"));
            if sink.record(partition, record) == Flow::Stop {
                return Ok(());
            }
        }
        let part = if handed == 0 { 1 } else { 1 + world.below(10) };
        world.pass(wait / part);
        Ok(())
    }

    fn has_more(&self) -> bool {
        self.has_more
    }

    fn pause(&mut self, partition: Partition) -> Result<()> {
        let world = world();
        ask(&world, "pause")?;
        world.note(|| format!("{partition}: paused"));
        self.paused.insert(partition);
        Ok(())
    }

    fn resume(&mut self, partition: Partition, from: Offset) -> Result<()> {
        let world = world();
        ask(&world, "resume")?;
        if self.paused.remove(&partition) {
            world.note(|| format!("{partition}: resumed from {from}"));
            let cursor = self.cursors.iter_mut().find(|(of, _)| *of == partition);
            cursor.expect("it is read").1 = from.get();
            self.reported.remove(&partition);
        }
        Ok(())
    }

    fn close(self: Box<Self>) {}
}

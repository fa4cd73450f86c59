//! The runs that wait behind another run of their lane, and how much memory they hold. Which run waits for which
//! is decided in `lanes`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::config::Order;
use crate::config::limits;
use crate::model::budget::Permit;
use crate::model::offset::{Lane, Partition, RunKey};
use crate::model::run::Run;
use crate::runs::lanes::Lanes;

#[derive(Debug)]
pub(super) struct Parked {
    lanes: Lanes<Run>,
    /// How many runs of each partition are parked.
    runs: BTreeMap<Partition, usize>,
    /// The memory that parked runs hold, by the address of its permit: the bytes of a batch count once, even if
    /// several of its runs are parked.
    memory: HashMap<usize, BatchMemory>,
    bytes: usize,
    /// Above this, partitions with parked runs are not read any further.
    most_bytes: usize,
}

#[derive(Debug, Default)]
struct BatchMemory {
    runs: usize,
    bytes: usize,
}

impl Parked {
    pub fn new(order: Order, most_bytes: usize) -> Parked {
        Parked {
            lanes: Lanes::new(order),
            runs: BTreeMap::new(),
            memory: HashMap::new(),
            bytes: 0,
            most_bytes,
        }
    }

    /// Returns the run if it may start now, and parks it otherwise.
    pub fn admit(&mut self, run: Run) -> Option<Run> {
        let (partition, lane) = (run.key.partition, run.key.lane);
        let permit = Arc::clone(&run.permit);
        let run = self.lanes.admit(partition, lane, run);
        if run.is_none() {
            self.add(partition, &permit);
        }
        run
    }

    /// A run has ended for good: returns those that may start now.
    pub fn ended(&mut self, key: &RunKey) -> Vec<Run> {
        let ready = self.lanes.ended(key.partition, key.lane);
        for run in &ready {
            self.remove(key.partition, &run.permit);
        }
        ready
    }

    /// A run has become several: returns the one that may start now.
    pub fn replaced(&mut self, parent: &RunKey, by: Vec<Run>) -> Vec<Run> {
        for run in by.iter().skip(1) {
            self.add(parent.partition, &run.permit);
        }
        self.lanes.replaced(parent.partition, parent.lane, by)
    }

    /// Takes all parked runs of a partition out, and frees the lanes whose runs were taken out of the
    /// queue as well.
    pub fn withdraw(
        &mut self,
        partition: Partition,
        freed: impl Iterator<Item = Lane>,
    ) -> Vec<Run> {
        let withdrawn = self.lanes.withdraw(partition, freed);
        for run in &withdrawn {
            self.remove(partition, &run.permit);
        }
        withdrawn
    }

    /// How many runs are parked.
    pub fn len(&self) -> usize {
        self.runs.values().sum()
    }

    /// See `RunQueue::is_held`.
    pub fn is_held(&self, partition: Partition, was: bool) -> bool {
        let Some(runs) = self.runs.get(&partition) else { return false };
        let share = if was { 2 } else { 1 };
        *runs >= limits::PARKED_RUNS / share || self.bytes > self.most_bytes / share
    }

    fn add(&mut self, partition: Partition, permit: &Arc<Permit>) {
        *self.runs.entry(partition).or_default() += 1;
        let batch = self.memory.entry(Arc::as_ptr(permit).addr()).or_default();
        if batch.runs == 0 {
            batch.bytes = permit.bytes();
            self.bytes += batch.bytes;
        }
        batch.runs += 1;
    }

    fn remove(&mut self, partition: Partition, permit: &Arc<Permit>) {
        let runs = self.runs.get_mut(&partition).expect("the run was parked");
        *runs -= 1;
        if *runs == 0 {
            self.runs.remove(&partition);
        }
        let address = Arc::as_ptr(permit).addr();
        let batch = self.memory.get_mut(&address).expect("the run was parked");
        batch.runs -= 1;
        if batch.runs == 0 {
            self.bytes -= batch.bytes;
            self.memory.remove(&address);
        }
    }

    #[cfg(test)]
    pub fn keeps_no_memory(&self) -> bool {
        self.memory.is_empty() && self.bytes == 0
    }
}

//! Keeps `--order`: decides which runs may start, and which wait behind another run of their lane. Pure, and
//! generic over the run.
//!
//! A lane is a whole partition (`--order partition`), or one of the parts into which a partition's keys are
//! divided (`--order key`). Queuing and retrying runs is in `queue`; `model::lane` computes a record's lane.

use std::collections::{BTreeMap, VecDeque};

use crate::config::Order;
use crate::model::offset::{Lane, Partition};

/// The runs of all partitions that are out (may run, and have not ended for good) or wait behind those.
///
/// Invariants: at most one run of a lane is out; runs of a lane start in the order in which they came; runs
/// that divide the keys into another number of lanes start only when every run before them has ended.
#[derive(Debug)]
pub struct Lanes<R> {
    order: Order,
    partitions: BTreeMap<Partition, Held<R>>,
}

/// The runs of one partition.
#[derive(Debug)]
struct Held<R> {
    /// Into how many lanes the runs that are out divide the keys.
    count: u32,
    /// Each lane that has a run out, with those that wait behind it.
    out: BTreeMap<u32, VecDeque<R>>,
    /// Runs of another number of lanes, and all that came after them.
    later: VecDeque<(Lane, R)>,
}

impl<R> Lanes<R> {
    pub fn new(order: Order) -> Lanes<R> {
        Lanes { order, partitions: BTreeMap::new() }
    }

    /// Adds a run. Returns it if it may start now; otherwise the run waits here.
    pub fn admit(&mut self, partition: Partition, lane: Lane, run: R) -> Option<R> {
        let Some(lane) = self.lane(lane) else { return Some(run) };
        let held = self.partitions.entry(partition).or_insert_with(|| Held {
            count: lane.count,
            out: BTreeMap::new(),
            later: VecDeque::new(),
        });
        held.admit(lane, run)
    }

    /// A run that was out has ended for good. Returns the runs that may start now.
    ///
    /// # Panics
    /// If no run of its lane is out.
    pub fn ended(&mut self, partition: Partition, lane: Lane) -> Vec<R> {
        let Some(lane) = self.lane(lane) else { return Vec::new() };
        let held = self.partitions.get_mut(&partition).expect("its run was admitted");
        let ready = held.ended(lane);
        if held.out.is_empty() {
            debug_assert!(held.later.is_empty(), "if no run is out, none waits");
            self.partitions.remove(&partition);
        }
        ready
    }

    /// A run that was out has become several, in this order. The first one is out in its place (and is
    /// returned); the others wait before those that waited behind it.
    ///
    /// # Panics
    /// If no run of its lane is out.
    pub fn replaced(&mut self, partition: Partition, lane: Lane, by: Vec<R>) -> Vec<R> {
        let Some(lane) = self.lane(lane) else { return by };
        let held = self.partitions.get_mut(&partition).expect("its run was admitted");
        let waiting = held.out.get_mut(&lane.index).expect("its lane has a run out");
        let mut by = by.into_iter();
        let first = by.next();
        for run in by.rev() {
            waiting.push_front(run);
        }
        first.into_iter().collect()
    }

    /// Removes all waiting runs of a partition. Its runs that are out stay, except those of the `freed` lanes,
    /// which the caller has removed from the queue.
    pub fn withdraw(&mut self, partition: Partition, freed: impl Iterator<Item = Lane>) -> Vec<R> {
        let freed: Vec<Lane> = freed.filter_map(|lane| self.lane(lane)).collect();
        let Some(held) = self.partitions.get_mut(&partition) else { return Vec::new() };
        let mut withdrawn = Vec::new();
        for waiting in held.out.values_mut() {
            withdrawn.extend(waiting.drain(..));
        }
        withdrawn.extend(held.later.drain(..).map(|(_, run)| run));
        for lane in freed {
            held.out.remove(&lane.index);
        }
        if held.out.is_empty() {
            self.partitions.remove(&partition);
        }
        withdrawn
    }

    /// The lane that the order gives a run; `None` if there is no order.
    fn lane(&self, lane: Lane) -> Option<Lane> {
        match self.order {
            Order::None => None,
            Order::Partition => Some(Lane::WHOLE),
            Order::Key => Some(lane),
        }
    }
}

impl<R> Held<R> {
    fn admit(&mut self, lane: Lane, run: R) -> Option<R> {
        if self.out.is_empty() && self.later.is_empty() {
            self.count = lane.count;
        }
        if lane.count != self.count || !self.later.is_empty() {
            self.later.push_back((lane, run));
            return None;
        }
        match self.out.get_mut(&lane.index) {
            Some(waiting) => {
                waiting.push_back(run);
                None
            }
            None => {
                self.out.insert(lane.index, VecDeque::new());
                Some(run)
            }
        }
    }

    fn ended(&mut self, lane: Lane) -> Vec<R> {
        let waiting = self.out.get_mut(&lane.index).expect("its lane has a run out");
        if let Some(next) = waiting.pop_front() {
            return vec![next];
        }
        self.out.remove(&lane.index);
        if !self.out.is_empty() {
            return Vec::new();
        }
        // From here on the keys are divided into another number of lanes, until the next change.
        let later = std::mem::take(&mut self.later);
        later.into_iter().filter_map(|(lane, run)| self.admit(lane, run)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lane(index: u32, count: u32) -> Lane {
        Lane { index, count }
    }

    #[test]
    fn without_an_order_every_run_starts_at_once() {
        let mut lanes = Lanes::new(Order::None);
        assert_eq!(lanes.admit(0, Lane::WHOLE, 1), Some(1));
        assert_eq!(lanes.admit(0, Lane::WHOLE, 2), Some(2));
        assert!(lanes.ended(0, Lane::WHOLE).is_empty());
        assert_eq!(lanes.replaced(0, Lane::WHOLE, vec![3, 4]), [3, 4]);
    }

    #[test]
    fn a_partitions_runs_start_one_after_another_and_others_go_on() {
        let mut lanes = Lanes::new(Order::Partition);
        assert_eq!(lanes.admit(0, Lane::WHOLE, 1), Some(1));
        assert_eq!(lanes.admit(0, lane(1, 4), 2), None);
        assert_eq!(lanes.admit(7, Lane::WHOLE, 3), Some(3));
        assert_eq!(lanes.ended(0, Lane::WHOLE), [2]);
        assert!(lanes.ended(0, lane(1, 4)).is_empty());
        assert_eq!(lanes.admit(0, Lane::WHOLE, 4), Some(4));
    }

    #[test]
    fn the_pieces_of_a_run_go_before_the_runs_that_waited_behind_it() {
        let mut lanes = Lanes::new(Order::Partition);
        assert_eq!(lanes.admit(0, Lane::WHOLE, 1), Some(1));
        assert_eq!(lanes.admit(0, Lane::WHOLE, 9), None);
        assert_eq!(lanes.replaced(0, Lane::WHOLE, vec![2, 5]), [2]);
        assert_eq!(lanes.replaced(0, Lane::WHOLE, vec![3, 4]), [3]);
        for next in [4, 5, 9] {
            assert_eq!(lanes.ended(0, Lane::WHOLE), [next]);
        }
        assert!(lanes.ended(0, Lane::WHOLE).is_empty());
    }

    #[test]
    fn another_number_of_lanes_starts_only_when_the_runs_before_have_ended() {
        let mut lanes = Lanes::new(Order::Key);
        assert_eq!(lanes.admit(0, lane(0, 2), 1), Some(1));
        assert_eq!(lanes.admit(0, lane(1, 2), 2), Some(2));
        assert_eq!(lanes.admit(0, lane(0, 3), 3), None);
        assert_eq!(lanes.admit(0, lane(2, 3), 4), None);
        assert_eq!(lanes.admit(0, lane(1, 2), 5), None, "it came after the change");
        assert!(lanes.ended(0, lane(0, 2)).is_empty());
        assert_eq!(lanes.ended(0, lane(1, 2)), [3, 4]);
        assert!(lanes.ended(0, lane(0, 3)).is_empty());
        assert_eq!(lanes.ended(0, lane(2, 3)), [5]);
    }

    #[test]
    fn a_withdrawn_partition_keeps_the_lanes_of_runs_that_are_still_out() {
        let mut lanes = Lanes::new(Order::Key);
        for (index, run) in [(0, 1), (1, 2)] {
            assert_eq!(lanes.admit(0, lane(index, 2), run), Some(run));
        }
        assert_eq!(lanes.admit(7, lane(0, 2), 70), Some(70));
        for (index, count, run) in [(0, 2, 3), (1, 2, 4), (2, 3, 5)] {
            assert_eq!(lanes.admit(0, lane(index, count), run), None);
        }
        // Run 1 waited for a retry and was taken out too; run 2 is still with a worker.
        assert_eq!(lanes.withdraw(0, [lane(0, 2)].into_iter()), [3, 4, 5]);
        assert_eq!(lanes.admit(0, lane(0, 2), 6), Some(6), "its lane is free");
        assert_eq!(lanes.admit(0, lane(1, 2), 7), None, "its lane has run 2");
        assert_eq!(lanes.ended(0, lane(1, 2)), [7]);
        assert_eq!(lanes.admit(7, lane(0, 2), 71), None, "other partitions go on");
        assert!(lanes.withdraw(9, std::iter::empty()).is_empty());
    }

    proptest! {
        /// Runs of one lane start in the order in which they came, one at a time, and all of them
        /// do; a run of another lane count starts when no earlier run is out.
        #[test]
        fn every_run_starts_once_in_the_order_of_its_lane(
            runs in proptest::collection::vec((0..3u32, 1..4u32), 1..60),
            ends in proptest::collection::vec(any::<prop::sample::Index>(), 200),
        ) {
            let mut lanes = Lanes::new(Order::Key);
            let mut out: Vec<(usize, Lane)> = Vec::new();
            let mut started = Vec::new();
            let mut ends = ends.into_iter();
            let mut coming = runs.iter().map(|(index, count)| lane(index % count, *count)).enumerate();
            let all: Vec<Lane> = coming.clone().map(|(_, lane)| lane).collect();
            loop {
                let next = coming.next();
                if let Some((number, lane)) = next {
                    out.extend(lanes.admit(0, lane, number).map(|number| (number, lane)));
                }
                while (next.is_none() || out.len() > 2) && !out.is_empty() {
                    let (number, lane) = out.swap_remove(ends.next().unwrap().index(out.len()));
                    started.push(number);
                    for ready in lanes.ended(0, lane) {
                        out.push((ready, all[ready]));
                    }
                    let busy: std::collections::BTreeSet<_> = out.iter().map(|(_, lane)| *lane).collect();
                    prop_assert_eq!(busy.len(), out.len(), "one run of a lane at a time");
                    let counts: std::collections::BTreeSet<_> = out.iter().map(|(_, lane)| lane.count).collect();
                    prop_assert!(counts.len() <= 1, "one number of lanes at a time");
                }
                if next.is_none() && out.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(started.len(), all.len());
            for lane in all.iter().copied() {
                let of_lane: Vec<_> = started.iter().filter(|number| all[**number] == lane).collect();
                prop_assert!(of_lane.is_sorted(), "{:?} ended as {:?}", lane, of_lane);
            }
        }
    }
}

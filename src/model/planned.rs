//! A stored range: a batch that was planned before, and which of its runs are still to be made. `source::batcher`
//! cuts it again, with the same range.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::batch::{Batch, Record};
use crate::model::lane::lane_of_record;
use crate::model::offset::{Lane, OffsetRange};
use crate::model::run::RunId;

/// The range of a batch that was planned before, by this process or an earlier one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedBatch {
    pub range: OffsetRange,
    /// The runs that are still to be made, ascending by first offset (not by number: a half that was
    /// halved again has newer runs than the other half). If there are none, the whole batch is done and
    /// lies above the committed offset: its records are skipped.
    pub parts: Vec<PlannedRun>,
    /// This process' ledger already has the batch in flight.
    pub registered: bool,
}

/// A run of a planned batch: all of it, one lane of it, or a piece that a split has made of either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedRun {
    pub run: RunId,
    pub range: OffsetRange,
    pub lane: Lane,
    pub failed_attempts: u32,
}

impl PlannedBatch {
    pub fn is_finished(&self) -> bool {
        self.parts.is_empty()
    }

    /// For how many runs memory is acquired before the first record is read. `split_later`: memory for a
    /// run of its own is acquired with each record, so the pieces of a run that was split count once.
    pub fn runs(&self, split_later: bool) -> usize {
        let lanes: BTreeSet<Lane> = self.parts.iter().map(|part| part.lane).collect();
        if split_later { lanes.len() } else { self.parts.len() }
    }

    /// The records of each run. One pass, since there may be as many runs as records.
    pub fn divide(&self, batch: Batch) -> Vec<Batch> {
        if let [part] = self.parts[..]
            && part.range == self.range
            && part.lane == Lane::WHOLE
        {
            return vec![batch];
        }
        // The runs of one lane ascend and do not overlap.
        let mut of_lane: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (place, part) in self.parts.iter().enumerate() {
            of_lane.entry(part.lane.index).or_default().push(place);
        }
        let count = self.parts.first().map_or(1, |part| part.lane.count);
        batch.divide(self.parts.len(), |record| {
            let lane = if count == 1 { 0 } else { lane_of_record(record, count) };
            let places = of_lane.get(&lane)?;
            let next =
                places.partition_point(|place| self.parts[*place].range.last < record.offset);
            places.get(next).copied().filter(|place| self.parts[*place].covers(record))
        })
    }
}

impl PlannedRun {
    /// Whether the record is one of the run's.
    pub fn covers(&self, record: &Record<'_>) -> bool {
        let Lane { index, count } = self.lane;
        self.range.contains(record.offset) && (count == 1 || lane_of_record(record, count) == index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::offset::Offset;

    fn range(first: i64, last: i64) -> OffsetRange {
        OffsetRange::new(Offset::new(first), Offset::new(last))
    }

    fn part(run: i64, first: i64, last: i64) -> PlannedRun {
        let range = range(first, last);
        PlannedRun { run: RunId(run), range, lane: Lane::WHOLE, failed_attempts: 0 }
    }

    #[test]
    fn a_planned_batch_is_divided_among_its_runs() {
        let mut batch = Batch::default();
        for offset in 0..10 {
            batch.push(Record { offset: Offset::new(offset), ..Record::default() });
        }
        let parts = vec![part(1, 0, 9)];
        let mut stored = PlannedBatch { range: range(0, 9), parts, registered: false };
        assert_eq!(stored.divide(batch.clone())[0].len(), 10);
        // The run was split: some pieces are done, and some were halved again later.
        stored.parts = [(5, 0, 2), (3, 6, 6), (9, 8, 9)]
            .map(|(run, first, last)| part(run, first, last))
            .into();
        let parts = stored.divide(batch);
        let ranges: Vec<_> = parts.iter().map(|part| part.range().unwrap()).collect();
        assert_eq!(ranges, [range(0, 2), range(6, 6), range(8, 9)]);
    }
}

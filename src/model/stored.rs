//! A batch that the history has from before: its range, and what of it is still to be run. Reading it
//! again is `batcher`'s.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::batch::{Batch, Record};
use crate::model::lane::lane_of_record;
use crate::model::offset::{Lane, OffsetRange};
use crate::model::run::RunId;

/// A batch's range that already has an identity: planned before, by this process or an earlier one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub range: OffsetRange,
    /// Its runs that are still to be made, ascending by first offset: a half that was halved again
    /// has newer runs than the other half. None: all of them are done,
    /// above the committed offset, and the records are passed over.
    pub parts: Vec<Part>,
    /// This process' ledger has it in flight already.
    pub registered: bool,
}

/// A run of a stored batch: all of it, a lane, or what a split left of either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub run: RunId,
    pub range: OffsetRange,
    pub lane: Lane,
    pub failed_attempts: u32,
}

impl Stored {
    pub fn is_finished(&self) -> bool {
        self.parts.is_empty()
    }

    /// Its runs that memory is had for at its beginning. `split_later`: each record brings what a run
    /// of its own takes, so that pieces of a run that was split count once.
    pub fn runs(&self, split_later: bool) -> usize {
        let lanes: BTreeSet<Lane> = self.parts.iter().map(|part| part.lane).collect();
        if split_later { lanes.len() } else { self.parts.len() }
    }

    /// The records of each part. One pass, since the parts may be as many as the records.
    pub fn divide(&self, batch: Batch) -> Vec<Batch> {
        if let [part] = self.parts[..]
            && part.range == self.range
            && part.lane == Lane::WHOLE
        {
            return vec![batch];
        }
        // Those of one lane ascend and do not overlap.
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

impl Part {
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

    fn part(run: i64, first: i64, last: i64) -> Part {
        let range = range(first, last);
        Part { run: RunId(run), range, lane: Lane::WHOLE, failed_attempts: 0 }
    }

    #[test]
    fn a_stored_batch_is_divided_as_its_parts_say() {
        let mut batch = Batch::default();
        for offset in 0..10 {
            batch.push(Record { offset: Offset::new(offset), ..Record::default() });
        }
        let parts = vec![part(1, 0, 9)];
        let mut stored = Stored { range: range(0, 9), parts, registered: false };
        assert_eq!(stored.divide(batch.clone())[0].len(), 10);
        // The middle is done; halves of it have newer runs.
        stored.parts = [(5, 0, 2), (3, 6, 6), (9, 8, 9)]
            .map(|(run, first, last)| part(run, first, last))
            .into();
        let parts = stored.divide(batch);
        let ranges: Vec<_> = parts.iter().map(|part| part.range().unwrap()).collect();
        assert_eq!(ranges, [range(0, 2), range(6, 6), range(8, 9)]);
    }
}

//! Divides the records of a failed run into pieces, each of which becomes a run. Pure; whether a run is split is
//! decided in `outcome`.

use std::collections::BTreeSet;

use crate::model::batch::Batch;
use crate::model::offset::{Offset, OffsetRange};

/// A part of a run's records, and the range that names it.
pub type Piece = (OffsetRange, Batch);

/// The two halves of a batch. Together their ranges begin and end where `range` does.
///
/// # Panics
/// If there are fewer than two records.
pub fn halves(range: OffsetRange, batch: &Batch) -> [Piece; 2] {
    let middle = batch.len() / 2;
    let mut offsets = batch.records().map(|record| record.offset).skip(middle.saturating_sub(1));
    let mut next = || offsets.next().expect("there are two records at least");
    let (last, first) = (next(), next());
    [
        (OffsetRange::new(range.first, last), batch.select(|record| record.offset <= last)),
        (OffsetRange::new(first, range.last), batch.select(|record| record.offset >= first)),
    ]
}

/// The records that failed; neighbours share a piece.
pub fn pieces(batch: &Batch, failed: &BTreeSet<Offset>) -> Vec<Piece> {
    let mut ranges: Vec<OffsetRange> = Vec::new();
    let mut side_by_side = false;
    for record in batch.records() {
        let has_failed = failed.contains(&record.offset);
        match ranges.last_mut() {
            Some(range) if has_failed && side_by_side => range.last = record.offset,
            _ if has_failed => ranges.push(OffsetRange::new(record.offset, record.offset)),
            _ => {}
        }
        side_by_side = has_failed;
    }
    // Ranges and records ascend: each record is in the next range that does not end before it.
    let mut next = 0;
    let batches = batch.divide(ranges.len(), |record| {
        while ranges.get(next).is_some_and(|range| range.last < record.offset) {
            next += 1;
        }
        ranges.get(next).filter(|range| range.contains(record.offset)).map(|_| next)
    });
    ranges.into_iter().zip(batches).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::batch::Record;

    fn batch(offsets: &[i64]) -> Batch {
        let mut batch = Batch::default();
        for offset in offsets {
            batch.push(Record { offset: Offset::new(*offset), ..Record::default() });
        }
        batch
    }

    fn range(first: i64, last: i64) -> OffsetRange {
        OffsetRange::new(Offset::new(first), Offset::new(last))
    }

    fn offsets(piece: &Piece) -> Vec<i64> {
        piece.1.records().map(|record| record.offset.get()).collect()
    }

    #[test]
    fn a_batch_is_halved_between_two_records() {
        let [first, second] = halves(range(10, 29), &batch(&[12, 13, 20, 25, 26]));
        assert_eq!((first.0, offsets(&first)), (range(10, 13), vec![12, 13]));
        assert_eq!((second.0, offsets(&second)), (range(20, 29), vec![20, 25, 26]));
        let [first, second] = halves(range(5, 6), &batch(&[5, 6]));
        assert_eq!((first.0, second.0), (range(5, 5), range(6, 6)));
    }

    #[test]
    fn neighbouring_named_records_stay_together() {
        let failed = [3, 5, 9, 11].map(Offset::new).into();
        let found = pieces(&batch(&[1, 3, 5, 7, 9, 11]), &failed);
        let ranges: Vec<_> = found.iter().map(|(range, _)| *range).collect();
        assert_eq!(ranges, [range(3, 5), range(9, 11)]);
        assert_eq!(offsets(&found[1]), [9, 11]);
        assert_eq!(pieces(&batch(&[1, 2]), &BTreeSet::new()).len(), 0);
    }

    proptest! {
        /// Halved often enough, a batch becomes its single records, each once.
        #[test]
        fn halving_ends_with_every_record_alone(present in prop::collection::btree_set(0i64..500, 1..40)) {
            let present: Vec<i64> = present.into_iter().collect();
            let mut left = vec![(range(0, 500), batch(&present))];
            let mut alone = Vec::new();
            while let Some((range, batch)) = left.pop() {
                prop_assert!(batch.records().all(|record| range.contains(record.offset)));
                match batch.len() {
                    1 => alone.push(batch.records().next().unwrap().offset.get()),
                    _ => {
                        let [first, second] = halves(range, &batch);
                        prop_assert_eq!((first.0.first, second.0.last), (range.first, range.last));
                        prop_assert!(first.0.last < second.0.first);
                        left.extend([second, first]);
                    }
                }
            }
            prop_assert_eq!(alone, present);
        }
    }
}

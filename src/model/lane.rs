//! Which lane a record belongs to when `--order key` splits a partition's keys into lanes.
//!
//! The order among the runs of a lane is kept in `runs::lanes`.

use crate::model::batch::Record;
use crate::model::murmur::murmur2;

/// The lane of a record, of `lanes` lanes: by its key, so that records of one key share a lane. A record
/// without a key has no order to keep and is placed by its offset. A record that is read again gets the same
/// lane.
///
/// Kafka's producers choose the partition by the key's murmur2, so within a partition its low bits hardly
/// differ. They are mixed once more, by the finalizer of MurmurHash3.
pub fn lane_of_record(record: &Record<'_>, lanes: u32) -> u32 {
    let Some(key) = record.key else {
        return (record.offset.get() % i64::from(lanes)) as u32;
    };
    let mut hash = murmur2(key) as u32;
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    (hash ^ (hash >> 16)) % lanes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::offset::Offset;

    #[test]
    fn keys_of_one_partition_spread_over_the_lanes() {
        for (partitions, lanes) in [(4, 4), (4, 8), (6, 3), (10, 5)] {
            let mut counts = vec![0; lanes as usize];
            let keys = (0..20_000).map(|n| format!("key-{n}"));
            let of_one = |key: &String| (murmur2(key.as_bytes()) & 0x7fff_ffff) % partitions == 0;
            for key in keys.filter(of_one) {
                let record = Record { key: Some(key.as_bytes()), ..Record::default() };
                counts[lane_of_record(&record, lanes) as usize] += 1;
            }
            let mean = counts.iter().sum::<u32>() / lanes;
            assert!(counts.iter().all(|count| *count > mean / 2), "{partitions}: {counts:?}");
        }
    }

    #[test]
    fn records_without_a_key_are_spread_by_their_offset() {
        let at = |offset| Record { offset: Offset::new(offset), ..Record::default() };
        let lanes: Vec<u32> = (0..4).map(|offset| lane_of_record(&at(offset), 3)).collect();
        assert_eq!(lanes, [0, 1, 2, 0]);
    }
}

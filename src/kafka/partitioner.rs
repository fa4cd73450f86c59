//! Which partition a message goes to: by its key, as Kafka's own producers choose, or round robin.

use crate::model::murmur::murmur2;
use crate::model::offset::Partition;

/// The partition of a key: `(murmur2(key) & 0x7fffffff) % partitions`, the rule of Kafka's Java
/// producer (BuiltInPartitioner.partitionForKey), so that a key is always in the same partition, whichever program
/// writes it.
///
/// # Panics
/// If `partitions` is 0.
pub fn partition_of_key(key: &[u8], partitions: u32) -> Partition {
    assert!(partitions > 0, "a topic has one partition or more");
    let positive = (murmur2(key) & 0x7fff_ffff) as u32;
    (positive % partitions) as Partition
}

/// One partition after another, for messages without a key.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoundRobin {
    next: u32,
}

impl RoundRobin {
    /// # Panics
    /// If `partitions` is 0.
    pub fn next(&mut self, partitions: u32) -> Partition {
        assert!(partitions > 0, "a topic has one partition or more");
        let partition = self.next % partitions;
        self.next = (partition + 1) % partitions;
        partition as Partition
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn partitions_take_turns_and_added_ones_are_used_too() {
        let mut turn = RoundRobin::default();
        let three: Vec<_> = (0..4).map(|_| turn.next(3)).collect();
        assert_eq!(three, [0, 1, 2, 0]);
        let five: Vec<_> = (0..5).map(|_| turn.next(5)).collect();
        assert_eq!(five, [1, 2, 3, 4, 0]);
        assert_eq!(turn.next(1), 0);
    }

    proptest! {
        #[test]
        fn a_key_has_one_partition_within_range(
            key in proptest::collection::vec(any::<u8>(), 0..64),
            partitions in 1..10_000_u32,
        ) {
            let partition = partition_of_key(&key, partitions);
            prop_assert!((0..partitions as i32).contains(&partition));
            prop_assert_eq!(partition, partition_of_key(&key, partitions));
        }
    }
}

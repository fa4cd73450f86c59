//! Which partition a message goes to: by its key as Kafka's own producers choose, or in turn.

use crate::offset::Partition;

/// The partition of a key: `(murmur2(key) & 0x7fffffff) % partitions`, the rule of Kafka's Java
/// producer (BuiltInPartitioner.partitionForKey), so that one key stays in one partition whoever
/// writes it.
///
/// # Panics
/// Where `partitions` is not above 0.
pub fn partition_of_key(key: &[u8], partitions: u32) -> Partition {
    assert!(partitions > 0, "a topic has one partition or more");
    let positive = (murmur2(key) & 0x7fff_ffff) as u32;
    (positive % partitions) as Partition
}

/// Partitions in turn, for messages without a key.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoundRobin {
    next: u32,
}

impl RoundRobin {
    /// # Panics
    /// Where `partitions` is not above 0.
    pub fn next(&mut self, partitions: u32) -> Partition {
        assert!(partitions > 0, "a topic has one partition or more");
        let partition = self.next % partitions;
        self.next = (partition + 1) % partitions;
        partition as Partition
    }
}

/// The 32-bit MurmurHash2 with Kafka's seed (org.apache.kafka.common.utils.Utils.murmur2).
pub fn murmur2(data: &[u8]) -> i32 {
    const SEED: u32 = 0x9747_b28c;
    const MIX: u32 = 0x5bd1_e995;

    let mut hash = SEED ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        word = word.wrapping_mul(MIX);
        word ^= word >> 24;
        hash = hash.wrapping_mul(MIX) ^ word.wrapping_mul(MIX);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (place, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * place);
        }
        hash = hash.wrapping_mul(MIX);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MIX);
    (hash ^ (hash >> 15)) as i32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The cases of Kafka's own test, org.apache.kafka.common.utils.UtilsTest.testMurmur2.
    #[test]
    fn murmur2_is_kafkas() {
        for (text, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(text.as_bytes()), hash, "{text}");
        }
    }

    #[test]
    fn partitions_come_in_turn_and_a_grown_topic_is_used_whole() {
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

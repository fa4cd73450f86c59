//! The readers of one sensor.

use super::partition_reader::PartitionReader;
use crate::model::offset::Partition;

/// By partition number.
#[derive(Debug, Default)]
pub(super) struct Readers(Vec<Option<PartitionReader>>);

impl Readers {
    pub fn get(&self, partition: Partition) -> Option<&PartitionReader> {
        self.0.get(usize::try_from(partition).ok()?)?.as_ref()
    }

    pub fn get_mut(&mut self, partition: Partition) -> Option<&mut PartitionReader> {
        self.0.get_mut(usize::try_from(partition).ok()?)?.as_mut()
    }

    /// # Panics
    /// If the partition's number is negative.
    pub fn insert(&mut self, reader: PartitionReader) {
        let index =
            usize::try_from(reader.partition()).expect("partition numbers are not negative");
        if self.0.len() <= index {
            self.0.resize_with(index + 1, || None);
        }
        self.0[index] = Some(reader);
    }

    pub fn remove(&mut self, partition: Partition) -> Option<PartitionReader> {
        self.0.get_mut(usize::try_from(partition).ok()?)?.take()
    }

    /// All readers, by ascending partition.
    pub fn iter(&self) -> impl Iterator<Item = &PartitionReader> {
        self.0.iter().flatten()
    }

    /// As `iter`.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut PartitionReader> {
        self.0.iter_mut().flatten()
    }

    /// One more than the highest partition number.
    pub fn numbers(&self) -> Partition {
        Partition::try_from(self.0.len()).unwrap_or(Partition::MAX)
    }
}

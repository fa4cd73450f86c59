//! Offsets, offset ranges and run keys: the coordinates of everything that mb does.
//!
//! Only numbers and their text forms are here. What is done or committed is known by `commit::ledger` and
//! `history`.

use std::fmt;
use std::sync::Arc;

/// A partition's number, as Kafka counts them: from 0.
pub type Partition = i32;

/// The place of a record in its partition. Kafka counts from 0; gaps are normal.
///
/// As a *position* or a *committed offset* it is the next record to read: everything below it is done.
///
/// ```
/// use mb::Offset;
///
/// let last = Offset::new(41);
/// assert_eq!(last.next().get(), 42);
/// // Kafka's logical offsets (-1 is the log's end) are no places in a log.
/// assert_eq!(Offset::checked(-1), None);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(i64);

impl Offset {
    pub const ZERO: Offset = Offset(0);

    /// # Panics
    /// If `offset` is negative: Kafka's logical offsets (-1, -2) never reach this type.
    pub fn new(offset: i64) -> Offset {
        assert!(offset >= 0, "a negative offset ({offset}) is no place in a log");
        Offset(offset)
    }

    /// The offset, or `None` for Kafka's logical (negative) offsets.
    pub fn checked(offset: i64) -> Option<Offset> {
        (offset >= 0).then_some(Offset(offset))
    }

    pub fn get(self) -> i64 {
        self.0
    }

    /// The position after this record. The only "+1" on offsets in mb.
    pub fn next(self) -> Offset {
        Offset(self.0.checked_add(1).expect("an offset below i64::MAX"))
    }

    /// The offset of the record before this position; `None` at 0.
    pub fn before(self) -> Option<Offset> {
        Offset::checked(self.0 - 1)
    }

    /// How many offsets there are from `lower` (included) to this one (excluded); 0 if `lower` is higher.
    pub fn distance_from(self, lower: Offset) -> u64 {
        u64::try_from(self.0 - lower.0).unwrap_or(0)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The epoch of a partition's leader: it rises with every election, and each stored batch has that of the leader
/// that wrote it (KIP-101). Records of one offset and one epoch are the same record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(i32);

impl Epoch {
    /// The first leader's.
    pub const FIRST: Epoch = Epoch(0);

    /// The epoch, or `None` for -1, which stands for an unknown one.
    pub fn checked(epoch: i32) -> Option<Epoch> {
        (epoch >= 0).then_some(Epoch(epoch))
    }

    pub fn get(self) -> i32 {
        self.0
    }

    /// An optional epoch as Kafka writes it: -1 for none.
    pub fn or_unknown(epoch: Option<Epoch>) -> i32 {
        epoch.map_or(-1, Epoch::get)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A record that was read: the position after it, and the leader epoch of its batch, or a later one. A log that ends
/// the epoch below `end` does not have the record any more (KIP-320).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastRead {
    pub end: Offset,
    pub epoch: Epoch,
}

/// Consecutive offsets of one partition, both ends included, never empty.
///
/// ```
/// use mb::{Offset, OffsetRange};
///
/// let range = OffsetRange::new(Offset::new(100), Offset::new(149));
/// assert!(range.contains(Offset::new(149)));
/// assert_eq!((range.end(), range.to_string()), (Offset::new(150), "100-149".to_owned()));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OffsetRange {
    pub first: Offset,
    pub last: Offset,
}

impl OffsetRange {
    /// # Panics
    /// If `last` is below `first`.
    pub fn new(first: Offset, last: Offset) -> OffsetRange {
        assert!(first <= last, "offset range {first}-{last} is reversed");
        OffsetRange { first, last }
    }

    /// The offsets from `from` (included) to `position` (excluded).
    ///
    /// # Panics
    /// If there are none.
    pub fn below(position: Offset, from: Offset) -> OffsetRange {
        assert!(from < position, "no offset lies below {position} from {from} on");
        OffsetRange::new(from, Offset(position.0 - 1))
    }

    pub fn contains(self, offset: Offset) -> bool {
        self.first <= offset && offset <= self.last
    }

    /// The position after the range.
    pub fn end(self) -> Offset {
        self.last.next()
    }
}

impl fmt::Display for OffsetRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// Which part of a batch a run has: lane `index` of `count` (`--order key`). A batch that is not divided by
/// key is lane 0 of 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    pub index: u32,
    pub count: u32,
}

impl Lane {
    pub const WHOLE: Lane = Lane { index: 0, count: 1 };
}

/// Why records are processed once more, and the number of the request that asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reprocess {
    /// Dead letters, from their stored payload.
    Redrive(i64),
    /// A range of the log, which is read once more.
    Replay(i64),
}

impl Reprocess {
    /// The request's number.
    pub fn request(self) -> i64 {
        let (Reprocess::Redrive(request) | Reprocess::Replay(request)) = self;
        request
    }
}

/// A run's identity. As text it is `TOPIC/PARTITION/FIRST-LAST`, followed by `.lane-K-of-L` for a lane of
/// the batch, and by `.redrive-N` or `.replay-N` for a run of a request.
///
/// ```
/// use mb::{Offset, OffsetRange, RunKey};
///
/// let range = OffsetRange::new(Offset::new(100), Offset::new(149));
/// assert_eq!(RunKey::new("orders", 3, range).to_string(), "orders/3/100-149");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunKey {
    pub topic: Arc<str>,
    pub partition: Partition,
    pub range: OffsetRange,
    pub lane: Lane,
    /// `None` for the first processing of the records.
    pub reprocess: Option<Reprocess>,
}

impl RunKey {
    /// The key of a run that has all records of its range and belongs to no request.
    pub fn new(topic: impl Into<Arc<str>>, partition: Partition, range: OffsetRange) -> RunKey {
        RunKey { topic: topic.into(), partition, range, lane: Lane::WHOLE, reprocess: None }
    }
}

impl fmt::Display for RunKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.partition, self.range)?;
        if self.lane != Lane::WHOLE {
            write!(f, ".lane-{}-of-{}", self.lane.index, self.lane.count)?;
        }
        match self.reprocess {
            None => Ok(()),
            Some(Reprocess::Redrive(request)) => write!(f, ".redrive-{request}"),
            Some(Reprocess::Replay(request)) => write!(f, ".replay-{request}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_key_reads_topic_partition_first_last() {
        let range = OffsetRange::new(Offset::new(100), Offset::new(149));
        let mut key = RunKey::new("First_Topic", 3, range);
        assert_eq!(key.to_string(), "First_Topic/3/100-149");
        key.lane = Lane { index: 2, count: 5 };
        assert_eq!(key.to_string(), "First_Topic/3/100-149.lane-2-of-5");
        key.reprocess = Some(Reprocess::Replay(7));
        assert_eq!(key.to_string(), "First_Topic/3/100-149.lane-2-of-5.replay-7");
    }

    #[test]
    fn logical_offsets_are_no_offsets() {
        assert_eq!(Offset::checked(-1), None);
        assert_eq!(Offset::checked(0), Some(Offset::ZERO));
    }

    #[test]
    fn a_distance_is_never_negative() {
        assert_eq!(Offset::new(10).distance_from(Offset::new(3)), 7);
        assert_eq!(Offset::new(3).distance_from(Offset::new(10)), 0);
    }
}

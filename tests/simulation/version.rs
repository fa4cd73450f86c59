//! A partition's records in memory, with the leaders under which they were written.

use std::rc::Rc;

use fastrand::Rng;
use mb::kafka::EpochEnd;
use mb::model::offset::{Epoch, Offset};

#[derive(Clone)]
pub struct Entry {
    pub offset: i64,
    pub key: Option<Rc<[u8]>>,
    pub value: Option<Rc<[u8]>>,
    /// Compaction has taken it.
    pub removed: bool,
}

/// A partition's records, and under which leaders they were written.
#[derive(Clone)]
pub struct Version {
    /// Ascending; what lies between them was never a record.
    pub entries: Vec<Entry>,
    /// Leader epochs, ascending, each with its first offset.
    pub epochs: Vec<(i32, i64)>,
}

impl Version {
    pub fn new(beginning: i64) -> Version {
        Version { entries: Vec::new(), epochs: vec![(0, beginning)] }
    }

    /// Loses what it has from some record on, and gets another leader. Returns where it ends now.
    pub fn cut(&mut self, rng: &mut Rng) -> Option<i64> {
        // Where compaction has taken records, mb may have passed a gap a moment ago whose epoch it does not know yet.
        let at = rng.usize(0..=self.entries.len());
        let cut = self.entries.get(at).filter(|entry| !entry.removed)?.offset;
        self.entries.truncate(at);
        let leader = self.leader();
        self.epochs.retain(|(_, start)| *start < cut);
        self.epochs.push((leader + 1 + rng.i32(0..2), cut));
        Some(cut)
    }

    /// Gets another leader, and loses nothing.
    pub fn elect(&mut self, end: i64) {
        self.epochs.push((self.leader() + 1, end));
    }

    /// The leader's epoch.
    pub fn leader(&self) -> i32 {
        self.epochs.last().map_or(0, |(epoch, _)| *epoch)
    }

    /// The first record from `offset` on.
    pub fn next(&self, offset: i64) -> Option<&Entry> {
        let from = self.entries.partition_point(|entry| entry.offset < offset);
        self.entries[from..].iter().find(|entry| !entry.removed)
    }

    /// The epoch of the leader that wrote the record at `offset`.
    pub fn epoch_of(&self, offset: i64) -> i32 {
        let above = self.epochs.partition_point(|(_, start)| *start <= offset);
        above.checked_sub(1).map_or(0, |at| self.epochs[at].0)
    }

    /// As a leader answers for an epoch.
    pub fn epoch_end(&self, epoch: Epoch, end: i64) -> Option<EpochEnd> {
        let above = self.epochs.partition_point(|(known, _)| *known <= epoch.get());
        let found = above.checked_sub(1).map_or(0, |at| self.epochs[at].0);
        let end = match self.epochs.get(above) {
            Some((_, start)) => *start,
            None if found == epoch.get() => end,
            None => return None,
        };
        Some(EpochEnd { epoch: Epoch::checked(found)?, end: Offset::new(end) })
    }
}

//! What of a partition the log is to be asked about: whether it still has what was read. What is known of that is in
//! `epochs`; who asks is `intake`.

use super::PartitionReader;
use super::epochs::Epochs;
use crate::model::offset::{Epoch, LastRead, Offset};
use crate::source::batcher::Cut;

/// The leader epochs of what is read.
impl PartitionReader {
    /// What was read before by an earlier reader, if its leader epoch is known.
    pub fn behind(self, read: Option<LastRead>) -> PartitionReader {
        PartitionReader { epochs: Epochs::after(read), ..self }
    }

    /// The client reports the leader epoch of the records that follow. True if they are dropped until `is_still_there`
    /// was called.
    pub fn epoch(&mut self, epoch: Epoch) -> bool {
        self.epochs.report(epoch, self.batcher.filled_to());
        self.epochs.is_suspect()
    }

    /// A batch was cut. Returns the leader epoch of what lies below its end, or a later one, if it is known: compaction
    /// may have taken the last records of a batch that was planned before, which were of a later epoch than the others.
    pub fn note_cut(&mut self, cut: &Cut) -> Option<Epoch> {
        let last = cut.batch.last_offset();
        self.epochs.note_read(last.map(Offset::next));
        self.epochs.current().filter(|_| last == Some(cut.range().last))
    }

    /// What the log is to be asked about before more is read: its records are dropped.
    pub fn suspect(&self) -> Option<LastRead> {
        self.epochs.read().filter(|_| self.epochs.is_suspect())
    }

    /// Another consumer begins: it reports of which leader epoch its records are.
    pub fn forget_suspicion(&mut self) {
        self.epochs.begin_reading();
    }

    /// What the log is to be asked about, now that its leader has this epoch. `None` if that is known already.
    pub fn unconfirmed(&mut self, leader: Epoch) -> Option<LastRead> {
        if !self.epochs.is_due(leader) {
            return None;
        }
        self.epochs.note_read(self.batcher.filled_to());
        let read = self.epochs.read();
        if read.is_none() {
            self.epochs.confirmed(Some(leader));
        }
        read
    }

    /// Whether the partition has another leader than when the log was last asked.
    pub fn is_led_anew(&self, leader: Epoch) -> bool {
        self.epochs.is_elected(leader)
    }

    /// The epoch of the leader that was asked last.
    pub fn checked_leader(&self) -> Option<Epoch> {
        self.epochs.checked()
    }

    /// The log still has what was read, as its leader says.
    pub fn is_still_there(&mut self, leader: Option<Epoch>) {
        self.epochs.confirmed(leader);
    }

    /// The offset below the read position, if its leader epoch is to be looked up in the log.
    pub fn unknown_epoch(&mut self) -> Option<Offset> {
        self.epochs.look_up(self.batcher.read_position())?.before()
    }

    /// The log has a record of this leader epoch at `offset`.
    pub fn found_epoch(&mut self, offset: Offset, epoch: Epoch) {
        self.epochs.note_found(offset.next(), epoch);
    }
}

//! Whether a partition's log is still the one that was read: the leader epochs of what was read (KIP-320). Pure: who
//! asks the log, and what follows from a log that was cut off, is decided in `intake` and `tick`.
//!
//! A log that was cut off below the position and has grown past it again looks like any other by its offsets: a folder
//! restored from an older copy, an election of a replica that was behind. By epochs it differs: the records above the
//! cut are of a later leader, so the records of the earlier one end at the cut.

use crate::model::offset::{Epoch, LastRead, Offset};

/// What is known of the epochs of one partition.
#[derive(Debug, Default)]
pub(super) struct Epochs {
    /// The newest record that was read, by this process or an earlier one, and is known with its epoch.
    read: Option<LastRead>,
    /// The epoch of the records that the client hands over; `None` before it reports one.
    current: Option<Epoch>,
    /// The epoch that the client reported after `current`: that of a later leader. Its records are dropped until the log
    /// has confirmed what was read before them: they may be of a log that has replaced it.
    next: Option<Epoch>,
    /// The leader's epoch when the log was last asked.
    checked: Option<Epoch>,
    /// The position whose epoch was looked up last.
    looked_up: Option<Offset>,
}

impl Epochs {
    /// Reading goes on behind the record that was read last by an earlier process.
    pub fn after(read: Option<LastRead>) -> Epochs {
        Epochs { read, ..Epochs::default() }
    }

    /// The client reports the epoch of the records that follow. `read` is the end of the newest record that was taken,
    /// unless `note_read` has it already.
    pub fn report(&mut self, epoch: Epoch, read: Option<Offset>) {
        self.note_read(read);
        let before = self.current.or(self.read.map(|read| read.epoch));
        // Below what was read, records of earlier leaders are read again.
        let is_later = before.is_some_and(|before| before < epoch) && self.read.is_some();
        // Records were dropped: whatever comes now, they must be read again first.
        if is_later || self.is_suspect() {
            self.next = Some(epoch);
        } else {
            self.current = Some(epoch);
        }
    }

    /// The newest record that was taken ends here.
    pub fn note_read(&mut self, end: Option<Offset>) {
        if let (Some(end), Some(epoch)) = (end, self.current) {
            self.raise(LastRead { end, epoch });
        }
    }

    /// What is read again lies below what was read: the log is asked about the newest of all.
    fn raise(&mut self, read: LastRead) {
        if self.read.is_none_or(|known| known.end <= read.end) {
            self.read = Some(read);
        }
    }

    /// For a client that reports no epochs: the log has a batch of this epoch below `end`.
    pub fn note_found(&mut self, end: Offset, epoch: Epoch) {
        self.raise(LastRead { end, epoch });
    }

    /// The epoch of what is being read, for the batch that is cut from it.
    pub fn current(&self) -> Option<Epoch> {
        self.current
    }

    /// The position, if the epoch of what lies below it is to be looked up: the client reports no epochs, or the position
    /// lies behind a gap, in which a log that was cut off may have records later. Once for each position: the log may
    /// have nothing there.
    pub fn look_up(&mut self, position: Offset) -> Option<Offset> {
        let is_known = self.read.is_some_and(|read| read.end >= position);
        if is_known || self.looked_up == Some(position) {
            return None;
        }
        self.looked_up = Some(position);
        Some(position)
    }

    /// Whether records are dropped until the log has confirmed what was read before.
    pub fn is_suspect(&self) -> bool {
        self.next.is_some()
    }

    /// Whether the log is to be asked about `read`, now that its leader has this epoch.
    pub fn is_due(&self, leader: Epoch) -> bool {
        self.checked != Some(leader)
    }

    /// The leader's epoch when the log was last asked.
    pub fn checked(&self) -> Option<Epoch> {
        self.checked
    }

    /// Whether the log has had another leader since it was last asked.
    pub fn is_elected(&self, leader: Epoch) -> bool {
        self.checked.is_some_and(|checked| checked != leader)
    }

    pub fn read(&self) -> Option<LastRead> {
        self.read
    }

    /// The log still has what was read.
    pub fn confirmed(&mut self, leader: Option<Epoch>) {
        if let Some(next) = self.next.take() {
            self.current = Some(next);
        }
        self.checked = leader.or(self.checked);
    }

    /// The records that come are read anew, by another client: what it is about to hand over is not known.
    pub fn begin_reading(&mut self) {
        self.next = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(epoch: i32) -> Epoch {
        Epoch::checked(epoch).unwrap()
    }

    fn read(end: i64, of: i32) -> Option<LastRead> {
        Some(LastRead { end: Offset::new(end), epoch: epoch(of) })
    }

    #[test]
    fn records_of_another_epoch_wait_until_those_before_them_are_confirmed() {
        let mut epochs = Epochs::after(read(100, 0));
        epochs.report(epoch(0), None);
        assert!(!epochs.is_suspect());
        epochs.report(epoch(0), Some(Offset::new(120)));
        assert_eq!(epochs.read(), read(120, 0));
        epochs.report(epoch(2), Some(Offset::new(130)));
        assert!(epochs.is_suspect());
        assert_eq!((epochs.read(), epochs.current()), (read(130, 0), Some(epoch(0))));
        epochs.confirmed(None);
        assert!(!epochs.is_suspect());
        epochs.note_read(Some(Offset::new(140)));
        assert_eq!(epochs.read(), read(140, 2));
    }

    #[test]
    fn what_was_dropped_is_read_again_whatever_comes_behind_it() {
        let mut epochs = Epochs::after(read(100, 0));
        epochs.report(epoch(2), None);
        epochs.report(epoch(0), None);
        assert!(epochs.is_suspect());
    }

    #[test]
    fn records_of_an_earlier_leader_are_read_again_without_a_question() {
        let mut epochs = Epochs::after(read(100, 2));
        epochs.report(epoch(0), None);
        assert!(!epochs.is_suspect());
        epochs.report(epoch(2), Some(Offset::new(50)));
        assert!(epochs.is_suspect());
        assert_eq!(epochs.read(), read(100, 2));
    }

    #[test]
    fn the_first_epoch_of_an_unknown_position_is_believed() {
        let mut epochs = Epochs::after(None);
        epochs.report(epoch(7), None);
        assert!(!epochs.is_suspect());
        assert_eq!(epochs.read(), None);
    }

    #[test]
    fn what_an_earlier_process_read_counts_before_the_client_reports_an_epoch() {
        let mut epochs = Epochs::after(read(100, 3));
        epochs.report(epoch(4), None);
        assert!(epochs.is_suspect(), "the log above 100 may be another");
        assert_eq!(epochs.read(), read(100, 3));
    }

    #[test]
    fn what_is_read_again_is_not_what_the_log_is_asked_about() {
        let mut epochs = Epochs::after(read(100, 3));
        epochs.report(epoch(3), None);
        epochs.note_read(Some(Offset::new(50)));
        assert_eq!(epochs.read(), read(100, 3));
        epochs.note_read(Some(Offset::new(110)));
        assert_eq!(epochs.read(), read(110, 3));
    }

    #[test]
    fn a_leader_is_asked_once() {
        let mut epochs = Epochs::after(read(100, 3));
        assert!(epochs.is_due(epoch(3)));
        epochs.confirmed(Some(epoch(3)));
        assert!(!epochs.is_due(epoch(3)) && epochs.is_due(epoch(5)));
    }

    #[test]
    fn the_epochs_that_a_client_does_not_report_come_from_the_log() {
        let mut epochs = Epochs::default();
        let nine = Offset::new(9);
        assert_eq!(epochs.look_up(nine), Some(nine));
        assert_eq!(epochs.look_up(nine), None, "the log had no answer");
        epochs.note_found(nine, epoch(1));
        assert_eq!((epochs.look_up(nine), epochs.read()), (None, read(9, 1)));
        assert_eq!(epochs.look_up(Offset::new(10)), Some(Offset::new(10)));
    }
}

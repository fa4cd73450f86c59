//! How far an answer of crate kafka can be believed, and what a record batch's header proves. Pure functions of
//! offsets; `consumer` fetches and hands over.
//!
//! If an answer contains a compressed batch, the crate drops all messages before it, without an error. So only
//! messages that follow the requested offset without a jump are believed. At a jump `wire` reads the header of the
//! record batch there, and that batch is fetched alone.

use crate::kafka::wire::RecordBatchHeader;
use crate::model::offset::Offset;

/// The size of a message beyond key and value in format 0: offset, size, checksum, two bytes of attributes, two
/// lengths.
const MESSAGE_OVERHEAD_BYTES: usize = 26;

/// How many messages at the front of an answer are certainly all that the log has: those that follow the requested
/// offset without a jump.
pub(super) fn believed(requested: Offset, offsets: impl IntoIterator<Item = i64>) -> usize {
    let expected = requested.get()..;
    expected.zip(offsets).take_while(|(expected, found)| expected == found).count()
}

/// Whether the messages of an answer that has only this batch are all of its records from the requested offset on.
/// `None`: the header cannot tell, because some of the batch's records may lie below that offset.
pub(super) fn complete(
    requested: Offset,
    batch: &RecordBatchHeader,
    offsets: &[i64],
) -> Option<bool> {
    let lowest = requested.max(batch.base).get();
    let ascending = offsets.is_sorted_by(|one, next| one < next);
    let inside = offsets.iter().all(|offset| (lowest..=batch.last.get()).contains(offset));
    if !ascending || !inside {
        return Some(false);
    }
    (requested <= batch.base).then(|| usize::try_from(batch.records) == Ok(offsets.len()))
}

/// Whether messages with these payload sizes fill less than half of the requested bytes.
pub(super) fn stops_short(payloads: impl Iterator<Item = usize>, requested_bytes: usize) -> bool {
    payloads.map(|payload| payload + MESSAGE_OVERHEAD_BYTES).sum::<usize>() < requested_bytes / 2
}

/// For how many record batches a partition is read one by one after a jump: twice as many each time, because logs
/// with jumps (compacted, transactional, mixed codecs) usually have many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Caution {
    left: u32,
    last: u32,
}

impl Caution {
    const MAX: u32 = 256;

    /// A jump was seen.
    pub(super) fn raise(&mut self) {
        self.last = (self.last * 2).clamp(1, Caution::MAX);
        self.left = self.last;
    }

    /// One batch was read by itself.
    pub(super) fn spend(&mut self) {
        self.left = self.left.saturating_sub(1);
    }

    /// The log has no more records at the moment.
    pub(super) fn rest(&mut self) {
        self.left = 0;
    }

    /// A plain answer had no jump in it.
    pub(super) fn lower(&mut self) {
        *self = Caution::default();
    }

    pub(super) fn is_raised(&self) -> bool {
        self.left > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::wire::RecordBatchHeader;

    fn batch(base: i64, last: i64, records: i32) -> RecordBatchHeader {
        RecordBatchHeader::for_tests(Offset::new(base), Offset::new(last), records)
    }

    #[test]
    fn only_messages_without_a_jump_are_believed() {
        assert_eq!(believed(Offset::new(5), [5, 6, 7]), 3);
        assert_eq!(believed(Offset::new(5), [5, 6, 9, 10]), 2);
        assert_eq!(
            believed(Offset::new(5), [100, 101]),
            0,
            "a first offset above the requested one"
        );
        assert_eq!(believed(Offset::new(5), [4, 5]), 0);
        assert_eq!(believed(Offset::new(5), []), 0);
    }

    #[test]
    fn a_batch_is_complete_if_the_answer_has_as_many_records_as_its_header_says() {
        let requested = Offset::new(10);
        assert_eq!(complete(requested, &batch(10, 12, 3), &[10, 11, 12]), Some(true));
        assert_eq!(complete(requested, &batch(10, 19, 2), &[13, 17]), Some(true), "compacted");
        assert_eq!(
            complete(requested, &batch(20, 22, 3), &[20, 21, 22]),
            Some(true),
            "after a gap"
        );
        assert_eq!(
            complete(requested, &batch(10, 12, 3), &[11, 12]),
            Some(false),
            "one is missing"
        );
        assert_eq!(complete(requested, &batch(10, 12, 3), &[10, 11, 13]), Some(false), "outside");
        assert_eq!(complete(requested, &batch(10, 12, 3), &[10, 12, 11]), Some(false), "disorder");
        assert_eq!(complete(requested, &batch(10, 12, 3), &[]), Some(false));
    }

    #[test]
    fn the_count_proves_nothing_if_the_batch_begins_below_the_requested_offset() {
        assert_eq!(complete(Offset::new(11), &batch(10, 12, 3), &[11, 12]), None);
        assert_eq!(complete(Offset::new(11), &batch(10, 12, 3), &[10, 11, 12]), Some(false));
    }

    #[test]
    fn an_answer_of_small_messages_may_be_full() {
        assert!(!stops_short([0; 20].into_iter(), 1000));
        assert!(stops_short([0; 19].into_iter(), 1000));
        assert!(stops_short([400].into_iter(), 1000));
    }

    #[test]
    fn caution_grows_while_jumps_continue_and_ends_with_them() {
        let mut caution = Caution::default();
        assert!(!caution.is_raised());
        caution.raise();
        caution.spend();
        assert!(!caution.is_raised());
        caution.raise();
        caution.spend();
        assert!(caution.is_raised(), "two batches the second time");
        caution.lower();
        assert_eq!(caution, Caution::default());
    }
}

//! Which offsets that a client names are believed.
//!
//! A client can name an offset that its log does not have. A bit may have been flipped in a part of an answer that
//! no checksum covers; and a client can lose its place in an answer: librdkafka 2.12.1 goes on in the middle of a
//! value behind a batch whose checksum is wrong (`rd_kafka_buf_skip_to(rkbuf, crc_len)` in rdkafka_msgset_reader.c),
//! takes eight bytes of it for an offset, and asks for that. If mb took such an offset for its position, it would
//! pass over the rest of the log and commit that, or halt because the log seems to be another one.
//!
//! | the client says | it is believed if |
//! | --- | --- |
//! | the record at the offset that mb is at, or the end there | always: that is the offset that mb asked for |
//! | a record, a broken record, or the end, further ahead | the log reaches so far, by the answer to a second question |
//! | an offset is out of range | it is the one that mb is at, and that answer agrees (`gaps`) |
//!
//! The second question (`Broker::watermarks`) goes over mb's own `kafka::wire`, whatever client reads the records.
//! It costs nothing in a log without gaps, and in a log with gaps one question per tick until the log's end is near.
//! What is not believed is an error of its partition: nothing of it is taken, and after a pause the partition is
//! read again from mb's own position.
//!
//! Not found: a wrong offset that lies within the log. (Checksums cover the records of a batch and their distances,
//! but not the offset at its head.)

use crate::kafka::Watermarks;
use crate::model::error::{Error, Result};
use crate::model::offset::{Offset, Partition};
use crate::runs::engine::Engine;

/// What a client says of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// There is a record at this offset, readable or not, and none that mb has not seen below it.
    Record(Offset),
    /// There is no further record below this offset.
    Position(Offset),
}

/// How far claims are believed without a question: for one partition, and as long as one consumer reads it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Believed {
    /// The highest offset that follows from where mb began without a jump, or by believed claims.
    next: Offset,
    /// The log was seen to end here, or later.
    end: Offset,
}

impl Believed {
    /// mb begins at `position`.
    pub fn at(position: Offset) -> Believed {
        Believed { next: position, end: Offset::ZERO }
    }

    #[inline]
    pub fn covers(&self, claim: Claim) -> bool {
        match claim {
            Claim::Record(offset) => offset <= self.next || offset < self.end,
            Claim::Position(next) => next <= self.next || next <= self.end,
        }
    }

    /// Reading goes on at `position`: after a record that is believed, or where mb itself decided.
    #[inline]
    pub fn go_on_at(&mut self, position: Offset) {
        self.next = self.next.max(position);
    }

    /// The broker says that the log ends at `end`.
    pub fn log_ends_at(&mut self, end: Offset) {
        self.end = self.end.max(end);
    }
}

/// Asks the broker whether the log reaches as far as `claim` says. Where it ends.
///
/// # Errors
/// `Broker` if it does not; or as `Broker::watermarks`.
pub(super) fn prove(engine: &Engine, partition: Partition, claim: Claim) -> Result<Offset> {
    let topic = &engine.topic_name;
    let Watermarks { end, .. } = engine.broker.watermarks_of(topic, partition)?;
    let mut believed = Believed::default();
    believed.log_ends_at(end);
    if believed.covers(claim) {
        return Ok(end);
    }
    let (Claim::Record(offset) | Claim::Position(offset)) = claim;
    Err(Error::broker(
        format!("read {topic}/{partition}"),
        format!("the answer is broken: it names offset {offset}, and the log ends at {end}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(believed: Believed, offset: i64) -> bool {
        believed.covers(Claim::Record(Offset::new(offset)))
    }

    fn position(believed: Believed, next: i64) -> bool {
        believed.covers(Claim::Position(Offset::new(next)))
    }

    #[test]
    fn what_follows_without_a_jump_needs_no_question() {
        let mut believed = Believed::at(Offset::new(7));
        assert!(record(believed, 7) && position(believed, 7));
        assert!(!record(believed, 8) && !position(believed, 8));
        believed.go_on_at(Offset::new(8));
        assert!(record(believed, 8) && !record(believed, 9));
        assert!(record(believed, 3), "read again from further back");
    }

    #[test]
    fn what_the_log_has_needs_no_further_question() {
        let mut believed = Believed::at(Offset::new(7));
        believed.log_ends_at(Offset::new(100));
        assert!(record(believed, 99) && position(believed, 100));
        assert!(!record(believed, 100) && !position(believed, 101));
        assert!(!record(believed, 0x2020_2020_2020_2020) && !position(believed, i64::MAX));
    }
}

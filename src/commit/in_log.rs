//! Whose the group's offset in the log is. Anybody may move or delete the offsets of a group without members, as mb's
//! is. The committer looks before each commit, so that it replaces nobody's; the thread `watch-offsets` looks at all
//! partitions every few seconds, since an idle mb commits nothing. At a start, `history::resume` decides.
//!
//! Pure: the callers ask the log.

use crate::commit::ledger::LedgerView;
use crate::history::mark::{Mark, Own};
use crate::history::recovery::Mover;
use crate::kafka::Committed;
use crate::model::offset::{Offset, Partition};

/// An offset of the group that somebody else has committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    pub in_log: Offset,
    /// What mb committed last.
    pub ours: Offset,
    pub by: Mover,
}

impl Foreign {
    /// Whether mb is to go on there: a person has said so.
    pub fn is_followed(&self) -> bool {
        self.by == Mover::Person
    }

    /// Whether mb leaves the offset as it is: a person's until it was followed, and one beside which a newer mb may
    /// have written what this one does not know.
    pub fn is_left(&self) -> bool {
        matches!(self.by, Mover::Person | Mover::Newer(_))
    }

    pub fn describe(&self, group: &str, topic: &str, partition: Partition) -> String {
        let what_follows = match self.by {
            Mover::Person => "it goes on there once its running runs of that partition have ended",
            Mover::Newer(_) => {
                "it commits nothing there any more; stop one of the two, or give it another --group"
            }
            Mover::Instance(_) | Mover::Ourselves => {
                "it goes on at its own, and its next commit there replaces the other's"
            }
        };
        format!(
            "{} moved the offset of group {group} in {topic}/{partition} to {}, and mb had committed {}: {what_follows}",
            self.by, self.in_log, self.ours
        )
    }
}

/// What the log's answer means for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    Ours,
    Foreign(Foreign),
    /// The log has no offset any more, or an older one of mb's own, but had this one.
    Lost(Offset),
}

/// Judges the log's answer, by how the partition stood before the question and how it stands after the answer: mb
/// may have committed meanwhile, and what is done may be committed without mb having the confirmation.
pub fn judge(
    own: Own<'_>,
    before: &LedgerView,
    after: &LedgerView,
    in_log: Option<&Committed>,
) -> Finding {
    let (Some(earlier), Some(ours)) = (before.committed, after.committed) else {
        return Finding::Ours;
    };
    let Some(Committed { offset, metadata, .. }) = in_log else { return Finding::Lost(ours) };
    // All below such an offset is done, whoever committed it: what mb commits next lies at or above it.
    let highest = before.committable.max(after.committable);
    let is_done = (earlier.min(ours)..=highest).contains(offset);
    let by = match Mark::of(metadata) {
        Mark::Newer(version) => Mover::Newer(version),
        Mark::Instance(stamp) if stamp.instance == own.instance => match stamp.sequence {
            number if number > own.newest => Mover::Ourselves,
            // Nothing can have been lost that came after it.
            number if number == own.newest || is_done => return Finding::Ours,
            _ => return Finding::Lost(ours),
        },
        _ if is_done => return Finding::Ours,
        Mark::Instance(stamp) => Mover::Instance(stamp.instance),
        Mark::None | Mark::Person => Mover::Person,
    };
    Finding::Foreign(Foreign { in_log: *offset, ours, by })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(committed: Option<i64>, committable: i64) -> LedgerView {
        LedgerView {
            start: Offset::ZERO,
            committed: committed.map(Offset::new),
            committable: Offset::new(committable),
            position: Offset::new(committable),
            runs: 0,
        }
    }

    fn at(offset: i64, metadata: &str) -> Committed {
        Committed { metadata: metadata.to_owned(), ..Committed::plain(Offset::new(offset)) }
    }

    /// How an offset with this mark is judged; mb's own newest commit has number 7.
    fn judged(before: (i64, i64), after: (i64, i64), in_log: Option<(i64, &str)>) -> Finding {
        let of = |(committed, committable)| view(Some(committed), committable);
        let in_log = in_log.map(|(offset, metadata)| at(offset, metadata));
        judge(Own { instance: "me", newest: 7 }, &of(before), &of(after), in_log.as_ref())
    }

    fn idle_at_90(in_log: i64, metadata: &str) -> Finding {
        judged((90, 90), (90, 90), Some((in_log, metadata)))
    }

    fn foreign(in_log: i64, by: Mover) -> Finding {
        Finding::Foreign(Foreign { in_log: Offset::new(in_log), ours: Offset::new(90), by })
    }

    #[test]
    fn an_offset_that_mb_did_not_commit_is_somebody_elses() {
        for person in ["", "mb1 offsets 3", "whatever a program writes"] {
            assert_eq!(idle_at_90(90, person), Finding::Ours);
            assert_eq!(idle_at_90(10, person), foreign(10, Mover::Person));
            assert_eq!(idle_at_90(91, person), foreign(91, Mover::Person));
        }
        assert_eq!(idle_at_90(10, "mb1 you 3"), foreign(10, Mover::Instance("you".into())));
        assert_eq!(judged((90, 90), (90, 90), None), Finding::Lost(Offset::new(90)));
    }

    #[test]
    fn an_older_commit_of_mbs_own_is_lost_and_not_moved() {
        let lost = Finding::Lost(Offset::new(90));
        assert_eq!(idle_at_90(10, "mb1 me 6"), lost);
        // The cursor was moved back since.
        assert_eq!(idle_at_90(600, "mb1 me 6"), lost);
        assert_eq!(idle_at_90(90, "mb1 me 7"), Finding::Ours);
    }

    #[test]
    fn a_copy_of_the_data_directory_is_told_by_a_number_that_was_not_given_here() {
        for offset in [10, 90, 600] {
            assert_eq!(idle_at_90(offset, "mb1 me 8"), foreign(offset, Mover::Ourselves));
        }
    }

    #[test]
    fn a_newer_mbs_offset_is_never_replaced() {
        for offset in [10, 90, 600] {
            let Finding::Foreign(found) = idle_at_90(offset, "mb2 you") else { panic!() };
            assert!(found.is_left() && !found.is_followed());
        }
    }

    #[test]
    fn commits_and_moves_of_mbs_own_are_none() {
        for metadata in ["mb1 me 7", ""] {
            for in_log in [50, 70, 90, 120] {
                let finding = judged((50, 80), (90, 120), Some((in_log, metadata)));
                assert_eq!(finding, Finding::Ours, "{in_log}");
            }
            // A cursor was moved back between the two.
            for in_log in [20, 90] {
                let finding = judged((90, 90), (20, 20), Some((in_log, metadata)));
                assert_eq!(finding, Finding::Ours, "{in_log}");
            }
        }
        assert_eq!(judged((50, 80), (90, 120), Some((49, ""))), foreign(49, Mover::Person));
        let none = view(None, 7);
        let own = Own { instance: "me", newest: 7 };
        assert_eq!(judge(own, &none, &none, Some(&at(3, ""))), Finding::Ours, "not committed yet");
    }
}

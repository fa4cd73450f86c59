//! Whether the log still has the offsets that mb has committed. Anybody may move or delete the offsets of a group
//! without members, as mb's is; while mb is idle, no commit of its own would notice it.
//!
//! Pure: `watcher` asks the log.

use std::collections::BTreeMap;

use crate::commit::ledger::LedgerView;
use crate::model::offset::{Offset, Partition};

/// An offset of the group that somebody else has committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign {
    pub in_log: Offset,
    /// What mb committed last.
    pub ours: Offset,
}

impl Foreign {
    pub fn describe(&self, group: &str, topic: &str, partition: Partition) -> String {
        format!(
            "somebody moved the offset of group {group} in {topic}/{partition} to {}, and mb had committed {}: it \
             goes on at its own, and its next commit there replaces theirs; start mb again to follow it, or move \
             a running mb's cursor on its page",
            self.in_log, self.ours
        )
    }
}

/// What the log's answer means for one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    Ours,
    Foreign(Foreign),
    /// The log has no offset any more, but had this one.
    Lost(Offset),
}

/// Judges the log's answer, by how the partition stood before the question and how it stands after the answer: mb
/// may have committed meanwhile, and what is done may be committed without mb having the confirmation.
pub(super) fn judge(before: &LedgerView, after: &LedgerView, in_log: Option<Offset>) -> Finding {
    let (Some(earlier), Some(ours)) = (before.committed, after.committed) else {
        return Finding::Ours;
    };
    let lowest = earlier.min(ours);
    let highest = before.committable.max(after.committable);
    match in_log {
        None => Finding::Lost(ours),
        Some(in_log) if in_log < lowest || in_log > highest => {
            Finding::Foreign(Foreign { in_log, ours })
        }
        Some(_) => Finding::Ours,
    }
}

/// The offsets that are somebody else's, as far as the log was asked.
#[derive(Clone, Debug, Default)]
pub(super) struct ForeignOffsets(BTreeMap<Partition, Foreign>);

impl ForeignOffsets {
    pub fn note(&mut self, partition: Partition, finding: Finding) {
        match finding {
            Finding::Foreign(foreign) => drop(self.0.insert(partition, foreign)),
            Finding::Ours | Finding::Lost(_) => drop(self.0.remove(&partition)),
        }
    }

    /// What the log has of the partition, if that is somebody else's; not once mb has committed anew.
    pub fn of(&self, partition: Partition, view: &LedgerView) -> Option<Foreign> {
        self.0.get(&partition).copied().filter(|foreign| view.committed == Some(foreign.ours))
    }
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

    fn judged(before: (i64, i64), after: (i64, i64), in_log: Option<i64>) -> Finding {
        let of = |(committed, committable)| view(Some(committed), committable);
        judge(&of(before), &of(after), in_log.map(Offset::new))
    }

    fn foreign(in_log: i64, ours: i64) -> Finding {
        Finding::Foreign(Foreign { in_log: Offset::new(in_log), ours: Offset::new(ours) })
    }

    #[test]
    fn an_offset_that_mb_did_not_commit_is_somebody_elses() {
        assert_eq!(judged((90, 90), (90, 90), Some(90)), Finding::Ours);
        assert_eq!(judged((90, 90), (90, 90), Some(10)), foreign(10, 90));
        assert_eq!(judged((90, 90), (90, 90), Some(91)), foreign(91, 90));
        assert_eq!(judged((90, 90), (90, 90), None), Finding::Lost(Offset::new(90)));
    }

    #[test]
    fn commits_and_moves_of_mbs_own_are_none() {
        for in_log in [50, 70, 90, 120] {
            assert_eq!(judged((50, 80), (90, 120), Some(in_log)), Finding::Ours, "{in_log}");
        }
        assert_eq!(judged((50, 80), (90, 120), Some(49)), foreign(49, 90));
        // A cursor was moved back between the two.
        assert_eq!(judged((90, 90), (20, 20), Some(20)), Finding::Ours);
        assert_eq!(judged((90, 90), (20, 20), Some(90)), Finding::Ours);
        let none = view(None, 7);
        assert_eq!(judge(&none, &none, Some(Offset::new(3))), Finding::Ours, "not committed yet");
    }

    #[test]
    fn a_foreign_offset_is_forgotten_once_mb_commits() {
        let mut offsets = ForeignOffsets::default();
        offsets.note(3, foreign(10, 90));
        let found = offsets.of(3, &view(Some(90), 90)).unwrap();
        assert!(found.describe("g", "t", 3).contains("of group g in t/3 to 10"), "{found:?}");
        assert_eq!(offsets.of(3, &view(Some(95), 95)), None);
        assert_eq!(offsets.of(2, &view(Some(90), 90)), None);
        offsets.note(3, Finding::Ours);
        assert_eq!(offsets.of(3, &view(Some(90), 90)), None);
    }
}

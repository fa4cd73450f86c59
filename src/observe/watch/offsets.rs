//! The group's offsets that somebody else has committed, as the thread `watch-offsets` has found them. Whose an offset
//! is, `commit::in_log` says.

use std::collections::BTreeMap;

use crate::commit::in_log::{Finding, Foreign};
use crate::commit::ledger::LedgerView;
use crate::model::offset::Partition;

/// The offsets that are somebody else's, as far as the log was asked.
#[derive(Clone, Debug, Default)]
pub(super) struct ForeignOffsets(BTreeMap<Partition, Foreign>);

impl ForeignOffsets {
    pub fn note(&mut self, partition: Partition, finding: &Finding) {
        match finding {
            Finding::Foreign(foreign) => drop(self.0.insert(partition, foreign.clone())),
            Finding::Ours | Finding::Lost(_) => drop(self.0.remove(&partition)),
        }
    }

    /// What the log has of the partition, if that is somebody else's; not once mb has committed anew.
    pub fn of(&self, partition: Partition, view: &LedgerView) -> Option<&Foreign> {
        self.0.get(&partition).filter(|foreign| view.committed == Some(foreign.ours))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::recovery::Mover;
    use crate::model::offset::Offset;

    fn view(committed: i64) -> LedgerView {
        let at = Offset::new(committed);
        LedgerView { start: at, committed: Some(at), committable: at, position: at, runs: 0 }
    }

    #[test]
    fn a_foreign_offset_is_forgotten_once_mb_commits() {
        let mut offsets = ForeignOffsets::default();
        let (in_log, ours) = (Offset::new(10), Offset::new(90));
        offsets.note(3, &Finding::Foreign(Foreign { in_log, ours, by: Mover::Person }));
        let found = offsets.of(3, &view(90)).unwrap();
        assert!(found.describe("g", "t", 3).contains("of group g in t/3 to 10"), "{found:?}");
        assert_eq!(offsets.of(3, &view(95)), None);
        assert_eq!(offsets.of(2, &view(90)), None);
        offsets.note(3, &Finding::Ours);
        assert_eq!(offsets.of(3, &view(90)), None);
    }
}

//! Offsets that the log does not have: whether they were removed, and whether mb goes on without them
//! (`--on-missing-offsets`).

use std::sync::Arc;

use crate::config::OnMissingOffsets;
use crate::model::error::{Error, Result, beyond_text};
use crate::model::offset::{Offset, OffsetRange, Partition};
use crate::source::intake::Intake;

/// Offsets that retention removed before mb read them.
#[derive(Debug)]
pub(super) struct Gap {
    partition: Partition,
    /// The first offset that the log has.
    pub beginning: Offset,
    /// The offsets that no run has processed.
    lost: Vec<OffsetRange>,
}

impl Gap {
    /// The gap at `offset`, where the partition was to be read.
    ///
    /// # Errors
    /// `LogReplaced` if the log ends before `offset`; `Halt` if mb must not go on without the records;
    /// `Broker` if the offset is in the log by now, or the broker does not answer.
    pub fn find(intake: &Intake, partition: Partition, offset: Offset) -> Result<Gap> {
        let topic = Arc::clone(&intake.settings.topic);
        let marks = intake.engine.broker.watermarks_of(&topic, partition)?;
        if offset > marks.end {
            let text = beyond_text(&topic, partition, offset, marks.end);
            return Err(Error::LogReplaced(text));
        }
        if offset >= marks.beginning {
            return Err(Error::broker(
                format!("read {topic}/{partition} at {offset}"),
                "offset out of range",
            ));
        }
        let missing = OffsetRange::below(marks.beginning, offset);
        // Records that were processed already are not lost.
        let reader = intake.readers.get(partition);
        let lost = reader.map_or_else(Vec::new, |reader| reader.not_finished(missing));
        if intake.settings.on_missing_offsets == OnMissingOffsets::Halt {
            return Err(Error::Halt(format!(
                "records {topic}/{partition} {} were removed from the log (retention) before mb read \
                 them; the log begins at {}. To go on without them, start mb with \
                 --on-missing-offsets skip, or move the group's offsets with mb offsets --execute",
                listed(&lost),
                marks.beginning
            )));
        }
        Ok(Gap { partition, beginning: marks.beginning, lost })
    }

    /// Records in history, counters and log that the offsets are skipped, and lets the reader go on behind
    /// them.
    pub fn skip(&self, intake: &mut Intake) {
        let offsets = self.lost.iter().map(|range| range.end().distance_from(range.first)).sum();
        log::warn!(
            "records {}/{} {} were removed from the log (retention) before mb read them: {offsets} \
             offsets are skipped (--on-missing-offsets skip)",
            intake.settings.topic,
            self.partition,
            listed(&self.lost)
        );
        for range in &self.lost {
            intake.engine.history.gap(self.partition, *range, "retention");
        }
        intake.engine.live.offsets_skipped.add(offsets);
        if let Some(reader) = intake.readers.get_mut(self.partition) {
            reader.skip_to(self.beginning);
        }
    }
}

fn listed(ranges: &[OffsetRange]) -> String {
    ranges.iter().map(OffsetRange::to_string).collect::<Vec<_>>().join(", ")
}

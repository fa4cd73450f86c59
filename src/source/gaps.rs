//! Offsets that the log does not have: whether they were removed, and whether mb goes on without them
//! (`--on-missing-offsets`).

use std::sync::Arc;

use crate::config::OnMissingOffsets;
use crate::model::error::{Error, Result, beyond_text};
use crate::model::offset::{Offset, OffsetRange, Partition};
use crate::source::intake::Intake;
use crate::source::partition_reader::PartitionReader;

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
    /// The gap at the reader's position, if the client says that `named` is out of range. Two answers must agree:
    /// the client's about this very position, and that about where the log begins and ends. An offset that the
    /// client read out of a broken answer decides nothing (see `claims`).
    ///
    /// # Errors
    /// `LogReplaced` if the log ends before the position; `Halt` if mb must not go on without the records;
    /// `Broker` if the answers do not agree, or the broker does not answer.
    pub fn find(intake: &Intake, reader: &PartitionReader, named: Offset) -> Result<Gap> {
        let topic = Arc::clone(&intake.settings.topic);
        let (partition, position) = (reader.partition(), reader.read_position());
        let doubt =
            |cause| Err(Error::broker(format!("read {topic}/{partition} at {position}"), cause));
        if named != position {
            return doubt(format!("the client says that offset {named} is out of range"));
        }
        let marks = intake.engine.broker.watermarks_of(&topic, partition)?;
        if position > marks.end {
            let text = beyond_text(&topic, partition, position, marks.end);
            return Err(Error::LogReplaced(text));
        }
        if position >= marks.beginning {
            return doubt(format!(
                "the client says that it is out of range, and the log has {} to {}",
                marks.beginning, marks.end
            ));
        }
        // Records that were processed already are not lost.
        let lost = reader.not_finished(OffsetRange::below(marks.beginning, position));
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

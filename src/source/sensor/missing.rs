//! Offsets that the log has not: what they are, and whether a tick passes them over
//! (`--on-missing-offsets`).

use super::*;

impl Tick<'_> {
    /// What follows where the log has not what was to be read.
    pub(super) fn missing(&mut self, error: Error) -> Result<()> {
        let Error::OffsetOutOfRange { partition, offset, .. } = error else { return Err(error) };
        // What was read in front of the gap had no room, and is read again: the next tick finds the gap.
        if self.flush() == Flow::Stop || self.ended.is_some() {
            return Ok(());
        }
        let topic = Arc::clone(&self.sensor.settings.topic);
        let marks = self.sensor.engine.broker.watermarks_of(&topic, partition)?;
        if offset > marks.end {
            let text = crate::model::error::beyond_text(&topic, partition, offset, marks.end);
            return Err(Error::LogReplaced(text));
        }
        if offset >= marks.beginning {
            // In range by now: another look will do.
            return Err(Error::broker(
                format!("read {topic}/{partition} at {offset}"),
                "offset out of range",
            ));
        }
        let missing = OffsetRange::below(marks.beginning, offset);
        let slot = self.sensor.slot(partition);
        // What is done already is missed by nobody.
        let lost = slot.map_or_else(Vec::new, |slot| slot.batcher.not_finished(missing));
        if self.sensor.settings.on_missing_offsets == OnMissingOffsets::Halt {
            return Err(Error::Halt(format!(
                "records {topic}/{partition} {} were removed from the log (retention) before mb read \
                 them; the log begins at {}. To go on without them, start mb with \
                 --on-missing-offsets skip, or move the group's offsets with mb offsets --execute",
                listed(&lost),
                marks.beginning
            )));
        }
        // What is being filled from below the gap goes first: where there is no room for it now, it
        // is read again, and the gap looked at then.
        let filled = self.sensor.slot(partition).and_then(|slot| slot.batcher.cut_now());
        let delivered = filled.is_none_or(|cut| self.deliver(partition, cut) == Flow::Continue);
        if delivered && self.flush() == Flow::Continue {
            self.skip(partition, missing.end(), &lost);
        }
        Ok(())
    }

    /// Passes over offsets that the log has no more, and says so.
    fn skip(&mut self, partition: Partition, beginning: Offset, lost: &[OffsetRange]) {
        let offsets = lost.iter().map(|range| range.end().distance_from(range.first)).sum();
        log::warn!(
            "records {}/{partition} {} were removed from the log (retention) before mb read them: \
             {offsets} offsets are passed over (--on-missing-offsets skip)",
            self.sensor.settings.topic,
            listed(lost)
        );
        for range in lost {
            self.sensor.engine.history.gap(partition, *range, "retention");
        }
        self.sensor.engine.live.offsets_skipped.add(offsets);
        let Some(slot) = self.sensor.slot(partition) else { return };
        slot.batcher.skip_to(beginning);
        self.position(partition, beginning);
        self.tell_ledgers();
    }
}

fn listed(ranges: &[OffsetRange]) -> String {
    ranges.iter().map(OffsetRange::to_string).collect::<Vec<_>>().join(", ")
}

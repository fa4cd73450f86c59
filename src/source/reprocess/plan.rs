//! Which offsets a replay covers: of what a person asked for, the records that the log has. One rule for the
//! command line and the page.
//!
//! A range that reaches beyond the log is narrowed to it, and a note says so; it is refused only if nothing
//! is left of it.

use std::collections::BTreeMap;
use std::fmt;

use crate::history::requests::Replay;
use crate::kafka::{Backend, Broker, TopicInfo, Watermarks, require_all};
use crate::model::error::{Error, Result};
use crate::model::offset::{Offset, OffsetRange, Partition};

use super::late::{self, Late};

/// What is to be replayed of each partition; without an end it reaches to the end of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// Offsets; both are included.
    Offsets { from: Offset, to: Option<Offset> },
    /// Times in ms since 1970: each record from `since` on and before `until`. They lie from the first record at or
    /// after `since` up to the first record at or after `until`, but for late ones (see `late`).
    Times { since: i64, until: Option<i64> },
}

/// What a replay covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub topic: String,
    /// Ascending, and without overlaps; at least one. A partition has more than one if its timestamps do not ascend.
    pub ranges: Vec<(Partition, OffsetRange)>,
    pub notes: Vec<Note>,
}

/// What a person should know of a plan: what is left out of the span, and what lies where nobody expects it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Retention removed the records `range` before; the replay begins behind them.
    Removed { topic: String, partition: Partition, range: OffsetRange },
    /// The log ends at `end`, before the span does.
    BeyondEnd { topic: String, partition: Partition, end: Offset },
    /// Records of the span lie behind its end, because timestamps do not ascend. They are replayed.
    Late { topic: String, partition: Partition, ranges: Vec<OffsetRange> },
    /// Nobody looked whether records from `from` on belong to the span, and they are not replayed.
    Unchecked { topic: String, partition: Partition, from: Offset },
    /// The partition has no record in the span.
    Nothing { topic: String, partition: Partition },
}

impl Note {
    /// Whether records are missing that the person may have meant.
    pub fn is_warning(&self) -> bool {
        matches!(self, Note::Removed { .. } | Note::BeyondEnd { .. })
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::Removed { topic, partition, range } => write!(
                f,
                "{topic}/{partition} {range} is not in the log any more (retention): the replay begins \
                 at {}",
                range.end()
            ),
            Note::BeyondEnd { topic, partition, end } => {
                write!(f, "{topic}/{partition} ends at {end}: what comes later is not replayed")
            }
            Note::Late { topic, partition, ranges } => write!(
                f,
                "{topic}/{partition} has timestamps out of order: {} more range(s) behind the end of the span \
                 belong to it too, up to {}",
                ranges.len(),
                ranges.last().map_or(Offset::ZERO, |range| range.last)
            ),
            Note::Unchecked { topic, partition, from } => write!(
                f,
                "{topic}/{partition} was not looked at from {from} on: records there whose timestamps are out of \
                 order, and belong to the span, are not replayed"
            ),
            Note::Nothing { topic, partition } => {
                write!(f, "{topic}/{partition} has nothing in that range")
            }
        }
    }
}

/// Plans a replay of `span` in each of `partitions`.
///
/// # Errors
/// `Config` if the log has no record in the span; whatever the broker cannot answer, for any of the
/// partitions: a replay that silently left one out would look complete.
pub fn plan(
    broker: &dyn Broker,
    topic: &str,
    partitions: &[Partition],
    span: Span,
) -> Result<Plan> {
    let marks = require_all(broker.watermarks(topic, partitions)?)?;
    let at = |time: i64| require_all(broker.offsets_at(topic, partitions, time)?);
    let (bounds, late) = match span {
        Span::Offsets { from, to } => (Bounds::Offsets { from, to }, BTreeMap::new()),
        Span::Times { since, until: None } => {
            (Bounds::Found { since: at(since)?, until: None }, BTreeMap::new())
        }
        Span::Times { since, until: Some(until) } => {
            let ends = at(until)?;
            let late = late::find(broker, topic, (since, until), &ends, &marks)?;
            (Bounds::Found { since: at(since)?, until: Some(ends) }, late)
        }
    };
    narrow(topic, &marks, &bounds, late)
}

/// A span as offsets.
#[derive(Clone, Debug)]
enum Bounds {
    Offsets {
        from: Offset,
        to: Option<Offset>,
    },
    /// Of each partition the offset found for a time; the log's end if none is.
    Found {
        since: BTreeMap<Partition, Offset>,
        until: Option<BTreeMap<Partition, Offset>>,
    },
}

impl Bounds {
    /// The first offset, and the one behind the last, in a partition that ends at `end`.
    fn of(&self, partition: Partition, end: Offset) -> (Offset, Offset) {
        match self {
            Bounds::Offsets { from, to } => {
                // The highest offset of all has none behind it. One beyond the end is enough to say that the
                // span reaches beyond the log.
                let behind = |to: Offset| if to < end { to.next() } else { end.next() };
                (*from, to.map_or(end, behind))
            }
            Bounds::Found { since, until } => {
                let at = |found: &BTreeMap<_, _>| found.get(&partition).copied().unwrap_or(end);
                (at(since), until.as_ref().map_or(end, at))
            }
        }
    }
}

/// What of `bounds` each log has, and what is `late`.
fn narrow(
    topic: &str,
    marks: &BTreeMap<Partition, Watermarks>,
    bounds: &Bounds,
    mut late: BTreeMap<Partition, Late>,
) -> Result<Plan> {
    let (mut ranges, mut notes) = (Vec::new(), Vec::new());
    for (&partition, &Watermarks { beginning, end }) in marks {
        let topic = topic.to_owned();
        let (from, behind) = bounds.of(partition, end);
        let (first, next) = (from.max(beginning), behind.min(end));
        if from < beginning.min(behind) {
            let range = OffsetRange::below(beginning.min(behind), from);
            notes.push(Note::Removed { topic: topic.clone(), partition, range });
        }
        if behind > end {
            notes.push(Note::BeyondEnd { topic: topic.clone(), partition, end });
        }
        let Late { ranges: late, unchecked } = late.remove(&partition).unwrap_or_default();
        if first < next {
            ranges.push((partition, OffsetRange::below(next, first)));
        } else if late.is_empty() {
            notes.push(Note::Nothing { topic: topic.clone(), partition });
        }
        ranges.extend(late.iter().map(|range| (partition, *range)));
        if !late.is_empty() {
            notes.push(Note::Late { topic: topic.clone(), partition, ranges: late });
        }
        if let Some(from) = unchecked {
            notes.push(Note::Unchecked { topic, partition, from });
        }
    }
    if ranges.is_empty() {
        let found = match &marks.iter().collect::<Vec<_>>()[..] {
            [(partition, marks)] if marks.beginning < marks.end => {
                format!(
                    ": {topic}/{partition} has {}",
                    OffsetRange::below(marks.end, marks.beginning)
                )
            }
            _ => String::new(),
        };
        return Err(Error::Config(format!(
            "range: nothing of topic {topic} lies in it, expected offsets or times that the log has{found}"
        )));
    }
    Ok(Plan { topic: topic.to_owned(), ranges, notes })
}

impl Plan {
    /// The plan as a request for the history, of this group.
    pub fn request(&self, backend: Backend, topic: &TopicInfo, group: &str) -> Replay {
        let range = |(partition, range): &(Partition, OffsetRange)| {
            (*partition, range.first.get(), range.last.get())
        };
        Replay {
            embedded: backend == Backend::Embedded,
            cluster_id: topic.cluster_id.clone().unwrap_or_default(),
            group: group.to_owned(),
            topic: topic.name.clone(),
            topic_id: topic.id.clone().unwrap_or_default(),
            ranges: self.ranges.iter().map(range).collect(),
        }
    }

    /// Writes the notes to the log.
    pub fn log_notes(&self) {
        for note in &self.notes {
            if note.is_warning() { log::warn!("{note}") } else { log::info!("{note}") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(of: &[(Partition, i64, i64)]) -> BTreeMap<Partition, Watermarks> {
        let marks = |(beginning, end)| Watermarks {
            beginning: Offset::new(beginning),
            end: Offset::new(end),
        };
        of.iter()
            .map(|(partition, beginning, end)| (*partition, marks((*beginning, *end))))
            .collect()
    }

    fn offsets(from: i64, to: Option<i64>) -> Bounds {
        Bounds::Offsets { from: Offset::new(from), to: to.map(Offset::new) }
    }

    fn range(first: i64, last: i64) -> OffsetRange {
        OffsetRange::new(Offset::new(first), Offset::new(last))
    }

    /// The ranges, and the notes as text.
    fn narrowed(
        of: &[(Partition, i64, i64)],
        bounds: &Bounds,
    ) -> (Vec<(Partition, OffsetRange)>, Vec<String>) {
        let plan = narrow("orders", &marks(of), bounds, BTreeMap::new()).unwrap();
        (plan.ranges, plan.notes.iter().map(Note::to_string).collect())
    }

    #[test]
    fn a_span_within_the_log_is_replayed_as_it_is() {
        assert_eq!(narrowed(&[(0, 5, 30)], &offsets(7, Some(9))), (vec![(0, range(7, 9))], vec![]));
        assert_eq!(
            narrowed(&[(0, 5, 30)], &offsets(5, Some(29))),
            (vec![(0, range(5, 29))], vec![])
        );
        assert_eq!(narrowed(&[(0, 5, 30)], &offsets(29, None)), (vec![(0, range(29, 29))], vec![]));
    }

    #[test]
    fn a_span_beyond_the_log_is_narrowed_to_it_with_a_note_for_each_part_left_out() {
        let (ranges, notes) = narrowed(&[(0, 10, 30), (1, 0, 0)], &offsets(7, Some(i64::MAX)));
        assert_eq!(ranges, [(0, range(10, 29))]);
        assert_eq!(
            notes,
            [
                "orders/0 7-9 is not in the log any more (retention): the replay begins at 10",
                "orders/0 ends at 30: what comes later is not replayed",
                "orders/1 ends at 0: what comes later is not replayed",
                "orders/1 has nothing in that range",
            ]
        );
    }

    #[test]
    fn a_span_of_times_ends_before_the_first_record_at_its_end() {
        let found = |offsets: &[i64]| (0..).zip(offsets.iter().copied().map(Offset::new)).collect();
        let bounds = Bounds::Found { since: found(&[3, 20]), until: Some(found(&[12, 20])) };
        let (ranges, notes) = narrowed(&[(0, 0, 20), (1, 0, 20)], &bounds);
        assert_eq!(ranges, [(0, range(3, 11))]);
        assert_eq!(notes, ["orders/1 has nothing in that range"]);
        let open = Bounds::Found { since: found(&[3, 18]), until: None };
        assert_eq!(
            narrowed(&[(0, 0, 20), (1, 0, 20)], &open).0,
            [(0, range(3, 19)), (1, range(18, 19))]
        );
    }

    #[test]
    fn late_records_are_ranges_of_their_own_and_said() {
        let found = |offset: i64| [(0, Offset::new(offset))].into();
        let bounds = Bounds::Found { since: found(0), until: Some(found(3)) };
        let late = |unchecked: Option<i64>| {
            let ranges = vec![range(4, 10), range(12, 12)];
            [(0, Late { ranges, unchecked: unchecked.map(Offset::new) })].into()
        };
        let plan = narrow("orders", &marks(&[(0, 0, 20)]), &bounds, late(Some(15))).unwrap();
        assert_eq!(plan.ranges, [(0, range(0, 2)), (0, range(4, 10)), (0, range(12, 12))]);
        let notes: Vec<_> = plan.notes.iter().map(Note::to_string).collect();
        assert!(notes[0].contains("2 more range(s)") && notes[0].contains("up to 12"), "{notes:?}");
        assert!(notes[1].contains("was not looked at from 15 on"), "{notes:?}");
        let nothing_else = Bounds::Found { since: found(3), until: Some(found(3)) };
        let plan = narrow("orders", &marks(&[(0, 0, 20)]), &nothing_else, late(None)).unwrap();
        assert_eq!((plan.ranges.len(), plan.notes.len()), (2, 1));
    }

    fn refused(bounds: &Bounds) -> Error {
        narrow("orders", &marks(&[(0, 5, 30)]), bounds, BTreeMap::new()).unwrap_err()
    }

    #[test]
    fn a_span_without_any_record_is_refused() {
        let error = refused(&offsets(30, None));
        assert_eq!(
            error.to_string(),
            "range: nothing of topic orders lies in it, expected offsets or times that the log has: \
             orders/0 has 5-29"
        );
        assert_eq!(error.exit_code(), 78);
        let gone = refused(&offsets(0, Some(4)));
        assert!(matches!(gone, Error::Config(_)));
    }
}

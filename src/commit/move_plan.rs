//! Plans a move of committed offsets: turns a target such as "latest" into offsets. One rule for `mb offsets`, the
//! API and the page. Queries the broker, and changes nothing.

use std::collections::BTreeMap;
use std::fmt;

use crate::kafka::{Broker, TopicInfo, Watermarks, require_all};
use crate::model::error::{Error, Result};
use crate::model::offset::{Offset, Partition};

/// What a person wants partitions to be moved to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// To the first record in the log.
    Earliest,
    /// To the log's end.
    Latest,
    /// To the first record at or after this time, in milliseconds since 1970; to the log's end if there is none.
    Time(i64),
    /// To this offset, which must lie in the log. One outside is a mistake: taken for the log's beginning or end, a
    /// number that is mistyped, or meant for another partition, would move the group anyway.
    Offset(Offset),
    /// By this much from the committed offset, as far as the log goes.
    Shift(i64),
}

/// The planned move of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    pub partition: Partition,
    /// The committed offset before.
    pub from: Option<Offset>,
    /// The offset that the target stands for; that of a shift may lie outside the log and even below 0.
    pub wanted: i64,
    /// `wanted`, or the beginning or end of the log if `wanted` lies outside.
    pub to: Offset,
    /// Whether `to` is the log's end only because no record is as new as the target's time.
    pub no_record: bool,
    pub marks: Watermarks,
}

impl Move {
    /// Whether a shift leads outside the log.
    fn is_outside(&self) -> bool {
        self.wanted != self.to.get()
    }

    /// How the move differs from what was wanted, as a text for people; `None` if it does not.
    pub fn note<'a>(&'a self, topic: &'a str) -> Option<impl fmt::Display + 'a> {
        (self.is_outside() || self.no_record).then_some(Note { of: self, topic })
    }
}

struct Note<'a> {
    of: &'a Move,
    topic: &'a str,
}

impl fmt::Display for Note<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Move { partition, wanted, to, marks, .. } = self.of;
        let topic = self.topic;
        if !self.of.is_outside() {
            return write!(
                f,
                "{topic}/{partition} has no record from that time on, by the records' timestamps: the log's \
                 end {to} is taken"
            );
        }
        let (side, mark) = if *wanted < to.get() {
            ("below the log's beginning", marks.beginning)
        } else {
            ("above the log's end", marks.end)
        };
        write!(f, "offset {wanted} of {topic}/{partition} is {side}: {mark} is taken")
    }
}

/// Plans to move each of these partitions of the topic to its target.
///
/// # Errors
/// `Usage` for a named offset outside the log, `Config` for a shift of a partition without a committed offset;
/// whatever the broker cannot answer for any of them.
pub fn plan(
    broker: &dyn Broker,
    group: &str,
    topic: &TopicInfo,
    targets: &[(Partition, Target)],
) -> Result<Vec<Move>> {
    let topic = &topic.name;
    let partitions: Vec<Partition> = targets.iter().map(|(partition, _)| *partition).collect();
    let committed = require_all(broker.committed(group, topic, &partitions)?)?;
    let marks = require_all(broker.watermarks(topic, &partitions)?)?;
    let by_time = offsets_at(broker, topic, targets)?;
    let to_move = |&(partition, target): &(Partition, Target)| {
        let (from, marks) = (committed[&partition], marks[&partition]);
        let wanted = match target {
            Target::Earliest => marks.beginning.get(),
            Target::Latest => marks.end.get(),
            Target::Time(_) => by_time.get(&partition).copied().unwrap_or(marks.end).get(),
            Target::Offset(offset) => offset.get(),
            Target::Shift(by) => match from {
                Some(from) => from.get().saturating_add(by),
                None => {
                    return Err(Error::Config(format!(
                        "--shift-by: group {group} has no committed offset in {topic}/{partition}; use \
                         another target such as --to-earliest, or --partition for one that has"
                    )));
                }
            },
        };
        let to = match target {
            Target::Offset(offset) if !(marks.beginning..=marks.end).contains(&offset) => {
                return Err(Error::Usage(format!(
                    "offset: got {offset} for {topic}/{partition}, expected one in its log, from {} to its end \
                     {}",
                    marks.beginning, marks.end
                )));
            }
            Target::Offset(_) => wanted,
            Target::Shift(_) => wanted.clamp(marks.beginning.get(), marks.end.get()),
            // A record that was written between the two queries lies above the known end, but is in the log.
            Target::Earliest | Target::Latest | Target::Time(_) => wanted,
        };
        let no_record = matches!(target, Target::Time(_)) && to >= marks.end.get();
        Ok(Move { partition, from, wanted, to: Offset::new(to), no_record, marks })
    };
    targets.iter().map(to_move).collect()
}

/// The offsets of the partitions whose target is a time.
fn offsets_at(
    broker: &dyn Broker,
    topic: &str,
    targets: &[(Partition, Target)],
) -> Result<BTreeMap<Partition, Offset>> {
    let mut by_time: BTreeMap<i64, Vec<Partition>> = BTreeMap::new();
    for (partition, target) in targets {
        if let Target::Time(ms) = target {
            by_time.entry(*ms).or_default().push(*partition);
        }
    }
    let mut found = BTreeMap::new();
    for (ms, partitions) in by_time {
        found.extend(require_all(broker.offsets_at(topic, &partitions, ms)?)?);
    }
    Ok(found)
}

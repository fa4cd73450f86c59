//! Detects logs that have lost records which mb has read: their end lies below the position, or they were cut off below
//! it and have grown since, which their leader epochs show (KIP-320). Asked at each start; `source::intake` asks while
//! mb runs.

use std::collections::BTreeMap;

use rusqlite::Connection as Database;

use crate::commit::reset::{commits, look_epochs_up};
use crate::config::{Config, OnMissingOffsets};
use crate::history::ScopeId;
use crate::history::mark::Stamp;
use crate::history::recovery::{self, Recorded, Resume};
use crate::history::reset::{self, Intended, Reset};
use crate::kafka::{Broker, TopicInfo, Watermarks, require_all};
use crate::model::error::{Error, Result, beyond_text, cut_text};
use crate::model::offset::{Epoch, LastRead, Offset, OffsetRange, Partition};

/// What a start has asked so far.
pub(super) struct Known<'a> {
    pub broker: &'a dyn Broker,
    pub config: &'a Config,
    pub topic: &'a TopicInfo,
    pub marks: &'a BTreeMap<Partition, Watermarks>,
    /// This mb's instance (see `history::mark`).
    pub instance: &'a str,
}

/// What was read of a partition, by its leader epochs: of each the highest end.
type ReadByEpoch = BTreeMap<Epoch, Offset>;

/// A partition whose log lacks what was read.
#[derive(Debug, PartialEq, Eq)]
struct CutOff {
    /// The lowest offset at which the log may have other records than were read.
    at: Offset,
    /// The end of what was read and the log was asked about.
    read_to: Offset,
    /// What was read above `at`, if an epoch shows the cut.
    shown_by: Option<LastRead>,
}

impl CutOff {
    /// What the log lacks: by its ends of leader epochs, and by its own end. `read_to` is the end of everything that
    /// was read. `None` if it lacks nothing.
    fn find(
        read: &ReadByEpoch,
        ends: &BTreeMap<Epoch, Offset>,
        read_to: Offset,
        log_end: Offset,
    ) -> Option<CutOff> {
        let below = |(epoch, end): (&Epoch, &Offset)| {
            let at = *ends.get(epoch)?;
            (at < *end).then_some((at, LastRead { end: *end, epoch: *epoch }))
        };
        let by_epoch = read.iter().filter_map(below).min_by_key(|(at, _)| *at);
        let at = match by_epoch {
            Some((at, _)) => at,
            None if log_end < read_to => log_end,
            None => return None,
        };
        let read_to = by_epoch.map_or(read_to, |(_, read)| read_to.max(read.end));
        let shown_by = by_epoch.map(|(_, read)| read).filter(|_| at < log_end);
        Some(CutOff { at, read_to, shown_by })
    }
}

/// Compares what was read of each partition with its log as it is now. By `--on-missing-offsets` it halts, or goes on
/// where the log has other records than were read: the ranges above are void, and the history has the offsets as a gap.
///
/// Returns of each partition the newest record that was read and is still in its log: finished ranges above the position
/// are passed over without being read, and the log may lose them while mb runs.
///
/// # Errors
/// `LogReplaced` unless missing offsets are to be passed over; `Broker`, `Storage`.
pub(super) fn pass_over(
    known: &Known<'_>,
    (db, scope): (&Database, ScopeId),
    recorded: &BTreeMap<Partition, Recorded>,
    resumes: &mut BTreeMap<Partition, Resume>,
) -> Result<BTreeMap<Partition, LastRead>> {
    let read = |(partition, resume): (&Partition, &Resume)| {
        let mut read = match recorded.get(partition) {
            Some(recorded) if !resume.stored.is_empty() => recorded.read_above(resume.position),
            _ => ReadByEpoch::new(),
        };
        if let Some(LastRead { end, epoch }) = resume.read {
            read.entry(epoch).and_modify(|known| *known = end.max(*known)).or_insert(end);
        }
        (*partition, read)
    };
    let mut read: BTreeMap<Partition, ReadByEpoch> = resumes.iter().map(read).collect();
    let ends = epoch_ends(known, resumes, &read)?;
    let mut moved = Vec::new();
    for (&partition, resume) in resumes.iter_mut() {
        // The sensor finds it out once the partition has a leader.
        let Some(marks) = known.marks.get(&partition) else { continue };
        // What is planned or done above the position was in the log too.
        let planned = resume.stored.last().map(|stored| stored.range.end());
        let read_to = resume.position.max(planned.unwrap_or(Offset::ZERO));
        let no_ends = BTreeMap::new();
        let ends = ends.get(&partition).unwrap_or(&no_ends);
        let Some(cut) = CutOff::find(&read[&partition], ends, read_to, marks.end) else { continue };
        moved.extend(go_on(known, (db, scope), partition, resume, &cut, *marks)?);
        read.entry(partition).or_default().retain(|_, end| *end <= cut.at);
    }
    for Reset { partition, to, epoch, .. } in commit(known, (db, scope), moved)? {
        if let (Some(resume), Some(epoch)) = (resumes.get_mut(&partition), epoch) {
            resume.read = Some(LastRead { end: to, epoch });
            read.entry(partition).or_default().insert(epoch, to);
        }
    }
    let newest = |(partition, read): (Partition, ReadByEpoch)| {
        let (epoch, end) = read.into_iter().max_by_key(|(_, end)| *end)?;
        Some((partition, LastRead { end, epoch }))
    };
    Ok(read.into_iter().filter_map(newest).collect())
}

/// Where the epochs end in the logs, of those that can tell. Once for each partition and epoch.
fn epoch_ends(
    known: &Known<'_>,
    resumes: &BTreeMap<Partition, Resume>,
    read: &BTreeMap<Partition, ReadByEpoch>,
) -> Result<BTreeMap<Partition, BTreeMap<Epoch, Offset>>> {
    let led = |partition: &Partition| known.marks.contains_key(partition);
    let mut open: BTreeMap<Partition, Vec<Epoch>> = read
        .iter()
        .filter(|(partition, _)| led(partition))
        .map(|(partition, read)| (*partition, read.keys().copied().collect()))
        .collect();
    let mut found = BTreeMap::<Partition, BTreeMap<Epoch, Offset>>::new();
    let mut unanswered = 0;
    loop {
        let next =
            |(partition, epochs): (&Partition, &mut Vec<Epoch>)| Some((*partition, epochs.pop()?));
        let asked: Vec<(Partition, Epoch)> = open.iter_mut().filter_map(next).collect();
        if asked.is_empty() {
            break;
        }
        let mut ends = require_all(known.broker.epoch_ends(&known.topic.name, &asked)?)?;
        for (partition, epoch) in asked {
            match ends.remove(&partition).flatten() {
                Some(end) => drop(found.entry(partition).or_default().insert(epoch, end.end)),
                None => unanswered += 1,
            }
        }
    }
    let is_unknown = |(partition, resume): &(&Partition, &Resume)| {
        led(partition) && resume.committed.is_some() && read[partition].is_empty()
    };
    let unknown = resumes.iter().filter(is_unknown).count();
    if unanswered + unknown > 0 {
        log::info!(
            "whether the log of {} partition(s) of {} was cut off and has grown since cannot be checked at this \
             start: {}",
            unanswered + unknown,
            known.topic.name,
            if unanswered > 0 {
                "the broker does not tell where leader epochs end (Kafka before 2.3)"
            } else {
                "their offsets were committed without a leader epoch"
            }
        );
    }
    Ok(found)
}

/// The partition goes on where its log has other records than were read. Returns the move of the group's offset to
/// there, if it lies above.
fn go_on(
    known: &Known<'_>,
    (db, scope): (&Database, ScopeId),
    partition: Partition,
    resume: &mut Resume,
    cut: &CutOff,
    marks: Watermarks,
) -> Result<Option<Reset>> {
    let topic = &known.topic.name;
    let text = match cut.shown_by {
        Some(read) => cut_text(topic, partition, read, cut.at),
        None => beyond_text(topic, partition, cut.read_to, marks.end),
    };
    if known.config.on_missing_offsets == OnMissingOffsets::Halt {
        return Err(Error::LogReplaced(text));
    }
    // A broker that gives topics no ids may have made the topic again: then none of its records was read.
    let may_be_another = known.topic.id.is_none() && cut.shown_by.is_none();
    let at = if may_be_another { marks.beginning } else { cut.at.max(marks.beginning) };
    log::warn!("{text}: going on at {at} (--on-missing-offsets skip)");
    let lost = OffsetRange::below(cut.read_to, cut.at);
    recovery::gap(db, scope, partition, lost, "cut off the end of the log")?;
    if resume.position <= at {
        recovery::void_above(db, scope, partition, at)?;
        resume.stored.retain(|stored| stored.range.end() <= at);
        return Ok(None);
    }
    let from = resume.committed;
    *resume = Resume { position: at, committed: Some(at), read: None, stored: Vec::new() };
    Ok(Some(Reset { partition, from, to: at, epoch: None }))
}

/// Moves the group's offsets to where the partitions go on, before anything is planned there. With the old offset in the
/// log, a start after a kill would find the same cut again, and void what was planned since. An unanswered commit of the
/// process before may still arrive and undo the move; by its mark it is an older one, so mb commits its own again.
fn commit(
    known: &Known<'_>,
    (db, scope): (&Database, ScopeId),
    mut moved: Vec<Reset>,
) -> Result<Vec<Reset>> {
    if moved.is_empty() {
        return Ok(moved);
    }
    let (broker, topic) = (known.broker, &known.topic.name);
    look_epochs_up(broker, topic, &mut moved);
    let Intended { sequence, .. } = reset::intend(db, scope, &moved)?;
    let instance = known.instance.to_owned();
    let mark = Stamp { instance, sequence, read: None };
    let commits = commits(&moved, &mark);
    broker.commit_all(&known.config.connection.group, topic, &commits)?;
    reset::confirm(db, scope, &moved, sequence)?;
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: i64) -> Offset {
        Offset::new(offset)
    }

    fn by_epoch(ends: &[(i32, i64)]) -> BTreeMap<Epoch, Offset> {
        let entry = |(epoch, end): &(i32, i64)| (Epoch::checked(*epoch).unwrap(), at(*end));
        ends.iter().map(entry).collect()
    }

    fn find(
        read: &[(i32, i64)],
        ends: &[(i32, i64)],
        read_to: i64,
        end: i64,
    ) -> Option<(i64, i64)> {
        let cut = CutOff::find(&by_epoch(read), &by_epoch(ends), at(read_to), at(end))?;
        Some((cut.at.get(), cut.read_to.get()))
    }

    #[test]
    fn a_log_that_has_all_that_was_read_lacks_nothing() {
        assert_eq!(find(&[(0, 100)], &[(0, 100)], 100, 160), None);
        assert_eq!(find(&[(0, 100)], &[(0, 130)], 100, 160), None);
        assert_eq!(find(&[(0, 100)], &[], 100, 100), None, "it cannot tell");
    }

    #[test]
    fn a_cut_below_the_position_is_found_however_far_the_log_has_grown() {
        assert_eq!(find(&[(0, 100)], &[(0, 50)], 100, 110), Some((50, 100)));
        // Nor does it matter which of the epochs shows it.
        assert_eq!(find(&[(0, 80), (3, 100)], &[(0, 50), (3, 50)], 100, 110), Some((50, 100)));
        assert_eq!(find(&[(0, 80), (3, 100)], &[(0, 80), (3, 90)], 100, 110), Some((90, 100)));
        // It has not grown past the position, but past the cut.
        assert_eq!(find(&[(0, 100)], &[(0, 50)], 100, 70), Some((50, 100)));
    }

    #[test]
    fn an_end_below_the_position_needs_no_epochs() {
        assert_eq!(find(&[], &[], 500, 400), Some((400, 500)));
        assert_eq!(find(&[(0, 500)], &[(0, 400)], 500, 400), Some((400, 500)));
    }
}

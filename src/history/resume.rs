//! Where a partition goes on after a restart: what the history holds of it, and the decision whether the
//! offset that the log has for the group is our own.
//!
//! Pure: `recovery` reads the file, `pipeline::startup` asks the log.

use std::collections::BTreeMap;
use std::fmt;

use super::mark::{self, Mark};
use crate::kafka::{Backend, Committed};
use crate::model::offset::{Epoch, Lane, LastRead, Offset, OffsetRange};
use crate::model::planned::{PlannedBatch, PlannedRun};
use crate::model::run::{RunId, RunState};

/// What the history holds of one partition in a scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Where the group began.
    pub start: Offset,
    /// The last commit that the log confirmed.
    pub confirmed: Option<Offset>,
    /// The leader epoch of the record below `confirmed`, or a later one.
    pub epoch: Option<Epoch>,
    /// The number of the newest commit that the log confirmed.
    pub sequence: i64,
    /// Commits that were sent, or were about to be, and never confirmed.
    pub intents: Vec<Offset>,
    /// All runs that are not done, and those that are done but may lie above the committed offset, ascending
    /// by the first offset of their batch, then by number. A run that was split is not among them; its
    /// pieces are.
    pub runs: Vec<RecordedRun>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordedRun {
    pub id: RunId,
    pub client: Option<Backend>,
    /// The range of the batch that the run belongs to.
    pub whole: OffsetRange,
    pub range: OffsetRange,
    pub lane: Lane,
    pub state: RunState,
    pub failed_attempts: u32,
    /// The leader epoch of the batch's last record, or a later one.
    pub epoch: Option<Epoch>,
}

/// Where a partition goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    pub position: Offset,
    pub committed: Option<Offset>,
    /// What was read before, if its leader epoch is known.
    pub read: Option<LastRead>,
    pub stored: Vec<PlannedBatch>,
}

/// Whose the group's committed offset is, and what follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing is recorded and nothing committed: `--from` chooses the start.
    New,
    /// The offset is ours: go on there, with the recorded ranges.
    Ours(Resume),
    /// The log has lost the group's offset: it expired because nobody committed for long, or somebody deleted
    /// the group. Go on from the last offset that the log had confirmed; starting over could lose records,
    /// or process all of them once more.
    Forgotten(Resume),
    /// The log has an older commit of ours than it had confirmed: the group's log has lost its end. Go on as
    /// if it had not.
    LostTail { resume: Resume, found: Offset },
    /// Somebody moved the group's offsets: the recorded ranges are void. `expected` is the offset that we
    /// committed last.
    Moved { expected: Option<Offset>, by: Mover },
    /// An mb of a newer version committed: it may have written there what is not known here, such as ranges that are
    /// done above the offset. The partition is not read.
    Unread { version: u32 },
}

/// Who moved a group's offsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mover {
    Person,
    /// Another instance of mb.
    Instance(String),
    /// This instance, by a commit that its history does not have: an older copy of the history was put back, or an mb
    /// runs on another copy.
    Ourselves,
    /// An mb of a newer version, whose marks say more than is known here.
    Newer(u32),
}

impl fmt::Display for Mover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mover::Person => f.write_str("somebody"),
            Mover::Instance(instance) => write!(f, "another mb (instance {instance})"),
            Mover::Ourselves => f.write_str("an mb on a copy of this data directory"),
            Mover::Newer(version) => {
                write!(f, "a newer mb (mark mb{version}; this one knows up to mb{})", mark::VERSION)
            }
        }
    }
}

/// The committed offset is ours if it equals the last confirmed offset or an intent. Any other is judged by its mark:
/// ours and older than what was confirmed, the group's log has lost its end; anything else, somebody moved it.
pub fn decide(
    recorded: Option<&Recorded>,
    committed: Option<&Committed>,
    instance: &str,
) -> Decision {
    let mark = committed.map(|committed| Mark::of(&committed.metadata));
    if let Some(Mark::Newer(version)) = mark {
        return Decision::Unread { version };
    }
    let Some(recorded) = recorded else {
        return match committed {
            None => Decision::New,
            Some(committed) => Decision::Ours(resume_at(committed, mark.as_ref())),
        };
    };
    let (at, expected) = (committed.map(|committed| committed.offset), recorded.confirmed);
    // A commit that got no answer may arrive after a later one. Its epoch may be that of a log that was replaced since.
    let is_older = matches!(&mark, Some(Mark::Instance(stamp))
        if stamp.instance == instance && stamp.sequence < recorded.sequence);
    let is_intended = at.is_some_and(|offset| recorded.intents.contains(&offset));
    if at == expected || is_intended && !is_older {
        let known = committed.filter(|_| !is_older || recorded.epoch.is_none());
        let read = known.and_then(|committed| read_of(committed, mark.as_ref()));
        let resume = recorded.resume(at, read);
        let moved = Decision::Moved { expected, by: Mover::Person };
        return resume.map_or(moved, Decision::Ours);
    }
    let confirmed = recorded.resume(expected, None);
    let by = match (mark, at) {
        (None, _) | (_, None) => {
            let moved = Decision::Moved { expected, by: Mover::Person };
            return confirmed
                .map_or(moved, |resume| Decision::Forgotten(Resume { committed: None, ..resume }));
        }
        (Some(Mark::Instance(stamp)), Some(found)) if stamp.instance == instance => {
            if stamp.sequence < recorded.sequence
                && let Some(resume) = confirmed.filter(|_| expected.is_some())
            {
                // Whatever the log has now, what was confirmed is committed again.
                let resume = Resume { committed: None, ..resume };
                return Decision::LostTail { resume, found };
            }
            Mover::Ourselves
        }
        (Some(Mark::Instance(stamp)), _) => Mover::Instance(stamp.instance),
        (Some(Mark::Newer(version)), _) => Mover::Newer(version),
        (Some(Mark::None | Mark::Person), _) => Mover::Person,
    };
    Decision::Moved { expected, by }
}

/// A partition of which the history has nothing.
fn resume_at(committed: &Committed, mark: Option<&Mark>) -> Resume {
    let (position, read) = (committed.offset, read_of(committed, mark));
    Resume { position, committed: Some(position), read, stored: Vec::new() }
}

/// What was read below a committed offset, as the log has it.
fn read_of(committed: &Committed, mark: Option<&Mark>) -> Option<LastRead> {
    let end = committed.offset;
    let marked = match mark {
        Some(Mark::Instance(stamp)) => stamp.read.filter(|read| read.end <= end),
        _ => None,
    };
    committed.epoch.map(|epoch| LastRead { end, epoch }).or(marked)
}

impl Recorded {
    /// Going on at the committed offset, with the ranges above it; `None` if it lies inside one, which mb never
    /// commits.
    fn resume(&self, committed: Option<Offset>, read: Option<LastRead>) -> Option<Resume> {
        let position = committed.unwrap_or(self.start);
        let mut stored: Vec<PlannedBatch> = Vec::new();
        let mut at = position;
        for run in self.runs.iter().filter(|run| run.whole.last >= position) {
            if stored.last().is_none_or(|batch| batch.range != run.whole) {
                // Batches never overlap.
                if run.whole.first < at {
                    return None;
                }
                at = run.whole.end();
                stored.push(PlannedBatch {
                    range: run.whole,
                    parts: Vec::new(),
                    registered: false,
                });
            }
            let batch = stored.last_mut().expect("pushed just now");
            batch.parts.extend(run.part());
        }
        let recorded = self.epoch.filter(|_| committed.is_some() && committed == self.confirmed);
        let read = read.or(recorded.map(|epoch| LastRead { end: position, epoch }));
        Some(Resume { position, committed, read, stored })
    }

    /// What was read above `position`, by its epochs: of each the highest end.
    pub fn read_above(&self, position: Offset) -> BTreeMap<Epoch, Offset> {
        let mut read = BTreeMap::new();
        for run in self.runs.iter().filter(|run| run.whole.last >= position) {
            if let Some(epoch) = run.epoch {
                let end = read.entry(epoch).or_insert(run.whole.end());
                *end = run.whole.end().max(*end);
            }
        }
        read
    }
}

impl RecordedRun {
    /// What of the run is to be made again; `None` if it is done.
    fn part(&self) -> Option<PlannedRun> {
        let failed_attempts = match self.state {
            RunState::Succeeded | RunState::Failed | RunState::Split => return None,
            // Somebody answered the halt by starting mb again: the attempts count from the beginning.
            RunState::Halted => 0,
            RunState::Queued | RunState::Running | RunState::Voided => self.failed_attempts,
        };
        Some(PlannedRun { run: self.id, range: self.range, lane: self.lane, failed_attempts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: i64) -> Offset {
        Offset::new(offset)
    }

    fn run(id: i64, first: i64, last: i64, state: RunState) -> RecordedRun {
        let range = OffsetRange::new(at(first), at(last));
        RecordedRun {
            id: RunId(id),
            client: Some(Backend::Rdkafka),
            whole: range,
            range,
            lane: Lane::WHOLE,
            state,
            failed_attempts: 1,
            epoch: None,
        }
    }

    fn recorded() -> Recorded {
        Recorded {
            start: at(5),
            confirmed: Some(at(10)),
            epoch: None,
            sequence: 7,
            intents: vec![at(20)],
            runs: vec![
                run(1, 10, 19, RunState::Succeeded),
                run(2, 20, 29, RunState::Queued),
                run(3, 30, 39, RunState::Succeeded),
                run(4, 40, 49, RunState::Halted),
            ],
        }
    }

    /// `decide` for an offset that somebody committed without a mark.
    fn plainly(recorded: Option<&Recorded>, committed: Option<Offset>) -> Decision {
        decide(recorded, committed.map(Committed::plain).as_ref(), "me")
    }

    fn marked(offset: i64, metadata: &str) -> Decision {
        let metadata = metadata.to_owned();
        let committed = Committed { metadata, ..Committed::plain(at(offset)) };
        decide(Some(&recorded()), Some(&committed), "me")
    }

    #[test]
    fn an_older_commit_of_ours_is_a_log_that_lost_its_end() {
        let Decision::LostTail { resume, found } = marked(4, "mb1 me 6") else { panic!() };
        assert_eq!((resume.position, resume.committed, found), (at(10), None, at(4)));
        assert_eq!(resume.stored.len(), 4, "what is done above is passed over");
        // A lower number says it, not a lower offset: the cursor may have been moved back since.
        let Decision::LostTail { resume, .. } = marked(600, "mb1 me 6") else { panic!() };
        assert_eq!(resume.position, at(10));
        // Nor does it matter that its commit got no answer: it arrived after the one that was confirmed.
        let Decision::LostTail { resume, .. } = marked(20, "mb1 me 6") else { panic!() };
        assert_eq!(resume.position, at(10));
        assert_eq!(ours(marked(20, "mb1 me 8")).position, at(20));
    }

    #[test]
    fn any_other_mark_at_another_offset_is_a_move() {
        let by = |by| Decision::Moved { expected: Some(at(10)), by };
        assert_eq!(marked(4, ""), by(Mover::Person));
        assert_eq!(marked(4, "mb1 offsets 6"), by(Mover::Person));
        assert_eq!(marked(4, "mb1 you 6"), by(Mover::Instance("you".into())));
        assert_eq!(marked(4, "mb1 me 8"), by(Mover::Ourselves));
        assert_eq!(marked(4, "mb2 me 6"), Decision::Unread { version: 2 });
        assert_eq!(marked(10, "mb2 me 6"), Decision::Unread { version: 2 });
    }

    #[test]
    fn what_was_read_is_known_by_the_highest_end_of_each_epoch() {
        let epoch = |epoch| Epoch::checked(epoch).unwrap();
        let mut recorded = recorded();
        for (run, of) in recorded.runs.iter_mut().zip([1, 1, 2]) {
            run.epoch = Some(epoch(of));
        }
        let expected = BTreeMap::from([(epoch(1), at(30)), (epoch(2), at(40))]);
        assert_eq!(recorded.read_above(at(10)), expected);
        recorded.epoch = Some(epoch(1));
        let read = ours(plainly(Some(&recorded), Some(at(10)))).read;
        assert_eq!(read, Some(LastRead { end: at(10), epoch: epoch(1) }));
        let metadata = "mb1 me 6 10@4".to_owned();
        let late = Committed { metadata, ..Committed::plain(at(10)) };
        let read = ours(decide(Some(&recorded), Some(&late), "me")).read;
        assert_eq!(read, Some(LastRead { end: at(10), epoch: epoch(1) }), "not of a log before it");
        let unknown = ours(plainly(Some(&recorded), Some(at(20)))).read;
        assert_eq!(unknown, None, "an intent's epoch is in the log or nowhere");
        let metadata = "mb1 me 7 18@4".to_owned();
        let committed = Committed { metadata, ..Committed::plain(at(20)) };
        let marked = ours(decide(Some(&recorded), Some(&committed), "me")).read;
        assert_eq!(marked, Some(LastRead { end: at(18), epoch: epoch(4) }));
    }

    fn ours(decision: Decision) -> Resume {
        match decision {
            Decision::Ours(resume) => resume,
            other => panic!("expected ours, got {other:?}"),
        }
    }

    #[test]
    fn the_confirmed_offset_and_an_intent_are_ours() {
        let from_confirmed = ours(plainly(Some(&recorded()), Some(at(10))));
        assert_eq!(from_confirmed.stored.len(), 4);
        assert!(from_confirmed.stored[0].is_finished());
        let from_intent = ours(plainly(Some(&recorded()), Some(at(20))));
        assert_eq!(from_intent.position, at(20));
        let failed_attempts: Vec<Option<u32>> = from_intent
            .stored
            .iter()
            .map(|stored| stored.parts.first().map(|part| part.failed_attempts))
            .collect();
        assert_eq!(failed_attempts, [Some(1), None, Some(0)]);
    }

    #[test]
    fn of_a_batch_in_several_runs_only_unfinished_runs_are_made_again() {
        let whole = OffsetRange::new(at(10), at(19));
        let part = |id, index, range, state| RecordedRun {
            whole,
            lane: Lane { index, count: 3 },
            ..run(id, range, range + 4, state)
        };
        let runs = vec![
            part(1, 0, 10, RunState::Succeeded),
            part(2, 1, 10, RunState::Queued),
            part(4, 2, 10, RunState::Failed),
            part(5, 2, 15, RunState::Halted),
            run(6, 20, 29, RunState::Succeeded),
        ];
        let resume = ours(plainly(Some(&Recorded { runs, ..recorded() }), Some(at(10))));
        let ids: Vec<Vec<i64>> = resume
            .stored
            .iter()
            .map(|stored| stored.parts.iter().map(|part| part.run.0).collect())
            .collect();
        assert_eq!(ids, [vec![2, 5], vec![]]);
        assert_eq!(resume.stored[0].range, whole);
    }

    #[test]
    fn any_other_offset_was_committed_by_somebody_else() {
        for committed in [Some(at(0)), Some(at(9)), Some(at(11)), Some(at(1000))] {
            let expected = Decision::Moved { expected: Some(at(10)), by: Mover::Person };
            assert_eq!(plainly(Some(&recorded()), committed), expected, "{committed:?}");
        }
    }

    #[test]
    fn an_offset_that_the_log_has_lost_is_taken_from_the_history() {
        let Decision::Forgotten(resume) = plainly(Some(&recorded()), None) else {
            panic!("the log has no offset, the history has");
        };
        assert_eq!((resume.position, resume.committed), (at(10), None));
        assert_eq!(resume.stored.len(), 4);
    }

    #[test]
    fn before_the_first_commit_the_recorded_start_holds() {
        let recorded = Recorded { confirmed: None, intents: vec![], ..recorded() };
        assert_eq!(ours(plainly(Some(&recorded), None)).position, at(5));
    }

    #[test]
    fn a_partition_without_history_starts_at_the_committed_offset_or_is_new() {
        assert_eq!(plainly(None, None), Decision::New);
        assert_eq!(ours(plainly(None, Some(at(7)))).position, at(7));
    }
}

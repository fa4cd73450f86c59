//! Where a partition goes on after a restart: what the history holds of it, and the decision whether the
//! offset that the log has for the group is our own.
//!
//! Pure: `recovery` reads the file, `pipeline::startup` asks the log.

use crate::kafka::Backend;
use crate::model::offset::{Lane, Offset, OffsetRange};
use crate::model::planned::{PlannedBatch, PlannedRun};
use crate::model::run::{RunId, RunState};

/// What the history holds of one partition in a scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Where the group began.
    pub start: Offset,
    /// The last commit that the log confirmed.
    pub confirmed: Option<Offset>,
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
}

/// Where a partition goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    pub position: Offset,
    pub committed: Option<Offset>,
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
    /// Somebody moved the group's offsets: the recorded ranges are void. `expected` is the offset that we
    /// committed last.
    Moved { expected: Option<Offset> },
}

/// The committed offset is ours if it equals the last confirmed offset or an intent.
pub fn decide(recorded: Option<&Recorded>, committed: Option<Offset>) -> Decision {
    let Some(recorded) = recorded else {
        return match committed {
            None => Decision::New,
            Some(position) => Decision::Ours(Resume { position, committed, stored: Vec::new() }),
        };
    };
    let forgotten = committed.is_none() && recorded.confirmed.is_some();
    let ours = forgotten
        || committed == recorded.confirmed
        || committed.is_some_and(|offset| recorded.intents.contains(&offset));
    let position = committed.or(recorded.confirmed).unwrap_or(recorded.start);
    let moved = Decision::Moved { expected: recorded.confirmed };
    if !ours {
        return moved;
    }
    let mut stored: Vec<PlannedBatch> = Vec::new();
    let mut at = position;
    for run in recorded.runs.iter().filter(|run| run.whole.last >= position) {
        if stored.last().is_none_or(|batch| batch.range != run.whole) {
            // mb never commits an offset inside a batch, and batches never overlap.
            if run.whole.first < at {
                return moved;
            }
            at = run.whole.end();
            stored.push(PlannedBatch { range: run.whole, parts: Vec::new(), registered: false });
        }
        let batch = stored.last_mut().expect("pushed just now");
        batch.parts.extend(run.part());
    }
    let resume = Resume { position, committed, stored };
    if forgotten { Decision::Forgotten(resume) } else { Decision::Ours(resume) }
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
        }
    }

    fn recorded() -> Recorded {
        Recorded {
            start: at(5),
            confirmed: Some(at(10)),
            intents: vec![at(20)],
            runs: vec![
                run(1, 10, 19, RunState::Succeeded),
                run(2, 20, 29, RunState::Queued),
                run(3, 30, 39, RunState::Succeeded),
                run(4, 40, 49, RunState::Halted),
            ],
        }
    }

    fn ours(decision: Decision) -> Resume {
        match decision {
            Decision::Ours(resume) => resume,
            other => panic!("expected ours, got {other:?}"),
        }
    }

    #[test]
    fn the_confirmed_offset_and_an_intent_are_ours() {
        let from_confirmed = ours(decide(Some(&recorded()), Some(at(10))));
        assert_eq!(from_confirmed.stored.len(), 4);
        assert!(from_confirmed.stored[0].is_finished());
        let from_intent = ours(decide(Some(&recorded()), Some(at(20))));
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
        let resume = ours(decide(Some(&Recorded { runs, ..recorded() }), Some(at(10))));
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
            let expected = Decision::Moved { expected: Some(at(10)) };
            assert_eq!(decide(Some(&recorded()), committed), expected, "{committed:?}");
        }
    }

    #[test]
    fn an_offset_that_the_log_has_lost_is_taken_from_the_history() {
        let Decision::Forgotten(resume) = decide(Some(&recorded()), None) else {
            panic!("the log has no offset, the history has");
        };
        assert_eq!((resume.position, resume.committed), (at(10), None));
        assert_eq!(resume.stored.len(), 4);
    }

    #[test]
    fn before_the_first_commit_the_recorded_start_holds() {
        let recorded = Recorded { confirmed: None, intents: vec![], ..recorded() };
        assert_eq!(ours(decide(Some(&recorded), None)).position, at(5));
    }

    #[test]
    fn a_partition_without_history_starts_at_the_committed_offset_or_is_new() {
        assert_eq!(decide(None, None), Decision::New);
        assert_eq!(ours(decide(None, Some(at(7)))).position, at(7));
    }
}

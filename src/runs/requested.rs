//! Which runs of redrives and replays have started, and which of these requests were cancelled. A run starts
//! before its request is cancelled, or never. What a cancel writes to the history is in `history::requests`.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::offset::{Reprocess, RunKey};
use crate::model::run::RunId;
use crate::model::sync::{Mutex, MutexGuard};

#[derive(Debug, Default)]
pub struct Requested(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    cancelled: BTreeSet<i64>,
    /// Runs whose attempt has started and is not reported yet, with their requests.
    started: BTreeMap<RunId, i64>,
}

impl Requested {
    /// Must be called before an attempt starts. False if its request was cancelled; then it must not start.
    pub fn begin(&self, run: RunId, key: &RunKey) -> bool {
        let Some(request) = key.reprocess.map(Reprocess::request) else { return true };
        let mut state = self.lock();
        if state.cancelled.contains(&request) {
            return false;
        }
        state.started.insert(run, request);
        true
    }

    /// The attempt's outcome is on its way into the history, before anything that is sent from now on.
    pub fn reported(&self, run: RunId, key: &RunKey) {
        if key.reprocess.is_some() {
            self.lock().started.remove(&run);
        }
    }

    /// From now on no run of the request starts. Returns those that have.
    pub fn cancel(&self, request: i64) -> Vec<RunId> {
        let mut state = self.lock();
        state.cancelled.insert(request);
        let started = state.started.iter().filter(|(_, of)| **of == request);
        started.map(|(run, _)| *run).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::offset::{Offset, OffsetRange};

    #[test]
    fn a_run_starts_before_its_request_is_cancelled_or_not_at_all() {
        let range = OffsetRange::new(Offset::new(3), Offset::new(4));
        let first_processing = RunKey::new("t", 0, range);
        let key = |reprocess| RunKey { reprocess: Some(reprocess), ..first_processing.clone() };
        let requested = Requested::default();
        assert!(requested.begin(RunId(1), &key(Reprocess::Redrive(7))));
        assert!(requested.begin(RunId(2), &key(Reprocess::Redrive(7))));
        assert!(requested.begin(RunId(3), &key(Reprocess::Replay(8))));
        requested.reported(RunId(2), &key(Reprocess::Redrive(7)));
        assert_eq!(requested.cancel(7), [RunId(1)]);
        assert!(!requested.begin(RunId(4), &key(Reprocess::Redrive(7))));
        assert!(requested.begin(RunId(5), &key(Reprocess::Replay(8))));
        assert!(requested.begin(RunId(6), &first_processing));
    }
}

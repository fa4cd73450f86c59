//! Cancels of single runs: each is seen by its run, or learns that it is late.

use std::sync::Arc;

use models::model::run::RunId;
use models::runs::cancels::{Cancels, Found};
use shuttle::thread;

use crate::{HOUR, explore};

/// Fails if `step_over` forgets the cancel that came within the step, or if `reported` wakes nobody.
#[test]
fn a_cancel_is_seen_by_its_run_or_learns_that_it_is_late() {
    const RUNS: i64 = 3;
    explore(|| {
        let cancels = Arc::new(Cancels::default());
        let canceller = {
            let cancels = Arc::clone(&cancels);
            thread::spawn(move || -> Vec<bool> {
                let cancel = |run| {
                    let found = cancels.cancel(RunId(run), "no", HOUR);
                    assert_ne!(found, Found::Ending, "it waits for the report");
                    // As the canceller does if the history says that the run has ended.
                    found == Found::InStep || !cancels.take_back(RunId(run))
                };
                (0..RUNS).map(cancel).collect()
            })
        };
        let seen: Vec<bool> = (0..RUNS)
            .map(|run| {
                let before = cancels.begin(RunId(run)).is_some();
                let within = !before && cancels.step_over(RunId(run)).is_some();
                cancels.reported(RunId(run), true);
                before || within
            })
            .collect();
        assert_eq!(canceller.join().unwrap(), seen);
    });
}

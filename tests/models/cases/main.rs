//! Models of the synchronisers that mb makes by hand: each runs under thousands of interleavings, of a fixed
//! seed. A lost wake-up is a deadlock, which shuttle reports with the schedule that leads to it.
//!
//! Each of them fails if the code is broken in the way that its comment says. Some of those bugs are kept in
//! `tests/mutants/models/`; `scripts/mutants --models` shows that they are caught.

mod budget;
mod cancels;
mod delayed;
mod embedded_topic;
mod history;
mod inbox;
mod queue;
mod requests;
mod sensor;
mod workers;

use std::time::Duration;

use models::model::clock;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};

const SEED: u64 = 13;
const HOUR: Duration = Duration::from_secs(3600);

/// Runs a model under random schedules, and under schedules with few preemptions at unlucky places.
fn explore(model: impl Fn() + Copy + Send + Sync + 'static) {
    explore_more(2000, model);
}

/// The same for a model whose unlucky places are rare: with this many schedules of each kind.
fn explore_more(schedules: usize, model: impl Fn() + Copy + Send + Sync + 'static) {
    let model = move || {
        clock::stand_still();
        model();
    };
    Runner::new(RandomScheduler::new_from_seed(SEED, schedules), Config::new()).run(model);
    Runner::new(PctScheduler::new_from_seed(SEED, 3, schedules), Config::new()).run(model);
}

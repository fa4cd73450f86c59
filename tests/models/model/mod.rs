//! What the modelled files use of mb's `model`: the real budget, and stand-ins for the rest.

#[path = "../../../src/model/budget.rs"]
pub mod budget;
pub mod sync;

/// Time does not pass in a model.
pub mod clock {
    use std::time::{Duration, Instant};

    pub fn now() -> Instant {
        Instant::now()
    }

    pub fn wait_simulated(_limit: Duration) -> bool {
        false
    }
}

pub mod run {
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct RunId(pub i64);
}

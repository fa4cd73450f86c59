//! What the modelled files use of mb's `config`: the real limits and steering, and as many settings as they need.

use std::time::Duration;

#[path = "../../../src/config/limits.rs"]
pub mod limits;
#[path = "../../../src/config/steering.rs"]
pub mod steering;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    None,
    Partition,
    Key,
}

pub struct Produce {
    pub rate: f64,
}

pub struct Config {
    pub produce: Option<Produce>,
    pub max_batch: usize,
    pub max_concurrent_runs: usize,
    pub max_wait: Duration,
    pub tick_interval: Duration,
}

//! A histogram of durations, which threads write without a lock and Prometheus reads.

use std::time::Duration;

use prometheus::HistogramOpts;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

/// Upper bounds of the buckets, in seconds: from a step that does nothing to one of minutes.
pub const BOUNDS_S: [f64; 17] = [
    0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
    300.0,
];

/// How many durations were at most as long as each bound, and their sum.
#[derive(Clone, Debug)]
pub struct Histogram(prometheus::Histogram);

impl Histogram {
    /// A histogram under the metric's `name`, which must be one that Prometheus accepts.
    pub fn new(name: &str, help: &str) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(BOUNDS_S.to_vec());
        Histogram(prometheus::Histogram::with_opts(options).expect("a valid name and bounds"))
    }

    pub fn observe(&self, duration: Duration) {
        self.0.observe(duration.as_secs_f64());
    }

    /// How many durations there were, and their sum.
    pub fn count_and_sum(&self) -> (u64, Duration) {
        let sum = Duration::try_from_secs_f64(self.0.get_sample_sum()).unwrap_or_default();
        (self.0.get_sample_count(), sum)
    }
}

impl Collector for Histogram {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.0.collect()
    }
}

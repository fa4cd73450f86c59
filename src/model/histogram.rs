//! A histogram of durations that many threads write without a lock. How it is shown is in
//! `metrics`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets, in milliseconds: from a step that does nothing to one of minutes.
pub const BOUNDS_MS: [u64; 17] = [
    1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 120_000,
    300_000,
];

/// How many durations lay up to which bound, and their sum.
#[derive(Debug, Default)]
pub struct Histogram {
    /// One per bound, not cumulated, and one for what is above all.
    buckets: [AtomicU64; BOUNDS_MS.len() + 1],
    sum_us: AtomicU64,
}

/// What a histogram held at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// A bound in seconds, and how many durations were at most that.
    pub buckets: Vec<(f64, u64)>,
    pub count: u64,
    pub sum_s: f64,
}

impl Histogram {
    pub fn observe(&self, duration: Duration) {
        let bucket = BOUNDS_MS.partition_point(|bound| Duration::from_millis(*bound) < duration);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Count and buckets fit together; the sum may be that of a moment later.
    pub fn read(&self) -> Reading {
        let mut count = 0;
        let mut next = |bucket: &AtomicU64| {
            count += bucket.load(Ordering::Relaxed);
            count
        };
        let bounds = BOUNDS_MS.iter().map(|ms| *ms as f64 / 1000.0);
        let buckets = bounds.zip(&self.buckets).map(|(bound, bucket)| (bound, next(bucket)));
        let buckets = buckets.collect();
        next(&self.buckets[BOUNDS_MS.len()]);
        let sum_s = self.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
        Reading { buckets, count, sum_s }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_up_to_each_bound_that_it_does_not_pass() {
        let histogram = Histogram::default();
        for ms in [1, 2, 1500, 400_000] {
            histogram.observe(Duration::from_millis(ms));
        }
        let reading = histogram.read();
        let up_to =
            |bound: f64| reading.buckets.iter().find(|(known, _)| *known == bound).unwrap().1;
        assert_eq!((up_to(0.001), up_to(0.002), up_to(1.0), up_to(2.5)), (1, 2, 2, 3));
        assert_eq!((up_to(300.0), reading.count), (3, 4), "what is above all bounds counts too");
        assert!((reading.sum_s - 401.503).abs() < 1e-9, "{reading:?}");
    }
}

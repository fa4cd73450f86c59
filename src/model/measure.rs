//! What threads measure without a lock, and Prometheus reads: a counter, and a histogram of durations.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::HistogramOpts;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

/// Upper bounds of a histogram of runs, in seconds: from a step that does nothing to one of minutes.
pub const RUN_BOUNDS_S: [f64; 17] = [
    0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
    300.0,
];

/// A counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many durations were at most as long as each bound, and their sum.
#[derive(Clone, Debug)]
pub struct Histogram(prometheus::Histogram);

/// What a histogram has counted: durations up to each bound, ascending, those up to the bounds below included.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Buckets {
    /// Upper bounds in seconds, and counts.
    counts: Vec<(f64, u64)>,
    all: u64,
}

impl Histogram {
    /// A histogram under the metric's `name`, which must be one that Prometheus accepts. `bounds_s` ascend.
    pub fn new(name: &str, help: &str, bounds_s: &[f64]) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(bounds_s.to_vec());
        Histogram(prometheus::Histogram::with_opts(options).expect("a valid name and bounds"))
    }

    pub fn observe(&self, duration: Duration) {
        self.0.observe(duration.as_secs_f64());
    }

    /// Adds many durations at once, in seconds: other threads wait for none of them.
    pub fn observe_all(&self, durations_s: impl Iterator<Item = f64>) {
        let local = self.0.local();
        durations_s.for_each(|duration| local.observe(duration));
    }

    /// How many durations there were, and their sum.
    pub fn count_and_sum(&self) -> (u64, Duration) {
        let sum = Duration::try_from_secs_f64(self.0.get_sample_sum()).unwrap_or_default();
        (self.0.get_sample_count(), sum)
    }

    pub fn buckets(&self) -> Buckets {
        let families = self.0.collect();
        let metric = families.first().and_then(|family| family.get_metric().first());
        metric.map_or_else(Buckets::default, |metric| {
            let found = metric.get_histogram();
            let bucket = |of: &prometheus::proto::Bucket| (of.upper_bound(), of.cumulative_count());
            let counts = found.get_bucket().iter().map(bucket).collect();
            Buckets { counts, all: found.get_sample_count() }
        })
    }
}

impl Buckets {
    /// How many durations there were.
    pub fn count(&self) -> u64 {
        self.all
    }

    /// What was counted after `before`, which is of the same histogram.
    #[must_use]
    pub fn since(&self, before: &Buckets) -> Buckets {
        let earlier = before.counts.iter().map(|(_, count)| *count).chain(std::iter::repeat(0));
        let less = |((bound, now), then): (&(f64, u64), u64)| (*bound, now.saturating_sub(then));
        let counts = self.counts.iter().zip(earlier).map(less).collect();
        Buckets { counts, all: self.all.saturating_sub(before.all) }
    }

    /// The duration that a share of `quantile` (0 to 1) did not exceed, in seconds: interpolated within its bucket, as
    /// Prometheus' `histogram_quantile` does, and at most the last bound. `None` without any duration.
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        let (last, _) = *self.counts.last()?;
        let rank = quantile * self.all as f64;
        let (mut below, mut lower) = (0, 0.0);
        for (bound, count) in &self.counts {
            if *count > 0 && *count as f64 >= rank {
                let share = (rank - below as f64) / (count - below) as f64;
                return Some(lower + (bound - lower) * share);
            }
            (below, lower) = (*count, *bound);
        }
        (self.all > 0).then_some(last)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_prometheus() {
        let histogram = Histogram::new("x", "x", &[0.1, 0.2, 0.4]);
        assert_eq!(histogram.buckets().quantile(0.5), None);
        // 10 up to 0.1 s, 80 up to 0.2 s, 10 up to 0.4 s.
        let times = [(10, 0.05), (80, 0.15), (10, 0.3)];
        histogram.observe_all(times.iter().flat_map(|(n, s)| std::iter::repeat_n(*s, *n)));
        let buckets = histogram.buckets();
        let quantile = |q| (buckets.quantile(q).unwrap() * 1e6).round() / 1e6;
        assert_eq!(
            [0.05, 0.1, 0.5, 0.9, 0.95, 1.0].map(quantile),
            [0.05, 0.1, 0.15, 0.2, 0.3, 0.4]
        );
        assert_eq!(buckets.count(), 100);

        histogram.observe(Duration::from_secs(9));
        let newer = histogram.buckets().since(&buckets);
        assert_eq!((newer.count(), newer.quantile(0.5)), (1, Some(0.4)), "beyond the last bound");
        assert_eq!(newer.since(&newer).quantile(0.5), None);
    }
}

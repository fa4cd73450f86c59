//! The latency of the last minute, from what a histogram had counted each second. Pure.

use std::collections::VecDeque;
use std::time::Instant;

use crate::config::limits;
use crate::model::measure::Buckets;
use crate::observe::overview::LatencyView;

/// What the histogram had counted at each look.
#[derive(Debug, Default)]
pub struct RecentLatency(VecDeque<(Instant, Buckets)>);

impl RecentLatency {
    pub fn push(&mut self, now: Instant, counted: Buckets) {
        self.0.push_back((now, counted));
        // One beyond the window stays, as its far end.
        let is_old = |at: &Instant| now.saturating_duration_since(*at) >= limits::LATENCY_WINDOW;
        while self.0.get(1).is_some_and(|(at, _)| is_old(at)) {
            self.0.pop_front();
        }
    }

    /// `None` if no record was processed in the window that arrived while mb ran.
    pub fn view(&self) -> Option<LatencyView> {
        let ((_, then), (_, now)) = (self.0.front()?, self.0.back()?);
        let recent = now.since(then);
        let quantile = |quantile| recent.quantile(quantile);
        Some(LatencyView {
            records: recent.count(),
            p50_s: quantile(0.5)?,
            p95_s: quantile(0.95)?,
            p99_s: quantile(0.99)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::measure::Histogram;

    #[test]
    fn it_forgets_what_is_older_than_a_minute() {
        let (begin, histogram) = (Instant::now(), Histogram::new("x", "x", &[1.0, 2.0, 10.0]));
        let mut recent = RecentLatency::default();
        assert_eq!(recent.view(), None);
        for second in 0..200 {
            // One slow record, then fast ones, then none.
            match second {
                1 => histogram.observe(Duration::from_secs(10)),
                2..100 => histogram.observe(Duration::from_secs(1)),
                _ => {}
            }
            recent.push(begin + Duration::from_secs(second), histogram.buckets());
            match second {
                0 => assert_eq!(recent.view(), None),
                1 => assert!(recent.view().unwrap().p50_s > 2.0),
                60 => assert!(recent.view().unwrap().p99_s > 2.0),
                62..=158 => assert!(recent.view().unwrap().p99_s <= 1.0, "at {second} s"),
                159.. => assert_eq!(recent.view(), None),
                _ => {}
            }
        }
        assert!(recent.0.len() <= 62);
    }
}

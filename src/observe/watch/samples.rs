//! The last 15 minutes, with a sample each second, and what follows from them: rates, and when the lag will be
//! caught up.
//!
//! Pure: counters and time are arguments.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::config::limits;
use crate::observe::overview::{Rates, Sample};

/// Counters and gauges at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    pub at: Instant,
    pub at_ms: i64,
    pub records_in: u64,
    pub bytes_in: u64,
    pub records_done: u64,
    pub bytes_done: u64,
    pub messages_posted: u64,
    /// In records; `None` if it is not known.
    pub lag: Option<u64>,
    pub queued: u64,
    pub running: u64,
}

/// The samples of the last 15 minutes.
#[derive(Debug, Default)]
pub struct Samples {
    ring: VecDeque<Sample>,
    /// The newest counts, for rates over a few seconds.
    recent: VecDeque<Counts>,
}

impl Samples {
    pub fn push(&mut self, counts: Counts) {
        if let Some(before) = self.recent.back() {
            let rate = per_second(before, &counts);
            if self.ring.len() == limits::SAMPLES {
                self.ring.pop_front();
            }
            self.ring.push_back(Sample {
                at_ms: counts.at_ms,
                records_in: rate(before.records_in, counts.records_in),
                records_done: rate(before.records_done, counts.records_done),
                bytes_in: rate(before.bytes_in, counts.bytes_in),
                lag: counts.lag,
                queued: counts.queued,
                running: counts.running,
            });
        }
        self.recent.push_back(counts);
        // One beyond the window stays, as its far end.
        while self.recent.get(1).is_some_and(|next| age(next, &counts) >= limits::CATCH_UP_WINDOW) {
            self.recent.pop_front();
        }
        if self.recent.len() > limits::SAMPLES {
            self.recent.pop_front();
        }
    }

    pub fn all(&self) -> Vec<Sample> {
        self.ring.iter().copied().collect()
    }

    /// Per second over `limits::RATE_WINDOW`, or since the first sample.
    pub fn rates(&self) -> Rates {
        let Some(now) = self.recent.back() else { return Rates::default() };
        let Some(then) = self.before(now, limits::RATE_WINDOW) else { return Rates::default() };
        let rate = per_second(then, now);
        Rates {
            records_in: rate(then.records_in, now.records_in),
            bytes_in: rate(then.bytes_in, now.bytes_in),
            records_done: rate(then.records_done, now.records_done),
            bytes_done: rate(then.bytes_done, now.bytes_done),
            messages_posted: rate(then.messages_posted, now.messages_posted),
        }
    }

    /// In how many seconds the lag will be 0 if it goes on falling as it did over `limits::CATCH_UP_WINDOW`.
    pub fn catch_up_s(&self) -> Option<f64> {
        let now = self.recent.back()?;
        let lag = now.lag?;
        if lag == 0 {
            return Some(0.0);
        }
        let then = self.recent.iter().find(|counts| counts.lag.is_some())?;
        let (before, seconds) = (then.lag?, age(then, now).as_secs_f64());
        let fallen = before.checked_sub(lag).filter(|fallen| *fallen > 0)?;
        // A second or two are too short: commits come in steps.
        (seconds >= limits::RATE_WINDOW.as_secs_f64()).then(|| lag as f64 * seconds / fallen as f64)
    }

    /// The newest counts that are at least as old as `window`, or else the oldest; `None` if those are `now`.
    fn before(&self, now: &Counts, window: Duration) -> Option<&Counts> {
        let old_enough = self.recent.iter().rev().find(|counts| age(counts, now) >= window);
        old_enough.or(self.recent.front()).filter(|then| then.at < now.at)
    }
}

fn age(then: &Counts, now: &Counts) -> Duration {
    now.at.saturating_duration_since(then.at)
}

fn per_second(then: &Counts, now: &Counts) -> impl Fn(u64, u64) -> f64 + use<> {
    let seconds = age(then, now).as_secs_f64();
    move |before, after| match seconds {
        0.0 => 0.0,
        seconds => after.saturating_sub(before) as f64 / seconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(begin: Instant, second: u64, done: u64, lag: Option<u64>) -> Counts {
        Counts {
            at: begin + Duration::from_secs(second),
            at_ms: 1000 * second as i64,
            records_in: 2 * done,
            bytes_in: 0,
            records_done: done,
            bytes_done: 0,
            messages_posted: 0,
            lag,
            queued: 0,
            running: 0,
        }
    }

    #[test]
    fn rates_are_over_five_seconds_and_samples_over_one() {
        let begin = Instant::now();
        let mut samples = Samples::default();
        samples.push(counts(begin, 0, 0, None));
        assert_eq!(samples.rates(), Rates::default());
        assert_eq!(samples.all(), []);
        samples.push(counts(begin, 1, 10, None));
        assert_eq!(samples.rates().records_done, 10.0, "of the second that there is");
        for second in 2..=10 {
            samples.push(counts(begin, second, if second < 6 { 10 } else { 110 }, None));
        }
        assert_eq!(samples.rates().records_done, 20.0);
        assert_eq!(samples.rates().records_in, 40.0);
        let done: Vec<f64> = samples.all().iter().map(|sample| sample.records_done).collect();
        assert_eq!(done, [10.0, 0.0, 0.0, 0.0, 0.0, 100.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn the_time_to_catch_up_follows_from_how_fast_the_lag_falls() {
        let begin = Instant::now();
        let mut samples = Samples::default();
        for second in 0..=20 {
            samples.push(counts(begin, second, 0, Some(1000 - 10 * second)));
        }
        assert_eq!(samples.catch_up_s(), Some(80.0));
        samples.push(counts(begin, 21, 0, Some(0)));
        assert_eq!(samples.catch_up_s(), Some(0.0));
        samples.push(counts(begin, 22, 0, None));
        assert_eq!(samples.catch_up_s(), None, "the lag is not known");
        samples.push(counts(begin, 23, 0, Some(2000)));
        assert_eq!(samples.catch_up_s(), None, "it grows");
    }

    #[test]
    fn the_ring_keeps_fifteen_minutes() {
        let begin = Instant::now();
        let mut samples = Samples::default();
        for second in 0..2000 {
            samples.push(counts(begin, second, second, Some(second)));
        }
        let all = samples.all();
        assert_eq!((all.len(), all[0].at_ms, all[899].at_ms), (900, 1_100_000, 1_999_000));
        assert!(samples.recent.len() < 20, "{}", samples.recent.len());
    }
}

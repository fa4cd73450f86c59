//! The last 15 minutes, with a sample each second, and what follows from them: rates, the lag's trend, and how busy the
//! workers are.
//!
//! Pure: counters and time are arguments.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::trend::{Point, Trend, trend};
use crate::config::limits;
use crate::observe::overview::{Rates, Sample};

/// Counters and gauges at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    pub at: Instant,
    pub at_ms: i64,
    /// By how much the log's ends have grown since mb started.
    pub arrived: u64,
    pub records_in: u64,
    pub bytes_in: u64,
    pub records_done: u64,
    pub bytes_done: u64,
    pub messages_posted: u64,
    /// Runs that ended, and attempts with their time in the step.
    pub runs_done: u64,
    pub attempts: u64,
    pub in_step: Duration,
    /// In records; `None` if it is not known.
    pub lag: Option<u64>,
    pub queued: u64,
    pub running: u64,
}

/// The samples of the last 15 minutes.
#[derive(Debug, Default)]
pub struct Samples {
    ring: VecDeque<Sample>,
    /// The newest counts, for what is measured over seconds or minutes.
    recent: VecDeque<Counts>,
}

/// What the workers did over `limits::TREND_WINDOW`, on average.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pace {
    /// Workers that had a run.
    pub busy: f64,
    /// `None` if no run has ended.
    pub records_per_run: Option<f64>,
    /// The time of an attempt; `None` if none has ended.
    pub step: Option<Duration>,
}

impl Samples {
    pub fn push(&mut self, counts: Counts) {
        let is_first = self.recent.is_empty();
        self.recent.push_back(counts);
        if !is_first {
            if self.ring.len() == limits::SAMPLES {
                self.ring.pop_front();
            }
            // The same rates as elsewhere, so that a chart ends with the number that is shown beside it.
            let rates = self.rates();
            self.ring.push_back(Sample {
                at_ms: counts.at_ms,
                records_arriving: rates.records_arriving,
                records_in: rates.records_in,
                records_done: rates.records_done,
                bytes_in: rates.bytes_in,
                lag: counts.lag,
                queued: counts.queued,
                running: counts.running,
            });
        }
        // One beyond the window stays, as its far end.
        let window = limits::TREND_LONG_WINDOW;
        while self.recent.get(1).is_some_and(|next| age(next, &counts) >= window) {
            self.recent.pop_front();
        }
        if self.recent.len() > limits::SAMPLES {
            self.recent.pop_front();
        }
    }

    /// The pipeline starts anew: the counts of before say nothing of it.
    pub fn begin_anew(&mut self) {
        self.recent.clear();
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
            records_arriving: arriving(then, now),
            records_in: rate(then.records_in, now.records_in),
            bytes_in: rate(then.bytes_in, now.bytes_in),
            records_done: rate(then.records_done, now.records_done),
            bytes_done: rate(then.bytes_done, now.bytes_done),
            messages_posted: rate(then.messages_posted, now.messages_posted),
        }
    }

    /// How the lag moves; `None` if it is not known, or not for long enough. See `trend::trend`.
    pub fn trend(&self, cycle: Duration, usual: u64) -> Option<Trend> {
        let now = self.recent.back().filter(|now| now.lag.is_some())?;
        let point = |counts: &Counts| {
            let at_s = limits::TREND_LONG_WINDOW.as_secs_f64() - age(counts, now).as_secs_f64();
            let (arrived, done) = (counts.arrived, counts.records_done);
            Some(Point { at_s, lag: counts.lag?, arrived, done })
        };
        let points: Vec<Point> = self.recent.iter().filter_map(point).collect();
        trend(&points, cycle, usual)
    }

    pub fn pace(&self) -> Pace {
        let Some(now) = self.recent.back() else { return Pace::default() };
        let Some(then) = self.before(now, limits::TREND_WINDOW) else { return Pace::default() };
        let since = self.recent.iter().rev().take_while(|counts| counts.at > then.at);
        let (count, running) =
            since.fold((0_u64, 0_u64), |(count, sum), one| (count + 1, sum + one.running));
        let attempts = u32::try_from(now.attempts - then.attempts).unwrap_or(u32::MAX);
        let runs = now.runs_done - then.runs_done;
        let records = now.records_done - then.records_done;
        Pace {
            busy: running as f64 / count.max(1) as f64,
            records_per_run: (runs > 0).then(|| records as f64 / runs as f64),
            step: (now.in_step - then.in_step).checked_div(attempts),
        }
    }

    /// The newest counts that are at least as old as `window`, or else the oldest; `None` if those are `now`.
    fn before(&self, now: &Counts, window: Duration) -> Option<&Counts> {
        let old_enough = self.recent.iter().rev().find(|counts| age(counts, now) >= window);
        old_enough.or(self.recent.front()).filter(|then| then.at < now.at)
    }
}

/// Per second; `None` if one of the two does not know where the log ended.
fn arriving(then: &Counts, now: &Counts) -> Option<f64> {
    (then.lag.is_some() && now.lag.is_some())
        .then(|| per_second(then, now)(then.arrived, now.arrived))
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
            arrived: 3 * done,
            records_in: 2 * done,
            bytes_in: 0,
            records_done: done,
            bytes_done: 0,
            messages_posted: 0,
            runs_done: done / 10,
            attempts: done / 10,
            in_step: Duration::from_millis(50 * (done / 10)),
            lag,
            queued: 0,
            running: 2,
        }
    }

    #[test]
    fn rates_are_over_five_seconds_in_samples_too() {
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
        assert_eq!(done, [10.0, 5.0, 10.0 / 3.0, 2.5, 2.0, 20.0, 20.0, 20.0, 20.0, 20.0]);
    }

    #[test]
    fn what_arrives_is_known_while_the_log_says_where_it_ends() {
        let begin = Instant::now();
        let mut samples = Samples::default();
        for second in 0..=10 {
            samples.push(counts(begin, second, 10 * second, Some(1000 - 10 * second)));
        }
        assert_eq!(samples.rates().records_arriving, Some(30.0));
        let trend = samples.trend(Duration::ZERO, 0).unwrap();
        assert_eq!((trend.arriving, trend.falls_by), (30.0, Some(10.0)));
        samples.push(counts(begin, 11, 110, None));
        assert_eq!(
            (samples.rates().records_arriving, samples.trend(Duration::ZERO, 0)),
            (None, None)
        );
        assert_eq!(samples.all().last().unwrap().records_arriving, None);
    }

    #[test]
    fn the_pace_is_an_average_over_the_last_seconds() {
        let begin = Instant::now();
        let mut samples = Samples::default();
        assert_eq!(samples.pace(), Pace::default());
        for second in 0..=60 {
            samples.push(counts(begin, second, 100 * second, Some(0)));
        }
        let step = Some(Duration::from_millis(50));
        assert_eq!(samples.pace(), Pace { busy: 2.0, records_per_run: Some(10.0), step });
        for second in 61..=120 {
            samples.push(counts(begin, second, 6000, Some(0)));
        }
        assert_eq!(samples.pace(), Pace { busy: 2.0, ..Pace::default() }, "no run has ended");
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
        assert!(samples.recent.len() < 310, "{}", samples.recent.len());
    }
}

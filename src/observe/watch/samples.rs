//! The last 15 minutes, with a sample each second, and what follows from them: rates, the lag's trend, and how busy the
//! workers are.
//!
//! Pure: counters and time are arguments.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::trend::{Explained, Point, Trend, trend};
use crate::config::limits;
use crate::observe::overview::{Rates, Sample};

/// Counters and gauges at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    pub at: Instant,
    pub at_ms: i64,
    /// When the log said where it ends.
    pub asked: Instant,
    /// By how much its ends have grown since mb started.
    pub arrived: u64,
    pub records_in: u64,
    pub bytes_in: u64,
    pub records_done: u64,
    pub bytes_done: u64,
    pub messages_posted: u64,
    /// Attempts that ended, and their time in the step.
    pub attempts: u64,
    pub in_step: Duration,
    /// In records; `None` if it is not known.
    pub lag: Option<u64>,
    pub queued: u64,
    /// Runs that wait behind others of their lane or partition.
    pub parked: u64,
    pub running: u64,
}

/// The samples of the last 15 minutes.
#[derive(Debug, Default)]
pub struct Samples {
    ring: VecDeque<Sample>,
    /// The newest counts, for what is measured over seconds or minutes.
    recent: VecDeque<Counts>,
}

/// What the workers did over `limits::TREND_WINDOW`, on average; over a longer time if no attempt has ended since.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pace {
    /// Workers that had a run.
    pub busy: f64,
    /// Runs in the queue.
    pub queued: f64,
    /// Runs that wait behind others of their lane or partition.
    pub parked: f64,
    pub attempts: Option<Attempts>,
}

/// Attempts that have ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attempts {
    /// Records that were done per attempt: fewer than an attempt gets, if some fail.
    pub records: f64,
    pub in_step: Duration,
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

    /// Counts from before a restart are not comparable.
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
            records_arriving: self.arriving(now),
            records_in: rate(then.records_in, now.records_in),
            bytes_in: rate(then.bytes_in, now.bytes_in),
            records_done: rate(then.records_done, now.records_done),
            bytes_done: rate(then.bytes_done, now.bytes_done),
            messages_posted: rate(then.messages_posted, now.messages_posted),
        }
    }

    /// How the lag moves; `None` if it is not known, or not for long enough. See `trend::trend`.
    pub fn trend(&self, explained: &Explained) -> Option<Trend> {
        self.recent.back()?.lag?;
        let first = self.recent.front()?;
        let mut points: Vec<Point> = Vec::new();
        let mut asked = None;
        // Between two answers of the log, the lag only falls.
        let news = |counts: &&Counts| asked.replace(counts.asked) != Some(counts.asked);
        for counts in self.recent.iter().filter(news) {
            let at_s = counts.at.saturating_duration_since(first.at).as_secs_f64();
            let (arrived, done) = (counts.arrived, counts.records_done);
            points.extend(counts.lag.map(|lag| Point { at_s, lag, arrived, done }));
        }
        trend(&points, explained)
    }

    pub fn pace(&self) -> Pace {
        let Some(now) = self.recent.back() else { return Pace::default() };
        let Some(then) = self.before(now, limits::TREND_WINDOW) else { return Pace::default() };
        let since: Vec<_> = self.recent.iter().filter(|counts| counts.at > then.at).collect();
        let mean = |of: fn(&Counts) -> u64| {
            since.iter().map(|counts| of(counts)).sum::<u64>() as f64 / since.len().max(1) as f64
        };
        let longest = || self.recent.front().and_then(|first| attempts(first, now));
        Pace {
            busy: mean(|counts| counts.running),
            queued: mean(|counts| counts.queued),
            parked: mean(|counts| counts.parked),
            attempts: attempts(then, now).or_else(longest),
        }
    }

    /// Per second, between two answers of the log; `None` if it is not known where it ends.
    fn arriving(&self, now: &Counts) -> Option<f64> {
        now.lag?;
        let is_older = |counts: &&Counts| {
            now.asked.saturating_duration_since(counts.asked) >= limits::RATE_WINDOW
        };
        let known = || self.recent.iter().filter(|counts| counts.lag.is_some());
        let then = known().rev().find(is_older).or_else(|| known().next())?;
        let seconds = now.asked.saturating_duration_since(then.asked).as_secs_f64();
        let arrived = now.arrived.saturating_sub(then.arrived) as f64;
        (seconds > 0.0).then(|| arrived / seconds)
    }

    /// The newest counts that are at least as old as `window`, or else the oldest; `None` if those are `now`.
    fn before(&self, now: &Counts, window: Duration) -> Option<&Counts> {
        let old_enough = self.recent.iter().rev().find(|counts| age(counts, now) >= window);
        old_enough.or(self.recent.front()).filter(|then| then.at < now.at)
    }
}

/// Those that ended between the two; `None` if there is none.
fn attempts(then: &Counts, now: &Counts) -> Option<Attempts> {
    let count = u32::try_from(now.attempts.saturating_sub(then.attempts)).unwrap_or(u32::MAX);
    let in_step = now.in_step.saturating_sub(then.in_step).checked_div(count)?;
    let records = now.records_done.saturating_sub(then.records_done);
    Some(Attempts { records: records as f64 / f64::from(count), in_step })
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
    use super::super::trend::Course;
    use super::*;

    fn counts(begin: Instant, second: u64, done: u64, lag: Option<u64>) -> Counts {
        Counts {
            at: begin + Duration::from_secs(second),
            at_ms: 1000 * second as i64,
            asked: begin + Duration::from_secs(second),
            arrived: 3 * done,
            records_in: 2 * done,
            bytes_in: 0,
            records_done: done,
            bytes_done: 0,
            messages_posted: 0,
            attempts: done / 10,
            in_step: Duration::from_millis(50 * (done / 10)),
            lag,
            queued: 4,
            parked: 1,
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
        let explained = Explained::default();
        let trend = samples.trend(&explained).unwrap();
        assert_eq!((trend.arriving, trend.course), (30.0, Course::Falls(10.0)));
        samples.push(counts(begin, 11, 110, None));
        assert_eq!((samples.rates().records_arriving, samples.trend(&explained)), (None, None));
        assert_eq!(samples.all().last().unwrap().records_arriving, None);
    }

    #[test]
    fn a_log_that_is_asked_now_and_then_shows_its_true_rate() {
        let begin = Instant::now();
        let mut samples = Samples::default();
        for second in 0..=60_u64 {
            // Asked every 10 seconds, 100/s arrive and are done: between two answers the lag falls by 1,000.
            let asked = second / 10 * 10;
            let (arrived, done) = (100 * asked, 100 * second);
            let lag = Some((10_000 + arrived).saturating_sub(done));
            let asked = begin + Duration::from_secs(asked);
            samples.push(Counts { asked, arrived, ..counts(begin, second, done, lag) });
            if second >= 10 {
                assert_eq!(samples.rates().records_arriving, Some(100.0), "at {second} s");
            }
        }
        let course = samples.trend(&Explained::default()).unwrap().course;
        assert_eq!(course, Course::Steady);
    }

    #[test]
    fn the_pace_is_an_average_over_the_last_seconds() {
        let begin = Instant::now();
        let mut samples = Samples::default();
        assert_eq!(samples.pace(), Pace::default());
        for second in 0..=60 {
            samples.push(counts(begin, second, 100 * second, Some(0)));
        }
        let attempts = Some(Attempts { records: 10.0, in_step: Duration::from_millis(50) });
        let pace = Pace { busy: 2.0, queued: 4.0, parked: 1.0, attempts };
        assert_eq!(samples.pace(), pace);
        for second in 61..=120 {
            samples.push(counts(begin, second, 6000, Some(0)));
        }
        assert_eq!(samples.pace(), pace, "those that ended before");
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

//! Whether the lag grows or falls, from the samples of the last minutes.
//!
//! Lag is never still: it rises with each record and falls with each commit, and with long ticks it looks like a saw.
//! So growth is measured between the lowest points, and over a time that has several teeth.
//!
//! Pure: the samples are an argument.

use std::time::Duration;

use crate::config::limits;

/// Counters at one moment at which the lag was known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Seconds since any beginning.
    pub at_s: f64,
    /// In records.
    pub lag: u64,
    /// By how much the log's ends have grown since mb started.
    pub arrived: u64,
    /// Records processed or kept as dead letters since mb started.
    pub done: u64,
}

/// How the lag moves.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Trend {
    /// Records per second.
    pub arriving: f64,
    /// Records per second.
    pub done: f64,
    /// The lag grows by more than ticks and commits explain.
    pub is_growing: bool,
    /// By how many records per second the lag falls; `None` if it does not.
    pub falls_by: Option<f64>,
}

/// What the points say; `None` if they cover less than `limits::TREND_MIN`. `cycle`: how long a record may wait by
/// design, for a tick to begin and for a batch to fill. `usual`: a lag that means nothing, in records.
pub fn trend(points: &[Point], cycle: Duration, usual: u64) -> Option<Trend> {
    let window = limits::TREND_WINDOW.max(3 * cycle).min(limits::TREND_LONG_WINDOW);
    let recent = newest(points, window);
    let (first, last) = (recent.first()?, recent.last()?);
    let seconds = last.at_s - first.at_s;
    if seconds < limits::TREND_MIN.as_secs_f64() {
        return None;
    }
    let per_second = |from: u64, to: u64| to.saturating_sub(from) as f64 / seconds;
    let arriving = per_second(first.arrived, last.arrived);
    let done = per_second(first.done, last.done);
    // What arrives in a second, or is done in one, is in progress at any time.
    let noise = (usual as f64).max(arriving);
    let falls_by = falls_by(recent, arriving.max(done));
    // What grows slowly shows over a longer time.
    let slowly = falls_by.is_none() && growth(newest(points, limits::TREND_LONG_WINDOW)) > noise;
    Some(Trend { arriving, done, is_growing: growth(recent) > noise || slowly, falls_by })
}

/// The points of the last `window`.
fn newest(points: &[Point], window: Duration) -> &[Point] {
    let Some(last) = points.last() else { return points };
    let from = last.at_s - window.as_secs_f64();
    &points[points.partition_point(|point| point.at_s < from)..]
}

/// From the lowest lag of the first third to the lowest of the last.
fn growth(points: &[Point]) -> f64 {
    let third = points.len().div_ceil(3);
    let lowest = |of: &[Point]| of.iter().map(|point| point.lag).min().unwrap_or(0) as f64;
    lowest(&points[points.len() - third..]) - lowest(&points[..third])
}

/// Falling over all points, or since the highest of them: after a burst the lag falls long before it is lower than it
/// was before.
fn falls_by(points: &[Point], pace: f64) -> Option<f64> {
    let (first, last) = (points.first()?, points.last()?);
    let fall = -slope(points);
    let noise = (pace / 2.0).max(last.lag as f64 / 1000.0).max(1.0);
    if fall * (last.at_s - first.at_s) > noise {
        return Some(fall);
    }
    let highest = points.iter().rev().max_by_key(|point| point.lag)?;
    let (since, fallen) = (last.at_s - highest.at_s, highest.lag.saturating_sub(last.lag) as f64);
    let is_clear = since >= limits::TREND_TURN.as_secs_f64() && fallen > highest.lag as f64 / 20.0;
    is_clear.then(|| fallen / since)
}

/// Records per second, by least squares.
fn slope(points: &[Point]) -> f64 {
    let count = points.len() as f64;
    let mean = |of: fn(&Point) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (at, lag) = (mean(|point| point.at_s), mean(|point| point.lag as f64));
    let (mut product, mut square) = (0.0, 0.0);
    for point in points {
        product += (point.at_s - at) * (point.lag as f64 - lag);
        square += (point.at_s - at).powi(2);
    }
    if square == 0.0 { 0.0 } else { product / square }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A point each second: `lag` says how much there is at which second, and `arriving` comes per second.
    fn points(seconds: u64, arriving: u64, lag: impl Fn(u64) -> u64) -> Vec<Point> {
        let point = |second: u64| {
            let arrived = arriving * second;
            let done = arrived.saturating_sub(lag(second));
            Point { at_s: second as f64, lag: lag(second), arrived, done }
        };
        (0..=seconds).map(point).collect()
    }

    fn found(points: &[Point]) -> Trend {
        trend(points, Duration::from_secs(1), 50).expect("points enough")
    }

    #[test]
    fn a_lag_that_stays_neither_grows_nor_falls() {
        for lag in [0, 7, 100_000] {
            let trend = found(&points(60, 1000, |_| lag));
            assert_eq!((trend.is_growing, trend.falls_by), (false, None), "{lag}");
            assert_eq!(trend.arriving, 1000.0);
        }
    }

    #[test]
    fn what_ticks_and_commits_do_to_the_lag_is_no_growth() {
        // A saw with teeth of 1, 4 and 10 seconds, wherever it is looked at.
        for tooth in [1, 4, 10] {
            for seconds in 30..60 {
                let trend = found(&points(seconds, 1000, |second| 1000 * (second % tooth)));
                assert!(!trend.is_growing, "teeth of {tooth} s, at {seconds} s");
            }
        }
    }

    #[test]
    fn growth_is_seen_within_seconds_and_if_it_is_slow_within_minutes() {
        let trend = found(&points(6, 1000, |second| 900 * second));
        assert!(trend.is_growing && trend.falls_by.is_none(), "{trend:?}");
        let slow = |seconds| found(&points(seconds, 1000, |second| 30 * second)).is_growing;
        assert!(!slow(30) && slow(120));
        let few = found(&points(200, 1, |second| second / 10));
        assert!(!few.is_growing, "a few records are a usual lag");
    }

    #[test]
    fn a_large_lag_that_falls_slowly_falls() {
        let trend = found(&points(60, 1000, |second| 1_000_000 - 300 * second));
        let falls_by = trend.falls_by.expect("it falls");
        assert!((falls_by - 300.0).abs() < 1.0 && !trend.is_growing, "{trend:?}");
    }

    #[test]
    fn after_a_burst_the_lag_falls_though_it_was_lower_before() {
        let burst = |second: u64| match second {
            0..50 => 0,
            50 => 20_000,
            second => 20_000_u64.saturating_sub(2000 * (second - 50)),
        };
        let trend = found(&points(54, 0, burst));
        let falls_by = trend.falls_by.expect("it falls");
        assert!((falls_by - 2000.0).abs() < 1.0 && !trend.is_growing, "{trend:?}");
        assert!(found(&points(51, 0, burst)).falls_by.is_none(), "a second is too short");
    }

    #[test]
    fn a_few_seconds_say_nothing() {
        assert_eq!(trend(&points(2, 1000, |second| second), Duration::ZERO, 0), None);
        assert_eq!(trend(&[], Duration::ZERO, 0), None);
    }
}

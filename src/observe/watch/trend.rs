//! Whether the lag grows or falls, from the samples of the last minutes.
//!
//! Lag is never still: it rises with each record and falls with each commit, and with pauses between ticks it is a
//! sawtooth. So growth is measured between minima, over several teeth, and only what this does not explain counts.
//!
//! Pure: the samples are an argument.

use std::time::Duration;

use crate::config::limits;

/// Counters at one moment at which the log said where it ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Seconds since an arbitrary moment; only differences count.
    pub at_s: f64,
    /// In records.
    pub lag: u64,
    /// By how much the log's ends have grown since mb started.
    pub arrived: u64,
    /// Records processed or kept as dead letters since mb started.
    pub done: u64,
}

/// What moves the lag while mb keeps up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Explained {
    /// From one minimum of the lag to the next, at most.
    pub tooth: Duration,
    /// How long a record is on its way, at most.
    pub way: Duration,
    /// A lag of up to this many records is normal.
    pub records: u64,
}

/// How the lag moves.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Trend {
    /// Records per second.
    pub arriving: f64,
    /// Records per second.
    pub done: f64,
    pub course: Course,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Course {
    #[default]
    Steady,
    /// It has risen over the last seconds, by no more than is explained so far.
    Rises,
    /// By more than is explained.
    Grows,
    /// By so many records per second.
    Falls(f64),
}

/// What the points say; `None` if they cover less than `limits::TREND_MIN`.
pub fn trend(points: &[Point], explained: &Explained) -> Option<Trend> {
    let window = limits::TREND_WINDOW.max(3 * explained.tooth).min(limits::TREND_LONG_WINDOW);
    let recent = newest(points, window);
    if seconds(recent) < limits::TREND_MIN.as_secs_f64() {
        return None;
    }
    let [arriving, done] = rates(newest(points, limits::TREND_RATE_WINDOW.max(explained.tooth)));
    let last = newest(points, limits::TREND_RATE_WINDOW.max(3 * explained.tooth));
    let falls_by = falls_by(recent, arriving.max(done), explained);
    // While a lag builds up that the way of a record explains, it grows by this much.
    let usual = (explained.records as f64).max(arriving * explained.way.as_secs_f64());
    let long = newest(points, limits::TREND_LONG_WINDOW);
    let course = match falls_by {
        Some(by) => Course::Falls(by),
        None if [recent, long].into_iter().any(|points| growth(points) > usual) => Course::Grows,
        None if growth(last) > (explained.records as f64).max(arriving) => Course::Rises,
        None => Course::Steady,
    };
    Some(Trend { arriving, done, course })
}

/// The points of the last `window`.
fn newest(points: &[Point], window: Duration) -> &[Point] {
    let Some(last) = points.last() else { return points };
    let from = last.at_s - window.as_secs_f64();
    &points[points.partition_point(|point| point.at_s < from)..]
}

fn seconds(points: &[Point]) -> f64 {
    points.first().zip(points.last()).map_or(0.0, |(first, last)| last.at_s - first.at_s)
}

/// Records that arrive and that are done, per second.
fn rates(points: &[Point]) -> [f64; 2] {
    let (seconds, [first, .., last]) = (seconds(points), points) else { return [0.0, 0.0] };
    let per_second = |from: u64, to: u64| to.saturating_sub(from) as f64 / seconds.max(0.001);
    [per_second(first.arrived, last.arrived), per_second(first.done, last.done)]
}

/// From the lowest lag of the first third to the lowest of the last.
fn growth(points: &[Point]) -> f64 {
    let third = points.len().div_ceil(3);
    let lowest = |of: &[Point]| of.iter().map(|point| point.lag).min().unwrap_or(0) as f64;
    lowest(&points[points.len() - third..]) - lowest(&points[..third])
}

/// By how many records per second the lag falls since it was highest, if that is longer ago than a tooth takes.
fn falls_by(points: &[Point], pace: f64, explained: &Explained) -> Option<f64> {
    // The newest of equal ones.
    let (highest, _) = points.iter().enumerate().max_by_key(|(_, point)| point.lag)?;
    let since = &points[highest..];
    if seconds(since) < limits::TREND_TURN.max(explained.tooth).as_secs_f64() {
        return None;
    }
    let (by, left) = (-slope(since), since.last()?.lag);
    let noise = pace.max(left as f64 / 1000.0).max(2.0);
    (by * seconds(since) > noise).then_some(by)
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

    const EXPLAINED: Explained =
        Explained { tooth: Duration::ZERO, way: Duration::from_secs(3), records: 50 };

    /// A point each `step` seconds: `lag` says how much there is at which second, `arriving` how many come per second.
    fn points_each(step: u64, seconds: u64, arriving: u64, lag: impl Fn(u64) -> u64) -> Vec<Point> {
        let point = |second: u64| {
            let arrived = 10_000_000 + arriving * second;
            Point { at_s: second as f64, lag: lag(second), arrived, done: arrived - lag(second) }
        };
        (0..=seconds).filter(|second| second.is_multiple_of(step)).map(point).collect()
    }

    fn points(seconds: u64, arriving: u64, lag: impl Fn(u64) -> u64) -> Vec<Point> {
        points_each(1, seconds, arriving, lag)
    }

    fn course(points: &[Point]) -> Course {
        trend(points, &EXPLAINED).expect("points enough").course
    }

    fn falls_by(points: &[Point]) -> f64 {
        match course(points) {
            Course::Falls(by) => by,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_lag_that_stays_neither_grows_nor_falls() {
        for lag in [0, 7, 100_000] {
            let trend = trend(&points(60, 1000, |_| lag), &EXPLAINED).unwrap();
            let expected = Trend { arriving: 1000.0, done: 1000.0, course: Course::Steady };
            assert_eq!(trend, expected, "{lag}");
        }
        // Commits come in steps: the lag jumps about.
        for seconds in 6..100 {
            let noisy = points(seconds, 1000, |second| 1000 + (second * 7919) % 400);
            assert_eq!(course(&noisy), Course::Steady, "at {seconds} s");
        }
    }

    #[test]
    fn what_ticks_and_commits_do_to_the_lag_is_neither() {
        for tooth in [1, 4, 10, 60] {
            let length = Duration::from_secs(tooth);
            let explained = Explained { tooth: length, way: length + EXPLAINED.way, records: 50 };
            for seconds in 6..400 {
                let saw = points(seconds, 1000, |second| 1000 * (second % tooth));
                let course = trend(&saw, &explained).unwrap().course;
                let is_first = seconds < 3 * tooth && course == Course::Rises;
                assert!(
                    course == Course::Steady || is_first,
                    "{course:?} of {tooth} s, at {seconds} s"
                );
            }
        }
    }

    #[test]
    fn a_lag_that_builds_up_as_a_record_takes_its_way_is_no_growth() {
        for seconds in 31..400 {
            // Idle for 30 s; then each record takes 2.5 s.
            let lag = |second: u64| 2500_u64.min(1000 * second.saturating_sub(30));
            let arrived = |second: u64| 10_000_000 + 1000 * second.saturating_sub(30);
            let point = |second| {
                let (lag, arrived) = (lag(second), arrived(second));
                Point { at_s: second as f64, lag, arrived, done: arrived - lag }
            };
            let points: Vec<Point> = (0..=seconds).map(point).collect();
            assert_ne!(course(&points), Course::Grows, "at {seconds} s");
        }
    }

    #[test]
    fn growth_is_seen_within_seconds_and_if_it_is_slow_within_minutes() {
        assert_eq!(course(&points(8, 1000, |second| 900 * second)), Course::Grows);
        let slow = |seconds| course(&points(seconds, 1000, |second| 30 * second));
        assert_eq!((slow(30), slow(200)), (Course::Steady, Course::Grows));
        // Less than what arrives on a record's way, for now.
        assert_eq!(course(&points(6, 1000, |second| 400 * second)), Course::Rises);
        let few = points(200, 1, |second| second / 10);
        assert_eq!(course(&few), Course::Steady, "a few records are normal");
    }

    #[test]
    fn slow_growth_shows_through_the_teeth() {
        let length = Duration::from_secs(10);
        let explained = Explained { tooth: length, way: length + EXPLAINED.way, records: 50 };
        let saw = |seconds| points(seconds, 1000, |second| 1000 * (second % 10) + 150 * second);
        for seconds in 200..300 {
            let course = trend(&saw(seconds), &explained).unwrap().course;
            assert_eq!(course, Course::Grows, "at {seconds} s");
        }
    }

    #[test]
    fn a_large_lag_that_falls_slowly_falls() {
        let by = falls_by(&points(60, 1000, |second| 1_000_000 - 300 * second));
        assert!((by - 300.0).abs() < 1.0, "{by}");
        // 1,000 partitions are asked for their ends every 10 seconds.
        let by = falls_by(&points_each(10, 60, 1000, |second| 1_000_000 - 300 * second));
        assert!((by - 300.0).abs() < 1.0, "{by}");
    }

    #[test]
    fn after_a_burst_the_lag_falls_within_seconds_though_it_was_lower_before() {
        for (burst, pace) in [(20_000_u64, 2000), (1_000_000, 1500)] {
            let lag = |second: u64| match second {
                0..50 => 0,
                second => burst.saturating_sub(pace * (second - 50)),
            };
            let by = falls_by(&points(54, 0, lag));
            assert!((by - pace as f64).abs() < 1.0, "{by}");
            assert_eq!(course(&points(51, 0, lag)), Course::Steady, "a second is too short");
            // If as much stays, it is seen for what it is.
            let stays = points(90, 0, |second| if second < 50 { 0 } else { burst });
            assert_eq!(course(&stays), Course::Grows);
        }
    }

    #[test]
    fn a_few_seconds_say_nothing() {
        assert_eq!(trend(&points(2, 1000, |second| second), &EXPLAINED), None);
        assert_eq!(trend(&[], &EXPLAINED), None);
    }
}

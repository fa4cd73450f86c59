//! The wall clock, for what people read, and the monotonic one, for durations and deadlines.
//!
//! The simulation (`tests/simulation/`) puts its own time here, for its own thread alone.

use std::cell::Cell;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time on a thread where nothing happens by itself: a simulation of a pipeline.
pub trait Simulated {
    fn now(&self) -> Instant;

    /// The caller would wait, `limit` at most: meanwhile others act, or time passes. Returns when the caller
    /// should look again at what it waits for.
    fn wait(&self, limit: Duration);
}

thread_local! {
    static SIMULATED: Cell<Option<&'static dyn Simulated>> = const { Cell::new(None) };
}

/// From now on the time of this thread is simulated.
#[cfg(any(test, feature = "testing"))]
pub fn simulate(time: &'static dyn Simulated) {
    SIMULATED.set(Some(time));
}

/// The monotonic clock. All code that decides about a deadline asks it.
pub fn now() -> Instant {
    SIMULATED.get().map_or_else(Instant::now, Simulated::now)
}

/// To be called before every wait for another thread. True if the thread is simulated: then the wait has been
/// simulated too, and must not happen.
pub fn wait_simulated(limit: Duration) -> bool {
    SIMULATED.get().map(|time| time.wait(limit)).is_some()
}

/// Waits for `limit`, whatever happens meanwhile: before another try of something that only time can mend.
pub fn sleep(limit: Duration) {
    std::thread::sleep(limit);
}

/// By how many ms the wall clock is put forward. Always 0 but in tests, which cannot change the clock of the
/// whole system.
pub static JUMP_MS: AtomicI64 = AtomicI64::new(0);

/// Milliseconds since 1970, UTC; 0 for a clock set before that.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
    ms.saturating_add(JUMP_MS.load(Ordering::Relaxed)).max(0)
}

/// A time as text: `2026-11-24T06:10:30.123Z`, UTC as in the log.
pub fn format_ms(ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => format!("{ms} ms"),
    }
}

/// What `parse_ms` accepts, for error messages.
pub const TIME_RULE: &str = "a time from 1970 on such as 2026-11-24T06:10:30Z or \
    2026-11-24T07:10:30.5+01:00, or without a zone (then UTC) 2026-11-24T06:10:30 or 2026-11-24";

/// Parses a time (RFC 3339, or without a zone: then UTC) to milliseconds since 1970. A part of a
/// millisecond is rounded up, so that nothing before the time counts as being at or after it.
///
/// # Errors
/// `TIME_RULE`, for anything else and for times before 1970, which Kafka does not have.
pub fn parse_ms(text: &str) -> Result<i64, String> {
    let rule = || TIME_RULE.to_owned();
    let time = match text.parse::<jiff::Timestamp>() {
        Ok(time) => time,
        // A time with a zone that cannot be parsed must not pass as UTC.
        Err(_) if has_zone(text) => return Err(rule()),
        Err(_) => {
            let local = text.parse::<jiff::civil::DateTime>().map_err(|_| rule())?;
            jiff::tz::Offset::UTC.to_timestamp(local).map_err(|_| rule())?
        }
    };
    let started = i64::from(time.subsec_nanosecond() % 1_000_000 > 0);
    if time < jiff::Timestamp::UNIX_EPOCH {
        Err(rule())
    } else {
        Ok(time.as_millisecond() + started)
    }
}

/// Whether anything but digits, dots and colons follows the day.
fn has_zone(text: &str) -> bool {
    let time = text.get("YYYY-MM-DD".len()..).unwrap_or_default();
    let is_time = |c: char| c.is_ascii_digit() || matches!(c, 'T' | 't' | ' ' | ':' | '.' | ',');
    !time.chars().all(is_time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_zone_or_is_utc() {
        const MS: i64 = 1_795_500_630_000;
        for text in [
            "2026-11-24T06:10:30Z",
            "2026-11-24T06:10:30.000",
            "2026-11-24T06:10:30",
            "2026-11-24 06:10:30",
            "2026-11-24T07:10:30+01:00",
            "2026-11-24T00:40:30-05:30",
        ] {
            assert_eq!(parse_ms(text), Ok(MS), "{text}");
        }
        assert_eq!(parse_ms("2026-11-24"), Ok(MS - (6 * 3600 + 10 * 60 + 30) * 1000));
        assert_eq!(parse_ms("1970-01-01T00:00:00Z"), Ok(0));
        assert_eq!(parse_ms("2026-11-24T06:10:30.123Z"), Ok(MS + 123));
        assert_eq!(parse_ms("2026-11-24T06:10:30.1230001Z"), Ok(MS + 124));
        assert_eq!(parse_ms(&format_ms(MS)), Ok(MS));
    }

    #[test]
    fn text_that_is_no_time_and_unknown_zones_are_refused() {
        for text in [
            "",
            "now",
            "yesterday",
            "06:10",
            "1795500630000",
            "2026-13-01",
            "2026-02-30T00:00:00Z",
            "2026-11-24T25:00:00",
            "2026-11-24T06:10:30+99:00",
            "2026-11-24T06:10:30[Europe/Berlin]",
            "2026-11-24T06:10:30 CET",
            "1969-12-31T23:59:59Z",
            "2026-11-24T06:10:30Z\n",
            "-2026-11-24",
            "99999-01-01",
            "\u{661}\u{662}",
        ] {
            assert_eq!(parse_ms(text), Err(TIME_RULE.to_owned()), "{text:?}");
        }
    }

    #[test]
    fn times_are_shown_in_utc_to_the_millisecond() {
        assert_eq!(format_ms(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(format_ms(1_795_500_630_123), "2026-11-24T06:10:30.123Z");
        assert_eq!(format_ms(i64::MAX), format!("{} ms", i64::MAX));
    }
}

//! The wall clock, for what people read, and the monotonic one, for durations and deadlines.
//!
//! The simulation (`tests/simulation.rs`) puts its own time here, for its own thread alone.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time on a thread where nothing happens by itself: a simulation of a pipeline.
pub trait Simulated {
    fn now(&self) -> Instant;

    /// Somebody would wait, `limit` at most: others act meanwhile, or time passes. Returns where
    /// the one who waits should look again.
    fn wait(&self, limit: Duration);
}

thread_local! {
    static SIMULATED: Cell<Option<&'static dyn Simulated>> = const { Cell::new(None) };
}

/// From now on this thread's time is simulated.
pub fn simulate(time: &'static dyn Simulated) {
    SIMULATED.set(Some(time));
}

/// The monotonic clock. Whatever decides about a deadline asks here.
pub fn now() -> Instant {
    SIMULATED.get().map_or_else(Instant::now, Simulated::now)
}

/// Stands in front of every wait for another thread: true where the thread is simulated, and the
/// wait has been simulated too.
pub fn wait_simulated(limit: Duration) -> bool {
    SIMULATED.get().map(|time| time.wait(limit)).is_some()
}

/// Milliseconds since 1970, UTC; 0 for a clock set before that.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A time of this clock for people: `2026-11-24T06:10:30.123Z`, UTC as in the log.
pub fn format_ms(ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => format!("{ms} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_utc_to_the_millisecond() {
        assert_eq!(format_ms(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(format_ms(1_795_500_630_123), "2026-11-24T06:10:30.123Z");
        assert_eq!(format_ms(i64::MAX), format!("{} ms", i64::MAX));
    }
}

//! The wall clock, for what people read. Durations and deadlines are measured with `Instant`.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// How far this clock is put forward, in ms: 0 but in tests, which can make it jump with this where
/// the system's own clock is everybody's.
pub static JUMP_MS: AtomicI64 = AtomicI64::new(0);

/// Milliseconds since 1970, UTC; 0 for a clock set before that.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
    ms.saturating_add(JUMP_MS.load(Ordering::Relaxed)).max(0)
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

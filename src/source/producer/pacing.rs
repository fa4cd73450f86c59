//! When a paced producer posts each message. Deadlines are absolute, so delays do not add up.
//!
//! Pure: the time is an argument, and the caller sleeps until `next_wake`.

use std::time::{Duration, Instant};

use crate::config::limits;

/// Rates are kept in millionths of a message per second, so that all sums are exact.
const MILLIONTHS: f64 = 1e6;
const NANOS_TIMES_MILLIONTHS: u128 = 1_000_000_000 * 1_000_000;
const INTERVAL_NANOS: u128 = limits::PACING_INTERVAL.as_nanos();

/// A steady rate from a start on.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    start: Instant,
    /// Messages posted before the start.
    before: u64,
    /// Millionths of a message per second; `None` is as fast as possible.
    rate: Option<u128>,
}

impl Pace {
    /// `rate` messages per second, counted from `start`; 0 is as fast as possible.
    ///
    /// # Panics
    /// If `rate` is negative or not a number: `units::parse_rate` lets neither through.
    pub fn new(rate: f64, start: Instant) -> Pace {
        assert!(rate >= 0.0 && rate.is_finite(), "a rate of {rate} messages per second");
        // A rate above 0 must not become 0, however small it is.
        let rate = (rate > 0.0).then(|| ((rate * MILLIONTHS).round() as u128).max(1));
        Pace { start, before: 0, rate }
    }

    /// Another rate from now on, after `sent` messages. Messages that the old pace was behind with are not made
    /// up for, so no burst follows.
    ///
    /// # Panics
    /// As `new`.
    pub fn changed(rate: f64, now: Instant, sent: u64) -> Pace {
        Pace { before: sent, ..Pace::new(rate, now) }
    }

    /// False if it is as fast as possible.
    pub fn is_paced(&self) -> bool {
        self.rate.is_some()
    }

    /// How many messages should have been posted by `now` in total: time times rate, rounded to the nearest
    /// integer. So each message is due in the middle of its interval, and after any whole number of intervals
    /// exactly that many messages were posted.
    pub fn due(&self, now: Instant) -> u64 {
        let Some(rate) = self.rate else { return u64::MAX };
        let nanos = now.saturating_duration_since(self.start).as_nanos();
        let product = nanos.saturating_mul(rate).saturating_add(NANOS_TIMES_MILLIONTHS / 2);
        let since = u64::try_from(product / NANOS_TIMES_MILLIONTHS).unwrap_or(u64::MAX);
        self.before.saturating_add(since)
    }

    /// When to wake after `sent` messages: when the next one is due, or if several are due per
    /// `limits::PACING_INTERVAL`, at the next whole interval.
    pub fn next_wake(&self, sent: u64) -> Instant {
        let Some(rate) = self.rate else { return self.start };
        let halves = 2 * u128::from(sent.saturating_sub(self.before)) + 1;
        let exact = (halves * (NANOS_TIMES_MILLIONTHS / 2)).div_ceil(rate);
        let dense = rate * INTERVAL_NANOS > NANOS_TIMES_MILLIONTHS;
        let nanos = if dense { exact.next_multiple_of(INTERVAL_NANOS) } else { exact };
        // Nobody waits for a wake in more than 584 years.
        let after = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.start.checked_add(after).unwrap_or(self.start + limits::DURATION_MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ten_seconds_hold_ten_times_the_rate() {
        let start = Instant::now();
        for rate in [0.5, 10.0, 1000.0, 50_000.0, 1_000_000.0] {
            let pace = Pace::new(rate, start);
            assert_eq!(pace.due(start), 0);
            assert_eq!(pace.due(start + Duration::from_secs(10)), (rate * 10.0) as u64);
        }
    }

    #[test]
    fn a_changed_rate_starts_at_once_and_without_a_burst() {
        let start = Instant::now();
        let at = start + Duration::from_secs(100);
        // It was 900 messages behind, or as fast as possible before: neither matters.
        for (sent, rate) in [(100, 10.0), (1_000_000, 10.0), (0, 50_000.0)] {
            let pace = Pace::changed(rate, at, sent);
            assert_eq!(pace.due(at), sent, "nothing at once");
            assert!(pace.next_wake(sent) > at);
            let second = (rate as u64).max(1);
            assert_eq!(pace.due(at + Duration::from_secs(1)), sent + second);
            let wake = pace.next_wake(sent + second - 1);
            assert!(wake <= at + Duration::from_secs(1) && pace.due(wake) >= sent + second);
        }
        let slower = Pace::changed(0.5, at, 7);
        assert_eq!(slower.next_wake(7), at + Duration::from_secs(1), "half of its interval");
        assert_eq!(Pace::changed(0.0, at, 7).due(at), u64::MAX);
    }

    #[test]
    fn high_rates_wake_once_a_millisecond() {
        let start = Instant::now();
        let pace = Pace::new(50_000.0, start);
        assert_eq!(pace.next_wake(0), start + Duration::from_millis(1));
        assert_eq!(pace.next_wake(49), start + Duration::from_millis(1));
        assert_eq!(pace.next_wake(50), start + Duration::from_millis(2));
        assert_eq!(pace.due(start + Duration::from_millis(1)), 50);
    }

    #[test]
    fn low_rates_wake_in_the_middle_of_each_interval() {
        let start = Instant::now();
        let pace = Pace::new(10.0, start);
        assert_eq!(pace.next_wake(0), start + Duration::from_millis(50));
        assert_eq!(pace.next_wake(99), start + Duration::from_millis(9950));
        assert_eq!(pace.due(start + Duration::from_millis(9949)), 99);
        assert_eq!(pace.due(start + Duration::from_millis(9950)), 100);
    }

    #[test]
    fn rate_zero_is_as_fast_as_possible() {
        let start = Instant::now();
        let pace = Pace::new(0.0, start);
        assert_eq!(pace.due(start), u64::MAX);
        assert_eq!(pace.next_wake(1 << 40), start);
    }

    #[test]
    fn a_clock_before_the_start_makes_nothing_due() {
        let start = Instant::now() + Duration::from_secs(60);
        assert_eq!(Pace::new(1e6, start).due(Instant::now()), 0);
    }

    proptest! {
        #[test]
        fn it_is_exact_at_any_time(micro_rate in 1000..10_000_000_000_000_u64, nanos in 0..1_u64 << 55) {
            let start = Instant::now();
            let pace = Pace::new(micro_rate as f64 / 1e6, start);
            let due = pace.due(start + Duration::from_nanos(nanos));
            // In whole numbers: due - 1/2 <= nanos * rate < due + 1/2.
            let product = 2 * u128::from(nanos) * u128::from(micro_rate);
            let unit = 1_000_000_000_000_000_u128;
            prop_assert!(2 * u128::from(due) * unit <= product + unit);
            prop_assert!(product < (2 * u128::from(due) + 1) * unit);
        }

        #[test]
        fn a_wake_finds_something_due_and_comes_at_most_an_interval_late(
            micro_rate in 1000..10_000_000_000_000_u64,
            sent in 0..1_000_000_u64,
        ) {
            let start = Instant::now();
            let pace = Pace::new(micro_rate as f64 / 1e6, start);
            let wake = pace.next_wake(sent);
            prop_assert!(pace.due(wake) > sent);
            // One interval and the nanosecond of rounding before it, the message was not yet due.
            let before = wake.checked_sub(limits::PACING_INTERVAL + Duration::from_nanos(1));
            if let Some(before) = before.filter(|before| *before > start) {
                prop_assert!(pace.due(before) <= sent);
            }
        }

        #[test]
        fn a_producer_that_follows_it_is_never_a_message_off(
            rate in 1.0..200_000.0_f64,
            delays_us in proptest::collection::vec(0..20_000_u64, 1..200),
        ) {
            let start = Instant::now();
            let pace = Pace::new(rate, start);
            let (mut now, mut sent) = (start, 0);
            for delay in delays_us {
                now = now.max(pace.next_wake(sent)) + Duration::from_micros(delay);
                sent = pace.due(now);
                let ideal = now.duration_since(start).as_secs_f64() * rate;
                prop_assert!((sent as f64 - ideal).abs() <= 1.0, "{sent} of {ideal}");
            }
        }
    }
}

//! The pauses between tries of something that fails: they double up to a limit, with jitter.

use std::time::Duration;

/// How pauses grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The pause after the first failure, before jitter.
    pub first: Duration,
    /// No pause is longer than this, unless `first` is.
    pub longest: Duration,
}

impl Backoff {
    /// The pause before the next try: `first * 2^doublings`, at most `longest`, times a factor between 0.5
    /// and 1 that `jitter` (a random number in 0..1) chooses.
    ///
    /// The factor is applied after the limit. If it were applied before, all who have reached the limit
    /// would wait equally long, and a broker that comes back would be asked by all of them at once.
    pub fn pause(self, doublings: u32, jitter: f64) -> Duration {
        let grown = self.first.saturating_mul(2u32.saturating_pow(doublings));
        grown.min(self.longest.max(self.first)).mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff =
        Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(2) };

    #[test]
    fn pauses_double_up_to_the_limit() {
        let pauses = [0, 1, 4, 5, 4_000_000].map(|doublings| BACKOFF.pause(doublings, 1.0));
        assert_eq!(pauses.map(|pause| pause.as_millis()), [100, 200, 1600, 2000, 2000]);
    }

    #[test]
    fn jitter_still_spreads_pauses_that_have_reached_the_limit() {
        let (least, most) = (BACKOFF.pause(30, 0.0), BACKOFF.pause(30, 1.0));
        assert_eq!((least, most), (Duration::from_secs(1), Duration::from_secs(2)));
    }

    #[test]
    fn a_first_pause_above_the_limit_stays_as_it_was_asked_for() {
        let long = Backoff { first: Duration::from_secs(900), ..BACKOFF };
        assert_eq!(long.pause(3, 1.0), Duration::from_secs(900));
    }
}

//! Wrong tokens: each is answered later than the one before, and the log says that they come. Decides; `connection`
//! waits and logs.
//!
//! A token cannot be guessed in any time, but whoever tries should not go unnoticed, and a person who has the
//! right one should have an answer meanwhile.

use std::time::{Duration, Instant};

use crate::config::limits;

#[derive(Debug, Default)]
pub(super) struct WrongTokens {
    /// Without a quiet time between two of them.
    in_a_row: u32,
    last: Option<Instant>,
    said: Option<Instant>,
    unsaid: u64,
}

/// What follows from a wrong token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Consequence {
    /// How long its answer waits.
    pub wait: Duration,
    /// How many have come since the last line in the log, if it is time for another line.
    pub to_say: Option<u64>,
}

impl WrongTokens {
    pub fn add(&mut self, now: Instant) -> Consequence {
        let is_after = |last: Instant, limit| now.saturating_duration_since(last) >= limit;
        if self.last.is_some_and(|last| is_after(last, limits::WRONG_TOKEN_QUIET)) {
            self.in_a_row = 0;
        }
        self.last = Some(now);
        let wait = limits::WRONG_TOKEN_WAIT.pause(self.in_a_row, 1.0);
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.unsaid += 1;
        let is_due = self.said.is_none_or(|said| is_after(said, limits::WRONG_TOKEN_LOG_INTERVAL));
        let to_say = is_due.then(|| std::mem::take(&mut self.unsaid));
        if is_due {
            self.said = Some(now);
        }
        Consequence { wait, to_say }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_later_and_later_until_it_was_quiet() {
        let (mut wrong, start) = (WrongTokens::default(), Instant::now());
        let mut wait = |seconds| wrong.add(start + Duration::from_secs(seconds)).wait.as_millis();
        let waits: Vec<u128> = (0..9).map(&mut wait).collect();
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!((wait(60), wait(120)), (5000, 50));
    }

    #[test]
    fn the_log_has_the_first_and_then_a_number_each_minute() {
        let (mut wrong, start) = (WrongTokens::default(), Instant::now());
        let mut say = |seconds| wrong.add(start + Duration::from_secs(seconds)).to_say;
        assert_eq!(
            [0, 1, 59, 60, 61, 200].map(&mut say),
            [Some(1), None, None, Some(3), None, Some(2)]
        );
    }
}

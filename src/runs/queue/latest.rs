//! The time of the latest of many events, noted without a lock.

use std::time::Instant;

use crate::model::clock;
use crate::model::sync::atomic::AtomicU64;
use crate::model::sync::atomic::Ordering::Relaxed;

/// The time of the latest event, to the millisecond.
#[derive(Debug)]
pub(super) struct Latest {
    begin: Instant,
    /// Milliseconds since `begin`, and one; 0 if there was no event yet.
    ms: AtomicU64,
}

impl Latest {
    pub fn new() -> Latest {
        Latest { begin: clock::now(), ms: AtomicU64::new(0) }
    }

    pub fn note(&self, at: Instant) {
        let ms = self.ms_of(at) + 1;
        // Most events fall into a millisecond that is noted: other cores keep the value in their caches.
        if self.ms.load(Relaxed) < ms {
            self.ms.fetch_max(ms, Relaxed);
        }
    }

    /// Whether an event came after `time`. One of the same millisecond counts as before.
    pub fn is_after(&self, time: Instant) -> bool {
        self.ms.load(Relaxed) > self.ms_of(time) + 1
    }

    fn ms_of(&self, time: Instant) -> u64 {
        u64::try_from(time.saturating_duration_since(self.begin).as_millis())
            .unwrap_or(u64::MAX - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_latest_event_is_kept_whatever_their_order() {
        let latest = Latest::new();
        let at = |ms| latest.begin + Duration::from_millis(ms);
        assert!(!latest.is_after(at(0)));
        latest.note(at(20));
        latest.note(at(10));
        assert!(latest.is_after(at(19)) && !latest.is_after(at(20)));
    }
}

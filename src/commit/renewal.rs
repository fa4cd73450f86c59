//! When an offset that has not changed is committed again. Kafka forgets an offset that long after its own last
//! commit as `offsets.retention.minutes` says (7 days by default), also while mb runs: a partition that is quiet,
//! held or paused would lose its place, and a start on a fresh data directory would read all of it again.
//!
//! Pure: the time is an argument. `committer` asks the log and commits.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::config::limits;
use crate::model::offset::{Offset, Partition};

/// When each partition was committed last, and how often that is repeated.
#[derive(Debug, Default)]
pub struct Renewals {
    interval: Option<Duration>,
    committed: BTreeMap<Partition, Instant>,
}

impl Renewals {
    /// Whether the broker's retention is to be asked: before the first renewal, and then with each.
    pub fn needs_interval(&self) -> bool {
        self.interval.is_none()
    }

    /// `retention`: how long the broker keeps offsets, if it says so.
    pub fn set_retention(&mut self, retention: Option<Duration>) {
        let quarter = retention.map_or(limits::RENEWAL_INTERVAL, |kept| kept / 4);
        self.interval = Some(quarter.clamp(limits::RENEWAL_INTERVAL_MIN, limits::RENEWAL_INTERVAL));
    }

    /// These partitions were committed, with whatever offset.
    pub fn committed(&mut self, offsets: &[(Partition, Offset)], now: Instant) {
        self.committed.extend(offsets.iter().map(|(partition, _)| (*partition, now)));
    }

    /// Which of `unchanged` are due: those that were not committed for an interval. After a start each is due at
    /// once, since nobody knows how long mb was away.
    pub fn due(&self, unchanged: &[(Partition, Offset)], now: Instant) -> Vec<(Partition, Offset)> {
        let interval = self.interval.unwrap_or(limits::RENEWAL_INTERVAL);
        let is_due = |(partition, _): &&(Partition, Offset)| {
            let last = self.committed.get(partition);
            last.is_none_or(|last| now.saturating_duration_since(*last) >= interval)
        };
        unchanged.iter().filter(is_due).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(offset: i64) -> Offset {
        Offset::new(offset)
    }

    #[test]
    fn an_offset_is_due_at_the_start_and_an_interval_after_its_last_commit() {
        let begin = Instant::now();
        let mut renewals = Renewals::default();
        let offsets = [(0, at(5)), (1, at(6))];
        assert!(renewals.needs_interval());
        assert_eq!(renewals.due(&offsets, begin), offsets, "after a start");
        renewals.set_retention(Some(4 * HOUR / 2));
        assert!(!renewals.needs_interval());
        renewals.committed(&offsets, begin);
        renewals.committed(&offsets[1..], begin + HOUR / 4);
        assert_eq!(renewals.due(&offsets, begin + HOUR / 2 - Duration::from_secs(1)), []);
        assert_eq!(renewals.due(&offsets, begin + HOUR / 2), [(0, at(5))]);
        assert_eq!(renewals.due(&offsets[..1], begin + HOUR), [(0, at(5))]);
        assert_eq!(renewals.due(&offsets, begin + HOUR), offsets);
    }

    #[test]
    fn offsets_are_renewed_each_hour_or_each_quarter_of_the_retention() {
        let interval = |retention| {
            let mut renewals = Renewals::default();
            renewals.set_retention(retention);
            renewals.interval.unwrap()
        };
        assert_eq!(interval(None), HOUR);
        assert_eq!(interval(Some(7 * 24 * HOUR)), HOUR, "7 days, Kafka's default");
        assert_eq!(interval(Some(Duration::from_secs(60))), Duration::from_secs(15));
        assert_eq!(interval(Some(Duration::ZERO)), limits::RENEWAL_INTERVAL_MIN);
    }
}

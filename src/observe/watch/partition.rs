//! What is remembered of one partition: when its log had which end, and since when it has made no progress.
//!
//! Pure: the time is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::config::limits;
use crate::kafka::OpenTransaction;
use crate::model::offset::Offset;

/// One partition's past.
#[derive(Debug, Default)]
pub struct PartitionTrack {
    /// When the log was first seen with which end; both ascend. Committed ends are forgotten, so only a
    /// partition that is behind has many.
    ends: VecDeque<(Instant, Offset)>,
    newest: Option<Offset>,
    /// How far it had come when it last made progress, and when that was.
    progressed: Option<(Reached, Instant)>,
}

/// How far a partition has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    pub committed: Option<Offset>,
    /// Everything below this is done.
    pub done: Offset,
}

/// That an open transaction holds a partition back, for people. `now_ms`: milliseconds since 1970.
pub fn held_by(open: &OpenTransaction, now_ms: i64) -> String {
    let written = open.producer.map_or_else(String::new, |producer| {
        let ago = producer.written_ms.map_or_else(String::new, |ms| {
            format!(", which last wrote {} s ago,", now_ms.saturating_sub(ms).max(0) / 1000)
        });
        format!(" of producer {}{ago}", producer.id)
    });
    format!(
        "an open transaction{written} begins at offset {}, and nothing behind it can be read until the transaction ends \
         (kafka-transactions.sh abort ends one that hangs; --isolation read_uncommitted reads on)",
        open.first
    )
}

impl PartitionTrack {
    /// The log was seen with this end. Returns by how much it has grown.
    pub fn saw_end(&mut self, now: Instant, end: Offset) -> u64 {
        let grown = self.newest.map_or(0, |newest| end.distance_from(newest.min(end)));
        if self.newest.is_some_and(|newest| end < newest) {
            // The topic was deleted and created again: another log.
            self.ends.clear();
        }
        if self.newest != Some(end) {
            self.ends.push_back((now, end));
            self.newest = Some(end);
        }
        if self.ends.len() > limits::LAG_MEMORY_ENDS {
            self.thin(now);
        }
        grown
    }

    /// Forgets the end that is missed least: the further back, the coarser the memory. The first end stays,
    /// because it says since when anything is known at all.
    fn thin(&mut self, now: Instant) {
        let missed = |index: &usize| {
            let at = |index: usize| self.ends[index].0;
            let gap = at(index + 1).saturating_duration_since(at(index - 1));
            let age = now.saturating_duration_since(at(*index)).max(limits::LAG_INTERVAL);
            gap.as_secs_f64() / age.as_secs_f64()
        };
        let inner = 1..self.ends.len().saturating_sub(1);
        let least = inner.min_by(|left, right| missed(left).total_cmp(&missed(right)));
        if let Some(index) = least {
            self.ends.remove(index);
        }
    }

    /// How long ago the log was first seen with an end beyond `committed`: the age of the next record to be
    /// committed, as exact as the interval between two looks. A record from before the first look is at least
    /// as old as that look.
    pub fn behind_for(&mut self, now: Instant, committed: Offset) -> Duration {
        while self.ends.front().is_some_and(|(_, end)| *end <= committed) {
            self.ends.pop_front();
        }
        self.ends.front().map_or(Duration::ZERO, |(at, _)| now.saturating_duration_since(*at))
    }

    /// For how long the partition has had lag and made no progress; `None` if it is `excused`, because it is
    /// paused.
    pub fn stuck_for(
        &mut self,
        now: Instant,
        lag: u64,
        reached: Reached,
        excused: bool,
    ) -> Option<Duration> {
        let progresses = self.progressed.is_none_or(|(before, _)| before != reached);
        if progresses || excused || lag == 0 {
            self.progressed = Some((reached, now));
            return None;
        }
        let (_, since) = self.progressed?;
        Some(now.saturating_duration_since(since)).filter(|stuck| !stuck.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn the_lag_in_seconds_is_the_age_of_the_first_end_that_is_not_committed() {
        let begin = Instant::now();
        let mut track = PartitionTrack::default();
        for second in 0..10 {
            track.saw_end(begin + seconds(second), Offset::new(100 * (second as i64 + 1)));
        }
        let now = begin + seconds(9);
        assert_eq!(
            track.behind_for(now, Offset::new(50)),
            seconds(9),
            "at least: the record was there before the first look"
        );
        assert_eq!(track.behind_for(now, Offset::new(100)), seconds(8));
        assert_eq!(track.behind_for(now, Offset::new(750)), seconds(2));
        assert_eq!(track.behind_for(now, Offset::new(1000)), seconds(0));
        track.saw_end(now + seconds(60), Offset::new(1001));
        assert_eq!(track.behind_for(now + seconds(61), Offset::new(1000)), seconds(1));
    }

    #[test]
    fn the_memory_is_bounded_and_gets_coarser_with_age() {
        let begin = Instant::now();
        let mut track = PartitionTrack::default();
        for second in 0..3600 {
            track.saw_end(begin + seconds(second), Offset::new(second as i64 + 1));
            assert!(track.ends.len() <= limits::LAG_MEMORY_ENDS);
        }
        let now = begin + seconds(3600);
        assert_eq!(track.behind_for(now, Offset::ZERO), seconds(3600), "the first is kept");
        for age in [10u64, 60, 600, 2400] {
            let committed = Offset::new(3600 - age as i64);
            let mut track =
                PartitionTrack { ends: track.ends.clone(), ..PartitionTrack::default() };
            let said = track.behind_for(now, committed).as_secs();
            assert!(said <= age && said >= age - age / 5 - 1, "{age} s old: said {said}");
        }
    }

    #[test]
    fn a_replaced_log_is_remembered_from_its_beginning() {
        let begin = Instant::now();
        let mut track = PartitionTrack::default();
        let grown = [1000, 1200, 10, 15].map(|end| track.saw_end(begin, Offset::new(end)));
        assert_eq!(grown, [0, 200, 0, 5]);
        let mut track = PartitionTrack::default();
        track.saw_end(begin, Offset::new(1000));
        track.saw_end(begin + seconds(5), Offset::new(10));
        assert_eq!(track.behind_for(begin + seconds(7), Offset::ZERO), seconds(2));
    }

    #[test]
    fn a_partition_is_stuck_while_it_has_lag_and_makes_no_progress() {
        let begin = Instant::now();
        let mut track = PartitionTrack::default();
        let at = |committed, done| Reached {
            committed: Some(Offset::new(committed)),
            done: Offset::new(done),
        };
        assert_eq!(track.stuck_for(begin, 5, at(0, 0), false), None);
        assert_eq!(track.stuck_for(begin + seconds(9), 5, at(0, 0), false), Some(seconds(9)));
        // Records that are done but not committed are progress too, once.
        assert_eq!(track.stuck_for(begin + seconds(10), 5, at(0, 3), false), None);
        assert_eq!(track.stuck_for(begin + seconds(12), 5, at(0, 3), false), Some(seconds(2)));
        assert_eq!(track.stuck_for(begin + seconds(20), 0, at(5, 5), false), None);
        assert_eq!(track.stuck_for(begin + seconds(90), 0, at(5, 5), false), None);
        // The time without lag does not count once there is lag.
        assert_eq!(track.stuck_for(begin + seconds(91), 1, at(5, 5), false), Some(seconds(1)));
        assert_eq!(track.stuck_for(begin + seconds(99), 1, at(5, 5), true), None);
    }
}

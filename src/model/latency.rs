//! How old records are when their run has processed them: the time that passes from a record's timestamp to the end of
//! its run.
//!
//! Only records that arrived while mb ran count. Those that lay in the log before tell how long mb was away; those of a
//! redrive or replay, when a person asked for it.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use crate::model::measure::{Counter, Histogram};
use crate::model::offset::{Offset, Partition};
use crate::model::run::Run;

/// Upper bounds in seconds. Timestamps are in milliseconds.
const BOUNDS_S: [f64; 34] = [
    0.001, 0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25,
    0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0,
    900.0, 3600.0,
];

#[derive(Debug)]
pub struct Latency {
    /// From a record's timestamp to the end of its run. A timestamp of the future counts as 0.
    pub time: Histogram,
    /// Records with a timestamp of the future: the producer's clock is ahead of mb's.
    pub ahead: Counter,
    /// Records that were in the log before mb started.
    pub backlog: Counter,
    /// Records of redrives and replays.
    pub reprocessed: Counter,
    /// Records without a timestamp.
    pub without_timestamp: Counter,
    /// Where each partition's log ended when mb started. One that is not in it is newer than mb's start.
    ends: OnceLock<BTreeMap<Partition, Offset>>,
}

impl Default for Latency {
    fn default() -> Latency {
        Latency {
            time: Histogram::new(
                "mb_record_latency_seconds",
                "Time from a record's timestamp to the end of the run that processed it.",
                &BOUNDS_S,
            ),
            ahead: Counter::default(),
            backlog: Counter::default(),
            reprocessed: Counter::default(),
            without_timestamp: Counter::default(),
            ends: OnceLock::new(),
        }
    }
}

impl Latency {
    /// mb starts, and the log ends at `ends`. What a restart of the pipeline within the process says later changes
    /// nothing.
    pub fn begin(&self, ends: &BTreeMap<Partition, Offset>) {
        self.ends.get_or_init(|| ends.clone());
    }

    /// A run has just processed those of its records that `is_processed` is true for. `now_ms`: milliseconds since
    /// 1970.
    pub fn processed(&self, run: &Run, now_ms: i64, is_processed: impl Fn(Offset) -> bool) {
        let records = || run.batch.times().filter(|(offset, _)| is_processed(*offset));
        if run.key.reprocess.is_some() {
            return self.reprocessed.add(records().count() as u64);
        }
        let end = self.ends.get().and_then(|ends| ends.get(&run.key.partition).copied());
        let end = end.unwrap_or(Offset::ZERO);
        if run.batch.last_offset().is_none_or(|last| last < end) {
            return self.backlog.add(records().count() as u64);
        }
        let (mut ahead, mut backlog, mut without) = (0, 0, 0);
        self.time.observe_all(records().filter_map(|(offset, time)| {
            if offset < end {
                backlog += 1;
                return None;
            }
            let Some(time) = time else {
                without += 1;
                return None;
            };
            let age_ms = now_ms.saturating_sub(time);
            ahead += u64::from(age_ms < 0);
            Some(age_ms.max(0) as f64 / 1000.0)
        }));
        self.ahead.add(ahead);
        self.backlog.add(backlog);
        self.without_timestamp.add(without);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::batch::{Batch, Record};
    use crate::model::offset::{Reprocess, RunKey};

    fn run(
        partition: Partition,
        times: &[(i64, Option<i64>)],
        reprocess: Option<Reprocess>,
    ) -> Run {
        let record = |(offset, timestamp): &(i64, Option<i64>)| Record {
            offset: Offset::new(*offset),
            timestamp: *timestamp,
            ..Record::default()
        };
        let batch: Batch = times.iter().map(record).collect();
        let range = batch.range().unwrap();
        let key = RunKey { reprocess, ..RunKey::new("t", partition, range) };
        Run::for_tests(1, key, batch)
    }

    #[test]
    fn only_what_arrived_while_mb_ran_has_a_latency() {
        let latency = Latency::default();
        latency.begin(&BTreeMap::from([(0, Offset::new(5))]));
        latency.begin(&BTreeMap::from([(0, Offset::new(100))]));
        let all = |_: Offset| true;
        latency.processed(&run(0, &[(3, Some(0)), (4, Some(0))], None), 10_000, all);
        assert_eq!((latency.time.count_and_sum().0, latency.backlog.get()), (0, 2));

        let times =
            [(4, Some(0)), (5, Some(9_000)), (6, None), (7, Some(12_000)), (8, Some(9_900))];
        latency.processed(&run(0, &times, None), 10_000, |offset| offset.get() != 8);
        let (count, sum) = latency.time.count_and_sum();
        assert_eq!((count, sum.as_millis()), (2, 1000), "a clock that is ahead counts as 0");
        assert_eq!((latency.backlog.get(), latency.ahead.get()), (3, 1));
        assert_eq!(latency.without_timestamp.get(), 1);

        // A partition that was not there at the start is new as a whole.
        latency.processed(&run(7, &[(0, Some(9_999))], None), 10_000, all);
        assert_eq!(latency.time.count_and_sum().0, 3);
        latency.processed(&run(0, &[(9, Some(0))], Some(Reprocess::Replay(1))), 10_000, all);
        assert_eq!((latency.time.count_and_sum().0, latency.reprocessed.get()), (3, 1));
    }
}

//! What must hold at a phase's end: nothing lost, nothing in two runs, content exact, order as
//! promised, all committed, no dead letter.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use rusqlite::Connection;

use super::collected::{Collected, Run};
use super::verifiable::Said;
use crate::support::faults::sound;
use crate::support::files::{FileRecord, assert_same};

/// The history's times are in whole milliseconds of the wall clock.
const CLOCK_TOLERANCE_MS: i64 = 5;

/// How far the wall clock, which the history's times are from, was set or slewed meanwhile.
#[derive(Debug)]
pub struct WallClock {
    began: (Instant, SystemTime),
    lowest_ms: i64,
    highest_ms: i64,
}

impl WallClock {
    pub fn start() -> WallClock {
        WallClock { began: (Instant::now(), SystemTime::now()), lowest_ms: 0, highest_ms: 0 }
    }

    pub fn look(&mut self) {
        let (steady, wall) = (Instant::now(), SystemTime::now());
        // Not where something else ran between the two.
        if steady.elapsed() > Duration::from_millis(1) {
            return;
        }
        let ms = |time: Duration| i64::try_from(time.as_millis()).expect("a short time");
        let expected = self.began.1 + (steady - self.began.0);
        let ahead = match wall.duration_since(expected) {
            Ok(ahead) => ms(ahead),
            Err(behind) => -ms(behind.duration()),
        };
        self.lowest_ms = self.lowest_ms.min(ahead);
        self.highest_ms = self.highest_ms.max(ahead);
    }

    pub fn spread_ms(&self) -> i64 {
        self.highest_ms - self.lowest_ms
    }
}

/// What a phase, or all of them, came to.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub acknowledged: usize,
    pub refused: u64,
    /// Distinct records, by partition and offset, and those among them that were acknowledged.
    pub processed: usize,
    pub found: usize,
    /// Records that more than one run has.
    pub duplicates: usize,
    pub runs: usize,
    pub splits: i64,
}

impl Figures {
    pub fn add(&mut self, other: &Figures) {
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.processed += other.processed;
        self.found += other.found;
        self.duplicates += other.duplicates;
        self.runs += other.runs;
        self.splits += other.splits;
    }
}

/// # Panics
/// Where something does not hold.
pub fn judge(
    collected: &Collected,
    said: &Said,
    in_log: &[FileRecord],
    order: &str,
    data_dir: &Path,
    clock: &WallClock,
) -> Figures {
    let again = collected.again();
    assert!(again.runs == collected.runs, "a run's file changed after it was finished");
    let mut records: Vec<_> = again.runs.values().flatten().cloned().collect();
    records.sort();
    let all = records.len();
    records.dedup_by_key(|record| (record.partition, record.offset));
    let duplicates = all - records.len();
    let at = |record: &FileRecord| (record.partition, record.offset);
    let find = |wanted: &FileRecord| {
        records.binary_search_by_key(&at(wanted), at).ok().map(|place| &records[place])
    };
    let found = said.acknowledged.iter().filter(|wanted| find(wanted) == Some(wanted)).count();
    let lost: Vec<_> =
        said.acknowledged.iter().filter(|wanted| find(wanted) != Some(wanted)).collect();
    assert!(lost.is_empty(), "{} acknowledged messages lost, the first: {:?}", lost.len(), lost[0]);
    // Unacknowledged ones that are in the log are processed too.
    assert_same(&records, in_log);
    assert_eq!(duplicates, 0, "records in two runs");

    sound(data_dir);
    let history = Connection::open(data_dir.join("history.db")).unwrap();
    let count = |sql: &str| -> i64 { history.query_row(sql, [], |row| row.get(0)).unwrap() };
    assert_eq!(count("SELECT count(*) FROM dead_letters"), 0, "dead letters");
    assert_order(&again, order, &history, CLOCK_TOLERANCE_MS + clock.spread_ms());
    Figures {
        acknowledged: said.acknowledged.len(),
        refused: said.refused,
        processed: records.len(),
        found,
        duplicates,
        runs: again.runs.len(),
        splits: count("SELECT count(*) FROM runs WHERE state = 6"),
    }
}

/// With an order, no run began before all that its records must follow had ended.
fn assert_order(collected: &Collected, order: &str, history: &Connection, tolerance_ms: i64) {
    if order == "none" {
        return;
    }
    let times = times(history);
    // Partition and, with order by key, the key: what came last of it.
    let mut last = BTreeMap::<(i32, Option<&[u8]>), (i64, Run)>::new();
    let mut records: Vec<_> = collected
        .runs
        .iter()
        .flat_map(|(run, records)| records.iter().map(move |record| (record, *run)))
        .collect();
    records.sort_by_key(|(record, _)| (record.partition, record.offset));
    for (record, run) in records {
        let key = (order == "key").then_some(record.key.as_deref()).flatten();
        let (began, ended) = times[&run];
        if let Some((end_before, before)) = last.insert((record.partition, key), (ended, run))
            && before != run
        {
            assert!(
                began + tolerance_ms >= end_before,
                "order {order}: {run:?} began {} ms before {before:?} had ended (tolerated: \
                 {tolerance_ms} ms)",
                end_before - began
            );
        }
    }
}

/// When each run's last attempt began and ended, in milliseconds.
fn times(history: &Connection) -> BTreeMap<Run, (i64, i64)> {
    let list = "SELECT partition, first_offset, last_offset, lane, lanes, started_ms, ended_ms \
                FROM runs WHERE state = 2";
    let mut list = history.prepare(list).unwrap();
    let one = |row: &rusqlite::Row<'_>| -> rusqlite::Result<(Run, (i64, i64))> {
        let run = Run {
            partition: row.get(0)?,
            first: row.get(1)?,
            last: row.get(2)?,
            lane: row.get(3)?,
            lanes: row.get(4)?,
        };
        Ok((run, (row.get(5)?, row.get(6)?)))
    };
    list.query_map([], one).unwrap().map(Result::unwrap).collect()
}

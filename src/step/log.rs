//! The default step: logs a line for each run, or one line a second if there are too many runs to read.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

use super::{Attempt, Step, StepError};
use crate::config::limits::LOGGED_RUNS_PER_SECOND;
use crate::model::offset::Partition;
use crate::model::sync::Mutex;

/// Logs each run (level info, target `mb::run`): its key, records, bytes, and the number of the attempt if
/// it is not the first.
///
/// Above `LOGGED_RUNS_PER_SECOND` it logs one line for each second instead. That line is logged with the first
/// run after that second, or at `finish`.
#[derive(Debug, Default)]
pub struct LogStep {
    pace: Mutex<Pace>,
}

impl LogStep {
    pub fn new() -> LogStep {
        LogStep::default()
    }

    fn with_pace<T>(&self, body: impl FnOnce(&mut Pace) -> T) -> T {
        body(&mut self.pace.lock())
    }
}

impl Step for LogStep {
    fn name(&self) -> &str {
        "log"
    }

    fn run(&self, attempt: &mut Attempt<'_>) -> Result<(), StepError> {
        let records = attempt.batch.len() as u64;
        let bytes = attempt.batch.payload_bytes() as u64;
        let partition = attempt.key.partition;
        let now = Instant::now();
        let (summary, alone) = self.with_pace(|pace| pace.run(now, partition, records, bytes));
        if let Some(summary) = summary {
            log::info!(target: "mb::run", "{summary}");
        }
        if alone {
            let number = match attempt.number {
                1 => String::new(),
                number => format!(", attempt {number}"),
            };
            let key = attempt.key;
            log::info!(target: "mb::run", "{key}: {records} records, {bytes} bytes{number}");
        }
        Ok(())
    }

    fn finish(&self) {
        if let Some(summary) = self.with_pace(Pace::finish) {
            log::info!(target: "mb::run", "{summary}");
        }
    }
}

/// The runs of one second that have no log line of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Summary {
    runs: u64,
    records: u64,
    bytes: u64,
    partitions: BTreeSet<Partition>,
    /// The first runs of the second were logged one by one, before there were too many.
    rest_only: bool,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}runs in a second: {} records, {} bytes, of {} partition{}",
            self.runs,
            if self.rest_only { "more " } else { "" },
            self.records,
            self.bytes,
            self.partitions.len(),
            if self.partitions.len() == 1 { "" } else { "s" }
        )
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// Decides which runs get a log line of their own. The time is an argument and never goes back.
///
/// Invariant: every run either has a line of its own or is counted in exactly one summary.
#[derive(Debug, Default)]
struct Pace {
    /// When the current second began.
    began: Option<Instant>,
    /// All runs of the current second.
    runs: u64,
    /// The previous second had too many runs, so this one is summed up from its start.
    busy: bool,
    held: Summary,
}

impl Pace {
    /// Counts a run; returns the summary that is due before it, and whether it gets a line of its own.
    fn run(
        &mut self,
        now: Instant,
        partition: Partition,
        records: u64,
        bytes: u64,
    ) -> (Option<Summary>, bool) {
        let summary = self.turn(now);
        self.runs += 1;
        if !self.busy && self.runs <= LOGGED_RUNS_PER_SECOND {
            return (summary, true);
        }
        self.held.rest_only = !self.busy;
        self.held.runs += 1;
        self.held.records += records;
        self.held.bytes += bytes;
        self.held.partitions.insert(partition);
        (summary, false)
    }

    /// Starts a new second if the current one is over.
    fn turn(&mut self, now: Instant) -> Option<Summary> {
        let since = self.began.map(|began| now.saturating_duration_since(began));
        let summary = match since {
            Some(since) if since < SECOND => return None,
            // No second was skipped, so this one is expected to be as busy as the previous one.
            Some(since) if since < 2 * SECOND => {
                self.busy = self.runs > LOGGED_RUNS_PER_SECOND;
                self.began = self.began.map(|began| began + SECOND);
                self.finish()
            }
            _ => {
                self.busy = false;
                self.began = Some(now);
                self.finish()
            }
        };
        self.runs = 0;
        summary
    }

    fn finish(&mut self) -> Option<Summary> {
        let held = std::mem::take(&mut self.held);
        (held.runs > 0).then_some(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends `runs` runs of 10 records and 100 bytes, `apart` from each other; returns the
    /// summaries that came and how many runs were logged alone.
    fn drive(
        pace: &mut Pace,
        from: Instant,
        runs: u32,
        apart: Duration,
    ) -> (Vec<Summary>, u64, Instant) {
        let mut summaries = Vec::new();
        let mut alone = 0;
        for run in 0..runs {
            let partition = (run % 4) as Partition;
            let (summary, logged) = pace.run(from + apart * run, partition, 10, 100);
            summaries.extend(summary);
            alone += u64::from(logged);
        }
        (summaries, alone, from + apart * runs)
    }

    #[test]
    fn few_runs_are_logged_one_by_one() {
        let mut pace = Pace::default();
        let (summaries, alone, _) =
            drive(&mut pace, Instant::now(), 200, Duration::from_millis(50));
        assert_eq!((summaries, alone), (vec![], 200));
        assert_eq!(pace.finish(), None);
    }

    #[test]
    fn many_runs_get_one_line_for_each_second() {
        let mut pace = Pace::default();
        // 100 runs a second for three and a half seconds.
        let (summaries, alone, _) =
            drive(&mut pace, Instant::now(), 350, Duration::from_millis(10));
        assert_eq!(alone, 20, "only the first second's first runs");
        let counts: Vec<_> = summaries.iter().map(|summary| summary.runs).collect();
        assert_eq!(counts, [80, 100, 100]);
        assert!(summaries[0].rest_only && !summaries[1].rest_only);
        assert_eq!(
            summaries[1].to_string(),
            "100 runs in a second: 1000 records, 10000 bytes, of 4 partitions"
        );
        let last = pace.finish().expect("the last half second is not lost");
        assert_eq!(last.runs, 50);
        assert_eq!(pace.finish(), None, "and is logged once");
    }

    #[test]
    fn after_a_busy_second_a_quiet_one_brings_single_lines_back() {
        let mut pace = Pace::default();
        let slow = Duration::from_millis(100);
        let (_, _, then) = drive(&mut pace, Instant::now(), 200, Duration::from_millis(10));
        let (summaries, alone, _) = drive(&mut pace, then, 30, slow);
        // One second to notice that it got quiet: its 10 runs are summed up.
        assert_eq!(summaries.iter().map(|summary| summary.runs).collect::<Vec<_>>(), [100, 10]);
        assert_eq!(alone, 20);
    }

    #[test]
    fn a_pause_ends_the_busy_time_and_its_summary_comes_with_the_next_run() {
        let mut pace = Pace::default();
        let (_, _, then) = drive(&mut pace, Instant::now(), 30, Duration::from_millis(10));
        let (summary, alone) = pace.run(then + Duration::from_secs(60), 0, 1, 1);
        assert_eq!(
            summary.map(|summary| summary.to_string()),
            Some("10 more runs in a second: 100 records, 1000 bytes, of 4 partitions".to_owned())
        );
        assert!(alone);
    }

    #[test]
    fn one_partition_is_no_plural() {
        let summary = Summary { runs: 30, partitions: [7].into(), ..Summary::default() };
        assert_eq!(summary.to_string(), "30 runs in a second: 0 records, 0 bytes, of 1 partition");
    }
}

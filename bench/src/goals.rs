//! The goals, as data: what is compared, and the bound that it must keep.

use serde::Serialize;

use crate::contender::{KAFKA, MB_KAFKA, MB_RDKAFKA, POLL, QUEUE, SPARK, UNORDERED};
use crate::figures::{Metric, Section};

/// One goal.
pub struct Goal {
    /// The workload, as in `--only`, and the section where that is not the same.
    pub section: &'static str,
    pub what: &'static str,
    pub of: Quantity,
    pub bound: Bound,
}

/// A contender's median of a metric.
pub type Point = (&'static str, Metric);

pub enum Quantity {
    Value(Point),
    /// The first, through the largest of the others, all of which must be there.
    Ratio(Point, &'static [&'static str]),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    Met { figure: f64 },
    Missed { figure: f64 },
    Void { why: String },
}

use Bound::{AtLeast, AtMost};
use Metric::{
    CpuNsPerRecord, CpuS, GrowthRatio, MaxAtChangesUs, OffByPercent, P50Us, P99Us, PeakBytes,
    RecordsPerS, RunsPerS, WallNsPerRecord, WallS,
};
use Quantity::{Ratio, Value};

/// What mb may have beside the client's own buffers.
const MEMORY: f64 = (64 << 20) as f64;
/// One answer of a broker on its way (librdkafka's `fetch.max.bytes` in mb).
const ONE_FETCH: f64 = mb::config::limits::RDKAFKA_FETCH_BYTES as f64;
/// What librdkafka takes for a record beyond its key and value (see `mb::config::limits`), for as many of
/// 1 KiB as its queue holds.
const QUEUED_RECORDS: f64 = (mb::config::limits::RDKAFKA_QUEUE_KIB * 350) as f64;
const FETCH_BUFFERS: f64 =
    (mb::config::limits::RDKAFKA_QUEUE_KIB * 1024) as f64 + ONE_FETCH + QUEUED_RECORDS;

const fn goal(section: &'static str, what: &'static str, of: Quantity, bound: Bound) -> Goal {
    Goal { section, what, of, bound }
}

pub const GOALS: &[Goal] = &[
    goal(
        "W1",
        "records/s of mb over rdkafka, against the faster of the two bare rdkafka loops",
        Ratio((MB_RDKAFKA, RecordsPerS), &[POLL, QUEUE]),
        AtLeast(1.0 / 1.1),
    ),
    goal(
        "W1",
        "CPU time of mb over rdkafka, against the bare loop that costs less",
        Ratio((MB_RDKAFKA, CpuS), &[QUEUE]),
        AtMost(1.3),
    ),
    goal(
        "W1",
        "records/s of mb over crate kafka, against the bare loop",
        Ratio((MB_KAFKA, RecordsPerS), &[KAFKA]),
        AtLeast(1.0 / 1.1),
    ),
    goal(
        "W1",
        "CPU time of mb over crate kafka, against the bare loop",
        Ratio((MB_KAFKA, CpuS), &[KAFKA]),
        AtMost(1.3),
    ),
    goal(
        "W1",
        "records/s of mb over rdkafka, against Parallel Consumer, unordered",
        Ratio((MB_RDKAFKA, RecordsPerS), &[UNORDERED]),
        AtLeast(5.0),
    ),
    goal(
        "W1",
        "peak memory of mb over rdkafka, against Parallel Consumer, unordered",
        Ratio((MB_RDKAFKA, PeakBytes), &[UNORDERED]),
        AtMost(1.0 / 15.0),
    ),
    goal(
        "W1",
        "records/s of mb over rdkafka, against Spark (`make bench-all`)",
        Ratio((MB_RDKAFKA, RecordsPerS), &[SPARK]),
        AtLeast(10.0),
    ),
    goal(
        "W1 on 4.4.0",
        "records/s of mb over rdkafka, against the faster of the two bare rdkafka loops",
        Ratio((MB_RDKAFKA, RecordsPerS), &[POLL, QUEUE]),
        AtLeast(1.0 / 1.1),
    ),
    goal(
        "W2",
        "records/s of mb over rdkafka, against the bare loop",
        Ratio((MB_RDKAFKA, RecordsPerS), &[QUEUE]),
        AtLeast(1.0 / 1.25),
    ),
    goal(
        "W2",
        "records/s of mb over rdkafka, against Parallel Consumer, unordered",
        Ratio((MB_RDKAFKA, RecordsPerS), &[UNORDERED]),
        AtLeast(5.0),
    ),
    goal(
        "W2",
        "peak memory of mb over rdkafka, against Parallel Consumer, unordered",
        Ratio((MB_RDKAFKA, PeakBytes), &[UNORDERED]),
        AtMost(1.0 / 15.0),
    ),
    goal(
        "W3",
        "runs/s of mb over rdkafka, each one in the history (start-up included)",
        Value((MB_RDKAFKA, RunsPerS)),
        AtLeast(100_000.0),
    ),
    goal(
        "W4",
        "p50 of mb's latency, against a bare loop's",
        Ratio((MB_RDKAFKA, P50Us), &["bare-latency"]),
        AtMost(1.5),
    ),
    goal(
        "W4",
        "p99 of mb's latency, against a bare loop's",
        Ratio((MB_RDKAFKA, P99Us), &["bare-latency"]),
        AtMost(1.5),
    ),
    goal(
        "W4",
        "the longest latency (µs) of records made within 100 ms of a tick's change",
        Value((MB_RDKAFKA, MaxAtChangesUs)),
        AtMost(50_000.0),
    ),
    goal("W5", "% off the rate of 10/s", Value(("mb-produce-10", OffByPercent)), AtMost(0.5)),
    goal("W5", "% off the rate of 1000/s", Value(("mb-produce-1000", OffByPercent)), AtMost(0.5)),
    goal("W5", "% off the rate of 50000/s", Value(("mb-produce-50000", OffByPercent)), AtMost(0.5)),
    goal(
        "W5",
        "records/s of mb produce --rate max, against a bare producer",
        Ratio(("mb-produce-max", RecordsPerS), &["bare-producer"]),
        AtLeast(0.9),
    ),
    goal(
        "W6",
        "peak memory (bytes): 64 MiB and librdkafka's queue, its bookkeeping and a fetch under way",
        Value((MB_RDKAFKA, PeakBytes)),
        AtMost(MEMORY + FETCH_BUFFERS),
    ),
    goal(
        "W6",
        "memory of the second half of the time, against the first",
        Value((MB_RDKAFKA, GrowthRatio)),
        AtMost(1.05),
    ),
    goal(
        "W7",
        "wall time a record with 1000 partitions, against 10 (start-up included)",
        Ratio(("mb-1000-partitions", WallNsPerRecord), &["mb-10-partitions"]),
        AtMost(1.5),
    ),
    goal(
        "W7",
        "CPU time a record with 1000 partitions, against 10 (start-up included)",
        Ratio(("mb-1000-partitions", CpuNsPerRecord), &["mb-10-partitions"]),
        AtMost(1.5),
    ),
    goal(
        "W7",
        "wall time with 1,000,000 runs in the history, against none",
        Ratio(("mb-1000000-runs", WallS), &["mb-no-runs"]),
        AtMost(1.05),
    ),
    goal(
        "W8",
        "commands/s of mb --exec, against xargs",
        Ratio(("mb-exec", RunsPerS), &["xargs"]),
        AtLeast(0.9),
    ),
];

impl Goal {
    pub fn check(&self, section: &Section) -> Outcome {
        if let Some(why) = &section.void {
            return Outcome::Void { why: why.clone() };
        }
        match self.of.compute(section) {
            Err(why) => Outcome::Void { why },
            Ok(figure) if self.bound.holds(figure) => Outcome::Met { figure },
            Ok(figure) => Outcome::Missed { figure },
        }
    }
}

impl Quantity {
    fn compute(&self, section: &Section) -> Result<f64, String> {
        match self {
            Value((contender, metric)) => point(section, contender, *metric),
            Ratio((contender, metric), against) => {
                let figure = point(section, contender, *metric)?;
                let others: Result<Vec<_>, _> =
                    against.iter().map(|other| point(section, other, *metric)).collect();
                let largest = others?.into_iter().fold(f64::NAN, f64::max);
                if largest > 0.0 { Ok(figure / largest) } else { Err("nothing to compare".into()) }
            }
        }
    }
}

fn point(section: &Section, contender: &str, metric: Metric) -> Result<f64, String> {
    let row = section.row(contender).ok_or_else(|| format!("{contender} did not take part"))?;
    row.median(metric).ok_or_else(|| format!("{contender} was not measured"))
}

impl Bound {
    fn holds(self, figure: f64) -> bool {
        match self {
            AtMost(bound) => figure <= bound,
            AtLeast(bound) => figure >= bound,
        }
    }

    pub fn show(self) -> String {
        match self {
            AtMost(bound) => format!("≤ {}", number(bound)),
            AtLeast(bound) => format!("≥ {}", number(bound)),
        }
    }
}

pub fn number(figure: f64) -> String {
    match figure.abs() {
        1000.0.. => crate::figures::thousands(figure),
        0.2.. => format!("{figure:.2}"),
        _ => format!("{figure:.3}"),
    }
}

impl Outcome {
    /// `met (0.98 for ≤ 1.10)`.
    pub fn show(&self, bound: Bound) -> String {
        match self {
            Outcome::Met { figure } => format!("met ({} for {})", number(*figure), bound.show()),
            Outcome::Missed { figure } => {
                format!("**missed** ({} for {})", number(*figure), bound.show())
            }
            Outcome::Void { why } => format!("void: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Row;

    fn section(figures: &[(&str, f64)]) -> Section {
        let mut section = Section::default();
        for (contender, wall) in figures {
            let mut row = Row::new(*contender);
            row.add(WallS, *wall);
            section.rows.push(row);
        }
        section
    }

    const WALL: Goal = goal("W", "wall", Ratio(("mb", WallS), &["a", "b"]), AtMost(1.1));

    #[test]
    fn a_ratio_is_against_the_largest() {
        let met = WALL.check(&section(&[("mb", 2.0), ("a", 1.0), ("b", 4.0)]));
        assert_eq!(met, Outcome::Met { figure: 0.5 });
        assert_eq!(met.show(WALL.bound), "met (0.50 for ≤ 1.10)");
        let missed = WALL.check(&section(&[("mb", 5.0), ("a", 1.0), ("b", 4.0)]));
        assert_eq!(missed.show(WALL.bound), "**missed** (1.25 for ≤ 1.10)");
    }

    #[test]
    fn nothing_is_met_by_what_was_not_measured() {
        let is_void = |section: &Section| matches!(WALL.check(section), Outcome::Void { .. });
        assert!(is_void(&section(&[("a", 1.0), ("b", 1.0)])));
        assert!(is_void(&section(&[("mb", 1.0), ("a", 1.0)])));
        let mut all = section(&[("mb", 1.0), ("a", 1.0), ("b", 1.0)]);
        assert!(!is_void(&all));
        all.rows[1].void = Some("its offsets are not committed".into());
        assert!(is_void(&all));
        let mut all = section(&[("mb", 1.0), ("a", 1.0), ("b", 1.0)]);
        all.void = Some("the bare loops were disturbed".into());
        assert!(is_void(&all));
    }

    #[test]
    fn bounds_include_themselves() {
        assert!(AtMost(1.0).holds(1.0) && !AtMost(1.0).holds(1.01) && !AtMost(1.0).holds(f64::NAN));
        assert!(AtLeast(1.0).holds(1.0) && !AtLeast(1.0).holds(0.99));
    }

    #[test]
    fn each_goal_names_a_workload_of_the_plan() {
        for goal in GOALS {
            let workload = goal.section.split(' ').next().unwrap();
            assert!(crate::plan::WORKLOADS.contains(&workload), "{}", goal.section);
        }
    }
}

//! What is measured, and how much of it: the workloads and their sizes in each mode.

use std::ops::RangeInclusive;

use crate::contender::{Contender, NAMES};

pub const WORKLOADS: [&str; 9] = ["W1", "W2", "W3", "W4", "W5", "W6", "W7", "W8", "W9"];
/// Rounds of a workload that measures a mean over a fixed time, which includes its warm-up.
pub const ONE_ROUND: RangeInclusive<u32> = 1..=1;
/// The workloads of `--quick`.
const QUICK: [&str; 3] = ["W1", "W2", "W3"];

pub const VALUE_BYTES: usize = 100;
pub use mb_bench::PARTITIONS;
pub const CONCURRENCY: u64 = 5;
/// The broker of all workloads.
pub const KAFKA: &str = "3.9.1";
/// The newest Kafka, on which W1 is repeated.
pub const NEWER_KAFKA: &str = "4.4.0";

/// What the command line chose.
#[derive(Clone, Debug)]
pub struct Plan {
    pub workloads: Vec<String>,
    pub without: Vec<String>,
    pub rounds: u32,
    pub quick: bool,
    pub all: bool,
    /// Whether another build of mb takes part in W1 to W4.
    pub before: bool,
    pub kafka: String,
    /// The broker on which W1 is repeated.
    pub newer_kafka: Option<String>,
}

/// One drain: `count` records in batches of up to `batch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    pub workload: &'static str,
    pub count: u64,
    pub batch: u64,
}

impl Plan {
    /// # Errors
    /// One line, if a workload or a contender is unknown.
    pub fn new(
        only: &str,
        without: &str,
        rounds: u32,
        quick: bool,
        all: bool,
        before: bool,
        kafka: Option<String>,
    ) -> Result<Plan, String> {
        let list = |text: &str| -> Vec<String> {
            let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
            names.map(str::to_owned).collect()
        };
        let mut workloads = list(only);
        if let Some(unknown) = workloads.iter().find(|name| !WORKLOADS.contains(&name.as_str())) {
            return Err(format!("--only: got {unknown}, expected some of {}", WORKLOADS.join(",")));
        }
        if workloads.is_empty() {
            let default = if quick { &QUICK[..] } else { &WORKLOADS[..] };
            workloads = default.iter().map(ToString::to_string).collect();
        }
        let without = list(without);
        let known = |name: &String| NAMES.iter().any(|known| known.starts_with(name.as_str()));
        if let Some(unknown) = without.iter().find(|name| !known(name)) {
            return Err(format!("--without: got {unknown}, expected some of {}", NAMES.join(",")));
        }
        if rounds == 0 {
            return Err("--rounds: got 0, expected 1 or more".into());
        }
        let w1 = workloads.iter().any(|name| name == "W1");
        let newer_kafka = (w1 && !quick && kafka.is_none()).then(|| NEWER_KAFKA.to_owned());
        let kafka = kafka.unwrap_or_else(|| KAFKA.to_owned());
        Ok(Plan { workloads, without, rounds, quick, all, before, kafka, newer_kafka })
    }

    pub fn has(&self, workload: &str) -> bool {
        self.workloads.iter().any(|name| name == workload)
    }

    /// Names are meant by their beginnings: `parallel-consumer` is both of its orders.
    pub fn leaves_out(&self, contender: &str) -> bool {
        self.without.iter().any(|name| contender.starts_with(name.as_str()))
    }

    pub fn drains(&self) -> Vec<Drain> {
        let drains = if self.quick {
            [("W1", 1_000_000, 500), ("W2", 250_000, 50), ("W3", 50_000, 1)]
        } else {
            [("W1", 2_000_000, 500), ("W2", 500_000, 50), ("W3", 100_000, 1)]
        };
        let drain = |(workload, count, batch)| Drain { workload, count, batch };
        drains.into_iter().map(drain).filter(|drain| self.has(drain.workload)).collect()
    }

    /// Crate kafka reads no broker from 4.0 on, so it is left out there.
    pub fn contenders(&self, workload: &str, kafka: &str) -> Vec<Contender> {
        use Contender::{Bare, Before, Franz, Least, Mb, Parallel, Spark};
        let is_old = kafka.split('.').next().and_then(|major| major.parse().ok()) < Some(4);
        let mut all =
            vec![Bare("rdkafka-queue"), Bare("rdkafka-queue-headers"), Least, Mb("rdkafka")];
        if workload == "W1" {
            all.insert(0, Bare("rdkafka-poll"));
        }
        if workload == "W1" || !self.quick {
            all.extend([Franz, Bare("kafka"), Mb("kafka")]);
        }
        if self.before {
            all.push(Before);
        }
        all.push(Parallel("unordered"));
        // The newer broker is for what changes with it, not for this one's few records a second.
        if workload == "W1" && !self.quick && kafka == self.kafka {
            all.push(Parallel("partition"));
            if self.all {
                all.push(Spark);
            }
        }
        all.retain(|contender| is_old || !matches!(contender, Bare("kafka") | Mb("kafka")));
        all.retain(|contender| !self.leaves_out(contender.name()));
        all
    }

    /// Parallel Consumer by partition takes a record at a time of each, and shows its rate on a few.
    pub fn count_of(&self, contender: Contender, drain: Drain) -> u64 {
        if contender == Contender::Parallel("partition") { 5000 } else { drain.count }
    }

    /// A warm-up, which does not count, and the rounds.
    pub fn all_rounds(&self) -> RangeInclusive<u32> {
        0..=self.rounds
    }

    /// Of workloads whose contenders take little time, so that chance has a large part in each round.
    pub fn short_rounds(&self) -> RangeInclusive<u32> {
        0..=if self.quick { self.rounds } else { 2 * self.rounds }
    }

    /// Of what warms up within each.
    pub fn warm_rounds(&self) -> RangeInclusive<u32> {
        1..=self.rounds
    }

    pub fn takes_long(contender: &str) -> bool {
        ["parallel-consumer", "spark"].iter().any(|name| contender.starts_with(name))
    }

    /// Of each round: with three of them 30 s in all.
    pub fn latency_s(&self) -> u64 {
        if self.quick { 5 } else { 10 }
    }

    pub fn pacing_s(&self) -> u64 {
        if self.quick { 3 } else { 10 }
    }

    pub fn produced_at_most(&self) -> u64 {
        if self.quick { 500_000 } else { 2_000_000 }
    }

    pub fn backlog(&self) -> u64 {
        if self.quick { 600_000 } else { 2_000_000 }
    }

    pub fn memory_s(&self) -> u64 {
        if self.quick { 15 } else { 25 }
    }

    pub fn scale_count(&self) -> u64 {
        if self.quick { 200_000 } else { 1_000_000 }
    }

    pub fn commands(&self) -> u64 {
        if self.quick { 1000 } else { 3000 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(only: &str, without: &str, quick: bool) -> Plan {
        Plan::new(only, without, 3, quick, false, false, None).unwrap()
    }

    #[test]
    fn quick_is_three_workloads_on_one_broker() {
        let quick = plan("", "", true);
        assert_eq!(quick.workloads, QUICK);
        assert_eq!(quick.newer_kafka, None);
        let full = plan("", "", false);
        assert_eq!(full.workloads, WORKLOADS);
        assert_eq!(full.newer_kafka.as_deref(), Some(NEWER_KAFKA));
        assert_eq!(plan("W4, W1", "", false).workloads, ["W4", "W1"]);
    }

    #[test]
    fn unknown_names_are_refused() {
        let refused =
            |only, without| Plan::new(only, without, 3, false, false, false, None).unwrap_err();
        assert!(refused("W10", "").starts_with("--only: got W10"));
        assert!(refused("", "flink").starts_with("--without: got flink"));
    }

    #[test]
    fn contenders_are_left_out_by_the_beginning_of_their_names() {
        let names = |plan: &Plan, kafka: &str| -> Vec<_> {
            plan.contenders("W1", kafka).into_iter().map(Contender::name).collect()
        };
        let all = names(&plan("", "", false), "3.9.1");
        assert_eq!(all.len(), 10, "{all:?}");
        let fewer = names(&plan("", "parallel-consumer,franz", false), "3.9.1");
        assert_eq!(fewer.len(), 7, "{fewer:?}");
        let newer = names(&plan("", "", false), NEWER_KAFKA);
        assert!(!newer.contains(&"mb-kafka") && !newer.contains(&"bare-kafka"), "{newer:?}");
    }
}

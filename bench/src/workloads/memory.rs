//! W6: memory while a backlog far larger than it waits for a slow step.

use std::time::{Duration, Instant};

use mb_bench::Result;
use rustix::process::Signal;

use super::{Bench, Figures};
use crate::contender::{MB_RDKAFKA, mb};
use crate::figures::{Metric, Section, median, thousands};
use crate::interrupt;
use crate::plan::{ONE_ROUND, PARTITIONS};
use crate::process::Running;

const VALUE_BYTES: usize = 1024;
const BATCH: u64 = 500;
const STEP: &str = "100ms";
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
/// What is before it is not compared with what is after.
const WARM_UP: Duration = Duration::from_secs(5);
const STOP_LIMIT: Duration = Duration::from_secs(60);

impl Bench<'_> {
    pub(super) fn memory(&self) -> Result<Section> {
        let (topic, count) = (self.fresh("backlog"), self.plan.backlog());
        self.broker.fill(&topic, PARTITIONS, count, VALUE_BYTES)?;
        let rows =
            self.in_turn("W6", &[MB_RDKAFKA], ONE_ROUND, |_| self.memory_once(&topic, count))?;
        self.broker.delete(&topic)?;
        Ok(Section {
            name: "W6".into(),
            title: format!(
                "memory in {} s over a backlog of {} × {VALUE_BYTES} B, batches of {BATCH}, a step of {STEP}",
                self.plan.memory_s(),
                thousands(count as f64)
            ),
            columns: vec![
                Metric::PeakBytes,
                Metric::FirstHalfBytes,
                Metric::SecondHalfBytes,
                Metric::GrowthRatio,
                Metric::CpuS,
            ],
            rows,
            notes: vec![format!(
                "Sampled every {} ms; the halves are those of the time after the first {} s. The peak \
                 is the kernel's own. Then SIGTERM, and it must end in order. One round.",
                SAMPLE_INTERVAL.as_millis(),
                WARM_UP.as_secs()
            )],
            ..Section::default()
        })
    }

    fn memory_once(&self, topic: &str, count: u64) -> Result<Figures> {
        let (group, scratch) = (self.fresh("group"), self.scratch()?);
        let task = self.task(topic, &group, count, BATCH);
        let mut command = mb(&self.programs.mb, &task, &scratch.0);
        command.args(["--client", "rdkafka", "--step", "discard", "--step-delay", STEP]);
        let running = Running::start(command)?;
        let (start, length) = (Instant::now(), Duration::from_secs(self.plan.memory_s()));
        let mut samples = Vec::new();
        while start.elapsed() < length {
            interrupt::sleep(SAMPLE_INTERVAL)?;
            let now = running.rss().ok_or("it ended before the time was over")?;
            if start.elapsed() > WARM_UP {
                samples.push(now as f64);
            }
        }
        running.signal(Signal::TERM)?;
        let usage = running.wait(STOP_LIMIT)?;
        let (first, second) = samples.split_at(samples.len() / 2);
        let halves = median(first).zip(median(second)).ok_or("no samples")?;
        Ok(vec![
            (Metric::PeakBytes, usage.peak_rss as f64),
            (Metric::FirstHalfBytes, halves.0),
            (Metric::SecondHalfBytes, halves.1),
            (Metric::GrowthRatio, halves.1 / halves.0),
            (Metric::CpuS, usage.cpu.as_secs_f64()),
        ])
    }
}

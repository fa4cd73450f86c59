//! W5: the rates that `mb produce` keeps, by the broker's own clock, and the fastest it can.

use std::process::Command;
use std::time::Duration;

use mb_bench::Result;

use super::{Bench, Figures, RUN_LIMIT, of_usage};
use crate::broker::own_program;
use crate::figures::{Metric, Section};
use crate::plan::{ONE_ROUND, PARTITIONS, VALUE_BYTES};
use crate::process;

/// Messages a second.
const RATES: [(&str, u64); 3] =
    [("mb-produce-10", 10), ("mb-produce-1000", 1000), ("mb-produce-50000", 50_000)];
const SKIPPED_S: u64 = 2;
const BARE: &str = "bare-producer";
const MB: &str = "mb-produce-max";

impl Bench<'_> {
    pub(super) fn producing(&self) -> Result<Section> {
        let names = RATES.map(|(name, _)| name);
        let mut rows = self.in_turn("W5", &names, ONE_ROUND, |index| self.paced(RATES[index].1))?;
        let mut fastest = vec![BARE, MB];
        fastest.retain(|name| !self.plan.leaves_out(name));
        let topic = self.fresh("produced");
        self.broker.create(&topic, PARTITIONS, &[])?;
        rows.extend(self.in_turn("W5", &fastest, self.plan.short_rounds(), |index| {
            self.at_once(fastest[index], &topic)
        })?);
        self.broker.delete(&topic)?;
        Ok(Section {
            name: "W5".into(),
            title: format!("mb produce, {VALUE_BYTES} B messages, {PARTITIONS} partitions"),
            columns: vec![
                Metric::RecordsPerS,
                Metric::OffByPercent,
                Metric::WallS,
                Metric::CpuS,
                Metric::PeakBytes,
            ],
            rows,
            notes: vec![
                format!(
                    "A paced rate is that of {} s of messages, by the times at which the broker \
                     appended them; the {SKIPPED_S} s before are not counted, as what was due while \
                     the producer connected comes at once.",
                    self.plan.pacing_s()
                ),
                format!(
                    "The fastest: {} messages, counted at the broker, over the wall time, start-up \
                     included. bare-producer has mb's settings of librdkafka, and values of the same \
                     size that need no making.",
                    self.plan.produced_at_most()
                ),
            ],
            ..Section::default()
        })
    }

    fn paced(&self, rate: u64) -> Result<Figures> {
        let topic = self.fresh("paced");
        self.broker.create(&topic, PARTITIONS, &[("message.timestamp.type", "LogAppendTime")])?;
        let seconds = SKIPPED_S + self.plan.pacing_s();
        let count = rate * seconds + 1;
        let mut command = self.mb_produce(&topic, count);
        command.args(["--rate", &rate.to_string()]);
        let usage = process::run(command, Duration::from_secs(seconds) * 3)?;
        let there = self.broker.count(&topic)?;
        if there != count {
            return Err(format!("the topic has {there} messages, not {count}").into());
        }
        let reached = self.broker.appended_per_s(&topic, SKIPPED_S)?;
        self.broker.delete(&topic)?;
        let asked = rate as f64;
        let mut figures = of_usage(&usage, count);
        figures[0] = (Metric::RecordsPerS, reached);
        figures.push((Metric::OffByPercent, (reached - asked).abs() / asked * 100.0));
        Ok(figures)
    }

    fn at_once(&self, contender: &str, topic: &str) -> Result<Figures> {
        let count = self.plan.produced_at_most();
        let before = self.broker.count(topic)?;
        let command = if contender == MB {
            let mut command = self.mb_produce(topic, count);
            command.args(["--rate", "max"]);
            command
        } else {
            let mut command = Command::new(own_program("load")?);
            command.arg("produce").args(["--bootstrap-server", &self.broker.address]);
            command.args(["--topic", topic, "--count", &count.to_string()]);
            command.args(["--bytes", &VALUE_BYTES.to_string()]);
            command
        };
        let usage = process::run(command, RUN_LIMIT)?;
        let there = self.broker.count(topic)? - before;
        if there != count {
            return Err(format!("{there} messages are in the topic, not {count}").into());
        }
        Ok(of_usage(&usage, count))
    }

    fn mb_produce(&self, topic: &str, count: u64) -> Command {
        let mut command = Command::new(&self.programs.mb);
        command.env("RUST_LOG", "warn").arg("produce");
        command.args(["--bootstrap-server", &self.broker.address, "--topic", topic]);
        command.args(["--client", "rdkafka", "--count", &count.to_string()]);
        command.args(["--message-bytes", &VALUE_BYTES.to_string()]);
        command
    }
}

//! W4: how old a record is when it is done, at 1000 a second: a bare loop, and mb as a library.

use std::process::Command;
use std::time::Duration;

use mb_bench::Result;
use serde::Deserialize;

use super::{Bench, Figures};
use crate::broker::own_program;
use crate::contender::{BEFORE, MB_KAFKA, MB_RDKAFKA};
use crate::figures::{Metric, Section};
use crate::plan::PARTITIONS;
use crate::process::Running;

const RATE: u64 = 1000;
/// Records of the first so many seconds are not measured: connections and caches are fresh.
const SKIPPED_S: u64 = 2;
const BARE: &str = "bare-latency";
const READY_LIMIT: Duration = Duration::from_secs(20);
/// What reader and writer get beyond the time that the writing takes.
const REST: Duration = Duration::from_secs(20);

/// The reader's last line; see bin/latency.rs.
#[derive(Deserialize)]
struct Said {
    records: u64,
    p50_us: f64,
    p99_us: f64,
    max_us: f64,
    tick_changes: u64,
    max_at_changes_us: Option<f64>,
}

impl Bench<'_> {
    pub(super) fn latency(&self) -> Result<Section> {
        let mut readers = vec![BARE, MB_RDKAFKA, MB_KAFKA];
        if self.plan.before {
            readers.push(BEFORE);
        }
        readers.retain(|reader| !self.plan.leaves_out(reader));
        let rows = self.in_turn("W4", &readers, self.plan.warm_rounds(), |index| {
            self.latency_once(readers[index])
        })?;
        let seconds = self.plan.latency_s();
        Ok(Section {
            name: "W4".into(),
            title: format!(
                "latency from produced to processed, {RATE} records/s for {seconds} s a round, ticks of 5 s"
            ),
            columns: vec![
                Metric::P50Us,
                Metric::P99Us,
                Metric::MaxUs,
                Metric::MaxAtChangesUs,
                Metric::CpuS,
                Metric::PeakBytes,
            ],
            rows,
            compared: true,
            notes: vec![
                format!(
                    "Each reader on a fresh topic; the first {SKIPPED_S} s of each round are not \
                     measured, which is its warm-up. The producer is the same for all (linger 0)."
                ),
                "mb has --tick-interval 0 and --max-wait 0. A tick's change is from its end, as the \
                 history has it, to the next one's beginning."
                    .into(),
            ],
            ..Section::default()
        })
    }

    fn latency_once(&self, reader: &str) -> Result<Figures> {
        let topic = self.fresh("latency");
        self.broker.create(&topic, PARTITIONS, &[])?;
        let (skip, count) = (RATE * SKIPPED_S, RATE * (SKIPPED_S + self.plan.latency_s()));
        let scratch = self.scratch()?;
        let common = ["--bootstrap-server", &self.broker.address, "--topic", &topic];
        let program = match &self.programs.before {
            Some(folder) if reader == BEFORE => folder.join("latency"),
            _ => own_program("latency")?,
        };
        let mut read = Command::new(program);
        let kind = match reader {
            BARE => "bare",
            BEFORE => MB_RDKAFKA,
            other => other,
        };
        read.arg(kind).args(common);
        read.args(["--count", &count.to_string(), "--skip", &skip.to_string()]);
        read.args(["--group", &topic]).arg("--data-dir").arg(&scratch.0);
        let mut write = Command::new(own_program("load")?);
        write.arg("paced").args(common).args(["--count", &count.to_string()]);
        write.args(["--rate", &RATE.to_string()]);

        let mut reading = Running::start(read)?;
        reading.wait_for_line("ready", READY_LIMIT)?;
        let limit = Duration::from_secs(count / RATE) + REST;
        // The reader knows first where something is wrong: it is waited for first.
        let writing = Running::start(write)?;
        let usage = reading.wait(limit)?;
        let written = writing.wait(limit)?;
        let expected = Duration::from_secs(count / RATE).mul_f64(1.02) + Duration::from_millis(500);
        if written.wall > expected {
            return Err(format!(
                "the producer took {:?}: it could not keep its pace",
                written.wall
            )
            .into());
        }
        let said: Said = serde_json::from_str(&usage.last_line)
            .map_err(|_| format!("its last line says nothing: {:?}", usage.last_line))?;
        if said.records != count {
            return Err(format!("it read {} records of {count}", said.records).into());
        }
        if reader != BARE {
            self.broker.check_committed(&topic, &topic)?;
            if said.tick_changes == 0 {
                return Err("no tick ended in that time".into());
            }
        }
        self.broker.delete(&topic)?;
        let mut figures = vec![
            (Metric::P50Us, said.p50_us),
            (Metric::P99Us, said.p99_us),
            (Metric::MaxUs, said.max_us),
            (Metric::CpuS, usage.cpu.as_secs_f64()),
            (Metric::PeakBytes, usage.peak_rss as f64),
        ];
        figures.extend(said.max_at_changes_us.map(|longest| (Metric::MaxAtChangesUs, longest)));
        Ok(figures)
    }
}

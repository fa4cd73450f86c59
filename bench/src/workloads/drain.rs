//! W1 to W3: a topic from its beginning to its end, by each contender.

use mb_bench::Result;
use serde::Deserialize;

use super::{Bench, Figures, RUN_LIMIT, in_history, of_usage};
use crate::contender::{BY_PARTITION, Contender, FRANZ, KAFKA, POLL, QUEUE, SPARK};
use crate::figures::{Metric, Row, Section};
use crate::plan::{CONCURRENCY, Drain, PARTITIONS, VALUE_BYTES};
use crate::process::Running;

/// A contender's last line.
#[derive(Deserialize)]
struct Said {
    records: u64,
    bytes: u64,
}

/// Rates (millions a second) that the bare loops are known to reach on a machine of two cores: means of
/// four benches, on a machine that others use too (franz 3.2 to 4.8, queue 2.2 to 3.4, poll 1.8 to 2.7).
/// They must keep these ratios to one another, within the tolerance. (With glibc's allocator those over
/// librdkafka reached 2.5 by the queue and 2.3 by poll, and franz 3.6.)
const KNOWN: [(&str, f64); 4] = [(FRANZ, 3.85), (QUEUE, 2.85), (POLL, 2.17), (KAFKA, 0.84)];
const TOLERANCE: f64 = 0.8;

impl Bench<'_> {
    pub(super) fn drain(&self, workload: &str) -> Result<Section> {
        let kafka = &self.broker.version;
        let drains = self.plan.drains();
        let drain = *drains.iter().find(|drain| drain.workload == workload).ok_or("no drain")?;
        let contenders = self.plan.contenders(workload, kafka);
        let topics = self.topics(&contenders, drain)?;
        let names: Vec<_> = contenders.iter().map(|contender| contender.name()).collect();
        let name = if *kafka == self.plan.kafka {
            workload.to_owned()
        } else {
            format!("{workload} on {kafka}")
        };
        let rows = self.in_turn(&name, &names, self.plan.short_rounds(), |index| {
            let contender = contenders[index];
            let count = self.plan.count_of(contender, drain);
            let topic = topics.iter().find(|(of, _)| *of == count).ok_or("no such topic")?;
            self.drain_once(contender, drain, count, &topic.1)
        })?;
        for (_, topic) in topics {
            self.broker.delete(&topic)?;
        }
        let mut columns = vec![Metric::RecordsPerS, Metric::WallS, Metric::CpuS, Metric::PeakBytes];
        if drain.batch == 1 {
            columns.insert(1, Metric::RunsPerS);
        }
        let void = if workload == "W1" { disturbed(&rows) } else { None };
        Ok(Section {
            title: format!(
                "drain {} × {VALUE_BYTES} B, {PARTITIONS} partitions, batches of {}, {CONCURRENCY} workers",
                crate::figures::thousands(drain.count as f64),
                drain.batch
            ),
            notes: notes(&names, drain),
            name,
            columns,
            rows,
            compared: true,
            void,
            ..Section::default()
        })
    }

    /// A topic for each number of records that somebody reads.
    fn topics(&self, contenders: &[Contender], drain: Drain) -> Result<Vec<(u64, String)>> {
        let mut counts: Vec<_> =
            contenders.iter().map(|contender| self.plan.count_of(*contender, drain)).collect();
        counts.sort_unstable();
        counts.dedup();
        let mut topics = Vec::new();
        for count in counts {
            let topic = format!("{}-{count}", drain.workload);
            self.broker.fill(&topic, PARTITIONS, count, VALUE_BYTES)?;
            topics.push((count, topic));
        }
        Ok(topics)
    }

    pub(super) fn drain_once(
        &self,
        contender: Contender,
        drain: Drain,
        count: u64,
        topic: &str,
    ) -> Result<Figures> {
        let (group, scratch) = (self.fresh("group"), self.scratch()?);
        let task = self.task(topic, &group, count, drain.batch);
        let mut running = Running::start(contender.command(self.programs, &task, &scratch.0)?)?;
        if contender.is_a_tree() {
            running = running.with_tree();
        }
        let usage = running.wait(RUN_LIMIT)?;
        let mut figures = of_usage(&usage, count);
        if contender.says_what_it_read() {
            let said: Said = serde_json::from_str(&usage.last_line)
                .map_err(|_| format!("its last line says nothing: {:?}", usage.last_line))?;
            let bytes = count * VALUE_BYTES as u64;
            if (said.records, said.bytes) != (count, bytes) {
                return Err(format!(
                    "it read {} records of {count}, {} bytes of {bytes}",
                    said.records, said.bytes
                )
                .into());
            }
        }
        if contender.commits() {
            self.broker.check_committed(topic, &group)?;
        }
        let mut runs = (drain.batch == 1).then_some(count);
        if contender.keeps_a_history() {
            let (rows, records) = in_history(&scratch.0)?;
            if records != count || runs.is_some_and(|runs| runs != rows) {
                return Err(format!(
                    "its history has {rows} runs of {records} records, the topic {count}"
                )
                .into());
            }
            runs = Some(rows);
        }
        if let (Some(runs), true) = (runs, contender.commits()) {
            figures.insert(1, (Metric::RunsPerS, runs as f64 / usage.wall.as_secs_f64()));
        }
        Ok(figures)
    }
}

fn notes(names: &[&str], drain: Drain) -> Vec<String> {
    let mut notes = vec![
        "Wall time from a process' start to its exit: start-up, that of the JVM too, is in it."
            .into(),
        "The topic's batches are those of Kafka's own producer, 16 KiB, not compressed.".into(),
    ];
    if names.contains(&BY_PARTITION) {
        notes.push(format!("{BY_PARTITION} reads 5,000 records only: compare its rate alone."));
    }
    if names.contains(&SPARK) {
        notes.push(format!(
            "{SPARK} takes all as one micro-batch; its memory is that of all its processes."
        ));
    }
    if drain.batch == 1 {
        notes.push("mb's runs are counted in its history file: one for each record.".into());
    }
    notes
}

/// Why the bare loops' rates say that something else was going on, if they do.
fn disturbed(rows: &[Row]) -> Option<String> {
    let rate =
        |name: &str| rows.iter().find(|row| row.contender == name)?.median(Metric::RecordsPerS);
    for (one, known_one) in KNOWN {
        for (other, known_other) in KNOWN {
            let (Some(rate_one), Some(rate_other)) = (rate(one), rate(other)) else { continue };
            let (ratio, known) = (rate_one / rate_other, known_one / known_other);
            if ratio < TOLERANCE * known {
                return Some(format!(
                    "{one} reached {ratio:.2} times the rate of {other}, expected at least \
                     {TOLERANCE} × {known:.2}: something else was at work, or the loops are not \
                     what they were"
                ));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rates: &[(&str, f64)]) -> Vec<Row> {
        let row = |(name, rate): &(&str, f64)| {
            let mut row = Row::new(*name);
            row.add(Metric::RecordsPerS, *rate);
            row
        };
        rates.iter().map(row).collect()
    }

    #[test]
    fn a_machine_half_as_fast_is_fine() {
        let half: Vec<_> = KNOWN.iter().map(|(name, rate)| (*name, rate / 2.0)).collect();
        assert_eq!(disturbed(&rows(&half)), None);
        assert_eq!(disturbed(&rows(&half[..1])), None);
    }

    #[test]
    fn one_that_falls_behind_is_told() {
        let fine = [(FRANZ, 3.0), (QUEUE, 2.5)];
        assert_eq!(disturbed(&rows(&fine)), None);
        let text = disturbed(&rows(&[(FRANZ, 2.0), (QUEUE, 2.5)])).unwrap();
        assert!(
            text.starts_with("franz reached 0.80 times the rate of bare-rdkafka-queue"),
            "{text}"
        );
        let text = disturbed(&rows(&[(FRANZ, 3.6), (KAFKA, 0.6)])).unwrap();
        assert!(text.starts_with("bare-kafka reached 0.17 times"), "{text}");
    }
}

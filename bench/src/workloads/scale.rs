//! W7: what more partitions, and a longer history, cost a drain.

use std::path::Path;
use std::process::Command;

use mb_bench::Result;
use rusqlite::Connection;

use super::{Bench, Figures, RUN_LIMIT, in_history, of_usage};
use crate::contender::{Contender, mb};
use crate::figures::{Metric, Section, thousands};
use crate::plan::{Drain, PARTITIONS, VALUE_BYTES};
use crate::process;

const PARTITION_COUNTS: [(&str, i32); 4] = [
    ("mb-1-partition", 1),
    ("mb-10-partitions", 10),
    ("mb-100-partitions", 100),
    ("mb-1000-partitions", 1000),
];
/// What more partitions cost those that mb is measured against.
const OTHERS: [(&str, Contender, &str); 4] = [
    ("bare-10-partitions", Contender::Bare("rdkafka-queue"), "mb-10-partitions"),
    ("bare-1000-partitions", Contender::Bare("rdkafka-queue"), "mb-1000-partitions"),
    ("least-10-partitions", Contender::Least, "mb-10-partitions"),
    ("least-1000-partitions", Contender::Least, "mb-1000-partitions"),
];
const BATCH: u64 = 500;
/// The history's part is W2 again.
const HISTORY_BATCH: u64 = 50;
const HISTORY_RUNS: u64 = 1_000_000;
const NO_RUNS: &str = "mb-no-runs";
const MANY_RUNS: &str = "mb-1000000-runs";

impl Bench<'_> {
    pub(super) fn scale(&self) -> Result<Section> {
        let count = self.plan.scale_count();
        let mut topics = Vec::new();
        for (name, partitions) in PARTITION_COUNTS {
            self.broker.fill(name, partitions, count, VALUE_BYTES)?;
            topics.push(name);
        }
        let mut others = OTHERS.to_vec();
        others.retain(|(name, ..)| !self.plan.leaves_out(name));
        let names: Vec<_> =
            topics.iter().copied().chain(others.iter().map(|(name, ..)| *name)).collect();
        let mut rows = self.in_turn("W7", &names, self.plan.short_rounds(), |index| {
            if let Some(topic) = topics.get(index) {
                let (group, scratch) = (self.fresh("group"), self.scratch()?);
                return self.drain_into(topic, &group, BATCH, &scratch.0);
            }
            let (_, contender, topic) = others[index - topics.len()];
            let drain = Drain { workload: "W7", count, batch: BATCH };
            let mut figures = self.drain_once(contender, drain, count, topic)?;
            figures.extend(of_each(&figures, count));
            Ok(figures)
        })?;
        for topic in topics {
            self.broker.delete(topic)?;
        }
        rows.extend(self.histories(count)?);
        Ok(Section {
            name: "W7".into(),
            title: format!(
                "drain {} × {VALUE_BYTES} B with 1 to 1000 partitions (batches of {BATCH}), and with a \
                 long history (batches of {HISTORY_BATCH})",
                thousands(count as f64)
            ),
            columns: vec![
                Metric::WallNsPerRecord,
                Metric::CpuNsPerRecord,
                Metric::WallS,
                Metric::CpuS,
                Metric::PeakBytes,
            ],
            rows,
            notes: vec![
                "Start-up and the last commit are in the times; start-alone has nothing to read."
                    .into(),
                format!(
                    "{MANY_RUNS}: the history has {} runs of the same group and topic, whose offsets \
                     were then moved back with mb offsets, and an mb before that ended in order; \
                     {NO_RUNS} has a fresh data directory and group.",
                    thousands(HISTORY_RUNS as f64)
                ),
                "After a kill, or where somebody else wrote to the history, the start reads all of it."
                    .into(),
            ],
            ..Section::default()
        })
    }

    fn histories(&self, count: u64) -> Result<Vec<crate::figures::Row>> {
        let topic = self.fresh("history");
        self.broker.fill(&topic, PARTITIONS, count, VALUE_BYTES)?;
        let (group, long) = (self.fresh("group"), self.scratch()?);
        self.drain_into(&topic, &group, HISTORY_BATCH, &long.0)?;
        lengthen(&long.0, HISTORY_RUNS)?;
        // Who finds a file that another program has written to reads all of it, once.
        process::run(self.scaled(&topic, &group, HISTORY_BATCH, &long.0), RUN_LIMIT)?;
        let names = [NO_RUNS, MANY_RUNS];
        let rows = self.in_turn("W7", &names, self.plan.short_rounds(), |index| {
            if names[index] == NO_RUNS {
                let (group, scratch) = (self.fresh("group"), self.scratch()?);
                return self.drain_into(&topic, &group, HISTORY_BATCH, &scratch.0);
            }
            let mut reset = Command::new(&self.programs.mb);
            reset.args(["offsets", "--to-earliest", "--execute"]).arg("--data-dir").arg(&long.0);
            reset.args(["--bootstrap-server", &self.broker.address, "--topic", &topic]);
            reset.args(["--group", &group]);
            process::run(reset, RUN_LIMIT)?;
            self.drain_into(&topic, &group, HISTORY_BATCH, &long.0)
        })?;
        let starts = [
            "mb-no-runs-start-alone",
            "mb-1000000-runs-start-alone",
            "mb-1000000-runs-start-after-a-kill",
        ];
        let (other, short) = (self.fresh("group"), self.scratch()?);
        self.drain_into(&topic, &other, HISTORY_BATCH, &short.0)?;
        let mut rows = rows;
        rows.extend(self.in_turn("W7", &starts, self.plan.short_rounds(), |index| {
            let done = [(&other, &short), (&group, &long), (&group, &long)][index];
            if index == 2 {
                mb::history::clean_shutdown::invalidate(&long.0.join(mb::history::FILE))?;
            }
            let usage =
                process::run(self.scaled(&topic, done.0, HISTORY_BATCH, &done.1.0), RUN_LIMIT)?;
            Ok(of_usage(&usage, 0).split_off(1))
        })?);
        self.broker.delete(&topic)?;
        Ok(rows)
    }

    fn scaled(&self, topic: &str, group: &str, batch: u64, data_dir: &Path) -> Command {
        let task = self.task(topic, group, self.plan.scale_count(), batch);
        let mut command = mb(&self.programs.mb, &task, data_dir);
        command.args(["--client", "rdkafka", "--step", "discard"]);
        command
    }

    fn drain_into(&self, topic: &str, group: &str, batch: u64, data_dir: &Path) -> Result<Figures> {
        let count = self.plan.scale_count();
        let records = |data_dir| in_history(data_dir).map_or(0, |(_, records)| records);
        let before = records(data_dir);
        let usage = process::run(self.scaled(topic, group, batch, data_dir), RUN_LIMIT)?;
        self.broker.check_committed(topic, group)?;
        let done = records(data_dir) - before;
        if done != count {
            return Err(format!("its history has {done} records more, the topic {count}").into());
        }
        let mut figures = of_usage(&usage, count);
        figures.extend(of_each(&figures, count));
        Ok(figures)
    }
}

/// Nanoseconds of a record.
fn of_each(figures: &Figures, count: u64) -> Figures {
    let each = |(metric, seconds): &(Metric, f64)| {
        let of_each = match metric {
            Metric::WallS => Metric::WallNsPerRecord,
            Metric::CpuS => Metric::CpuNsPerRecord,
            _ => return None,
        };
        Some((of_each, seconds * 1e9 / count as f64))
    };
    figures.iter().filter_map(each).collect()
}

/// Repeats the runs that are there until there are `runs`.
fn lengthen(data_dir: &Path, runs: u64) -> Result<()> {
    let history = Connection::open(data_dir.join(mb::history::FILE))?;
    let there: u64 = history.query_row("SELECT count(*) FROM runs", [], |row| row.get(0))?;
    if there == 0 {
        return Err("the history has no runs to repeat".into());
    }
    let missing = runs.saturating_sub(there);
    // All columns but the first, the number; whatever the schema's version has.
    let mut names = history.prepare("SELECT name FROM pragma_table_info('runs') WHERE pk = 0")?;
    let names = names.query_map([], |row| row.get::<_, String>(0))?;
    let names = names.collect::<rusqlite::Result<Vec<_>>>()?.join(", ");
    history.execute(
        &format!(
            "WITH RECURSIVE times(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM times WHERE n < ?1) \
             INSERT INTO runs({names}) SELECT {names} FROM times CROSS JOIN \
             (SELECT * FROM runs ORDER BY id LIMIT ?2) LIMIT ?3"
        ),
        [missing / there + 1, there, missing],
    )?;
    history.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok(())
}

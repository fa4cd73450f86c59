//! The workloads, one file each, and what they share: the broker, fresh names and folders, rounds.

mod commands;
mod drain;
mod files;
mod latency;
mod memory;
mod producing;
mod scale;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mb::model::run::RunState;
use mb_bench::Result;
use rusqlite::Connection;

use crate::broker::Broker;
use crate::contender::{Programs, Task};
use crate::figures::{Metric, Row, Section};
use crate::interrupt;
use crate::plan::{CONCURRENCY, Plan};
use crate::process::Usage;

/// No contender of any workload takes so long.
const RUN_LIMIT: Duration = Duration::from_secs(300);

pub struct Bench<'a> {
    pub plan: &'a Plan,
    pub programs: &'a Programs,
    /// Everything that is written is beneath it.
    pub folder: &'a Path,
    pub broker: &'a Broker,
    /// What makes names fresh.
    pub fresh: Cell<u32>,
    pub start: Instant,
}

/// A folder that goes with the value.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What one round of one contender gave.
type Figures = Vec<(Metric, f64)>;

impl Bench<'_> {
    /// The workload's sections. An error is only what ends the whole bench; a contender's is in its
    /// row.
    ///
    /// # Errors
    /// Once a signal came, or where the broker does not do what it is asked for.
    pub fn measure(&self, workload: &str) -> Result<Vec<Section>> {
        let start = Instant::now();
        let mut sections = match workload {
            "W1" | "W2" | "W3" => vec![self.drain(workload)?],
            "W4" => vec![self.latency()?],
            "W5" => vec![self.producing()?],
            "W6" => vec![self.memory()?],
            "W7" => vec![self.scale()?],
            "W8" => vec![self.commands()?],
            "W9" => vec![self.files()?],
            other => return Err(format!("no workload is called {other}").into()),
        };
        for section in &mut sections {
            section.kafka.clone_from(&self.broker.version);
            eprintln!("bench: {} took {:.0} s", section.name, start.elapsed().as_secs_f64());
        }
        Ok(sections)
    }

    fn fresh(&self, what: &str) -> String {
        self.fresh.set(self.fresh.get() + 1);
        format!("{what}-{}", self.fresh.get())
    }

    /// What is the same in all workloads that drain.
    fn task<'t>(&'t self, topic: &'t str, group: &'t str, count: u64, batch: u64) -> Task<'t> {
        Task { address: &self.broker.address, topic, count, batch, concurrency: CONCURRENCY, group }
    }

    fn scratch(&self) -> Result<Scratch> {
        let folder = self.folder.join(self.fresh("data"));
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        Ok(Scratch(folder))
    }

    /// Runs all in turn, round after round; those that take long in the first `plan.rounds` only. Round 0
    /// is the warm-up, and each second round goes backwards, so that nobody always comes after the same one.
    /// One that fails is void from then on.
    fn in_turn(
        &self,
        workload: &str,
        contenders: &[&str],
        rounds: std::ops::RangeInclusive<u32>,
        mut run: impl FnMut(usize) -> Result<Figures>,
    ) -> Result<Vec<Row>> {
        let mut rows: Vec<_> = contenders.iter().map(|name| Row::new(*name)).collect();
        for round in rounds {
            let is_due = |row: &Row| {
                row.void.is_none()
                    && (round <= self.plan.rounds || !Plan::takes_long(&row.contender))
            };
            let mut due: Vec<_> =
                rows.iter_mut().enumerate().filter(|(_, row)| is_due(row)).collect();
            if round % 2 == 1 {
                due.reverse();
            }
            for (index, row) in due {
                let name = &contenders[index];
                let figures = match run(index) {
                    Ok(figures) => figures,
                    Err(cause) => {
                        interrupt::check()?;
                        eprintln!("bench: {workload} {name}: {cause}");
                        row.void = Some(cause.to_string());
                        continue;
                    }
                };
                let shown = figures
                    .iter()
                    .map(|(metric, figure)| format!("{} {}", metric.show(*figure), metric.title()));
                let shown = shown.collect::<Vec<_>>().join(", ");
                let when = if round == 0 { "warm-up".into() } else { format!("round {round}") };
                let at = self.start.elapsed().as_secs_f64();
                eprintln!("bench: {at:4.0} s: {workload} {when}: {name}: {shown}");
                if round > 0 {
                    figures.into_iter().for_each(|(metric, figure)| row.add(metric, figure));
                }
            }
        }
        Ok(rows)
    }
}

fn of_usage(usage: &Usage, records: u64) -> Figures {
    let wall = usage.wall.as_secs_f64();
    vec![
        (Metric::RecordsPerS, records as f64 / wall),
        (Metric::WallS, wall),
        (Metric::CpuS, usage.cpu.as_secs_f64()),
        (Metric::PeakBytes, usage.peak_rss as f64),
    ]
}

/// Runs that succeeded, and their records, as mb's history has them.
fn in_history(data_dir: &Path) -> Result<(u64, u64)> {
    let history = Connection::open(data_dir.join(mb::history::FILE))?;
    let counted = "SELECT count(*), ifnull(sum(records), 0) FROM runs WHERE state = ?1";
    Ok(history
        .query_row(counted, [RunState::Succeeded.code()], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

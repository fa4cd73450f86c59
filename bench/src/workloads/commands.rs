//! W8: how many commands a second `mb --exec` runs, against `xargs`.

use std::process::Command;

use mb_bench::Result;

use super::{Bench, Figures, RUN_LIMIT, in_history, of_usage};
use crate::contender::mb;
use crate::figures::{Metric, Section, thousands};
use crate::plan::{CONCURRENCY, PARTITIONS, VALUE_BYTES};
use crate::process;

const COMMAND: &str = "cat >/dev/null";
const MB: &str = "mb-exec";
const XARGS: &str = "xargs";

impl Bench<'_> {
    pub(super) fn commands(&self) -> Result<Section> {
        let (topic, count) = (self.fresh("commands"), self.plan.commands());
        self.broker.fill(&topic, PARTITIONS, count, VALUE_BYTES)?;
        let mut contenders = vec![XARGS, MB];
        contenders.retain(|name| !self.plan.leaves_out(name));
        let rows = self.in_turn("W8", &contenders, self.plan.all_rounds(), |index| {
            if contenders[index] == XARGS { by_xargs(count) } else { self.by_mb(&topic, count) }
        })?;
        self.broker.delete(&topic)?;
        Ok(Section {
            name: "W8".into(),
            title: format!(
                "{} × sh -c '{COMMAND}', {CONCURRENCY} at a time",
                thousands(count as f64)
            ),
            columns: vec![Metric::RunsPerS, Metric::WallS, Metric::CpuS],
            rows,
            compared: true,
            notes: vec![
                "mb runs one a record, with the record as JSON on its stdin, and keeps each in the \
                 history; xargs' have no stdin. CPU time is that of all processes."
                    .into(),
            ],
            ..Section::default()
        })
    }

    fn by_mb(&self, topic: &str, count: u64) -> Result<Figures> {
        let (group, scratch) = (self.fresh("group"), self.scratch()?);
        let task = self.task(topic, &group, count, 1);
        let mut command = mb(&self.programs.mb, &task, &scratch.0);
        command.args(["--client", "rdkafka", "--exec", COMMAND]);
        let usage = process::run(command, RUN_LIMIT)?;
        self.broker.check_committed(topic, &group)?;
        let (runs, _) = in_history(&scratch.0)?;
        if runs != count {
            return Err(format!("its history has {runs} runs, not {count}").into());
        }
        Ok(by_runs(of_usage(&usage, count)))
    }
}

fn by_xargs(count: u64) -> Result<Figures> {
    let mut command = Command::new("sh");
    let script = format!("seq {count} | xargs -P{CONCURRENCY} -n1 sh -c '{COMMAND}'");
    command.args(["-c", &script]);
    Ok(by_runs(of_usage(&process::run(command, RUN_LIMIT)?, count)))
}

/// A record is a run here.
fn by_runs(mut figures: Figures) -> Figures {
    figures[0].0 = Metric::RunsPerS;
    figures
}

//! W9: a topic to files: `mb --step files`, a file a run, against `kcat` into one.

use std::fs;
use std::path::Path;
use std::process::Command;

use mb_bench::Result;

use super::{Bench, Figures, RUN_LIMIT, in_history, of_usage};
use crate::contender::mb;
use crate::figures::{Metric, Section, thousands};
use crate::plan::{PARTITIONS, VALUE_BYTES};
use crate::process;

const BATCH: u64 = 500;
const MB: &str = "mb-files";
const KCAT: &str = "kcat";

impl Bench<'_> {
    pub(super) fn files(&self) -> Result<Section> {
        let (topic, count) = (self.fresh("files"), self.plan.scale_count());
        self.broker.fill(&topic, PARTITIONS, count, VALUE_BYTES)?;
        let mut contenders = vec![KCAT, MB];
        contenders.retain(|name| !self.plan.leaves_out(name));
        let rows = self.in_turn("W9", &contenders, self.plan.all_rounds(), |index| {
            if contenders[index] == KCAT {
                self.by_kcat(&topic, count)
            } else {
                self.by_files(&topic, count)
            }
        })?;
        self.broker.delete(&topic)?;
        Ok(Section {
            name: "W9".into(),
            title: format!(
                "{} × {VALUE_BYTES} B to files, batches of {BATCH}",
                thousands(count as f64)
            ),
            columns: vec![
                Metric::RecordsPerS,
                Metric::BytesWritten,
                Metric::WallS,
                Metric::CpuS,
                Metric::PeakBytes,
            ],
            rows,
            compared: true,
            notes: vec![
                "mb writes a file a run, fsynced, renamed, its folder fsynced; kcat -J writes one file \
                 and syncs nothing. Both write a line of JSON a record. No goal."
                    .into(),
            ],
            ..Section::default()
        })
    }

    fn by_files(&self, topic: &str, count: u64) -> Result<Figures> {
        let (group, scratch) = (self.fresh("group"), self.scratch()?);
        let out = scratch.0.join("out");
        let task = self.task(topic, &group, count, BATCH);
        let mut command = mb(&self.programs.mb, &task, &scratch.0);
        command.args(["--client", "rdkafka", "--step", "files", "--out"]).arg(&out);
        let usage = process::run(command, RUN_LIMIT)?;
        self.broker.check_committed(topic, &group)?;
        let (_, records) = in_history(&scratch.0)?;
        if records != count {
            return Err(format!("its history has {records} records, not {count}").into());
        }
        let mut figures = of_usage(&usage, count);
        figures.insert(1, (Metric::BytesWritten, bytes_in(&out)? as f64));
        Ok(figures)
    }

    fn by_kcat(&self, topic: &str, count: u64) -> Result<Figures> {
        let Some(kcat) = ["kcat", "kafkacat"].into_iter().find(|name| is_in_path(name)) else {
            return Err("not there: apt-get install kcat (or leave it out: --without kcat)".into());
        };
        let scratch = self.scratch()?;
        fs::create_dir_all(&scratch.0)?;
        let file = scratch.0.join("kcat.json");
        let mut command = Command::new("sh");
        let script = "exec \"$0\" -C -e -q -J -o beginning -b \"$1\" -t \"$2\" >\"$3\"";
        command.args(["-c", script, kcat, &self.broker.address, topic]).arg(&file);
        let usage = process::run(command, RUN_LIMIT)?;
        let lines = fs::read(&file)?.iter().filter(|byte| **byte == b'\n').count() as u64;
        if lines < count {
            return Err(format!("it wrote {lines} lines, not {count}").into());
        }
        let mut figures = of_usage(&usage, count);
        figures.insert(1, (Metric::BytesWritten, fs::metadata(&file)?.len() as f64));
        Ok(figures)
    }
}

fn is_in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn bytes_in(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.metadata()?;
        sum += if kind.is_dir() { bytes_in(&entry.path())? } else { kind.len() };
    }
    Ok(sum)
}

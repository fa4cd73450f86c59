//! `mb-bench`: starts brokers, runs the workloads, prints how the contenders compare.
//!
//! The data's way: `plan` says what is measured, `broker` holds the topics, `contender` and
//! `workloads` run each one as a `process`, `figures` keeps what it took; `goals` judges that,
//! `report` and `chart` show it.

mod broker;
mod chart;
mod contender;
mod figures;
mod goals;
mod interrupt;
mod plan;
mod process;
mod report;
mod workloads;

use std::cell::Cell;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use argh::FromArgs;
use mb_bench::Result;
use rustix::fs::{FlockOperation, flock};

use crate::broker::Broker;
use crate::contender::Programs;
use crate::figures::Section;
use crate::plan::Plan;
use crate::report::{Machine, Results};
use crate::workloads::Bench;

/// Measures mb against bare clients and other tools, on real brokers that it starts itself.
#[derive(FromArgs)]
struct Args {
    /// only these workloads, such as W1,W4
    #[argh(option, default = "String::new()")]
    only: String,
    /// without these contenders, by the beginning of their names, such as franz,parallel-consumer
    #[argh(option, default = "String::new()")]
    without: String,
    /// rounds that count (default 3); one more comes first
    #[argh(option, default = "3")]
    rounds: u32,
    /// less of everything: W1, W2 and W3 in 3 minutes
    #[argh(switch)]
    quick: bool,
    /// spark too
    #[argh(switch)]
    all: bool,
    /// the mb to measure (default target/release/mb)
    #[argh(option)]
    mb: Option<PathBuf>,
    /// the folder of another build of mb and mb-bench, which takes part in W1 to W4 as before-mb-rdkafka
    #[argh(option)]
    before: Option<PathBuf>,
    /// the broker's version (default 3.9.1, and W1 on 4.4.0 too)
    #[argh(option)]
    kafka: Option<String>,
}

fn main() -> ExitCode {
    let args: Args = argh::from_env();
    let plan = Plan::new(
        &args.only,
        &args.without,
        args.rounds,
        args.quick,
        args.all,
        args.before.is_some(),
        args.kafka.clone(),
    );
    let plan = match plan {
        Ok(plan) => plan,
        Err(text) => {
            eprintln!("mb-bench: {text}");
            return ExitCode::from(64);
        }
    };
    match run(&args, &plan) {
        Ok(code) => code,
        Err(_) if interrupt::came() => {
            eprintln!("bench: interrupted; nothing was written");
            ExitCode::from(130)
        }
        Err(cause) => {
            eprintln!("bench: {cause}");
            ExitCode::from(1)
        }
    }
}

fn run(args: &Args, plan: &Plan) -> Result<ExitCode> {
    let start = Instant::now();
    interrupt::listen()?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let folder = root.join("target/bench");
    fs::create_dir_all(&folder)?;
    let lock = File::create(folder.join("lock"))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| format!("another bench is at work in {}", folder.display()))?;
    remove_leftovers(&folder)?;
    let mb = args.mb.clone().unwrap_or_else(|| root.join("target/release/mb"));
    let programs =
        Programs { mb, before: args.before.clone(), contenders: folder.join("contenders") };
    let machine = machine(&programs)?;

    let mut sections = Vec::new();
    let mut brokers = vec![(plan.kafka.clone(), plan.workloads.clone())];
    brokers.extend(plan.newer_kafka.clone().map(|version| (version, vec!["W1".to_owned()])));
    let fresh = Cell::new(0);
    for (version, workloads) in brokers {
        interrupt::check()?;
        let broker = Broker::start(&root, &folder, &version)?;
        let (plan, programs, folder, broker) = (plan, &programs, folder.as_path(), &broker);
        let bench = Bench { plan, programs, folder, broker, fresh: Cell::new(fresh.get()), start };
        for workload in workloads {
            match bench.measure(&workload) {
                Ok(measured) => sections.extend(measured),
                Err(cause) => {
                    interrupt::check()?;
                    eprintln!("bench: {workload}: {cause}");
                    sections.push(Section {
                        name: workload,
                        title: "not measured".into(),
                        kafka: version.clone(),
                        void: Some(cause.to_string()),
                        ..Section::default()
                    });
                }
            }
        }
        fresh.set(bench.fresh.get());
    }

    let judged = report::judge(goals::GOALS, &sections);
    for section in &sections {
        println!("{}", report::table(section));
    }
    if plan.before {
        println!("{}", report::before_table(&sections));
    }
    println!("{}", report::goals_table(&judged));
    let mode = if plan.quick { "quick" } else { "full" };
    let seconds = start.elapsed().as_secs_f64();
    let results = folder.join("results.json");
    let written =
        Results { machine, mode, rounds: plan.rounds, seconds, sections: &sections, goals: judged };
    fs::write(&results, serde_json::to_string_pretty(&written)?)?;
    println!("{seconds:.0} s in all; the figures: {}", results.display());
    let picture = folder.join("chart.svg");
    if chart::write(&picture, &sections)? {
        println!("the chart: {}", picture.display());
    }
    let failed = not_measured(&sections);
    for what in &failed {
        eprintln!("bench: not measured: {what}");
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Data of a bench that was killed. (Its broker is ended by the next one of its version.)
fn remove_leftovers(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("data-") {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn not_measured(sections: &[Section]) -> Vec<String> {
    let mut failed = Vec::new();
    for section in sections {
        failed.extend(section.void.iter().map(|why| format!("{}: {why}", section.name)));
        let rows = section.rows.iter().filter_map(|row| {
            Some(format!("{} {}: {}", section.name, row.contender, row.void.as_ref()?))
        });
        failed.extend(rows);
    }
    failed
}

fn machine(programs: &Programs) -> Result<Machine> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let memory_kb: u64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
    let load = read("/proc/loadavg");
    let limit = Duration::from_secs(10);
    let mut version = Command::new(&programs.mb);
    version.arg("--version");
    Ok(Machine {
        cpu: field(&read("/proc/cpuinfo"), "model name"),
        cores: std::thread::available_parallelism()?.get(),
        memory_bytes: memory_kb * 1024,
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        load_before: load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default(),
        mb: process::run(version, limit)?.last_line,
    })
}

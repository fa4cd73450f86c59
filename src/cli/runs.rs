//! `mb runs`: the newest runs as a table, one run whole, or what is to be done to some.

use std::fmt::Write as _;

use serde_json::json;

use crate::api::instance::Instance;
use crate::api::operations::runs::{GetRun, ListRuns};
use crate::cli::args::{RunsAction, RunsArgs};
use crate::cli::{output, steer};
use crate::config::units::format_bytes;
use crate::history::query::{RunDetail, RunRow, Selection};
use crate::model::clock::format_ms as format_time;
use crate::model::error::{Error, Result};

/// # Errors
/// `Usage` for an id that is none or a state that there is not; `Config` where there is no
/// history; `Other` where there is no such run.
pub fn run(args: &RunsArgs) -> Result<()> {
    let data_dir = &args.connection.data_dir;
    match &args.action {
        RunsAction::List => list(args),
        RunsAction::Show(id) => show(args, id),
        RunsAction::Cancel { ids, note } => steer::cancel_runs(data_dir, ids, note),
        RunsAction::Again { ids } => steer::runs_again(data_dir, ids),
    }
}

fn list(args: &RunsArgs) -> Result<()> {
    let selection = &args.selection;
    let mut instance = Instance::of(&args.connection.data_dir)?;
    let heading = [
        "RUN", "STATE", "GROUP", "KEY", "RECORDS", "BYTES", "ATTEMPTS", "QUEUED", "WAIT",
        "RUN-TIME", "WORKER", "ERROR",
    ];
    let limit = selection.limit;
    output::print_pages(args.json, heading, limit, row, |last: Option<&RunRow>, limit| {
        let page = Selection { before: last.map(|last| last.id), limit, ..selection.clone() };
        instance.perform(ListRuns(page))
    })
}

fn show(args: &RunsArgs, id: &str) -> Result<()> {
    let number: i64 = id.parse().ok().filter(|id| *id > 0).ok_or_else(|| {
        Error::Usage(format!(
            "RUN-ID: got {id:?}, expected a run's number, as in the first column of mb runs"
        ))
    })?;
    let detail = Instance::of(&args.connection.data_dir)?.perform(GetRun { id: number })?;
    let detail = detail.ok_or_else(|| {
        Error::Other(format!(
            "run {number} is not in the history of {}: it never was, or --history-keep has removed it",
            args.connection.data_dir.display()
        ))
    })?;
    if args.json {
        return output::print_json(&[json!(detail)]);
    }
    output::print(&text(&detail))
}

fn row(run: &RunRow) -> [String; 12] {
    let dash = || "-".to_owned();
    [
        run.id.to_string(),
        run.state.clone(),
        run.group.clone(),
        run.key.clone(),
        run.records.to_string(),
        format_bytes(run.bytes),
        run.attempts.to_string(),
        format_time(run.queued_ms),
        run.started_ms.map_or_else(dash, |started| millis((started - run.queued_ms).max(0) as f64)),
        run.run_ms.map_or_else(dash, millis),
        run.worker.map_or_else(dash, |worker| worker.to_string()),
        run.error.as_deref().map_or_else(dash, |error| error.chars().take(60).collect()),
    ]
}

fn text(detail: &RunDetail) -> String {
    let run = &detail.run;
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // A String takes whatever is written to it.
        let _ = writeln!(text, "{name:<14} {}", output::escape(value));
    };
    line("run", &run.id.to_string());
    line("key", &run.key);
    line("state", &run.state);
    if let Some(parent) = run.parent {
        line("split from", &format!("run {parent}"));
    }
    line("group", &run.group);
    line("client", &run.client);
    line("records", &run.records.to_string());
    line("bytes", &format_bytes(run.bytes));
    line("queued", &format_time(run.queued_ms));
    if let (Some(started), Some(ended)) = (run.started_ms, run.ended_ms) {
        line("last attempt", &format!("{} to {}", format_time(started), format_time(ended)));
    }
    line("attempts", &run.attempts.to_string());
    if detail.dead_letters > 0 {
        line("dead letters", &detail.dead_letters.to_string());
    }
    if let Some(error) = &run.error {
        line("error", error);
    }
    for attempt in &detail.failed_attempts {
        let figures = format!(
            "at {}, {} on worker {}: {}",
            format_time(attempt.started_ms),
            millis(attempt.run_ms),
            attempt.worker,
            attempt.error
        );
        line(&format!("attempt {}", attempt.number), &figures);
    }
    if let Some(output) = &detail.output {
        text.push_str("output\n");
        for printed in output.lines() {
            let _ = writeln!(text, "  {}", output::escape(printed));
        }
    }
    text
}

fn millis(millis: f64) -> String {
    if millis >= 10_000.0 { format!("{:.1} s", millis / 1000.0) } else { format!("{millis:.1} ms") }
}

//! `mb runs`: lists runs, shows one in full, cancels unfinished runs, and makes runs again.

use std::fmt::Write as _;

use log::info;
use serde_json::json;

use crate::api::instance::Instance;
use crate::api::operations::cancel_run::{CancelEffect, CancelRun};
use crate::api::operations::runs::{Again, GetRun, ListRuns, RanAgain, ReplayRun, RunAgain};
use crate::cli::errors::{shown, usage};
use crate::cli::flags::{Command, Common, Flags, flags};
use crate::cli::terminal::Terminal;
use crate::cli::{control, output, values};
use crate::config::Client;
use crate::config::limits;
use crate::config::units::format_bytes;
use crate::history::query::{RunDetail, RunRow, Selection};
use crate::model::clock::format_ms as format_time;
use crate::model::error::{Error, Result};

flags! {
    #[argh(
        description = "Lists the runs in the history, newest first, or shows one run in full, whether an mb runs on the data \
            directory or not.\n\
            \n\
            With a running mb, cancel gives up on unfinished runs, whose records become dead letters. again \
            processes runs once more, in new runs: of a run that left open dead letters those, and of any other one all \
            of its offsets. replay processes all offsets, whatever came of the run.\n\
            \n\
            TIME is 2026-11-24T06:10:30Z, or has an offset such as +01:00. Without either it is UTC, and a date \
            alone is its midnight.",
        example = "mb runs --state failed\nmb runs 17\nmb runs cancel 17 --note 'wrong table'\nmb runs again 17"
    )]
    struct RunsFlags {
        "Cancelling": {
            /// the run to show; or cancel, again or replay, followed by one run or more
            #[argh(positional, arg_name = "[ACTION] RUN-ID")]
            words: Vec<String>,

            /// with cancel: the reason, which is stored with the run
            #[argh(option, arg_name = "TEXT", from_str_fn(values::text))]
            note: Option<String>,
        }
        "Selection": {
            /// only runs in this state: queued, running, succeeded, failed, halted, split or voided
            #[argh(option, arg_name = "STATE", from_str_fn(values::text))]
            state: Option<String>,

            /// only runs of this partition
            #[argh(option, arg_name = "P", from_str_fn(values::whole::<0, { i32::MAX as u64 }, _>))]
            partition: Option<i32>,

            /// only runs whose error contains TEXT
            #[argh(option, arg_name = "TEXT", from_str_fn(values::text))]
            error: Option<String>,

            /// only runs queued at TIME or later
            #[argh(option, arg_name = "TIME", from_str_fn(values::time))]
            since: Option<i64>,

            /// only runs queued before TIME
            #[argh(option, arg_name = "TIME", from_str_fn(values::time))]
            until: Option<i64>,

            /// only runs of this redrive or replay
            #[argh(option, arg_name = "N", from_str_fn(values::whole::<1, { i64::MAX as u64 }, _>))]
            request: Option<i64>,

            /// the newest N runs, 1 to 1000000 (default 20)
            #[argh(option, arg_name = "N", from_str_fn(values::whole::<1, 1_000_000, _>))]
            limit: Option<u32>,
        }
        "Output": {
            /// print one JSON array
            #[argh(switch)]
            json: bool,
        }
    }
}

#[derive(Debug)]
pub struct RunsArgs {
    pub common: Common,
    pub action: Action,
    pub json: bool,
}

/// What `mb runs` does.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    List(Box<Selection>),
    Show { id: i64 },
    Cancel { ids: Vec<i64>, note: String },
    Again { ids: Vec<i64> },
    Replay { ids: Vec<i64> },
}

impl Command for RunsFlags {
    const NAME: &'static str = "runs";
    const SUMMARY: &'static str = "list runs, show one, cancel them or make them again";
    const USAGE: &'static [&'static str] =
        &["[FLAGS] [RUN-ID]", "[FLAGS] cancel RUN-ID…", "[FLAGS] again|replay RUN-ID…"];
    type Args = RunsArgs;

    fn check(self) -> Result<RunsArgs> {
        let common = self.common()?;
        let action = self.action(&common)?;
        Ok(RunsArgs { common, action, json: self.json })
    }

    fn run(args: RunsArgs, _: &Terminal) -> Result<()> {
        match &args.action {
            Action::List(selection) => list(&args, selection),
            Action::Show { id } => show(&args, *id),
            Action::Cancel { ids, note } => cancel(&args, ids, note),
            Action::Again { ids } => again(&args, ids),
            Action::Replay { ids } => replay(&args, ids),
        }
    }
}

impl RunsFlags {
    fn action(&self, common: &Common) -> Result<Action> {
        let action = match &self.words[..] {
            [] => Action::List(Box::new(self.selection(common))),
            [action, ids @ ..] if ["cancel", "replay", "again"].contains(&action.as_str()) => {
                let ids = values::ids("RUN-ID", ids, "mb runs")?;
                if ids.is_empty() || ids.len() > limits::REQUEST_IDS {
                    return usage(format!(
                        "RUN-ID: got {} of them, expected 1 to {} after {action}",
                        ids.len(),
                        limits::REQUEST_IDS
                    ));
                }
                match action.as_str() {
                    "cancel" => Action::Cancel { ids, note: self.note.clone().unwrap_or_default() },
                    "again" => Action::Again { ids },
                    _ => Action::Replay { ids },
                }
            }
            [id] => {
                Action::Show { id: values::ids("RUN-ID", std::slice::from_ref(id), "mb runs")?[0] }
            }
            [_, extra, ..] => {
                return usage(format!(
                    "argument: got {} as well, expected one RUN-ID, or cancel, again or replay in front of several",
                    shown(extra)
                ));
            }
        };
        if self.note.is_some() && !matches!(action, Action::Cancel { .. }) {
            return usage(
                "--note: got this flag without cancel, expected mb runs cancel RUN-ID… --note TEXT",
            );
        }
        if let (Some(word), true) = (self.words.first(), self.selects()) {
            return usage(format!(
                "argument: got {} and --state, --partition, --error, --since, --until, --request or \
                 --limit, expected a RUN-ID or a selection",
                shown(word)
            ));
        }
        Ok(action)
    }

    fn selection(&self, common: &Common) -> Selection {
        Selection {
            state: self.state.clone(),
            topic: common.typed_topic(),
            group: common.typed_group(),
            of_request: self.request,
            partition: self.partition,
            error: self.error.clone(),
            since: self.since,
            until: self.until,
            limit: self.limit.unwrap_or(values::LIST_LIMIT),
            ..Selection::default()
        }
    }

    /// Whether a flag selects runs of a list.
    fn selects(&self) -> bool {
        let texts = self.state.is_some() || self.error.is_some();
        let times = self.since.is_some() || self.until.is_some();
        let numbers = self.partition.is_some() || self.request.is_some() || self.limit.is_some();
        texts || times || numbers
    }
}

fn list(args: &RunsArgs, selection: &Selection) -> Result<()> {
    let mut instance = Instance::of(&args.common.connection.data_dir)?;
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

fn show(args: &RunsArgs, id: i64) -> Result<()> {
    let data_dir = &args.common.connection.data_dir;
    let detail = Instance::of(data_dir)?.perform(GetRun { id })?;
    let detail = detail.ok_or_else(|| {
        Error::Other(format!(
            "run {id} is not in the history of {}: it never existed, or --history-keep has removed it",
            data_dir.display()
        ))
    })?;
    if args.json {
        return output::print_json(&[json!(detail)]);
    }
    output::print(&text(&detail))
}

/// Gives up on unfinished runs; runs before the first error stay cancelled.
fn cancel(args: &RunsArgs, ids: &[i64], note: &str) -> Result<()> {
    let mut client = control::connect(&args.common.connection.data_dir)?;
    for id in ids {
        let cancelled = client.perform(CancelRun { id: *id, note: note.to_owned() })?;
        let what = match cancelled.did {
            CancelEffect::Waiting => "it was waiting, and its step will not run",
            CancelEffect::Ended => "its command is being ended",
            CancelEffect::Stalled => {
                "its step runs inside mb and cannot be ended, so the run is marked as stalled until the \
                 step returns"
            }
        };
        info!("run {id} is cancelled: {what}; its records become dead letters");
    }
    Ok(())
}

/// Processes runs again; requests made before the first error stay.
fn again(args: &RunsArgs, ids: &[i64]) -> Result<()> {
    let mut client = control::connect(&args.common.connection.data_dir)?;
    let mut made = Vec::new();
    for id in ids {
        let ran = client.perform(RunAgain { id: *id })?;
        let RanAgain { request, did, dead_letters } = &ran;
        match did {
            Again::Redrive => info!(
                "run {id}: its {dead_letters} open dead letter(s) are redriven as request {request}: mb runs \
                 --request {request} lists the new runs"
            ),
            Again::Replay => info!(
                "run {id} is replayed as request {request}: mb runs --request {request} lists its runs"
            ),
        }
        made.push(ran);
    }
    if args.json { output::print_json(&made) } else { Ok(()) }
}

/// Replays the offsets of runs; requests made before the first error stay.
fn replay(args: &RunsArgs, ids: &[i64]) -> Result<()> {
    let mut client = control::connect(&args.common.connection.data_dir)?;
    for id in ids {
        let request = client.perform(ReplayRun { id: *id })?.request;
        info!(
            "run {id} is replayed as request {request}: mb runs --request {request} lists its runs"
        );
    }
    Ok(())
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
    if let Some(read) = run.read_ms {
        line("read in", &millis(read));
    }
    line("queued", &format_time(run.queued_ms));
    if let Some(wait) = run.wait_ms {
        line("waited", &millis(wait));
    }
    if let Some(run) = run.run_ms {
        line("in the step", &millis(run));
    }
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

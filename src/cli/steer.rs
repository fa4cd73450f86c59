//! `mb status`, `pause`, `resume`, `tick`, `set` and `top`, and what `mb runs` does to runs: requests to
//! the mb that runs on the data directory. How an overview looks in a terminal is in `picture`.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use console::Term;
use serde_json::json;

use crate::api::operations::Operation;
use crate::api::operations::cancel_run::{CancelEffect, CancelRun};
use crate::api::operations::overview::GetOverview;
use crate::api::operations::preview::{Preview, PreviewTick};
use crate::api::operations::runs::ReplayRun;
use crate::api::operations::sensor::{Pause, Resume, Tick};
use crate::api::operations::settings::ChangeSettings;
use crate::api::request::Request;
use crate::api::socket::Client;
use crate::cli::args::{Action, SteerArgs};
use crate::cli::{output, picture};
use crate::config::limits;
use crate::config::units::{format_bytes, format_duration};
use crate::model::clock;
use crate::model::error::{Error, Result};

/// # Errors
/// `Other` where no mb runs on the data directory, or it cannot do what it is asked for.
pub fn run(args: &SteerArgs) -> Result<()> {
    let data_dir = &args.connection.data_dir;
    match &args.action {
        Action::Top => top(data_dir),
        Action::Status => {
            let overview = perform(data_dir, GetOverview {})?;
            if args.json {
                return print_json(&overview);
            }
            output::print(&picture::picture(&overview, width()))
        }
        Action::Pause => {
            perform(data_dir, Pause {})?;
            log::info!("paused: no tick begins until mb resume; queued runs are still processed");
            Ok(())
        }
        Action::Resume => {
            perform(data_dir, Resume {})?;
            log::info!("the sensors tick again");
            Ok(())
        }
        Action::Tick => {
            perform(data_dir, Tick {})?;
            log::info!("a tick begins now");
            Ok(())
        }
        Action::Preview => {
            let preview = perform(data_dir, PreviewTick {})?;
            if args.json { print_json(&preview) } else { print_preview(&preview) }
        }
        Action::Set(change) => set(data_dir, change, args.json),
    }
}

/// Gives runs up that are not over.
///
/// # Errors
/// As `run`; what was cancelled before stays so.
pub fn cancel_runs(data_dir: &Path, ids: &[i64], note: &str) -> Result<()> {
    let mut client = connect(data_dir)?;
    for id in ids {
        let cancelled = client.perform(CancelRun { id: *id, note: note.to_owned() })?;
        let what = match cancelled.did {
            CancelEffect::Waiting => "it waits: its step is not run any more",
            CancelEffect::Ended => "its command is being ended",
            CancelEffect::Stalled => {
                "its step is inside mb and cannot be ended: it is marked as stalled and waited for"
            }
        };
        log::info!("run {id} is cancelled: {what}; its records become dead letters");
    }
    Ok(())
}

/// Replays the offsets of runs.
///
/// # Errors
/// As `run`; what was asked for before stays so.
pub fn runs_again(data_dir: &Path, ids: &[i64]) -> Result<()> {
    let mut client = connect(data_dir)?;
    for id in ids {
        let request = client.perform(ReplayRun { id: *id })?.request;
        log::info!("run {id} is made again as request {request}: mb runs --request {request}");
    }
    Ok(())
}

fn set(data_dir: &Path, change: &ChangeSettings, json: bool) -> Result<()> {
    let settings = perform(data_dir, change.clone())?;
    if json {
        return print_json(&settings);
    }
    let seconds =
        |value: f64| format_duration(Duration::try_from_secs_f64(value).unwrap_or_default());
    let rate = |value: f64| if value == 0.0 { "max".to_owned() } else { value.to_string() };
    let mut rows = Vec::new();
    if let Some(of) = settings.rate {
        rows.push(["rate".to_owned(), rate(of.value), rate(of.start_value)]);
    }
    for (name, of) in
        [("max-batch", settings.max_batch), ("max-concurrent-runs", settings.max_concurrent_runs)]
    {
        rows.push([name.to_owned(), of.value.to_string(), of.start_value.to_string()]);
    }
    let of = settings.tick_interval_s;
    rows.push(["tick-interval".to_owned(), seconds(of.value), seconds(of.start_value)]);
    output::print_table(["SETTING", "NOW", "AT-START"], &rows)
}

fn print_preview(preview: &Preview) -> Result<()> {
    let cells: Vec<_> = preview
        .partitions
        .iter()
        .map(|of| {
            let numbers = [of.cursor, of.next].map(|offset| offset.to_string());
            let [cursor, next] = numbers;
            [
                of.partition.to_string(),
                cursor,
                next,
                of.records.to_string(),
                format_bytes(of.bytes),
                of.batches.to_string(),
            ]
        })
        .collect();
    let heading = ["PARTITION", "CURSOR", "NEXT", "RECORDS", "BYTES", "BATCHES"];
    output::print_table(heading, &cells)?;
    if preview.more {
        output::print("the topic has more than was looked at\n")?;
    }
    Ok(())
}

/// The overview, each second, until the process is ended. An mb that ends or starts meanwhile is no
/// error: somebody looks on.
fn top(data_dir: &Path) -> Result<()> {
    let term = Term::stdout();
    if !term.is_term() {
        return output::print(&picture::picture(&perform(data_dir, GetOverview {})?, width()));
    }
    let mut lost: Option<i64> = None;
    loop {
        let next = Instant::now() + limits::TOP_INTERVAL;
        let text = match perform(data_dir, GetOverview {}) {
            Ok(overview) => {
                lost = None;
                picture::picture(&overview, width())
            }
            Err(error) => {
                let since = *lost.get_or_insert_with(clock::now_ms);
                let error = error.to_string();
                format!("since {}: {}\n", clock::format_ms(since), output::escape(&error))
            }
        };
        // Home, each line to its end, the rest of the screen: nothing flickers.
        let rows = usize::from(term.size().0);
        let lines = text.lines().take(rows.saturating_sub(1));
        let screen: String = lines.map(|line| format!("{line}\u{1b}[K\n")).collect();
        output::print(&format!("\u{1b}[H{screen}\u{1b}[J"))?;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// Columns of the terminal; where there is none, lines are whole.
fn width() -> usize {
    Term::stdout().size_checked().map_or(usize::MAX, |(_, columns)| usize::from(columns))
}

fn perform<O: Operation + Into<Request>>(data_dir: &Path, operation: O) -> Result<O::Answer> {
    connect(data_dir)?.perform(operation)
}

fn connect(data_dir: &Path) -> Result<Client> {
    Client::connect(data_dir)?.ok_or_else(|| {
        Error::Other(format!(
            "no mb runs on {}: start it, or name its folder with --data-dir",
            data_dir.display()
        ))
    })
}

fn print_json<T: serde::Serialize>(value: &T) -> Result<()> {
    output::print_json(&[json!(value)])
}

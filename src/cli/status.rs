//! `mb status` and `mb top`: show the state of the mb that runs on the data directory, once or every second. The
//! text is made in `picture`.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use console::Term;

use crate::api::operations::overview::GetOverview;
use crate::cli::control::perform;
use crate::cli::flags::{Command, Flags, flags};
use crate::cli::terminal::Terminal;
use crate::cli::{output, picture};
use crate::config::Client;
use crate::config::limits;
use crate::model::clock;
use crate::model::error::{Error, Result};

flags! {
    #[argh(
        description = "Shows how the mb that runs on the data directory is doing: whether it keeps up, its lag, queue, \
            workers and newest ticks and runs, and what is wrong if something is. Exits 75 if it is not ready.",
        example = "mb status\nmb status --json"
    )]
    struct StatusFlags {
        "Output": {
            /// print JSON: what GET /api/v1/status answers
            #[argh(switch)]
            json: bool,
        }
    }
}

#[derive(Debug)]
pub struct StatusArgs {
    pub data_dir: PathBuf,
    pub json: bool,
}

impl Command for StatusFlags {
    const NAME: &'static str = "status";
    const SUMMARY: &'static str = "show how the running mb is doing";
    const USAGE: &'static [&'static str] = &["[FLAGS]"];
    type Args = StatusArgs;

    fn check(self) -> Result<StatusArgs> {
        Ok(StatusArgs { data_dir: self.common()?.connection.data_dir, json: self.json })
    }

    fn run(args: StatusArgs, _: &Terminal) -> Result<()> {
        let overview = perform(&args.data_dir, GetOverview {})?;
        let verdict = overview.verdict.clone();
        match args.json {
            true => output::print_json(&[overview])?,
            false => output::print(&picture::picture(&overview, width()))?,
        }
        match verdict.ready {
            true => Ok(()),
            false => Err(Error::NotNow(format!("mb is not ready: {}", verdict.brief))),
        }
    }
}

flags! {
    #[argh(
        description = "Shows how the running mb is doing, as mb status does, and redraws it every second until Ctrl-C. If \
            stdout is not a terminal, it prints the status once.",
        example = "mb top"
    )]
    struct TopFlags {}
}

impl Command for TopFlags {
    const NAME: &'static str = "top";
    const SUMMARY: &'static str = "show how the running mb is doing, redrawn every second";
    const USAGE: &'static [&'static str] = &["[FLAGS]"];
    type Args = PathBuf;

    fn check(self) -> Result<PathBuf> {
        Ok(self.common()?.connection.data_dir)
    }

    fn run(data_dir: PathBuf, _: &Terminal) -> Result<()> {
        top(&data_dir)
    }
}

/// Shows the overview every second until the process ends. If the mb stops meanwhile, the screen says so and goes
/// on, because a person who watches a restart wants to see mb come back.
fn top(data_dir: &Path) -> Result<()> {
    let term = Term::stdout();
    if !term.is_term() {
        return output::print(&picture::picture(&perform(data_dir, GetOverview {})?, width()));
    }
    let mut lost_since_ms: Option<i64> = None;
    loop {
        let next = Instant::now() + limits::TOP_INTERVAL;
        let text = match perform(data_dir, GetOverview {}) {
            Ok(overview) => {
                lost_since_ms = None;
                picture::picture(&overview, width())
            }
            Err(error) => {
                let since = *lost_since_ms.get_or_insert_with(clock::now_ms);
                let error = error.to_string();
                format!("since {}: {}\n", clock::format_ms(since), output::escape(&error))
            }
        };
        // Move home, clear each line's rest, then the rest of the screen: clearing all first would flicker.
        let rows = usize::from(term.size().0);
        let lines = text.lines().take(rows.saturating_sub(1));
        let screen: String = lines.map(|line| format!("{line}\u{1b}[K\n")).collect();
        output::print(&format!("\u{1b}[H{screen}\u{1b}[J"))?;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// Columns of the terminal; without a terminal, lines are not cut.
fn width() -> usize {
    Term::stdout().size_checked().map_or(usize::MAX, |(_, columns)| usize::from(columns))
}

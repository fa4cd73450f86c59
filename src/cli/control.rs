//! `mb pause`, `mb resume`, `mb tick` and `mb set`: send requests to the mb that runs on the data directory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use log::info;

use crate::api::operations::Operation;
use crate::api::operations::preview::{Preview, PreviewTick};
use crate::api::operations::sensor::{Pause, Resume, Tick};
use crate::api::operations::settings::ChangeSettings;
use crate::api::request::Request;
use crate::api::socket::Client as SocketClient;
use crate::cli::errors::{either, shown, usage};
use crate::cli::flags::{Command, Flags, flags};
use crate::cli::line::Line;
use crate::cli::main_job::MainFlags;
use crate::cli::output;
use crate::cli::terminal::Terminal;
use crate::config::Client;
use crate::config::steering::SettingsView;
use crate::config::units::{format_bytes, format_duration};
use crate::model::error::{Error, Result};

flags! {
    #[argh(
        description = "Pauses the sensors of the running mb: no further tick begins by itself. Runs that are already \
            queued are still processed.",
        example = "mb pause"
    )]
    struct PauseFlags {}
}

impl Command for PauseFlags {
    const NAME: &'static str = "pause";
    const SUMMARY: &'static str = "pause the sensors of the running mb";
    const USAGE: &'static [&'static str] = &["[FLAGS]"];
    type Args = PathBuf;

    fn check(self) -> Result<PathBuf> {
        Ok(self.common()?.connection.data_dir)
    }

    fn run(data_dir: PathBuf, _: &Terminal) -> Result<()> {
        perform(&data_dir, Pause {})?;
        info!("paused: no tick begins until mb resume; queued runs are still processed");
        Ok(())
    }
}

flags! {
    #[argh(
        description = "Resumes the sensors of the running mb after mb pause.",
        example = "mb resume"
    )]
    struct ResumeFlags {}
}

impl Command for ResumeFlags {
    const NAME: &'static str = "resume";
    const SUMMARY: &'static str = "resume the sensors of the running mb";
    const USAGE: &'static [&'static str] = &["[FLAGS]"];
    type Args = PathBuf;

    fn check(self) -> Result<PathBuf> {
        Ok(self.common()?.connection.data_dir)
    }

    fn run(data_dir: PathBuf, _: &Terminal) -> Result<()> {
        perform(&data_dir, Resume {})?;
        info!("resumed: the sensors tick again");
        Ok(())
    }
}

flags! {
    #[argh(
        description = "Begins a tick of the running mb now, even if its sensors are paused. With --preview it only shows \
            what a tick would read.",
        example = "mb tick\nmb tick --preview"
    )]
    struct TickFlags {
        "Tick": {
            /// only show what a tick would read now; nothing is queued
            #[argh(switch)]
            preview: bool,

            /// with --preview: print JSON
            #[argh(switch)]
            json: bool,
        }
    }
}

#[derive(Debug)]
pub struct TickArgs {
    pub data_dir: PathBuf,
    pub preview: bool,
    pub json: bool,
}

impl Command for TickFlags {
    const NAME: &'static str = "tick";
    const SUMMARY: &'static str = "begin a tick now, or preview what it would read";
    const USAGE: &'static [&'static str] = &["[FLAGS]"];
    type Args = TickArgs;

    fn check(self) -> Result<TickArgs> {
        if self.json && !self.preview {
            return usage("--json: got this flag without --preview, expected --preview as well");
        }
        let data_dir = self.common()?.connection.data_dir;
        Ok(TickArgs { data_dir, preview: self.preview, json: self.json })
    }

    fn run(args: TickArgs, _: &Terminal) -> Result<()> {
        if !args.preview {
            perform(&args.data_dir, Tick {})?;
            info!("a tick begins now");
            return Ok(());
        }
        let preview = perform(&args.data_dir, PreviewTick {})?;
        if args.json { output::print_json(&[preview]) } else { print_preview(&preview) }
    }
}

flags! {
    #[argh(
        description = "Changes settings of the running mb until it stops: rate, max-batch, max-concurrent-runs, \
            max-wait and tick-interval, with the values that the flags of the same names take. Without NAME=VALUE \
            it shows these settings.",
        example = "mb set max-batch=200\n\
            mb set max-concurrent-runs=10 max-wait=500ms"
    )]
    struct SetFlags {
        "Output": {
            /// a setting and its new value, as in max-batch=200
            #[argh(positional, arg_name = "NAME=VALUE")]
            words: Vec<String>,

            /// print JSON
            #[argh(switch)]
            json: bool,
        }
    }
}

#[derive(Debug)]
pub struct SetArgs {
    pub data_dir: PathBuf,
    /// A change of nothing shows the settings.
    pub change: ChangeSettings,
    pub json: bool,
}

impl Command for SetFlags {
    const NAME: &'static str = "set";
    const SUMMARY: &'static str = "show or change settings of the running mb";
    const USAGE: &'static [&'static str] = &["[FLAGS] [NAME=VALUE…]"];
    type Args = SetArgs;

    fn check(self) -> Result<SetArgs> {
        let data_dir = self.common()?.connection.data_dir;
        Ok(SetArgs { data_dir, change: change(&self.words)?, json: self.json })
    }

    fn run(args: SetArgs, _: &Terminal) -> Result<()> {
        let settings = perform(&args.data_dir, args.change)?;
        if args.json { output::print_json(&[settings]) } else { print_settings(&settings) }
    }
}

/// The changes of `NAME=VALUE…`. A value follows the rule of the main job's flag of the same name.
///
/// # Errors
/// `Usage` for an unknown setting, a setting given twice, or a value that it does not take.
fn change(words: &[String]) -> Result<ChangeSettings> {
    const NAMES: [&str; 5] =
        ["rate", "max-batch", "max-concurrent-runs", "max-wait", "tick-interval"];
    let mut flags: Vec<(String, Option<String>)> = Vec::new();
    for word in words {
        let Some((name, value)) = word.split_once('=') else {
            return usage(format!(
                "NAME=VALUE: got {}, expected a setting and its value, as in max-batch=200",
                shown(word)
            ));
        };
        if !NAMES.contains(&name) {
            return usage(format!("NAME: got {}, expected {}", shown(name), either(&NAMES)));
        }
        let flag = format!("--{name}");
        if flags.iter().any(|(other, _)| *other == flag) {
            return usage(format!("{name}: got this setting twice, expected it once"));
        }
        flags.push((flag, Some(value.to_owned())));
    }
    let set: MainFlags = Line::of_flags(flags)
        .build()
        .map_err(|error| Error::Usage(error.to_string().trim_start_matches('-').to_owned()))?;
    Ok(ChangeSettings {
        rate: set.rate,
        max_batch: set.max_batch.map(|records| records as u64),
        max_concurrent_runs: set.max_concurrent_runs.map(|runs| runs as u64),
        max_wait_s: set.max_wait.map(|wait| wait.as_secs_f64()),
        tick_interval_s: set.tick_interval.map(|interval| interval.as_secs_f64()),
    })
}

fn print_settings(settings: &SettingsView) -> Result<()> {
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
    for (name, of) in
        [("max-wait", settings.max_wait_s), ("tick-interval", settings.tick_interval_s)]
    {
        rows.push([name.to_owned(), seconds(of.value), seconds(of.start_value)]);
    }
    output::print_table(["SETTING", "NOW", "AT-START"], &rows)
}

fn print_preview(preview: &Preview) -> Result<()> {
    let cells: Vec<_> = preview
        .partitions
        .iter()
        .map(|of| {
            [
                of.partition.to_string(),
                of.cursor.to_string(),
                of.next.to_string(),
                of.records.to_string(),
                format_bytes(of.bytes),
                of.batches.to_string(),
            ]
        })
        .collect();
    let heading = ["PARTITION", "CURSOR", "NEXT", "RECORDS", "BYTES", "BATCHES"];
    output::print_table(heading, &cells)?;
    if preview.more {
        output::print("the topic has more records than the preview read\n")?;
    }
    Ok(())
}

/// Has the running mb perform the operation.
///
/// # Errors
/// `Other` if no mb runs on the data directory; those of the operation.
pub fn perform<O: Operation + Into<Request>>(data_dir: &Path, operation: O) -> Result<O::Answer> {
    connect(data_dir)?.perform(operation)
}

/// A connection to the mb that runs on the data directory.
///
/// # Errors
/// `Other` if none runs there.
pub fn connect(data_dir: &Path) -> Result<SocketClient> {
    SocketClient::connect(data_dir)?.ok_or_else(|| {
        Error::Other(format!(
            "no mb runs on {}: start one, or name its data directory with --data-dir",
            data_dir.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_takes_the_values_of_its_flag() {
        let read = |words: &[&str]| {
            change(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
        };
        let all = ["rate=max", "max-batch=200", "max-wait=20ms", "tick-interval=250ms"];
        let change = read(&all).unwrap();
        assert_eq!(change.rate, Some(0.0));
        assert_eq!(read(&["rate=0"]).unwrap().rate, Some(0.0), "as the page takes it");
        assert_eq!(change.max_wait_s, Some(0.02));
        assert_eq!(change.max_batch, Some(200));
        assert_eq!(change.max_concurrent_runs, None);
        assert_eq!(change.tick_interval_s, Some(0.25));
        assert_eq!(read(&[]).unwrap(), ChangeSettings::default());
        for (words, error) in [
            (&["max-batch"][..], "NAME=VALUE: got max-batch, "),
            (&["max-batch=0"], "max-batch: got 0, expected a whole number from 1 to"),
            (&["max-batch=1", "max-batch=2"], "max-batch: got this setting twice"),
            (&["queue=5"], "NAME: got queue, expected rate, "),
            (&["tick-interval=soon"], "tick-interval: got soon, expected "),
        ] {
            let text = read(words).unwrap_err().to_string();
            assert!(text.starts_with(error), "{text}");
        }
    }
}

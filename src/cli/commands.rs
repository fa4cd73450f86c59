//! The list of all commands, and the parsing of a command line into one of them with its checked arguments. Each
//! command runs in its own file.

use std::ffi::OsString;

use crate::cli::control::{PauseFlags, ResumeFlags, SetFlags, TickFlags};
use crate::cli::dead_letters::DeadLettersFlags;
use crate::cli::environment::{self, Variables};
use crate::cli::flags::{Command, Spec};
use crate::cli::help;
use crate::cli::hold::{GiveUpFlags, RetryNowFlags};
use crate::cli::lag::LagFlags;
use crate::cli::line::{Line, Request};
use crate::cli::main_job::MainFlags;
use crate::cli::offsets::OffsetsFlags;
use crate::cli::produce::ProduceFlags;
use crate::cli::replay::ReplayFlags;
use crate::cli::requests::RequestsFlags;
use crate::cli::runs::RunsFlags;
use crate::cli::status::{StatusFlags, TopFlags};
use crate::cli::terminal::Terminal;
use crate::model::error::{Error, Result};
use crate::pipeline::version;

/// The outcome of parsing a command line.
pub enum Parsed {
    Job(Job),
    /// Help or the version, for stdout.
    Print(String),
}

/// A command with its checked arguments.
pub type Job = Box<dyn FnOnce(&Terminal) -> Result<()>>;

pub struct Entry {
    pub spec: Spec,
    prepare: fn(&Line) -> Result<Job>,
}

impl Entry {
    fn of<T: Command>() -> Entry {
        Entry {
            spec: Spec::of::<T>(),
            prepare: |line| {
                let args = read::<T>(line)?;
                Ok(Box::new(move |terminal| T::run(args, terminal)))
            },
        }
    }
}

/// Every command, the main job first, in the order of the list in `mb --help`.
pub fn all() -> [Entry; 16] {
    [
        Entry::of::<MainFlags>(),
        Entry::of::<ProduceFlags>(),
        Entry::of::<LagFlags>(),
        Entry::of::<StatusFlags>(),
        Entry::of::<TopFlags>(),
        Entry::of::<PauseFlags>(),
        Entry::of::<ResumeFlags>(),
        Entry::of::<TickFlags>(),
        Entry::of::<SetFlags>(),
        Entry::of::<RetryNowFlags>(),
        Entry::of::<GiveUpFlags>(),
        Entry::of::<RunsFlags>(),
        Entry::of::<DeadLettersFlags>(),
        Entry::of::<ReplayFlags>(),
        Entry::of::<RequestsFlags>(),
        Entry::of::<OffsetsFlags>(),
    ]
}

/// Reads a command line, without the program's name in front, and the flags that the environment adds to it.
///
/// # Errors
/// `Usage`: one line that names the flag or the variable, what it got and what it takes.
pub fn parse(args: &[OsString], variables: &Variables) -> Result<Parsed> {
    let entries = all();
    let specs = entries.each_ref().map(|entry| &entry.spec);
    let mut line = Line::read(args, &specs)?;
    let entry = entries
        .iter()
        .find(|entry| entry.spec.name == line.command)
        .expect("the command is one of these specs");
    match line.request {
        Some(Request::Version) => Ok(Parsed::Print(format!("mb {}\n", version()))),
        Some(Request::Help) => Ok(Parsed::Print(help::text(&entry.spec, &specs))),
        None => {
            environment::apply(&mut line, variables, &entry.spec, &specs)?;
            let job = (entry.prepare)(&line)?;
            for warning in environment::mistaken(&line, variables, &entry.spec, &specs) {
                log::warn!("{warning}");
            }
            Ok(Parsed::Job(job))
        }
    }
}

/// The checked arguments of a command. All values are the user's own here, so settings that contradict each other are
/// a usage error.
///
/// # Errors
/// `Usage`, which ends with a hint at the command's help.
pub fn read<T: Command>(line: &Line) -> Result<T::Args> {
    line.build::<T>().and_then(T::check).map_err(|error| match error {
        Error::Config(text) | Error::Usage(text) => {
            let typed = format!("mb {}", T::NAME);
            let text = line.with_variables(text);
            Error::Usage(format!("{text} (try {} --help)", typed.trim_end()))
        }
        other => other,
    })
}

//! The command line, from arguments to an exit code: a file for each command, and around them `commands` (the
//! list), `line`, `flags` and `environment` (parsing), `values` (rules), `help`, `output` and `terminal`. Nothing
//! outside this folder knows flags, stdout or exit codes, except that `model::error` has the exit codes' numbers.

mod commands;
mod connect;
mod control;
mod dead_letter;
mod dead_letters;
mod environment;
mod errors;
mod flags;
mod help;
mod hold;
mod lag;
mod line;
mod main_job;
mod offsets;
mod orphans;
mod output;
mod picture;
mod produce;
mod replay;
mod requests;
mod runs;
mod status;
mod terminal;
#[cfg(test)]
mod tests;
mod values;

use std::ffi::OsString;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use crate::cli::commands::Parsed;
use crate::cli::environment::Variables;
use crate::cli::terminal::Terminal;
use crate::model::error::{Error, Result};
use crate::model::thread::panic_message;

/// What is logged without RUST_LOG: mb's own lines, and warnings of libraries.
const LOG_FILTER: &str = "warn,mb=info";

/// The whole program. An error is one line on stderr.
pub fn main() -> ExitCode {
    let terminal = init_log();
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let variables: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let outcome = catch_unwind(AssertUnwindSafe(|| dispatch(&args, &variables, &terminal)))
        .unwrap_or_else(|payload| {
            let message = panic_message(payload.as_ref());
            Err(Error::Panic { thread: "main".to_owned(), message })
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If stderr is closed, the exit code still tells.
            let _ = writeln!(std::io::stderr(), "mb: {}", output::escape(&error.to_string()));
            ExitCode::from(error.exit_code())
        }
    }
}

fn dispatch(args: &[OsString], variables: &Variables, terminal: &Terminal) -> Result<()> {
    match commands::parse(args, variables)? {
        Parsed::Print(text) => output::print(&text),
        Parsed::Job(job) => job(terminal),
    }
}

/// The log goes to stderr, with times in UTC to the millisecond; a panic is a line in it.
fn init_log() -> Terminal {
    let terminal = Terminal::default();
    let env = env_logger::Env::default().default_filter_or(LOG_FILTER);
    let mut log = env_logger::Builder::from_env(env);
    if terminal.is_watched() {
        log.target(env_logger::Target::Pipe(Box::new(terminal.clone())));
        // The logger writes to a pipe, so it cannot see that the terminal takes colours.
        if terminal.takes_colours() && std::env::var_os("RUST_LOG_STYLE").is_none() {
            log.write_style(env_logger::WriteStyle::Always);
        }
    }
    log.format_timestamp_millis().init();
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let place = info.location().map_or(String::new(), |place| format!(" at {place}"));
        log::error!(
            "thread {} panicked{place}: {}",
            thread.name().unwrap_or("without a name"),
            panic_message(info.payload())
        );
    }));
    terminal
}

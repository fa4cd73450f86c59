//! The command line: from arguments to an exit code. Nothing outside this folder knows of flags,
//! stdout or exit codes (but for the numbers in `error`).

pub mod args;
pub mod bridge;
pub mod connect;
pub mod dead_letters;
pub mod flags;
pub mod lag;
pub mod offsets;
pub mod output;
pub mod picture;
pub mod produce;
pub mod replay;
pub mod requests;
pub mod run;
pub mod runs;
pub mod steer;
pub mod terminal;
pub mod values;

use std::ffi::OsString;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use crate::cli::args::{Command, Parsed};
use crate::cli::terminal::Terminal;
use crate::model::error::{Error, Result};
use crate::model::thread::panic_message;

/// What is logged without RUST_LOG: mb's own lines, and warnings of the libraries.
const LOG_FILTER: &str = "warn,mb=info";

/// The whole program. An error is one line on stderr.
pub fn main() -> ExitCode {
    let terminal = init_log();
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let outcome =
        catch_unwind(AssertUnwindSafe(|| dispatch(&args, &terminal))).unwrap_or_else(|payload| {
            let message = panic_message(payload.as_ref());
            Err(Error::Panic { thread: "main".to_owned(), message })
        });
    outcome.unwrap_or_else(|error| {
        // Where stderr is gone, the exit code still says it.
        let _ = writeln!(std::io::stderr(), "mb: {}", output::escape(&error.to_string()));
        ExitCode::from(error.exit_code())
    })
}

fn dispatch(args: &[OsString], terminal: &Terminal) -> Result<ExitCode> {
    match args::parse(args)? {
        Parsed::Print(text) => output::print(&text)?,
        Parsed::Command(Command::DeadLetters(args)) => dead_letters::run(&args)?,
        Parsed::Command(Command::Lag(args)) => lag::run(&args)?,
        Parsed::Command(Command::Offsets(args)) => offsets::run(&args)?,
        Parsed::Command(Command::Produce(args)) => return produce::run(args, terminal),
        Parsed::Command(Command::Replay(args)) => replay::run(&args)?,
        Parsed::Command(Command::Requests(args)) => requests::run(&args)?,
        Parsed::Command(Command::Run(args)) => run::run(*args, terminal)?,
        Parsed::Command(Command::Runs(args)) => runs::run(&args)?,
        Parsed::Command(Command::Steer(args)) => steer::run(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The log goes to stderr, with times in UTC to the millisecond; a panic is a line in it.
fn init_log() -> Terminal {
    let terminal = Terminal::default();
    let env = env_logger::Env::default().default_filter_or(LOG_FILTER);
    let mut log = env_logger::Builder::from_env(env);
    if terminal.is_watched() {
        log.target(env_logger::Target::Pipe(Box::new(terminal.clone())));
        // The logger cannot see that there is a terminal behind the pipe.
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

//! From a command line to one checked value, without touching anything outside: what is to be
//! done, or what is to be printed instead.
//!
//! Which flags there are is in `flags`; every value here comes from the command line, so whatever
//! does not fit together is a usage error (exit 64).

mod steer;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::cli::bridge::{self, Line, Request, Spec, shown};
use crate::cli::flags::{
    DeadLettersFlags, HEADINGS, LagFlags, OffsetsFlags, PauseFlags, ProduceFlags, ReplayFlags,
    RequestsFlags, ResumeFlags, RunFlags, RunsFlags, SetFlags, StatusFlags, TickFlags, TopFlags,
};
pub use crate::cli::values::{Given, Listen};

pub use self::steer::{Action, RunsAction, SteerArgs};
use crate::cli::values::{StepName, either};
use crate::config::limits;
use crate::config::units;
use crate::config::{Config, Connection, Order, Produce, Web};
use crate::history::query::Selection;
use crate::model::clock;
use crate::model::error::{Error, Result};
use crate::model::offset::{Offset, Partition};

/// What the command line asks for.
#[derive(Debug)]
pub enum Parsed {
    Command(Command),
    /// Help or the version, for stdout.
    Print(String),
}

#[derive(Debug)]
pub enum Command {
    /// The main job.
    Run(Box<RunArgs>),
    Produce(ProduceArgs),
    Lag(LagArgs),
    Runs(Box<RunsArgs>),
    Offsets(OffsetsArgs),
    DeadLetters(DeadLettersArgs),
    Replay(ReplayArgs),
    Requests(RequestsArgs),
    /// What looks at a running mb or acts on it.
    Steer(SteerArgs),
}

#[derive(Debug)]
pub struct RunArgs {
    pub config: Config,
    pub step: StepChoice,
    /// The pause before each attempt's step; 0 for none.
    pub step_delay: Duration,
}

/// The step of the main job; its time limit is `Config::step_timeout`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepChoice {
    Discard,
    Log,
    Files { dir: PathBuf },
    Exec { command: String },
}

#[derive(Debug)]
pub struct ProduceArgs {
    pub connection: Connection,
    pub given: Given,
    pub settings: Produce,
    pub source: Source,
    /// `--rate` was given: the embedded topic will do where there is no Kafka.
    pub rate_given: bool,
}

/// What `mb produce` posts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Messages of its own, numbered.
    Sequence,
    /// The lines of stdin, the key in front of `key_separator` where there is one.
    Stdin { key_separator: Option<String> },
}

#[derive(Debug)]
pub struct LagArgs {
    pub connection: Connection,
    pub given: Given,
    pub json: bool,
}

#[derive(Debug)]
pub struct RunsArgs {
    pub connection: Connection,
    pub action: RunsAction,
    /// Which are listed; topic and group are as given.
    pub selection: Selection,
    pub json: bool,
}

#[derive(Debug)]
pub struct OffsetsArgs {
    pub connection: Connection,
    pub given: Given,
    pub target: Target,
    /// One partition rather than all.
    pub partition: Option<Partition>,
    /// Commit, rather than show what would be.
    pub execute: bool,
    pub json: bool,
}

/// Where `mb offsets` moves a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Earliest,
    Latest,
    /// The first record from this time on, in milliseconds since 1970.
    Time(i64),
    Offset(Offset),
    Shift(i64),
}

#[derive(Debug)]
pub struct DeadLettersArgs {
    pub connection: Connection,
    /// A topic or group that was typed selects its letters.
    pub given: Given,
    pub action: LetterAction,
    pub json: bool,
}

/// What `mb dead-letters` does. Without ids it is done to all open letters that the rest selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LetterAction {
    List { state: String, error: Option<String>, limit: usize, by_error: bool },
    Show { id: i64 },
    Redrive { ids: Vec<i64>, error: Option<String> },
    Discard { ids: Vec<i64>, error: Option<String>, note: String },
}

#[derive(Debug)]
pub struct ReplayArgs {
    pub connection: Connection,
    pub given: Given,
    /// One partition rather than all.
    pub partition: Option<Partition>,
    pub span: Span,
    pub json: bool,
}

/// What `mb replay` replays; without an end it is the log's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// Both are included.
    Offsets { from: Offset, to: Option<Offset> },
    /// In milliseconds since 1970: from the first record at or after `since` on, up to the first one
    /// at or after `until`, which is not included.
    Times { since: i64, until: Option<i64> },
}

#[derive(Debug)]
pub struct RequestsArgs {
    pub connection: Connection,
    /// A topic or group that was typed selects its requests.
    pub given: Given,
    pub action: RequestAction,
    pub json: bool,
}

/// What `mb requests` does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestAction {
    List { state: String, limit: usize },
    Cancel { ids: Vec<i64>, note: String },
}

/// Runs, requests or dead letters that are listed without `--limit`.
const LIST_LIMIT: usize = 20;

/// Reads a command line, without the program's name in front.
///
/// # Errors
/// `Usage`, one line that names the flag, what it got and what it takes.
pub fn parse(args: &[OsString]) -> Result<Parsed> {
    let line = Line::read(args, &specs())?;
    match line.request {
        Some(Request::Version) => {
            return Ok(Parsed::Print(format!("mb {}\n", env!("CARGO_PKG_VERSION"))));
        }
        Some(Request::Help) => return Ok(Parsed::Print(help(line.command))),
        None => {}
    }
    let command = match line.command {
        "produce" => produce(line.build()?).map(Command::Produce),
        "lag" => lag(line.build()?).map(Command::Lag),
        "runs" => runs(line.build()?).map(|args| Command::Runs(Box::new(args))),
        "offsets" => offsets(line.build()?).map(Command::Offsets),
        "dead-letters" => dead_letters(line.build()?).map(Command::DeadLetters),
        "replay" => replay(line.build()?).map(Command::Replay),
        "requests" => requests(line.build()?).map(Command::Requests),
        "status" => {
            let flags: StatusFlags = line.build()?;
            SteerArgs::new(flags.connection(), Action::Status, flags.json).map(Command::Steer)
        }
        "pause" => {
            let flags: PauseFlags = line.build()?;
            SteerArgs::new(flags.connection(), Action::Pause, false).map(Command::Steer)
        }
        "resume" => {
            let flags: ResumeFlags = line.build()?;
            SteerArgs::new(flags.connection(), Action::Resume, false).map(Command::Steer)
        }
        "tick" => steer::tick(line.build()?).map(Command::Steer),
        "set" => steer::set(line.build()?).map(Command::Steer),
        "top" => {
            let flags: TopFlags = line.build()?;
            SteerArgs::new(flags.connection(), Action::Top, false).map(Command::Steer)
        }
        _ => run(line.build()?).map(|args| Command::Run(Box::new(args))),
    };
    command.map(Parsed::Command).map_err(|error| match error {
        Error::Config(text) | Error::Usage(text) => {
            let typed = format!("mb {}", line.command);
            Error::Usage(format!("{text} (try {} --help)", typed.trim_end()))
        }
        other => other,
    })
}

/// Every command, the main job first.
fn specs() -> [Spec; 14] {
    [
        Spec::of::<RunFlags>(""),
        Spec::of::<ProduceFlags>("produce"),
        Spec::of::<LagFlags>("lag"),
        Spec::of::<RunsFlags>("runs"),
        Spec::of::<OffsetsFlags>("offsets"),
        Spec::of::<DeadLettersFlags>("dead-letters"),
        Spec::of::<ReplayFlags>("replay"),
        Spec::of::<RequestsFlags>("requests"),
        Spec::of::<StatusFlags>("status"),
        Spec::of::<PauseFlags>("pause"),
        Spec::of::<ResumeFlags>("resume"),
        Spec::of::<TickFlags>("tick"),
        Spec::of::<SetFlags>("set"),
        Spec::of::<TopFlags>("top"),
    ]
}

fn help(command: &str) -> String {
    match command {
        "produce" => bridge::help::<ProduceFlags>(command, &HEADINGS),
        "lag" => bridge::help::<LagFlags>(command, &HEADINGS),
        "runs" => bridge::help::<RunsFlags>(command, &HEADINGS),
        "offsets" => bridge::help::<OffsetsFlags>(command, &HEADINGS),
        "dead-letters" => bridge::help::<DeadLettersFlags>(command, &HEADINGS),
        "replay" => bridge::help::<ReplayFlags>(command, &HEADINGS),
        "requests" => bridge::help::<RequestsFlags>(command, &HEADINGS),
        "status" => bridge::help::<StatusFlags>(command, &HEADINGS),
        "pause" => bridge::help::<PauseFlags>(command, &HEADINGS),
        "resume" => bridge::help::<ResumeFlags>(command, &HEADINGS),
        "tick" => bridge::help::<TickFlags>(command, &HEADINGS),
        "set" => bridge::help::<SetFlags>(command, &HEADINGS),
        "top" => bridge::help::<TopFlags>(command, &HEADINGS),
        _ => bridge::help::<RunFlags>(command, &HEADINGS),
    }
}

fn run(flags: RunFlags) -> Result<RunArgs> {
    let step = step(&flags)?;
    let default = Config::default();
    let config = Config {
        connection: flags.connection(),
        produce: own_producer(&flags)?,
        max_batch: flags.max_batch.unwrap_or(default.max_batch),
        max_batch_bytes: flags.max_batch_bytes.unwrap_or(default.max_batch_bytes),
        max_wait: flags.max_wait.unwrap_or(default.max_wait),
        tick_runtime: flags.tick_runtime.unwrap_or(default.tick_runtime),
        tick_interval: flags.tick_interval.unwrap_or(default.tick_interval),
        fetch_min_bytes: flags.fetch_min_bytes.unwrap_or(default.fetch_min_bytes),
        isolation: flags.isolation,
        sensors: flags.sensors.unwrap_or(default.sensors),
        from: flags.from.unwrap_or(default.from),
        on_missing_offsets: flags.on_missing_offsets.unwrap_or_default(),
        queue: flags.queue.unwrap_or(default.queue),
        queue_bytes: flags.queue_bytes.unwrap_or(default.queue_bytes),
        max_concurrent_runs: flags.max_concurrent_runs.unwrap_or(default.max_concurrent_runs),
        order: order(&flags)?,
        lanes: flags.lanes,
        max_attempts: flags.max_attempts.unwrap_or(default.max_attempts),
        retry_backoff: flags.retry_backoff.unwrap_or(default.retry_backoff),
        on_failure: flags.on_failure.unwrap_or(default.on_failure),
        dead_letter: flags.dead_letter.clone().unwrap_or_default(),
        bisect: flags.bisect,
        step_timeout: flags.step_timeout,
        history_keep: flags.history_keep.unwrap_or(default.history_keep),
        drain_timeout: flags.drain_timeout.unwrap_or(default.drain_timeout),
        wait_for_broker: flags.wait_for_broker,
        until_caught_up: flags.until_caught_up,
        stall_after: flags.stall_after.unwrap_or(default.stall_after),
        freshness: flags.freshness,
        web: match flags.listen.unwrap_or_default() {
            Listen::Off => None,
            Listen::At { host, port } => Some(Web {
                host,
                port,
                token_file: flags.token_file.map(PathBuf::from),
                read_only: flags.read_only,
            }),
        },
    };
    config.check()?;
    Ok(RunArgs { config, step, step_delay: flags.step_delay.unwrap_or_default() })
}

fn order(flags: &RunFlags) -> Result<Order> {
    let order = flags.order.unwrap_or_default();
    match flags.lanes {
        Some(lanes) if order != Order::Key => {
            usage(format!("--lanes: got {lanes}, expected it with --order key only"))
        }
        _ => Ok(order),
    }
}

fn step(flags: &RunFlags) -> Result<StepChoice> {
    let out = flags.out.as_deref().map(shown);
    match (flags.step, &flags.exec) {
        (Some(_), Some(command)) => {
            let command = shown(command);
            usage(format!("--exec: got {command} and --step too, expected one of the two"))
        }
        (step, _) if step != Some(StepName::Files) && out.is_some() => {
            let dir = out.unwrap_or_default();
            usage(format!("--out: got {dir} without --step files, expected both or neither"))
        }
        (None, Some(command)) => Ok(StepChoice::Exec { command: command.clone() }),
        (Some(StepName::Discard), None) => Ok(StepChoice::Discard),
        (None | Some(StepName::Log), None) => Ok(StepChoice::Log),
        (Some(StepName::Files), None) => match &flags.out {
            Some(dir) => Ok(StepChoice::Files { dir: PathBuf::from(dir) }),
            None => usage("--step: got files without a folder, expected --out DIR too"),
        },
    }
}

/// The producer inside the main job, which only `--rate` asks for.
fn own_producer(flags: &RunFlags) -> Result<Option<Produce>> {
    let Some(rate) = flags.rate else {
        let orphan = [
            ("--count", flags.count.is_some()),
            ("--message-bytes", flags.message_bytes.is_some()),
            ("--keys", flags.keys.is_some()),
        ];
        return match orphan.iter().find(|(_, given)| *given) {
            Some((flag, _)) => usage(format!(
                "{flag}: got it without --rate, expected --rate RATE too: without it nothing is posted"
            )),
            None => Ok(None),
        };
    };
    Ok(Some(settings(rate, flags.count, flags.message_bytes, flags.keys)))
}

fn settings(
    rate: f64,
    count: Option<u64>,
    message_bytes: Option<usize>,
    keys: Option<u64>,
) -> Produce {
    let default = Produce::default();
    Produce {
        rate,
        count,
        message_bytes: message_bytes.unwrap_or(default.message_bytes),
        keys: keys.unwrap_or(default.keys),
    }
}

fn produce(flags: ProduceFlags) -> Result<ProduceArgs> {
    let (connection, given) = (flags.connection(), flags.given());
    connection.check()?;
    let source = match flags.source.as_deref() {
        None => match &flags.key_separator {
            None => Source::Sequence,
            Some(separator) => {
                let separator = shown(separator);
                return usage(format!(
                    "--key-separator: got {separator} without -, expected - (the lines of stdin) too"
                ));
            }
        },
        Some("-") => {
            let mine = [
                ("--count", flags.count.is_some()),
                ("--message-bytes", flags.message_bytes.is_some()),
                ("--keys", flags.keys.is_some()),
            ];
            if let Some((flag, _)) = mine.iter().find(|(_, given)| *given) {
                return usage(format!(
                    "{flag}: got it with -, expected one of the two: stdin's lines say what is posted"
                ));
            }
            Source::Stdin { key_separator: flags.key_separator }
        }
        Some(other) => {
            let other = shown(other);
            return usage(format!(
                "argument: got {other}, expected - (the lines of stdin) or none"
            ));
        }
    };
    // Lines are there already, so nobody waits for them to be paced unless asked.
    let default_rate = if source == Source::Sequence { Produce::default().rate } else { 0.0 };
    let rate = flags.rate.unwrap_or(default_rate);
    let settings = settings(rate, flags.count, flags.message_bytes, flags.keys);
    Ok(ProduceArgs { connection, given, settings, source, rate_given: flags.rate.is_some() })
}

fn lag(flags: LagFlags) -> Result<LagArgs> {
    let connection = flags.connection();
    connection.check()?;
    Ok(LagArgs { connection, given: flags.given(), json: flags.json })
}

fn runs(flags: RunsFlags) -> Result<RunsArgs> {
    let connection = flags.connection();
    connection.check()?;
    let action = steer::runs_action(&flags.words, flags.note.as_deref())?;
    let given = flags.given();
    let selection = Selection {
        state: flags.state,
        topic: given.topic.then(|| connection.topic.clone()),
        group: given.group.then(|| connection.group.clone()),
        of_request: flags.request,
        partition: flags.partition,
        error: flags.error,
        since: flags.since,
        until: flags.until,
        limit: flags.limit.unwrap_or(0),
        ..Selection::default()
    };
    let chosen = Selection { topic: None, group: None, ..selection.clone() };
    if let (Some(word), true) = (flags.words.first(), chosen != Selection::default()) {
        let word = shown(word);
        return usage(format!(
            "argument: got {word} and --state, --partition, --error, --since, --until, --request or \
             --limit, expected a RUN-ID or a selection"
        ));
    }
    let limit = flags.limit.unwrap_or(LIST_LIMIT as u32);
    let selection = Selection { limit, ..selection };
    Ok(RunsArgs { connection, action, selection, json: flags.json })
}

fn offsets(flags: OffsetsFlags) -> Result<OffsetsArgs> {
    let connection = flags.connection();
    connection.check()?;
    Ok(OffsetsArgs {
        connection,
        given: flags.given(),
        target: target(&flags)?,
        partition: flags.partition,
        execute: flags.execute,
        json: flags.json,
    })
}

fn target(flags: &OffsetsFlags) -> Result<Target> {
    let targets = [
        ("--to-earliest", flags.to_earliest.then_some(Target::Earliest)),
        ("--to-latest", flags.to_latest.then_some(Target::Latest)),
        ("--to-datetime", flags.to_datetime.map(Target::Time)),
        ("--to-offset", flags.to_offset.map(|offset| Target::Offset(Offset::new(offset)))),
        ("--shift-by", flags.shift_by.map(Target::Shift)),
    ];
    let names = || either(&targets.map(|(name, _)| name));
    let mut given = targets.iter().filter_map(|(name, target)| Some((name, (*target)?)));
    match (given.next(), given.next()) {
        (Some((_, target)), None) => Ok(target),
        (None, _) => usage(format!("target: got none, expected {}", names())),
        (Some((first, _)), Some((second, _))) => {
            usage(format!("{second}: got {first} too, expected one of {}", names()))
        }
    }
}

fn dead_letters(flags: DeadLettersFlags) -> Result<DeadLettersArgs> {
    let connection = flags.connection();
    connection.check()?;
    let given = flags.given();
    let action = letter_action(&flags)?;
    Ok(DeadLettersArgs { connection, given, action, json: flags.json })
}

fn letter_action(flags: &DeadLettersFlags) -> Result<LetterAction> {
    const ACTIONS: &str = "list, show, redrive or discard";
    let Some((action, words)) = flags.words.split_first() else {
        return usage(format!("ACTION: got none, expected {ACTIONS}"));
    };
    let action = action.as_str();
    let takes = [
        ("--state", flags.state.is_some(), &["list"][..]),
        ("--limit", flags.limit.is_some(), &["list"]),
        ("--by-error", flags.by_error, &["list"]),
        ("--error", flags.error.is_some(), &["list", "redrive", "discard"]),
        ("--all", flags.all, &["redrive", "discard"]),
        ("--note", flags.note.is_some(), &["discard"]),
    ];
    if !["list", "show", "redrive", "discard"].contains(&action) {
        return usage(format!("ACTION: got {}, expected {ACTIONS}", shown(action)));
    }
    check_taken(action, &takes)?;
    let ids = numbers("ID", words, "mb dead-letters list")?;
    let error = flags.error.clone();
    match (action, &ids[..]) {
        ("list", []) => Ok(LetterAction::List {
            state: flags.state.clone().unwrap_or_else(|| "open".to_owned()),
            error,
            limit: flags.limit.unwrap_or(LIST_LIMIT),
            by_error: flags.by_error,
        }),
        ("list", [id, ..]) => usage(format!("ID: got {id} with list, expected none")),
        ("show", [id]) => Ok(LetterAction::Show { id: *id }),
        ("show", ids) => usage(format!("ID: got {} of them with show, expected one", ids.len())),
        (_, []) if !flags.all => {
            usage(format!("ID: got none, expected ID… or --all after {action}"))
        }
        (_, [id, ..]) if flags.all => {
            usage(format!("--all: got {id} too, expected one of the two"))
        }
        (_, ids) if ids.len() > limits::DEAD_LETTER_IDS => usage(format!(
            "ID: got {} of them, expected up to {}: --all with --error, --topic or --group selects \
             more",
            ids.len(),
            limits::DEAD_LETTER_IDS
        )),
        ("redrive", _) => Ok(LetterAction::Redrive { ids, error }),
        (_, _) => match flags.note.clone() {
            Some(note) => Ok(LetterAction::Discard { ids, error, note }),
            None => usage("--note: got none with discard, expected --note TEXT, the reason"),
        },
    }
}

/// Whether the action takes each flag that was given. Of a flag: its name, whether it was given, and
/// the actions that take it.
fn check_taken(action: &str, takes: &[(&str, bool, &[&str])]) -> Result<()> {
    match takes.iter().find(|(_, given, takers)| *given && !takers.contains(&action)) {
        None => Ok(()),
        Some((flag, _, takers)) => {
            usage(format!("{flag}: got it with {action}, expected it with {}", either(takers)))
        }
    }
}

/// Positive numbers, as they stand in the first column of what `list` prints.
fn numbers(name: &str, words: &[String], list: &str) -> Result<Vec<i64>> {
    let number = |text: &String| {
        let number = units::parse_whole(text).and_then(|number| i64::try_from(number).ok());
        number.filter(|number| *number > 0).ok_or_else(|| {
            Error::Usage(format!(
                "{name}: got {}, expected a number as in the first column of {list}",
                shown(text)
            ))
        })
    };
    words.iter().map(number).collect()
}

fn requests(flags: RequestsFlags) -> Result<RequestsArgs> {
    const ACTIONS: &str = "list or cancel";
    let connection = flags.connection();
    connection.check()?;
    let given = flags.given();
    let Some((action, words)) = flags.words.split_first() else {
        return usage(format!("ACTION: got none, expected {ACTIONS}"));
    };
    let takes = [
        ("--state", flags.state.is_some(), &["list"][..]),
        ("--limit", flags.limit.is_some(), &["list"]),
        ("--note", flags.note.is_some(), &["cancel"]),
    ];
    let action = action.as_str();
    if !["list", "cancel"].contains(&action) {
        return usage(format!("ACTION: got {}, expected {ACTIONS}", shown(action)));
    }
    check_taken(action, &takes)?;
    let action = match action {
        "list" => match words {
            [] => RequestAction::List {
                state: flags.state.clone().unwrap_or_else(|| "all".to_owned()),
                limit: flags.limit.unwrap_or(LIST_LIMIT),
            },
            [word, ..] => {
                return usage(format!("REQUEST: got {} with list, expected none", shown(word)));
            }
        },
        _ => {
            let ids = numbers("REQUEST", words, "mb requests list")?;
            if ids.is_empty() || ids.len() > limits::REQUEST_IDS {
                return usage(format!(
                    "REQUEST: got {} of them, expected 1 to {} after cancel",
                    ids.len(),
                    limits::REQUEST_IDS
                ));
            }
            let note = flags.note.clone().unwrap_or_else(|| "cancelled by a person".to_owned());
            RequestAction::Cancel { ids, note }
        }
    };
    Ok(RequestsArgs { connection, given, action, json: flags.json })
}

fn replay(flags: ReplayFlags) -> Result<ReplayArgs> {
    let connection = flags.connection();
    connection.check()?;
    let span = match (flags.from, flags.to, flags.since, flags.until) {
        (Some(from), to, None, None) => {
            if let Some(to) = to.filter(|to| *to < from) {
                return usage(format!("--to: got {to}, expected --from ({from}) or more"));
            }
            if flags.partition.is_none() {
                return usage(
                    "--from: got it without --partition, expected --partition P too: each partition \
                     has offsets of its own",
                );
            }
            Span::Offsets { from: Offset::new(from), to: to.map(Offset::new) }
        }
        (None, None, Some(since), until) => {
            if let Some(until) = until.filter(|until| *until <= since) {
                return usage(format!(
                    "--until: got {}, expected a time after --since ({})",
                    clock::format_ms(until),
                    clock::format_ms(since)
                ));
            }
            Span::Times { since, until }
        }
        (None, Some(to), None, None) => {
            return usage(format!("--to: got {to} without --from, expected --from N too"));
        }
        (None, None, None, _) => {
            return usage(
                "range: got none, expected --partition P --from N --to N, or --since TIME --until TIME",
            );
        }
        _ => {
            return usage(
                "range: got offsets and times, expected --from and --to, or --since and --until",
            );
        }
    };
    Ok(ReplayArgs {
        connection,
        given: flags.given(),
        partition: flags.partition,
        span,
        json: flags.json,
    })
}

fn usage<T>(text: impl Into<String>) -> Result<T> {
    Err(Error::Usage(text.into()))
}

#[cfg(test)]
mod tests;

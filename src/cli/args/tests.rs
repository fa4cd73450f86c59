//! Command lines, and what becomes of them: every flag, every default, every refusal.

use argh::{ArgsInfo, FlagInfoKind};
use proptest::prelude::*;

use super::*;
use crate::config::{Client, Isolation, OnFailure, StartFrom};

fn words(line: &[&str]) -> Vec<OsString> {
    line.iter().map(OsString::from).collect()
}

fn parsed(line: &[&str]) -> Command {
    match parse(&words(line)) {
        Ok(Parsed::Command(command)) => command,
        other => panic!("{line:?}: {other:?}"),
    }
}

fn main_job(line: &[&str]) -> RunArgs {
    match parsed(line) {
        Command::Run(args) => *args,
        other => panic!("{line:?}: {other:?}"),
    }
}

fn printed(line: &[&str]) -> String {
    match parse(&words(line)) {
        Ok(Parsed::Print(text)) => text,
        other => panic!("{line:?}: {other:?}"),
    }
}

fn error(line: &[&str]) -> String {
    let error = parse(&words(line)).expect_err(&format!("{line:?}"));
    assert_eq!(error.exit_code(), 64, "{error}");
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text:?}");
    assert!(text.ends_with("--help)"), "{text}");
    text
}

#[test]
fn nothing_given_is_the_default_configuration() {
    let mut args = main_job(&[]);
    let web = args.config.web.take().unwrap();
    assert_eq!(format!("{:?}", args.config), format!("{:?}", Config::default()));
    assert_eq!(args.step, StepChoice::Log);
    assert_eq!(args.step_delay, Duration::ZERO);
    assert_eq!((web.host.as_str(), web.port, web.read_only), ("127.0.0.1", 3000, false));
}

/// Each "(default X)" of the help text, given as a value, changes nothing.
#[test]
fn the_defaults_in_the_help_text_are_the_true_ones() {
    let mut held_to = 0;
    for flag in RunFlags::get_args_info().flags {
        let Some((_, default)) = flag.description.rsplit_once("(default ") else { continue };
        let default = default.trim_end_matches(')');
        let needs_rate = flag.description.starts_with("with --rate");
        let rate: &[&str] = if needs_rate { &["--rate", "5"] } else { &[] };
        let without = format!("{:?}", main_job(rate));
        let with = format!("{:?}", main_job(&[rate, &[flag.long, default]].concat()));
        assert_eq!(with, without, "{}", flag.long);
        held_to += 1;
    }
    assert!(held_to > 25, "{held_to}");
}

#[test]
fn every_flag_reaches_its_setting() {
    let args = main_job(&[
        "--rate=2.5",
        "--count",
        "9",
        "--message-bytes",
        "1KiB",
        "--keys",
        "7",
        "--max-batch",
        "100",
        "--max-batch-bytes",
        "2MiB",
        "--max-wait",
        "0.25",
        "--tick-runtime",
        "5m",
        "--tick-interval",
        "0",
        "--fetch-min-bytes",
        "64KiB",
        "--isolation",
        "read_uncommitted",
        "--sensors",
        "2",
        "--from",
        "latest",
        "--queue",
        "3",
        "--queue-bytes",
        "64MiB",
        "--max-concurrent-runs",
        "8",
        "--step",
        "files",
        "--out",
        "dir",
        "--step-delay",
        "1",
        "--step-timeout",
        "30s",
        "--max-attempts",
        "1",
        "--retry-backoff",
        "10ms",
        "--on-failure",
        "halt",
        "--history-keep",
        "10",
        "--drain-timeout",
        "3",
        "--wait-for-broker",
        "--until-caught-up",
        "--listen",
        "off",
        "--bootstrap-server",
        "a:1,b:2",
        "--topic",
        "t",
        "--group",
        "g",
        "--client",
        "kafka",
        "--data-dir",
        "d",
        "--partitions",
        "6",
        "--embedded-retention-bytes",
        "1MiB",
    ]);
    let config = &args.config;
    let produce = config.produce.as_ref().unwrap();
    assert_eq!((produce.rate, produce.count), (2.5, Some(9)));
    assert_eq!((produce.message_bytes, produce.keys), (1024, 7));
    assert_eq!((config.max_batch, config.max_batch_bytes), (100, 2 << 20));
    assert_eq!(config.max_wait, Duration::from_millis(250));
    assert_eq!((config.tick_runtime.as_secs(), config.tick_interval.as_secs()), (300, 0));
    assert_eq!((config.fetch_min_bytes, config.sensors), (65_536, 2));
    assert_eq!(config.isolation, Some(Isolation::ReadUncommitted));
    assert_eq!(config.from, StartFrom::Latest);
    assert_eq!((config.queue, config.queue_bytes), (3, 64 << 20));
    assert_eq!(config.max_concurrent_runs, 8);
    assert_eq!(args.step, StepChoice::Files { dir: "dir".into() });
    assert_eq!(args.step_delay.as_secs(), 1);
    assert_eq!(config.step_timeout, Some(Duration::from_secs(30)));
    assert_eq!((config.max_attempts, config.retry_backoff.as_millis()), (1, 10));
    assert_eq!(config.on_failure, OnFailure::Halt);
    assert_eq!((config.history_keep, config.drain_timeout.as_secs()), (10, 3));
    assert!(config.wait_for_broker && config.until_caught_up);
    assert_eq!(args.config.web, None);
    let connection = &config.connection;
    assert_eq!(connection.bootstrap_server.as_deref(), Some("a:1,b:2"));
    assert_eq!((connection.topic.as_str(), connection.group.as_str()), ("t", "g"));
    assert_eq!(connection.client, Client::Kafka);
    assert_eq!(connection.data_dir, PathBuf::from("d"));
    assert_eq!((connection.partitions, connection.embedded_retention_bytes), (6, 1 << 20));
}

#[test]
fn flags_stand_before_and_after_a_command() {
    for line in [
        &["--group", "g", "lag", "--topic=t", "--json"][..],
        &["lag", "--group=g", "--json", "--topic", "t"],
        &["--json", "--topic", "t", "--group", "g", "lag"],
    ] {
        let Command::Lag(args) = parsed(line) else { panic!("{line:?}") };
        assert_eq!((args.connection.group.as_str(), args.connection.topic.as_str()), ("g", "t"));
        assert!(args.json);
    }
    let text = error(&["--topic", "a", "lag", "--topic", "b"]);
    assert!(text.starts_with("--topic: got it twice, expected it once"), "{text}");
}

#[test]
fn values_may_look_like_anything() {
    let exec = |line: &[&str]| main_job(line).step;
    assert_eq!(exec(&["--exec=--help"]), StepChoice::Exec { command: "--help".into() });
    assert_eq!(exec(&["--exec", "-"]), StepChoice::Exec { command: "-".into() });
    assert_eq!(exec(&["--exec", "lag"]), StepChoice::Exec { command: "lag".into() });
    assert_eq!(exec(&["--exec=a=b"]), StepChoice::Exec { command: "a=b".into() });
    assert_eq!(exec(&["--exec", "x", "--"]), StepChoice::Exec { command: "x".into() });
}

#[test]
fn a_step_is_one_thing() {
    assert_eq!(main_job(&["--step", "discard"]).step, StepChoice::Discard);
    for (line, what) in [
        (&["--step", "files"][..], "--step: got files without a folder"),
        (&["--out", "d"], "--out: got d without --step files"),
        (&["--out", "d", "--exec", "cat"], "--out: got d without --step files"),
        (&["--step", "log", "--exec", "cat"], "--exec: got cat and --step too"),
        (&["--step", "files", "--out", "d", "--exec", "cat"], "--exec: got cat and --step too"),
        (&["--exec", ""], "--exec: got \"\", expected one character or more"),
        (&["--count", "5"], "--count: got it without --rate"),
    ] {
        let text = error(line);
        assert!(text.starts_with(what), "{text}");
    }
}

#[test]
fn produce_makes_a_sequence_or_posts_stdin() {
    let produce = |line: &[&str]| match parsed(line) {
        Command::Produce(args) => args,
        other => panic!("{other:?}"),
    };
    let args = produce(&["produce"]);
    assert_eq!(
        (args.source, args.settings.rate, args.rate_given),
        (Source::Sequence, 1000.0, false)
    );
    let args = produce(&["--rate", "max", "produce", "--count=7"]);
    assert_eq!((args.settings.rate, args.settings.count, args.rate_given), (0.0, Some(7), true));
    for line in [&["produce", "-"][..], &["produce", "--", "-"]] {
        let args = produce(line);
        assert_eq!(args.source, Source::Stdin { key_separator: None });
        assert_eq!(args.settings.rate, 0.0);
    }
    let args = produce(&["produce", "-", "--key-separator", ":", "--rate", "5"]);
    assert_eq!(args.source, Source::Stdin { key_separator: Some(":".into()) });
    assert_eq!(args.settings.rate, 5.0);
    for (line, what) in [
        (&["produce", "x"][..], "argument: got x, expected -"),
        (&["produce", "-", "-"], "argument: got - too, expected 1 at most"),
        (&["produce", "-", "--count", "5"], "--count: got it with -"),
        (&["produce", "--key-separator", ":"], "--key-separator: got : without -"),
    ] {
        let text = error(line);
        assert!(text.starts_with(what), "{text}");
    }
}

#[test]
fn runs_are_listed_or_one_is_shown() {
    let runs = |line: &[&str]| match parsed(line) {
        Command::Runs(args) => *args,
        other => panic!("{other:?}"),
    };
    let args = runs(&["runs"]);
    assert_eq!(args.action, RunsAction::List);
    assert_eq!(args.selection, Selection { limit: 20, ..Selection::default() });
    assert!(!args.json);
    let args = runs(&["runs", "--state", "failed", "--limit", "5", "--json"]);
    let selection = &args.selection;
    assert_eq!((selection.state.as_deref(), selection.limit, args.json), (Some("failed"), 5, true));
    assert_eq!(runs(&["runs", "17"]).action, RunsAction::Show("17".to_owned()));
    error(&["runs", "17", "--state", "failed"]);
    error(&["runs", "17", "--partition", "2"]);
    error(&["runs", "17", "18"]);
}

#[test]
fn help_and_version_win_wherever_they_stand() {
    for line in [&["--help"][..], &["-h"], &["help"], &["--rate", "x", "--bogus", "-h"]] {
        assert!(printed(line).starts_with("Usage: mb [FLAGS]"), "{line:?}");
    }
    for line in [&["lag", "--help"][..], &["lag", "-h"], &["help", "lag"], &["-h", "lag"]] {
        assert!(printed(line).starts_with("Usage: mb lag "), "{line:?}");
    }
    for line in [&["--version"][..], &["-V"], &["lag", "-V"], &["produce", "--version"]] {
        assert_eq!(printed(line), concat!("mb ", env!("CARGO_PKG_VERSION"), "\n"), "{line:?}");
    }
}

#[test]
fn help_lists_each_flag_once_under_a_heading() {
    for spec in specs() {
        let text = help(spec.name);
        for flag in spec.info.flags {
            let lines = text.lines().filter(|line| {
                let line = line.strip_prefix("  ").unwrap_or_default();
                let line = line.strip_prefix("-V, ").or(line.strip_prefix("-h, ")).unwrap_or(line);
                line.split(' ').next() == Some(flag.long)
            });
            assert_eq!(lines.count(), 1, "{} in {text}", flag.long);
        }
        assert!(!text.contains("Options:") && !text.contains("\n\n\n"), "{text}");
    }
}

/// The bridge relies on it: it reads flags before it knows the command.
#[test]
fn one_flag_is_of_one_kind_in_all_commands() {
    let specs = specs();
    for flag in specs.iter().flat_map(|spec| spec.info.flags) {
        let is_switch = |kind: &FlagInfoKind<'_>| matches!(kind, FlagInfoKind::Switch);
        for other in specs.iter().flat_map(|spec| spec.info.flags) {
            assert!(
                flag.long != other.long || is_switch(&flag.kind) == is_switch(&other.kind),
                "{}",
                flag.long
            );
        }
    }
}

#[test]
fn a_wrong_value_names_its_flag_and_the_rule_for_every_flag() {
    for spec in specs() {
        for flag in spec.info.flags {
            if matches!(flag.kind, FlagInfoKind::Switch) {
                continue;
            }
            let line = [spec.name, flag.long, ""];
            let line: Vec<&str> =
                line.into_iter().filter(|w| *w != spec.name || !w.is_empty()).collect();
            let line = if spec.name.is_empty() { vec![flag.long, ""] } else { line };
            let text = error(&line);
            assert!(text.starts_with(&format!("{}: got \"\", expected ", flag.long)), "{text}");
            let text = error(&line[..line.len() - 1]);
            assert!(text.starts_with(&format!("{}: got no value, expected ", flag.long)), "{text}");
        }
    }
}

proptest! {
    /// Whatever is typed: a command, a text to print, or one line of usage.
    #[test]
    fn no_command_line_is_a_crash(
        line in proptest::collection::vec(
            prop_oneof![
                proptest::sample::select(vec![
                    "lag", "produce", "runs", "offsets", "dead-letters", "redrive", "replay", "help", "-", "--", "-h", "--topic", "--rate", "--count",
                    "5", "--json", "--topic=x", "--rate=1", "--step", "files", "--=", "-=", "--no",
                ]).prop_map(str::to_owned),
                "\\PC{0,8}",
            ],
            0..7,
        ),
    ) {
        let words: Vec<OsString> = line.iter().map(OsString::from).collect();
        if let Err(error) = parse(&words) {
            prop_assert_eq!(error.exit_code(), 64);
            prop_assert!(!error.to_string().contains('\n'), "{}", error);
        }
    }
}

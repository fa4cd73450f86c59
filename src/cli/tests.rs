//! Command lines and what they mean: every flag, every default, every refusal.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use argh::{ArgsInfo, FlagInfoKind};
use proptest::prelude::*;

use crate::cli::commands::{self, Parsed, parse};
use crate::cli::flags::{Command, Spec};
use crate::cli::lag::{LagArgs, LagFlags};
use crate::cli::line::Line;
use crate::cli::main_job::{MainArgs, MainFlags, StepChoice};
use crate::cli::produce::{ProduceFlags, Source};
use crate::cli::runs::{Action, RunsFlags};
use crate::config::{Client, Config, Isolation, OnFailure, StartFrom};
use crate::history::query::Selection;
use crate::pipeline::version;

fn words(line: &[&str]) -> Vec<OsString> {
    line.iter().map(OsString::from).collect()
}

/// What the command line means for the command that it names.
fn parsed<T: Command>(line: &[&str]) -> T::Args {
    let entries = commands::all();
    let specs = entries.each_ref().map(|entry| &entry.spec);
    let read = Line::read(&words(line), &specs).unwrap();
    assert_eq!(read.command, T::NAME, "{line:?}");
    commands::read::<T>(&read).unwrap_or_else(|error| panic!("{line:?}: {error}"))
}

fn main_job(line: &[&str]) -> MainArgs {
    parsed::<MainFlags>(line)
}

fn printed(line: &[&str]) -> String {
    match parse(&words(line), &[]) {
        Ok(Parsed::Print(text)) => text,
        Ok(Parsed::Job(_)) => panic!("{line:?}: a job"),
        Err(error) => panic!("{line:?}: {error}"),
    }
}

fn all_specs() -> Vec<Spec> {
    commands::all().into_iter().map(|entry| entry.spec).collect()
}

fn error(line: &[&str]) -> String {
    let Err(error) = parse(&words(line), &[]) else { panic!("{line:?} is accepted") };
    assert_eq!(error.exit_code(), 64, "{error}");
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text:?}");
    assert!(text.ends_with("--help)"), "{text}");
    text
}

#[test]
fn without_flags_the_configuration_is_the_default_one() {
    let mut args = main_job(&[]);
    let web = args.config.web.take().unwrap();
    assert_eq!(format!("{:?}", args.config), format!("{:?}", Config::default()));
    assert_eq!(args.step, StepChoice::Log);
    assert_eq!(args.step_delay, Duration::ZERO);
    assert_eq!((web.host.as_str(), web.port, web.read_only), ("127.0.0.1", 3000, false));
}

/// Each "(default X)" of the help text, given as the flag's value, changes nothing.
#[test]
fn the_defaults_in_the_help_text_are_those_of_the_configuration() {
    let mut held_to = 0;
    for flag in MainFlags::get_args_info().flags {
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
        "PLAINTEXT://a:1, b:2,",
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
fn flags_may_stand_before_or_after_the_command() {
    for line in [
        &["--group", "g", "lag", "--topic=t", "--json"][..],
        &["lag", "--group=g", "--json", "--topic", "t"],
        &["--json", "--topic", "t", "--group", "g", "lag"],
    ] {
        let LagArgs { common, json } = parsed::<LagFlags>(line);
        assert_eq!(
            (common.connection.group.as_str(), common.connection.topic.as_str()),
            ("g", "t")
        );
        assert!(json && common.topic_given && common.group_given);
    }
    let text = error(&["--topic", "a", "lag", "--topic", "b"]);
    assert!(text.starts_with("--topic: got this flag twice, expected it once"), "{text}");
}

#[test]
fn a_value_may_look_like_a_flag_or_a_command() {
    let exec = |line: &[&str]| main_job(line).step;
    assert_eq!(exec(&["--exec=--help"]), StepChoice::Exec { command: "--help".into() });
    assert_eq!(exec(&["--exec", "-"]), StepChoice::Exec { command: "-".into() });
    assert_eq!(exec(&["--exec", "lag"]), StepChoice::Exec { command: "lag".into() });
    assert_eq!(exec(&["--exec=a=b"]), StepChoice::Exec { command: "a=b".into() });
    assert_eq!(exec(&["--exec", "x", "--"]), StepChoice::Exec { command: "x".into() });
}

#[test]
fn exactly_one_step_can_be_chosen() {
    assert_eq!(main_job(&["--step", "discard"]).step, StepChoice::Discard);
    for (line, what) in [
        (&["--step", "files"][..], "--step: got files without a directory"),
        (&["--out", "d"], "--out: got d without --step files"),
        (&["--out", "d", "--exec", "cat"], "--out: got d without --step files"),
        (&["--step", "log", "--exec", "cat"], "--exec: got cat and --step as well"),
        (&["--step", "files", "--out", "d", "--exec", "cat"], "--exec: got cat and --step as well"),
        (&["--exec", ""], "--exec: got \"\", expected one character or more"),
        (&["--count", "5"], "--count: got this flag without --rate"),
    ] {
        let text = error(line);
        assert!(text.starts_with(what), "{text}");
    }
}

#[test]
fn produce_makes_messages_of_its_own_or_takes_the_lines_of_stdin() {
    let produce = parsed::<ProduceFlags>;
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
        (&["produce", "-", "-"], "argument: got - as well, expected at most 1"),
        (&["produce", "-", "--count", "5"], "--count: got this flag with -"),
        (&["produce", "--key-separator", ":"], "--key-separator: got : without -"),
    ] {
        let text = error(line);
        assert!(text.starts_with(what), "{text}");
    }
}

#[test]
fn runs_are_listed_shown_cancelled_or_replayed() {
    let action = |line: &[&str]| parsed::<RunsFlags>(line).action;
    let list = |selection| Action::List(Box::new(selection));
    assert_eq!(action(&["runs"]), list(Selection { limit: 20, ..Selection::default() }));
    assert_eq!(
        action(&["runs", "--state", "failed", "--limit", "5", "--topic", "t"]),
        list(Selection {
            state: Some("failed".into()),
            limit: 5,
            topic: Some("t".into()),
            ..Selection::default()
        })
    );
    assert_eq!(action(&["runs", "17"]), Action::Show { id: 17 });
    let cancel = Action::Cancel { ids: vec![1, 2], note: "why".into() };
    assert_eq!(action(&["runs", "cancel", "1", "2", "--note", "why"]), cancel);
    assert_eq!(action(&["runs", "replay", "3"]), Action::Replay { ids: vec![3] });
    assert_eq!(action(&["runs", "again", "3"]), Action::Again { ids: vec![3] });
    for line in [
        &["runs", "17", "--state", "failed"][..],
        &["runs", "17", "--partition", "2"],
        &["runs", "17", "18"],
        &["runs", "cancel"],
        &["runs", "replay", "1", "--note", "why"],
        &["runs", "again"],
        &["runs", "x"],
        &["runs", "0"],
    ] {
        error(line);
    }
}

#[test]
fn help_and_version_are_printed_wherever_they_stand() {
    for line in [&["--help"][..], &["-h"], &["help"], &["--rate", "x", "--bogus", "-h"]] {
        assert!(printed(line).starts_with("Usage: mb [FLAGS]"), "{line:?}");
    }
    for line in [&["lag", "--help"][..], &["lag", "-h"], &["help", "lag"], &["-h", "lag"]] {
        assert!(printed(line).starts_with("Usage: mb lag "), "{line:?}");
    }
    for line in [&["--version"][..], &["-V"], &["lag", "-V"], &["produce", "--version"]] {
        assert_eq!(printed(line), format!("mb {}\n", version()), "{line:?}");
    }
}

#[test]
fn help_lists_each_flag_once_under_a_heading() {
    for spec in all_specs() {
        let text = printed(
            &[spec.name, "--help"].into_iter().filter(|w| !w.is_empty()).collect::<Vec<_>>(),
        );
        let mut headed = false;
        let mut listed: Vec<&str> = Vec::new();
        for line in text.lines() {
            headed = line.ends_with(':') && !line.starts_with(' ') || headed && !line.is_empty();
            let flag = line.strip_prefix("  --").and_then(|_| line.split_whitespace().next());
            if let Some(flag) = flag {
                assert!(headed, "{flag} in {text}");
                listed.push(flag);
            }
        }
        // argh adds --help, which stands with -h and --version.
        let declared: Vec<_> =
            spec.info.flags.iter().map(|flag| flag.long).filter(|flag| *flag != "--help").collect();
        assert_eq!(listed, declared);
        assert!(
            !text.contains("\n\n\n") && text.lines().all(|line| line.chars().count() <= 100),
            "{text}"
        );
    }
}

/// A range in a help text is that of the rule which an error names.
#[test]
fn the_ranges_in_the_help_text_are_those_of_the_rules() {
    let mut checked = 0;
    for spec in all_specs() {
        for flag in spec.info.flags {
            let number = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
            let described: Vec<_> = flag.description.split_whitespace().collect();
            let range =
                described.windows(3).find(|of| of[1] == "to" && number(&of[0]) && number(&of[2]));
            let Some([from, _, to]) = range else { continue };
            let text = error(
                &[spec.name, flag.long, "x"]
                    .into_iter()
                    .filter(|w| !w.is_empty())
                    .collect::<Vec<_>>(),
            );
            let to = to.trim_end_matches([',', ';']);
            assert!(text.contains(&format!("from {from} to {to}")), "{}: {text}", flag.long);
            checked += 1;
        }
    }
    assert!(checked > 15, "{checked}");
}

/// `Line` relies on it, because it reads flags before it knows the command.
#[test]
fn a_flag_is_of_the_same_kind_in_every_command() {
    let specs = all_specs();
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
fn every_flag_refuses_an_empty_value_and_names_its_rule() {
    for spec in all_specs() {
        for flag in spec.info.flags {
            if matches!(flag.kind, FlagInfoKind::Switch) {
                continue;
            }
            let line: Vec<&str> = if spec.name.is_empty() {
                vec![flag.long, ""]
            } else {
                vec![spec.name, flag.long, ""]
            };
            let text = error(&line);
            assert!(text.starts_with(&format!("{}: got \"\", expected ", flag.long)), "{text}");
            let text = error(&line[..line.len() - 1]);
            assert!(text.starts_with(&format!("{}: got no value, expected ", flag.long)), "{text}");
        }
    }
}

proptest! {
    /// Any words are a command, a text to print, or one line of usage.
    #[test]
    fn no_command_line_makes_mb_panic(
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
        if let Err(error) = parse(&words, &[]) {
            prop_assert_eq!(error.exit_code(), 64);
            prop_assert!(!error.to_string().contains('\n'), "{}", error);
        }
    }
}

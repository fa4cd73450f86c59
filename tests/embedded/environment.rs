//! Flags from the environment (`MB_OPT_…`), with the built binary: what stands above what, errors, what a step
//! inherits, and what the systemd units set. That each flag has its variable is tested in `cli::environment`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::cli::one_line;
use crate::support::mb::Mb;
use crate::tidy::root;

const LIMIT: Duration = Duration::from_secs(60);

/// Runs `mb ARGS` in `folder` to its end.
fn mb(folder: &Path, variables: &[(&str, &str)], args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mb"))
        .args(args)
        .envs(variables.iter().copied())
        .env_remove("RUST_LOG")
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

fn succeeds(folder: &Path, variables: &[(&str, &str)], args: &[&str]) -> Output {
    let output = mb(folder, variables, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Three records in topic orders, and what a main job needs to process them and end.
const ORDERS: [(&str, &str); 6] = [
    ("MB_OPT_CLIENT", "embedded"),
    ("MB_OPT_TOPIC", "orders"),
    ("MB_OPT_PARTITIONS", "1"),
    ("MB_OPT_LISTEN", "off"),
    ("MB_OPT_UNTIL_CAUGHT_UP", "true"),
    ("MB_OPT_MAX_BATCH", "1"),
];

fn orders() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    succeeds(folder.path(), &ORDERS, &["produce", "--count", "3", "--rate", "max"]);
    folder
}

fn rows(output: &Output) -> Vec<Value> {
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn the_environment_sets_the_flags_of_every_command_and_the_command_line_stands_above_it() {
    let folder = orders();
    let json = [&ORDERS[..], &[("MB_OPT_JSON", "1")]].concat();
    let lag = rows(&succeeds(folder.path(), &json, &["lag"]));
    assert_eq!((&lag[0]["topic"], &lag[0]["log_end_offset"]), (&"orders".into(), &3.into()));
    let table = [&ORDERS[..], &[("MB_OPT_JSON", "0")]].concat();
    let table = succeeds(folder.path(), &table, &["lag"]).stdout;
    assert!(table.starts_with(b"GROUP"), "{}", String::from_utf8_lossy(&table));
    let other = mb(folder.path(), &json, &["lag", "--topic", "other"]);
    assert!(String::from_utf8_lossy(&other.stderr).contains("topic other does not exist"));

    succeeds(folder.path(), &ORDERS, &["--max-batch", "3"]);
    let runs = rows(&succeeds(folder.path(), &json, &["runs"]));
    let keys: Vec<_> = runs.iter().map(|run| &run["key"]).collect();
    assert_eq!(keys, ["orders/0/0-2"]);
}

#[test]
fn a_wrong_variable_is_one_line_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    for (name, value, args, expected) in [
        ("MB_OPT_MAX_BATCH", "0", &[][..], "got 0, expected a whole number from 1 to 1000000"),
        ("MB_OPT_TICK_RUNTIME", "5x", &[], "got 5x, expected more than 0, as seconds"),
        ("MB_OPT_WAIT_FOR_BROKER", "yes", &[], "got yes, expected true, false, 1 or 0"),
        ("MB_OPT_TOPIC", "a\n\u{1b}b", &["lag"], "got \"a\\n\\u{1b}b\""),
        ("MB_OPT_LIMIT", "all", &["runs"], "got all, expected a whole number from 1 to"),
    ] {
        let text = one_line(64, &mb(folder.path(), &[(name, value)], args));
        assert!(text.starts_with(&format!("mb: {name}: ")), "{text}");
        assert!(text.contains(expected) && text.ends_with("--help)\n"), "{text}");
    }
    for (name, hint) in [
        ("MB_OPT_MAX_BACTH", "; did you mean MB_OPT_MAX_BATCH? (try mb --help)\n"),
        ("MB_OPT_SECRET", "as in MB_OPT_TOPIC (try mb --help)\n"),
    ] {
        let text = one_line(64, &mb(folder.path(), &[(name, "1")], &[]));
        assert!(text.starts_with(&format!("mb: environment: got {name}, ")), "{text}");
        assert!(text.ends_with(hint), "{text}");
        succeeds(folder.path(), &[(name, "1")], &["--version"]);
    }
}

#[test]
fn a_step_does_not_inherit_the_flags_of_mb_and_mb_knows_what_it_told_the_step() {
    let folder = orders();
    let more = [
        ("MB_OPT_MAX_ATTEMPTS", "1"),
        ("MB_TOPIC", "somebody's"),
        ("MB_GROUP", "somebody's"),
        ("KEPT", "yes"),
        ("MB", env!("CARGO_BIN_EXE_mb")),
    ];
    let step = "env > variables; \"$MB\" runs --data-dir none 2> inner; true";
    let all = [&ORDERS[..], &more].concat();
    let output = succeeds(folder.path(), &all, &["--max-batch", "3", "--exec", step]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let warning = "MB_GROUP is ignored: the variable for --group is MB_OPT_GROUP";
    assert!(stderr.contains(warning), "{stderr}");
    assert_eq!(stderr.matches("ignored").count(), 1, "{stderr}");

    let variables = fs::read_to_string(folder.path().join("variables")).unwrap();
    let has = |line: &str| variables.lines().any(|other| other == line);
    assert!(has("MB_TOPIC=orders") && has("MB_PARTITION=0") && has("KEPT=yes"), "{variables}");
    assert!(!variables.contains("MB_OPT_"), "{variables}");
    let inner = fs::read_to_string(folder.path().join("inner")).unwrap();
    assert!(inner.contains("none") && !inner.contains("MB_OPT"), "{inner}");
}

/// What systemd makes of a unit: the variables of `Environment=` with those of the environment file above them, and
/// the arguments of `ExecStart=`.
fn started_by<'a>(
    unit: &str,
    state: &Path,
    file: &[(&'a str, &'a str)],
) -> (BTreeMap<String, String>, Vec<String>) {
    let text = fs::read_to_string(root().join("scripts").join(unit)).unwrap();
    let text = text.replace("%S", state.to_str().unwrap()).replace("%i", "orders");
    let values = |name: &'static str| {
        let lines = text.lines().filter_map(move |line| line.strip_prefix(name));
        lines.flat_map(str::split_whitespace).map(|word| word.trim_matches('"').to_owned())
    };
    let mut variables: BTreeMap<_, _> = values("Environment=")
        .map(|word| word.split_once('=').map(|(name, value)| (name.into(), value.into())).unwrap())
        .collect();
    variables.extend(file.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let words: Vec<_> = values("ExecStart=").collect();
    assert_eq!(words, ["/usr/local/bin/mb", "$MB_ARGS"], "{unit}");
    let args = variables["MB_ARGS"].split_whitespace().map(str::to_owned).collect();
    (variables, args)
}

const UNITS: [(&str, &str); 2] = [("mb.service", "mb"), ("mb@.service", "mb-orders")];

#[test]
fn the_environment_file_of_a_unit_sets_anything() {
    for (unit, folder) in UNITS {
        let state = tempfile::tempdir().unwrap();
        let file = [
            ("MB_OPT_CLIENT", "embedded"),
            ("MB_OPT_RATE", "max"),
            ("MB_OPT_COUNT", "5"),
            ("MB_OPT_STEP", "discard"),
            ("MB_OPT_LISTEN", "off"),
            ("MB_OPT_WAIT_FOR_BROKER", "false"),
            ("MB_OPT_UNTIL_CAUGHT_UP", "true"),
        ];
        let (variables, args) = started_by(unit, state.path(), &file);
        let variables: Vec<_> = variables.iter().map(|(name, value)| (&**name, &**value)).collect();
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let output = succeeds(state.path(), &variables, &args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("5 record(s)") && !stderr.contains("WARN"), "{unit}: {stderr}");
        assert!(state.path().join(folder).join("history.db").is_file(), "{unit}");
    }
}

#[test]
fn an_environment_file_from_before_there_were_these_variables_goes_on_working() {
    for (unit, folder) in UNITS {
        let state = tempfile::tempdir().unwrap();
        let file = [
            ("MB_BOOTSTRAP_SERVER", "127.0.0.1:1"),
            ("MB_ARGS", "--topic orders --listen 127.0.0.1:0"),
        ];
        let (variables, args) = started_by(unit, state.path(), &file);
        let variables: Vec<_> =
            variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let by: Vec<_> = ["env"].into_iter().chain(variables.iter().map(String::as_str)).collect();
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let mut mb = Mb::start_by(&by, &state.path().join(folder), &args);
        let line = mb.wait_for_line("waiting for the broker", LIMIT);
        assert!(line.contains("127.0.0.1:1"), "{unit}: {line}");
        let log = mb.stderr().join("\n");
        assert!(!log.contains(":3000") && !log.contains("ignored"), "{unit}: {log}");
        mb.term();
        assert_eq!(mb.wait(LIMIT).code(), Some(0), "{unit}: {}", mb.stderr().join("\n"));
    }
}

/// Names in `text` that begin with `MB_OPT_`.
fn variables_in(text: &str) -> BTreeSet<&str> {
    let part = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let names = text.match_indices("MB_OPT_").map(|(at, _)| &text[at..]);
    names
        .map(|rest| &rest[..rest.find(|c| !part(c)).unwrap_or(rest.len())])
        .filter(|name| *name != "MB_OPT_")
        .collect()
}

#[test]
fn units_and_manual_name_only_variables_that_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let mut named = 0;
    for place in ["docs", "scripts"] {
        for file in fs::read_dir(root().join(place)).unwrap() {
            let path = file.unwrap().path();
            let Ok(text) = fs::read_to_string(&path) else { continue };
            for name in variables_in(&text) {
                // An empty value sets nothing, but a name that there is not is an error all the same.
                let output = mb(folder.path(), &[(name, "")], &["runs"]);
                assert_ne!(output.status.code(), Some(64), "{}: {name}", path.display());
                named += 1;
            }
        }
    }
    assert!(named > 5, "{named}");
}

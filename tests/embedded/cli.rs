//! The built binary as a shell sees it: exit codes, one line on stderr, help, version. What needs a broker
//! or a pipeline is tested elsewhere.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, Output, Stdio};

fn mb<I: AsRef<OsStr>>(args: impl IntoIterator<Item = I>) -> Output {
    let dir = tempfile::tempdir().expect("a folder to work in");
    Command::new(env!("CARGO_BIN_EXE_mb"))
        .args(args)
        .current_dir(dir.path())
        .env("RUST_BACKTRACE", "full")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

/// The one line that a command prints on stderr before it exits with `code`.
fn error(code: i32, args: &[&str]) -> String {
    let output = mb(args);
    one_line(code, &output)
}

pub fn one_line(code: i32, output: &Output) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).expect("stderr is UTF-8");
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(output.stdout.is_empty(), "stdout: {}", String::from_utf8_lossy(&output.stdout));
    assert!(stderr.starts_with("mb: ") && stderr.ends_with('\n'), "{stderr:?}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    let calm = !stderr.contains("panicked") && !stderr.contains("backtrace");
    assert!(calm && !stderr[..stderr.len() - 1].contains(char::is_control), "{stderr:?}");
    stderr
}

fn stdout(args: &[&str]) -> String {
    let output = mb(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("stdout is UTF-8")
}

#[test]
fn the_lag_script_uses_the_directory_it_is_called_in() {
    let here = tempfile::tempdir().expect("a folder to work in");
    let run = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command.args(args).env("MB", env!("CARGO_BIN_EXE_mb")).current_dir(here.path());
        let output = command.output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("stdout is UTF-8")
    };
    let topic = ["--client", "embedded", "--data-dir", "own", "--topic", "t"];
    let posted = ["--count", "3", "--rate", "max", "--partitions", "1"];
    run(env!("CARGO_BIN_EXE_mb"), &[&["produce"], &topic[..], &posted].concat());
    let lag = run(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/lag.sh"), &topic);
    let cells: Vec<_> = lag.lines().nth(1).expect("a partition").split_whitespace().collect();
    assert_eq!(cells, ["mb", "t", "0", "-", "3", "-"], "{lag}");
}

#[test]
fn a_wrong_flag_value_names_the_flag_the_value_and_the_rule() {
    for (flag, value, rule) in [
        ("--max-concurrent-runs", "0", "a whole number from 1 to 1000"),
        ("--max-concurrent-runs", "-1", "a whole number from 1 to 1000"),
        ("--max-concurrent-runs", "abc", "a whole number from 1 to 1000"),
        ("--max-concurrent-runs", "1e9", "a whole number from 1 to 1000"),
        ("--max-wait", "5x", "seconds such as 10 or 0.25, or a number with ms, s, m or h"),
        ("--max-wait", "-5", "seconds such as 10 or 0.25, or a number with ms, s, m or h"),
        ("--tick-runtime", "99999999999999999999h", "more than 0, as seconds"),
        ("--tick-runtime", "0", "more than 0, as seconds"),
        ("--retry-backoff", "NaN", "seconds such as"),
        (
            "--queue-bytes",
            "64k",
            "whole bytes such as 65536, or a whole number with KiB, MiB or GiB",
        ),
        ("--rate", "0.0001", "messages per second from 0.001"),
        ("--rate", "-1", "messages per second from 0.001"),
        ("--client", "librdkafka", "auto, rdkafka, kafka or embedded"),
        ("--from", "beginning", "earliest, latest or committed"),
        ("--on-failure", "ignore", "dead-letter or halt"),
        ("--step", "http", "discard, log or files"),
        ("--listen", "everywhere", "HOST:PORT such as 127.0.0.1:3000"),
        ("--topic", "..", "1 to 249 of a-z A-Z 0-9 . _ -"),
        ("--bootstrap-server", "localhost", "HOST:PORT[,HOST:PORT…]"),
    ] {
        for line in [vec![flag.to_owned(), value.to_owned()], vec![format!("{flag}={value}")]] {
            let text = one_line(64, &mb(&line));
            assert!(text.starts_with(&format!("mb: {flag}: got ")), "{text}");
            assert!(text.contains(value) && text.contains(&format!("expected {rule}")), "{text}");
        }
    }
    let text = error(64, &["--topic", &"x".repeat(250)]);
    assert!(text.contains("(250 characters)"), "{text}");
}

#[test]
fn an_error_about_two_flags_names_both() {
    let text = error(64, &["--queue-bytes", "1MiB", "--max-batch-bytes", "1MiB"]);
    assert!(text.contains("--queue-bytes") && text.contains("--max-batch-bytes"), "{text}");
    let text = error(64, &["--exec", "cat", "--step", "log"]);
    assert!(text.contains("--exec") && text.contains("--step"), "{text}");
    let text = error(64, &["--client", "embedded", "--bootstrap-server", "localhost:9092"]);
    assert!(text.contains("--client") && text.contains("--bootstrap-server"), "{text}");
}

#[test]
fn an_unknown_flag_or_command_is_refused_with_the_nearest_name() {
    let text = error(64, &["--max-bacth", "5"]);
    assert!(text.contains("got --max-bacth") && text.contains("--max-batch"), "{text}");
    let text = error(64, &["lag", "--jsno"]);
    assert!(text.contains("got --jsno") && text.contains("--json"), "{text}");
    let text = error(64, &["prodcue"]);
    assert!(text.contains("got prodcue") && text.contains("did you mean produce?"), "{text}");
    let text = error(64, &["lag", "--sensors", "2"]);
    assert!(text.contains("expected a flag of mb lag (--sensors is a flag of mb)"), "{text}");
    error(64, &["-x"]);
    error(64, &["-"]);
    error(64, &[""]);
    error(64, &["lag", "now"]);
}

#[test]
fn a_flag_given_twice_or_without_its_value_is_refused() {
    let text = error(64, &["--topic", "a", "lag", "--topic", "b"]);
    assert!(text.contains("--topic: got this flag twice"), "{text}");
    let text = error(64, &["lag", "--json", "--json"]);
    assert!(text.contains("--json: got this flag twice"), "{text}");
    for line in [&["--topic"][..], &["--topic", "--rate", "5"]] {
        let text = error(64, line);
        assert!(text.contains("--topic: got no value, expected --topic NAME"), "{text}");
    }
    let text = error(64, &["lag", "--json=yes"]);
    assert!(text.contains("--json: got yes, expected no value"), "{text}");
}

#[test]
fn errors_about_hostile_arguments_stay_one_printable_line() {
    let bytes = OsString::from_vec(b"--topic=\xff\xfe\n".to_vec());
    let text = one_line(64, &mb([bytes]));
    assert!(text.contains("expected UTF-8"), "{text}");
    let text = error(64, &["--topic", "a\n\u{1b}[31mb"]);
    assert!(text.contains("\\n") && text.contains("\\u{1b}"), "{text}");
    let text = error(64, &["\u{1b}]0;title\u{7}"]);
    assert!(text.contains("\\u{7}"), "{text}");
}

#[test]
fn help_and_version_go_to_stdout() {
    let text = stdout(&["--help"]);
    for word in ["produce", "lag", "runs", "--max-concurrent-runs", "Examples:", "Exit codes:"] {
        assert!(text.contains(word), "{word} in {text}");
    }
    assert_eq!(stdout(&["-h"]), text);
    assert!(stdout(&["produce", "--help"]).starts_with("Usage: mb produce"));
    assert!(stdout(&["runs", "-h"]).starts_with("Usage: mb runs"));
    assert_eq!(stdout(&["--version"]), format!("mb {}\n", mb::pipeline::version()));
    assert_eq!(stdout(&["lag", "-V"]), stdout(&["--version"]));
}

#[test]
fn a_closed_pipe_on_stdout_is_no_error_and_a_full_disk_is_one() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_mb"))
        .arg("--help")
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));

    let full = File::options().write(true).open("/dev/full").expect("/dev/full is there");
    let output = Command::new(env!("CARGO_BIN_EXE_mb"))
        .arg("--help")
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .expect("the binary runs");
    let text = one_line(1, &output);
    assert!(text.contains("cannot write to stdout"), "{text}");
}

#[test]
fn a_malformed_log_filter_does_not_crash_mb() {
    for filter in ["=", "mb=loud", "a=b=c,,/[", "\u{1b}"] {
        let output = Command::new(env!("CARGO_BIN_EXE_mb"))
            .args(["--max-wait", "5x"])
            .env("RUST_LOG", filter)
            .output()
            .expect("the binary runs");
        assert_eq!(output.status.code(), Some(64), "{filter}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("mb: --max-wait: got 5x") && !text.contains("panicked"), "{text}");
    }
}

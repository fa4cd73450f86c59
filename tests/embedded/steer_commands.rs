//! The commands that look at a running mb and act on it, as a shell sees them.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use serde_json::Value;

use crate::support::eventually;
use crate::support::mb::Mb;

const LIMIT: Duration = Duration::from_secs(60);

fn run(data_dir: &Path, args: &[&str]) -> Output {
    let output = Mb::run_in(data_dir, args);
    assert!(output.status.success(), "mb {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn json(data_dir: &Path, args: &[&str]) -> Value {
    let output = run(data_dir, args);
    let mut list: Value = serde_json::from_slice(&output.stdout).expect("JSON on stdout");
    list.as_array_mut().expect("an array").remove(0)
}

/// Null while mb is starting.
fn status(data_dir: &Path) -> Value {
    let output = Mb::run_in(data_dir, &["status", "--json"]);
    let list: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    list[0].clone()
}

fn text(data_dir: &Path, args: &[&str]) -> String {
    String::from_utf8(run(data_dir, args).stdout).expect("UTF-8")
}

#[test]
fn status_and_top_show_a_running_mb_and_say_where_none_runs() {
    let data = tempfile::tempdir().unwrap();
    let nobody = Mb::run_in(data.path(), &["status"]);
    assert_eq!(nobody.status.code(), Some(1));
    let said = String::from_utf8(nobody.stderr).unwrap();
    assert!(said.contains("no mb runs on") && said.lines().count() == 1, "{said}");
    let args = ["--client", "embedded", "--rate", "200", "--step", "discard"];
    let mut mb = Mb::start_in(data.path(), &args);
    eventually(LIMIT, "records are processed", || {
        status(data.path())["totals"]["records_done"].as_u64() > Some(0)
    });
    let status = status(data.path());
    assert_eq!(status["topic"], "First_Topic");
    assert_eq!(status["workers"].as_array().unwrap().len(), 5);
    let shown = text(data.path(), &["status"]);
    assert!(shown.contains("topic First_Topic, group mb") && shown.contains("worker 0"), "{shown}");
    // Not at a terminal, top is one picture.
    assert!(text(data.path(), &["top"]).contains("PARTITION"));
    mb.term();
    assert_eq!(mb.wait(LIMIT).code(), Some(0));
}

#[test]
fn a_paused_mb_reads_nothing_but_a_tick_that_was_asked_for() {
    let data = tempfile::tempdir().unwrap();
    // It makes the topic, and posts its first message after minutes.
    let args = ["--client", "embedded", "--rate", "0.001", "--step", "discard"];
    let args = [&args[..], &["--tick-runtime", "200ms"]].concat();
    let _mb = Mb::start_in(data.path(), &args);
    let status = || status(data.path());
    eventually(LIMIT, "the topic is read", || status()["lag"]["total"] == 0);
    run(data.path(), &["pause"]);
    eventually(LIMIT, "it is paused", || status()["sensor"]["paused"] == true);
    run(data.path(), &["produce", "--count", "40", "--rate", "max"]);
    eventually(LIMIT, "40 messages wait", || status()["lag"]["total"] == 40);
    let preview = json(data.path(), &["tick", "--preview", "--json"]);
    let found = preview["partitions"].as_array().unwrap().iter();
    assert_eq!(found.map(|of| of["records"].as_u64().unwrap()).sum::<u64>(), 40);
    assert_eq!(status()["totals"]["records_in"], 0);
    let ticks = status()["totals"]["ticks"].as_u64();
    run(data.path(), &["tick"]);
    eventually(LIMIT, "the tick is over", || status()["totals"]["ticks"].as_u64() > ticks);
    eventually(LIMIT, "it has read them", || status()["lag"]["total"] == 0);
    assert_eq!(status()["sensor"]["paused"], true);
    run(data.path(), &["produce", "--count", "10", "--rate", "max"]);
    eventually(LIMIT, "10 messages wait", || status()["lag"]["total"] == 10);
    run(data.path(), &["resume"]);
    eventually(LIMIT, "they are read", || status()["lag"]["total"] == 0);
}

#[test]
fn settings_change_while_it_runs_within_their_bounds() {
    let data = tempfile::tempdir().unwrap();
    let args = ["--client", "embedded", "--rate", "100", "--step", "discard"];
    let _mb = Mb::start_in(data.path(), &args);
    let status = || status(data.path());
    eventually(LIMIT, "the topic is read", || status()["totals"]["records_in"].as_u64() > Some(0));
    let change = ["set", "max-batch=7", "max-concurrent-runs=2", "max-wait=20ms", "rate=500"];
    let shown = text(data.path(), &change);
    assert!(shown.contains("max-batch            7     50"), "{shown}");
    eventually(LIMIT, "two workers", || status()["workers"].as_array().unwrap().len() == 2);
    eventually(LIMIT, "batches of 7 at most", || {
        let runs = run(data.path(), &["runs", "--limit", "5", "--json"]).stdout;
        let runs: Value = serde_json::from_slice(&runs).unwrap();
        runs.as_array().unwrap().iter().all(|run| run["records"].as_u64() <= Some(7))
    });
    let refused = Mb::run_in(data.path(), &["set", "max-batch=0"]);
    assert_eq!(refused.status.code(), Some(64));
}

#[test]
fn runs_are_given_up_and_made_again() {
    let data = tempfile::tempdir().unwrap();
    let args = ["--client", "embedded", "--max-concurrent-runs", "1", "--max-batch", "10"];
    let step = ["--rate", "max", "--count", "40", "--partitions", "1", "--exec", "exec sleep 600"];
    let _mb = Mb::start_in(data.path(), &[&args[..], &step].concat());
    let state = |id: &str| -> Option<String> {
        let output = Mb::run_in(data.path(), &["runs", id, "--json"]);
        let list: Value = serde_json::from_slice(&output.stdout).ok()?;
        list[0]["state"].as_str().map(str::to_owned)
    };
    eventually(LIMIT, "the first run", || state("1").as_deref() == Some("running"));
    eventually(LIMIT, "the second waits", || state("2").as_deref() == Some("queued"));
    run(data.path(), &["runs", "cancel", "2", "--note", "not this one"]);
    run(data.path(), &["runs", "cancel", "1", "--note", "too slow"]);
    eventually(LIMIT, "its command was ended", || state("1").as_deref() == Some("failed"));
    eventually(LIMIT, "the second never began", || state("2").as_deref() == Some("failed"));
    let letters = text(data.path(), &["dead-letters", "list", "--by-error"]);
    assert!(letters.contains("cancelled: not this one"), "{letters}");
    assert!(letters.contains("cancelled: too slow"), "{letters}");
    let over = Mb::run_in(data.path(), &["runs", "cancel", "1"]);
    assert!(!over.status.success() && over.stderr.contains(&b'1'));
    let again = run(data.path(), &["runs", "again", "1", "--json"]).stdout;
    let again: Value = serde_json::from_slice(&again).unwrap();
    assert_eq!(again, serde_json::json!([{ "request": 1, "did": "redrive", "dead_letters": 10 }]));
    run(data.path(), &["runs", "replay", "1"]);
    let requests = text(data.path(), &["requests", "list"]);
    assert!(requests.contains("redrive") && requests.contains("10 dead letter(s)"), "{requests}");
    assert!(requests.contains("replay") && requests.contains("0/0-9"), "{requests}");
}

//! The metrics: their text as promtool takes it, the dashboard and the alert rules that use them, and
//! that a thousand partitions are no burden.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::{eventually_some, world::Recorder};
use mb::api::metrics::GetMetrics;
use mb::api::socket;
use mb::config::Connection;
use mb::kafka::Broker;
use mb::kafka::embedded::Embedded;
use mb::step::{Attempt, Step, StepError};
use mb::{Client, Config, Pipeline, Produce, Stopper};

const LIMIT: Duration = Duration::from_secs(60);

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name)
}

/// The labels of mb's own metrics in these tests.
const GROUP: &str = r#"group="a \"group\"\\ of\nmine""#;
const TOPIC: &str = r#"topic="orders""#;

/// What promtool says to `input`, where it finds nothing wrong.
fn promtool(args: &[&str], input: &str) -> String {
    let mut child = Command::new("promtool")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|cause| {
            panic!("cannot start promtool ({cause}): run scripts/setup test, which installs it")
        });
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success(), "promtool {args:?}: {said}");
    said
}

/// The metrics of a pipeline once all of `ready` is in them, and the longest time that ten
/// more of them took.
fn metrics_of(
    partitions: u32,
    config: impl FnOnce(Config) -> Config,
    step: Arc<dyn Step>,
    ready: &[&str],
) -> (String, Duration) {
    let dir = tempfile::tempdir().unwrap();
    let topics = Embedded::open(dir.path(), 1 << 30).unwrap();
    topics.create_topic("orders", partitions).unwrap();
    let base = Config {
        connection: Connection {
            topic: "orders".into(),
            group: "a \"group\"\\ of\nmine".into(),
            client: Client::Embedded,
            data_dir: dir.path().to_owned(),
            ..Connection::default()
        },
        max_wait: Duration::from_millis(20),
        tick_runtime: Duration::from_millis(500),
        tick_interval: Duration::from_millis(10),
        ..Config::default()
    };
    let pipeline = Pipeline::new(config(base), step).with_broker(Arc::new(topics));
    let (stopper, stop) = Stopper::new();
    let thread = std::thread::spawn(move || pipeline.run(&stop));
    let ask = || -> Option<String> {
        socket::Client::connect(dir.path()).ok()??.perform(GetMetrics {}).ok()
    };
    let text = eventually_some(LIMIT, &ready.join(", "), || {
        ask().filter(|text| ready.iter().all(|part| text.contains(part)))
    });
    let mut client = socket::Client::connect(dir.path()).unwrap().unwrap();
    let asked = (0..10).map(|_| {
        let began = Instant::now();
        client.perform(GetMetrics {}).unwrap();
        began.elapsed()
    });
    let longest = asked.max().unwrap();
    stopper.stop();
    thread.join().unwrap().unwrap();
    (text, longest)
}

/// The metrics of a pipeline that has something of everything.
fn everything() -> String {
    let fails = |attempt: &Attempt<'_>| match attempt.key.partition {
        0 => Err(StepError::DeadLetter("not this one".into())),
        _ => Ok(()),
    };
    let config = |base| Config {
        produce: Some(Produce { rate: 500.0, count: Some(200), ..Produce::default() }),
        freshness: Some(Duration::from_secs(60)),
        ..base
    };
    let done = [
        &format!("mb_messages_posted_total{{{GROUP},{TOPIC}}} 200\n"),
        &format!("mb_ready{{{GROUP},{TOPIC}}} 1\n"),
        &format!("mb_freshness_age_seconds{{{GROUP},{TOPIC}}} 0\n"),
        "kafka_consumergroup_current_offset{",
    ];
    metrics_of(4, config, Recorder::new(fails), &done).0
}

/// Names of metrics that begin as ours do, in any text.
fn names_in(text: &str) -> BTreeSet<&str> {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c: char| !part(c))
        .filter(|word| ["mb_", "kafka_", "process_"].iter().any(|start| word.starts_with(start)))
        .collect()
}

#[test]
fn promtool_takes_the_metrics_and_dashboard_and_alerts_use_no_others() {
    let text = everything();
    promtool(&["check", "metrics"], &text);
    let expected = [
        "mb_runs_total{GROUP,state=\"succeeded\",TOPIC}",
        "mb_run_duration_seconds_bucket{GROUP,TOPIC,le=\"0.001\"}",
        "mb_record_latency_seconds_bucket{GROUP,TOPIC,le=\"0.3\"}",
        "mb_records_without_latency_total{GROUP,reason=\"backlog\",TOPIC} ",
        "mb_build_info{GROUP,TOPIC,version=\"",
        "mb_last_commit_timestamp_seconds{GROUP,TOPIC} ",
        "process_cpu_seconds_total ",
        "mb_dead_letters_open{GROUP,TOPIC} ",
        "mb_freshness_limit_seconds{GROUP,TOPIC} 60\n",
        "mb_producer_rate_asked{GROUP,TOPIC} 500\n",
        "mb_max_wait_seconds{GROUP,TOPIC} 0.02\n",
        "mb_paused{GROUP,TOPIC} 0\n",
        "mb_ready{GROUP,TOPIC} 1\n",
    ];
    for line in expected.map(|line| line.replace("GROUP", GROUP).replace("TOPIC", TOPIC)) {
        assert!(text.contains(&format!("\n{line}")), "no {line} in\n{text}");
    }
    let lag = "kafka_consumergroup_lag{consumergroup=\"a \\\"group\\\"\\\\ of\\nmine\",partition=\"3\",topic=\"orders\"}";
    assert!(text.contains(lag), "no {lag} in\n{text}");

    let known = names_in(&text);
    for name in ["grafana-dashboard.json", "alerts.yml"] {
        let used = std::fs::read_to_string(script(name)).unwrap();
        let names = names_in(&used);
        let unknown: Vec<_> = names.difference(&known).collect();
        assert!(unknown.is_empty(), "{name} uses metrics that mb has not: {unknown:?}");
        assert!(names.len() >= 5, "{name} uses {names:?}");
    }
}

/// The metrics in the manual's table, each with its type and labels.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let manual = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/page-and-api.md");
    let manual = std::fs::read_to_string(manual).unwrap();
    let table = manual.split("## Metrics\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let quoted = |cell: &str| -> Vec<String> {
        cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let row = |line: &str| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let (kind, labels) = (cells[2].to_owned(), quoted(cells[3]).into_iter().collect());
        quoted(cells[1])
            .into_iter()
            .map(move |name| (name, (kind.clone(), BTreeSet::clone(&labels))))
    };
    rows.flat_map(row).collect()
}

#[test]
fn the_manual_has_each_metric_with_its_type_and_labels() {
    let text = everything();
    let types: BTreeMap<String, String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect();
    // A label's value may have anything in it: only names before `="` count.
    let labels = |name: &str| -> BTreeSet<String> {
        let starts = [format!("{name}{{"), format!("{name}_bucket{{")];
        let line = text.lines().find(|line| starts.iter().any(|start| line.starts_with(start)));
        let names = line.unwrap_or_default().split("=\"").map(|part| {
            part.rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap().to_owned()
        });
        let mut names: Vec<_> = names.collect();
        names.pop();
        names.into_iter().collect()
    };
    let common = |name: &str| match name.starts_with("mb_") {
        true => BTreeSet::from(["group".to_owned(), "topic".to_owned()]),
        false => BTreeSet::new(),
    };
    let given: BTreeMap<_, _> = types
        .into_iter()
        .map(|(name, kind)| {
            let mut found: BTreeSet<_> =
                labels(&name).difference(&common(&name)).cloned().collect();
            found.remove("le");
            (name, (kind, found))
        })
        .collect();
    assert_eq!(given, documented());
}

#[test]
fn promtool_takes_the_alert_rules() {
    let said = promtool(&["check", "rules", script("alerts.yml").to_str().unwrap()], "");
    assert!(said.contains("rules found"), "{said}");
}

#[test]
fn the_dashboard_is_whole() {
    let text = std::fs::read_to_string(script("grafana-dashboard.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<i64> = panels.iter().map(|panel| panel["id"].as_i64().unwrap()).collect();
    assert!(panels.len() > 10 && ids.len() == panels.len(), "each panel has a number of its own");
    let expressions: Vec<&str> = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap())
        .map(|target| target["expr"].as_str().unwrap())
        .collect();
    // promtool reads expressions as rules.
    let rules: Vec<_> = expressions
        .iter()
        .enumerate()
        .map(
            |(number, expr)| serde_json::json!({"record": format!("panel:{number}"), "expr": expr}),
        )
        .collect();
    let rules = serde_json::json!({"groups": [{"name": "panels", "rules": rules}]});
    let file = tempfile::NamedTempFile::with_suffix(".yml").unwrap();
    std::fs::write(file.path(), rules.to_string()).unwrap();
    promtool(&["check", "rules", "--lint=none", file.path().to_str().unwrap()], "");
}

#[test]
fn a_thousand_partitions_have_their_metrics() {
    // Commits are the last to be there.
    let last = ["kafka_consumergroup_current_offset{"];
    let (text, took) = metrics_of(1000, |base| base, Recorder::new(|_| Ok(())), &last);
    promtool(&["check", "metrics"], &text);
    let lines = text.lines().filter(|line| line.contains("partition=\"")).count();
    assert_eq!(lines, 4 * 1000);
    println!("metrics of 1000 partitions: {took:?}, {} bytes", text.len());
}

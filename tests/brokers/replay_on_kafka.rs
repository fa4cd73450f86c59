//! `mb replay` on real brokers: records that were removed, transactions, kills. On the embedded topic:
//! `tests/embedded/replay.rs`.

use std::path::Path;
use std::time::Duration;

use crate::support::kafka::{Kafka, V3_9, V4_4};
use crate::support::mb::Mb;
use crate::support::{eventually, raw, unique};

const LIMIT: Duration = Duration::from_secs(60);

struct Names {
    server: String,
    topic: String,
    group: String,
    client: &'static str,
}

impl Names {
    fn on(kafka: &Kafka, client: &'static str) -> Names {
        let names = Names {
            server: kafka.bootstrap(),
            topic: unique("orders"),
            group: unique("group"),
            client,
        };
        kafka.create_topic(&names.topic, 1, &[]);
        names
    }

    fn flags(&self) -> [&str; 8] {
        let (server, topic, group) = (&self.server, &self.topic, &self.group);
        let client = self.client;
        ["--bootstrap-server", server, "--topic", topic, "--group", group, "--client", client]
    }

    /// Runs mb until it is caught up; the offsets that it processed, each as often as it did, and
    /// its log.
    fn process(&self, data_dir: &Path) -> (Vec<i64>, Vec<String>) {
        let out = tempfile::tempdir().unwrap();
        let script = r#"cat > "$OUT/$(printf %s "$MB_RUN_KEY" | tr / _)""#;
        let exec = format!("OUT={} ; {script}", out.path().display());
        let more = ["--listen", "off", "--until-caught-up", "--exec", &exec];
        let mut mb = Mb::start_in(data_dir, &[&self.flags(), &more[..]].concat());
        assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
        let mut offsets: Vec<i64> = Vec::new();
        for entry in std::fs::read_dir(out.path()).unwrap() {
            let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            offsets.extend(text.lines().map(|line| {
                let record: serde_json::Value = serde_json::from_str(line).unwrap();
                record["offset"].as_i64().unwrap()
            }));
        }
        offsets.sort_unstable();
        (offsets, mb.stderr())
    }

    fn replay(&self, data_dir: &Path, args: &[&str]) -> String {
        let output = Mb::run_in(data_dir, &[&["replay"], args, &self.flags()].concat());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        stderr
    }
}

/// Finished files of the first replay.
fn replayed(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !name.starts_with('.') && name.ends_with(".replay-1.ndjson")).count()
}

fn values(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| format!("value-{n}").into_bytes()).collect()
}

#[test]
fn what_retention_took_before_the_replay_came_to_it_is_passed_over_and_told() {
    for (version, client) in [(V3_9, "kafka"), (V4_4, "rdkafka")] {
        let kafka = Kafka::shared(version);
        let names = Names::on(kafka, client);
        raw::produce(&names.server, "none", &names.topic, 0, &values(30));
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(names.process(dir.path()).0, (0..30).collect::<Vec<_>>());
        names.replay(dir.path(), &["--partition", "0", "--from", "5", "--to", "24"]);
        kafka.delete_records(&names.topic, 0, 10);
        let (offsets, log) = names.process(dir.path());
        assert_eq!(offsets, (10..=24).collect::<Vec<_>>(), "{version} {client}");
        let told = format!("{}/0 5-9 were removed from the log", names.topic);
        assert!(log.iter().any(|line| line.contains(&told)), "{}", log.join("\n"));
        let told = names.replay(dir.path(), &["--partition", "0", "--from", "7", "--to", "12"]);
        assert!(told.contains("7-9 is not in the log any more"), "{told}");
        assert_eq!(names.process(dir.path()).0, [10, 11, 12]);
        let committed = raw::committed(&names.server, &names.group, &names.topic);
        assert_eq!(committed[&0], 30, "offsets stay");
    }
}

#[test]
fn a_range_that_ends_in_control_records_comes_to_its_end() {
    let names = Names::on(Kafka::shared(V4_4), "rdkafka");
    raw::transaction(&names.server, &names.topic, 0, &values(5), true);
    raw::transaction(&names.server, &names.topic, 0, &values(5), false);
    let dir = tempfile::tempdir().unwrap();
    let first = names.process(dir.path()).0;
    assert_eq!(first, [0, 1, 2, 3, 4]);
    let told = names.replay(dir.path(), &["--since", "2020-01-01"]);
    assert!(told.contains("0-11 is replayed"), "{told}");
    assert_eq!(names.process(dir.path()).0, first);
}

#[test]
fn a_killed_mb_goes_on_with_its_replay() {
    let names = Names::on(Kafka::shared(V4_4), "rdkafka");
    raw::produce(&names.server, "none", &names.topic, 0, &values(200));
    let dir = tempfile::tempdir().unwrap();
    names.process(dir.path());
    names.replay(dir.path(), &["--partition", "0", "--from", "0"]);
    let out = tempfile::tempdir().unwrap();
    let files = out.path().to_str().unwrap();
    let slow = ["--listen", "off", "--step", "files", "--out", files, "--step-delay", "50ms"];
    let small = ["--max-batch", "10", "--max-concurrent-runs", "1", "--until-caught-up"];
    let args = [&names.flags(), &slow[..], &small].concat();
    for _ in 0..2 {
        let before = replayed(&out.path().join(&names.topic).join("0"));
        let mut mb = Mb::start_in(dir.path(), &args);
        eventually(LIMIT, "some more of it is done", || {
            replayed(&out.path().join(&names.topic).join("0")) > before
        });
        mb.kill9();
    }
    let mut mb = Mb::start_in(dir.path(), &args);
    assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
    assert_eq!(
        replayed(&out.path().join(&names.topic).join("0")),
        20,
        "the same ranges each time, under their keys"
    );
}

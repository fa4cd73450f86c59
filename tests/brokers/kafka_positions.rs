//! Where mb goes on, on real brokers: scopes in one data directory, offsets that somebody moved,
//! partitions that were added, records and topics that are gone.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use crate::support::files::{FileRecord, Files, assert_same};
use crate::support::kafka::{Kafka, V3_9, V4_4};
use crate::support::mb::Mb;
use crate::support::{eventually, raw, unique};

const LIMIT: Duration = Duration::from_secs(60);
const STARTED: &str = "worker(s), batches";

fn flags<'a>(server: &'a str, topic: &'a str, group: &'a str) -> Vec<&'a str> {
    vec!["--bootstrap-server", server, "--topic", topic, "--group", group, "--listen", "off"]
}

/// Fills each of `partitions` with so many numbered records.
fn fill(server: &str, topic: &str, partitions: std::ops::Range<i32>, count: usize, mark: &str) {
    for partition in partitions {
        let value = |number: usize| format!("{mark}-{partition}-{number}").into_bytes();
        let values: Vec<_> = (0..count).map(value).collect();
        raw::produce(server, "none", topic, partition, &values);
    }
}

/// Runs mb with `--step files` until it is caught up; what came out.
fn process(data_dir: &Path, args: &[&str], topic: &str) -> (Vec<FileRecord>, Vec<String>) {
    let out = tempfile::tempdir().unwrap();
    let step = ["--step", "files", "--out", out.path().to_str().unwrap(), "--until-caught-up"];
    let mut mb = Mb::start_in(data_dir, &[args, &step].concat());
    assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
    (Files::read(out.path(), topic).records(), mb.stderr())
}

fn from(records: &[FileRecord], starts: &BTreeMap<i32, i64>) -> Vec<FileRecord> {
    let wanted = records.iter().filter(|record| record.offset >= starts[&record.partition]);
    wanted.cloned().collect()
}

#[test]
fn one_data_directory_serves_embedded_kafka_another_group_and_another_cluster() {
    let (first, second) = (Kafka::shared(V3_9).bootstrap(), Kafka::shared(V4_4).bootstrap());
    let (topic, group, other) = (unique("scopes"), unique("group"), unique("other"));
    let data_dir = tempfile::tempdir().unwrap();
    let mut embedded = vec!["--client", "embedded", "--topic", &topic, "--group", &group];
    embedded.extend(["--listen", "off", "--rate", "max", "--count", "1000"]);
    let (records, _) = process(data_dir.path(), &embedded, &topic);
    assert_eq!(records.len(), 1_000);

    // Offsets are the same in all of them, contents are not.
    for (server, mark) in [(&first, "first"), (&second, "second")] {
        let broker = if server == &first { V3_9 } else { V4_4 };
        Kafka::shared(broker).create_topic(&topic, 4, &[]);
        fill(server, &topic, 0..4, 250, mark);
    }
    for (server, group) in [(&first, &group), (&first, &other), (&second, &group)] {
        let (records, said) = process(data_dir.path(), &flags(server, &topic, group), &topic);
        assert_same(&records, &raw::read_all(server, &topic));
        assert!(!said.join("\n").contains("somebody moved"), "{}", said.join("\n"));
    }
    // And each of them is known again.
    for (server, group) in [(&first, &group), (&first, &other), (&second, &group)] {
        let (records, said) = process(data_dir.path(), &flags(server, &topic, group), &topic);
        assert_eq!(records, [], "{}", said.join("\n"));
    }
    let (records, _) = process(data_dir.path(), &embedded, &topic);
    assert_eq!(records.len(), 1_000, "the next thousand");
    assert_eq!(records.iter().map(|record| record.offset).min(), Some(250));
}

#[test]
fn offsets_that_somebody_moved_are_followed_and_said() {
    let kafka = Kafka::shared(V3_9);
    let (server, topic, group) = (kafka.bootstrap(), unique("moved"), unique("group"));
    kafka.create_topic(&topic, 2, &[]);
    fill(&server, &topic, 0..2, 200, "value");
    let in_log = raw::read_all(&server, &topic);
    let data_dir = tempfile::tempdir().unwrap();
    let args = flags(&server, &topic, &group);

    // Leave unfinished ranges and finished ones above the committed offset behind.
    let slow = ["--step-delay", "300ms", "--max-batch", "20", "--step", "discard"];
    let mut mb = Mb::start_in(data_dir.path(), &[&args[..], &slow[..]].concat());
    eventually(LIMIT, "a commit", || {
        raw::committed(&server, &group, &topic).values().sum::<i64>() > 0
    });
    mb.kill9();
    kafka.reset_group(&group, &topic, &["--to-earliest"]);
    let (records, said) = process(data_dir.path(), &args, &topic);
    let line = said.iter().find(|line| line.contains("somebody moved the offsets"));
    assert!(line.is_some_and(|line| line.contains(&group) && line.contains("to 0")), "{said:?}");
    assert_same(&records, &in_log);

    // Back, all the way, after all was done.
    kafka.reset_group(&group, &topic, &["--to-earliest"]);
    let (records, said) = process(data_dir.path(), &args, &topic);
    assert!(said.iter().any(|line| line.contains("from 200 to 0")), "{said:?}");
    assert_same(&records, &in_log);

    // Back into the middle of a range.
    kafka.reset_group(&group, &topic, &["--to-offset", "33"]);
    let (records, said) = process(data_dir.path(), &args, &topic);
    assert!(said.iter().any(|line| line.contains("from 200 to 33")), "{said:?}");
    assert_same(&records, &from(&in_log, &[(0, 33), (1, 33)].into()));

    // Forward: back to the beginning, a part of it, then past what is planned.
    kafka.reset_group(&group, &topic, &["--to-earliest"]);
    let mut mb = Mb::start_in(data_dir.path(), &[&args[..], &slow[..]].concat());
    eventually(LIMIT, "a commit", || {
        raw::committed(&server, &group, &topic).values().sum::<i64>() > 0
    });
    mb.kill9();
    kafka.reset_group(&group, &topic, &["--to-offset", "170"]);
    let (records, said) = process(data_dir.path(), &args, &topic);
    assert!(said.iter().any(|line| line.contains("to 170")), "{said:?}");
    assert_same(&records, &from(&in_log, &[(0, 170), (1, 170)].into()));
    let (records, _) = process(data_dir.path(), &args, &topic);
    assert_eq!(records, []);
}

#[test]
fn new_partitions_start_at_their_beginning_even_with_from_latest() {
    let kafka = Kafka::shared(V3_9);
    let (server, topic, group) = (kafka.bootstrap(), unique("grows"), unique("group"));
    kafka.create_topic(&topic, 2, &[]);
    fill(&server, &topic, 0..2, 100, "before");
    let (data_dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut args = flags(&server, &topic, &group);
    args.extend(["--from", "latest", "--tick-runtime", "1", "--tick-interval", "100ms"]);
    let step = ["--step", "files", "--out", out.path().to_str().unwrap()];
    let mut mb = Mb::start_in(data_dir.path(), &[&args[..], &step[..]].concat());
    mb.wait_for_line(STARTED, LIMIT);
    fill(&server, &topic, 0..2, 50, "after");
    kafka.add_partitions(&topic, 4);
    fill(&server, &topic, 2..4, 70, "new");
    let records = || Files::read(out.path(), &topic).records();
    eventually(LIMIT, "what came after the start", || records().len() >= 2 * 50 + 2 * 70);
    mb.term();
    assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
    let starts: BTreeMap<_, _> = [(0, 100), (1, 100), (2, 0), (3, 0)].into();
    assert_same(&records(), &from(&raw::read_all(&server, &topic), &starts));

    // Added while mb is away, they are no less new.
    kafka.add_partitions(&topic, 6);
    fill(&server, &topic, 4..6, 30, "newer");
    let (records, _) = process(data_dir.path(), &args, &topic);
    let starts = [(0, 150), (1, 150), (2, 70), (3, 70), (4, 0), (5, 0)].into();
    assert_same(&records, &from(&raw::read_all(&server, &topic), &starts));
}

#[test]
fn from_committed_without_offsets_is_refused() {
    let kafka = Kafka::shared(V3_9);
    let (server, topic, group) = (kafka.bootstrap(), unique("none"), unique("group"));
    kafka.create_topic(&topic, 2, &[]);
    fill(&server, &topic, 0..2, 10, "value");
    let data_dir = tempfile::tempdir().unwrap();
    let mut args = flags(&server, &topic, &group);
    args.extend(["--from", "committed"]);
    let mut mb = Mb::start_in(data_dir.path(), &args);
    assert_eq!(mb.wait(LIMIT).code(), Some(78));
    let said = mb.stderr().join("\n");
    assert!(said.contains("--from committed") && said.contains(&group), "{said}");

    // With offsets it begins there, another data directory or not.
    kafka.reset_group(&group, &topic, &["--to-offset", "4"]);
    let (records, _) = process(data_dir.path(), &args, &topic);
    assert_same(&records, &from(&raw::read_all(&server, &topic), &[(0, 4), (1, 4)].into()));
}

#[test]
fn records_removed_before_mb_read_them_halt_it_with_their_range() {
    let kafka = Kafka::shared(V3_9);
    let (server, topic, group) = (kafka.bootstrap(), unique("removed"), unique("group"));
    kafka.create_topic(&topic, 1, &[]);
    fill(&server, &topic, 0..1, 100, "first");
    let data_dir = tempfile::tempdir().unwrap();
    let args = flags(&server, &topic, &group);
    process(data_dir.path(), &args, &topic);
    fill(&server, &topic, 0..1, 100, "second");
    kafka.delete_records(&topic, 0, 150);
    let out = tempfile::tempdir().unwrap();
    let step = ["--step", "files", "--out", out.path().to_str().unwrap()];
    for _ in 0..2 {
        let mut mb = Mb::start_in(data_dir.path(), &[&args[..], &step[..]].concat());
        assert_eq!(mb.wait(LIMIT).code(), Some(65), "{}", mb.stderr().join("\n"));
        let said = mb.stderr().join("\n");
        assert!(said.contains(&format!("{topic}/0 100-149")), "{said}");
        assert_eq!(raw::committed(&server, &group, &topic)[&0], 100);
        assert_eq!(Files::read(out.path(), &topic).records(), []);
    }
    // As the message advises.
    kafka.reset_group(&group, &topic, &["--to-earliest"]);
    let (records, _) = process(data_dir.path(), &args, &topic);
    assert_same(&records, &raw::read_all(&server, &topic));
    assert_eq!(records.len(), 50);
}

fn make_again(kafka: &Kafka, topic: &str, partitions: u32) {
    kafka.tool("topics", &["--delete", "--topic", topic]);
    // The deletion is carried out behind the answer's back.
    eventually(LIMIT, "the topic is gone", || {
        !kafka.tool("topics", &["--list"]).lines().any(|name| name == topic)
    });
    kafka.create_topic(topic, partitions, &[]);
}

#[test]
fn a_topic_made_again_while_mb_is_away_halts_it_or_is_read_from_its_beginning() {
    let kafka = Kafka::shared(V4_4);
    let (server, topic, group) = (kafka.bootstrap(), unique("again"), unique("group"));
    kafka.create_topic(&topic, 2, &[]);
    fill(&server, &topic, 0..2, 100, "old");
    let data_dir = tempfile::tempdir().unwrap();
    let args = flags(&server, &topic, &group);
    process(data_dir.path(), &args, &topic);
    make_again(kafka, &topic, 2);
    fill(&server, &topic, 0..2, 150, "new");
    let halted = Mb::run_in(data_dir.path(), &args);
    assert_eq!(halted.status.code(), Some(65), "{halted:?}");
    let args = [&args[..], &["--on-missing-offsets", "skip"]].concat();
    let (records, said) = process(data_dir.path(), &args, &topic);
    assert_same(&records, &raw::read_all(&server, &topic));
    assert_eq!(records.len(), 300, "{}", said.join("\n"));
}

#[test]
fn a_topic_made_again_while_mb_runs_halts_it_and_loses_nothing() {
    let kafka = Kafka::shared(V3_9);
    let (server, topic, group) = (kafka.bootstrap(), unique("under"), unique("group"));
    kafka.create_topic(&topic, 2, &[]);
    fill(&server, &topic, 0..2, 2_000, "old");
    let data_dir = tempfile::tempdir().unwrap();
    let args = flags(&server, &topic, &group);
    // Runs of the old topic end, and would be committed, after the new one is there.
    let mut slow = args.clone();
    slow.extend(["--step", "discard", "--step-delay", "150ms", "--max-batch", "20"]);
    slow.extend(["--tick-runtime", "5"]);
    let mut mb = Mb::start_in(data_dir.path(), &slow);
    mb.wait_for_line(STARTED, LIMIT);
    eventually(LIMIT, "a commit", || {
        raw::committed(&server, &group, &topic).values().sum::<i64>() > 0
    });
    make_again(kafka, &topic, 2);
    fill(&server, &topic, 0..2, 3_000, "new");
    assert_eq!(mb.wait(LIMIT).code(), Some(65), "{}", mb.stderr().join("\n"));
    let said = mb.stderr().join("\n");
    assert!(said.contains(&topic) && said.contains("deleted and created again"), "{said}");

    // A commit to the old topic that came late looks like one to the new topic.
    let db = Connection::open(data_dir.path().join("history.db")).unwrap();
    let old = "SELECT confirmed FROM partitions WHERE partition = 0";
    let old: i64 = db.query_row(old, [], |row| row.get(0)).unwrap();
    assert!(old > 0);
    kafka.reset_group(&group, &format!("{topic}:0"), &["--to-offset", &old.to_string()]);
    let args = [&args[..], &["--on-missing-offsets", "skip"]].concat();
    let (records, said) = process(data_dir.path(), &args, &topic);
    assert!(said.iter().any(|line| line.contains("committed for the old topic")), "{said:?}");
    assert_same(&records, &raw::read_all(&server, &topic));
    // From now on an offset is the new topic's own.
    kafka.reset_group(&group, &format!("{topic}:0"), &["--to-offset", &old.to_string()]);
    let (records, _) = process(data_dir.path(), &args, &topic);
    assert_same(&records, &from(&raw::read_all(&server, &topic), &[(0, old), (1, 3_000)].into()));
}

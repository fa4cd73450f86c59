//! Logs that lose their end and grow again, on real brokers: a partition's folder restored from an older copy, an
//! election of a replica that was behind, a group's log that lost its end. Each with mb down, running and frozen.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mb::model::clock;
use rusqlite::Connection;
use rustix::process::Signal;

use crate::support::cluster::{Cluster, OFFSETS_TOPIC};
use crate::support::kafka::{Kafka, V3_9, V4_4};
use crate::support::mb::Mb;
use crate::support::{eventually, raw, unique};

const LIMIT: Duration = Duration::from_secs(120);
const STARTED: &str = "worker(s), batches";

/// What mb does while its log loses its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Down,
    Running,
    Frozen,
}

/// A group that reads the topic.
struct Reader {
    flags: Vec<String>,
    state: State,
    skips: bool,
    data_dir: tempfile::TempDir,
    /// Gets each value on a line of its own, in the order of the runs.
    seen: PathBuf,
    mb: Option<Mb>,
}

impl Reader {
    fn new(server: &str, topic: &str, client: &str, state: State, skips: bool) -> Reader {
        let data_dir = tempfile::tempdir().unwrap();
        let seen = data_dir.path().join("seen");
        let group = unique("group");
        let flags = ["--bootstrap-server", server, "--topic", topic, "--group", &group];
        let more = ["--client", client, "--tick-runtime", "1", "--tick-interval", "100ms"];
        let flags = flags.iter().chain(&more).map(|flag| (*flag).to_owned()).collect();
        Reader { flags, state, skips, data_dir, seen, mb: None }
    }

    fn start(&mut self, more: &[&str]) {
        let step = format!("cat >> {}", self.seen.display());
        let mut args: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        args.extend(["--exec", &step, "--max-concurrent-runs", "1"]);
        if self.skips {
            args.extend(["--on-missing-offsets", "skip"]);
        }
        args.extend(more);
        self.mb = Some(Mb::start_in(self.data_dir.path(), &args));
    }

    fn seen(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.seen).unwrap_or_default();
        let value = |line: &str| {
            let record: serde_json::Value = serde_json::from_str(line).expect("a record");
            record["value"].as_str().expect("a value").to_owned()
        };
        text.lines().map(value).collect()
    }

    /// Reads all that is there, and is in its state then.
    fn read_up_to(&mut self, values: usize) {
        if self.state == State::Down {
            self.start(&["--until-caught-up"]);
            let status = self.mb.as_mut().unwrap().wait(LIMIT);
            assert_eq!(status.code(), Some(0), "{}", self.said());
        } else {
            self.start(&[]);
            self.mb.as_ref().unwrap().wait_for_line(STARTED, LIMIT);
        }
        eventually(LIMIT, "all is committed", || {
            self.confirmed() == Some(i64::try_from(values).unwrap())
        });
        assert_eq!(self.seen().len(), values);
        if self.state == State::Frozen {
            // Client kafka reports no epochs: the next tick looks them up.
            let now = clock::now_ms();
            eventually(LIMIT, "a tick that began after the commit has ended", || {
                self.last_tick() > Some(now)
            });
            self.mb.as_ref().unwrap().signal(Signal::STOP);
        }
    }

    fn confirmed(&self) -> Option<i64> {
        let db = Connection::open(self.data_dir.path().join("history.db")).ok()?;
        db.query_row("SELECT confirmed FROM partitions", [], |row| row.get(0)).ok()
    }

    /// The beginning of the newest recorded tick, in ms since 1970.
    fn last_tick(&self) -> Option<i64> {
        let db = Connection::open(self.data_dir.path().join("history.db")).ok()?;
        db.query_row("SELECT max(started_ms) FROM ticks", [], |row| row.get(0)).ok()?
    }

    /// The log was cut off and has grown: it goes on.
    fn go_on(&mut self) {
        match self.state {
            State::Down => self.start(&["--until-caught-up"]),
            State::Running => {}
            State::Frozen => self.mb.as_ref().unwrap().signal(Signal::CONT),
        }
    }

    fn said(&self) -> String {
        self.mb.as_ref().map_or_else(String::new, |mb| mb.stderr().join("\n"))
    }

    /// It has halted, or has gone on with all new records, and said which offsets were lost.
    fn check(&mut self, topic: &str, (first, last): (i64, i64), new: usize) {
        let lost = format!("{topic}/0 {first}-{last}");
        let old = usize::try_from(last + 1).unwrap();
        if !self.skips {
            let status = self.mb.as_mut().unwrap().wait(LIMIT);
            assert_eq!(status.code(), Some(65), "{:?}: {}", self.state, self.said());
            assert!(self.said().contains(&lost), "{:?}: {}", self.state, self.said());
            assert_eq!(self.seen().len(), old, "{:?}: nothing of the new log", self.state);
            return;
        }
        eventually(LIMIT, "the new records are read", || self.seen().len() >= old + new);
        let seen = self.seen();
        let expected: Vec<String> = (0..new).map(|number| format!("new-{number}")).collect();
        assert_eq!(&seen[old..], expected, "{:?}", self.state);
        assert!(self.said().contains(&lost), "{:?}: {}", self.state, self.said());
        let db = Connection::open(self.data_dir.path().join("history.db")).unwrap();
        let gap: (i64, i64) = db
            .query_row("SELECT first_offset, last_offset FROM gaps", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .unwrap();
        assert_eq!(gap, (first, last), "{:?}", self.state);
        let mb = self.mb.as_mut().unwrap();
        if self.state != State::Down {
            mb.term();
        }
        assert_eq!(mb.wait(LIMIT).code(), Some(0));
    }
}

fn readers(server: &str, topic: &str, clients: &[&str]) -> Vec<Reader> {
    let mut readers = Vec::new();
    for client in clients {
        for state in [State::Down, State::Running, State::Frozen] {
            for skips in [false, true] {
                readers.push(Reader::new(server, topic, client, state, skips));
            }
        }
    }
    readers
}

fn values(mark: &str, numbers: std::ops::Range<usize>) -> Vec<Vec<u8>> {
    numbers.map(|number| format!("{mark}-{number}").into_bytes()).collect()
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status().expect("cp starts");
    assert!(copied.success());
}

/// The folder of the topic's partition 0.
fn folder(kafka: &Kafka, topic: &str) -> PathBuf {
    kafka.folder().join("kafka/data").join(format!("{topic}-0"))
}

fn restored_folder(version: &str, clients: &[&str]) {
    let kafka = Kafka::start(version);
    let (server, topic) = (kafka.bootstrap(), unique("restored"));
    kafka.create_topic(&topic, 1, &[]);
    raw::produce(&server, "none", &topic, 0, &values("old", 0..50));
    kafka.term();
    let saved = tempfile::tempdir().unwrap();
    copy(&folder(&kafka, &topic), &saved.path().join("copy"));
    kafka.restart();
    raw::produce(&server, "none", &topic, 0, &values("old", 50..100));
    let mut readers = readers(&server, &topic, clients);
    readers.iter_mut().for_each(|reader| reader.read_up_to(100));

    kafka.kill9();
    fs::remove_dir_all(folder(&kafka, &topic)).unwrap();
    copy(&saved.path().join("copy"), &folder(&kafka, &topic));
    // A broker of 3.9 that was killed leads again under its old epoch if its controller has not missed it meanwhile.
    // One that was stopped does not.
    kafka.restart();
    kafka.term();
    kafka.restart();
    eventually(LIMIT, "the partition is led again", || {
        raw::watermarks(&server, &topic).get(&0).is_some_and(|(_, end)| *end == 50)
    });
    raw::produce(&server, "none", &topic, 0, &values("new", 0..60));
    readers.iter_mut().for_each(Reader::go_on);
    readers.iter_mut().for_each(|reader| reader.check(&topic, (50, 99), 60));
}

#[test]
fn a_restored_folder_on_3_9_is_missing_offsets() {
    restored_folder(V3_9, &["rdkafka", "kafka"]);
}

#[test]
fn a_restored_folder_on_4_4_is_missing_offsets() {
    restored_folder(V4_4, &["rdkafka"]);
}

fn unclean_election(version: &str, clients: &[&str]) {
    let cluster = Cluster::start(version);
    let (server, topic) = (cluster.bootstrap(), unique("unclean"));
    let node = cluster.node(3);
    node.tool(
        "topics",
        &[
            &["--create", "--topic", &topic, "--replica-assignment", "1:2"][..],
            &["--config", "min.insync.replicas=1"],
            &["--config", "unclean.leader.election.enable=true"],
        ]
        .concat(),
    );
    eventually(LIMIT, "node 1 leads", || cluster.leaders(&topic).get(&0) == Some(&1));
    raw::produce(&server, "none", &topic, 0, &values("old", 0..400));
    cluster.node(2).kill9();
    raw::produce(&server, "none", &topic, 0, &values("old", 400..500));
    let mut readers = readers(&server, &topic, clients);
    readers.iter_mut().for_each(|reader| reader.read_up_to(500));
    cluster.node(1).kill9();
    cluster.node(2).restart();
    eventually(LIMIT, "node 2 leads", || cluster.leaders(&topic).get(&0) == Some(&2));
    raw::produce(&server, "none", &topic, 0, &values("new", 0..150));
    readers.iter_mut().for_each(Reader::go_on);
    readers.iter_mut().for_each(|reader| reader.check(&topic, (400, 499), 150));
}

#[test]
fn an_unclean_election_on_3_9_is_missing_offsets() {
    unclean_election(V3_9, &["rdkafka", "kafka"]);
}

#[test]
fn an_unclean_election_on_4_4_is_missing_offsets() {
    unclean_election(V4_4, &["rdkafka"]);
}

/// Committed falls from 600 to 300, both once written by this mb.
fn lost_offsets(version: &str) {
    let kafka = Kafka::start_with(version, &[("offsets.topic.num.partitions", "1")]);
    let (server, topic) = (kafka.bootstrap(), unique("tail"));
    kafka.create_topic(&topic, 1, &[]);
    raw::produce(&server, "none", &topic, 0, &values("old", 0..300));
    let states = [State::Down, State::Running];
    let mut readers = states.map(|state| Reader::new(&server, &topic, "rdkafka", state, false));
    readers.iter_mut().for_each(|reader| reader.read_up_to(300));
    kafka.term();
    let saved = tempfile::tempdir().unwrap();
    copy(&folder(&kafka, OFFSETS_TOPIC), &saved.path().join("copy"));
    kafka.restart();
    raw::produce(&server, "none", &topic, 0, &values("old", 300..600));
    readers[0].read_up_to(600);
    eventually(LIMIT, "the running one follows", || readers[1].confirmed() == Some(600));
    kafka.term();
    fs::remove_dir_all(folder(&kafka, OFFSETS_TOPIC)).unwrap();
    copy(&saved.path().join("copy"), &folder(&kafka, OFFSETS_TOPIC));
    kafka.restart();

    readers[0].go_on();
    let mb = readers[0].mb.as_mut().unwrap();
    assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
    let line = mb.stderr().into_iter().find(|line| line.contains("has lost its end"));
    let line = line.unwrap_or_else(|| panic!("{}", mb.stderr().join("\n")));
    assert!(line.contains("offset 300") && line.contains("600"), "{line}");
    assert_eq!(readers[0].seen().len(), 600, "nothing is processed again");
    let group = &readers[0].flags[5];
    assert_eq!(raw::committed(&server, group, &topic)[&0], 600);

    raw::produce(&server, "none", &topic, 0, &values("old", 600..610));
    eventually(LIMIT, "the running one goes on", || readers[1].seen().len() == 610);
    let group = &readers[1].flags[5];
    eventually(LIMIT, "and commits", || raw::committed(&server, group, &topic)[&0] == 610);
}

#[test]
fn a_groups_log_that_lost_its_end_is_answered_from_the_history() {
    for version in [V3_9, V4_4] {
        lost_offsets(version);
    }
}

#[test]
fn two_mb_of_one_group_say_so_within_a_minute() {
    let kafka = Kafka::shared(V3_9);
    let (server, topic, group) = (kafka.bootstrap(), unique("both"), unique("group"));
    kafka.create_topic(&topic, 2, &[]);
    let flags = ["--bootstrap-server", &server, "--topic", &topic, "--group", &group];
    let producing = [&flags[..], &["--rate", "50", "--step", "discard"]].concat();
    let reading = [&flags[..], &["--step", "discard"]].concat();
    let first = Mb::start(&producing);
    let second = Mb::start(&reading);
    for mb in [&first, &second] {
        mb.wait_for_line(STARTED, LIMIT);
    }
    for mb in [&first, &second] {
        let line = mb.wait_for_line("every record is processed by both", Duration::from_secs(60));
        assert!(line.contains("another mb (instance ") && line.contains(&group), "{line}");
    }
}

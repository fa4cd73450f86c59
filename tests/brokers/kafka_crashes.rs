//! The main job on real brokers when something dies: mb by kill -9, the broker by kill -9, mb by
//! SIGTERM. Nothing is lost, and runs keep their identity.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::Value;

use crate::support::files::{FileRecord, Files, assert_same};
use crate::support::kafka::{Kafka, V3_9, V4_4};
use crate::support::mb::Mb;
use crate::support::{eventually, raw, test_seed, unique};

const LIMIT: Duration = Duration::from_secs(90);
const PARTITIONS: i32 = 4;
const KILLS: usize = 10;
/// Above the drain limit of 25 s.
const STOP_LIMIT: Duration = Duration::from_secs(30);
const WORKERS: &str = "5";

/// What a test reads of a topic that it filled.
struct Topic {
    server: String,
    name: String,
    group: String,
    in_log: Vec<FileRecord>,
}

impl Topic {
    /// A topic with so many records in each partition.
    fn filled(kafka: &Kafka, name: &str, per_partition: usize) -> Topic {
        let (name, group, server) = (unique(name), unique("group"), kafka.bootstrap());
        kafka.create_topic(&name, PARTITIONS as u32, &[]);
        for partition in 0..PARTITIONS {
            let value = |number: usize| format!("{partition}-{number}").into_bytes();
            let values: Vec<_> = (0..per_partition).map(value).collect();
            let (first, second) = values.split_at(per_partition / 2);
            raw::produce(&server, "none", &name, partition, first);
            raw::produce(&server, "lz4", &name, partition, second);
        }
        let in_log = raw::read_all(&server, &name);
        assert_eq!(in_log.len(), per_partition * PARTITIONS as usize);
        Topic { server, name, group, in_log }
    }

    fn flags<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let mut args = vec!["--bootstrap-server", &self.server, "--topic", &self.name];
        args.extend(["--group", &self.group, "--listen", "off"]);
        args.extend(["--max-concurrent-runs", WORKERS]);
        args.extend(more);
        args
    }

    fn committed(&self) -> BTreeMap<i32, i64> {
        raw::committed(&self.server, &self.group, &self.name)
    }

    fn ends(&self) -> BTreeMap<i32, i64> {
        let marks = raw::watermarks(&self.server, &self.name);
        marks.into_iter().map(|(partition, (_, end))| (partition, end)).collect()
    }
}

/// One try of a run: the lines as the command got them, and whether it succeeded.
struct Try {
    content: String,
    done: bool,
}

/// All tries by run key.
type Tries = BTreeMap<String, Vec<Try>>;

#[test]
fn nothing_is_lost_and_files_stay_the_same_when_mb_is_killed_ten_times() {
    let topic = Topic::filled(Kafka::shared(V4_4), "killed-files", 8_000);
    let out = tempfile::tempdir().unwrap();
    let args = ["--step", "files", "--out", out.path().to_str().unwrap()];
    let mut before = Files::default();
    killed_ten_times(&topic, &args, &["--max-batch", "20", "--step-delay", "20ms"], || {
        let files = Files::read(out.path(), &topic.name);
        for (key, records) in &before.runs {
            assert!(files.runs.get(key) == Some(records), "{key} is another one than before");
        }
        before = files.clone();
        let done = files.records().into_iter().map(|record| (record.partition, record.offset));
        done.collect()
    });
    assert_same(&before.records(), &topic.in_log);
}

#[test]
fn no_run_differs_between_its_tries_when_mb_is_killed_ten_times() {
    let topic = Topic::filled(Kafka::shared(V3_9), "killed-exec", 2_500);
    let out = tempfile::tempdir().unwrap();
    // A file of its own for each try. It fails now and then, for tries within one process too.
    let command = format!(
        "f=$(mktemp {}/$(echo $MB_RUN_KEY | tr / =)=$MB_ATTEMPT=XXXXXXXX) && cat >>$f && sleep 0.02 \
         && test $MB_ATTEMPT$((MB_FIRST_OFFSET % 7)) != 10 && mv $f $f=done",
        out.path().display()
    );
    let args = ["--exec", &command, "--retry-backoff", "50ms"];
    killed_ten_times(&topic, &args, &["--max-batch", "20", "--sensors", "2"], || {
        let tries = read_tries(out.path());
        let done = tries.values().flatten().filter(|attempt| attempt.done);
        done.flat_map(|attempt| places(&attempt.content)).collect()
    });
    // A killed mb can cut a command's input short, but never change it.
    let mut came_out = Vec::new();
    let mut tried_again = 0;
    for (key, tries) in read_tries(out.path()) {
        let whole = &tries.iter().max_by_key(|attempt| attempt.content.len()).unwrap().content;
        for attempt in &tries {
            let content = &attempt.content;
            assert!(whole.starts_with(content), "{key}:\n{content}\nand\n{whole}");
        }
        tried_again += usize::from(tries.len() > 1);
        came_out.extend(whole.lines().map(record));
    }
    assert!(tried_again > 0, "no run was tried more than once");
    came_out.sort();
    assert_same(&came_out, &topic.in_log);
}

/// Starts mb on one data directory and kills it at random moments, ten times; then lets it come to
/// the end. `done` says, after each of them, which offsets the step has seen.
fn killed_ten_times(
    topic: &Topic,
    step: &[&str],
    more: &[&str],
    mut done: impl FnMut() -> BTreeSet<(i32, i64)>,
) {
    let seed = test_seed();
    println!("topic {}: MB_TEST_SEED={seed}", topic.name);
    let mut random = fastrand::Rng::with_seed(seed);
    let data_dir = tempfile::tempdir().unwrap();
    let mut args = topic.flags(step);
    args.extend(more);
    let mut before = BTreeMap::new();
    let mut in_flight = 0;
    for kill in 1..=KILLS {
        let mut mb = Mb::start_in(data_dir.path(), &args);
        // Some before it works, most while it does.
        if random.u8(0..5) > 0 {
            mb.wait_for_line("worker(s), batches", LIMIT);
        }
        thread::sleep(Duration::from_millis(random.u64(0..700)));
        assert!(mb.try_wait().is_none(), "kill {kill}: ended:\n{}", mb.stderr().join("\n"));
        mb.kill9();
        let done = done();
        let committed = topic.committed();
        in_flight += unfinished(data_dir.path());
        for (partition, offset) in &committed {
            let first_open = (0..).find(|offset| !done.contains(&(*partition, *offset)));
            assert!(
                *offset <= first_open.unwrap(),
                "kill {kill}: {offset} is committed in {partition}, done up to {first_open:?}"
            );
            assert!(before.get(partition) <= Some(offset), "kill {kill}: committed backwards");
        }
        before = committed;
    }
    assert!(before != topic.ends(), "all was done before the last kill");
    assert!(in_flight > 0, "no run was in flight at any kill");
    args.push("--until-caught-up");
    let mut mb = Mb::start_in(data_dir.path(), &args);
    assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
    done();
    assert_eq!(topic.committed(), topic.ends());
    sound(data_dir.path());
    assert_eq!(unfinished(data_dir.path()), 0);
}

/// Runs that the history has as planned and not done.
fn unfinished(data_dir: &Path) -> i64 {
    let Ok(db) = Connection::open(data_dir.join("history.db")) else { return 0 };
    // A process that was killed early has made no tables.
    let count = "SELECT count(*) FROM runs WHERE state NOT IN (2, 3)";
    db.query_row(count, [], |row| row.get(0)).unwrap_or(0)
}

fn sound(data_dir: &Path) {
    let db = Connection::open(data_dir.join("history.db")).unwrap();
    let said: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(said, "ok");
}

fn read_tries(folder: &Path) -> Tries {
    let mut tries = Tries::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let [topic, partition, range, _attempt, _unique, done @ ..] =
            &name.split('=').collect::<Vec<_>>()[..]
        else {
            panic!("{name}")
        };
        // A command that outlives a killed mb may be renaming its file just now.
        let Ok(content) = fs::read_to_string(&path) else { continue };
        let done = !done.is_empty();
        let key = format!("{topic}/{partition}/{range}");
        tries.entry(key).or_default().push(Try { content, done });
    }
    tries
}

/// Partition and offset of each whole line.
fn places(content: &str) -> impl Iterator<Item = (i32, i64)> {
    let whole = content.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(record);
    whole.map(|record| (record.partition, record.offset))
}

fn record(line: &str) -> FileRecord {
    let json: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    FileRecord {
        partition: json["partition"].as_i64().unwrap().try_into().unwrap(),
        offset: json["offset"].as_i64().unwrap(),
        key: json["key"].as_str().map(|key| key.as_bytes().to_vec()),
        value: json["value"].as_str().map(|value| value.as_bytes().to_vec()),
        headers: Vec::new(),
    }
}

#[test]
fn mb_goes_on_by_itself_when_the_broker_is_killed_and_comes_back() {
    const RECOVERY: Duration = Duration::from_secs(15);
    let kafka = Kafka::start(V4_4);
    let (server, name, group) = (kafka.bootstrap(), unique("outage"), unique("group"));
    let (data_dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut args = vec!["--bootstrap-server", &server, "--topic", &name, "--group", &group];
    args.extend(["--listen", "off", "--step", "files", "--out", out.path().to_str().unwrap()]);
    args.extend(["--tick-runtime", "2", "--tick-interval", "100ms"]);
    let mut mb = Mb::start_in(data_dir.path(), &[&args[..], &["--rate", "1000"]].concat());
    let files = || Files::read(out.path(), &name).runs.len();
    let mut said = 0;
    for outage in 1..=2 {
        let before = files();
        eventually(LIMIT, "some runs are done", || files() > before + 40);
        kafka.kill9();
        // The log tells of the trouble while the broker is away.
        said = mb.wait_for_line_from(said, "retrying until it works", LIMIT).0;
        kafka.restart();
        let (back, before) = (Instant::now(), files());
        let committed = raw::committed(&server, &group, &name);
        eventually(RECOVERY, "progress after the broker came back", || files() > before);
        eventually(RECOVERY, "a commit after the broker came back", || {
            assert!(mb.try_wait().is_none(), "mb ended:\n{}", mb.stderr().join("\n"));
            raw::committed(&server, &group, &name) != committed
        });
        println!("outage {outage}: progress {:.1?} after its end", back.elapsed());
        said = mb.wait_for_line_from(said, "reading the topic: works again", LIMIT).0;
    }
    // Once, not at each try.
    let troubles = mb.stderr().iter().filter(|line| line.contains("retrying until")).count();
    assert!(troubles <= 12, "{troubles} times trouble:\n{}", mb.stderr().join("\n"));
    mb.term();
    assert_eq!(mb.wait(STOP_LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
    args.push("--until-caught-up");
    let mut mb = Mb::start_in(data_dir.path(), &args);
    assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));

    let in_log = raw::read_all(&server, &name);
    assert_same(&Files::read(out.path(), &name).records(), &in_log);
    let sequence = |record: &FileRecord| {
        let value: Value = serde_json::from_slice(record.value.as_deref().unwrap()).unwrap();
        value["seq"].as_u64().unwrap()
    };
    let posted: BTreeSet<u64> = in_log.iter().map(sequence).collect();
    let missing = (0..=*posted.last().unwrap()).filter(|number| !posted.contains(number));
    assert_eq!(missing.collect::<Vec<_>>(), [0; 0], "messages that the producer lost");
    let ends: BTreeMap<_, _> =
        raw::watermarks(&server, &name).into_iter().map(|(p, (_, end))| (p, end)).collect();
    assert_eq!(raw::committed(&server, &group, &name), ends);
}

#[test]
fn sigterm_under_load_commits_exactly_what_was_processed() {
    let topic = Topic::filled(Kafka::shared(V3_9), "terminated", 5_000);
    let data_dir = tempfile::tempdir().unwrap();
    let mut came_out = Vec::new();
    for round in 1..=3 {
        let out = tempfile::tempdir().unwrap();
        let step = ["--step", "files", "--out", out.path().to_str().unwrap()];
        let mut args = topic.flags(&step);
        args.extend(["--max-batch", "20", "--step-delay", "30ms"]);
        let mut mb = Mb::start_in(data_dir.path(), &args);
        let files = || Files::read(out.path(), &topic.name);
        eventually(LIMIT, "some runs are done", || files().runs.len() > 40);
        mb.term();
        assert_eq!(mb.wait(STOP_LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
        came_out.extend(files().records());
        came_out.sort();
        let mut processed: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
        for record in &came_out {
            processed.entry(record.partition).or_default().push(record.offset);
        }
        let committed = topic.committed();
        for (partition, end) in &committed {
            // A run that the stop met in its delay is not done, while one behind it may be: the commit ends at
            // the first record that was not processed.
            let offsets = processed.remove(partition).unwrap_or_default();
            let without_gap = (0..).zip(&offsets).take_while(|(n, offset)| n == *offset).count();
            assert_eq!(
                *end,
                i64::try_from(without_gap).unwrap(),
                "round {round}: partition {partition}, {} records were processed",
                offsets.len()
            );
        }
        assert!(committed != topic.ends(), "all was done before the stop");
    }
    let out = tempfile::tempdir().unwrap();
    let step = ["--step", "files", "--out", out.path().to_str().unwrap(), "--until-caught-up"];
    let mut mb = Mb::start_in(data_dir.path(), &topic.flags(&step));
    assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
    came_out.extend(Files::read(out.path(), &topic.name).records());
    came_out.sort();
    assert_same(&came_out, &topic.in_log);
    assert_eq!(topic.committed(), topic.ends());
}

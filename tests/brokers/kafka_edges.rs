//! The edges of a log on real brokers: what compaction and transactions leave out, partitions that
//! come, records and topics that go, a position beyond the end. Offsets that somebody moved and
//! scopes are in `kafka_positions`.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::RangeInclusive;
use std::process::{Command, Stdio};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::producer::{BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use rusqlite::Connection;
use rustix::process::Signal;

use crate::support::files::{FileRecord, Files, assert_same};
use crate::support::kafka::{Kafka, V3_9, V4_4};
use crate::support::mb::Mb;
use crate::support::raw::Pair;
use crate::support::{eventually, eventually_some, raw, unique};

const LIMIT: Duration = Duration::from_secs(90);
/// Above the drain limit of 25 s.
const STOP_LIMIT: Duration = Duration::from_secs(30);
const STARTED: &str = "worker(s), batches";
/// Records of one key, all but the last of which compaction removes.
const ONE_KEY_RECORDS: usize = 1_200_000;
const MILLION: i64 = 1_000_000;
const CLIENTS_3_9: &[&str] = &["kafka"];
const CLIENTS_4_4: &[&str] = &["rdkafka"];

/// Each edge with both clients, each on the newest version that it reaches.
macro_rules! edges {
    ($($edge:ident: $on_3_9:ident, $on_4_4:ident;)+) => {$(
        #[test]
        fn $on_3_9() {
            $edge(Kafka::shared(V3_9), CLIENTS_3_9);
        }

        #[test]
        fn $on_4_4() {
            $edge(Kafka::shared(V4_4), CLIENTS_4_4);
        }
    )+};
}

edges! {
    compacted: compaction_gaps_of_a_million_are_passed_on_3_9,
        compaction_gaps_of_a_million_are_passed_on_4_4;
    transactions: aborted_records_are_unseen_and_the_lag_reaches_zero_on_3_9,
        aborted_records_are_unseen_and_the_lag_reaches_zero_on_4_4;
    partitions_added: partitions_added_while_running_are_read_from_their_beginning_on_3_9,
        partitions_added_while_running_are_read_from_their_beginning_on_4_4;
    topic_deleted: a_topic_deleted_under_mb_is_said_and_made_again_halts_it_on_3_9,
        a_topic_deleted_under_mb_is_said_and_made_again_halts_it_on_4_4;
    records_removed: records_removed_while_mb_runs_halt_it_with_their_range_on_3_9,
        records_removed_while_mb_runs_halt_it_with_their_range_on_4_4;
    beyond_the_end: a_position_beyond_the_end_halts_on_3_9,
        a_position_beyond_the_end_halts_on_4_4;
}

/// A topic, a group, and where mb keeps and writes what is of them.
struct Job<'a> {
    kafka: &'a Kafka,
    server: String,
    topic: String,
    group: String,
    client: &'a str,
    data_dir: tempfile::TempDir,
    out: tempfile::TempDir,
}

impl<'a> Job<'a> {
    fn new(kafka: &'a Kafka, topic: &str, client: &'a str) -> Job<'a> {
        Job {
            kafka,
            server: kafka.bootstrap(),
            topic: topic.to_owned(),
            group: unique("group"),
            client,
            data_dir: tempfile::tempdir().unwrap(),
            out: tempfile::tempdir().unwrap(),
        }
    }

    /// Starts mb with `--step files`, in short ticks.
    fn start(&self, more: &[&str]) -> Mb {
        let step = ["--step", "files", "--out", self.out.path().to_str().unwrap()];
        self.start_with(&[&step, more].concat())
    }

    fn start_with(&self, more: &[&str]) -> Mb {
        let mut args = vec!["--bootstrap-server", &self.server, "--topic", &self.topic];
        args.extend(["--group", &self.group, "--client", self.client, "--listen", "off"]);
        args.extend(["--tick-runtime", "1", "--tick-interval", "100ms"]);
        args.extend(more);
        Mb::start_in(self.data_dir.path(), &args)
    }

    /// Runs it until it is caught up.
    fn catch_up(&self) {
        let mut mb = self.start(&["--until-caught-up"]);
        assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
    }

    /// Ranges of the runs that have succeeded.
    fn done_ranges(&self) -> Vec<RangeInclusive<i64>> {
        let history = Connection::open(self.data_dir.path().join("history.db")).unwrap();
        let ranges = "SELECT first_offset, last_offset FROM runs WHERE state = 2";
        let mut ranges = history.prepare(ranges).unwrap();
        let rows = ranges.query_map([], |row| Ok(row.get(0)?..=row.get(1)?)).unwrap();
        rows.map(Result::unwrap).collect()
    }

    fn records(&self) -> Vec<FileRecord> {
        Files::read(self.out.path(), &self.topic).records()
    }

    fn committed(&self) -> BTreeMap<i32, i64> {
        raw::committed(&self.server, &self.group, &self.topic)
    }

    fn ends(&self) -> BTreeMap<i32, i64> {
        let marks = raw::watermarks(&self.server, &self.topic);
        marks.into_iter().map(|(partition, (_, end))| (partition, end)).collect()
    }

    /// The topic as this job's client shows it: crate kafka knows no null.
    fn in_log(&self) -> Vec<FileRecord> {
        let mut records = raw::read_all(&self.server, &self.topic);
        if self.client == "kafka" {
            for record in &mut records {
                record.value.get_or_insert_default();
                record.key = record.key.take().filter(|key| !key.is_empty());
            }
        }
        records
    }

    /// `mb lag` and Kafka's own tool both say so.
    fn has_no_lag(&self) {
        let connection = ["--bootstrap-server", &self.server, "--topic", &self.topic];
        let args = [&["lag"], &connection[..], &["--group", &self.group]].concat();
        let printed = Mb::run_in(self.data_dir.path(), &args);
        let printed = String::from_utf8(printed.stdout).unwrap();
        let lags: Vec<_> =
            printed.lines().skip(1).filter_map(|line| line.split_whitespace().nth(5)).collect();
        assert!(!lags.is_empty() && lags.iter().all(|lag| *lag == "0"), "{printed}");
        for [partition, _, _, lag] in self.kafka.describe_group(&self.group) {
            assert_eq!(lag, "0", "partition {partition} by Kafka's own tool");
        }
    }
}

fn values(mark: &str, count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| format!("{mark}-{number}").into_bytes()).collect()
}

/// Keys, tombstones among them, then one key more than a million times; compacted; with ranges that
/// a killed mb has left in what is removed.
fn compacted(kafka: &Kafka, clients: &[&str]) {
    let (server, topic) = (kafka.bootstrap(), unique("compacted"));
    let properties = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0.01"),
        // A segment that is written to is not compacted; this ends one with the next record.
        ("segment.ms", "100"),
    ];
    kafka.create_topic(&topic, 1, &properties);
    let pairs: Vec<Pair> = (0..300)
        .map(|number| {
            let value = (number % 3 > 0).then(|| format!("value-{number}").into_bytes());
            (Some(format!("key-{}", number % 150).into_bytes()), value)
        })
        .collect();
    raw::produce_pairs(&server, "none", &topic, 0, &pairs);
    let jobs: Vec<_> = clients.iter().map(|client| Job::new(kafka, &topic, client)).collect();
    for job in &jobs {
        // Finished runs, unfinished ones, and planned ones.
        let slow = ["--step", "discard", "--step-delay", "300ms", "--max-batch", "20"];
        let mut mb = job.start_with(&slow);
        eventually(LIMIT, "a commit", || job.committed()[&0] > 0);
        mb.kill9();
    }
    one_key_many_times(&server, &topic);
    let gap = eventually_some(LIMIT, "the topic is compacted", || {
        raw::produce_pairs(
            &server,
            "none",
            &topic,
            0,
            &[(Some(b"tick".into()), Some(b"1".into()))],
        );
        let offsets: Vec<i64> = offsets_of_few(&server, &topic)?;
        let gap = offsets.windows(2).map(|pair| pair[1] - pair[0]).max()?;
        (gap > MILLION && offsets.len() < 1_000).then_some(gap)
    });
    println!("{}: a gap of {gap} offsets", kafka.version());
    for job in &jobs {
        let done = job.done_ranges();
        job.catch_up();
        // What was done before the kill, above the committed offset too, is not done again. The
        // rest is here: compaction may have gone on, but only takes away.
        let records = job.records();
        let mut left = job.in_log();
        left.retain(|record| !done.iter().any(|range| range.contains(&record.offset)));
        for record in &left {
            assert!(records.contains(record), "{}: {record:?} was not processed", job.client);
        }
        assert!(records.iter().all(|r| !done.iter().any(|range| range.contains(&r.offset))));
        assert_eq!(job.committed(), job.ends());
        job.has_no_lag();
    }
}

fn one_key_many_times(server: &str, topic: &str) {
    let settings = [
        ("queue.buffering.max.messages", "2000000"),
        ("batch.num.messages", "100000"),
        ("linger.ms", "100"),
    ];
    let producer = raw::producer(server, &settings);
    for _ in 0..ONE_KEY_RECORDS {
        let record = BaseRecord::to(topic).partition(0).key("k").payload("v");
        producer.send(record).map_err(|(error, _)| error).expect("room in the producer's queue");
    }
    producer.flush(LIMIT).expect("the broker acknowledges");
}

/// The offsets of the topic's only partition; `None` where there are too many to be compacted yet.
fn offsets_of_few(server: &str, topic: &str) -> Option<Vec<i64>> {
    let end = raw::watermarks(server, topic)[&0].1;
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", server)
        .set("group.id", unique("looker"))
        .set("auto.offset.reset", "error")
        .create()
        .unwrap();
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&from).unwrap();
    let mut offsets = Vec::new();
    while offsets.last().is_none_or(|last| last + 1 < end) {
        if offsets.len() > 10_000 {
            return None;
        }
        let message = consumer.poll(LIMIT).expect("a record").expect("a readable record");
        offsets.push(rdkafka::Message::offset(&message));
    }
    Some(offsets)
}

fn transactions(kafka: &Kafka, clients: &[&str]) {
    for client in clients {
        let (server, topic) = (kafka.bootstrap(), unique("transactions"));
        kafka.create_topic(&topic, 2, &[]);
        raw::transaction(&server, &topic, 0, &values("kept", 10), true);
        raw::transaction(&server, &topic, 0, &values("aborted", 10), false);
        raw::produce(&server, "none", &topic, 0, &values("plain", 5));
        // Both partitions end with what nobody sees; one has nothing else.
        raw::transaction(&server, &topic, 0, &values("aborted-last", 10), false);
        raw::transaction(&server, &topic, 1, &values("aborted-only", 10), false);
        let job = Job::new(kafka, &topic, client);
        let all_ends = [(0, 38), (1, 11)].into();
        eventually(LIMIT, "the markers are in the log", || job.ends() == all_ends);
        job.catch_up();
        let places = || -> Vec<_> {
            job.records().into_iter().map(|record| (record.partition, record.offset)).collect()
        };
        let mut expected: Vec<(i32, i64)> = (0..10).chain(22..27).map(|at| (0, at)).collect();
        if *client == "kafka" {
            // It reads uncommitted: aborted records too, but never the markers.
            expected = (0..10).chain(11..21).chain(22..37).map(|at| (0, at)).collect();
            expected.extend((0..10).map(|at| (1, at)));
        }
        assert_eq!(places(), expected, "{client}");
        assert_eq!(job.committed(), all_ends, "{client}");
        job.has_no_lag();
        // Those that come while it runs are passed too.
        let mut mb = job.start(&[]);
        mb.wait_for_line(STARTED, LIMIT);
        raw::transaction(&server, &topic, 1, &values("aborted-later", 10), false);
        eventually(LIMIT, "the marker is passed", || job.committed() == [(0, 38), (1, 22)].into());
        mb.term();
        assert_eq!(mb.wait(STOP_LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
        if *client == "kafka" {
            expected.extend((11..21).map(|at| (1, at)));
        }
        assert_eq!(places(), expected, "{client}");
    }
}

fn partitions_added(kafka: &Kafka, clients: &[&str]) {
    let (server, topic) = (kafka.bootstrap(), unique("grows"));
    kafka.create_topic(&topic, 4, &[]);
    let fill = |partitions: std::ops::Range<i32>, mark: &str| {
        for partition in partitions {
            raw::produce(&server, "none", &topic, partition, &values(mark, 50));
        }
    };
    fill(0..4, "before");
    let mut jobs: Vec<_> = clients
        .iter()
        .map(|client| {
            let job = Job::new(kafka, &topic, client);
            let mb = job.start(&["--sensors", "2"]);
            (job, mb)
        })
        .collect();
    for (job, mb) in &jobs {
        mb.wait_for_line(STARTED, LIMIT);
        eventually(LIMIT, "what was there is done", || job.records().len() >= 200);
    }
    kafka.add_partitions(&topic, 8);
    fill(0..8, "after");
    for (job, mb) in &mut jobs {
        let ends = job.ends();
        assert_eq!(ends.len(), 8);
        eventually(LIMIT, "old and new partitions are committed to their ends", || {
            job.committed() == ends
        });
        mb.term();
        assert_eq!(mb.wait(STOP_LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
        assert_same(&job.records(), &job.in_log());
        job.has_no_lag();
    }
}

fn topic_deleted(kafka: &Kafka, clients: &[&str]) {
    let (server, topic) = (kafka.bootstrap(), unique("deleted"));
    kafka.create_topic(&topic, 2, &[]);
    raw::produce(&server, "none", &topic, 0, &values("old", 100));
    // One is stopped while the topic is away, the other goes on until it is made again.
    let mut jobs = Vec::new();
    for client in clients {
        for _ in 0..2 {
            let job = Job::new(kafka, &topic, client);
            let mb = job.start(&[]);
            jobs.push((job, mb));
        }
    }
    for (job, _) in &jobs {
        eventually(LIMIT, "all is committed", || job.committed() == [(0, 100), (1, 0)].into());
    }
    kafka.tool("topics", &["--delete", "--topic", &topic]);
    for (_, mb) in &mut jobs {
        let line = mb.wait_for_line("does not exist", LIMIT);
        assert!(line.contains(&topic), "{line}");
        assert!(mb.try_wait().is_none(), "a topic that is away is no end");
    }
    for (_, mb) in jobs.iter_mut().step_by(2) {
        mb.term();
        assert_eq!(mb.wait(STOP_LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
    }
    kafka.create_topic(&topic, 2, &[]);
    for (_, mb) in jobs.iter_mut().skip(1).step_by(2) {
        assert_eq!(mb.wait(LIMIT).code(), Some(65), "{}", mb.stderr().join("\n"));
        let said = mb.stderr().join("\n");
        assert!(said.contains(&topic) && said.contains("deleted and created again"), "{said}");
    }
}

fn records_removed(kafka: &Kafka, clients: &[&str]) {
    const RECORDS: usize = 10_000;
    const BEGINNING: i64 = 10_090;
    for client in clients {
        let (server, topic) = (kafka.bootstrap(), unique("removed"));
        kafka.create_topic(&topic, 1, &[]);
        raw::produce(&server, "none", &topic, 0, &values("first", 100));
        let job = Job::new(kafka, &topic, client);
        let mut mb = job.start(&[]);
        eventually(LIMIT, "what is there is committed", || job.committed()[&0] == 100);
        // Frozen, it misses what comes and goes, but for what one fetch under way may bring.
        mb.signal(Signal::STOP);
        raw::produce(&server, "none", &topic, 0, &vec![vec![b'x'; 1_000]; RECORDS]);
        kafka.delete_records(&topic, 0, BEGINNING);
        mb.signal(Signal::CONT);
        assert_eq!(mb.wait(LIMIT).code(), Some(65), "{}", mb.stderr().join("\n"));
        // All before the range is done and committed; nothing after it is.
        let committed = job.committed()[&0];
        let said = mb.stderr().join("\n");
        assert!(said.contains(&format!("{topic}/0 {committed}-{} ", BEGINNING - 1)), "{said}");
        let done: Vec<_> = job.records().into_iter().map(|record| record.offset).collect();
        assert_eq!(done, (0..committed).collect::<Vec<_>>());
        // Nor does a new start pass it by itself.
        let mut mb = job.start(&[]);
        assert_eq!(mb.wait(LIMIT).code(), Some(65), "{}", mb.stderr().join("\n"));
        assert!(mb.stderr().join("\n").contains(&format!("{committed}-{} ", BEGINNING - 1)));
        assert_eq!(job.committed()[&0], committed);
    }
}

/// As after a log that was cut, or restored from an old copy: the topic is the same one.
fn beyond_the_end(kafka: &Kafka, clients: &[&str]) {
    let (server, topic) = (kafka.bootstrap(), unique("cut"));
    kafka.create_topic(&topic, 1, &[]);
    raw::produce(&server, "none", &topic, 0, &values("value", 100));
    for client in clients {
        let job = Job::new(kafka, &topic, client);
        commit(&server, &job.group, &topic, 150);
        let mut mb = job.start(&[]);
        assert_eq!(mb.wait(LIMIT).code(), Some(65), "{}", mb.stderr().join("\n"));
        let said = mb.stderr().join("\n");
        let expected = format!("{topic}/0 100-149 are not in the log, which ends at 100");
        assert!(said.contains(&expected), "{said}");
        assert_eq!(job.committed()[&0], 150, "the group's offset is left as it is");
        assert_eq!(job.records(), []);
    }
}

fn commit(server: &str, group: &str, topic: &str, offset: i64) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", server)
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Offset(offset)).unwrap();
    // A broker that has just started is loading for a while.
    eventually(LIMIT, "the commit is taken", || consumer.commit(&list, CommitMode::Sync).is_ok());
}

#[test]
fn a_record_without_a_timestamp_has_none_and_is_processed() {
    // The oldest form of a message, which crate kafka writes, has none: the log stores -1.
    let server = Kafka::shared(V3_9).bootstrap();
    let topic = unique("timeless");
    let folder = tempfile::tempdir().unwrap();
    let to = ["--bootstrap-server", &server, "--topic", &topic];
    let produced = ["produce", "--client", "kafka", "--count", "20", "--rate", "max"];
    let produced = Mb::run_in(folder.path(), &[&produced[..], &to].concat());
    assert!(produced.status.success(), "{}", String::from_utf8_lossy(&produced.stderr));
    let seen = folder.path().join("seen");
    let step = format!("cat >> {}", seen.display());
    let job = ["--client", "rdkafka", "--until-caught-up", "--max-concurrent-runs", "1"];
    let job = [&job[..], &["--listen", "off", "--exec", &step], &to].concat();
    let done = Mb::run_in(folder.path(), &job);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let seen = std::fs::read_to_string(seen).unwrap();
    assert_eq!(seen.lines().count(), 20);
    assert!(seen.lines().all(|line| line.contains("\"timestamp\":null")), "{seen}");
}

#[test]
fn headers_that_kcat_writes_reach_files_and_commands_in_their_order() {
    let kafka = Kafka::shared(V4_4);
    let (server, topic) = (kafka.bootstrap(), unique("headers"));
    kafka.create_topic(&topic, 1, &[]);
    // In kcat's form, a name alone is a header whose value is null.
    let headers = ["-H", "a=b", "-H", "a=c", "-H", "null"];
    let mut kcat = Command::new("kcat")
        .args(["-P", "-b", &server, "-t", &topic, "-p", "0"])
        .args(headers)
        .stdin(Stdio::piped())
        .spawn()
        .expect("kcat is installed: run scripts/setup test");
    kcat.stdin.take().unwrap().write_all(b"value\n").expect("kcat reads");
    assert!(kcat.wait().expect("kcat ends").success());

    let folder = tempfile::tempdir().unwrap();
    let (files, seen) = (folder.path().join("files"), folder.path().join("seen"));
    let to = ["--bootstrap-server", &server, "--topic", &topic, "--until-caught-up"];
    let step = ["--step", "files", "--out", files.to_str().unwrap(), "--listen", "off"];
    assert!(Mb::run_in(folder.path(), &[&to[..], &step].concat()).status.success());
    let command = format!("cat >> {}", seen.display());
    let step = ["--exec", &command, "--listen", "off", "--group", "other"];
    assert!(Mb::run_in(folder.path(), &[&to[..], &step].concat()).status.success());

    let records = Files::read(&files, &topic).records();
    assert_same(&records, &raw::read_all(&server, &topic));
    let header = |key: &str, value: Option<&[u8]>| (key.into(), value.map(<[u8]>::to_vec));
    let expected = [header("a", Some(b"b")), header("a", Some(b"c")), header("null", None)];
    assert_eq!(records[0].headers, expected);
    let expected = r#""headers":[{"key":"a","value":"b"},{"key":"a","value":"c"},{"key":"null","value":null}]}"#;
    let seen = std::fs::read_to_string(seen).unwrap();
    assert!(seen.trim_end().ends_with(expected), "{seen}");
}

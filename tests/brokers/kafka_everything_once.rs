//! The main job on real brokers: whatever was written, by whom and compressed how, comes out once,
//! whole and in bounded memory. Crashes are in `kafka_crashes`, positions in `kafka_positions`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::support::files::{FileRecord, Files, assert_same};
use crate::support::kafka::{Kafka, V3_9, V4_4};
use crate::support::mb::Mb;
use crate::support::raw::{self, Pair};
use crate::support::{eventually_some, unique};

const LIMIT: Duration = Duration::from_secs(120);
const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];
const PARTITIONS: i32 = 4;
const MESSAGES: usize = 100_000;

#[test]
fn a_hundred_thousand_messages_by_all_writers_come_out_once() {
    let kafka = Kafka::shared(V4_4);
    let (topic, group) = (unique("everything"), unique("group"));
    let server = kafka.bootstrap();
    kafka.create_topic(&topic, PARTITIONS as u32, &[]);
    let known = write_everything(kafka, &topic);
    let in_log = raw::read_all(&server, &topic);
    assert_eq!(in_log.len(), MESSAGES);
    known.check(&in_log);

    let out = tempfile::tempdir().unwrap();
    let out_name = out.path().to_str().unwrap();
    let mut args = main_job(&server, &topic, &group);
    args.extend(["--step", "files", "--out", out_name, "--until-caught-up"]);
    args.extend(["--max-batch", "100", "--sensors", "2", "--tick-runtime", "1"]);
    let mut mb = Mb::start(&args);
    assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));

    assert_same(&Files::read(out.path(), &topic).records(), &in_log);
    let ends = raw::watermarks(&server, &topic).into_iter().map(|(p, (_, end))| (p, end));
    assert_eq!(raw::committed(&server, &group, &topic), ends.collect());
    same_lag(kafka, &topic, &group, mb.data_dir(), 0);
    // A lag that is not 0, and another one in each partition.
    for partition in 0..PARTITIONS {
        let values = vec![b"late".to_vec(); 7 * partition as usize];
        raw::produce(&server, "none", &topic, partition, &values);
    }
    same_lag(kafka, &topic, &group, mb.data_dir(), 7 * (1 + 2 + 3));
}

/// `mb lag` prints what Kafka's own tool prints.
fn same_lag(kafka: &Kafka, topic: &str, group: &str, data_dir: &Path, total: i64) {
    let server = kafka.bootstrap();
    let connection = ["--bootstrap-server", &server, "--topic", topic, "--group", group];
    let printed = Mb::run_in(data_dir, &[&["lag"], &connection[..]].concat());
    assert!(printed.status.success(), "{printed:?}");
    let printed = String::from_utf8(printed.stdout).unwrap();
    let rows: Vec<[String; 4]> = printed
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .inspect(|cells| assert_eq!(cells.len(), 6, "{printed}"))
        .skip(1)
        .inspect(|cells| assert_eq!(cells[..2], [group, topic]))
        .map(|cells| [cells[2], cells[3], cells[4], cells[5]].map(str::to_owned))
        .collect();
    assert_eq!(rows, kafka.describe_group(group));
    let lags = rows.iter().map(|[.., lag]| lag.parse::<i64>().unwrap());
    assert_eq!(lags.sum::<i64>(), total);
    assert_eq!(rows.len(), PARTITIONS as usize);
}

/// What is known of the messages beside the topic itself.
#[derive(Default)]
struct Known {
    /// By partition and offset, as the verifiable producer was told.
    acknowledged: BTreeMap<(i32, i64), Vec<u8>>,
    /// Written somewhere in the topic, so many times.
    somewhere: BTreeMap<Pair, usize>,
}

impl Known {
    fn add(&mut self, pair: Pair) {
        *self.somewhere.entry(pair).or_default() += 1;
    }

    fn len(&self) -> usize {
        self.acknowledged.len() + self.somewhere.values().sum::<usize>()
    }

    fn check(&self, in_log: &[FileRecord]) {
        let mut found: BTreeMap<Pair, usize> = BTreeMap::new();
        for record in in_log {
            if let Some(value) = self.acknowledged.get(&(record.partition, record.offset)) {
                assert_eq!((&record.key, &record.value), (&None, &Some(value.clone())));
            } else {
                *found.entry((record.key.clone(), record.value.clone())).or_default() += 1;
            }
        }
        for (pair, times) in &self.somewhere {
            assert_eq!(found.get(pair), Some(times), "{pair:?}");
        }
    }
}

/// Fills the topic up to `MESSAGES`, with Kafka's own tools, kcat where it is installed, librdkafka
/// and mb; two at a time, so that their batches mix.
fn write_everything(kafka: &Kafka, topic: &str) -> Known {
    let mut known = Known::default();
    let acknowledged = thread::scope(|scope| {
        let verifiable = scope.spawn(|| verifiable_producer(kafka, topic, 10_000));
        performance_producer(kafka, topic, 15_000);
        console_producer(kafka, topic, &mut known);
        verifiable.join().expect("the verifiable producer")
    });
    known.acknowledged = acknowledged;
    thread::scope(|scope| {
        let kcat = scope.spawn(|| kcat(kafka, topic));
        for round in 0..2 {
            for (number, codec) in CODECS.iter().enumerate() {
                for partition in 0..PARTITIONS {
                    let pairs = odd_pairs(&format!("{round}-{number}-{partition}"));
                    raw::produce_pairs(&kafka.bootstrap(), codec, topic, partition, &pairs);
                    pairs.into_iter().for_each(|pair| known.add(pair));
                }
            }
        }
        kcat.join().expect("kcat").into_iter().for_each(|pair| known.add(pair));
    });
    produce_by_mb(kafka, topic, MESSAGES - 15_000 - known.len());
    known
}

/// Numbers, each acknowledged with its place, in zstd.
fn verifiable_producer(kafka: &Kafka, topic: &str, count: usize) -> BTreeMap<(i32, i64), Vec<u8>> {
    let config = tempfile::NamedTempFile::new().unwrap();
    fs::write(config.path(), "compression.type=zstd\nlinger.ms=5\n").unwrap();
    let (path, max) = (config.path().to_str().unwrap(), count.to_string());
    let args = ["--topic", topic, "--max-messages", &max, "--producer.config", path];
    let said = kafka.tool("verifiable-producer", &args);
    let sent = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let acknowledged: BTreeMap<_, _> = sent
        .filter(|event| event["name"] == "producer_send_success")
        .map(|event| {
            let partition = i32::try_from(event["partition"].as_i64().unwrap()).unwrap();
            let value = event["value"].as_str().unwrap().as_bytes().to_vec();
            ((partition, event["offset"].as_i64().unwrap()), value)
        })
        .collect();
    assert_eq!(acknowledged.len(), count, "{}", said.lines().last().unwrap_or_default());
    acknowledged
}

/// Random letters, in lz4.
fn performance_producer(kafka: &Kafka, topic: &str, count: usize) {
    let count = count.to_string();
    let mut args = vec!["--topic", topic, "--num-records", &count, "--record-size", "120"];
    args.extend(["--throughput", "-1", "--producer-props", "compression.type=lz4"]);
    kafka.tool("producer-performance", &args);
}

/// Lines with and without keys, and tombstones, in gzip.
fn console_producer(kafka: &Kafka, topic: &str, known: &mut Known) {
    let mut lines = Vec::new();
    let mut pair = |key: Option<String>, value: Option<String>| {
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "<null>".to_owned());
        writeln!(lines, "{}:{}", text(&key), text(&value)).unwrap();
        known.add((key.map(String::into_bytes), value.map(String::into_bytes)));
    };
    for number in 0..3_000 {
        let key = (number % 3 > 0).then(|| format!("console-{}", number % 100));
        match number % 5 {
            0 => pair(Some(format!("console-{number}")), None),
            1 => pair(key, Some(String::new())),
            _ => pair(key, Some(format!("line {number} «ä» \t end"))),
        }
    }
    let mut args = vec!["--topic", topic, "--producer-property", "compression.type=gzip"];
    for property in ["parse.key=true", "key.separator=:", "null.marker=<null>"] {
        args.extend(["--property", property]);
    }
    kafka.tool_with_input("console-producer", &args, &lines);
}

/// Lines in snappy, an empty value as null; nothing where kcat is not installed.
fn kcat(kafka: &Kafka, topic: &str) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for partition in 0..PARTITIONS {
        let server = kafka.bootstrap();
        let number = partition.to_string();
        let child = Command::new("kcat")
            .args(["-P", "-b", &server, "-t", topic, "-p", &number, "-K:", "-Z", "-z", "snappy"])
            .stdin(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            eprintln!("kcat is not installed: nothing is written by it");
            return Vec::new();
        };
        let mut lines = Vec::new();
        for number in 0..2_000 {
            let key = format!("kcat-{partition}-{number}");
            let value = (number % 4 > 0).then(|| format!("{{\"number\":{number}}}"));
            writeln!(lines, "{key}:{}", value.as_deref().unwrap_or_default()).unwrap();
            pairs.push((Some(key.into_bytes()), value.map(String::into_bytes)));
        }
        child.stdin.take().unwrap().write_all(&lines).expect("kcat reads");
        assert!(child.wait().expect("kcat ends").success());
    }
    pairs
}

/// What text tools cannot write: any bytes, null and empty each as key and value, long values.
fn odd_pairs(mark: &str) -> Vec<Pair> {
    let bytes = |number: usize| (0..number).map(|at| (at * 7 % 256) as u8).collect::<Vec<_>>();
    (0..100usize)
        .map(|number| {
            let key = match number % 4 {
                0 => None,
                1 => Some(Vec::new()),
                2 => Some([b"\xff\0\xfe", mark.as_bytes()].concat()),
                _ => Some(format!("{mark} {number}").into_bytes()),
            };
            let value = match number % 5 {
                0 => None,
                1 => Some(Vec::new()),
                2 => Some(bytes(256 + number)),
                3 => Some([format!("{mark}\n{number}\0").into_bytes(), bytes(3_000)].concat()),
                _ => Some(format!("{mark} \"{number}\" \u{1f980}").into_bytes()),
            };
            (key, value)
        })
        .collect()
}

fn produce_by_mb(kafka: &Kafka, topic: &str, count: usize) {
    let (server, count) = (kafka.bootstrap(), count.to_string());
    let mut args = vec!["produce", "--bootstrap-server", &server, "--topic", topic];
    args.extend(["--rate", "max", "--count", &count, "--keys", "50"]);
    let mut mb = Mb::start(&args);
    assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
}

#[test]
fn the_pure_rust_client_does_the_main_job_on_3_9() {
    let kafka = Kafka::shared(V3_9);
    let (topic, group) = (unique("pure"), unique("group"));
    let server = kafka.bootstrap();
    let out = tempfile::tempdir().unwrap();
    let out_name = out.path().to_str().unwrap();
    let mut args = main_job(&server, &topic, &group);
    args.extend(["--client", "kafka", "--rate", "1000", "--count", "4000", "--max-batch", "100"]);
    args.extend(["--step", "files", "--out", out_name, "--until-caught-up"]);
    let mut mb = Mb::start(&args);
    assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));

    let first = mb.stderr().into_iter().next().expect("a first line");
    assert!(first.contains(", client kafka (") && first.ends_with(": --client kafka"), "{first}");
    let in_log = raw::read_all(&server, &topic);
    assert_same(&Files::read(out.path(), &topic).records(), &in_log);
    let numbers: Vec<u64> = sequence_numbers(&in_log);
    assert_eq!(numbers, (0..4_000).collect::<Vec<_>>());
    assert_eq!(raw::committed(&server, &group, &topic).values().sum::<i64>(), 4_000);
}

#[test]
fn the_pure_rust_client_refuses_4_4() {
    let kafka = Kafka::shared(V4_4);
    let (topic, server) = (unique("refused"), kafka.bootstrap());
    let mut mb =
        Mb::start(&["--bootstrap-server", &server, "--topic", &topic, "--client", "kafka"]);
    assert_eq!(mb.wait(LIMIT).code(), Some(78));
    let said = mb.stderr().join("\n");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("--client kafka") && said.contains("rdkafka"), "{said}");
}

/// 300 MB of records of 1 kB, and a step that takes its time.
#[test]
fn memory_is_bounded_whatever_the_backlog() {
    let runs = bounded_memory(75_000, 1_000, &["--queue", "10000", "--max-batch", "500"]);
    // Short memory is no reason for small batches: 600 runs are enough, and some end a tick.
    assert!(runs < 900, "{runs} runs");
}

/// What a client's buffers hold of such records is mostly overhead of its own.
#[test]
fn memory_is_bounded_for_tiny_records_too() {
    bounded_memory(1_000_000, 10, &["--queue", "10", "--max-batch", "20000"]);
}

/// Does a backlog of so many records in each partition; returns the number of runs.
fn bounded_memory(per_partition: usize, record_bytes: usize, more: &[&str]) -> usize {
    const QUEUE_MIB: u64 = 64;
    // Fetch buffers are 4 MiB of payload, as much overhead and a fetch of 8 MiB, and those of the tick
    // before may still be on their way out; the rest is the program and what its allocator keeps.
    const BOUND_MIB: u64 = QUEUE_MIB + 2 * 16 + 32;
    let kafka = Kafka::shared(V3_9);
    let (topic, group) = (unique("backlog"), unique("group"));
    let server = kafka.bootstrap();
    kafka.create_topic(&topic, PARTITIONS as u32, &[]);
    let value = vec![b'x'; record_bytes];
    for partition in 0..PARTITIONS {
        raw::produce_many(&server, &topic, partition, &value, per_partition);
    }
    let mut args = main_job(&server, &topic, &group);
    args.extend(["--step", "discard", "--step-delay", "100ms", "--max-concurrent-runs", "5"]);
    args.extend(["--queue-bytes", "64MiB", "--tick-runtime", "3", "--until-caught-up"]);
    args.extend(more);
    let mut mb = Mb::start(&args);
    let mut peak_kib = 0;
    let status = eventually_some(LIMIT, "the backlog is done", || {
        peak_kib = peak_kib.max(peak_memory_kib(mb.pid()).unwrap_or(0));
        mb.try_wait()
    });
    assert_eq!(status.code(), Some(0), "{}", mb.stderr().join("\n"));
    println!("records of {record_bytes} bytes: at most {} MiB", peak_kib / 1024);
    assert!(peak_kib < BOUND_MIB * 1024, "{} MiB", peak_kib / 1024);
    let done: i64 = raw::committed(&server, &group, &topic).values().sum();
    assert_eq!(done, (per_partition * PARTITIONS as usize) as i64);
    let db = rusqlite::Connection::open(mb.data_dir().join("history.db")).unwrap();
    let runs: i64 = db.query_row("SELECT count(*) FROM runs", [], |row| row.get(0)).unwrap();
    runs as usize
}

/// The most that the process had resident; `None` when it has ended.
fn peak_memory_kib(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse().expect("a number"))
}

fn main_job<'a>(server: &'a str, topic: &'a str, group: &'a str) -> Vec<&'a str> {
    vec!["--bootstrap-server", server, "--topic", topic, "--group", group, "--listen", "off"]
}

fn sequence_numbers(records: &[FileRecord]) -> Vec<u64> {
    let number = |record: &FileRecord| {
        let value: Value = serde_json::from_slice(record.value.as_deref().unwrap()).unwrap();
        value["seq"].as_u64().expect("a sequence number")
    };
    let mut numbers: Vec<u64> = records.iter().map(number).collect();
    numbers.sort_unstable();
    numbers
}

//! The main job on real brokers when it cannot start, when its step fails, and when its step is slow.

use std::net::TcpListener;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rdkafka::producer::{BaseRecord, Producer};
use rusqlite::Connection;
use serde_json::Value;

use crate::support::files::{Files, assert_same};
use crate::support::kafka::{Kafka, V3_9};
use crate::support::mb::Mb;
use crate::support::{eventually, free_port, raw, unique};

const LIMIT: Duration = Duration::from_secs(60);
/// mb promises to give up after 10 s; the rest is a busy machine's.
const CONTACT_LIMIT: Duration = Duration::from_secs(15);

#[test]
fn an_unknown_topic_is_named_and_not_made() {
    let kafka = Kafka::shared(V3_9);
    let (server, topic) = (kafka.bootstrap(), unique("unknown"));
    let mut mb = Mb::start(&["--bootstrap-server", &server, "--topic", &topic, "--listen", "off"]);
    assert_eq!(mb.wait(LIMIT).code(), Some(1));
    let said = mb.stderr();
    assert!(said.last().unwrap().contains(&topic), "{said:?}");
    let topics = kafka.tool("topics", &["--list"]);
    assert!(!topics.contains(&topic), "{topics}");
}

/// Starts mb at an address that never answers; how it ended, and how long that took.
fn give_up(server: &str) -> (ExitStatus, String, Duration) {
    let began = Instant::now();
    let mut mb = Mb::start(&["--bootstrap-server", server, "--topic", "any", "--listen", "off"]);
    let status = mb.wait(LIMIT);
    (status, mb.stderr().join("\n"), began.elapsed())
}

#[test]
fn a_port_that_nobody_listens_on_is_given_up_on_with_the_cause() {
    let server = format!("127.0.0.1:{}", free_port());
    let (status, said, took) = give_up(&server);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(&server) && said.contains("refused"), "{said}");
    assert!(took <= CONTACT_LIMIT, "{took:?}");
    // A broker that is just starting has a chance.
    assert!(took >= Duration::from_secs(5), "{took:?}");
}

#[test]
fn an_address_that_accepts_and_says_nothing_is_given_up_on_with_the_cause() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap().to_string();
    let (status, said, took) = give_up(&server);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(&server) && said.contains("answer"), "{said}");
    assert!(took <= CONTACT_LIMIT, "{took:?}");
}

#[test]
fn waiting_for_the_broker_goes_on_when_it_comes() {
    let kafka = Kafka::start(V3_9);
    let (server, topic) = (kafka.bootstrap(), unique("later"));
    kafka.create_topic(&topic, 2, &[]);
    raw::produce(&server, "none", &topic, 0, &vec![b"early".to_vec(); 10]);
    kafka.kill9();
    let args = ["--bootstrap-server", &server, "--topic", &topic, "--wait-for-broker"];
    let step = ["--listen", "off", "--step", "discard", "--until-caught-up"];
    let args = [&args[..], &step[..]].concat();
    let mut mb = Mb::start(&args);
    mb.wait_for_line("waiting for the broker", LIMIT);
    let mut stopped = Mb::start(&args);
    stopped.wait_for_line("waiting for the broker", LIMIT);
    stopped.term();
    assert_eq!(stopped.wait(Duration::from_secs(5)).code(), Some(0), "{:?}", stopped.stderr());
    // Longer than mb waits without the flag.
    let began = Instant::now();
    eventually(LIMIT, "the first contact's limit is over", || {
        assert!(mb.try_wait().is_none(), "{:?}", mb.stderr());
        began.elapsed() > Duration::from_secs(11)
    });
    kafka.restart();
    assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
    assert_eq!(raw::committed(&server, "mb", &topic)[&0], 10);
}

/// Twenty batches of ten in each of two partitions, one record of which no step can take.
struct Poisoned {
    server: String,
    topic: String,
    group: String,
}

const POISONED_RUN: (i64, i64) = (50, 59);

impl Poisoned {
    fn new(kafka: &Kafka) -> Poisoned {
        let (server, topic) = (kafka.bootstrap(), unique("poisoned"));
        kafka.create_topic(&topic, 2, &[]);
        let value = |number: usize| match number {
            57 => b"poison \xff".to_vec(),
            number => format!("value {number}").into_bytes(),
        };
        let poisoned: Vec<_> = (0..200).map(value).collect();
        raw::produce(&server, "none", &topic, 0, &poisoned);
        raw::produce(&server, "none", &topic, 1, &vec![b"harmless".to_vec(); 200]);
        Poisoned { server, topic, group: unique("group") }
    }

    fn flags<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let mut args = vec!["--bootstrap-server", &self.server, "--topic", &self.topic];
        args.extend(["--group", &self.group, "--listen", "off"]);
        args.extend(["--max-attempts", "2", "--retry-backoff", "50ms", "--outage-patience", "1s"]);
        // Whole batches only, so that the poison is in the one that the test names.
        args.extend(["--max-wait", "10", "--until-caught-up"]);
        args.extend(more);
        args
    }

    fn key(&self) -> String {
        format!("{}/0/{}-{}", self.topic, POISONED_RUN.0, POISONED_RUN.1)
    }
}

/// Fails for the poison; tells by a file in `out` of each run that it did.
fn picky(out: &Path) -> String {
    // "poison" and a byte that is no UTF-8, in base64.
    format!(
        "if grep -q cG9pc29uIP8=; then echo indigestible >&2; exit 3; fi; \
         touch {}/$(echo $MB_RUN_KEY | tr / =)",
        out.display()
    )
}

fn history(mb: &Mb) -> Connection {
    Connection::open(mb.data_dir().join("history.db")).unwrap()
}

#[test]
fn a_run_that_fails_is_kept_as_dead_letters_and_the_others_go_on() {
    let poisoned = Poisoned::new(Kafka::shared(V3_9));
    let out = tempfile::tempdir().unwrap();
    let command = picky(out.path());
    let mut mb = Mb::start(&poisoned.flags(&["--max-batch", "10", "--exec", &command]));
    assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
    let said = mb.stderr().join("\n");
    assert!(said.contains(&poisoned.key()) && said.contains("indigestible"), "{said}");
    let committed = raw::committed(&poisoned.server, &poisoned.group, &poisoned.topic);
    assert_eq!(committed, [(0, 200), (1, 200)].into());
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 39, "all runs but one");

    let db = history(&mb);
    let failed = "SELECT first_offset, last_offset, attempts FROM runs WHERE state = 3";
    let row: (i64, i64, i64) =
        db.query_row(failed, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    assert_eq!(row, (POISONED_RUN.0, POISONED_RUN.1, 2));
    let mut letters = db
        .prepare("SELECT run_key, record_offset, value, error FROM dead_letters ORDER BY 2")
        .unwrap();
    let letters: Vec<(String, i64, Vec<u8>, String)> = letters
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let offsets: Vec<i64> = letters.iter().map(|(_, offset, ..)| *offset).collect();
    assert_eq!(offsets, (POISONED_RUN.0..=POISONED_RUN.1).collect::<Vec<_>>());
    assert_eq!(letters[7].2, b"poison \xff");
    assert!(
        letters
            .iter()
            .all(|(key, _, _, error)| { *key == poisoned.key() && error.contains("indigestible") })
    );
    // And `mb runs` shows it.
    let shown = Mb::run_in(mb.data_dir(), &["runs", "--state", "failed", "--json"]);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown.as_array().map(Vec::len), Some(1), "{shown}");
    assert_eq!(shown[0]["key"], poisoned.key());
}

#[test]
fn on_failure_halt_commits_nothing_past_the_run_which_comes_again_under_its_key() {
    let poisoned = Poisoned::new(Kafka::shared(V3_9));
    let (data_dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let command = picky(out.path());
    let mut halt = poisoned.flags(&["--max-batch", "10", "--exec", &command]);
    halt.extend(["--on-failure", "halt"]);
    let committed = || raw::committed(&poisoned.server, &poisoned.group, &poisoned.topic)[&0];
    for _ in 0..2 {
        let mut mb = Mb::start_in(data_dir.path(), &halt);
        assert_eq!(mb.wait(LIMIT).code(), Some(65), "{}", mb.stderr().join("\n"));
        let said = mb.stderr().join("\n");
        assert!(said.contains(&poisoned.key()) && said.contains("halt"), "{said}");
        assert!(committed() <= POISONED_RUN.0, "{} is committed", committed());
    }
    let done_by_command = std::fs::read_dir(out.path()).unwrap().count();
    let files = tempfile::tempdir().unwrap();
    let good = ["--step", "files", "--out", files.path().to_str().unwrap(), "--max-batch", "33"];
    let mut mb = Mb::start_in(data_dir.path(), &poisoned.flags(&good));
    assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
    assert_eq!(committed(), 200);
    let files = Files::read(files.path(), &poisoned.topic);
    let in_log = raw::read_all(&poisoned.server, &poisoned.topic);
    let again = files.runs.get(&poisoned.key()).expect("the run has the key that it had");
    let (first, last) = (POISONED_RUN.0 as usize, POISONED_RUN.1 as usize);
    assert_same(again, &in_log[first..=last]);
    // What the command had done, it alone did; the rest came out here.
    assert_eq!(files.records().len() + 10 * done_by_command, in_log.len());
}

#[test]
fn a_command_gets_no_descriptor_of_the_client() {
    let kafka = Kafka::shared(V3_9);
    let (server, topic) = (kafka.bootstrap(), unique("descriptors"));
    kafka.create_topic(&topic, 4, &[]);
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("list");
    let command = format!("ls /proc/self/fd | wc -l >> {}", list.display());
    let flags = [
        &["--bootstrap-server", &server, "--client", "rdkafka", "--topic", &topic][..],
        &["--rate", "200", "--count", "200", "--max-batch", "5", "--tick-runtime", "200ms"],
        &["--tick-interval", "0", "--until-caught-up", "--exec", &command],
    ];
    let mut mb = Mb::start(&flags.concat());
    assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
    // Its three streams, and the folder that `ls` reads.
    let counts = std::fs::read_to_string(&list).unwrap();
    let counts: Vec<&str> = counts.split_whitespace().collect();
    assert!(counts.len() >= 40 && counts.iter().all(|count| *count == "4"), "{counts:?}");
}

/// One fetch can bring the whole backlog of a partition, 300 runs.
#[test]
fn no_partition_fills_the_queue_alone_while_the_step_is_slow() {
    const RECORDS: usize = 3000;
    let kafka = Kafka::shared(V3_9);
    let (server, topic, group) = (kafka.bootstrap(), unique("backlog"), unique("group"));
    kafka.create_topic(&topic, 3, &[]);
    // Small stored batches: one is always fetched whole.
    let producer = raw::producer(&server, &[("batch.num.messages", "20")]);
    for at in 0..3 * RECORDS {
        let partition = i32::try_from(at / RECORDS).unwrap();
        let record = BaseRecord::<[u8], [u8]>::to(&topic).partition(partition).payload(&[b'x'; 90]);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(LIMIT).unwrap();
    let args = ["--bootstrap-server", &server, "--topic", &topic, "--group", &group];
    let client = ["--client", "rdkafka", "--listen", "off", "--tick-runtime", "5"];
    let slow = ["--max-batch", "10", "--max-concurrent-runs", "1", "--step-delay", "50ms"];
    let more = ["--queue", "30", "--step", "discard"];
    let mut mb = Mb::start(&[&args[..], &client, &slow, &more].concat());
    let queued = || -> Vec<Value> {
        let args = ["runs", "--state", "queued", "--limit", "100", "--json"];
        serde_json::from_slice(&Mb::run_in(mb.data_dir(), &args).stdout).unwrap_or_default()
    };
    eventually(LIMIT, "each partition has some of the queue", || {
        let queued = queued();
        let of = |partition: i32| queued.iter().filter(|run| run["partition"] == partition).count();
        (0..3).all(|partition| of(partition) >= 5)
    });
    let committed = raw::committed(&server, &group, &topic);
    let most = committed.values().max().copied().unwrap_or_default();
    assert!(most < 2500, "no partition was done first: {committed:?}");
    mb.kill9();
}

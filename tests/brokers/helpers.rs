//! The test helpers themselves: a test run that is killed leaves no broker behind, and the built
//! binary's log, signals and files are seen as they are.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::eventually;
use crate::support::files::Files;
use crate::support::kafka::{Kafka, V3_9, alive};
use crate::support::mb::Mb;

const LIMIT: Duration = Duration::from_secs(60);
/// Set for the test process that is to be killed.
const VICTIM: &str = "MB_TEST_VICTIM";

#[test]
fn a_killed_test_run_leaves_no_broker_and_no_folder() {
    if std::env::var_os(VICTIM).is_some() {
        let kafka = Kafka::shared(V3_9);
        println!("victim {} {}", kafka.pid(), kafka.folder().display());
        std::thread::sleep(LIMIT);
        return;
    }
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "helpers::a_killed_test_run_leaves_no_broker_and_no_folder",
            "--nocapture",
        ])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let line = lines
        .map(|line| line.unwrap())
        .find_map(|line| line.split_once("victim ").map(|(_, rest)| rest.to_owned()))
        .expect("the victim starts its broker");
    let (pid, folder) = line.split_once(' ').unwrap();
    let pid: i32 = pid.parse().unwrap();
    assert!(alive(pid) && std::fs::exists(folder).unwrap());
    victim.kill().unwrap();
    victim.wait().unwrap();
    eventually(LIMIT, "the broker and its folder are gone", || {
        !alive(pid) && !std::fs::exists(folder).unwrap()
    });
}

#[test]
fn a_broker_that_cannot_start_is_a_panic_that_says_why() {
    let started = std::panic::catch_unwind(|| Kafka::start_with(V3_9, &[("node.id", "none")]));
    let Err(panic) = started else { panic!("a broker whose id is no number has started") };
    let text = panic.downcast_ref::<String>().expect("a message");
    assert!(text.contains("Not a number"), "{text}");
}

#[test]
fn a_frozen_or_killed_broker_goes_on_where_it_was() {
    let kafka = Kafka::start(V3_9);
    kafka.create_topic("t", 1, &[]);
    kafka.tool_with_input("console-producer", &["--topic", "t"], b"one\ntwo\n");
    kafka.stop_cont(true);
    kafka.stop_cont(false);
    let before = kafka.pid();
    kafka.kill9();
    assert!(!alive(before));
    kafka.restart();
    assert_ne!(kafka.pid(), before);
    let offsets = kafka.tool("get-offsets", &["--topic", "t"]);
    assert_eq!(offsets.trim(), "t:0:2");
    let (pid, folder) = (kafka.pid(), kafka.folder().to_owned());
    drop(kafka);
    assert!(!alive(pid) && !folder.exists());
}

#[test]
fn the_binary_is_followed_from_its_first_line_to_its_files() {
    let out = tempfile::tempdir().unwrap();
    let folder = out.path().to_str().unwrap();
    let args = ["--client", "embedded", "--rate", "500", "--step", "files", "--out", folder];
    let mut mb = Mb::start(&args);
    let line = mb.wait_for_line("embedded", LIMIT);
    assert!(mb.stderr().contains(&line));
    eventually(LIMIT, "a hundred records are in files", || {
        Files::read(out.path(), "First_Topic").records().len() >= 100
    });
    mb.term();
    assert_eq!(mb.wait(LIMIT).code(), Some(0));
    let files = Files::read(out.path(), "First_Topic");
    let records = files.records();
    for pair in records.windows(2) {
        let (a, b) = (&pair[0], &pair[1]);
        let follows =
            if a.partition == b.partition { b.offset == a.offset + 1 } else { b.offset == 0 };
        assert!(follows, "{a:?} and then {b:?}");
    }
    assert!(records.iter().all(|record| record.value.is_some()));
    assert!(files.runs.keys().all(|key| key.starts_with("First_Topic/")));

    let mut mb = Mb::start_in(mb.data_dir(), &["--client", "embedded", "--rate", "10"]);
    mb.wait_for_line("posted", LIMIT);
    mb.kill9();
    assert!(!alive(mb.pid()));
}

//! A running mb on the embedded topic, and what other processes have of it: commands through its
//! control socket, hostile ones among them, and what it tells systemd.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::eventually;
use crate::support::files::Files;
use crate::support::mb::Mb;

const LIMIT: Duration = Duration::from_secs(60);
const READY: &str = "worker(s), batches of";

fn stdout_of(data_dir: &Path, args: &[&str]) -> String {
    let output = Mb::run_in(data_dir, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json_of(data_dir: &Path, args: &[&str]) -> Vec<Value> {
    serde_json::from_str(&stdout_of(data_dir, args)).unwrap()
}

#[test]
fn the_main_job_moves_the_messages_and_commands_see_it_running_and_stopped() {
    let mut mb = Mb::start(&["--client", "embedded", "--rate", "500", "--max-batch", "20"]);
    let dir = mb.data_dir().to_owned();
    let first = mb.wait_for_line("mb::pipeline", LIMIT);
    assert!(first.contains("embedded topic") && first.contains("--client embedded"), "{first}");
    mb.wait_for_line("posted", LIMIT);

    eventually(LIMIT, "runs in the list", || json_of(&dir, &["runs", "--json"]).len() == 20);
    let runs = json_of(&dir, &["runs", "--json", "--limit", "5", "--state", "succeeded"]);
    assert_eq!(runs.len(), 5);
    let id = runs[0]["id"].to_string();
    let detail = json_of(&dir, &["runs", "--json", &id]);
    assert_eq!(detail[0]["key"], runs[0]["key"]);
    assert!(stdout_of(&dir, &["runs", &id]).contains("succeeded"));

    // Which topic it is, the running mb says: no flag is needed.
    let lag = stdout_of(&dir, &["lag"]);
    let heading: Vec<_> = lag.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(heading, ["GROUP", "TOPIC", "PARTITION", "CURRENT-OFFSET", "LOG-END-OFFSET", "LAG"]);
    assert_eq!(lag.lines().count(), 1 + 4);

    mb.term();
    assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
    assert!(!dir.join("control.sock").exists());
    let done: u64 = json_of(&dir, &["runs", "--json", "--limit", "100000"])
        .iter()
        .filter(|run| run["state"] == "succeeded")
        .map(|run| run["records"].as_u64().unwrap())
        .sum();
    let committed: u64 = json_of(&dir, &["lag", "--json", "--client", "embedded"])
        .iter()
        .map(|row| row["current_offset"].as_u64().unwrap())
        .sum();
    assert_eq!(done, committed, "committed is what was processed");
}

#[test]
fn produce_goes_through_the_running_mb() {
    let out = tempfile::tempdir().unwrap();
    let out_dir = out.path().to_str().unwrap();
    let args = [
        "--client", "embedded", "--rate", "1", "--count", "1", "--step", "files", "--out", out_dir,
    ];
    let mut mb = Mb::start(&args);
    mb.wait_for_line("posted 1 messages", LIMIT);
    let lines: Vec<String> = (0..5000).map(|n| format!("line {n}")).collect();
    let mut producer = Command::new(env!("CARGO_BIN_EXE_mb"))
        .args(["produce", "--rate", "max", "-", "--data-dir"])
        .arg(mb.data_dir())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    producer.stdin.take().unwrap().write_all(lines.join("\n").as_bytes()).unwrap();
    let said = producer.wait_with_output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));

    let arrived = || -> BTreeSet<String> {
        if !out.path().join("First_Topic").exists() {
            return BTreeSet::new();
        }
        let records = Files::read(out.path(), "First_Topic").records();
        let values = records.into_iter().filter_map(|record| record.value);
        values.map(|value| String::from_utf8(value).unwrap()).collect()
    };
    eventually(LIMIT, "all lines are in the files", || {
        let arrived = arrived();
        arrived.len() == 5001 && lines.iter().all(|line| arrived.contains(line))
    });
    mb.term();
    assert_eq!(mb.wait(LIMIT).code(), Some(0));
    assert_eq!(Files::read(out.path(), "First_Topic").records().len(), 5001);
}

#[test]
fn hostile_connections_get_an_error_and_the_main_job_goes_on() {
    let mut mb = Mb::start(&["--client", "embedded", "--rate", "200"]);
    mb.wait_for_line(READY, LIMIT);
    let socket = mb.data_dir().join("control.sock");
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let connect = || {
        let stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    };
    for request in
        ["nonsense", "{}", r#"{"request":"runs"}"#, r#"{"request":"run","id":-1e99}"#, "\0"]
    {
        let mut stream = connect();
        writeln!(stream, "{request}").unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert!(answer["error"]["message"].is_string(), "{request}: {answer}");
    }
    // One that has no end is cut off.
    let mut endless = connect();
    let chunk = vec![b'x'; 1 << 20];
    let written = (0..64).take_while(|_| endless.write_all(&chunk).is_ok()).count();
    assert!(written < 64, "the connection was ended");
    // More than it serves at once: the rest is turned away, those that hang do no harm.
    let hanging: Vec<_> = (0..40).map(|_| connect()).collect();
    let turned_away = |stream: &UnixStream| {
        let mut stream = stream.try_clone().unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        matches!(stream.read(&mut [0]), Ok(0) | Err(_))
    };
    assert!(hanging.iter().all(turned_away));
    drop(hanging);

    let before = mb.stderr().len();
    mb.wait_for_line_from(before, "posted", LIMIT);
    eventually(LIMIT, "the socket answers again", || {
        Mb::run_in(mb.data_dir(), &["runs"]).status.success()
    });
    mb.term();
    assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
}

#[test]
fn a_second_mb_on_the_same_folder_is_refused() {
    let mb = Mb::start(&["--client", "embedded", "--rate", "10"]);
    mb.wait_for_line(READY, LIMIT);
    let second = Mb::run_in(mb.data_dir(), &["--client", "embedded", "--rate", "10"]);
    assert_eq!(second.status.code(), Some(78));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains(&format!("pid {}", mb.pid())), "{said}");
}

#[test]
fn while_mb_waits_for_its_broker_commands_use_the_history_and_say_what_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let base = ["--client", "embedded", "--rate", "1000", "--count", "5", "--partitions", "1"];
    let before = [&base[..], &["--exec", "exit 65", "--until-caught-up"]].concat();
    let said = Mb::run_in(dir.path(), &before);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let server = format!("127.0.0.1:{}", crate::support::free_port());
    let waiting = ["--bootstrap-server", &server, "--wait-for-broker"];
    let mut mb = Mb::start_in(dir.path(), &waiting);
    mb.wait_for_line("waiting for the broker", LIMIT);

    assert!(!json_of(dir.path(), &["runs", "--json"]).is_empty());
    let letters = json_of(dir.path(), &["dead-letters", "list", "--json"]);
    assert_eq!(letters.len(), 5);
    let id = letters[0]["id"].to_string();
    let discard = ["dead-letters", "discard", &id, "--note", "x", "--json"];
    assert_eq!(json_of(dir.path(), &discard)[0]["discarded"], 1);
    let asked = json_of(dir.path(), &["dead-letters", "redrive", "--all", "--json"]);
    assert_eq!(asked[0]["letters"], 4);
    let lag = Mb::run_in(dir.path(), &["lag"]);
    let said = String::from_utf8(lag.stderr).unwrap();
    assert_eq!((lag.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    let says = format!("(pid {}) that runs on", mb.pid());
    assert!(said.contains(&says) && said.contains(&server), "{said}");
    mb.term();
    assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
    assert!(!dir.path().join("control.sock").exists());

    // The redrive is made by an mb that has the topic's log.
    let after = ["--client", "embedded", "--until-caught-up", "--step", "discard"];
    let said = Mb::run_in(dir.path(), &after);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let left = ["dead-letters", "list", "--json", "--state", "redriven"];
    assert_eq!(json_of(dir.path(), &left).len(), 4);
}

#[test]
fn fifty_thousand_letters_are_listed_and_redriven_without_memory_for_all_of_them() {
    const LETTERS: usize = 50_000;
    const GROWTH_KIB: u64 = 24 * 1024;
    let dir = tempfile::tempdir().unwrap();
    let base = ["--client", "embedded", "--rate", "1000", "--count", "1", "--partitions", "1"];
    let before = [&base[..], &["--exec", "exit 65", "--until-caught-up"]].concat();
    let said = Mb::run_in(dir.path(), &before);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    // Together their errors have more than is allowed.
    rusqlite::Connection::open(dir.path().join("history.db"))
        .unwrap()
        .execute(
            "WITH RECURSIVE more(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM more WHERE n < ?1 - 1) \
             INSERT INTO dead_letters(scope, run, run_key, topic, partition, record_offset, value, \
             error, attempts, at_ms) SELECT scope, run, run_key, topic, partition, record_offset + n, \
             value, hex(randomblob(500)), attempts, at_ms FROM dead_letters, more",
            [LETTERS],
        )
        .unwrap();
    // An mb that waits has nothing else to do.
    let server = format!("127.0.0.1:{}", crate::support::free_port());
    let mut mb = Mb::start_in(dir.path(), &["--bootstrap-server", &server, "--wait-for-broker"]);
    mb.wait_for_line("waiting for the broker", LIMIT);
    let before = peak_memory_kib(mb.pid());

    let list = ["dead-letters", "list", "--json", "--limit", "1000000"];
    let letters = json_of(dir.path(), &list);
    let ids: Vec<u64> = letters.iter().map(|letter| letter["id"].as_u64().unwrap()).collect();
    assert!(ids.len() == LETTERS && ids.is_sorted_by(|newer, older| newer > older));
    let errors =
        json_of(dir.path(), &["dead-letters", "list", "--by-error", "--json", "--limit", "700"]);
    assert_eq!(errors.len(), 700);
    let named: Vec<String> = ids[..10_000].iter().map(u64::to_string).collect();
    let named: Vec<&str> = named.iter().map(String::as_str).collect();
    let redrive = [&["dead-letters", "redrive", "--json"], &named[..]].concat();
    assert_eq!(json_of(dir.path(), &redrive)[0]["letters"], 10_000);
    let asked = json_of(dir.path(), &["dead-letters", "redrive", "--all", "--json"]);
    assert_eq!(asked[0]["letters"], LETTERS - 10_000);
    let grown = peak_memory_kib(mb.pid()) - before;
    assert!(grown < GROWTH_KIB, "{grown} KiB more than the {before} KiB before");
    mb.term();
    assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
}

/// The most that the process had resident.
fn peak_memory_kib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn systemd_is_told_when_mb_is_ready_and_when_it_stops() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(LIMIT)).unwrap();
    let mut mb = Command::new(env!("CARGO_BIN_EXE_mb"))
        .args(["--client", "embedded", "--rate", "10", "--listen", "off", "--data-dir"])
        .arg(folder.path().join("data"))
        .env("NOTIFY_SOCKET", &path)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let heard = || {
        let mut bytes = [0; 200];
        let length = systemd.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    assert!(heard().contains("READY=1"));
    let pid = rustix::process::Pid::from_raw(mb.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(heard().contains("STOPPING=1"));
    assert!(mb.wait().unwrap().success());
}

#[test]
fn without_time_to_drain_an_mb_that_runs_nothing_ends_well() {
    let dir = tempfile::tempdir().unwrap();
    let base = ["--client", "embedded", "--rate", "max", "--count", "10", "--step", "discard"];
    let done = Mb::run_in(
        dir.path(),
        &[&base[..], &["--until-caught-up", "--drain-timeout", "0"]].concat(),
    );
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn a_hung_step_is_given_up_at_the_drain_limit_and_done_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let marker = dir.path().join("started");
    let hang = format!("touch {}; exec sleep 1000", marker.display());
    let base = ["--client", "embedded", "--rate", "1000", "--count", "10", "--partitions", "1"];
    let mut mb = Mb::start_in(
        dir.path(),
        &[&base[..], &["--exec", &hang, "--drain-timeout", "0.2"]].concat(),
    );
    eventually(LIMIT, "a run hangs", || marker.exists());
    let running = json_of(dir.path(), &["runs", "--state", "running", "--json"]);
    assert_eq!((running.len(), &running[0]["state"]), (1, &"running".into()), "{running:?}");
    mb.term();
    assert_eq!(mb.wait(LIMIT).code(), Some(2));
    let said = mb.stderr().join("\n");
    assert!(said.contains("--drain-timeout") && said.contains("nothing is lost"), "{said}");
    let hung = json_of(dir.path(), &["runs", "--json"]);
    let hung = hung.last().unwrap();
    assert_eq!((&hung["state"], &hung["attempts"]), (&"queued".into(), &0.into()));

    let again = ["--client", "embedded", "--step", "discard", "--until-caught-up"];
    let done = Mb::run_in(dir.path(), &again);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let runs = json_of(dir.path(), &["runs", "--json"]);
    let same = runs.iter().find(|run| run["id"] == hung["id"]).unwrap();
    assert_eq!((&same["key"], &same["state"]), (&hung["key"], &"succeeded".into()));
}

//! Signals as shells, `nohup` and `timeout` send them to the built binary.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::mb::Mb;

const LIMIT: Duration = Duration::from_secs(60);
const READY: &str = "worker(s), batches of";
const JOB: [&str; 4] = ["--client", "embedded", "--rate", "200"];
/// Whoever started the tests may have signals ignored, and mb would inherit that.
const NOT_IGNORED: [&str; 2] = ["env", "--default-signal=HUP,INT,TERM"];
/// mb takes signals within this time as one.
const SAME_STOP: Duration = Duration::from_secs(1);

fn send(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// Whether the process has the signal ignored.
fn ignores(pid: i32, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap() & 1 << (signal.as_raw() - 1) != 0
}

/// mb goes on after the signal, and a SIGTERM ends it well.
fn outlives(mut mb: Mb, ignored: Signal, name: &str) {
    mb.wait_for_line(READY, LIMIT);
    let pid = mb.lock_pid();
    assert!(ignores(pid, ignored), "{name} is ignored");
    send(pid, ignored);
    let before = mb.stderr().len();
    mb.wait_for_line_from(before, "posted", LIMIT);
    send(pid, Signal::TERM);
    mb.wait_for_line("got SIGTERM", LIMIT);
    assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
    assert!(!mb.stderr().join("\n").contains(name), "{name} was never seen");
}

#[test]
fn under_nohup_a_hang_up_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    outlives(Mb::start_by(&["nohup"], dir.path(), &JOB), Signal::HUP, "SIGHUP");
}

#[test]
fn behind_an_ampersand_of_a_script_an_interrupt_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // Without job control a shell has SIGINT ignored in what it starts so.
    let behind = ["sh", "-c", "\"$0\" \"$@\" & wait $!"];
    outlives(Mb::start_by(&behind, dir.path(), &JOB), Signal::INT, "SIGINT");
}

#[test]
fn a_signal_that_is_not_ignored_stops_mb_and_is_named() {
    for (signal, name) in
        [(Signal::HUP, "SIGHUP"), (Signal::INT, "SIGINT"), (Signal::TERM, "SIGTERM")]
    {
        let dir = tempfile::tempdir().unwrap();
        let mut mb = Mb::start_by(&NOT_IGNORED, dir.path(), &JOB);
        mb.wait_for_line(READY, LIMIT);
        mb.signal(signal);
        mb.wait_for_line(&format!("got {name}"), LIMIT);
        assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
    }
}

#[test]
fn the_two_signals_of_timeout_are_one_stop_which_lets_commands_finish() {
    for _ in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        let command = ["--exec", "sleep 0.4; cat > /dev/null"];
        let mut by = Mb::start_by(&["timeout", "60"], dir.path(), &[&JOB[..], &command].concat());
        by.wait_for_line(READY, LIMIT);
        wait_for_attempt(dir.path());
        by.term();
        assert_eq!(by.wait(LIMIT).code(), Some(0), "{}", by.stderr().join("\n"));
        assert!(by.stderr().join("\n").contains("0 run(s) failed"));
    }
}

/// Waits until a command runs.
fn wait_for_attempt(data_dir: &Path) {
    crate::support::eventually(LIMIT, "a run is with a worker", || {
        let listed = Mb::run_in(data_dir, &["runs", "--state", "running", "--json"]);
        serde_json::from_slice::<Vec<Value>>(&listed.stdout).is_ok_and(|runs| !runs.is_empty())
    });
}

#[test]
fn a_signal_a_second_later_forces_the_stop_and_one_at_once_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let hang = [&JOB[..], &["--exec", "exec sleep 1000"]].concat();
    let mut mb = Mb::start_by(&NOT_IGNORED, dir.path(), &hang);
    wait_for_attempt(dir.path());
    mb.signal(Signal::TERM);
    mb.wait_for_line("got SIGTERM", LIMIT);
    mb.signal(Signal::INT);
    mb.wait_for_line("got SIGINT as well", LIMIT);
    assert!(mb.try_wait().is_none(), "the runs have their time");
    thread::sleep(SAME_STOP);
    mb.signal(Signal::INT);
    assert_eq!(mb.wait(LIMIT).code(), Some(2), "{}", mb.stderr().join("\n"));
    let said = mb.stderr().join("\n");
    assert!(
        said.contains("a second stop was requested") && said.contains("nothing is lost"),
        "{said}"
    );
}

#[test]
fn exit_codes_are_known_although_mb_was_started_with_sigchld_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let job = [
        &["--client", "embedded", "--rate", "100", "--count", "5", "--partitions", "1"][..],
        &["--until-caught-up", "--exec", "exit 3", "--max-attempts", "1"],
        &["--on-outage", "dead-letter"],
    ];
    let by = ["env", "--ignore-signal=CHLD"];
    let mut mb = Mb::start_by(&by, dir.path(), &job.concat());
    assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
    let listed = Mb::run_in(dir.path(), &["runs"]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("exit code 3"), "{listed}");
}

//! What commands leave behind in the built binary, and what it hands on to them: processes and descriptors.
//!
//! A PID namespace of its own needs root.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::support::eventually;
use crate::support::mb::Mb;

const LIMIT: Duration = Duration::from_secs(60);
const RUNS: usize = 40;

/// State, parent and name of a process.
fn stat(pid: i32) -> Option<(char, i32, String)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses, and may hold anything.
    let (before, behind) = stat.rsplit_once(')')?;
    let mut words = behind.split_whitespace();
    let state = words.next()?.chars().next()?;
    let name = before.split_once('(')?.1.to_owned();
    Some((state, words.next()?.parse().ok()?, name))
}

/// Processes with this parent.
fn children(parent: i32) -> Vec<(char, String)> {
    let entries = fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let stats = pids.filter_map(stat);
    stats.filter(|(_, of, _)| *of == parent).map(|(state, _, name)| (state, name)).collect()
}

/// A job of `RUNS` runs of one message each, which goes on once they are done.
fn job(command: &str) -> [&str; 12] {
    let job = ["--client", "embedded", "--rate", "1000", "--count", "40", "--max-batch", "1"];
    let [a, b, c, d, e, f, g, h] = job;
    [a, b, c, d, e, f, g, h, "--exec", command, "--max-attempts", "1"]
}

fn wait_until_done(data_dir: &Path) {
    eventually(LIMIT, "all runs have succeeded", || {
        let args = ["runs", "--state", "succeeded", "--json", "--limit", "1000"];
        let listed = Mb::run_in(data_dir, &args).stdout;
        serde_json::from_slice::<Vec<Value>>(&listed).is_ok_and(|runs| runs.len() == RUNS)
    });
}

fn no_zombie_stays(mb: i32) {
    eventually(LIMIT, "mb has no child any more, dead or alive", || children(mb).is_empty());
}

#[test]
fn as_the_first_process_of_a_namespace_no_zombie_stays() {
    let is_root = rustix::process::geteuid().is_root();
    assert!(is_root, "this test needs root, for a PID namespace of its own");
    let dir = tempfile::tempdir().unwrap();
    let by = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    let mb = Mb::start_by(&by, dir.path(), &job("(sleep 0.3 &) ; cat >/dev/null"));
    wait_until_done(dir.path());
    assert_eq!(mb.lock_pid(), 1);
    let [only] = pids_of_children(mb.pid())[..] else { panic!("unshare has one child") };
    no_zombie_stays(only);
}

fn pids_of_children(parent: i32) -> Vec<i32> {
    let of = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    of.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

#[test]
fn what_commands_leave_behind_becomes_mbs_child_and_is_gone_when_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    // It leaves the group, and with it mb's reach; the pipes must not hold it.
    let daemon = "setsid sleep 1.5 >/dev/null 2>&1 & exit 0";
    let mb = Mb::start_in(dir.path(), &job(daemon));
    let is_sleep = |(_, name): &(char, String)| name == "sleep";
    eventually(LIMIT, "mb has adopted one", || children(mb.pid()).iter().any(is_sleep));
    wait_until_done(dir.path());
    no_zombie_stays(mb.pid());
}

#[test]
fn reaping_takes_no_commands_end_from_the_worker_that_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    // Orphans end at the same moments as commands do. Every exit code but 0 would make dead letters.
    let job = [
        &["--client", "embedded", "--rate", "max", "--count", "400", "--max-batch", "1"][..],
        &["--exec", "(true &) ; (true &) ; exit 0", "--max-attempts", "1", "--until-caught-up"],
    ];
    let mut mb = Mb::start_in(dir.path(), &job.concat());
    assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
    let said = mb.stderr().join("\n");
    assert!(said.contains("400 record(s) in 400 run(s) processed, 0 run(s) failed"), "{said}");
}

#[test]
fn a_command_gets_its_three_streams_and_no_other_descriptor() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("list");
    // One that mb was given, and would hand on, as it would librdkafka's.
    let command = format!("ls /proc/self/fd > {}", list.display());
    let job = [
        &["--client", "embedded", "--rate", "100", "--count", "1", "--until-caught-up"][..],
        &["--exec", &command],
    ];
    let data_dir = dir.path().join("data");
    let mut mb = Mb::start_under("exec 7< /dev/null", &data_dir, &job.concat());
    assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
    // `ls` has a fourth one: the folder.
    let listed = fs::read_to_string(&list).unwrap();
    assert_eq!(listed.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
}

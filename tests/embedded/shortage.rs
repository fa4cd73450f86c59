//! Too few descriptors for all workers: as many commands as there is room for go on.

use std::time::Duration;

use serde_json::Value;

use crate::support::eventually;
use crate::support::http::Http;
use crate::support::mb::Mb;

const LIMIT: Duration = Duration::from_secs(60);

fn succeeded(mb: &Mb) -> usize {
    let args = ["runs", "--state", "succeeded", "--json", "--limit", "100000"];
    let output = Mb::run_in(mb.data_dir(), &args);
    let said = String::from_utf8_lossy(&output.stderr);
    // mb itself opens the history for this, for which there may be no descriptor at the moment.
    if said.contains("Too many open files") {
        return 0;
    }
    assert!(output.status.success(), "{said}");
    serde_json::from_slice::<Vec<Value>>(&output.stdout).unwrap().len()
}

/// Under a limit of `descriptors`, `workers` take commands of 50 ms; returns what mb said until `runs` were done.
fn goes_on(descriptors: u32, workers: &str, runs: usize) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let job = [
        &["--client", "embedded", "--rate", "500", "--max-batch", "1", "--listen", "0"][..],
        &["--max-concurrent-runs", workers, "--exec", "sleep 0.05; cat > /dev/null"],
    ];
    let before = format!("ulimit -n {descriptors}");
    let mut mb = Mb::start_under(&before, dir.path(), &job.concat());
    let http = Http::of(&mb);
    mb.wait_for_line("cannot run the command: Too many open files", LIMIT);
    eventually(LIMIT, "runs succeed", || succeeded(&mb) >= runs);
    // The page and the socket answer meanwhile.
    for _ in 0..10 {
        assert_eq!(http.get("/healthz").status, 200);
        // Far too few workers can work: mb may be behind, and say so.
        let status = Mb::run_in(mb.data_dir(), &["status"]).status.code();
        assert!(matches!(status, Some(0 | 75)), "{status:?}");
    }
    mb.term();
    assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
    let said = mb.stderr();
    let summary = said.last().unwrap();
    assert!(summary.contains("0 run(s) failed"), "{summary}");
    said
}

fn count(said: &[String], text: &str) -> usize {
    said.iter().filter(|line| line.contains(text)).count()
}

#[test]
fn with_descriptors_for_a_few_of_forty_workers_those_go_on_and_it_is_said_once() {
    let said = goes_on(64, "40", 150);
    assert_eq!(count(&said, "cannot run the command"), 1, "{}", said.join("\n"));
    assert_eq!(count(&said, "can run commands again"), 0, "{}", said.join("\n"));
}

#[test]
fn with_very_few_descriptors_one_command_at_a_time_goes_on() {
    goes_on(40, "8", 20);
}

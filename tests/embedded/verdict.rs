//! The verdict of a running mb: that it names what holds mb up, and that following its advice helps. The built
//! binary with the embedded topic; how a verdict follows from figures is tested beside `observe::watch::verdict`.

use std::time::Duration;

use crate::support::eventually_some;
use crate::support::http::Http;
use crate::support::mb::Mb;
use mb::api::operations::Operation;
use mb::api::operations::overview::GetOverview;
use mb::api::operations::settings::ChangeSettings;
use mb::api::request::Request;
use mb::api::socket::Client;
use mb::observe::overview::{Overview, VerdictState};

const LIMIT: Duration = Duration::from_secs(90);

/// 500 records/s for a step that gets 10 of them at once and takes that long.
fn start(step_delay: &str, more: &[&str]) -> Mb {
    let flow = ["--client", "embedded", "--listen", "0", "--rate", "500", "--max-batch", "10"];
    Mb::start(&[&flow[..], &["--step-delay", step_delay], more].concat())
}

fn perform<O: Operation + Into<Request>>(mb: &Mb, operation: O) -> Option<O::Answer> {
    Client::connect(mb.data_dir()).ok()??.perform(operation).ok()
}

fn overview_with(mb: &Mb, what: &str, mut wanted: impl FnMut(&Overview) -> bool) -> Overview {
    eventually_some(LIMIT, what, || perform(mb, GetOverview {}).filter(&mut wanted))
}

fn behind(mb: &Mb, advice: &str) -> (Overview, String) {
    let has =
        |seen: &Overview| seen.verdict.advice.as_ref().is_some_and(|said| said.contains(advice));
    let seen = overview_with(mb, "mb falls behind, with advice", |seen| {
        seen.verdict.state == VerdictState::FallingBehind && has(seen)
    });
    assert!(!seen.verdict.ready);
    let advice = seen.verdict.advice.clone().unwrap();
    (seen, advice)
}

/// The number that follows these words.
fn number_after(words: &str, text: &str) -> u64 {
    let rest = text.split(words).nth(1).unwrap_or_else(|| panic!("no {words:?} in {text:?}"));
    let digits: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == ',').collect();
    digits
        .replace(',', "")
        .parse()
        .unwrap_or_else(|_| panic!("no number after {words:?}: {text:?}"))
}

/// For three seconds in a row.
fn keeps_up_again(mb: &Mb) {
    let mut since: Option<i64> = None;
    overview_with(mb, "mb keeps up", |seen| {
        let keeps_up = seen.verdict.state == VerdictState::KeepingUp;
        let is_young = seen.lag.seconds.is_some_and(|seconds| seconds <= 5.0);
        let from = if keeps_up && is_young { *since.get_or_insert(seen.now_ms) } else { i64::MAX };
        if from == i64::MAX {
            since = None;
        }
        seen.now_ms >= from.saturating_add(3000)
    });
}

#[test]
fn too_few_workers_are_named_everywhere_and_as_many_as_advised_keep_up() {
    let mb = start("100ms", &["--max-concurrent-runs", "2"]);
    let (seen, advice) = behind(&mb, "set max-concurrent-runs to ");
    assert!(seen.verdict.headline.starts_with("Falling behind: "), "{}", seen.verdict.headline);
    assert!(advice.contains("; 2 workers × "), "{advice}");
    // 2 workers with 10 records at most in 0.1 s at least do 200/s at most.
    assert!(number_after("s = ", &advice) <= 200, "{advice}");
    let http = Http::of(&mb);
    let ready = http.get("/readyz");
    assert_eq!((ready.status, &ready.json()["state"]), (503, &"falling-behind".into()));
    let metrics = http.get("/metrics").text();
    let is_it =
        |line: &str| line.starts_with("mb_verdict{") && line.ends_with("\"falling-behind\"} 1");
    assert!(metrics.lines().any(is_it), "{metrics}");
    let status = Mb::run_in(mb.data_dir(), &["status"]);
    assert_eq!(status.status.code(), Some(75));
    let shown = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(shown.contains("Falling behind: ") && shown.contains("  > arriving "), "{shown}");

    let workers = number_after("set max-concurrent-runs to ", &advice);
    let more = ChangeSettings { max_concurrent_runs: Some(workers), ..ChangeSettings::default() };
    perform(&mb, more).expect("the setting is changed");
    keeps_up_again(&mb);
    assert_eq!(http.get("/readyz").status, 200);
}

#[test]
fn where_the_order_forbids_more_runs_larger_batches_are_advised_and_keep_up() {
    let mb = start("300ms", &["--max-concurrent-runs", "5", "--order", "partition"]);
    let each = "with order partition each of the 4 partitions has one run at a time";
    let (_, advice) = behind(&mb, each);
    assert!(advice.contains("raise max-batch above 10"), "{advice}");
    let larger = ChangeSettings { max_batch: Some(500), ..ChangeSettings::default() };
    perform(&mb, larger).expect("the setting is changed");
    // Now batches are cut because they do not wait: at 125 records/s of each partition.
    let (_, advice) = behind(&mb, "set max-wait to ");
    let wait = advice.split("set max-wait to ").nth(1).unwrap().split(" s or more").next().unwrap();
    let wait: f64 = wait.parse().unwrap_or_else(|_| panic!("no seconds in {advice:?}"));
    let longer = ChangeSettings { max_wait_s: Some(wait), ..ChangeSettings::default() };
    perform(&mb, longer).expect("the setting is changed");
    keeps_up_again(&mb);
}

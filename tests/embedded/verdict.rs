//! The verdict of a running mb: that it names what holds mb up, and that following its advice helps. The built
//! binary with the embedded topic; how a verdict follows from figures is tested beside `observe::watch::verdict`.

use std::time::Duration;

use crate::support::eventually_some;
use crate::support::mb::Mb;
use mb::api::operations::Operation;
use mb::api::operations::overview::{GetOverview, GetSeries};
use mb::api::operations::settings::ChangeSettings;
use mb::api::request::Request;
use mb::api::socket::Client;
use mb::observe::overview::{Overview, VerdictState};

const LIMIT: Duration = Duration::from_secs(90);

/// 500 records/s for a step of 100 ms that gets 10 of them at once.
fn start(more: &[&str]) -> Mb {
    let flow =
        ["--client", "embedded", "--listen", "off", "--rate", "500", "--step-delay", "100ms"];
    let batches = ["--max-batch", "10", "--tick-interval", "0"];
    Mb::start(&[&flow[..], &batches, more].concat())
}

fn perform<O: Operation + Into<Request>>(mb: &Mb, operation: O) -> Option<O::Answer> {
    Client::connect(mb.data_dir()).ok()??.perform(operation).ok()
}

fn overview_with(mb: &Mb, what: &str, wanted: impl Fn(&Overview) -> bool) -> Overview {
    eventually_some(LIMIT, what, || perform(mb, GetOverview {}).filter(&wanted))
}

fn behind(mb: &Mb) -> (Overview, String) {
    let seen = overview_with(mb, "mb falls behind, with advice", |seen| {
        seen.verdict.state == VerdictState::FallingBehind && seen.verdict.advice.is_some()
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

fn keeps_up_again(mb: &Mb) {
    overview_with(mb, "mb keeps up", |seen| {
        seen.verdict.state == VerdictState::KeepingUp && seen.lag.seconds <= Some(2.0)
    });
}

#[test]
fn too_few_workers_are_named_and_as_many_as_advised_keep_up() {
    let mb = start(&["--max-concurrent-runs", "2"]);
    let (seen, advice) = behind(&mb);
    assert!(seen.verdict.headline.starts_with("Falling behind: "), "{}", seen.verdict.headline);
    assert!(seen.rates.records_arriving > Some(300.0), "{:?}", seen.rates);
    assert!(advice.contains("; 2 workers × ") && advice.contains(" records ÷ 0.1"), "{advice}");
    let workers = number_after("set max-concurrent-runs to ", &advice);
    let more = ChangeSettings {
        rate: None,
        max_batch: None,
        max_concurrent_runs: Some(workers),
        tick_interval_s: None,
    };
    perform(&mb, more).expect("the setting is changed");
    let caught = overview_with(&mb, "it catches up", |seen| {
        matches!(seen.verdict.state, VerdictState::CatchingUp | VerdictState::KeepingUp)
    });
    assert!(caught.verdict.ready);
    keeps_up_again(&mb);
    let samples = perform(&mb, GetSeries {}).expect("samples").samples;
    assert!(samples.last().unwrap().records_arriving > Some(0.0));
}

#[test]
fn where_the_order_forbids_more_runs_larger_batches_are_advised_and_keep_up() {
    let mb = start(&["--max-concurrent-runs", "5", "--order", "partition"]);
    let (_, advice) = behind(&mb);
    assert!(
        advice.contains("order partition lets one run of each of the 4 partitions"),
        "{advice}"
    );
    assert!(advice.contains("raise max-batch"), "{advice}");
    let larger = ChangeSettings {
        rate: None,
        max_batch: Some(50),
        max_concurrent_runs: None,
        tick_interval_s: None,
    };
    perform(&mb, larger).expect("the setting is changed");
    keeps_up_again(&mb);
}

//! What is seen of a running pipeline: the overview, lag, what is stuck, how fresh the data is. Over
//! the embedded topic, asked through the control socket as the page's server asks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::support::mb::Mb;
use crate::support::world::{Recorder, TOPIC, World};
use crate::support::{eventually, eventually_some, free_port};
use mb::api::metrics::GetMetrics;
use mb::api::operations::Operation;
use mb::api::operations::overview::{GetLag, GetOverview, GetSeries, ListTicks};
use mb::api::operations::runs::{CountRuns, ListRuns};
use mb::api::request::Request;
use mb::api::socket::Client;
use mb::history::query::{RunRow, Selection, TickSelection};
use mb::kafka::Broker;
use mb::kafka::embedded::{Call, Faults};
use mb::model::offset::Offset;
use mb::observe::overview::Overview;
use mb::step::StepError;
use mb::{Config, Pipeline, Stopper, Summary};

const LIMIT: Duration = Duration::from_secs(60);

/// A pipeline on a thread of its own, until it is dropped.
struct Running {
    dir: std::path::PathBuf,
    stopper: Stopper,
    thread: Option<JoinHandle<mb::Result<Summary>>>,
}

impl Running {
    fn start(world: &World, config: Config, step: &Arc<Recorder>) -> Running {
        Running::on(world, Arc::new(world.topics.clone()), config, step)
    }

    fn on(world: &World, broker: Arc<dyn Broker>, config: Config, step: &Arc<Recorder>) -> Running {
        let config = Config { until_caught_up: false, ..config };
        let (stopper, stop) = Stopper::new();
        let pipeline = Pipeline::new(config, Arc::<Recorder>::clone(step)).with_broker(broker);
        let thread = Some(thread::spawn(move || pipeline.run(&stop)));
        let running = Running { dir: world.dir.path().to_owned(), stopper, thread };
        let begun = || running.try_perform(GetOverview {});
        eventually(LIMIT, "mb runs", || begun().is_some_and(|seen| seen.waiting_for.is_none()));
        running
    }

    fn try_perform<O: Operation + Into<Request>>(&self, operation: O) -> Option<O::Answer> {
        Client::connect(&self.dir).ok()??.perform(operation).ok()
    }

    fn perform<O: Operation + Into<Request>>(&self, operation: O) -> O::Answer {
        Client::connect(&self.dir).unwrap().expect("mb runs").perform(operation).unwrap()
    }

    fn overview(&self) -> Overview {
        self.perform(GetOverview {})
    }

    /// The first overview that is as `wanted`.
    fn overview_with(&self, what: &str, wanted: impl Fn(&Overview) -> bool) -> Overview {
        eventually_some(LIMIT, what, || Some(self.overview()).filter(&wanted))
    }

    fn end(mut self) -> Summary {
        self.stopper.stop();
        self.thread.take().unwrap().join().unwrap().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stopper.stop();
        self.stopper.stop();
    }
}

/// Steps wait while it is shut.
#[derive(Default)]
struct Gate(AtomicBool);

impl Gate {
    fn recorder(self: &Arc<Gate>) -> Arc<Recorder> {
        let gate = Arc::clone(self);
        Recorder::new(move |_| {
            eventually(LIMIT, "the gate opens", || gate.0.load(Ordering::Acquire));
            Ok(())
        })
    }

    fn open(&self) {
        self.0.store(true, Ordering::Release);
    }
}

fn reasons(overview: &Overview) -> Vec<&str> {
    overview.verdict.reasons.iter().map(|reason| reason.reason.as_str()).collect()
}

#[test]
fn a_partition_that_makes_no_progress_is_seen_with_what_is_stuck_where_and_so_is_its_end() {
    let world = World::new();
    for n in 0..10 {
        world.post(1, format!("{n}").as_bytes());
    }
    let gate = Arc::new(Gate::default());
    let config = Config { stall_after: Duration::from_secs(1), ..world.config() };
    let mb = Running::start(&world, config, &gate.recorder());
    let stuck = mb.overview_with("stalled", |seen| reasons(seen) == ["stalled"]);
    assert!(!stuck.verdict.ready);
    let detail = &stuck.verdict.reasons[0].detail;
    assert!(detail.contains("partition orders/1 has made no progress for"), "{detail}");
    assert!(detail.contains("offset 0 with a lag of 10; run 1 (orders/1/0-6)"), "{detail}");
    assert_eq!((stuck.lag.total, stuck.lag.partitions), (Some(10), 3));
    assert!(stuck.lag.seconds >= Some(1.0), "{:?}", stuck.lag);
    let most = &stuck.lag.top[0];
    assert_eq!((most.partition, most.lag, most.in_flight, most.end), (1, 10, 2, 10));
    assert!(most.stuck_s >= Some(1.0) && stuck.lag.top[1].stuck_s.is_none());
    let busy: Vec<_> = stuck.workers.iter().filter_map(|worker| worker.run.as_ref()).collect();
    assert_eq!((stuck.workers.len(), busy.len()), (5, 2));
    assert!(busy.iter().any(|run| run.key == "orders/1/0-6" && run.running_s > 0.9));

    gate.open();
    let over = mb.overview_with("ready", |seen| seen.verdict.ready && seen.lag.total == Some(0));
    assert_eq!(over.lag.top[0].lag_s, Some(0.0));
    assert_eq!(over.lag.catch_up_s, None, "there is nothing to catch up with");
    assert_eq!(mb.end().records_processed, 10);
}

#[test]
fn the_overview_counts_what_came_and_what_is_done() {
    let world = World::with_records(10);
    let mb = Running::start(&world, world.config(), &Recorder::new(|_| Ok(())));
    let seen = mb.overview_with("all is done", |seen| {
        seen.totals.records_done == 30 && seen.lag.total == Some(0) && seen.newest_runs.len() >= 6
    });
    assert_eq!((seen.totals.records_in, seen.totals.runs_failed), (30, 0));
    assert!(seen.totals.bytes_in == 3 * 30 && seen.totals.bytes_done == seen.totals.bytes_in);
    assert_eq!(
        (seen.topic.as_str(), seen.group.as_str(), seen.step.as_str()),
        (TOPIC, "mb", "recorder")
    );
    assert_eq!(seen.pid, std::process::id());
    assert!(seen.memory_bytes > 1 << 20 && seen.last_commit_ms.is_some());
    assert!(seen.broker.contains("embedded"), "{}", seen.broker);
    assert_eq!(seen.settings.max_batch.value, 7);
    assert!(seen.verdict.ready && seen.freshness.is_none());
    let timed =
        |run: &RunRow| run.read_ms.is_some() && run.wait_ms.is_some() && run.run_ms.is_some();
    assert!(seen.newest_runs.iter().all(|run| run.state == "succeeded" && timed(run)));
    assert_eq!(seen.latency, None, "all of it was there before");
    world.post(0, b"new");
    let seen = mb.overview_with("a latency", |seen| seen.latency.is_some());
    let latency = seen.latency.unwrap();
    assert_eq!(latency.records, 1);
    assert!(0.0 < latency.p50_s && latency.p50_s <= latency.p99_s && latency.p99_s < 60.0);

    let lag = mb.perform(GetLag {});
    let numbers: Vec<_> = lag.top.iter().map(|row| (row.partition, row.end, row.cursor)).collect();
    assert_eq!(numbers, [(0, 11, 11), (1, 10, 10), (2, 10, 10)]);
    let counts = mb.perform(CountRuns {});
    assert_eq!((counts.succeeded, counts.queued, counts.running), (7, 0, 0));
    let busy = || TickSelection { busy: true, limit: 10, ..TickSelection::default() };
    let ticks = eventually_some(LIMIT, "the tick is written", || {
        Some(mb.perform(ListTicks(busy()))).filter(|ticks| !ticks.is_empty())
    });
    assert!(ticks.iter().map(|tick| tick.records).sum::<u64>() >= 30);
    eventually(LIMIT, "two samples", || mb.perform(GetSeries {}).samples.len() >= 2);
    mb.end();
}

#[test]
fn a_queued_run_is_not_listed_as_queued_while_it_runs() {
    let world = World::with_records(10);
    let gate = Arc::new(Gate::default());
    let config = Config { max_concurrent_runs: 1, ..world.config() };
    let mb = Running::start(&world, config, &gate.recorder());
    let of = |state: &str| {
        let state = Some(state.to_owned());
        ListRuns(Selection { state, limit: 50, ..Selection::default() })
    };
    eventually(LIMIT, "one runs, five wait", || {
        let counts = mb.perform(CountRuns {});
        (counts.running, counts.queued) == (1, 5)
    });
    let running = mb.perform(of("running"));
    let queued = mb.perform(of("queued"));
    assert_eq!((running.len(), queued.len()), (1, 5));
    assert!(queued.iter().all(|run| run.state == "queued" && run.id != running[0].id));
    assert!(running[0].state == "running" && running[0].worker == Some(0));
    gate.open();
    mb.end();
}

#[test]
fn data_older_than_the_policy_is_not_fresh() {
    let world = World::with_records(1);
    let gate = Arc::new(Gate::default());
    let config = Config { freshness: Some(Duration::from_secs(1)), ..world.config() };
    let mb = Running::start(&world, config, &gate.recorder());
    let stale = mb.overview_with("stale", |seen| reasons(seen) == ["freshness"]);
    let freshness = stale.freshness.unwrap();
    assert!(freshness.policy_s == 1.0 && freshness.age_s > Some(1.0) && !freshness.fresh);
    gate.open();
    let fresh = mb.overview_with("fresh", |seen| seen.verdict.ready);
    assert!(fresh.freshness.unwrap().fresh);
    mb.end();
}

#[test]
fn a_step_that_always_fails_is_a_reason_with_its_error() {
    let world = World::with_records(10);
    let works = Arc::new(Mutex::new(false));
    let step = {
        let works = Arc::clone(&works);
        Recorder::new(move |_| match *works.lock().unwrap() {
            true => Ok(()),
            false => Err(StepError::Retry("no table of that name".into())),
        })
    };
    let mb = Running::start(&world, world.config(), &step);
    let failing = mb.overview_with("the step fails", |seen| reasons(seen).contains(&"step"));
    let detail = &failing.verdict.reasons[0].detail;
    assert!(detail.ends_with("all failed, the newest with: no table of that name"), "{detail}");
    mb.overview_with("dead letters", |seen| seen.dead_letters_open == 30);
    *works.lock().unwrap() = true;
    world.post(0, b"more");
    mb.overview_with("it works again", |seen| seen.verdict.ready);
    mb.end();
}

#[test]
fn a_log_that_does_not_answer_is_said_and_the_samples_go_on() {
    let world = World::with_records(3);
    let faults = Faults::new(1);
    let broker = Arc::new(world.topics.with_faults(faults.clone()));
    let mb = Running::on(&world, broker, world.config(), &Recorder::new(|_| Ok(())));
    mb.overview_with("the lag is known", |seen| seen.lag.total == Some(0));
    faults.fail_next(Call::Watermarks, 1000);
    let lost = mb.overview_with("it is said", |seen| seen.lag.error.is_some());
    assert_eq!(lost.lag.top.len(), 3, "what was known last");
    let before = mb.perform(GetSeries {}).samples.len();
    let unknown = mb.overview_with("it is not known any more", |seen| seen.lag.total.is_none());
    assert!(unknown.lag.at_ms < Some(unknown.now_ms) && unknown.lag.seconds.is_none());
    assert!(unknown.rates.records_arriving.is_none());
    let metrics = mb.perform(GetMetrics {});
    assert!(!metrics.contains("\nkafka_consumergroup_lag{"), "an old value looks like a new one");
    assert!(metrics.contains("\nkafka_consumergroup_current_offset{"), "{metrics}");
    let samples = mb.perform(GetSeries {}).samples;
    assert!(samples.len() > before && samples.last().unwrap().lag.is_none());
    faults.heal();
    mb.overview_with("it is known again", |seen| {
        seen.lag.total == Some(0) && seen.lag.error.is_none()
    });
    mb.end();
    assert_eq!(world.committed("mb")[&0], Offset::new(3));
}

#[test]
fn while_mb_waits_for_its_broker_the_overview_says_for_what() {
    let server = format!("localhost:{}", free_port());
    let mb = Mb::start(&["--wait-for-broker", "--bootstrap-server", &server]);
    let ask = || Client::connect(mb.data_dir()).ok()??.perform(GetOverview {}).ok();
    let seen = eventually_some(LIMIT, "an overview", ask);
    assert_eq!(seen.waiting_for, Some(format!("its broker at {server}")));
    assert_eq!((reasons(&seen), seen.verdict.ready), (vec!["starting"], false));
    assert!(seen.workers.is_empty() && seen.lag.total.is_none() && seen.newest_runs.is_empty());
    assert_eq!(seen.settings.max_concurrent_runs.value, 5);
    mb.term();
}

#[test]
fn a_stall_is_one_warning_in_the_log() {
    let args = [
        "--client",
        "embedded",
        "--rate",
        "100",
        "--count",
        "10",
        "--exec",
        "sleep 60",
        "--stall-after",
        "1s",
        "--drain-timeout",
        "1s",
    ];
    let mut mb = Mb::start(&args);
    let line = mb.wait_for_line("has made no progress for", LIMIT);
    assert!(line.contains("WARN") && line.contains("has been in its step on worker-"), "{line}");
    mb.term();
    mb.wait(LIMIT);
}

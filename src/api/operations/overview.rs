//! What mb is doing now: the overview, lag, the last 15 minutes, ticks, and the metrics' text.
//!
//! The figures come from `observe::watch` (what its threads found last), from `live` (counters) and from the
//! history.

use std::fs;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Operation;
use crate::api::context::{Context, Process, RunningPipeline, Stage, Status};
use crate::api::overview_cache::{FromHistory, SharedOverview};
use crate::api::session::Session;
use crate::config::limits;
use crate::config::steering::settings_view;
use crate::history::query::{self, TickRow, TickSelection};
use crate::model::clock;
use crate::model::error::Result;
use crate::model::live::{Live, Running};
use crate::observe::overview::{
    HealthView, HoldView, LagView, Overview, QueueView, Rates, RunningView, SensorView, Series,
    Totals, WorkerView,
};
use crate::observe::watch::{starting, verdict};

/// Which topic mb reads, from where.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct GetStatus {}

impl Operation for GetStatus {
    type Answer = Status;

    fn perform(self, context: &Context, _: &mut Session) -> Result<Status> {
        match &*context.stage() {
            Stage::Starting(status) | Stage::Running(status, _) => Ok(status.clone()),
            Stage::Stopped => Err(context.not_running()),
        }
    }
}

/// Everything that one look shows, made at most once per `limits::OVERVIEW_INTERVAL`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct GetOverview {}

impl Operation for GetOverview {
    type Answer = Overview;

    fn perform(self, context: &Context, _: &mut Session) -> Result<Overview> {
        Ok(Overview::clone(&*shared_overview(context)?))
    }
}

/// A sample of each of the last 900 seconds, the oldest first.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct GetSeries {}

impl Operation for GetSeries {
    type Answer = Series;

    fn perform(self, context: &Context, _: &mut Session) -> Result<Series> {
        let samples = context.of_pipeline(|pipeline| pipeline.watch.samples());
        Ok(Series { samples: samples.unwrap_or_default() })
    }
}

/// The lag, with every partition by number.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct GetLag {}

impl Operation for GetLag {
    type Answer = LagView;

    fn perform(self, context: &Context, _: &mut Session) -> Result<LagView> {
        let found = context.of_pipeline(|pipeline| pipeline.watch.found()).flatten();
        Ok(found.map_or_else(LagView::default, |found| found.lag.clone()))
    }
}

/// The newest ticks, at most `limits::LIST_ROWS`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ListTicks(pub TickSelection);

impl Operation for ListTicks {
    type Answer = Vec<TickRow>;

    fn perform(self, context: &Context, session: &mut Session) -> Result<Vec<TickRow>> {
        let mut selection = self.0;
        selection.limit = selection.limit.min(limits::LIST_ROWS);
        query::ticks(context.history(session)?, &selection)
    }
}

/// The newest overview, which all clients share.
///
/// # Errors
/// `Other` if it cannot be written as JSON, or if mb is not running.
pub fn shared_overview(context: &Context) -> Result<Arc<Overview>> {
    Ok(shared(context)?.overview)
}

/// The same as JSON.
///
/// # Errors
/// As `shared_overview`.
pub fn overview_json(context: &Context) -> Result<Arc<[u8]>> {
    Ok(shared(context)?.json)
}

fn shared(context: &Context) -> Result<SharedOverview> {
    let process = context.process()?;
    let running = context.running();
    process.overview.get(context.data_dir(), &running, |history| make(context, process, history))
}

fn make(context: &Context, process: &Process, history: &FromHistory) -> Overview {
    let stage = context.stage();
    let (status, pipeline) = match &*stage {
        Stage::Running(status, pipeline) => (status, Some(pipeline)),
        Stage::Starting(status) => (status, None),
        Stage::Stopped => unreachable!("a process that runs has a status"),
    };
    let found = pipeline.and_then(|pipeline| pipeline.watch.found());
    let waiting_for = status.waiting_for.as_deref();
    let steering = pipeline.map_or(&process.at_start, |pipeline| &*pipeline.engine.steering);
    let broker = match pipeline {
        Some(pipeline) => pipeline.engine.broker.describe(),
        None => waiting_for.map_or_else(String::new, |what| format!("waiting for {what}")),
    };
    let verdict = match &found {
        Some(found) => verdict(&found.facts, &status.topic, history.dead_letters_open),
        None => starting(waiting_for),
    };
    Overview {
        version: status.version.clone(),
        pid: status.pid,
        now_ms: clock::now_ms(),
        started_ms: process.started_ms,
        topic: status.topic.clone(),
        group: status.group.clone(),
        client: status.client.clone(),
        broker,
        step: process.step.clone(),
        waiting_for: status.waiting_for.clone(),
        sensor: SensorView { paused: steering.is_paused(), ..process.sensors.clone() },
        settings: settings_view(steering),
        totals: pipeline.map_or_else(Totals::default, |pipeline| totals(&pipeline.engine.live)),
        rates: found.as_ref().map_or_else(Rates::default, |found| found.rates),
        latency: found.as_ref().and_then(|found| found.latency),
        lag: found.as_ref().map_or_else(LagView::default, |found| most_lag(&found.lag)),
        queue: pipeline.map_or_else(QueueView::default, queue),
        hold: pipeline.and_then(hold),
        workers: pipeline.map_or_else(Vec::new, |pipeline| {
            workers(pipeline.engine.live.running(), steering.settings().max_concurrent_runs)
        }),
        dead_letters_open: history.dead_letters_open,
        last_commit_ms: pipeline.and_then(|pipeline| pipeline.engine.live.last_commit_ms()),
        memory_bytes: memory_bytes(),
        freshness: found.as_ref().and_then(|found| found.facts.freshness),
        health: HealthView { ready: verdict.ready, reasons: verdict.reasons.clone() },
        verdict,
        newest_runs: history.newest_runs.clone(),
        ticks: history.ticks.clone(),
    }
}

fn hold(pipeline: &RunningPipeline) -> Option<HoldView> {
    let held = pipeline.engine.queue.held()?;
    let now = clock::now();
    Some(HoldView {
        for_s: now.saturating_duration_since(held.since).as_secs_f64(),
        cause: held.cause,
        runs: pipeline.engine.queue.failed_runs().len() as u64,
        probes: held.probes,
        next_probe_s: held.next_probe.saturating_duration_since(now).as_secs_f64(),
    })
}

/// The lag, with only the partitions that have most of it.
fn most_lag(lag: &LagView) -> LagView {
    let mut top = lag.top.clone();
    top.sort_by_key(|partition| (std::cmp::Reverse(partition.lag), partition.partition));
    top.truncate(limits::OVERVIEW_PARTITIONS);
    LagView { top, error: lag.error.clone(), ..*lag }
}

/// The counters since mb started.
pub fn totals(live: &Live) -> Totals {
    Totals {
        records_in: live.records_in.get(),
        bytes_in: live.bytes_in.get(),
        records_done: live.records_done(),
        bytes_done: live.bytes_done.get(),
        runs_succeeded: live.runs_succeeded.get(),
        runs_failed: live.runs_failed.get(),
        runs_halted: live.runs_halted.get(),
        runs_split: live.runs_split.get(),
        attempts_failed: live.attempts_failed.get(),
        dead_letters: live.dead_letters.get(),
        ticks: live.ticks.get(),
        offsets_skipped: live.offsets_skipped.get(),
        messages_posted: live.messages_posted.get(),
    }
}

/// How full the queue is.
pub fn queue(pipeline: &RunningPipeline) -> QueueView {
    QueueView {
        runs: pipeline.engine.queue.len() as u64,
        limit: pipeline.engine.config.queue as u64,
        waiting_retries: pipeline.engine.queue.waiting_retries() as u64,
        parked: pipeline.engine.queue.parked() as u64,
        bytes: pipeline.engine.budget.used() as u64,
        bytes_limit: pipeline.engine.budget.limit() as u64,
    }
}

/// Every worker with its run. A worker that is to end, because there are to be fewer, is listed until its run
/// has ended.
fn workers(running: Vec<Running>, count: usize) -> Vec<WorkerView> {
    let count = running.iter().map(|run| run.worker + 1).fold(count, usize::max);
    let mut workers: Vec<_> =
        (0..count).map(|worker| WorkerView { worker: worker as u64, run: None }).collect();
    for run in running {
        workers[run.worker].run = Some(RunningView {
            id: run.id.0,
            key: run.key.to_string(),
            attempt: run.attempt,
            running_s: run.since.elapsed().as_secs_f64(),
            stalled: run.stalled,
        });
    }
    workers
}

/// This process' resident set size in bytes; 0 if the system does not say.
pub fn memory_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = resident.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

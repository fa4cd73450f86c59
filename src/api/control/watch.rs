//! Requests that look: overview, lag, series, ticks, how many runs are in which state. What they
//! show was found by `watch`, counted in `live`, or is in the history.

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};

use super::requests::{Attached, Context, Session, Stage};
use crate::config::limits;
use crate::config::steering::settings_view;
use crate::history::query::{self, RunRow, TickRow};
use crate::model::clock;
use crate::model::error::{Error, Result};
use crate::model::live::{Live, Running};
use crate::observe::overview::{
    LagView, Overview, QueueView, Rates, RunningView, SensorView, Series, Totals, WorkerView,
};
use crate::observe::watch::starting;

pub use crate::history::query::TickSelection;

/// The newest overview, which all who look share.
#[derive(Default)]
pub(super) struct Cache(Mutex<Option<Shared>>);

struct Shared {
    made: Instant,
    overview: Arc<Overview>,
    json: Arc<[u8]>,
    from_history: FromHistory,
}

/// What the overview shows of the history, and the connection that reads it.
#[derive(Default)]
struct FromHistory {
    session: Session,
    newest_runs: Vec<RunRow>,
    ticks: Vec<TickRow>,
    dead_letters_open: u64,
}

impl Cache {
    /// mb is no longer what the newest one shows: who looks next sees another one, of a connection of
    /// its own, since the start may have moved a damaged history aside.
    pub(super) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// What one look shows, made at most once per `limits::OVERVIEW_INTERVAL`.
///
/// # Errors
/// `Other` where it cannot be written as JSON.
pub fn shared_overview(context: &Context) -> Result<Arc<Overview>> {
    Ok(shared(context)?.0)
}

/// The same as JSON.
///
/// # Errors
/// As `shared_overview`.
pub fn overview_json(context: &Context) -> Result<Arc<[u8]>> {
    Ok(shared(context)?.1)
}

/// Who comes while it is made waits for it, rather than make another.
fn shared(context: &Context) -> Result<(Arc<Overview>, Arc<[u8]>)> {
    let mut cache = context.overview.0.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(shared) = &*cache
        && shared.made.elapsed() < limits::OVERVIEW_INTERVAL
    {
        return Ok((Arc::clone(&shared.overview), Arc::clone(&shared.json)));
    }
    let mut from_history = cache.take().map(|shared| shared.from_history).unwrap_or_default();
    from_history.read(context);
    let overview = Arc::new(make(context, &from_history));
    let json: Arc<[u8]> = serde_json::to_vec(&*overview).map_err(no_json)?.into();
    let made = Instant::now();
    let result = (Arc::clone(&overview), Arc::clone(&json));
    *cache = Some(Shared { made, overview, json, from_history });
    Ok(result)
}

fn no_json(cause: serde_json::Error) -> Error {
    Error::Other(format!("the overview cannot be written as JSON: {cause}"))
}

impl FromHistory {
    /// What cannot be read stays as it was: the rest of the overview is wanted all the same. While
    /// mb waits for its broker there may be no history yet.
    fn read(&mut self, context: &Context) {
        let running = context.running();
        let read = |session: &mut Session| -> Result<_> {
            let history = session.history(context)?;
            let newest =
                query::Selection { limit: limits::OVERVIEW_RUNS, ..query::Selection::default() };
            let ticks = TickSelection { limit: limits::OVERVIEW_TICKS, ..TickSelection::default() };
            Ok((
                query::runs_now(history, &newest, &running)?,
                query::ticks(history, &ticks)?,
                query::open_dead_letters(history)?,
            ))
        };
        match read(&mut self.session) {
            Ok((runs, ticks, open)) => {
                (self.newest_runs, self.ticks, self.dead_letters_open) = (runs, ticks, open);
            }
            Err(error) => log::debug!("the overview without news of the history: {error}"),
        }
    }
}

fn make(context: &Context, history: &FromHistory) -> Overview {
    let stage = context.stage();
    let Stage { status, pipeline } = &*stage;
    let pipeline = pipeline.as_ref();
    let found = pipeline.and_then(|pipeline| pipeline.watch.found());
    let waiting_for = status.waiting_for.as_deref();
    let steering = pipeline.map_or(&context.at_start, |pipeline| &*pipeline.steering);
    let broker = match pipeline {
        Some(pipeline) => pipeline.broker.describe(),
        None => waiting_for.map_or_else(String::new, |what| format!("waiting for {what}")),
    };
    Overview {
        version: status.version.clone(),
        pid: status.pid,
        now_ms: clock::now_ms(),
        started_ms: context.started_ms,
        topic: status.topic.clone(),
        group: status.group.clone(),
        client: status.client.clone(),
        broker,
        step: context.step.clone(),
        waiting_for: status.waiting_for.clone(),
        sensor: SensorView { paused: steering.is_paused(), ..context.sensors.clone() },
        settings: settings_view(steering),
        totals: pipeline.map_or_else(Totals::default, |pipeline| totals(&pipeline.live)),
        rates: found.as_ref().map_or_else(Rates::default, |found| found.rates),
        lag: found.as_ref().map_or_else(LagView::default, |found| most_lag(&found.lag)),
        queue: pipeline.map_or_else(QueueView::default, queue),
        workers: pipeline.map_or_else(Vec::new, |pipeline| {
            workers(pipeline.live.running(), steering.settings().max_concurrent_runs)
        }),
        dead_letters_open: history.dead_letters_open,
        last_commit_ms: pipeline.and_then(|pipeline| pipeline.live.last_commit_ms()),
        memory_bytes: memory_bytes(),
        freshness: found.as_ref().and_then(|found| found.freshness),
        health: match &found {
            Some(found) => found.health.clone(),
            None => starting(waiting_for),
        },
        newest_runs: history.newest_runs.clone(),
        ticks: history.ticks.clone(),
    }
}

/// The lag with the partitions that have most of it.
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
        records_done: live.records_done.get(),
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
pub fn queue(pipeline: &Attached) -> QueueView {
    QueueView {
        runs: pipeline.queue.len() as u64,
        limit: pipeline.config.queue as u64,
        waiting_retries: pipeline.queue.waiting_retries() as u64,
        parked: pipeline.queue.parked() as u64,
        bytes: pipeline.budget.used() as u64,
        bytes_limit: pipeline.budget.limit() as u64,
    }
}

/// A lane per worker, those of workers that are to end included while they run something.
fn workers(running: Vec<Running>, count: usize) -> Vec<WorkerView> {
    let lanes = running.iter().map(|run| run.worker + 1).fold(count, usize::max);
    let mut lanes: Vec<_> =
        (0..lanes).map(|worker| WorkerView { worker: worker as u64, run: None }).collect();
    for run in running {
        lanes[run.worker].run = Some(RunningView {
            id: run.id.0,
            key: run.key.to_string(),
            attempt: run.attempt,
            running_s: run.since.elapsed().as_secs_f64(),
            stalled: run.stalled,
        });
    }
    lanes
}

/// This process' resident set size, in bytes; 0 where the system does not say.
pub fn memory_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = resident.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

pub(super) fn overview(context: &Context) -> Result<Value> {
    serde_json::to_value(&*shared_overview(context)?).map_err(no_json)
}

pub(super) fn series(context: &Context) -> Result<Value> {
    let samples = context.stage().pipeline.as_ref().map(|pipeline| pipeline.watch.samples());
    Ok(json!(Series { samples: samples.unwrap_or_default() }))
}

pub(super) fn lag(context: &Context) -> Result<Value> {
    let found = context.stage().pipeline.as_ref().and_then(|pipeline| pipeline.watch.found());
    Ok(found.map_or_else(|| json!(LagView::default()), |found| json!(found.lag)))
}

pub(super) fn ticks(
    context: &Context,
    session: &mut Session,
    mut selection: TickSelection,
) -> Result<Value> {
    selection.limit = selection.limit.min(limits::LIST_ROWS);
    Ok(json!(query::ticks(session.history(context)?, &selection)?))
}

pub(super) fn run_counts(context: &Context, session: &mut Session) -> Result<Value> {
    let running = context.running();
    Ok(json!(query::counts(session.history(context)?, &running)?))
}

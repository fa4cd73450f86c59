//! A pipeline whose threads run: what they are, and how they are started.
//!
//! They are watched in `supervise` and stopped in `shutdown`; what they share is made in `wiring`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use rusqlite::Connection;

use crate::api::context::RunningPipeline;
use crate::api::socket;
use crate::commit::committer::LastCommit;
use crate::config::Config;
use crate::config::data_dir::DataDir;
use crate::history::History;
use crate::history::requests::Reader;
use crate::kafka::Broker;
use crate::model::error::{Error, Result};
use crate::model::events::{self, Event, ExitGuard};
use crate::model::offset::{Offset, Partition};
use crate::model::thread::Thread;
use crate::observe::watch::{Watch, Watcher};
use crate::runs::engine::{Engine, Lasting};
use crate::source::cursor_move::CursorMover;
use crate::source::producer::ProducerTask;
use crate::source::reprocess::WorkSignal;
use crate::step::Step;

use super::startup::Start;
use super::status::status;
use super::threads::Threads;
use super::wiring::{Assembly, Inputs, wire};
use super::workers::Workers;

/// A pipeline whose threads run.
pub(super) struct Running {
    pub(super) engine: Arc<Engine>,
    /// Whether reprocess requests are left.
    pub(super) work_signal: Arc<WorkSignal>,
    /// Gets a message when none are.
    pub(super) requests_rest: Receiver<()>,
    pub(super) events: Receiver<Event>,
    /// Dropped to stop producer, sensors and reprocess requests.
    pub(super) intake: Option<Sender<()>>,
    /// Dropped to stop the watching of the log.
    pub(super) watching: Option<Sender<()>>,
    /// Dropped to stop the committer.
    pub(super) commits: Option<Sender<()>>,
    pub(super) threads: Threads,
    pub(super) committer: Option<Thread<LastCommit>>,
    pub(super) workers: Workers,
    /// The first halt that came while mb was stopping already.
    pub(super) late_halt: Option<Error>,
    /// A person or the system has requested a stop.
    pub(super) stop_requested: bool,
    /// Locked until everything has ended: another mb may use the data directory only then.
    pub(super) data_dir: Arc<DataDir>,
}

/// Why a pipeline's threads are stopped.
pub(super) enum StopReason {
    /// As requested, or because everything is done: the word for the log.
    Requested(&'static str),
    Failed(Error),
}

impl StopReason {
    /// Whether the threads are to be started again within this process.
    pub(super) fn restarts(&self, config: &Config) -> bool {
        match self {
            StopReason::Failed(Error::LogReplaced(_)) => config.skips_missing_offsets(),
            StopReason::Requested(_) | StopReason::Failed(_) => false,
        }
    }
}

/// What `start` needs besides what a [`Start`] has found.
pub(super) struct Surroundings<'a> {
    pub config: &'a Config,
    pub step: &'a Arc<dyn Step>,
    pub broker: &'a Arc<dyn Broker>,
    pub data_dir: &'a Arc<DataDir>,
    pub lasting: &'a Lasting,
    pub watch: &'a Arc<Watch>,
    pub control: &'a socket::Server,
}

impl Running {
    /// Starts the threads against the direction in which records flow: whoever receives runs starts before
    /// whoever sends them.
    ///
    /// # Errors
    /// Those of `wire` and `thread::spawn`, and of the history that cannot be opened.
    pub(super) fn start(with: &Surroundings<'_>, start: Start) -> Result<Running> {
        let Start { db, topic, mut recovered, in_doubt } = start;
        let (scope, marks) = (recovered.scope, std::mem::take(&mut recovered.marks));
        let ends = marks.iter().map(|(partition, marks)| (*partition, marks.end)).collect();
        with.watch.begin_anew(marks);
        with.lasting.live.latency.begin(&ends);
        let inputs = Inputs {
            config: with.config.clone(),
            step: Arc::clone(with.step),
            broker: Arc::clone(with.broker),
            topic,
            recovered,
            in_doubt,
            lasting: with.lasting.clone(),
        };
        let (mut assembly, history) = wire_with_history_thread(inputs, db)?;
        let sensors = std::mem::take(&mut assembly.sensors);
        let requests = assembly.reprocessor(Reader::open(with.data_dir.path(), scope)?);
        let delivery = assembly.delivery();
        let Assembly {
            engine,
            cursor,
            committer,
            committer_jobs,
            work_signal,
            requests_rest,
            events,
            intake,
            intake_stop,
            ..
        } = assembly;
        let mut threads = Threads::default();
        threads.add(history);
        if let Some(delivery) = delivery {
            threads.add(events::spawn("dead-letters", &engine.events, move || delivery.run())?);
        }
        let mut workers = Workers::new(Arc::clone(&engine));
        workers.adjust(&mut threads)?;
        let (commits, commits_stop) = bounded(0);
        let committer = events::spawn("committer", &engine.events, move || {
            committer.run(&committer_jobs, &commits_stop)
        })?;
        // Before a thread can queue the run of a request: a request that is cancelled must not have queued runs
        // that its cancellation does not know of.
        let pipeline = RunningPipeline {
            engine: Arc::clone(&engine),
            work_signal: Arc::clone(&work_signal),
            cursor: Arc::clone(&cursor),
            watch: Arc::clone(with.watch),
        };
        with.control.attach(status(with.config, Some(with.broker.backend())), pipeline);
        threads.add(events::spawn("requests", &engine.events, move || requests.run())?);
        for (index, sensor) in sensors.into_iter().enumerate() {
            let name = format!("sensor-{index}");
            threads.add(events::spawn(&name, &engine.events, move || sensor.run())?);
        }
        let (watching, watching_stop) = bounded(0);
        let mut running = Running {
            engine,
            work_signal,
            requests_rest,
            events,
            intake: Some(intake),
            watching: Some(watching),
            commits: Some(commits),
            threads,
            committer: Some(committer),
            workers,
            late_halt: None,
            stop_requested: false,
            data_dir: Arc::clone(with.data_dir),
        };
        running.start_producer(intake_stop)?;
        running.set_first_target(ends);
        running.start_watch(with.watch, cursor, &watching_stop)?;
        Ok(running)
    }

    /// `--until-caught-up`: what is in the topic now is to be done. If mb also produces, the target is the
    /// log's end after the producer has finished.
    fn set_first_target(&self, ends: BTreeMap<Partition, Offset>) {
        let all_known = self.engine.topic.partitions.iter().all(|one| ends.contains_key(one));
        // If a partition has no leader, its end is not known yet: the supervisor looks it up.
        if self.engine.config.until_caught_up && !self.threads.has("producer") && all_known {
            self.engine.ledgers.set_target(ends);
        }
    }

    fn start_producer(&mut self, stop: Receiver<()>) -> Result<()> {
        let engine = &self.engine;
        let Some(mut produce) = engine.config.produce.clone() else { return Ok(()) };
        // If the pipeline was restarted within the process, the producer continues its numbers.
        let posted = engine.live.messages_posted.get();
        if produce.count.is_some_and(|count| count <= posted) {
            return Ok(());
        }
        let (broker, topic) = (Arc::clone(&engine.broker), Arc::clone(&engine.topic_name));
        let partitions = u32::try_from(engine.topic.partitions.len()).unwrap_or(u32::MAX);
        let producer = broker.producer(&topic)?;
        let reconnect = Box::new(move || broker.producer(&topic));
        let orders = engine.steering.subscribe();
        produce.rate = orders.settings().rate.unwrap_or(produce.rate);
        let mut task =
            ProducerTask::sequence(produce, posted, partitions, producer, reconnect, stop);
        task.subscription = Some(orders);
        let live = Arc::clone(&engine.live);
        task.live = Some(Arc::clone(&live));
        let thread = events::spawn("producer", &engine.events, move || {
            let report = task.run();
            if report.failed > 0 {
                log::error!("{} posted messages were not acknowledged", report.failed);
                live.messages_failed.add(report.failed);
            }
            if let Some(error) = report.error {
                log::error!("the producer failed: {error}");
            }
        })?;
        self.threads.add(thread);
        Ok(())
    }

    fn start_watch(
        &mut self,
        watch: &Arc<Watch>,
        cursor: Arc<CursorMover>,
        stop: &Receiver<()>,
    ) -> Result<()> {
        let events = &self.engine.events;
        let watcher = Watcher::new(Arc::clone(watch), Arc::clone(&self.engine), cursor);
        let (asking, asks_stop) = (watcher.clone(), stop.clone());
        let (comparing, compares_stop) = (watcher.clone(), stop.clone());
        let stop = stop.clone();
        self.threads.add(events::spawn("watch", events, move || watcher.run(&stop))?);
        let asking = move || asking.run_lag(&asks_stop);
        self.threads.add(events::spawn("watch-lag", events, asking)?);
        let comparing = move || comparing.run_offsets(&compares_stop);
        self.threads.add(events::spawn("watch-offsets", events, comparing)?);
        Ok(())
    }
}

/// Wires a pipeline whose history is written by a thread of its own.
fn wire_with_history_thread(inputs: Inputs, db: Connection) -> Result<(Assembly, Thread<()>)> {
    let (scope, client) = (inputs.recovered.scope, inputs.broker.backend().name());
    wire(inputs, |config, settle, events| {
        let guard = ExitGuard::new("history", &events);
        let settle = move |settled: &[_]| {
            // The thread reports its end when this closure is dropped with it.
            let _ = &guard;
            settle(settled);
        };
        History::start(db, scope, client, config.history_keep, settle)
    })
}

/// Reports a state to systemd, if systemd started mb as a unit of type `notify`.
pub(super) fn notify_systemd(state: sd_notify::NotifyState<'_>) {
    if let Err(cause) = sd_notify::notify(false, &[state]) {
        log::debug!("systemd was not notified: {cause}");
    }
}

//! A pipeline whose threads run: starts them in order, watches them, stops them in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded, never, select};

use crate::api::control;
use crate::api::control::requests::Attached;
use crate::commit::committer::{Committer, LastCommit};
use crate::commit::ledgers::Ledgers;
use crate::config::Config;
use crate::config::data_dir::DataDir;
use crate::config::limits;
use crate::config::steering::Steering;
use crate::history::History;
use crate::history::requests::Reader;
use crate::kafka::Broker;
use crate::model::budget::Budget;
use crate::model::error::{Error, Result};
use crate::model::events::CursorOrder;
use crate::model::events::{self, Event, Farewell};
use crate::model::live::{Live, Trouble};
use crate::model::thread::Thread;
use crate::observe::watch::{Watch, Watcher};
use crate::pipeline::startup::Start;
use crate::runs::dead_letters::DeadLetterTopic;
use crate::runs::queue::RunQueue;
use crate::runs::retry::RetryPolicy;
use crate::runs::worker::Worker;
use crate::source::producer::ProducerTask;
use crate::source::reprocess::{Bell, Requests};
use crate::source::sensor::Sensor;
use crate::step::Step;

use super::crew::Crew;
use super::threads::Threads;
use super::told::{sensor_settings, status};
use super::{Ended, Lasting, Progress, Summary};

/// Why a pipeline's threads are stopped.
enum Reason {
    Asked(&'static str),
    Failed(Error),
    /// The cursor is to be moved, and then they are started anew.
    Moved(CursorOrder),
}

/// A pipeline whose threads run.
pub(super) struct Running {
    config: Config,
    step: Arc<dyn Step>,
    broker: Arc<dyn Broker>,
    topic: Arc<str>,
    live: Arc<Live>,
    ledgers: Arc<Ledgers>,
    queue: Arc<RunQueue>,
    budget: Arc<Budget>,
    history: Arc<History>,
    /// Whether redrives and replays are left.
    bell: Arc<Bell>,
    /// Gets a message when none are.
    requests_rest: Receiver<()>,
    events: Receiver<Event>,
    /// Dropped to stop producer and sensors.
    intake: Option<Sender<()>>,
    /// Dropped to stop the watching of the log.
    watching: Option<Sender<()>>,
    /// Dropped to stop the committer.
    commits: Option<Sender<()>>,
    threads: Threads,
    committer: Option<Thread<LastCommit>>,
    crew: Crew,
    /// Set before running steps are ended by force.
    forced: Arc<AtomicBool>,
    /// The first halt that came while mb was stopping already.
    late_halt: Option<Error>,
    /// Somebody has asked for a stop.
    stop_asked: bool,
    /// Held until everything has ended.
    _data_dir: Arc<DataDir>,
}

impl Running {
    /// Starts the threads in the order of the records' way backwards: who receives runs before
    /// who sends.
    #[allow(clippy::too_many_arguments)] // from one place, once
    pub(super) fn start(
        config: Config,
        step: Arc<dyn Step>,
        broker: Arc<dyn Broker>,
        start: Start,
        data_dir: Arc<DataDir>,
        lasting: &Lasting,
        control: &control::Server,
    ) -> Result<Running> {
        let Lasting { live, steering, watch, cancels } = lasting.clone();
        let Start { db, scope, topic: info, resumes, marks, in_doubt } = start;
        let ends = marks.iter().map(|(partition, marks)| (*partition, marks.end)).collect();
        watch.begin_anew(marks);
        // What cannot be is said before anything is read.
        broker.capabilities().isolation(config.isolation)?;
        let topic: Arc<str> = Arc::from(info.name.as_str());
        let ledgers = Arc::new(Ledgers::default());
        let queue = RunQueue::new(config.queue, config.order, config.queue_bytes);
        let queue = Arc::new(queue.with_cancels(&cancels));
        let budget = Budget::new(config.queue_bytes);
        let (events_in, events) = bounded(limits::EVENTS);
        let (intake, intake_stop) = bounded(0);
        let (watching, watching_stop) = bounded(0);
        let (commits, commits_stop) = bounded(0);
        let forced = Arc::new(AtomicBool::new(false));
        let mut threads = Threads::default();

        let (history, history_thread) = {
            let ledgers = Arc::clone(&ledgers);
            let farewell = Farewell::new("history", &events_in);
            History::start(
                db,
                scope,
                broker.backend().name(),
                config.history_keep,
                move |settled| {
                    let _ = &farewell;
                    ledgers.settle(settled);
                },
            )?
        };
        threads.add(history_thread);
        let (bell, woken, requests_rest) = Bell::new(&queue, &history);

        let policy = RetryPolicy {
            max_attempts: config.max_attempts,
            backoff: config.retry_backoff,
            on_failure: config.on_failure,
            bisect: config.bisect,
        };
        let letters = DeadLetterTopic::new(&broker, &config, step.name());
        let worker = Worker {
            index: 0,
            queue: Arc::clone(&queue),
            history: Arc::clone(&history),
            ledgers: Arc::clone(&ledgers),
            step: Arc::clone(&step),
            policy,
            letters,
            live: Arc::clone(&live),
            events: events_in.clone(),
            forced: Arc::clone(&forced),
        };
        let mut crew = Crew::new(worker, Arc::clone(&steering));
        crew.fit(&mut threads)?;

        let mut sensors: Vec<Sensor> = (0..config.sensors)
            .map(|index| {
                let settings = sensor_settings(&config, index, &topic, info.id.clone());
                Sensor::new(
                    settings,
                    Arc::clone(&broker),
                    Arc::clone(&queue),
                    Arc::clone(&budget),
                    Arc::clone(&history),
                    Arc::clone(&ledgers),
                    Arc::clone(&live),
                    events_in.clone(),
                    intake_stop.clone(),
                    &steering,
                )
            })
            .collect();
        for (partition, resume) in resumes {
            let index = usize::try_from(partition).expect("not negative") % sensors.len();
            sensors[index].adopt(partition, resume);
        }

        let committer = Committer {
            broker: Arc::clone(&broker),
            group: config.connection.group.clone(),
            topic: topic.to_string(),
            topic_id: info.id.clone(),
            history: Arc::clone(&history),
            ledgers: Arc::clone(&ledgers),
            live: Arc::clone(&live),
            events: events_in.clone(),
            in_doubt,
        };
        let committer =
            events::spawn("committer", &events_in, move || committer.run(&commits_stop))?;

        let requests = {
            let settings = sensor_settings(&config, 0, &topic, info.id.clone());
            Requests {
                topic: Arc::clone(&topic),
                limits: settings.limits,
                steering: Arc::clone(&steering),
                fetch: settings.fetch,
                reader: Reader::open(data_dir.path(), scope)?,
                broker: Arc::clone(&broker),
                queue: Arc::clone(&queue),
                budget: Arc::clone(&budget),
                history: Arc::clone(&history),
                live: Arc::clone(&live),
                bell: Arc::clone(&bell),
                woken,
                stop: intake_stop.clone(),
            }
        };

        let mut running = Running {
            config,
            step,
            broker,
            topic,
            live,
            ledgers,
            queue,
            budget,
            history,
            bell,
            requests_rest,
            events,
            intake: Some(intake),
            watching: Some(watching),
            commits: Some(commits),
            threads,
            committer: Some(committer),
            crew,
            forced,
            late_halt: None,
            stop_asked: false,
            _data_dir: data_dir,
        };
        running.threads.add(events::spawn("requests", &events_in, move || requests.run())?);
        for (index, sensor) in sensors.into_iter().enumerate() {
            let name = format!("sensor-{index}");
            running.threads.add(events::spawn(&name, &events_in, move || sensor.run())?);
        }
        running.start_producer(info.partitions.len(), &events_in, intake_stop, &steering)?;
        // Where mb produces, it is what is there when that is over.
        if running.config.until_caught_up && !running.threads.has("producer") {
            running.ledgers.set_target(ends);
        }
        running.start_watch(&watch, &steering, &events_in, &watching_stop)?;
        let pipeline = Attached {
            config: running.config.clone(),
            scope,
            topic: info,
            live: Arc::clone(&running.live),
            broker: Arc::clone(&running.broker),
            bell: Arc::clone(&running.bell),
            queue: Arc::clone(&running.queue),
            budget: Arc::clone(&running.budget),
            ledgers: Arc::clone(&running.ledgers),
            history: Arc::clone(&running.history),
            step: Arc::clone(&running.step),
            steering: Arc::clone(&steering),
            watch,
            events: events_in,
        };
        control.attach(status(&running.config, Some(running.broker.backend())), pipeline);
        Ok(running)
    }

    fn start_producer(
        &mut self,
        partitions: usize,
        events: &Sender<Event>,
        stop: Receiver<()>,
        steering: &Arc<Steering>,
    ) -> Result<()> {
        let Some(mut produce) = self.config.produce.clone() else { return Ok(()) };
        // Where mb begins anew, its producer goes on.
        let posted = self.live.messages_posted.get();
        if produce.count.is_some_and(|count| count <= posted) {
            return Ok(());
        }
        let (broker, topic) = (Arc::clone(&self.broker), Arc::clone(&self.topic));
        let partitions = u32::try_from(partitions).unwrap_or(u32::MAX);
        let producer = broker.producer(&topic)?;
        let reconnect = Box::new(move || broker.producer(&topic));
        let orders = steering.listen();
        produce.rate = orders.settings().rate.unwrap_or(produce.rate);
        let mut task =
            ProducerTask::sequence(produce, posted, partitions, producer, reconnect, stop);
        task.orders = Some(orders);
        let live = Arc::clone(&self.live);
        task.live = Some(Arc::clone(&live));
        let thread = events::spawn("producer", events, move || {
            let report = task.run();
            if report.failed > 0 {
                log::error!("{} messages posted were not acknowledged", report.failed);
                live.messages_failed.add(report.failed);
            }
            if let Some(error) = report.error {
                log::error!("the producer ends with trouble: {error}");
            }
        })?;
        self.threads.add(thread);
        Ok(())
    }

    fn start_watch(
        &mut self,
        watch: &Arc<Watch>,
        steering: &Arc<Steering>,
        events: &Sender<Event>,
        stop: &Receiver<()>,
    ) -> Result<()> {
        let watcher = Watcher::new(
            &self.config,
            Arc::clone(watch),
            Arc::clone(&self.topic),
            Arc::clone(&self.broker),
            Arc::clone(&self.live),
            Arc::clone(&self.queue),
            Arc::clone(&self.ledgers),
            Arc::clone(&self.history),
            Arc::clone(steering),
        );
        let (asking, asks_stop, stop) = (watcher.clone(), stop.clone(), stop.clone());
        self.threads.add(events::spawn("watch", events, move || watcher.run(&stop))?);
        let asking = move || asking.run_lag(&asks_stop);
        self.threads.add(events::spawn("watch-lag", events, asking)?);
        Ok(())
    }

    /// Watches until there is a reason to stop; then stops.
    pub(super) fn supervise(
        mut self,
        stop: &Receiver<()>,
        progress: &mut Option<Progress>,
    ) -> Result<Ended> {
        notify(&[sd_notify::NotifyState::Ready]);
        log::info!(
            "topic {}, group {}, step {}: {} worker(s), batches of up to {} records",
            self.topic,
            self.config.connection.group,
            self.step.name(),
            self.config.max_concurrent_runs,
            self.config.max_batch
        );
        let trouble = Trouble::default();
        let mut target_due = false;
        // All is done but for requests.
        let mut is_caught_up = false;
        let reason = loop {
            if target_due && self.set_target(&trouble) {
                target_due = false;
            }
            if let (Some(tell), Some((done, to_do))) = (progress.as_mut(), self.ledgers.progress())
            {
                tell(done, to_do);
            }
            self.warn_of_stalls();
            self.crew.fit_or_warn(&mut self.threads);
            let event = select! {
                recv(stop) -> _ => {
                    self.stop_asked = true;
                    break Reason::Asked("as asked");
                }
                recv(self.events) -> event => event.unwrap_or(Event::Halt(Error::Other(
                    "all threads are gone".into(),
                ))),
                recv(self.requests_rest) -> _ => match is_caught_up {
                    true => Event::CaughtUp,
                    false => continue,
                },
                default(limits::SUPERVISE_INTERVAL) => continue,
            };
            match event {
                Event::Halt(error) => break Reason::Failed(error),
                // The workers fit at the next turn.
                Event::SettingsChanged => {}
                Event::MoveCursor(order, taken) => {
                    // Who has given up waiting was told that it is not moved.
                    if taken.try_send(()).is_ok() {
                        break Reason::Moved(order);
                    }
                }
                Event::CaughtUp if !self.bell.is_idle() => is_caught_up = true,
                Event::CaughtUp => break Reason::Asked("caught up"),
                Event::Ended(name) => {
                    self.threads.join(&name);
                    if let Some(panic) = self.threads.panic.take() {
                        break Reason::Failed(panic);
                    }
                    match name.as_str() {
                        "producer" => target_due = self.config.until_caught_up,
                        // A sensor that ends has said why.
                        name if name.starts_with("sensor") => {}
                        "committer" => break Reason::Failed(self.committer_ended()),
                        name if self.crew.was_let_go(name) => {}
                        name => {
                            let text = format!("thread {name} ended early");
                            break Reason::Failed(Error::Other(text));
                        }
                    }
                }
            }
        };
        if !matches!(reason, Reason::Failed(Error::LogReplaced(_)) | Reason::Moved(_)) {
            // The bar goes before the last lines of the log.
            progress.take();
        }
        self.stop(reason, stop)
    }

    fn committer_ended(&mut self) -> Error {
        match self.committer.take().map(Thread::join) {
            Some(Err(panic)) => panic,
            _ => Error::Other("thread committer ended early".into()),
        }
    }

    /// `--until-caught-up`: what is in the topic now is what is to be done. False: asked again.
    fn set_target(&self, trouble: &Trouble) -> bool {
        const WHAT: &str = "finding the topic's end";
        let found = self.broker.topic(&self.topic).and_then(|info| {
            let marks = self.broker.watermarks(&self.topic, &info.partitions)?;
            Ok(marks.into_iter().map(|(partition, marks)| (partition, marks.end)).collect())
        });
        match found {
            Ok(target) => {
                trouble.end(WHAT);
                self.ledgers.set_target(target);
                true
            }
            Err(error) => {
                trouble.begin(WHAT, &error.to_string());
                false
            }
        }
    }

    fn warn_of_stalls(&self) {
        let Some(limit) = self.config.step_timeout else { return };
        // What can be ended is ended by its step, which needs a moment for it.
        for run in self.live.mark_stalled(limit + 2 * limits::KILL_GRACE) {
            log::warn!(
                "run {} has been with worker-{} for {:.0?}, past --step-timeout: a step inside mb \
                 cannot be ended, it is waited for",
                run.key,
                run.worker,
                run.since.elapsed()
            );
        }
    }

    /// The orderly stop: intake first, then the runs, then what they led to.
    fn stop(mut self, reason: Reason, stop: &Receiver<()>) -> Result<Ended> {
        let began = Instant::now();
        let mut goes_on = match &reason {
            Reason::Moved(_) => true,
            Reason::Failed(Error::LogReplaced(_)) => self.config.skips_missing_offsets(),
            Reason::Asked(_) | Reason::Failed(_) => false,
        };
        if !goes_on {
            notify(&[sd_notify::NotifyState::Stopping]);
        }
        match &reason {
            Reason::Asked(why) => {
                log::info!("stopping ({why}): {} run(s) running", self.live.running().len())
            }
            Reason::Moved(_) => log::info!(
                "the cursor is moved: {} run(s) running, which are waited for",
                self.live.running().len()
            ),
            Reason::Failed(Error::LogReplaced(text)) if goes_on => {
                log::warn!("{text}: beginning with what is there now (--on-missing-offsets skip)");
            }
            Reason::Failed(error) => log::error!("stopping: {error}"),
        }
        self.intake.take();
        self.budget.close();
        self.queue.close();
        self.history.stop_waiting();
        if !goes_on {
            self.step.stopping();
        }
        // A person who moves the cursor does not mean to end mb.
        let drained = began
            + match &reason {
                Reason::Moved(_) => limits::DURATION_MAX,
                Reason::Asked(_) | Reason::Failed(_) => self.config.drain_timeout,
            };
        if let Err(error) = self.wait_for(&["worker"], drained, stop, true) {
            self.forced.store(true, Ordering::Release);
            self.step.abort();
            return Err(error);
        }
        self.watching.take();
        goes_on &= !self.stop_asked;
        if self.stop_asked && matches!(reason, Reason::Moved(_)) {
            log::error!("the cursor was not moved: mb was stopped before; move it again");
        }
        if !goes_on {
            self.step.finish();
        }
        // What sensors and producer still do is worth nothing: they are not waited for long.
        let patience = (began + limits::INTAKE_STOP_LIMIT).max(Instant::now());
        let _ = self.wait_for(&["sensor", "producer", "requests"], patience, stop, false);
        // Who asks the log for its ends may wait for a broken one's answer, which nobody needs now.
        let patience = Instant::now() + limits::WATCH_STOP_LIMIT;
        let _ = self.wait_for(&["watch"], patience, stop, false);
        let kept = self.history.flush(limits::HISTORY_STOP_LIMIT);
        // Without the history there is nothing that may be committed.
        let last = if kept {
            self.last_commit()
        } else {
            LastCommit::Open("the history cannot be written".into())
        };
        self.history.close();
        if kept {
            let deadline = Instant::now() + limits::HISTORY_STOP_LIMIT;
            let _ = self.wait_for(&["history"], deadline, stop, false);
        }
        let panic = self.threads.panic.take();
        let summary = Summary {
            runs_succeeded: self.live.runs_succeeded.get(),
            runs_failed: self.live.runs_failed.get(),
            records_done: self.live.records_done.get(),
            dead_letters: self.live.dead_letters.get(),
        };
        log::info!(
            "stopped: {} record(s) in {} run(s) processed, {} run(s) failed{}",
            summary.records_done,
            summary.runs_succeeded,
            summary.runs_failed,
            match self.live.runs_halted.get() {
                0 => String::new(),
                halted => format!(", {halted} halted"),
            }
        );
        for (request, why) in self.bell.blocked() {
            log::warn!("request {request} stays open: {why}");
        }
        let anew = match reason {
            Reason::Failed(Error::LogReplaced(_)) if self.config.skips_missing_offsets() => {
                Some(None)
            }
            Reason::Moved(order) => Some(Some(order)),
            Reason::Failed(error) => return Err(error),
            Reason::Asked(_) => None,
        };
        if let Some(halt) = self.late_halt.take_if(|halt| !matches!(halt, Error::LogReplaced(_))) {
            return Err(halt);
        }
        if let Some(panic) = panic {
            return Err(panic);
        }
        match anew {
            // What was done is another log's: there is nothing to commit.
            Some(None) if !goes_on => return Ok(Ended::Done(summary)),
            // With the history's thread still at its file, nobody else may open it.
            Some(order) if goes_on && kept && !self.threads.has("history") => {
                return Ok(Ended::Anew(order));
            }
            _ => {}
        }
        match last {
            LastCommit::Confirmed => match self.live.messages_failed.get() {
                0 => Ok(Ended::Done(summary)),
                failed => Err(Error::Other(format!(
                    "{failed} messages that --rate posted were not acknowledged: they may not be in \
                     the topic"
                ))),
            },
            LastCommit::Open(_) if !kept => Err(Error::Storage {
                doing: "write the last outcomes to the history (nothing is lost: what ended \
                        without being written is made again at the next start)"
                    .into(),
                cause: "it could not be written until the end of its time; is the disk full, or \
                        the file locked?"
                    .into(),
            }),
            LastCommit::Open(cause) => Err(Error::Broker {
                doing: "commit the last offsets (nothing is lost: the history has them, and the \
                        next start passes over what is done)"
                    .into(),
                cause,
            }),
        }
    }

    /// Waits until the threads whose names begin so have ended. `forceable`: a second stop, or
    /// the deadline, is an end at once.
    fn wait_for(
        &mut self,
        names: &[&str],
        mut deadline: Instant,
        stop: &Receiver<()>,
        forceable: bool,
    ) -> Result<()> {
        let never = never();
        let mut stop = if forceable { stop } else { &never };
        loop {
            if !names.iter().any(|name| self.threads.has(name)) {
                return Ok(());
            }
            let now = Instant::now();
            let mut wait = deadline.saturating_duration_since(now);
            // Whoever runs nothing ends by itself in a moment, which no time limit is meant for.
            if forceable
                && now < deadline + limits::INTAKE_STOP_LIMIT
                && self.live.running().is_empty()
            {
                wait = wait.max(limits::STOP_LOOK_INTERVAL);
            }
            let why = if wait.is_zero() {
                "their time (--drain-timeout) is over"
            } else {
                select! {
                    recv(stop) -> asked => match asked {
                        Ok(()) if !self.stop_asked => {
                            deadline = deadline.min(Instant::now() + self.config.drain_timeout);
                            log::info!("stopping already: another stop ends mb at once");
                            self.stop_asked = true;
                            self.step.stopping();
                            continue;
                        }
                        Ok(()) => "a second stop was asked for",
                        // Its stopper is gone, and nobody can ask any more.
                        Err(_) => {
                            stop = &never;
                            continue;
                        }
                    },
                    recv(self.events) -> event => {
                        if let Ok(event) = event {
                            self.hear_while_stopping(event);
                        }
                        continue;
                    }
                    default(wait) => continue,
                }
            };
            let running = self.live.running().len();
            return Err(Error::Forced(format!(
                "ended with {running} run(s) still running: {why}; nothing is lost, they are made \
                 again at the next start"
            )));
        }
    }

    fn hear_while_stopping(&mut self, event: Event) {
        match event {
            Event::Ended(name) => {
                self.threads.join(&name);
            }
            Event::Halt(error) => {
                self.late_halt.get_or_insert(error);
            }
            // Who asks for a cursor hears that nobody took it on.
            Event::CaughtUp | Event::SettingsChanged | Event::MoveCursor(..) => {}
        }
    }

    fn last_commit(&mut self) -> LastCommit {
        self.commits.take();
        let Some(committer) = self.committer.take() else {
            return LastCommit::Open("the committer had ended".into());
        };
        let deadline = Instant::now() + limits::FINAL_COMMIT_LIMIT + limits::SUPERVISE_INTERVAL;
        while !committer.is_finished() {
            let wait = deadline.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                return LastCommit::Open("the broker did not answer in time".into());
            }
            if let Ok(event) = self.events.recv_timeout(wait.min(limits::STOP_LOOK_INTERVAL)) {
                self.hear_while_stopping(event);
            }
        }
        committer.join().unwrap_or_else(|panic| LastCommit::Open(panic.to_string()))
    }
}

/// Tells systemd, where it listens.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(cause) = sd_notify::notify(false, states) {
        log::debug!("systemd was not told: {cause}");
    }
}

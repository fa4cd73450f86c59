//! The public face of a pipeline: from its settings to the first contact with the broker, then one turn
//! after another of running threads until nothing is left to do.
//!
//! Nothing here decides about records; see `source::sensor`, `runs::worker`, `commit::committer` and `history`
//! for what the threads do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::api::{http, socket};
use crate::config::data_dir::DataDir;
use crate::config::{Client, Config, limits};
use crate::history::clean_shutdown::InUse;
use crate::kafka::Broker;
use crate::kafka::embedded::Embedded;
use crate::kafka::select::{Chosen, choose};
use crate::model::error::{Class, Error, Result};
use crate::model::live::Trouble;
use crate::model::thread::{self, stopped_within};
use crate::runs::dead_letters;
use crate::runs::engine::Lasting;
use crate::step::Step;

use super::running::{Running, Surroundings};
use super::shutdown::{Ended, Summary, shut_down};
use super::startup::{self, Start};
use super::status::status;
use super::supervise::{Chore, Progress, supervise};

/// A pipeline that is ready to run.
pub struct Pipeline {
    config: Config,
    step: Arc<dyn Step>,
    broker: Option<Arc<dyn Broker>>,
    progress: Option<Progress>,
    chore: Option<Chore>,
    /// Once it was opened.
    history: Option<InUse>,
}

/// What makes a pipeline stop; cloning gives another handle on the same one.
#[derive(Clone, Debug)]
pub struct Stopper(Sender<()>);

impl Stopper {
    /// A stopper and the receiver for `Pipeline::run`.
    pub fn new() -> (Stopper, Receiver<()>) {
        let (sender, receiver) = bounded(2);
        (Stopper(sender), receiver)
    }

    /// The first call asks for an orderly stop, the second one for an end at once.
    pub fn stop(&self) {
        // Full: both were asked for already.
        let _ = self.0.try_send(());
    }
}

impl Pipeline {
    pub fn new(config: Config, step: Arc<dyn Step>) -> Pipeline {
        Pipeline { config, step, broker: None, progress: None, chore: None, history: None }
    }

    /// Uses this broker rather than choose one by the configuration: for tests, an embedded topic
    /// with faults for one.
    pub fn with_broker(mut self, broker: Arc<dyn Broker>) -> Pipeline {
        self.broker = Some(broker);
        self
    }

    /// Tells `progress` how far it is, once the end to be reached is known (`until_caught_up`).
    pub fn with_progress(mut self, progress: Progress) -> Pipeline {
        self.progress = Some(progress);
        self
    }

    /// Has the thread that runs the pipeline do this too while its threads run, about each second.
    pub fn with_chore(mut self, chore: Chore) -> Pipeline {
        self.chore = Some(chore);
        self
    }

    /// Runs until a message on `stop` (a second one ends it at once), until caught up where that
    /// was asked for, or until an error that cannot be retried.
    ///
    /// # Errors
    /// Whatever ended it, but for a stop; `Forced` where runs were still going on at the end of
    /// their time: their threads are left behind then, and the process is best ended. The data directory
    /// stays locked until the last of them has ended.
    pub fn run(mut self, stop: &Receiver<()>) -> Result<Summary> {
        self.config.check()?;
        let data_dir = Arc::new(DataDir::lock(&self.config.connection.data_dir)?);
        // From now on commands come here; those that only need the history are answered at once.
        let control = socket::Server::start(
            data_dir.path(),
            status(&self.config, None),
            &self.config,
            self.step.name(),
        )?;
        // The page is there from before the broker answers, and shows what is waited for.
        let web = match &self.config.web {
            Some(web) => http::Server::start(web, control.context()).map(Some),
            None => Ok(None),
        };
        let (web, outcome) = match web {
            Ok(web) => (web, self.run_with(&data_dir, &control, stop)),
            Err(error) => (None, Err(error)),
        };
        let stop_servers = move || {
            if let Some(web) = web {
                web.stop();
            }
            control.stop();
        };
        if matches!(outcome, Err(Error::Forced(_))) {
            leave_behind(data_dir, stop_servers);
        } else {
            stop_servers();
        }
        if outcome.is_ok()
            && let Some(history) = self.history.take()
        {
            history.end();
        }
        outcome
    }

    fn run_with(
        &mut self,
        data_dir: &Arc<DataDir>,
        control: &socket::Server,
        stop: &Receiver<()>,
    ) -> Result<Summary> {
        self.step.prepare(&self.config.connection.topic)?;
        let Some(Chosen { broker, reason }) = self.choose(data_dir, stop)? else {
            log::info!("stopped before a broker answered");
            return Ok(Summary::default());
        };
        log::info!("{}: {reason}", broker.describe());
        let lasting = Lasting::new(&self.config);
        let watch = Arc::default();
        let step = Arc::clone(&self.step);
        let mut is_first = true;
        loop {
            let patient = self.config.wait_for_broker || !is_first;
            let started = self.start(broker.as_ref(), data_dir, stop, patient)?;
            let Some((start, history)) = started else {
                log::info!("stopped before the topic could be read");
                return Ok(Summary::default());
            };
            self.history = Some(history);
            let surroundings = Surroundings {
                config: &self.config,
                step: &step,
                broker: &broker,
                data_dir,
                lasting: &lasting,
                watch: &watch,
                control,
            };
            let mut running = Running::start(&surroundings, start)?;
            is_first = false;
            let reason = supervise(&mut running, stop, &mut self.progress, &mut self.chore);
            if !reason.restarts(&self.config) {
                // The progress bar goes before the last lines of the log.
                self.progress.take();
            }
            match shut_down(running, reason, stop)? {
                Ended::Done(summary) => return Ok(summary),
                Ended::Restart => log::warn!(
                    "starting again with the log as it is now (--on-missing-offsets skip)"
                ),
            }
        }
    }

    fn choose(&self, data_dir: &DataDir, stop: &Receiver<()>) -> Result<Option<Chosen>> {
        if let Some(broker) = &self.broker {
            let reason = "given by the program".to_owned();
            return Ok(Some(Chosen { broker: Arc::clone(broker), reason }));
        }
        let connection = &self.config.connection;
        let wants_embedded = self.config.produce.is_some() || connection.client == Client::Embedded;
        let stopped = std::cell::Cell::new(false);
        let keep_waiting = |wait: Duration| {
            let came = stopped_within(stop, wait);
            stopped.set(stopped.get() || came);
            !came
        };
        let open_embedded = || -> Result<Arc<dyn Broker>> {
            let topics = Embedded::open(data_dir.path(), connection.embedded_retention_bytes)?;
            Ok(Arc::new(topics))
        };
        let chosen = choose(
            connection,
            wants_embedded,
            self.config.wait_for_broker,
            &keep_waiting,
            &open_embedded,
        );
        match chosen {
            Err(_) if stopped.get() => Ok(None),
            chosen => chosen.map(Some),
        }
    }

    /// The first questions to the broker: one that answers but is still loading is asked again, and
    /// where it is `patient`, any.
    fn start(
        &self,
        broker: &dyn Broker,
        data_dir: &DataDir,
        stop: &Receiver<()>,
        patient: bool,
    ) -> Result<Option<(Start, InUse)>> {
        let deadline = Instant::now() + limits::FIRST_CONTACT_LIMIT;
        let trouble = Trouble::default();
        let what = "finding where to go on";
        loop {
            let started = startup::topic(broker, &self.config).and_then(|topic| {
                dead_letters::prepare(broker, &self.config)?;
                startup::recover(broker, &self.config, data_dir.path(), topic)
            });
            match started {
                Ok(start) => {
                    trouble.end(what);
                    return Ok(Some(start));
                }
                Err(Error::UnknownTopic { topic }) => return Err(Error::UnknownTopic { topic }),
                Err(error) if error.class() != Class::Retry => return Err(error),
                Err(error) if Instant::now() >= deadline && !patient => {
                    return Err(error);
                }
                Err(error) => trouble.begin(what, &error.to_string()),
            }
            if stopped_within(stop, limits::FIRST_CONTACT_PAUSE) {
                return Ok(None);
            }
        }
    }
}

/// A forced stop ends at once, so it does not wait for the servers' connections. They may still change files of
/// the data directory, which stays locked until they have ended.
fn leave_behind(data_dir: Arc<DataDir>, stop_servers: impl FnOnce() + Send + 'static) {
    let held = Arc::clone(&data_dir);
    let stopping = thread::spawn("left-servers", move || {
        stop_servers();
        drop(data_dir);
    });
    if let Err(error) = stopping {
        log::warn!("{error}: the data directory stays locked until this process ends");
        std::mem::forget(held);
    }
}

//! What operations work on: a data directory and, if mb is running there, its pipeline.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::overview_cache::OverviewCache;
use super::session::Session;
use crate::config::Config;
use crate::config::steering::Steering;
use crate::history::{self, requests, schema};
use crate::kafka::FetchSettings;
use crate::model::clock;
use crate::model::error::{Error, Result};
use crate::model::live::Running;
use crate::model::sync::{Mutex, MutexGuard};
use crate::observe::overview::SensorView;
use crate::observe::watch::Watch;
use crate::runs::engine::Engine;
use crate::source::cursor_move::CursorMover;
use crate::source::reprocess::WorkSignal;

/// Which topic a running mb reads, from where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    pub pid: u32,
    pub version: String,
    /// The Kafka that mb reads; null for the embedded topic.
    pub bootstrap_server: Option<String>,
    pub topic: String,
    pub group: String,
    pub client: String,
    /// What mb is waiting for before it can read the topic; null once it reads. Until then it is not known
    /// whether the topic is Kafka's or the embedded one.
    #[serde(default)]
    pub waiting_for: Option<String>,
}

impl Status {
    /// The error for whatever only the broker can answer, while mb is waiting for it.
    pub fn not_yet(&self, data_dir: &Path) -> Error {
        Error::Other(format!(
            "the mb (pid {}) that runs on {} is still waiting for {}; try again once it answers, or \
             name a server with --bootstrap-server",
            self.pid,
            data_dir.display(),
            self.waiting_for.as_deref().unwrap_or("nothing")
        ))
    }
}

/// What operations work on.
pub struct Context {
    data_dir: PathBuf,
    stage: Mutex<Arc<Stage>>,
    /// `None` if mb is not running.
    process: Option<Process>,
}

/// How far mb has come.
pub enum Stage {
    /// It is not running; whoever changes a file holds the data directory's lock.
    Stopped,
    /// It is waiting for its broker.
    Starting(Status),
    Running(Status, RunningPipeline),
}

/// What stays the same as long as the process lives, and the overview that all its clients share.
pub struct Process {
    /// Milliseconds since 1970.
    pub started_ms: i64,
    /// The step's name.
    pub step: String,
    /// The settings at the start, which the overview shows until a pipeline runs.
    pub at_start: Steering,
    pub sensors: SensorView,
    pub(super) overview: OverviewCache,
}

/// A running pipeline, as far as operations need it.
pub struct RunningPipeline {
    pub engine: Arc<Engine>,
    /// Wakes the thread that works on redrives and replays.
    pub work_signal: Arc<WorkSignal>,
    /// Moves the cursor of single partitions.
    pub cursor: Arc<CursorMover>,
    pub watch: Arc<Watch>,
}

impl RunningPipeline {
    /// How records are read for people: as soon as there is one.
    pub fn fetch_settings(&self) -> FetchSettings {
        FetchSettings {
            min_bytes: 1,
            max_record_bytes: self.engine.config.queue_bytes,
            isolation: self.engine.config.isolation,
            turn_bytes: None,
        }
    }
}

impl Context {
    /// For a process that has just started, and is waiting for what `status` names.
    pub fn starting(data_dir: PathBuf, status: Status, config: &Config, step: &str) -> Context {
        let sensors = SensorView {
            paused: false,
            sensors: config.sensors,
            tick_runtime_s: config.tick_runtime.as_secs_f64(),
        };
        let process = Process {
            started_ms: clock::now_ms(),
            step: step.to_owned(),
            at_start: Steering::new(config),
            sensors,
            overview: OverviewCache::default(),
        };
        let stage = Mutex::new(Arc::new(Stage::Starting(status)));
        Context { data_dir, stage, process: Some(process) }
    }

    /// For a data directory that no mb is running on: operations that need nothing but its files work.
    pub fn stopped(data_dir: &Path) -> Context {
        let stage = Mutex::new(Arc::new(Stage::Stopped));
        Context { data_dir: data_dir.to_owned(), stage, process: None }
    }

    /// A pipeline is about to run. It is attached before its first thread can queue a run, so that a request
    /// that is cancelled from here on is cancelled in the queue too, not in the file alone.
    pub fn attach(&self, status: Status, pipeline: RunningPipeline) {
        let signal = Arc::clone(&pipeline.work_signal);
        *self.lock() = Arc::new(Stage::Running(status, pipeline));
        if let Some(process) = &self.process {
            process.overview.forget();
        }
        // A request that was written between the pipeline's first look and now has woken nobody.
        signal.raise();
    }

    /// Whether a pipeline is running; until then mb is waiting for its broker.
    pub fn is_attached(&self) -> bool {
        matches!(&*self.stage(), Stage::Running(..))
    }

    pub fn stage(&self) -> Arc<Stage> {
        Arc::clone(&self.lock())
    }

    /// The process that is running.
    ///
    /// # Errors
    /// `Other` if mb is not running.
    pub fn process(&self) -> Result<&Process> {
        self.process.as_ref().ok_or_else(|| self.not_running())
    }

    /// Passes the running pipeline to `ask`.
    ///
    /// # Errors
    /// `Other` if none is running; those of `ask`.
    pub fn with_pipeline<T>(&self, ask: impl FnOnce(&RunningPipeline) -> Result<T>) -> Result<T> {
        match &*self.stage() {
            Stage::Running(_, pipeline) => ask(pipeline),
            Stage::Starting(status) => Err(status.not_yet(&self.data_dir)),
            Stage::Stopped => Err(self.not_running()),
        }
    }

    /// What `read` finds in the running pipeline; `None` if none is running.
    pub fn of_pipeline<T>(&self, read: impl FnOnce(&RunningPipeline) -> T) -> Option<T> {
        match &*self.stage() {
            Stage::Running(_, pipeline) => Some(read(pipeline)),
            Stage::Starting(_) | Stage::Stopped => None,
        }
    }

    /// Makes `change` if no pipeline is running, and lets none start until it is made; `None` if one is
    /// running.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn unless_running<T>(&self, change: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
        let stage = self.lock();
        match &**stage {
            Stage::Running(..) => Ok(None),
            Stage::Starting(_) | Stage::Stopped => change().map(Some),
        }
    }

    /// The runs that workers have now.
    pub fn running(&self) -> Vec<Running> {
        self.of_pipeline(|pipeline| pipeline.engine.live.running()).unwrap_or_default()
    }

    /// Wakes the thread that works on redrives and replays. If none is running, the next start looks at all
    /// requests anyway.
    pub fn signal_new_request(&self) {
        self.of_pipeline(|pipeline| pipeline.work_signal.raise());
    }

    /// The history, to be read.
    ///
    /// # Errors
    /// As `schema::open_read_only`.
    pub fn history<'a>(&self, session: &'a mut Session) -> Result<&'a Connection> {
        session.history(&self.data_dir)
    }

    /// The history, to be changed beside the history thread (SQLite lets one of them write at a time). If mb
    /// is not running, what a killed process left of cancelled requests is ended first.
    ///
    /// # Errors
    /// `Config` if there is no history, which an mb that is waiting for its broker may not have made yet; as
    /// `schema::open`.
    pub fn history_to_change(&self) -> Result<Connection> {
        let path = self.data_dir.join(history::FILE);
        schema::check_exists(&path)?;
        if self.process.is_some() { schema::open(&path) } else { requests::open(&path) }
    }

    /// The error for what only a running mb can do.
    pub fn not_running(&self) -> Error {
        Error::Other(format!(
            "no mb runs on {}: start it, or name its folder with --data-dir",
            self.data_dir.display()
        ))
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Stage>> {
        self.stage.lock()
    }
}

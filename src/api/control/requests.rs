//! The requests on the control socket and their answers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Client, steer, watch};
use crate::api::metrics;
use crate::config::Config;
use crate::config::limits;
use crate::config::steering::Steering;
use crate::history::{self, asked, letters, query, schema};
use crate::kafka::{Backend, Broker, Message, Producer, Sent, require_all};
use crate::model::clock;
use crate::model::error::{Error, Result};
use crate::model::live::{self};
use crate::model::offset::Partition;
use crate::observe::overview::SensorView;
use crate::observe::watch::Watch;
use crate::runs::engine::Engine;
use crate::source::reprocess::Bell;

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// A `Status`.
    Status,
    /// What one look shows: an `overview::Overview`.
    Overview,
    /// The last 15 minutes: an `overview::Series`.
    Series,
    /// All partitions by number: an `overview::LagView`.
    Lag,
    /// The newest ticks: a list of `query::TickRow`.
    Ticks(watch::TickSelection),
    /// How many runs are in which state: a map from state to number, `running` among them.
    RunCounts,
    /// What Prometheus reads: a text.
    Metrics,
    /// The records of a run, read again from the log: a `steer::Records`.
    Records {
        run: i64,
    },
    /// No tick begins by itself any more, and one that goes on ends.
    Pause,
    Resume,
    /// A tick begins now, even where the sensors are paused.
    Tick,
    /// What a tick would read now: a `steer::Preview`. Nothing is queued.
    Preview,
    /// Moves the cursor and the committed offsets, or only says what would be: a list of
    /// `steer::CursorMove`.
    MoveCursor(steer::CursorTarget),
    /// Gives a run up: one that waits is a failed one at its turn, a command that runs is ended, and
    /// its records become dead letters. A `steer::Cancelled`.
    CancelRun {
        id: i64,
        note: String,
    },
    /// Replays the run's range; the request's number as `request`.
    RunAgain {
        id: i64,
    },
    /// Changes settings: the `overview::SettingsView` after it.
    Set(steer::Change),
    /// The newest runs: a list of `query::RunRow`, here and below at most `limits::LIST_ROWS` of
    /// them.
    Runs(query::Selection),
    /// One run: a `query::RunDetail` or null.
    Run {
        id: i64,
    },
    /// The newest dead letters: a list of `letters::LetterRow`.
    DeadLetters(letters::Selection),
    /// How many dead letters have which error: a list of `letters::ErrorCount`.
    DeadLetterErrors(letters::Selection),
    /// One dead letter: a `letters::LetterDetail` or null.
    DeadLetter {
        id: i64,
    },
    /// Redrives dead letters; a list of `letters::Asked`.
    Redrive(letters::Pick),
    /// Discards dead letters; how many.
    Discard {
        pick: letters::Pick,
        note: String,
    },
    /// The newest redrives and replays: a list of `asked::RequestRow`.
    Requests(asked::Selection),
    /// Cancels open ones.
    CancelRequests {
        ids: Vec<i64>,
        note: String,
    },
    /// Replays ranges of the log; the requests' numbers.
    Replay(history::requests::Replay),
    /// The embedded topic's own: what `Broker::topic` answers.
    Topic {
        topic: String,
    },
    CreateTopic {
        topic: String,
        partitions: u32,
    },
    /// Partition, beginning and end of each.
    Watermarks {
        topic: String,
        partitions: Vec<Partition>,
    },
    /// Partition and offset of each: what `Broker::offsets_at` answers.
    OffsetsAt {
        topic: String,
        partitions: Vec<Partition>,
        timestamp_ms: i64,
    },
    /// Partition and offset of each that has one.
    Committed {
        group: String,
        topic: String,
        partitions: Vec<Partition>,
    },
    /// Begins or goes on producing on this connection; answers how many were accepted, from the
    /// first, before the buffer was full, and the delivery so far.
    Produce {
        topic: String,
        messages: Vec<Posted>,
    },
    /// Waits for what was accepted; answers how many are still under way, and the delivery.
    Flush {
        limit_ms: u64,
    },
}

/// What a running mb says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub pid: u32,
    pub version: String,
    /// The Kafka that it reads; `None` for the embedded topic.
    pub bootstrap_server: Option<String>,
    pub topic: String,
    pub group: String,
    pub client: String,
    /// What this mb waits for before it can read the topic; `None` once it does. Until then it is
    /// not known whether that is Kafka's or the embedded one.
    #[serde(default)]
    pub waiting_for: Option<String>,
}

impl Status {
    /// The mb on `data_dir` cannot say yet what only its broker knows.
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

/// A message on its way through the socket, in base64.
#[derive(Debug, Serialize, Deserialize)]
pub struct Posted {
    pub partition: Partition,
    pub key: Option<String>,
    pub value: Option<String>,
}

/// Where the history is read: by the running mb, or in the file where none runs.
pub enum Source {
    Running(Client),
    File(Connection),
}

impl Source {
    /// # Errors
    /// As `Client::connect` and `schema::open_read_only`.
    pub fn of(data_dir: &Path) -> Result<Source> {
        match Client::connect(data_dir)? {
            Some(client) => Ok(Source::Running(client)),
            None => Ok(Source::File(schema::open_read_only(&data_dir.join(history::FILE))?)),
        }
    }
}

/// An error on its way back.
#[derive(Debug, Serialize, Deserialize)]
struct Failure {
    kind: String,
    message: String,
}

/// What answers need.
pub struct Context {
    data_dir: PathBuf,
    stage: Mutex<Arc<Stage>>,
    pub(super) started_ms: i64,
    /// The step's name.
    pub(super) step: String,
    /// As mb was started.
    pub(super) at_start: Steering,
    pub(super) sensors: SensorView,
    pub(super) overview: watch::Cache,
}

/// How far mb is.
pub(crate) struct Stage {
    pub(super) status: Status,
    /// `None` while mb waits for its broker.
    pub(crate) pipeline: Option<Attached>,
}

/// What a pipeline that runs adds to the answers.
pub struct Attached {
    pub engine: Arc<Engine>,
    pub bell: Arc<Bell>,
    pub watch: Arc<Watch>,
}

impl std::ops::Deref for Attached {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        &self.engine
    }
}

/// What a connection keeps between its requests.
#[derive(Default)]
pub struct Session {
    history: Option<Connection>,
    producer: Option<(String, Box<dyn Producer>)>,
}

/// The answer to one request line: `{"ok":…}` or `{"error":…}`.
pub fn answer(context: &Context, session: &mut Session, line: &[u8]) -> Vec<u8> {
    let request = serde_json::from_slice(line)
        .map_err(|cause| Error::Usage(format!("a request that mb does not know: {cause}")));
    let answer = match request.and_then(|request| handle(context, session, request)) {
        Ok(value) => json!({ "ok": value }),
        Err(error) => json!({ "error": Failure::from(&error) }),
    };
    answer.to_string().into_bytes()
}

/// Reads what `answer` wrote.
///
/// # Errors
/// The error in it; `Other` where it is no answer.
pub fn read_answer(line: &[u8]) -> Result<Value> {
    let unreadable = |cause: &dyn std::fmt::Display| {
        Error::Other(format!("an answer that cannot be read: {cause}"))
    };
    let mut answer: Value = serde_json::from_slice(line).map_err(|cause| unreadable(&cause))?;
    if let Some(ok) = answer.get_mut("ok") {
        return Ok(ok.take());
    }
    let failure: Failure =
        serde_json::from_value(answer["error"].take()).map_err(|cause| unreadable(&cause))?;
    Err(failure.into())
}

pub(crate) fn handle(context: &Context, session: &mut Session, request: Request) -> Result<Value> {
    match request {
        Request::Status => Ok(json!(context.stage().status)),
        Request::Overview => watch::overview(context),
        Request::Series => watch::series(context),
        Request::Lag => watch::lag(context),
        Request::Ticks(selection) => watch::ticks(context, session, selection),
        Request::RunCounts => watch::run_counts(context, session),
        Request::Metrics => Ok(json!(metrics::exposition(context)?)),
        Request::Records { run } => steer::records(context, session, run),
        Request::Pause => steer::pause(context),
        Request::Resume => steer::resume(context),
        Request::Tick => steer::tick(context),
        Request::Preview => steer::preview(context),
        Request::MoveCursor(target) => steer::move_cursor(context, target),
        Request::CancelRun { id, note } => steer::cancel_run(context, session, id, &note),
        Request::RunAgain { id } => steer::run_again(context, session, id),
        Request::Set(change) => steer::set(context, change),
        Request::Runs(mut selection) => {
            at_once(&mut selection.limit);
            let history = session.history(context)?;
            // The history does not know which of the queued ones run.
            Ok(json!(query::runs_now(history, &selection, &context.running())?))
        }
        Request::Run { id } => {
            let mut detail = query::run(session.history(context)?, id)?;
            if let Some(detail) = &mut detail
                && let Some(running) = context.running().iter().find(|run| run.id.0 == id)
            {
                detail.run.mark_running(running);
            }
            Ok(json!(detail))
        }
        Request::DeadLetters(mut selection) => {
            at_once(&mut selection.limit);
            Ok(json!(letters::list(session.history(context)?, &selection)?))
        }
        Request::DeadLetterErrors(mut selection) => {
            at_once(&mut selection.limit);
            Ok(json!(letters::errors(session.history(context)?, &selection)?))
        }
        Request::DeadLetter { id } => Ok(json!(letters::letter(session.history(context)?, id)?)),
        Request::Redrive(pick) => {
            let asked = letters::redrive(&mut context.writable()?, &pick)?;
            context.ring();
            Ok(json!(asked))
        }
        Request::Discard { pick, note } => {
            Ok(json!(letters::discard(&mut context.writable()?, &pick, &note)?))
        }
        Request::Requests(selection) => {
            let blocked = context.bell().map_or_else(BTreeMap::new, |bell| bell.blocked());
            Ok(json!(asked::list(session.history(context)?, &selection, &blocked)?))
        }
        Request::CancelRequests { ids, note } => {
            match context.bell() {
                Some(bell) => {
                    asked::check_open(session.history(context)?, &ids)?;
                    bell.cancel(&ids, &note)?;
                }
                None => asked::cancel(&mut context.writable()?, &ids, &note)?,
            }
            Ok(Value::Null)
        }
        Request::Replay(replay) => {
            let requests = history::requests::ask(&mut context.writable()?, &replay)?;
            context.ring();
            Ok(json!(requests))
        }
        Request::Topic { topic } => {
            let info = context.embedded()?.topic(&topic)?;
            Ok(
                json!({ "id": info.id, "cluster_id": info.cluster_id, "partitions": info.partitions }),
            )
        }
        Request::CreateTopic { topic, partitions } => {
            context.embedded()?.create_topic(&topic, partitions)?;
            Ok(Value::Null)
        }
        Request::Watermarks { topic, partitions } => {
            let marks = require_all(context.embedded()?.watermarks(&topic, &partitions)?)?;
            let rows: Vec<_> = marks
                .iter()
                .map(|(partition, marks)| (partition, marks.beginning.get(), marks.end.get()))
                .collect();
            Ok(json!(rows))
        }
        Request::OffsetsAt { topic, partitions, timestamp_ms } => {
            let found = context.embedded()?.offsets_at(&topic, &partitions, timestamp_ms)?;
            let found = require_all(found)?;
            let rows: Vec<_> = found.iter().map(|(p, offset)| (p, offset.get())).collect();
            Ok(json!(rows))
        }
        Request::Committed { group, topic, partitions } => {
            let committed = context.embedded()?.committed(&group, &topic, &partitions)?;
            let rows: Vec<_> = require_all(committed)?
                .into_iter()
                .filter_map(|(partition, offset)| Some((partition, offset?.get())))
                .collect();
            Ok(json!(rows))
        }
        Request::Produce { topic, messages } => {
            let producer = session.producer(context, &topic)?;
            let mut accepted = 0;
            for message in &messages {
                let (key, value) = (decode(&message.key)?, decode(&message.value)?);
                let message = Message {
                    partition: message.partition,
                    key: key.as_deref(),
                    value: value.as_deref(),
                    headers: &[],
                };
                if producer.send(message, limits::STOP_LOOK_INTERVAL)? == Sent::Full {
                    break;
                }
                accepted += 1;
            }
            Ok(json!({ "accepted": accepted, "delivery": producer.delivery() }))
        }
        Request::Flush { limit_ms } => {
            let Some((_, producer)) = &mut session.producer else {
                return Ok(
                    json!({ "under_way": 0, "delivery": crate::kafka::Delivery::default() }),
                );
            };
            let limit = std::time::Duration::from_millis(limit_ms).min(limits::CONTROL_LIMIT);
            let under_way = producer.flush(limit)?;
            Ok(json!({ "under_way": under_way, "delivery": producer.delivery() }))
        }
    }
}

/// Answers are whole in memory: whoever wants more asks for the next page.
fn at_once(limit: &mut u32) {
    *limit = (*limit).min(limits::LIST_ROWS);
}

fn decode(text: &Option<String>) -> Result<Option<Vec<u8>>> {
    let Some(text) = text else { return Ok(None) };
    let bytes = STANDARD.decode(text);
    bytes.map(Some).map_err(|cause| Error::Usage(format!("a message that is not base64: {cause}")))
}

impl Context {
    pub fn new(data_dir: PathBuf, status: Status, config: &Config, step: &str) -> Context {
        Context {
            data_dir,
            stage: Mutex::new(Arc::new(Stage { status, pipeline: None })),
            started_ms: clock::now_ms(),
            step: step.to_owned(),
            at_start: Steering::new(config),
            sensors: SensorView {
                paused: false,
                sensors: config.sensors,
                tick_runtime_s: config.tick_runtime.as_secs_f64(),
            },
            overview: watch::Cache::default(),
        }
    }

    pub fn attach(&self, status: Status, pipeline: Attached) {
        let bell = Arc::clone(&pipeline.bell);
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) =
            Arc::new(Stage { status, pipeline: Some(pipeline) });
        self.overview.forget();
        // For what was asked before this, and after the pipeline looked first.
        bell.ring();
    }

    /// Whether a pipeline runs: until then mb waits for its broker.
    pub(crate) fn is_attached(&self) -> bool {
        self.stage().pipeline.is_some()
    }

    /// Asks the pipeline that runs.
    ///
    /// # Errors
    /// `Other` where none does yet; those of `ask`.
    pub(crate) fn with_pipeline<T>(&self, ask: impl FnOnce(&Attached) -> Result<T>) -> Result<T> {
        let stage = self.stage();
        match &stage.pipeline {
            Some(pipeline) => ask(pipeline),
            None => Err(stage.status.not_yet(&self.data_dir)),
        }
    }

    pub(crate) fn stage(&self) -> Arc<Stage> {
        Arc::clone(&self.stage.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The history for a change that somebody asked for, beside the history's own thread: SQLite lets
    /// one of the two write at a time. An mb that waits for its broker may have none yet.
    pub(super) fn writable(&self) -> Result<Connection> {
        let path = self.data_dir.join(history::FILE);
        schema::check_exists(&path)?;
        schema::open(&path)
    }

    pub(super) fn running(&self) -> Vec<live::Running> {
        self.stage().pipeline.as_ref().map_or_else(Vec::new, |pipeline| pipeline.live.running())
    }

    fn bell(&self) -> Option<Arc<Bell>> {
        self.stage().pipeline.as_ref().map(|pipeline| Arc::clone(&pipeline.bell))
    }

    /// There is a new request; a pipeline that starts looks by itself.
    pub(super) fn ring(&self) {
        if let Some(bell) = self.bell() {
            bell.ring();
        }
    }

    fn embedded(&self) -> Result<Arc<dyn Broker>> {
        let stage = self.stage();
        let Some(pipeline) = &stage.pipeline else {
            return Err(stage.status.not_yet(&self.data_dir));
        };
        if pipeline.broker.backend() == Backend::Embedded {
            return Ok(Arc::clone(&pipeline.broker));
        }
        Err(Error::Config(format!(
            "--client embedded: the mb that runs on {} reads from Kafka, not from the embedded \
             topic; name its server with --bootstrap-server",
            self.data_dir.display()
        )))
    }
}

impl Session {
    pub(super) fn history(&mut self, context: &Context) -> Result<&Connection> {
        if self.history.is_none() {
            self.history = Some(schema::open_read_only(&context.data_dir.join(history::FILE))?);
        }
        Ok(self.history.as_ref().expect("opened just now"))
    }

    fn producer(&mut self, context: &Context, topic: &str) -> Result<&mut dyn Producer> {
        if self.producer.as_ref().is_none_or(|(known, _)| known != topic) {
            let producer = context.embedded()?.producer(topic)?;
            self.producer = Some((topic.to_owned(), producer));
        }
        Ok(self.producer.as_mut().expect("made just now").1.as_mut())
    }
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Failure {
        let (kind, message) = match error {
            Error::UnknownTopic { topic } => ("unknown_topic", topic.clone()),
            Error::Usage(text) => ("usage", text.clone()),
            Error::Config(text) => ("config", text.clone()),
            other => ("other", other.to_string()),
        };
        Failure { kind: kind.to_owned(), message }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure.kind.as_str() {
            "unknown_topic" => Error::UnknownTopic { topic: failure.message },
            "usage" => Error::Usage(failure.message),
            "config" => Error::Config(failure.message),
            _ => Error::Other(failure.message),
        }
    }
}

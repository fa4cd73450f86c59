//! Connects a command to its topic: on a Kafka broker, in the data directory, or through the mb that runs on the
//! data directory.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{info, warn};

use crate::api::context::Status;
use crate::api::operations::overview::GetStatus;
use crate::api::socket::{Client, RemoteTopic};
use crate::cli::flags::Common;
use crate::config::data_dir::DataDir;
use crate::config::limits;
use crate::config::{self, Connection};
use crate::kafka::embedded::{Embedded as EmbeddedTopic, FILE as EMBEDDED_FILE};
use crate::kafka::select::choose;
use crate::kafka::{Broker, TopicInfo};
use crate::model::error::{Error, Result};
use crate::model::offset::Partition;

/// A broker for a command, and the lock on the data directory if the command opened the embedded topic
/// itself.
pub struct Connected {
    pub broker: Arc<dyn Broker>,
    /// As typed; values that were not typed are those that the running mb reported.
    pub connection: Connection,
    data_dir: Option<DataDir>,
}

impl Connected {
    /// Whether the command holds the data directory's lock.
    pub fn holds_data_dir(&self) -> bool {
        self.data_dir.is_some()
    }
}

/// Whether a command may use the embedded topic if no `--bootstrap-server` is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Embedded {
    /// If it exists.
    IfPresent,
    /// Always; it is created if it does not exist.
    Always,
    /// Only with `--client embedded`; it is created if it does not exist.
    IfNamed,
}

/// The broker that the flags describe. Without `--bootstrap-server`, an mb that runs on the data
/// directory says where its topic is, and which topic and group it uses.
///
/// # Errors
/// `Broker` if no broker answers in time; `Config` if the data directory cannot be used.
pub fn broker(common: &Common, embedded: Embedded) -> Result<Connected> {
    broker_under(None, common, embedded)
}

/// As `broker`, for a command that may have locked the data directory already; the result keeps the lock.
///
/// # Errors
/// As `broker`.
pub fn broker_under(
    held: Option<DataDir>,
    common: &Common,
    embedded: Embedded,
) -> Result<Connected> {
    let mut connection = common.connection.clone();
    let may_run = held.is_none() && connection.bootstrap_server.is_none();
    if may_run && let Some(mut client) = Client::connect(&connection.data_dir)? {
        let status = started(&mut client, &connection.data_dir)?;
        if !common.topic_given {
            connection.topic = status.topic;
        }
        if !common.group_given {
            connection.group = status.group;
        }
        match status.bootstrap_server {
            None => {
                let broker = Arc::new(RemoteTopic::new(&connection.data_dir));
                return Ok(Connected { broker, connection, data_dir: None });
            }
            Some(_) if connection.client == config::Client::Embedded => {}
            Some(server) => connection.bootstrap_server = Some(server),
        }
    }
    let is_there = connection.data_dir.join(EMBEDDED_FILE).exists();
    let wants_embedded = match embedded {
        Embedded::IfPresent => is_there,
        Embedded::Always => true,
        Embedded::IfNamed => connection.client == config::Client::Embedded,
    };
    let lock = RefCell::new(held);
    let open_embedded = || -> Result<Arc<dyn Broker>> {
        if embedded == Embedded::IfPresent && !is_there {
            return Err(Error::Config(format!(
                "--data-dir: there is no embedded topic in {}; name the directory that mb runs with",
                connection.data_dir.display()
            )));
        }
        let held = lock.take();
        let data_dir = held.map_or_else(|| DataDir::lock(&connection.data_dir), Ok)?;
        let topics = EmbeddedTopic::open(data_dir.path(), connection.embedded_retention_bytes)?;
        lock.replace(Some(data_dir));
        Ok(Arc::new(topics))
    };
    let keep_waiting = |wait: Duration| {
        // A signal ends the process: commands set no handler.
        std::thread::sleep(wait);
        true
    };
    let chosen = choose(&connection, wants_embedded, false, &keep_waiting, &open_embedded)?;
    let broker = chosen.broker;
    Ok(Connected { broker, connection, data_dir: lock.into_inner() })
}

/// The status of the running mb once it has reached its broker. An mb that is still starting gets
/// `limits::LOCK_LIMIT` for that.
///
/// # Errors
/// `Other` if it still waits for its broker then.
fn started(client: &mut Client, data_dir: &Path) -> Result<Status> {
    let deadline = Instant::now() + limits::LOCK_LIMIT;
    loop {
        let status = client.perform(GetStatus {})?;
        match status.waiting_for {
            None => return Ok(status),
            Some(_) if Instant::now() >= deadline => return Err(status.not_yet(data_dir)),
            Some(_) => std::thread::sleep(limits::LOCK_LOOK_INTERVAL),
        }
    }
}

/// All partitions of the topic, or the one that `--partition` names.
///
/// # Errors
/// `Config` if the topic has no such partition.
pub fn partitions(info: &TopicInfo, only: Option<Partition>) -> Result<Vec<Partition>> {
    match only {
        None => Ok(info.partitions.clone()),
        Some(partition) if info.partitions.contains(&partition) => Ok(vec![partition]),
        Some(partition) => {
            let last = info.partitions.last().copied().unwrap_or_default();
            Err(Error::Config(format!(
                "--partition: got {partition}, expected one of topic {}, 0 to {last}",
                info.name
            )))
        }
    }
}

/// Warns of partitions whose leader is away or cannot be reached: messages for them wait, and the client library
/// only says that some connection failed.
pub fn warn_of_unreachable(broker: &dyn Broker, topic: &TopicInfo) {
    let answers = match broker.watermarks(&topic.name, &topic.partitions) {
        Ok(answers) => answers,
        Err(error) => return warn!("{error}"),
    };
    // Partitions of one leader have one cause, but for their number.
    let failed: Vec<_> = answers.into_values().filter_map(Result::err).collect();
    if let Some(first) = failed.first() {
        let (failed, all) = (failed.len(), topic.partitions.len());
        warn!(
            "{failed} of {all} partitions cannot be written now, and their messages wait: {first}"
        );
    }
}

/// The topic, which is created if it does not exist.
///
/// # Errors
/// If the broker does not answer, refuses to create the topic, or does not know it afterwards.
pub fn topic_or_create(broker: &dyn Broker, connection: &Connection) -> Result<TopicInfo> {
    match broker.topic(&connection.topic) {
        Err(Error::UnknownTopic { .. }) => {}
        known => return known,
    }
    let (topic, partitions) = (&connection.topic, connection.partitions);
    broker.create_topic(topic, partitions)?;
    info!("created topic {topic} with {partitions} partitions");
    // Brokers learn of a new topic one after another, so the next answer may still be "unknown".
    let deadline = Instant::now() + limits::TOPIC_CREATION_LIMIT;
    loop {
        match broker.topic(topic) {
            Ok(info) if !info.partitions.is_empty() => return Ok(info),
            Ok(_) | Err(Error::UnknownTopic { .. }) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Ok(_) => return Err(Error::UnknownTopic { topic: topic.clone() }),
            Err(error) => return Err(error),
        }
    }
}

//! mb's own small request client: whether a broker answers and what it serves, topics and their
//! ids, creating topics, a group's committed offsets, headers of stored batches. Plain TCP, every
//! call under a deadline. Records are read and written by the backends, not here.

mod reader;
mod session;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use kafka_protocol::messages::ApiKey;

use self::session::{Cause, Session, Versions};
use crate::broker::TopicInfo;
use crate::error::{Error, Result};

/// What a broker said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The server of the list that answered, `HOST:PORT`.
    pub address: String,
    versions: Versions,
}

impl Probe {
    /// The lowest and highest version of an API (by its number in the protocol) that is served.
    pub fn versions(&self, api: i16) -> Option<(i16, i16)> {
        self.versions.get(&api).copied()
    }

    /// Whether the broker still serves what crate kafka sends, version 0 of everything: brokers up
    /// to 3.9 do. (4.x announces version 0 of Produce for the sake of old clients, but has it not.)
    pub fn serves_version_0(&self) -> bool {
        [ApiKey::Fetch, ApiKey::ListOffsets, ApiKey::Metadata, ApiKey::Produce]
            .into_iter()
            .all(|api| self.versions(api as i16).is_some_and(|(low, _)| low == 0))
    }
}

/// The client. It may be shared: each call takes a connection of its own.
#[derive(Debug)]
pub struct Wire {
    servers: Vec<String>,
    /// Connections that wait for their next use, by address.
    idle: Mutex<HashMap<String, Session>>,
}

impl Wire {
    /// `servers` is `HOST:PORT[,HOST:PORT…]`; nothing is connected yet.
    pub fn new(servers: &str) -> Wire {
        let servers = servers.split(',').map(|server| server.trim().to_owned()).collect();
        Wire { servers, idle: Mutex::default() }
    }

    /// The server list, as given.
    pub fn servers(&self) -> String {
        self.servers.join(",")
    }

    /// Asks each server in turn for its API versions until one answers, all within `limit`.
    ///
    /// # Errors
    /// `Broker`, with each server's cause.
    pub fn probe(&self, limit: Duration) -> Result<Probe> {
        todo!("{limit:?}")
    }

    /// The topic's id, cluster and partitions. Never creates the topic.
    ///
    /// # Errors
    /// `UnknownTopic`; `Broker` where it cannot be asked.
    pub fn topic(&self, topic: &str) -> Result<TopicInfo> {
        todo!("{topic}")
    }

    /// Creates the topic with the broker's own replication factor, and waits until every partition
    /// has a leader. Fine where it exists.
    ///
    /// # Errors
    /// `Broker`, with the broker's name for what is wrong.
    pub fn create_topic(&self, topic: &str, partitions: u32) -> Result<()> {
        todo!("{topic} {partitions}")
    }
}

//! mb's own small request client: whether a broker answers and what it serves, topics and their
//! ids, creating topics, where partitions begin and end, a group's committed offsets, offsets by time,
//! headers of stored batches.
//! Plain TCP, every call under a deadline. Records are read and written by the backends, not here.

mod group;
mod metadata;
mod reader;
mod session;
mod stored;
mod times;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kafka_protocol::ResponseError;
use kafka_protocol::messages::ApiKey;

use self::reader::Broken;
use self::session::{Cause, Session, Versions};
pub use self::stored::StoredBatch;
use crate::model::error::{Error, Result};
use crate::model::offset::Partition;

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

type Leaders = HashMap<(String, Partition), String>;

/// What was learned of the cluster, so that it is reached when the servers named are gone.
#[derive(Debug, Default)]
struct Cluster {
    /// The address that answered last.
    answered: Option<String>,
    /// Every broker's, as the newest answer lists them.
    brokers: Vec<String>,
}

/// The client. It may be shared: each call takes a connection of its own.
#[derive(Debug)]
pub struct Wire {
    servers: Vec<String>,
    cluster: Mutex<Cluster>,
    /// Connections that wait for their next use, by address.
    idle: Mutex<HashMap<String, Session>>,
    /// Addresses of the groups' coordinators and the partitions' leaders, until one proves wrong.
    coordinators: Mutex<BTreeMap<String, String>>,
    leaders: Mutex<Leaders>,
    /// By topic, the partitions that had no leader when their offsets were last asked for.
    leaderless: Mutex<BTreeMap<String, BTreeSet<Partition>>>,
}

impl Wire {
    /// `servers` is `HOST:PORT[,HOST:PORT…]`; nothing is connected yet.
    pub fn new(servers: &str) -> Wire {
        let servers = servers.split(',').map(|server| server.trim().to_owned()).collect();
        Wire {
            servers,
            cluster: Mutex::default(),
            idle: Mutex::default(),
            coordinators: Mutex::default(),
            leaders: Mutex::default(),
            leaderless: Mutex::default(),
        }
    }

    /// The server list, as given.
    pub fn servers(&self) -> String {
        self.servers.join(",")
    }

    /// The servers that were named and every broker known by now, comma-separated; one that answered
    /// lately comes first.
    pub fn known_servers(&self) -> String {
        self.addresses().join(",")
    }

    fn addresses(&self) -> Vec<String> {
        let cluster = self.cluster();
        let mut addresses = Vec::new();
        for address in cluster.answered.iter().chain(&self.servers).chain(&cluster.brokers) {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        addresses
    }

    /// Remembers the brokers that an answer lists. One that is just shutting down lists none.
    fn learn<'a>(&self, brokers: impl Iterator<Item = &'a String>) {
        let brokers: Vec<_> = brokers.cloned().collect();
        if !brokers.is_empty() {
            self.cluster().brokers = brokers;
        }
    }

    fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks each server in turn for its API versions until one answers, all within `limit`.
    ///
    /// # Errors
    /// `Broker`, with each server's cause.
    pub fn probe(&self, limit: Duration) -> Result<Probe> {
        self.forget_connections();
        let (address, versions) = self
            .anywhere(Instant::now() + limit, |session, _| Ok(session.versions.clone()))
            .map_err(|cause| Error::broker(format!("reach Kafka at {}", self.servers()), cause))?;
        Ok(Probe { address, versions })
    }

    /// Asks the servers in turn until one answers, the one that answered last before all, then the
    /// other brokers of the cluster; returns its address too. Each gets its share of the time that
    /// is left. An error tells of the servers that were named.
    fn anywhere<T>(
        &self,
        deadline: Instant,
        mut ask: impl FnMut(&mut Session, Instant) -> Result<T, Cause>,
    ) -> Result<(String, T), Cause> {
        let mut causes = Vec::new();
        let addresses = self.addresses();
        for (index, address) in addresses.iter().enumerate() {
            let now = Instant::now();
            let left = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
            let share = now + deadline.saturating_duration_since(now) / left;
            match self.on(address, share, |session| ask(session, share)) {
                Ok(answer) => {
                    self.cluster().answered = Some(address.clone());
                    return Ok((address.clone(), answer));
                }
                Err(cause) if !self.servers.contains(address) => drop(cause),
                Err(cause) if self.servers.len() == 1 => causes.push(cause),
                Err(cause) => causes.push(format!("{address}: {cause}")),
            }
        }
        Err(causes.join("; "))
    }

    /// Asks one broker, over an idle connection if there is one and it still works.
    fn on<T>(
        &self,
        address: &str,
        deadline: Instant,
        mut ask: impl FnMut(&mut Session) -> Result<T, Cause>,
    ) -> Result<T, Cause> {
        let idle = self.idle().remove(address);
        if let Some(mut session) = idle
            && let Ok(answer) = ask(&mut session)
        {
            self.idle().insert(address.to_owned(), session);
            return Ok(answer);
        }
        let mut session = Session::open(address, deadline)?;
        let answer = ask(&mut session)?;
        self.idle().insert(address.to_owned(), session);
        Ok(answer)
    }

    /// The next calls connect anew.
    pub fn forget_connections(&self) {
        self.idle().clear();
    }

    fn idle(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn broken(Broken: Broken) -> Cause {
    "the answer is broken: no Kafka, or bytes were changed on the way".into()
}

/// Kafka's name for an error code, as in `NotEnoughReplicas`.
fn error_name(code: i16) -> String {
    match ResponseError::try_from_code(code) {
        Some(ResponseError::Unknown(code)) => format!("error {code}"),
        Some(error) => error.to_string(),
        None => "no error".to_owned(),
    }
}

/// Whether the error passes by itself; Kafka counts an unknown topic among those, mb does not: a
/// deleted topic does not come back.
fn retriable(code: i16) -> bool {
    ResponseError::try_from_code(code).is_some_and(|error| {
        error.is_retriable() && error != ResponseError::UnknownTopicOrPartition
    })
}

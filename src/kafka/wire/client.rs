//! The client: which servers there are, which connections are open, and which of them a request takes.
//!
//! What is requested lives in the other files of `wire`; one connection's frames live in `session`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use kafka_protocol::messages::ApiKey;

use super::connect::{Cause, closed};
use super::sasl;
use super::session::{Session, Versions};
use crate::model::error::{Error, Result};
use crate::model::offset::Partition;
use crate::model::sync::Mutex;

/// A connection that was not used for this long is replaced by a new one. Brokers close idle connections
/// after 10 minutes (connections.max.idle.ms); a request that is sent while the broker closes fails, and a
/// commit that fails may not be sent again, since nobody knows whether it was stored.
pub(super) const IDLE_LIMIT: Duration = Duration::from_secs(9 * 60);

/// What a broker said about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The server of the list that answered, `HOST:PORT`.
    pub address: String,
    pub(super) versions: Versions,
}

impl Probe {
    /// The lowest and highest version of an API that the broker serves.
    fn serves(&self, api: ApiKey) -> Option<(i16, i16)> {
        self.versions.get(&(api as i16)).copied()
    }

    /// Whether the broker still serves what crate kafka sends: version 0 of everything. Brokers up to 3.9
    /// do. Kafka 4 removed these versions (KIP-896); it still announces version 0 of Produce, because old
    /// librdkafka clients look for it (KAFKA-18659), but does not serve it.
    pub fn serves_version_0(&self) -> bool {
        [ApiKey::Fetch, ApiKey::ListOffsets, ApiKey::Metadata, ApiKey::Produce]
            .into_iter()
            .all(|api| self.serves(api).is_some_and(|(low, _)| low == 0))
    }

    /// Whether `Wire::record_batch_header` works: version 4 of Fetch is the first that returns batches as they are
    /// stored (record format 2, Kafka 0.11).
    pub fn shows_record_batches(&self) -> bool {
        self.serves(ApiKey::Fetch).is_some_and(|(_, high)| high >= 4)
    }
}

/// What was learned about the cluster. With it the cluster is reached even if the configured servers are
/// gone.
#[derive(Debug, Default)]
struct Cluster {
    /// The address that answered last.
    answered: Option<String>,
    /// Every broker's address, as the newest answer lists them.
    brokers: Vec<String>,
}

/// Partition leaders' addresses, by topic and partition.
pub(super) type Leaders = HashMap<(String, Partition), String>;

/// The client. It may be shared between threads: each call takes a connection of its own.
#[derive(Debug)]
pub struct Wire {
    servers: Vec<String>,
    cluster: Mutex<Cluster>,
    /// Connections that are not in use, by address.
    pub(super) idle: Mutex<HashMap<String, Session>>,
    pub(super) idle_limit: Duration,
    /// Addresses of the groups' coordinators and the partitions' leaders, until one proves wrong.
    pub(super) coordinators: Mutex<BTreeMap<String, String>>,
    pub(super) leaders: Mutex<Leaders>,
    /// By topic, the partitions that had no leader when their offsets were last requested.
    pub(super) leaderless: Mutex<BTreeMap<String, BTreeSet<Partition>>>,
}

impl Wire {
    /// `servers` is `HOST:PORT[,HOST:PORT…]`; nothing is connected yet.
    pub fn new(servers: &str) -> Wire {
        let servers = servers.split(',').map(|server| server.trim().to_owned()).collect();
        Wire {
            servers,
            cluster: Mutex::default(),
            idle: Mutex::default(),
            idle_limit: IDLE_LIMIT,
            coordinators: Mutex::default(),
            leaders: Mutex::default(),
            leaderless: Mutex::default(),
        }
    }

    /// The configured servers.
    pub fn servers(&self) -> String {
        self.servers.join(",")
    }

    /// The configured servers and every broker known by now, comma-separated; the one that answered last
    /// comes first.
    pub fn known_servers(&self) -> String {
        self.addresses().join(",")
    }

    fn addresses(&self) -> Vec<String> {
        let cluster = self.cluster.lock();
        let mut addresses = Vec::new();
        for address in cluster.answered.iter().chain(&self.servers).chain(&cluster.brokers) {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        addresses
    }

    /// Remembers the brokers that an answer lists. A broker that is shutting down lists none.
    pub(super) fn learn<'a>(&self, brokers: impl Iterator<Item = &'a String>) {
        let brokers: Vec<_> = brokers.cloned().collect();
        if !brokers.is_empty() {
            self.cluster.lock().brokers = brokers;
        }
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

    /// Asks one server after another until one answers: the one that answered last, then the configured
    /// ones, then the cluster's other brokers. Returns its address too. Each gets its share of the remaining
    /// time. An error lists the causes of the configured servers only.
    pub(super) fn anywhere<T>(
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
                    self.cluster.lock().answered = Some(address.clone());
                    return Ok((address.clone(), answer));
                }
                Err(cause) if !self.servers.contains(address) => drop(cause),
                Err(cause) if self.servers.len() == 1 => causes.push(cause),
                Err(cause) => causes.push(format!("{address}: {cause}")),
            }
        }
        Err(causes.join("; "))
    }

    /// Sends a harmless request to one broker, over an idle connection if there is one. If that connection
    /// fails, the request is sent again over a new one: the broker may have closed the old one meanwhile.
    pub(super) fn on<T>(
        &self,
        address: &str,
        deadline: Instant,
        mut ask: impl FnMut(&mut Session) -> Result<T, Cause>,
    ) -> Result<T, Cause> {
        if let Some(mut session) = self.take_idle(address)
            && let Ok(answer) = ask(&mut session)
        {
            self.keep(address, session);
            return Ok(answer);
        }
        self.on_new(address, deadline, ask)
    }

    /// Sends a request to one broker that must not be sent twice unnoticed, such as a commit: if a
    /// connection fails after the request was written, the first copy may still be carried out, even after a
    /// later commit.
    pub(super) fn once<T>(
        &self,
        address: &str,
        deadline: Instant,
        ask: impl FnOnce(&mut Session) -> Result<T, Cause>,
    ) -> Result<T, Cause> {
        match self.take_idle(address) {
            Some(mut session) => {
                let answer = ask(&mut session)?;
                self.keep(address, session);
                Ok(answer)
            }
            None => self.on_new(address, deadline, ask),
        }
    }

    fn on_new<T>(
        &self,
        address: &str,
        deadline: Instant,
        ask: impl FnOnce(&mut Session) -> Result<T, Cause>,
    ) -> Result<T, Cause> {
        let mut session =
            Session::open(address, deadline).map_err(|cause| self.advertised(address, cause))?;
        // A broker with a SASL listener answers ApiVersions, and closes the connection at anything else.
        let answer = ask(&mut session).map_err(|cause| match cause == closed() {
            true => sasl::is_expected(address, deadline).unwrap_or(cause),
            false => cause,
        })?;
        self.keep(address, session);
        Ok(answer)
    }

    /// The cause for a broker that cannot be reached, which says so if nobody but the cluster named this address: a
    /// user looks for the mistake in `--bootstrap-server`, and it is in the broker's configuration.
    fn advertised(&self, address: &str, cause: Cause) -> Cause {
        let is_configured = self.servers.iter().any(|server| server == address);
        if is_configured {
            return cause;
        }
        format!(
            "the broker advertises {address} as its address, which cannot be reached from here: {cause} (is that \
             broker down, or its advertised.listeners wrong?)"
        )
    }

    /// Reaches the brokers at the addresses that the cluster advertises, until one answers: reading, writing and
    /// commits go to these addresses, whatever server was configured.
    ///
    /// # Errors
    /// `Broker`, with each address and its cause, if none can be reached.
    pub fn reach_brokers(&self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let doing = || format!("use Kafka at {}", self.servers());
        let brokers = self.brokers(deadline).map_err(|cause| Error::broker(doing(), cause))?;
        if brokers.is_empty() {
            return Err(Error::broker(
                doing(),
                "it lists no broker: it is starting, or shutting down",
            ));
        }
        let mut causes = Vec::new();
        for (index, address) in brokers.values().enumerate() {
            let now = Instant::now();
            let left = u32::try_from(brokers.len() - index).unwrap_or(u32::MAX);
            let share = now + deadline.saturating_duration_since(now) / left;
            match self.on(address, share, |_| Ok(())) {
                Ok(()) => return Ok(()),
                Err(cause) => causes.push(cause),
            }
        }
        Err(Error::broker(doing(), causes.join("; ")))
    }

    /// An idle connection that the broker has not closed, as far as can be seen.
    fn take_idle(&self, address: &str) -> Option<Session> {
        let session = self.idle.lock().remove(address)?;
        (session.idle_for() < self.idle_limit && session.is_open()).then_some(session)
    }

    fn keep(&self, address: &str, mut session: Session) {
        session.rest();
        self.idle.lock().insert(address.to_owned(), session);
    }

    /// The next calls use new connections.
    pub fn forget_connections(&self) {
        self.idle.lock().clear();
    }
}

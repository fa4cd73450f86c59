//! Which backend speaks to the log, and why. The backends do not know of the choice, and nothing outside `kafka`
//! knows which one was chosen.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::limits::{FIRST_CONTACT_LIMIT, LOCAL_PROBE_LIMIT, PROBE_LIMIT, SENSOR_BACKOFF};
use crate::config::servers::parse_servers;
use crate::config::{Client, Connection};
use crate::kafka::Broker;
use crate::kafka::crate_kafka::CrateKafka;
#[cfg(feature = "rdkafka")]
use crate::kafka::librdkafka::Librdkafka;
use crate::kafka::wire::Wire;
use crate::model::error::{Class, Error, Result};

/// Where mb looks for Kafka if no server is configured.
pub const LOCAL_SERVER: &str = "localhost:9092";

/// A backend, connected.
pub struct Chosen {
    pub broker: Arc<dyn Broker>,
    /// For the first log line, as in "--client auto, and rdkafka is built in".
    pub reason: String,
}

/// Chooses a backend and connects it. `wants_embedded`: the embedded topic may be used if no Kafka is found
/// (`--rate` or `--client embedded`). `keep_waiting` sleeps at most the given time and returns false once a stop
/// was requested; then the last error is returned.
///
/// # Errors
/// `Broker` if the first contact fails for `FIRST_CONTACT_LIMIT` (with `wait_for_broker` it is retried for as long
/// as `keep_waiting` returns true); `Config` if the client does not fit the broker or is not built in; `Other`,
/// with a hint, if no server is configured and none is found.
pub fn choose(
    connection: &Connection,
    wants_embedded: bool,
    wait_for_broker: bool,
    keep_waiting: &dyn Fn(Duration) -> bool,
    open_embedded: &dyn Fn() -> Result<Arc<dyn Broker>>,
) -> Result<Chosen> {
    if connection.client == Client::Embedded {
        let reason = "--client embedded".to_owned();
        return Ok(Chosen { broker: open_embedded()?, reason });
    }
    let (client, mut reason) = kafka_client(connection.client)?;
    // A library's list was checked, and may have blanks or names of listeners in it.
    let named = connection.bootstrap_server.as_deref().map(parse_servers).transpose();
    let named =
        named.map_err(|rule| Error::Config(format!("--bootstrap-server: expected {rule}")))?;
    let servers = match &named {
        Some(servers) => servers.as_str(),
        None => match Wire::new(LOCAL_SERVER).probe(LOCAL_PROBE_LIMIT) {
            Ok(_) => {
                reason.push_str("; no --bootstrap-server, and Kafka answers on localhost:9092");
                LOCAL_SERVER
            }
            Err(cause) if wants_embedded && connection.client == Client::Auto => {
                log::debug!("{cause}");
                return Ok(Chosen {
                    broker: open_embedded()?,
                    reason: "no --bootstrap-server, and no Kafka answers on \
                             localhost:9092"
                        .to_owned(),
                });
            }
            Err(_) if wait_for_broker => LOCAL_SERVER,
            Err(cause) => return Err(nowhere(&cause)),
        },
    };
    let contact = Contact {
        servers,
        group: &connection.group,
        limit: (!wait_for_broker).then_some(FIRST_CONTACT_LIMIT),
        keep_waiting,
    };
    let broker = contact.make(&|wire| connect(client, servers, wire))?;
    Ok(Chosen { broker, reason })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KafkaClient {
    #[cfg(feature = "rdkafka")]
    Rdkafka,
    Kafka,
}

/// The Kafka client that the setting selects in this build, and why.
fn kafka_client(setting: Client) -> Result<(KafkaClient, String)> {
    let (client, reason) = match setting {
        Client::Kafka => (KafkaClient::Kafka, "--client kafka"),
        #[cfg(feature = "rdkafka")]
        Client::Rdkafka => (KafkaClient::Rdkafka, "--client rdkafka"),
        #[cfg(feature = "rdkafka")]
        Client::Auto | Client::Embedded => {
            (KafkaClient::Rdkafka, "--client auto, and rdkafka is built in")
        }
        #[cfg(not(feature = "rdkafka"))]
        Client::Rdkafka => {
            return Err(Error::Config(
                "--client: got rdkafka, expected auto, kafka or embedded: this mb was built \
                 without rdkafka (cargo build --features rdkafka)"
                    .into(),
            ));
        }
        #[cfg(not(feature = "rdkafka"))]
        Client::Auto | Client::Embedded => {
            (KafkaClient::Kafka, "--client auto, and rdkafka is not built in")
        }
    };
    Ok((client, reason.to_owned()))
}

fn connect(client: KafkaClient, servers: &str, wire: Arc<Wire>) -> Result<Arc<dyn Broker>> {
    match client {
        #[cfg(feature = "rdkafka")]
        KafkaClient::Rdkafka => connect_rdkafka(servers, wire),
        KafkaClient::Kafka => Ok(Arc::new(CrateKafka::connect(servers, wire)?)),
    }
}

#[cfg(feature = "rdkafka")]
fn connect_rdkafka(servers: &str, wire: Arc<Wire>) -> Result<Arc<dyn Broker>> {
    Ok(Arc::new(Librdkafka::connect(servers, wire)?))
}

fn nowhere(cause: &Error) -> Error {
    Error::Other(format!(
        "no broker: {cause}; name one with --bootstrap-server HOST:PORT, or use the embedded \
         topic with --client embedded (mb --rate 1000 does so by itself)"
    ))
}

/// The first contact with Kafka.
struct Contact<'a> {
    servers: &'a str,
    group: &'a str,
    /// `None`: without a limit.
    limit: Option<Duration>,
    keep_waiting: &'a dyn Fn(Duration) -> bool,
}

impl Contact<'_> {
    /// Tries until it has connected, or the limit is reached. A broker that is starting refuses connections for a
    /// while. A coordinator that answers but is still loading the group's offsets is always waited for: going on
    /// without its offsets would start the group anew.
    fn make(
        &self,
        connect: &dyn Fn(Arc<Wire>) -> Result<Arc<dyn Broker>>,
    ) -> Result<Arc<dyn Broker>> {
        let started = Instant::now();
        let wire = Arc::new(Wire::new(self.servers));
        let mut failures = 0;
        let mut logged = String::new();
        let mut last_full_try = None;
        loop {
            let left = self.limit.map(|limit| limit.saturating_sub(started.elapsed()));
            let limit = PROBE_LIMIT.min(left.unwrap_or(PROBE_LIMIT)).max(SENSOR_BACKOFF.first);
            let reached = wire
                .probe(limit)
                .and_then(|_| connect(Arc::clone(&wire)))
                .and_then(|broker| wire.reach_brokers(limit).map(|()| broker));
            let loading = reached.is_ok() && wire.is_loading(self.group);
            let failed = match reached {
                Ok(_) if loading => Error::broker(
                    format!("start with Kafka at {}", self.servers),
                    format!("it is still loading the offsets of group {}", self.group),
                ),
                Ok(broker) => return Ok(broker),
                Err(cause) => cause,
            };
            if failed.class() != Class::Retry {
                return Err(failed);
            }
            let left = self.limit.map(|limit| limit.saturating_sub(started.elapsed()));
            if left.is_some_and(|left| left.is_zero()) && !loading {
                // The error of a try that had its full time is more accurate than "no answer in time" after a
                // shortened one.
                return Err(last_full_try.filter(|_| limit < PROBE_LIMIT).unwrap_or(failed));
            }
            if self.limit.is_none() || loading {
                let text = failed.to_string();
                if text != logged {
                    log::warn!("waiting for the broker: {text}");
                    logged = text;
                }
            }
            let pause = SENSOR_BACKOFF.pause(failures, fastrand::f64());
            failures += 1;
            // The last try is made exactly when the limit is reached.
            let pause = if loading { pause } else { pause.min(left.unwrap_or(pause)) };
            if !(self.keep_waiting)(pause) {
                return Err(failed);
            }
            if limit == PROBE_LIMIT {
                last_full_try = Some(failed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;
    use std::net::TcpListener;

    use super::*;

    fn closed_port() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    }

    fn never(_: Arc<Wire>) -> Result<Arc<dyn Broker>> {
        Err(Error::Other("connected".into()))
    }

    #[test]
    fn the_first_contact_ends_at_its_limit_with_the_cause() {
        let servers = closed_port();
        let contact = Contact {
            servers: &servers,
            group: "mb",
            limit: Some(Duration::from_millis(300)),
            keep_waiting: &|pause| {
                std::thread::sleep(pause);
                true
            },
        };
        let started = Instant::now();
        let failed = contact.make(&never).err().unwrap();
        assert_eq!(failed.exit_code(), 1);
        assert!(failed.to_string().contains("connection refused"), "{failed}");
        assert!(started.elapsed() < Duration::from_secs(3));
    }

    #[test]
    fn waiting_for_the_broker_goes_on_until_the_stop() {
        let servers = closed_port();
        let pauses = RefCell::new(Vec::new());
        let contact = Contact {
            servers: &servers,
            group: "mb",
            limit: None,
            keep_waiting: &|pause| {
                pauses.borrow_mut().push(pause);
                pauses.borrow().len() < 20
            },
        };
        assert!(contact.make(&never).is_err());
        let pauses = pauses.into_inner();
        assert_eq!(pauses.len(), 20);
        let longest = SENSOR_BACKOFF.longest;
        assert!(pauses.iter().all(|pause| *pause <= longest));
        // At the cap, too, they differ: many mb that wait for one broker do not all ask it at once.
        let at_the_cap: BTreeSet<_> = pauses[10..].iter().collect();
        assert!(at_the_cap.len() > 1 && pauses[10..].iter().all(|pause| *pause >= longest / 2));
    }

    #[test]
    fn the_embedded_topic_is_opened_if_it_is_requested() {
        let connection = Connection { client: Client::Embedded, ..Connection::default() };
        let opened =
            choose(&connection, true, false, &|_| true, &|| Err(Error::Other("opened".into())));
        assert_eq!(opened.err(), Some(Error::Other("opened".into())));
    }

    #[test]
    fn each_setting_has_its_reason() {
        let (client, reason) = kafka_client(Client::Kafka).unwrap();
        assert_eq!(client, KafkaClient::Kafka);
        assert_eq!(reason, "--client kafka");
        let auto = kafka_client(Client::Auto).unwrap().1;
        let built_in = cfg!(feature = "rdkafka");
        assert_eq!(auto.contains("rdkafka is built in"), built_in, "{auto}");
        assert_eq!(kafka_client(Client::Rdkafka).is_ok(), built_in);
    }
}

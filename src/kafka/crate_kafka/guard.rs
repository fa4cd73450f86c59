//! Crate kafka's client on a thread of its own, so that its calls can be abandoned. What the client is used for,
//! and what its errors mean, is in the other files of this folder.
//!
//! The crate has no time limit for connecting, keeps connections that have failed, and never compares correlation
//! ids: it would take a late answer for the answer to the next request. Hence the rule: after any error, and after
//! a call that was abandoned, the client and its thread are never used again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::kafka::client::{FetchOffset, KafkaClient};
use ::kafka::error::KafkaCode;
use crossbeam_channel::{Receiver, Sender, bounded, never, select};

use super::fault::{Fault, check_served};
use crate::config::limits::PROBE_LIMIT;
use crate::kafka::wire::Wire;
use crate::model::error::{Error, Result};
use crate::model::thread::{Thread, spawn};

/// The crate's idle timeout is never reached: it would replace a connection in the middle of a call, and connect
/// without a time limit.
const NEVER_IDLE: Duration = Duration::from_secs(365 * 24 * 3600);

type Job = Box<dyn FnOnce(&mut KafkaClient) + Send>;

struct Client {
    jobs: Sender<Job>,
    thread: Thread<()>,
}

/// A call under way, with the client that is busy with it. Dropping it abandons the call.
pub(super) struct Pending<T> {
    client: Client,
    answer: Receiver<::kafka::Result<T>>,
}

impl<T> Pending<T> {
    /// Whether the answer is here.
    pub(super) fn is_answered(&self) -> bool {
        !self.answer.is_empty()
    }
}

/// Creates clients for one topic: a new one whenever the last one failed.
pub(super) struct Guard {
    servers: String,
    wire: Arc<Wire>,
    topic: Arc<str>,
    /// Numbers the threads of one `CrateKafka`, so that no two have the same name.
    threads: Arc<AtomicU64>,
    client: Option<Client>,
}

impl Guard {
    pub(super) fn new(
        servers: &str,
        wire: Arc<Wire>,
        topic: &str,
        threads: Arc<AtomicU64>,
    ) -> Guard {
        Guard { servers: servers.to_owned(), wire, topic: topic.into(), threads, client: None }
    }

    /// Runs `job` on the client's thread and waits for it at most `limit`, or until `stop` closes.
    pub(super) fn call<T: Send + 'static>(
        &mut self,
        limit: Duration,
        stop: &Receiver<()>,
        job: impl FnOnce(&mut KafkaClient) -> ::kafka::Result<T> + Send + 'static,
    ) -> Result<T, Fault> {
        let pending = self.begin(job)?;
        self.finish(pending, limit, stop)
    }

    /// Runs `job` on the client's thread, and does not wait for it. Another call meanwhile creates a client of its
    /// own.
    pub(super) fn begin<T: Send + 'static>(
        &mut self,
        job: impl FnOnce(&mut KafkaClient) -> ::kafka::Result<T> + Send + 'static,
    ) -> Result<Pending<T>, Fault> {
        let client = match self.client.take() {
            Some(client) => client,
            None => self.start().map_err(Fault::Own)?,
        };
        let (sender, answer) = bounded(1);
        let topic = Arc::clone(&self.topic);
        let job: Job = Box::new(move |client| {
            let outcome = prepare(client, &topic).and_then(|()| job(client));
            // Nobody receives it if the call was abandoned.
            let _ = sender.send(outcome);
        });
        if client.jobs.send(job).is_err() {
            return Err(ended(client));
        }
        Ok(Pending { client, answer })
    }

    /// Waits for a call at most `limit`, or until `stop` closes.
    pub(super) fn finish<T: Send + 'static>(
        &mut self,
        pending: Pending<T>,
        limit: Duration,
        stop: &Receiver<()>,
    ) -> Result<T, Fault> {
        let Pending { client, answer } = pending;
        select! {
            recv(answer) -> outcome => match outcome {
                Ok(Ok(value)) => {
                    self.client = Some(client);
                    Ok(value)
                }
                Ok(Err(cause)) => {
                    close(client);
                    Err(Fault::Client(cause))
                }
                Err(_) => Err(ended(client)),
            },
            recv(stop) -> _ => Err(Fault::Stopped),
            default(limit) => {
                // Other connections of the same age are most likely silent too.
                self.wire.forget_connections();
                Err(Fault::Own(Error::broker(
                    format!("finish a call to Kafka at {}", self.servers),
                    format!("no answer within {} s", limit.as_secs()),
                )))
            }
        }
    }

    /// Like `finish`; only the limit ends it.
    pub(super) fn finish_to_end<T: Send + 'static>(
        &mut self,
        pending: Pending<T>,
        limit: Duration,
    ) -> Result<T, Fault> {
        self.finish(pending, limit, &never())
    }

    /// Like `call`; only the limit ends it.
    pub(super) fn call_to_end<T: Send + 'static>(
        &mut self,
        limit: Duration,
        job: impl FnOnce(&mut KafkaClient) -> ::kafka::Result<T> + Send + 'static,
    ) -> Result<T, Fault> {
        self.call(limit, &never(), job)
    }

    /// Discards the client: the next call creates a new one, with fresh metadata.
    pub(super) fn discard(&mut self) {
        if let Some(client) = self.client.take() {
            close(client);
        }
    }

    /// A new client's thread. First `wire` makes sure that a broker answers, since the crate would hang without one,
    /// and that the topic is there.
    fn start(&self) -> Result<Client> {
        check_served(&self.wire.probe(PROBE_LIMIT)?)?;
        self.wire.topic(&self.topic)?;
        // The server that has just answered comes first, because the crate connects without a time limit.
        let hosts = self.wire.known_servers().split(',').map(str::to_owned).collect();
        let topic = Arc::clone(&self.topic);
        let (jobs, queue) = bounded::<Job>(1);
        let number = self.threads.fetch_add(1, Ordering::Relaxed);
        let thread = spawn(format!("kafka-client-{number}"), move || {
            let mut client = KafkaClient::new(hosts);
            client.set_client_id(format!("mb-{topic}"));
            client.set_connection_idle_timeout(NEVER_IDLE);
            for job in queue {
                job(&mut client);
            }
        })?;
        Ok(Client { jobs, thread })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.discard();
    }
}

/// Loads a new client's metadata, and connects it to every leader by a request that changes nothing. Later calls
/// work on these connections or fail. Without this, a produce call that was abandoned while it was connecting
/// could still connect and write much later.
///
/// The client asks about all topics. A question that names one creates it on a broker with
/// `auto.create.topics.enable`, and so would undo the deletion of a topic that was there a moment before.
fn prepare(client: &mut KafkaClient, topic: &str) -> ::kafka::Result<()> {
    if !client.topics().contains(topic) {
        client.load_metadata_all()?;
        if !client.topics().contains(topic) {
            return Err(::kafka::Error::Kafka(KafkaCode::UnknownTopicOrPartition));
        }
        client.fetch_offsets(&[topic], FetchOffset::Latest)?;
    }
    Ok(())
}

/// Ends an idle client, whose thread ends at once.
fn close(client: Client) {
    drop(client.jobs);
    // A panic of the thread was reported by the call in which it happened.
    let _ = client.thread.join();
}

/// The fault for a client whose thread has ended by itself: a panic in the crate.
fn ended(client: Client) -> Fault {
    drop(client.jobs);
    Fault::Own(match client.thread.join() {
        Err(Error::Panic { message, .. }) => Error::broker("use crate kafka", message),
        Err(cause) => cause,
        Ok(()) => Error::broker("use crate kafka", "its thread ended"),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn no_question_names_the_topic_because_a_broker_would_create_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let broker = thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            let mut size = [0; 4];
            connection.read_exact(&mut size).unwrap();
            let mut request = vec![0; u32::from_be_bytes(size) as usize];
            connection.read_exact(&mut request).unwrap();
            request
        });
        let mut client = KafkaClient::new(vec![address]);
        prepare(&mut client, "a-deleted-topic").unwrap_err();
        let request = broker.join().unwrap();
        assert_eq!(request[..4], [0, 3, 0, 0], "Metadata, version 0");
        assert_eq!(request[request.len() - 4..], [0; 4], "an empty list of topics: all of them");
    }
}

//! Crate kafka's client on a thread of its own, whose calls can be given up. What is asked of the
//! client, and what its errors mean, is known by the other files of `pure`.
//!
//! The crate has no limit on connecting, keeps connections that failed, and never compares
//! correlation ids, so a late answer would be read as the next one. Hence: after any error, and
//! after a call that was given up, the client and its thread are never used again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::kafka::client::{FetchOffset, KafkaClient};
use crossbeam_channel::{Receiver, Sender, bounded, never, select};

use crate::config::limits::PROBE_LIMIT;
use crate::kafka::wire::Wire;
use crate::model::error::{Error, Result};
use crate::model::thread::{Thread, spawn};

/// Connections never count as idle: a silent new one in the middle of a call would have no limit.
const NEVER_IDLE: Duration = Duration::from_secs(365 * 24 * 3600);

/// What a call ended with, where not with its answer.
#[derive(Debug)]
pub(super) enum Fault {
    Client(::kafka::Error),
    /// Everything else that mb says itself.
    Own(Error),
    /// The stop channel was closed.
    Stopped,
}

type Job = Box<dyn FnOnce(&mut KafkaClient) + Send>;

struct Client {
    jobs: Sender<Job>,
    thread: Thread<()>,
}

/// A call under way, with the client that is busy with it: dropped, the call is given up.
pub(super) struct Pending<T> {
    client: Client,
    answer: Receiver<::kafka::Result<T>>,
}

impl<T> Pending<T> {
    /// Whether nothing is to be waited for any more.
    pub(super) fn is_answered(&self) -> bool {
        !self.answer.is_empty()
    }
}

/// Makes clients for one topic, one after another as they break.
pub(super) struct Guard {
    servers: String,
    wire: Arc<Wire>,
    topic: Arc<str>,
    /// Numbers the threads of one `Pure`, so that no two have one name.
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

    /// Runs `job` on the client's thread, and does not wait for it. Until it is finished another call
    /// makes a client of its own.
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
            // Nobody waits any more where the call was given up.
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
                // Connections of its age are as silent, most likely.
                self.wire.forget_connections();
                Err(Fault::Own(Error::broker(
                    format!("finish a call to Kafka at {}", self.servers),
                    format!("no answer within {} s", limit.as_secs()),
                )))
            }
        }
    }

    /// Like `finish`, and nothing but its limit ends it.
    pub(super) fn finish_to_end<T: Send + 'static>(
        &mut self,
        pending: Pending<T>,
        limit: Duration,
    ) -> Result<T, Fault> {
        self.finish(pending, limit, &never())
    }

    /// Like `call`, and nothing but its limit ends it.
    pub(super) fn call_to_end<T: Send + 'static>(
        &mut self,
        limit: Duration,
        job: impl FnOnce(&mut KafkaClient) -> ::kafka::Result<T> + Send + 'static,
    ) -> Result<T, Fault> {
        self.call(limit, &never(), job)
    }

    /// Throws the client away: the next call makes a new one, with fresh metadata.
    pub(super) fn discard(&mut self) {
        if let Some(client) = self.client.take() {
            close(client);
        }
    }

    /// A new client's thread. Whatever would make the crate hang, or create the topic by asking
    /// about it, is found out first.
    fn start(&self) -> Result<Client> {
        super::check_served(&self.wire.probe(PROBE_LIMIT)?)?;
        self.wire.topic(&self.topic)?;
        // The one that has just answered comes first: the crate connects without a limit.
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

/// Loads a new client's metadata, and connects it to every leader by a question that changes
/// nothing: a later call then either works on these connections or fails, and none that was given
/// up can connect and write long after.
fn prepare(client: &mut KafkaClient, topic: &str) -> ::kafka::Result<()> {
    if !client.topics().contains(topic) {
        client.load_metadata(&[topic])?;
        client.fetch_offsets(&[topic], FetchOffset::Latest)?;
    }
    Ok(())
}

/// Ends an idle client; its thread has nothing to wait for.
fn close(client: Client) {
    drop(client.jobs);
    // Its panic, if any, was the answer to the call that met it.
    let _ = client.thread.join();
}

/// A client whose thread ended by itself: a panic in the crate.
fn ended(client: Client) -> Fault {
    drop(client.jobs);
    Fault::Own(match client.thread.join() {
        Err(Error::Panic { message, .. }) => Error::broker("use crate kafka", message),
        Err(cause) => cause,
        Ok(()) => Error::broker("use crate kafka", "its thread ended"),
    })
}

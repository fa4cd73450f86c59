//! Writes dead letters to their topic, one run after another. What happens to the run afterwards, and when a
//! failed write is retried, is decided in `deliver`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::limits;
use crate::kafka::{Broker, Message, Producer, Sent};
use crate::model::clock;
use crate::model::crash;
use crate::model::error::Error;
use crate::model::offset::{Partition, RunKey};
use crate::runs::undelivered::Undelivered;

use super::message::{self, Origin};
use super::topic::DeadLetterTopic;

/// Owns the connection to the dead-letter topic.
pub struct DeadLetterWriter {
    broker: Arc<dyn Broker>,
    topic: Arc<DeadLetterTopic>,
    /// `None` before the first write and after an error: a client that has failed is not used again.
    link: Option<Link>,
    /// The causes that were logged since the last write that worked.
    logged: BTreeSet<String>,
}

struct Link {
    producer: Box<dyn Producer>,
    partitions: Vec<Partition>,
}

/// Why dead letters were not written.
#[derive(Debug)]
pub enum NotWritten {
    /// mb is stopping, and the next start repeats the run.
    Stopping,
    /// They are to be written later.
    Failed(Error),
}

impl From<Error> for NotWritten {
    fn from(error: Error) -> NotWritten {
        NotWritten::Failed(error)
    }
}

impl DeadLetterWriter {
    pub fn new(broker: Arc<dyn Broker>, topic: Arc<DeadLetterTopic>) -> DeadLetterWriter {
        DeadLetterWriter { broker, topic, link: None, logged: BTreeSet::new() }
    }

    /// Writes the dead letters of a run, and returns when the topic's in-sync replicas have all of them.
    /// After an error some may be there: they are written again, with the same headers.
    ///
    /// # Errors
    /// Why not all of them are there.
    pub fn write(
        &mut self,
        key: &RunKey,
        undelivered: &Undelivered,
        is_stopping: &dyn Fn() -> bool,
    ) -> Result<(), NotWritten> {
        if is_stopping() {
            return Err(NotWritten::Stopping);
        }
        let written = self.try_write(key, undelivered, is_stopping);
        if written.is_err() {
            self.link = None;
        }
        written
    }

    fn try_write(
        &mut self,
        key: &RunKey,
        undelivered: &Undelivered,
        is_stopping: &dyn Fn() -> bool,
    ) -> Result<(), NotWritten> {
        let (broker, topic) = (self.broker.as_ref(), self.topic.as_ref());
        let Link { producer, partitions } = match &mut self.link {
            Some(link) => link,
            none => none.insert(connect(broker, topic)?),
        };
        // A partition's dead letters stay together and in order, whatever their keys.
        let place = usize::try_from(key.partition).unwrap_or_default() % partitions.len();
        let partition = partitions[place];
        let failed_before = producer.delivery().failed;
        let mut patience = Patience::new(is_stopping);
        let attempts = undelivered.attempt.number;
        let origin = Origin { key, group: &topic.group, step: &topic.step, attempts };
        let dead_letters = &undelivered.dead_letters;
        for record in dead_letters.batch.records() {
            let reason = dead_letters.reasons.get(&record.offset);
            let why = if reason.is_some() { message::NAMED } else { dead_letters.why };
            let text = reason.map_or(undelivered.error(), String::as_str);
            let headers = message::headers(&origin, &record, why, text);
            let envelope =
                (!broker.capabilities().headers).then(|| message::envelope(&record, &headers));
            let borrowed: Vec<(&str, Option<&[u8]>)> =
                headers.iter().map(|(name, value)| (&**name, value.as_deref())).collect();
            let message = match &envelope {
                Some(value) => {
                    Message { partition, key: record.key, value: Some(value), headers: &[] }
                }
                None => {
                    Message { partition, key: record.key, value: record.value, headers: &borrowed }
                }
            };
            while producer.send(message, limits::STOP_LOOK_INTERVAL)? == Sent::Full {
                patience.check(producer.as_mut(), topic)?;
            }
        }
        while producer.flush(limits::STOP_LOOK_INTERVAL)? > 0 {
            patience.check(producer.as_mut(), topic)?;
        }
        let delivery = producer.delivery();
        if delivery.failed > failed_before {
            let cause = delivery.last_error.unwrap_or_else(|| "it was refused".to_owned());
            return Err(failed(topic, &cause).into());
        }
        crash::point("dead-letter-acked");
        Ok(())
    }

    /// Logs why the dead letters of a run were not written; returns the pause before the next try. If 200
    /// runs wait for the same dead topic, its error is logged once, not 200 times.
    pub fn failed(&mut self, key: &RunKey, undelivered: &Undelivered, cause: &Error) -> Duration {
        let cause = cause.to_string();
        if self.logged.len() < limits::DEAD_LETTER_CAUSES && self.logged.insert(cause.clone()) {
            log::error!(
                "run {key}: {cause}; its {} dead letter(s) wait, and its offsets are not committed, \
                 until topic {} accepts them (check that it exists and accepts records of their size, or \
                 start mb with --dead-letter store); retried at least every {:?}",
                undelivered.dead_letters.batch.len(),
                self.topic.name,
                limits::DEAD_LETTER_BACKOFF.longest
            );
        }
        limits::DEAD_LETTER_BACKOFF.pause(undelivered.tries, fastrand::f64())
    }

    /// Dead letters were written, and none wait any more: says so if a failure was logged before.
    pub fn recovered(&mut self) {
        if !self.logged.is_empty() {
            self.logged.clear();
            log::info!("topic {} accepts dead letters again: none waits any more", self.topic.name);
        }
    }
}

fn connect(broker: &dyn Broker, topic: &DeadLetterTopic) -> Result<Link, Error> {
    let partitions = broker.topic(&topic.name)?.partitions;
    if partitions.is_empty() {
        return Err(failed(topic, "it has no partitions"));
    }
    Ok(Link { producer: broker.producer(&topic.name)?, partitions })
}

fn failed(topic: &DeadLetterTopic, cause: &str) -> Error {
    Error::broker(format!("write dead letters to topic {}", topic.name), cause)
}

/// A time limit that starts anew whenever the broker acknowledges a message.
struct Patience<'a> {
    is_stopping: &'a dyn Fn() -> bool,
    acknowledged: u64,
    until: Instant,
}

impl Patience<'_> {
    fn new(is_stopping: &dyn Fn() -> bool) -> Patience<'_> {
        let until = clock::now() + limits::DEAD_LETTER_LIMIT;
        Patience { is_stopping, acknowledged: 0, until }
    }

    fn check(
        &mut self,
        producer: &mut dyn Producer,
        topic: &DeadLetterTopic,
    ) -> Result<(), NotWritten> {
        if (self.is_stopping)() {
            return Err(NotWritten::Stopping);
        }
        let delivery = producer.delivery();
        if delivery.acknowledged > self.acknowledged {
            self.acknowledged = delivery.acknowledged;
            self.until = clock::now() + limits::DEAD_LETTER_LIMIT;
        }
        if clock::now() < self.until {
            return Ok(());
        }
        let cause = delivery.last_error.map_or_else(String::new, |cause| format!(" ({cause})"));
        let waited = limits::DEAD_LETTER_LIMIT;
        Err(failed(topic, &format!("nothing was acknowledged for {waited:?}{cause}")).into())
    }
}

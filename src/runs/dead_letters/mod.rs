//! Dead letters on a topic (`--dead-letter topic:NAME|both`): written and acknowledged before their
//! run is settled, so before its offsets go on.
//!
//! How one letter reads is in `letter`; those in the history (`--dead-letter store`) are written by
//! `history`, with the run's outcome.

mod letter;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::limits;
use crate::config::{Config, DeadLetterTo};
use crate::history::{AttemptRecord, DeadLetters};
use crate::kafka::{Broker, Message, Producer, Sent};
use crate::model::clock;
use crate::model::crash;
use crate::model::error::{Error, Result};
use crate::model::offset::{Partition, RunKey};
use crate::model::run::RunId;
use crate::model::sync::{Mutex, MutexGuard};

use letter::Origin;

/// The topic that dead letters go to; shared by the workers.
pub struct DeadLetterTopic {
    broker: Arc<dyn Broker>,
    name: String,
    group: String,
    step: String,
    /// Whether the history has them too.
    pub stores: bool,
    /// One run's letters at a time; `None` after an error.
    link: Mutex<Option<Link>>,
    waiting: Mutex<Waiting>,
}

struct Link {
    producer: Box<dyn Producer>,
    partitions: Vec<Partition>,
}

/// Runs whose letters could not be written so far, and what the log has said of them.
#[derive(Default)]
struct Waiting {
    runs: BTreeMap<RunId, Undelivered>,
    said: BTreeSet<String>,
}

/// What is left of a run whose step is through with it, but whose letters are not written.
#[derive(Debug)]
pub struct Undelivered {
    pub attempt: AttemptRecord,
    pub letters: DeadLetters,
    /// Tries to write them that failed.
    pub tries: u32,
}

/// Why letters are not written.
#[derive(Debug)]
pub enum Undone {
    /// mb is stopping: the run is made again at the next start.
    Stopping,
    /// To be tried again.
    Failed(Error),
}

impl From<Error> for Undone {
    fn from(error: Error) -> Undone {
        Undone::Failed(error)
    }
}

/// Makes the topic where it is to be used and is not there.
///
/// # Errors
/// `Broker` where it cannot be asked or made.
pub fn prepare(broker: &dyn Broker, config: &Config) -> Result<()> {
    let Some(name) = config.dead_letter_topic() else { return Ok(()) };
    let partitions = config.connection.partitions;
    match broker.topic(&name) {
        Err(Error::UnknownTopic { .. }) => {
            broker.create_topic(&name, partitions)?;
            log::info!("created topic {name} for dead letters, with {partitions} partitions");
            Ok(())
        }
        answer => answer.map(|_| ()),
    }
}

impl DeadLetterTopic {
    /// `None` where dead letters go to no topic.
    pub fn new(
        broker: &Arc<dyn Broker>,
        config: &Config,
        step: &str,
    ) -> Option<Arc<DeadLetterTopic>> {
        let name = config.dead_letter_topic()?;
        let stores = matches!(config.dead_letter, DeadLetterTo::Both(_));
        log::info!(
            "dead letters go to topic {name}{}",
            if stores { " and to the history" } else { "" }
        );
        Some(Arc::new(DeadLetterTopic {
            broker: Arc::clone(broker),
            name,
            group: config.connection.group.clone(),
            step: step.to_owned(),
            stores,
            link: Mutex::default(),
            waiting: Mutex::default(),
        }))
    }

    /// What is to be written of a run that was given back by `keep`.
    pub fn take(&self, run: RunId) -> Option<Undelivered> {
        lock(&self.waiting).runs.remove(&run)
    }

    /// Writes a run's letters, and returns when the topic's in-sync replicas have them all. After an
    /// error some may be there: they come again, with the same headers.
    ///
    /// # Errors
    /// Why they are not all there.
    pub fn deliver(
        &self,
        key: &RunKey,
        attempts: u32,
        error: &str,
        letters: &DeadLetters,
        stopping: &dyn Fn() -> bool,
    ) -> Result<(), Undone> {
        let mut link = lock(&self.link);
        if stopping() {
            return Err(Undone::Stopping);
        }
        let origin = Origin { key, group: &self.group, step: &self.step, attempts };
        let written = self.write(&mut link, &origin, error, letters, stopping);
        if written.is_err() {
            // After any error a new client.
            *link = None;
        }
        written
    }

    fn write(
        &self,
        link: &mut Option<Link>,
        origin: &Origin<'_>,
        error: &str,
        letters: &DeadLetters,
        stopping: &dyn Fn() -> bool,
    ) -> Result<(), Undone> {
        let Link { producer, partitions } = match link {
            Some(link) => link,
            None => {
                let partitions = self.broker.topic(&self.name)?.partitions;
                if partitions.is_empty() {
                    return Err(self.failed("it has no partitions").into());
                }
                link.insert(Link { producer: self.broker.producer(&self.name)?, partitions })
            }
        };
        // A partition's letters stay together and in order, whatever their keys.
        let place = usize::try_from(origin.key.partition).unwrap_or_default() % partitions.len();
        let partition = partitions[place];
        let failed_before = producer.delivery().failed;
        let mut patience = Patience::new(stopping);
        for record in letters.batch.records() {
            let reason = letters.reasons.get(&record.offset);
            let why = if reason.is_some() { letter::NAMED } else { letters.why };
            let message = reason.map_or(error, String::as_str);
            let headers = letter::headers(origin, &record, why, message);
            let envelope =
                (!self.broker.capabilities().headers).then(|| letter::envelope(&record, &headers));
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
                patience.look(producer.as_mut(), self)?;
            }
        }
        while producer.flush(limits::STOP_LOOK_INTERVAL)? > 0 {
            patience.look(producer.as_mut(), self)?;
        }
        let delivery = producer.delivery();
        if delivery.failed > failed_before {
            let cause = delivery.last_error.unwrap_or_else(|| "it was refused".to_owned());
            return Err(self.failed(&cause).into());
        }
        crash::point("dead-letter-acked");
        Ok(())
    }

    /// Keeps what is to be written of a run, says why it is not, and when to try again.
    pub fn keep(
        &self,
        run: RunId,
        key: &RunKey,
        mut undelivered: Undelivered,
        cause: &Error,
    ) -> Instant {
        let pause = limits::DEAD_LETTER_BACKOFF.pause(undelivered.tries, fastrand::f64());
        undelivered.tries = undelivered.tries.saturating_add(1);
        let letters = undelivered.letters.batch.len();
        let mut waiting = lock(&self.waiting);
        waiting.runs.insert(run, undelivered);
        let cause = cause.to_string();
        // One word for each cause, however many runs wait for it.
        if waiting.said.len() < limits::DEAD_LETTER_CAUSES && waiting.said.insert(cause.clone()) {
            log::error!(
                "run {key}: {cause}; its {letters} dead letter(s) wait, and its offsets are not \
                 committed, until topic {} takes them (see that it exists and takes records of their \
                 size, or start mb with --dead-letter store); tried again each {:?} at least",
                self.name,
                limits::DEAD_LETTER_BACKOFF.longest
            );
        }
        clock::now() + pause
    }

    /// A run's letters are written that were not before.
    pub fn delivered_late(&self) {
        let mut waiting = lock(&self.waiting);
        if waiting.runs.is_empty() && !waiting.said.is_empty() {
            waiting.said.clear();
            log::info!("topic {} takes dead letters again: none waits any more", self.name);
        }
    }

    fn failed(&self, cause: &str) -> Error {
        Error::broker(format!("write dead letters to topic {}", self.name), cause)
    }
}

/// Waits for a broker as long as something moves.
struct Patience<'a> {
    stopping: &'a dyn Fn() -> bool,
    acknowledged: u64,
    until: Instant,
}

impl Patience<'_> {
    fn new(stopping: &dyn Fn() -> bool) -> Patience<'_> {
        let until = clock::now() + limits::DEAD_LETTER_LIMIT;
        Patience { stopping, acknowledged: 0, until }
    }

    fn look(&mut self, producer: &mut dyn Producer, topic: &DeadLetterTopic) -> Result<(), Undone> {
        if (self.stopping)() {
            return Err(Undone::Stopping);
        }
        let delivery = producer.delivery();
        if delivery.acknowledged > self.acknowledged {
            self.acknowledged = delivery.acknowledged;
            self.until = clock::now() + limits::DEAD_LETTER_LIMIT;
        }
        if self.until.saturating_duration_since(clock::now()) > Duration::ZERO {
            return Ok(());
        }
        let cause = delivery.last_error.map_or_else(String::new, |cause| format!(" ({cause})"));
        let waited = limits::DEAD_LETTER_LIMIT;
        Err(topic.failed(&format!("nothing was acknowledged for {waited:?}{cause}")).into())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

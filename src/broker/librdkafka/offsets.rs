//! Questions about offsets: where partitions begin and end, what a group has committed. A long-lived
//! client for each group, replaced after every error. Commits are not sent from here.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::Offset as Place;

use super::native::{Client, Failure};
use super::{context, known_partitions, new_client, settings};
use crate::broker::Watermarks;
use crate::broker::wire::Wire;
use crate::error::{Error, Result};
use crate::limits;
use crate::offset::{Offset, Partition};
use crate::thread;

/// Between two tries at a leader or coordinator that is still starting or moving.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// The group of the client that asks about partitions only. It is in the map and in librdkafka's
/// settings, and nothing is ever read or written of it.
const NO_GROUP: &str = "mb";

pub(super) struct Offsets {
    /// Knows the cluster's brokers.
    wire: Arc<Wire>,
    /// By group.
    clients: Mutex<BTreeMap<String, Arc<Held>>>,
}

/// A client that, dropped by its last user, closes on a thread of its own: that has no time limit,
/// and the user's may be over. Nobody waits for it.
struct Held(Option<Client>);

impl Deref for Held {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.0.as_ref().expect("it is there until the drop")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let client = self.0.take();
        if let Err(error) = thread::spawn("close-offsets", move || drop(client)) {
            log::warn!("librdkafka's client was not closed cleanly: {error}");
        }
    }
}

impl Offsets {
    pub(super) fn new(wire: Arc<Wire>) -> Offsets {
        Offsets { wire, clients: Mutex::default() }
    }

    pub(super) fn watermarks(
        &self,
        topic: &str,
        partitions: &[Partition],
    ) -> Result<BTreeMap<Partition, Watermarks>> {
        let doing = || format!("read the beginning and end offsets of topic {topic}");
        if partitions.is_empty() {
            return Ok(BTreeMap::new());
        }
        let deadline = Instant::now() + limits::BROKER_CALL_LIMIT;
        let (beginnings, ends) = loop {
            let client = self.client(None)?;
            let place = |place| places(&client, topic, partitions, place, deadline);
            let failed = match place(Place::Beginning).and_then(|low| Ok((low, place(Place::End)?)))
            {
                Ok(both) => break both,
                Err(failed) => failed,
            };
            self.retire(&client);
            let passes = match failed.code {
                // Also what librdkafka says of a partition that has no leader just now.
                Code::UnknownPartition | Code::UnknownTopicOrPartition | Code::UnknownTopic => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let known = known_partitions(&client, topic, left)?;
                    known.is_none_or(|known| partitions.iter().all(|p| known.contains(p)))
                }
                code => leader_is_moving(code),
            };
            if !(passes && Instant::now() + RETRY_INTERVAL < deadline) {
                return Err(Error::broker(doing(), with_what_was_heard(&client, failed)));
            }
            sleep(RETRY_INTERVAL);
        };
        partitions
            .iter()
            .map(|partition| match (beginnings.get(partition), ends.get(partition)) {
                (Some(&beginning), Some(&end)) => Ok((*partition, Watermarks { beginning, end })),
                _ => Err(Error::broker(doing(), format!("no answer for partition {partition}"))),
            })
            .collect()
    }

    pub(super) fn committed(
        &self,
        group: &str,
        topic: &str,
        partitions: &[Partition],
    ) -> Result<BTreeMap<Partition, Offset>> {
        let doing = format!("read the offsets of group {group} in topic {topic}");
        if partitions.is_empty() {
            return Ok(BTreeMap::new());
        }
        self.ask(group, &doing, |client, limit| {
            let mut list = TopicPartitionList::with_capacity(partitions.len());
            for partition in partitions {
                list.add_partition(topic, *partition);
            }
            let mut committed = BTreeMap::new();
            for element in client.committed_offsets(list, limit).map_err(failure)?.elements() {
                element.error().map_err(failure)?;
                if let Place::Offset(offset) = element.offset() {
                    committed.insert(element.partition(), Offset::new(offset));
                }
            }
            Ok(committed)
        })
    }

    /// One call about a group, tried again while its coordinator is starting or moving. `call`
    /// gets the client and the time that is left.
    fn ask<T>(
        &self,
        group: &str,
        doing: &str,
        call: impl Fn(&Client, Duration) -> Result<T, Failure>,
    ) -> Result<T> {
        let deadline = Instant::now() + limits::BROKER_CALL_LIMIT;
        loop {
            let client = self.client(Some(group))?;
            let failed = match call(&client, deadline.saturating_duration_since(Instant::now())) {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            self.retire(&client);
            let passes =
                coordinator_is_busy(failed.code) && Instant::now() + RETRY_INTERVAL < deadline;
            if !passes {
                return Err(Error::broker(doing, with_what_was_heard(&client, failed)));
            }
            sleep(RETRY_INTERVAL);
        }
    }

    /// The group's client; without a group any that is there.
    fn client(&self, group: Option<&str>) -> Result<Arc<Held>> {
        let mut clients = self.clients();
        let found = match group {
            Some(group) => clients.get(group),
            None => clients.values().next(),
        };
        if let Some(client) = found {
            // Its log lines and errors would pile up otherwise; a call brings its own error.
            drop(context::serve(client));
            return Ok(Arc::clone(client));
        }
        let mut config = settings::offsets(&self.wire.known_servers());
        // Without a group librdkafka 2.12 does not ask for one's offsets (or crashes where the
        // coordinator has moved: ListConsumerGroupOffsets). It does not join the group by this.
        config.set("group.id", group.unwrap_or(NO_GROUP));
        let client = Arc::new(Held(Some(new_client(&config)?)));
        clients.insert(group.unwrap_or(NO_GROUP).to_owned(), Arc::clone(&client));
        Ok(client)
    }

    /// Uses `client` no more: its view of the cluster may be wrong.
    fn retire(&self, client: &Arc<Held>) {
        self.clients().retain(|_, current| !Arc::ptr_eq(current, client));
    }

    fn clients(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Held>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every partition's first or next offset, with one request to each broker.
fn places(
    client: &Client,
    topic: &str,
    partitions: &[Partition],
    place: Place,
    deadline: Instant,
) -> Result<BTreeMap<Partition, Offset>, Failure> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        // In a request for offsets by time, Kafka's logical offsets are logical times.
        list.add_partition(topic, *partition).set_offset(place).map_err(failure)?;
    }
    let left = deadline.saturating_duration_since(Instant::now());
    let answer = client.offsets_for_times(list, left).map_err(failure)?;
    let mut places = BTreeMap::new();
    for element in answer.elements() {
        element.error().map_err(failure)?;
        if let Place::Offset(offset) = element.offset() {
            places.insert(element.partition(), Offset::new(offset));
        }
    }
    Ok(places)
}

/// A new partition has no leader for a moment, and one that moves gets another.
fn leader_is_moving(code: Code) -> bool {
    matches!(
        code,
        Code::NotLeaderForPartition
            | Code::LeaderNotAvailable
            | Code::ReplicaNotAvailable
            | Code::UnknownLeaderEpoch
            | Code::FencedLeaderEpoch
            | Code::OffsetNotAvailable
    )
}

fn coordinator_is_busy(code: Code) -> bool {
    matches!(
        code,
        Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
            | Code::WaitingForCoordinator
    )
}

/// A call that had no answer in time does not say why; the client's connections have said it.
fn with_what_was_heard(client: &Client, failed: Failure) -> String {
    // That all are down is said of a single connection that failed, too.
    let mut heard = context::serve(client).into_iter().rev();
    match heard.find(|heard| heard.code != Code::AllBrokersDown) {
        Some(heard) => format!("{}: {}", failed.reason, heard.reason),
        None => failed.reason,
    }
}

fn failure(error: KafkaError) -> Failure {
    Failure {
        code: error.rdkafka_error_code().unwrap_or(Code::Unknown),
        reason: context::cause(&error),
    }
}

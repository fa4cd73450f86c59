//! The cluster and one topic as a broker describes them; creating a topic.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreateTopicsRequest};
use kafka_protocol::messages::metadata_request::{MetadataRequest, MetadataRequestTopic};
use kafka_protocol::messages::{ApiKey, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::client::Wire;
use super::codes::{error_name, retriable};
use super::connect::Cause;
use super::reader::{Read, Reader};
use super::session::{Request, Session, broken};
use crate::config::limits::BROKER_CALL_LIMIT;
use crate::kafka::TopicInfo;
use crate::model::error::{Error, Result};
use crate::model::offset::{Epoch, Partition};

/// The largest answer, in bytes: a topic of 100,000 partitions fits.
const ANSWER_BYTES: usize = 16 << 20;

/// The wait before a broker is asked again whether the topic is ready.
const LEADER_POLL_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
pub(super) struct Metadata {
    /// `HOST:PORT` by node.
    pub(super) brokers: BTreeMap<i32, String>,
    pub(super) cluster_id: Option<String>,
    pub(super) controller: i32,
    /// Kafka's error code of the topic; 0 is none.
    pub(super) error: i16,
    pub(super) topic_id: u128,
    /// The cluster keeps its own state in it.
    pub(super) is_internal: bool,
    pub(super) partitions: Vec<PartitionMetadata>,
}

#[derive(Debug)]
pub(super) struct PartitionMetadata {
    pub(super) error: i16,
    pub(super) index: Partition,
    /// The leader's node; negative if there is none.
    pub(super) leader: i32,
    /// `None` if the answer has none that can be relied on.
    pub(super) epoch: Option<Epoch>,
}

impl Metadata {
    /// Why the topic cannot be used yet; `None` if every partition has a leader.
    fn not_ready(&self, partitions: usize) -> Option<String> {
        if self.error != 0 {
            return Some(error_name(self.error));
        }
        if self.partitions.len() < partitions {
            return Some(format!("{} of {partitions} partitions are there", self.partitions.len()));
        }
        let leaderless = self.partitions.iter().find(|one| one.error != 0 || one.leader < 0)?;
        Some(format!("partition {} has no leader", leaderless.index))
    }
}

impl Wire {
    /// The topic's id, cluster and partitions. Never creates the topic.
    ///
    /// # Errors
    /// `UnknownTopic`; `Broker` if no broker answers.
    pub fn topic(&self, topic: &str) -> Result<TopicInfo> {
        let deadline = Instant::now() + BROKER_CALL_LIMIT;
        let doing = || format!("ask {} about topic {topic}", self.servers());
        loop {
            let metadata =
                self.metadata(topic, deadline).map_err(|cause| Error::broker(doing(), cause))?;
            match metadata.error {
                // Partitions without a leader are listed too.
                0 => return Ok(describe(topic, metadata)),
                code if code == ResponseError::UnknownTopicOrPartition.code() => {
                    return Err(Error::UnknownTopic { topic: topic.to_owned() });
                }
                code if retriable(code) && Instant::now() + LEADER_POLL_INTERVAL < deadline => {
                    std::thread::sleep(LEADER_POLL_INTERVAL);
                }
                code => return Err(Error::broker(doing(), error_name(code))),
            }
        }
    }

    /// Creates the topic with the broker's default replication factor, and waits until every partition has a
    /// leader that serves it. Does nothing if the topic exists, whatever its partitions.
    ///
    /// # Errors
    /// `Broker`, with the broker's name for what is wrong.
    pub fn create_topic(&self, topic: &str, partitions: u32) -> Result<()> {
        let deadline = Instant::now() + BROKER_CALL_LIMIT;
        let fail = |cause: String| Error::broker(format!("create topic {topic}"), cause);
        let mut wanted = partitions as usize;
        loop {
            let code = self.ask_to_create(topic, partitions, deadline).map_err(fail)?;
            match code {
                Ok(()) => break,
                Err((code, _)) if code == ResponseError::TopicAlreadyExists.code() => {
                    wanted = 1;
                    break;
                }
                Err((code, _))
                    if retriable(code) && Instant::now() + LEADER_POLL_INTERVAL < deadline =>
                {
                    std::thread::sleep(LEADER_POLL_INTERVAL);
                }
                Err((code, None)) => return Err(fail(error_name(code))),
                Err((code, Some(said))) => {
                    return Err(fail(format!("{}: {said}", error_name(code))));
                }
            }
        }
        loop {
            let metadata = self.metadata(topic, deadline).map_err(fail)?;
            let missing = match metadata.not_ready(wanted) {
                None => self.not_served(topic, &metadata, deadline).map_err(fail)?,
                missing => missing,
            };
            let Some(missing) = missing else { return Ok(()) };
            if Instant::now() + LEADER_POLL_INTERVAL >= deadline {
                return Err(fail(format!("created, but not usable in time: {missing}")));
            }
            std::thread::sleep(LEADER_POLL_INTERVAL);
        }
    }

    /// One request to the controller; the inner error is the broker's code and message.
    #[allow(clippy::type_complexity)]
    fn ask_to_create(
        &self,
        topic: &str,
        partitions: u32,
        deadline: Instant,
    ) -> Result<Result<(), (i16, Option<String>)>, Cause> {
        let metadata = self.metadata(topic, deadline)?;
        let address = metadata
            .brokers
            .get(&metadata.controller)
            .or_else(|| metadata.brokers.values().next())
            .ok_or("the cluster lists no broker")?;
        let left = deadline.saturating_duration_since(Instant::now());
        self.on(address, deadline, |session| {
            // Versions 5 and later return more than is needed here.
            let version = session.version(ApiKey::CreateTopics, (2, 4))?;
            let new = CreatableTopic::default()
                .with_name(name(topic))
                .with_num_partitions(i32::try_from(partitions).unwrap_or(i32::MAX))
                // -1, the broker's default, is accepted since version 4 (KIP-464, Kafka 2.4).
                .with_replication_factor(if version >= 4 { -1 } else { 1 });
            let body = CreateTopicsRequest::default()
                .with_topics(vec![new])
                .with_timeout_ms(i32::try_from(left.as_millis()).unwrap_or(i32::MAX));
            let request = Request { api: ApiKey::CreateTopics, version, body: &body };
            let answer = session.exchange(&request, ANSWER_BYTES, deadline)?;
            let (code, said) = read_created(&answer).map_err(broken)?;
            Ok(if code == 0 { Ok(()) } else { Err((code, said)) })
        })
    }

    /// The address of each broker of the cluster, by its node.
    pub(super) fn brokers(&self, deadline: Instant) -> Result<BTreeMap<i32, String>, Cause> {
        let body = MetadataRequest::default().with_topics(Some(Vec::new()));
        let (_, brokers) = self.anywhere(deadline, |session, deadline| {
            let version = session.version(ApiKey::Metadata, (4, 12))?;
            let request = Request { api: ApiKey::Metadata, version, body: &body };
            let answer = session.exchange(&request, ANSWER_BYTES, deadline)?;
            read_brokers(&answer, version).map_err(broken)
        })?;
        self.learn(brokers.values());
        Ok(brokers)
    }

    pub(super) fn metadata(&self, topic: &str, deadline: Instant) -> Result<Metadata, Cause> {
        self.anywhere(deadline, |session, deadline| {
            // Version 4 is the first that can ask about a topic without creating it, 10 the first
            // with topic ids (KIP-516); 13 would only add a top-level error.
            let version = session.version(ApiKey::Metadata, (4, 12))?;
            ask_metadata(session, version, topic, deadline)
        })
        .map(|(_, metadata)| {
            self.learn(metadata.brokers.values());
            metadata
        })
    }
}

fn ask_metadata(
    session: &mut Session,
    version: i16,
    topic: &str,
    deadline: Instant,
) -> Result<Metadata, Cause> {
    let body = MetadataRequest::default()
        .with_topics(Some(vec![MetadataRequestTopic::default().with_name(Some(name(topic)))]))
        .with_allow_auto_topic_creation(false);
    let request = Request { api: ApiKey::Metadata, version, body: &body };
    let answer = session.exchange(&request, ANSWER_BYTES, deadline)?;
    let metadata = read_metadata(&answer, version, topic).map_err(broken)?;
    metadata.ok_or_else(|| "the answer does not mention the topic".into())
}

pub(super) fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

fn describe(topic: &str, metadata: Metadata) -> TopicInfo {
    let mut partitions: Vec<Partition> =
        metadata.partitions.iter().map(|partition| partition.index).collect();
    partitions.sort_unstable();
    TopicInfo {
        name: topic.to_owned(),
        // In the form in which Kafka's tools print a topic id.
        id: (metadata.topic_id != 0)
            .then(|| URL_SAFE_NO_PAD.encode(metadata.topic_id.to_be_bytes())),
        cluster_id: metadata.cluster_id,
        is_internal: metadata.is_internal,
        leader_epochs: metadata
            .partitions
            .iter()
            // Without a leader nobody can be asked about its epoch.
            .filter(|partition| partition.error == 0 && partition.leader >= 0)
            .filter_map(|partition| Some((partition.index, partition.epoch?)))
            .collect(),
        partitions,
    }
}

/// The brokers that an answer to Metadata lists.
pub(super) fn read_brokers(answer: &[u8], version: i16) -> Read<BTreeMap<i32, String>> {
    brokers_first(&mut Reader::new(answer, version >= 9))
}

/// The front of an answer to Metadata, up to its list of brokers.
fn brokers_first(reader: &mut Reader<'_>) -> Read<BTreeMap<i32, String>> {
    reader.tags()?;
    let _throttle_ms = reader.i32()?;
    let brokers = reader.array(|broker| {
        let node = broker.i32()?;
        let host = broker.string()?.unwrap_or_default();
        let port = broker.i32()?;
        let _rack = broker.string()?;
        broker.tags()?;
        // An IPv6 address needs its brackets before a port.
        let address =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Ok((node, address))
    })?;
    Ok(brokers.into_iter().collect())
}

pub(super) fn read_metadata(answer: &[u8], version: i16, wanted: &str) -> Read<Option<Metadata>> {
    let mut reader = Reader::new(answer, version >= 9);
    let brokers = brokers_first(&mut reader)?;
    let cluster_id = reader.string()?.map(str::to_owned);
    let controller = reader.i32()?;
    let topics = reader.array(|topic| {
        let error = topic.i16()?;
        let name = topic.string()?.unwrap_or_default();
        let id = if version >= 10 { topic.u128()? } else { 0 };
        let is_internal = topic.i8()? != 0;
        let partitions = topic.array(|partition| read_partition(partition, version))?;
        if version >= 8 {
            let _operations = topic.i32()?;
        }
        topic.tags()?;
        Ok((name, error, id, is_internal, partitions))
    })?;
    let topic = topics.into_iter().find(|(name, ..)| *name == wanted);
    Ok(topic.map(|(_, error, topic_id, is_internal, partitions)| Metadata {
        brokers,
        is_internal,
        cluster_id,
        controller,
        error,
        topic_id,
        partitions,
    }))
}

fn read_partition(partition: &mut Reader<'_>, version: i16) -> Read<PartitionMetadata> {
    let error = partition.i16()?;
    let index = partition.i32()?;
    let leader = partition.i32()?;
    let epoch = if version >= 7 { Epoch::checked(partition.i32()?) } else { None };
    // Before version 9 (Kafka 2.4) a broker may state an older epoch than the leader's (KAFKA-9212).
    let epoch = epoch.filter(|_| version >= 9);
    let _replicas = partition.array(Reader::i32)?;
    let _in_sync = partition.array(Reader::i32)?;
    if version >= 5 {
        let _offline = partition.array(Reader::i32)?;
    }
    partition.tags()?;
    Ok(PartitionMetadata { error, index, leader, epoch })
}

/// The code of the one topic that was to be created, and the broker's message.
pub(super) fn read_created(answer: &[u8]) -> Read<(i16, Option<String>)> {
    let mut reader = Reader::new(answer, false);
    let _throttle_ms = reader.i32()?;
    let topics = reader.array(|topic| {
        let _name = topic.string()?;
        Ok((topic.i16()?, topic.string()?.map(str::to_owned)))
    })?;
    topics.into_iter().next().ok_or(super::reader::Broken)
}

//! The embedded topic of a running mb, as another process sees it: a `Broker` whose calls go through the
//! control socket. It reads offsets and produces; it can neither consume nor commit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Client;
use crate::api::operations::Operation;
use crate::api::operations::embedded_topic::{
    CreateTopic, DescribeTopic, FindOffsets, Flush, Flushed, GetCommitted, GetWatermarks, Posted,
    Produce, Produced, TopicDescription,
};
use crate::api::request::Request;
use crate::kafka::{
    Backend, Broker, Capabilities, Commit, CommitError, Committed, Consumer, Delivery,
    FetchSettings, Message, PerPartition, Producer, Sent, TopicInfo, Watermarks,
};
use crate::model::error::{Error, Result};
use crate::model::offset::{Offset, Partition};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The embedded topic of the mb that is running on a data directory.
pub struct RemoteTopic {
    data_dir: PathBuf,
}

/// Messages of one request, at most.
const BATCH_MESSAGES: usize = 1000;
const BATCH_BYTES: usize = 1 << 20;
/// A message that comes within this time of the last request waits for others to share the next one.
const LINGER: Duration = Duration::from_millis(5);

impl RemoteTopic {
    pub fn new(data_dir: &Path) -> RemoteTopic {
        RemoteTopic { data_dir: data_dir.to_owned() }
    }

    fn client(&self) -> Result<Client> {
        Client::connect(&self.data_dir)?.ok_or_else(|| {
            Error::Other(format!("the mb that ran on {} has ended", self.data_dir.display()))
        })
    }

    fn perform<O: Operation + Into<Request>>(&self, operation: O) -> Result<O::Answer> {
        self.client()?.perform(operation)
    }
}

impl Broker for RemoteTopic {
    fn backend(&self) -> Backend {
        Backend::Embedded
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            null_values: true,
            timestamps: true,
            headers: false,
            read_committed: false,
            codecs: &[],
            membership: false,
            leader_epochs: false,
        }
    }

    fn describe(&self) -> String {
        format!("the embedded topic of the mb that runs on {}", self.data_dir.display())
    }

    fn topic(&self, topic: &str) -> Result<TopicInfo> {
        let name = topic.to_owned();
        let TopicDescription { id, cluster_id, partitions } =
            self.perform(DescribeTopic { topic: name.clone() })?;
        let leader_epochs = BTreeMap::new();
        Ok(TopicInfo { name, id, cluster_id, is_internal: false, partitions, leader_epochs })
    }

    fn create_topic(&self, topic: &str, partitions: u32) -> Result<()> {
        self.perform(CreateTopic { topic: topic.to_owned(), partitions })
    }

    fn watermarks(
        &self,
        topic: &str,
        partitions: &[Partition],
    ) -> Result<PerPartition<Watermarks>> {
        let (topic, partitions) = (topic.to_owned(), partitions.to_vec());
        let rows = self.perform(GetWatermarks { topic, partitions })?;
        let marks = rows.into_iter().map(|(partition, beginning, end)| {
            let marks = Watermarks { beginning: Offset::new(beginning), end: Offset::new(end) };
            (partition, Ok(marks))
        });
        Ok(marks.collect())
    }

    fn offsets_at(
        &self,
        topic: &str,
        partitions: &[Partition],
        timestamp_ms: i64,
    ) -> Result<PerPartition<Offset>> {
        let (topic, partitions) = (topic.to_owned(), partitions.to_vec());
        let rows = self.perform(FindOffsets { topic, partitions, timestamp_ms })?;
        let found = rows.into_iter().map(|(partition, at)| (partition, Ok(Offset::new(at))));
        Ok(found.collect())
    }

    fn group_offsets(
        &self,
        group: &str,
        topic: &str,
        partitions: &[Partition],
    ) -> Result<PerPartition<Option<Committed>>> {
        let rows = self.perform(GetCommitted {
            group: group.to_owned(),
            topic: topic.to_owned(),
            partitions: partitions.to_vec(),
        })?;
        let found: BTreeMap<_, _> = rows.into_iter().collect();
        let of = |partition: &Partition| {
            found.get(partition).map(|offset| Committed::plain(Offset::new(*offset)))
        };
        Ok(partitions.iter().map(|partition| (*partition, Ok(of(partition)))).collect())
    }

    fn commit_all(&self, _: &str, _: &str, commits: &[Commit]) -> Result<(), CommitError> {
        Err(CommitError::all_refused(commits, not_from_outside("commit offsets")))
    }

    fn consumer(
        &self,
        _: &str,
        _: &[(Partition, Offset)],
        _: &FetchSettings,
    ) -> Result<Box<dyn Consumer>> {
        Err(not_from_outside("be read"))
    }

    fn producer(&self, topic: &str) -> Result<Box<dyn Producer>> {
        let delivery = Delivery::default();
        let (waiting, bytes) = (Vec::new(), 0);
        let client = self.client()?;
        let topic = topic.to_owned();
        Ok(Box::new(RemoteProducer { client, topic, waiting, bytes, sent_at: None, delivery }))
    }
}

fn not_from_outside(what: &str) -> Error {
    Error::Unsupported {
        what: format!("the embedded topic of a running mb cannot {what} from outside"),
        hint: "stop that mb first".to_owned(),
    }
}

struct RemoteProducer {
    client: Client,
    topic: String,
    waiting: Vec<Posted>,
    bytes: usize,
    /// When the last request was sent.
    sent_at: Option<Instant>,
    delivery: Delivery,
}

impl RemoteProducer {
    /// Sends the messages that wait; true if all of them were accepted.
    fn send_waiting(&mut self) -> Result<bool> {
        if self.waiting.is_empty() {
            return Ok(true);
        }
        let mut messages = std::mem::take(&mut self.waiting);
        let request = Produce { topic: self.topic.clone(), messages: messages.clone() };
        let Produced { accepted, delivery } = self.client.perform(request)?;
        self.waiting = messages.split_off(accepted.min(messages.len()));
        self.bytes = self.waiting.iter().map(size).sum();
        self.sent_at = Some(Instant::now());
        self.delivery = delivery;
        Ok(self.waiting.is_empty())
    }
}

fn size(message: &Posted) -> usize {
    message.key.as_ref().map_or(0, String::len) + message.value.as_ref().map_or(0, String::len)
}

impl Producer for RemoteProducer {
    fn send(&mut self, message: Message<'_>, wait: Duration) -> Result<Sent> {
        if !message.headers.is_empty() {
            return Err(Error::Unsupported {
                what: "messages with headers cannot go through a running mb".to_owned(),
                hint: "stop that mb first".to_owned(),
            });
        }
        let deadline = Instant::now() + wait;
        while self.waiting.len() >= BATCH_MESSAGES || self.bytes >= BATCH_BYTES {
            if !self.send_waiting()? && Instant::now() >= deadline {
                return Ok(Sent::Full);
            }
        }
        let encode = |bytes: Option<&[u8]>| bytes.map(|bytes| STANDARD.encode(bytes));
        let (key, value) = (encode(message.key), encode(message.value));
        let posted = Posted { partition: message.partition, key, value };
        self.bytes += size(&posted);
        self.waiting.push(posted);
        // A lone message goes at once; those of a burst share a request.
        if self.sent_at.is_none_or(|at| at.elapsed() >= LINGER) {
            self.send_waiting()?;
        }
        Ok(Sent::Accepted)
    }

    fn delivery(&mut self) -> Delivery {
        if let Err(error) = self.send_waiting() {
            self.delivery.last_error = Some(error.to_string());
        }
        self.delivery.clone()
    }

    fn flush(&mut self, limit: Duration) -> Result<u64> {
        let deadline = Instant::now() + limit;
        loop {
            let all_taken = self.send_waiting()?;
            let rest = deadline.saturating_duration_since(Instant::now());
            let limit_ms = u64::try_from(rest.as_millis()).unwrap_or(u64::MAX);
            let Flushed { under_way, delivery } = self.client.perform(Flush { limit_ms })?;
            self.delivery = delivery;
            if (all_taken && under_way == 0) || rest.is_zero() {
                return Ok(under_way + self.waiting.len() as u64);
            }
        }
    }
}

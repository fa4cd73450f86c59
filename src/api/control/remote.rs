//! The embedded topic of a running mb, seen from another process: a `Broker` that asks through the
//! control socket. It reads offsets and produces; it neither consumes nor commits.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;

use super::Client;
use super::requests::{Posted, Request};
use crate::kafka::{
    Backend, Broker, Capabilities, CommitError, Consumer, Delivery, FetchSettings, Message,
    PerPartition, Producer, Sent, TopicInfo, Watermarks,
};
use crate::model::error::{Error, Result};
use crate::model::offset::{Offset, Partition};

/// The embedded topic of the mb that runs on a data directory.
pub struct RemoteEmbedded {
    data_dir: PathBuf,
}

/// Messages that travel in one request.
const BATCH_MESSAGES: usize = 1000;
const BATCH_BYTES: usize = 1 << 20;
/// Messages go together that come within so much of the ones before.
const LINGER: Duration = Duration::from_millis(5);

impl RemoteEmbedded {
    pub fn new(data_dir: &Path) -> RemoteEmbedded {
        RemoteEmbedded { data_dir: data_dir.to_owned() }
    }

    fn client(&self) -> Result<Client> {
        Client::connect(&self.data_dir)?.ok_or_else(|| {
            Error::Other(format!("the mb that ran on {} has ended", self.data_dir.display()))
        })
    }

    fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T> {
        self.client()?.ask_for(request)
    }
}

impl Broker for RemoteEmbedded {
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
        }
    }

    fn describe(&self) -> String {
        format!("the embedded topic of the mb that runs on {}", self.data_dir.display())
    }

    fn topic(&self, topic: &str) -> Result<TopicInfo> {
        #[derive(serde::Deserialize)]
        struct Answer {
            id: Option<String>,
            cluster_id: Option<String>,
            partitions: Vec<Partition>,
        }
        let name = topic.to_owned();
        let Answer { id, cluster_id, partitions } =
            self.ask(&Request::Topic { topic: name.clone() })?;
        Ok(TopicInfo { name, id, cluster_id, partitions })
    }

    fn create_topic(&self, topic: &str, partitions: u32) -> Result<()> {
        self.ask(&Request::CreateTopic { topic: topic.to_owned(), partitions })
    }

    fn watermarks(
        &self,
        topic: &str,
        partitions: &[Partition],
    ) -> Result<PerPartition<Watermarks>> {
        let (topic, partitions) = (topic.to_owned(), partitions.to_vec());
        let rows: Vec<(Partition, i64, i64)> =
            self.ask(&Request::Watermarks { topic, partitions })?;
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
        let rows: Vec<(Partition, i64)> =
            self.ask(&Request::OffsetsAt { topic, partitions, timestamp_ms })?;
        let found = rows.into_iter().map(|(partition, at)| (partition, Ok(Offset::new(at))));
        Ok(found.collect())
    }

    fn committed(
        &self,
        group: &str,
        topic: &str,
        partitions: &[Partition],
    ) -> Result<PerPartition<Option<Offset>>> {
        let rows: Vec<(Partition, i64)> = self.ask(&Request::Committed {
            group: group.to_owned(),
            topic: topic.to_owned(),
            partitions: partitions.to_vec(),
        })?;
        let found: BTreeMap<_, _> = rows.into_iter().collect();
        let of = |partition: &Partition| found.get(partition).copied().map(Offset::new);
        Ok(partitions.iter().map(|partition| (*partition, Ok(of(partition)))).collect())
    }

    fn commit(&self, _: &str, _: &str, offsets: &[(Partition, Offset)]) -> Result<(), CommitError> {
        Err(CommitError::all_refused(offsets, only_here("commit offsets")))
    }

    fn consumer(
        &self,
        _: &str,
        _: &[(Partition, Offset)],
        _: &FetchSettings,
    ) -> Result<Box<dyn Consumer>> {
        Err(only_here("be read"))
    }

    fn producer(&self, topic: &str) -> Result<Box<dyn Producer>> {
        let delivery = Delivery::default();
        let (waiting, bytes) = (Vec::new(), 0);
        let client = self.client()?;
        let topic = topic.to_owned();
        Ok(Box::new(RemoteProducer { client, topic, waiting, bytes, passed_on: None, delivery }))
    }
}

fn only_here(what: &str) -> Error {
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
    /// When messages were passed on last.
    passed_on: Option<Instant>,
    delivery: Delivery,
}

impl RemoteProducer {
    /// Sends what waits; true where all of it was taken.
    fn pass_on(&mut self) -> Result<bool> {
        if self.waiting.is_empty() {
            return Ok(true);
        }
        #[derive(serde::Deserialize)]
        struct Answer {
            accepted: usize,
            delivery: Delivery,
        }
        let messages = std::mem::take(&mut self.waiting);
        let request = Request::Produce { topic: self.topic.clone(), messages };
        let answer = self.client.ask_for::<Answer>(&request)?;
        let Request::Produce { mut messages, .. } = request else { unreachable!("made above") };
        self.waiting = messages.split_off(answer.accepted.min(messages.len()));
        self.bytes = self.waiting.iter().map(size).sum();
        self.passed_on = Some(Instant::now());
        self.delivery = answer.delivery;
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
            if !self.pass_on()? && Instant::now() >= deadline {
                return Ok(Sent::Full);
            }
        }
        let encode = |bytes: Option<&[u8]>| bytes.map(|bytes| STANDARD.encode(bytes));
        let (key, value) = (encode(message.key), encode(message.value));
        let posted = Posted { partition: message.partition, key, value };
        self.bytes += size(&posted);
        self.waiting.push(posted);
        // A lone message goes at once, those of a burst go together.
        if self.passed_on.is_none_or(|at| at.elapsed() >= LINGER) {
            self.pass_on()?;
        }
        Ok(Sent::Accepted)
    }

    fn delivery(&mut self) -> Delivery {
        if let Err(error) = self.pass_on() {
            self.delivery.last_error = Some(error.to_string());
        }
        self.delivery.clone()
    }

    fn flush(&mut self, limit: Duration) -> Result<u64> {
        #[derive(serde::Deserialize)]
        struct Answer {
            under_way: u64,
            delivery: Delivery,
        }
        let deadline = Instant::now() + limit;
        loop {
            let all_taken = self.pass_on()?;
            let left = deadline.saturating_duration_since(Instant::now());
            let limit_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            let Answer { under_way, delivery } =
                self.client.ask_for(&Request::Flush { limit_ms })?;
            self.delivery = delivery;
            if (all_taken && under_way == 0) || left.is_zero() {
                return Ok(under_way + self.waiting.len() as u64);
            }
        }
    }
}

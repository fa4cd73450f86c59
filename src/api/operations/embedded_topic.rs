//! The embedded topic of a running mb, for other processes: what is in it, and producing to it. Its files are
//! open in the running process alone.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::Operation;
use crate::api::context::Context;
use crate::api::session::Session;
use crate::config::limits;
use crate::kafka::{Backend, Broker, Delivery, Message, Sent, require_all};
use crate::model::error::{Error, Result};
use crate::model::offset::Partition;

/// What `Broker::topic` answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DescribeTopic {
    pub topic: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicDescription {
    pub id: Option<String>,
    pub cluster_id: Option<String>,
    pub partitions: Vec<Partition>,
}

impl Operation for DescribeTopic {
    type Answer = TopicDescription;

    fn perform(self, context: &Context, _: &mut Session) -> Result<TopicDescription> {
        let info = embedded(context)?.topic(&self.topic)?;
        let (id, cluster_id, partitions) = (info.id, info.cluster_id, info.partitions);
        Ok(TopicDescription { id, cluster_id, partitions })
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreateTopic {
    pub topic: String,
    pub partitions: u32,
}

impl Operation for CreateTopic {
    type Answer = ();

    fn perform(self, context: &Context, _: &mut Session) -> Result<()> {
        embedded(context)?.create_topic(&self.topic, self.partitions)
    }
}

/// Partition, beginning and end of each.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GetWatermarks {
    pub topic: String,
    pub partitions: Vec<Partition>,
}

impl Operation for GetWatermarks {
    type Answer = Vec<(Partition, i64, i64)>;

    fn perform(self, context: &Context, _: &mut Session) -> Result<Self::Answer> {
        let marks = require_all(embedded(context)?.watermarks(&self.topic, &self.partitions)?)?;
        let row = |(partition, marks): (&Partition, &crate::kafka::Watermarks)| {
            (*partition, marks.beginning.get(), marks.end.get())
        };
        Ok(marks.iter().map(row).collect())
    }
}

/// Partition and offset of each: what `Broker::offsets_at` answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FindOffsets {
    pub topic: String,
    pub partitions: Vec<Partition>,
    pub timestamp_ms: i64,
}

impl Operation for FindOffsets {
    type Answer = Vec<(Partition, i64)>;

    fn perform(self, context: &Context, _: &mut Session) -> Result<Self::Answer> {
        let FindOffsets { topic, partitions, timestamp_ms } = self;
        let found =
            require_all(embedded(context)?.offsets_at(&topic, &partitions, timestamp_ms)?)?;
        Ok(found.iter().map(|(partition, offset)| (*partition, offset.get())).collect())
    }
}

/// Partition and committed offset of each that has one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GetCommitted {
    pub group: String,
    pub topic: String,
    pub partitions: Vec<Partition>,
}

impl Operation for GetCommitted {
    type Answer = Vec<(Partition, i64)>;

    fn perform(self, context: &Context, _: &mut Session) -> Result<Self::Answer> {
        let GetCommitted { group, topic, partitions } = self;
        let committed = embedded(context)?.committed(&group, &topic, &partitions)?;
        let found = require_all(committed)?.into_iter();
        Ok(found.filter_map(|(partition, offset)| Some((partition, offset?.get()))).collect())
    }
}

/// Produces messages, with the producer of this connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Produce {
    pub topic: String,
    pub messages: Vec<Posted>,
}

/// A message on its way through the socket; key and value in base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Posted {
    pub partition: Partition,
    pub key: Option<String>,
    pub value: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Produced {
    /// How many messages, from the first, were accepted before the buffer was full.
    pub accepted: usize,
    pub delivery: Delivery,
}

impl Operation for Produce {
    type Answer = Produced;

    fn perform(self, context: &Context, session: &mut Session) -> Result<Produced> {
        let Produce { topic, messages } = self;
        let producer = session.producer(&topic, || embedded(context)?.producer(&topic))?;
        let mut accepted = 0;
        for message in &messages {
            let (key, value) = (decode(&message.key)?, decode(&message.value)?);
            let message = Message {
                partition: message.partition,
                key: key.as_deref(),
                value: value.as_deref(),
                headers: &[],
            };
            if producer.send(message, limits::STOP_LOOK_INTERVAL)? == Sent::Full {
                break;
            }
            accepted += 1;
        }
        Ok(Produced { accepted, delivery: producer.delivery() })
    }
}

/// Waits until the messages that this connection's producer accepted are delivered.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Flush {
    pub limit_ms: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Flushed {
    /// Messages that are not delivered yet.
    pub under_way: u64,
    pub delivery: Delivery,
}

impl Operation for Flush {
    type Answer = Flushed;

    fn perform(self, _: &Context, session: &mut Session) -> Result<Flushed> {
        let Some(producer) = session.open_producer() else {
            return Ok(Flushed { under_way: 0, delivery: Delivery::default() });
        };
        let limit = Duration::from_millis(self.limit_ms).min(limits::CONTROL_LIMIT);
        let under_way = producer.flush(limit)?;
        Ok(Flushed { under_way, delivery: producer.delivery() })
    }
}

fn embedded(context: &Context) -> Result<Arc<dyn Broker>> {
    context.with_pipeline(|pipeline| {
        if pipeline.engine.broker.backend() == Backend::Embedded {
            return Ok(Arc::clone(&pipeline.engine.broker));
        }
        Err(Error::Config(format!(
            "--client embedded: the mb that runs on {} reads from Kafka, not from the embedded topic; \
             name its server with --bootstrap-server",
            context.data_dir().display()
        )))
    })
}

fn decode(text: &Option<String>) -> Result<Option<Vec<u8>>> {
    let Some(text) = text else { return Ok(None) };
    let bytes = STANDARD.decode(text);
    bytes.map(Some).map_err(|cause| Error::Usage(format!("a message that is not base64: {cause}")))
}

//! Writes messages through librdkafka's idempotent producer, which keeps the order of each partition's messages
//! when it retries.

use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use super::context::{self, Context};
use super::{client, native};
use crate::kafka::{Delivery, Message, Producer, Sent};
use crate::model::error::{Error, Result};

/// One wait for room in a full buffer; a delivery ends it early.
const ROOM_WAIT: Duration = Duration::from_millis(5);
/// Deliveries are counted at least once per this many messages, so that they do not pile up.
const SERVE_EVERY: u64 = 64;
/// If nothing was acknowledged for this long, the client is given its servers again.
const REVIVE_AFTER: Duration = Duration::from_secs(2);

pub(super) struct LibrdkafkaProducer {
    topic: String,
    /// `None` once it is dropped.
    native: Option<BaseProducer<Context>>,
    servers: String,
    accepted: u64,
    /// How many messages were acknowledged or failed at the last look, and since when.
    progress: (u64, Instant),
    trouble: Option<String>,
}

impl LibrdkafkaProducer {
    pub(super) fn new(
        native: BaseProducer<Context>,
        servers: &str,
        topic: &str,
    ) -> LibrdkafkaProducer {
        LibrdkafkaProducer {
            topic: topic.to_owned(),
            native: Some(native),
            servers: servers.to_owned(),
            accepted: 0,
            progress: (0, Instant::now()),
            trouble: None,
        }
    }

    fn native(&self) -> &BaseProducer<Context> {
        self.native.as_ref().expect("it is there until the drop")
    }

    fn serve(&mut self) {
        if let Some(newest) = context::serve_producer(self.native()).pop() {
            self.trouble = Some(newest.reason);
        }
    }

    /// See `native::add_brokers`: if messages are under way and none is acknowledged, the client may have
    /// forgotten its last broker.
    fn revive_if_quiet(&mut self, delivery: &Delivery) {
        let done = delivery.acknowledged + delivery.failed;
        let (before, since) = self.progress;
        if done != before || done == self.accepted {
            self.progress = (done, Instant::now());
        } else if since.elapsed() >= REVIVE_AFTER {
            native::add_brokers(self.native(), &self.servers);
            self.progress = (done, Instant::now());
        }
    }

    fn try_send(&self, message: Message<'_>) -> Result<(), KafkaError> {
        let mut record = BaseRecord::<[u8], [u8]>::to(&self.topic).partition(message.partition);
        record.key = message.key;
        record.payload = message.value;
        if !message.headers.is_empty() {
            let mut headers = OwnedHeaders::new_with_capacity(message.headers.len());
            for (key, value) in message.headers {
                headers = headers.insert(Header { key, value: *value });
            }
            record = record.headers(headers);
        }
        self.native().send(record).map_err(|(error, _)| error)
    }
}

impl Producer for LibrdkafkaProducer {
    fn send(&mut self, message: Message<'_>, wait: Duration) -> Result<Sent> {
        if self.accepted.is_multiple_of(SERVE_EVERY) {
            self.serve();
        }
        let mut deadline = None;
        loop {
            match self.try_send(message) {
                Ok(()) => {
                    self.accepted += 1;
                    return Ok(Sent::Accepted);
                }
                Err(error) if error.rdkafka_error_code() == Some(Code::QueueFull) => {
                    let deadline = *deadline.get_or_insert_with(|| Instant::now() + wait);
                    self.serve();
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Ok(Sent::Full);
                    }
                    self.native().poll(left.min(ROOM_WAIT));
                }
                Err(error) => {
                    let bytes =
                        message.key.map_or(0, <[u8]>::len) + message.value.map_or(0, <[u8]>::len);
                    return Err(Error::broker(
                        format!(
                            "send a message of {bytes} bytes to {}/{}",
                            self.topic, message.partition
                        ),
                        context::cause(&error),
                    ));
                }
            }
        }
    }

    fn delivery(&mut self) -> Delivery {
        self.serve();
        let mut delivery = self.native().client().context().delivery();
        self.revive_if_quiet(&delivery);
        // A failed delivery says more than a problem of the client.
        delivery.last_error = delivery.last_error.or_else(|| self.trouble.clone());
        delivery
    }

    fn flush(&mut self, limit: Duration) -> Result<u64> {
        match self.native().flush(limit) {
            Ok(()) => {}
            // Not everything is delivered yet, which is an answer and not an error.
            Err(KafkaError::Flush(Code::OperationTimedOut)) => {}
            Err(error) => {
                return Err(Error::broker(
                    format!("flush messages to topic {}", self.topic),
                    context::cause(&error),
                ));
            }
        }
        let delivery = self.delivery();
        Ok(self.accepted - delivery.acknowledged - delivery.failed)
    }
}

impl Drop for LibrdkafkaProducer {
    fn drop(&mut self) {
        if let Some(native) = self.native.take() {
            // Crate rdkafka's drop discards what is still queued, and waits a little.
            client::close("producer", native);
        }
    }
}

//! What librdkafka reports by itself: its log lines go to `log` at debug level, its errors are kept for the next
//! poll of the client. Nothing is decided here.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};

use crate::kafka::Delivery;
use crate::model::sync::Mutex;

/// The name that librdkafka's lines have in the log.
pub(super) const LOG_TARGET: &str = "mb::librdkafka";

/// A client that never joins a group, commits or chooses an offset by itself. Its own queue carries only log
/// lines and errors of the client as a whole.
pub(super) type Client = BaseConsumer<Context>;

/// An error of librdkafka: its code, and librdkafka's text for it.
#[derive(Debug)]
pub(super) struct Failure {
    pub code: RDKafkaErrorCode,
    pub reason: String,
}

/// Receives what one client reports.
#[derive(Debug, Default)]
pub(super) struct Context {
    /// How many log lines, errors and deliveries were served, which shows whether a poll found anything.
    served: AtomicU64,
    failures: Mutex<Vec<Failure>>,
    delivery: Mutex<Delivery>,
}

impl Context {
    fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    fn keep(&self, code: RDKafkaErrorCode, reason: &str) {
        self.failures.lock().push(Failure { code, reason: reason.to_owned() });
    }

    fn take_failures(&self) -> Vec<Failure> {
        std::mem::take(&mut *self.failures.lock())
    }

    pub(super) fn delivery(&self) -> Delivery {
        self.delivery.lock().clone()
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.served.fetch_add(1, Ordering::Relaxed);
        log::debug!(target: LOG_TARGET, "{level:?} {facility}: {message}");
        // librdkafka reports these only in its log: problems of one connection, and errors of a queue that is
        // read in batches.
        let code = match facility {
            "FAIL" => RDKafkaErrorCode::BrokerTransportFailure,
            "REQTMOUT" => RDKafkaErrorCode::OperationTimedOut,
            "ERROR" => RDKafkaErrorCode::Fail,
            _ => return,
        };
        // "[thrd:…]: " names librdkafka's thread.
        let reason = message.split_once("]: ").map_or(message, |(_, reason)| reason);
        self.keep(code, reason);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.served.fetch_add(1, Ordering::Relaxed);
        log::debug!(target: LOG_TARGET, "{error}: {reason}");
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        self.keep(code, reason);
    }
}

impl ConsumerContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        self.served.fetch_add(1, Ordering::Relaxed);
        let mut delivery = self.delivery.lock();
        match result {
            Ok(_) => delivery.acknowledged += 1,
            Err((error, _)) => {
                delivery.failed += 1;
                delivery.last_error = Some(cause(error));
            }
        }
    }
}

/// librdkafka's text for an error, without the words that crate rdkafka adds.
pub(super) fn cause(error: &KafkaError) -> String {
    match error.rdkafka_error_code() {
        Some(code) => code.to_string(),
        None => error.to_string(),
    }
}

/// Serves the client's own queue and returns the errors in it. (Records are in another queue.)
pub(super) fn serve(client: &Client) -> Vec<Failure> {
    let context = client.client().context();
    drain(context, || drop(client.poll(Duration::ZERO)));
    context.take_failures()
}

/// Serves the producer's queue: counts deliveries and returns errors.
pub(super) fn serve_producer(producer: &BaseProducer<Context>) -> Vec<Failure> {
    let context = producer.client().context();
    drain(context, || producer.poll(Duration::ZERO));
    context.take_failures()
}

/// Polls until a poll finds nothing, because crate rdkafka serves one event per poll.
fn drain(context: &Context, poll: impl Fn()) {
    loop {
        let before = context.served();
        poll();
        if context.served() == before {
            break;
        }
    }
}

//! What librdkafka says by itself: its log lines go to `log` at debug level, its errors are kept
//! for whoever polls the client. Nothing is decided here.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};

use super::native::{Client, Failure};
use crate::kafka::Delivery;

/// The name that librdkafka's lines have in the log.
pub(super) const LOG_TARGET: &str = "mb::librdkafka";

/// One client's ear.
#[derive(Debug, Default)]
pub(super) struct Context {
    /// Log lines, errors and deliveries served: whether a poll found anything.
    served: AtomicU64,
    failures: Mutex<Vec<Failure>>,
    delivery: Mutex<Delivery>,
}

impl Context {
    fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    fn keep(&self, code: RDKafkaErrorCode, reason: &str) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.push(Failure { code, reason: reason.to_owned() });
    }

    fn take_failures(&self) -> Vec<Failure> {
        std::mem::take(&mut *self.failures.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn delivery(&self) -> Delivery {
        self.delivery.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.served.fetch_add(1, Ordering::Relaxed);
        log::debug!(target: LOG_TARGET, "{level:?} {facility}: {message}");
        // What is told in the log only: troubles of one connection, and errors that lay in a queue
        // which was read by the array.
        let code = match facility {
            "FAIL" => RDKafkaErrorCode::BrokerTransportFailure,
            "REQTMOUT" => RDKafkaErrorCode::OperationTimedOut,
            "ERROR" => RDKafkaErrorCode::Fail,
            _ => return,
        };
        // "[thrd:…]: " names the thread that speaks.
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
        let mut delivery = self.delivery.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(_) => delivery.acknowledged += 1,
            Err((error, _)) => {
                delivery.failed += 1;
                delivery.last_error = Some(cause(error));
            }
        }
    }
}

/// What librdkafka says of an error, without crate rdkafka's frame around it.
pub(super) fn cause(error: &KafkaError) -> String {
    match error.rdkafka_error_code() {
        Some(code) => code.to_string(),
        None => error.to_string(),
    }
}

/// Serves the client's own queue and returns the errors that lay there. (Records are elsewhere.)
pub(super) fn serve(client: &Client) -> Vec<Failure> {
    let context = client.client().context();
    drain(context, || drop(client.poll(Duration::ZERO)));
    context.take_failures()
}

/// Serves the producer's queue: deliveries are counted, errors returned.
pub(super) fn serve_producer(producer: &BaseProducer<Context>) -> Vec<Failure> {
    let context = producer.client().context();
    drain(context, || producer.poll(Duration::ZERO));
    context.take_failures()
}

/// Polls until a poll finds nothing: crate rdkafka's polls serve one event at a time.
fn drain(context: &Context, poll: impl Fn()) {
    loop {
        let before = context.served();
        poll();
        if context.served() == before {
            break;
        }
    }
}

//! Backend `rdkafka`: Kafka through librdkafka, the C client.
//!
//! `consumer` and `producer` are mb's side of it; `native` wraps what crate rdkafka does not; `context` receives
//! librdkafka's log lines and errors; `settings` says how it is configured, and why.

mod broker;
mod client;
mod consumer;
mod context;
mod native;
mod producer;
mod settings;

pub use self::broker::Librdkafka;

//! Backend `kafka`: the pure-Rust crate kafka, which speaks version 0 of Kafka's protocol, in plaintext, to
//! brokers up to 3.9. What it cannot do is refused by name.
//!
//! The crate loses records without an error, and its calls can hang. `trust` decides which part of an answer can
//! be believed, `guard` runs the crate on threads that can be abandoned, and `consumer` and `producer` are built
//! on these two.

mod answer;
mod broker;
mod consumer;
mod fault;
mod guard;
mod producer;
mod trust;

pub use self::broker::CrateKafka;

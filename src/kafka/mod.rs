//! The seam to the log, and everything behind it: whichever client library or stand-in is in use, the rest
//! of mb sees only the traits of `seam`.
//!
//! Three backends implement them: `librdkafka`, `crate_kafka` (pure Rust) and `embedded` (a topic in a SQLite
//! file); `select` chooses one. Each declares what it can do (`Capabilities`) and refuses the rest by name.
//! `wire` is mb's own request client for topics and offsets, which both Kafka backends use.

mod backend;
mod record_client;
mod seam;
mod topic;

pub mod crate_kafka;
pub mod embedded;
#[cfg(feature = "rdkafka")]
pub mod librdkafka;
pub mod partitioner;
pub mod select;
pub mod wire;

pub use self::backend::{Backend, Capabilities};
pub use self::seam::{
    Broker, CommitError, Consumer, Delivery, FetchSettings, Flow, Message, Producer, Sent, Sink,
};
pub use self::topic::{
    Commit, Committed, EpochEnd, OpenTransaction, PerPartition, TopicInfo, TransactionProducer,
    Watermarks, require_all,
};

//! The embedded topic: a Kafka topic in miniature, in one SQLite file of the data directory.
//!
//! It has partitions, dense offsets, group commits and retention as Kafka does. It is for trying mb out, for tests,
//! and (with `Faults`) a broker that fails on demand. Who may open the data directory (its lock) is decided
//! elsewhere, and so is when this backend is chosen (`select`).

mod broker;
mod chunk;
mod consumer;
#[cfg_attr(not(feature = "testing"), path = "no_faults.rs")]
mod faults;
#[cfg(test)]
mod model_tests;
mod producer;
mod retention;
mod shared;
mod store;
mod tables;
#[cfg(test)]
mod tests;

pub use self::broker::Embedded;
#[cfg(feature = "testing")]
pub use self::faults::{Call, Faults};
pub use self::store::FILE;
#[cfg(feature = "testing")]
pub use self::store::VERSION;

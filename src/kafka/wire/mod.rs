//! mb's own request client, over plain TCP: which broker answers and what it serves, topics and their ids,
//! where partitions begin and end, a group's committed offsets and how long they are kept, offsets by time, ends of
//! leader epochs, headers of record batches, open transactions; and what a listener expects that does not answer.
//!
//! Every call has a deadline. Records are read and written by the backends, not here.

mod client;
mod codes;
mod connect;
#[cfg(test)]
mod connection_tests;
mod epochs;
#[cfg(feature = "testing")]
pub mod fuzzing;
mod group;
mod leaders;
mod metadata;
mod reader;
mod record_batch;
mod retention;
mod sasl;
mod session;
mod share_group;
mod times;
mod tls;
mod transactions;

pub use self::client::{Probe, Wire};
pub use self::record_batch::RecordBatchHeader;

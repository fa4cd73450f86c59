//! mb turns a Kafka topic into tracked micro-batch runs, in one process of plain OS threads.
//!
//! A program that brings its own step begins at [`Builder`]; the binary `mb` is the same library behind a
//! command line.
//!
//! # Life of a record
//!
//! 1. The producer (`source::producer`), or any other client, posts it to a topic. mb reaches topics through
//!    one seam, `kafka::Broker`.
//! 2. A sensor (`source::sensor`) ticks: it creates a fresh `kafka::Consumer` at the sensor's cursor and polls
//!    it until the tick is over.
//! 3. The tick (`source::tick`) hands each record to the reader of its partition (`source::partition_reader`),
//!    whose `source::batcher::Batcher` copies it into the [`Batch`] being filled. The memory comes from a byte
//!    budget (`model::budget`). At a limit the batcher cuts the batch.
//! 4. The cut batch gets its identity in `source::delivery`: the history plans the range under a run number, the
//!    partition's `commit::ledger::Ledger` registers it as in flight, and the run enters the queue (`runs::queue`).
//! 5. A worker (`runs::worker`) takes the run, waits until its range is in the history's file, and hands the
//!    batch to the [`Step`]: one attempt. `runs::outcome` decides what follows (a retry as `runs::retry` says).
//! 6. The outcome goes to the history thread (`history::writer`), which writes it, together with the payloads of
//!    records that became dead letters, and only then reports to the ledger that the run is done.
//! 7. The committer (`commit::committer`) takes from the ledger the lowest offset that is not done yet, writes it
//!    to the history as an intent, and commits it to the log.
//! 8. After a crash, `pipeline::startup` reads the log's committed offsets and the history's ranges: unfinished
//!    runs are repeated with the same ranges, finished ones are skipped.
//!
//! [`Pipeline`] owns every thread and channel of this, and the order in which they start and stop.
//!
//! # Layout
//!
//! The folders follow the record's way, and each may use only those to its left:
//!
//! `model` ← `config` ← `kafka`, `step` ← `history` ← `commit` ← `runs` ← `source` ← `observe` ← `api` ←
//! `pipeline` ← `cli`
//!
//! They are private. The feature `testing` makes them public for mb's own tests and benches; nothing behind it
//! is covered by semantic versioning.

mod cli;

#[cfg(not(feature = "testing"))]
mod api;
#[cfg(not(feature = "testing"))]
mod commit;
#[cfg(not(feature = "testing"))]
mod config;
#[cfg(not(feature = "testing"))]
mod history;
#[cfg(not(feature = "testing"))]
mod kafka;
#[cfg(not(feature = "testing"))]
mod model;
#[cfg(not(feature = "testing"))]
mod observe;
#[cfg(not(feature = "testing"))]
mod pipeline;
#[cfg(not(feature = "testing"))]
mod runs;
#[cfg(not(feature = "testing"))]
mod source;
#[cfg(not(feature = "testing"))]
mod step;

#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod api;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod commit;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod config;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod history;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod kafka;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod model;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod observe;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod pipeline;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod runs;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod source;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod step;

pub use config::{
    Client, Config, Connection, DeadLetterTo, Isolation, OnFailure, OnMissingOffsets, OnOutage,
    Order, Produce, PublicUrl, StartFrom, Web,
};
#[cfg(feature = "testing")]
pub use kafka::embedded;
pub use model::batch::{Batch, Record};
pub use model::error::{Error, Result};
pub use model::headers::Headers;
pub use model::offset::{Lane, Offset, OffsetRange, Partition, Reprocess, RunKey};
pub use pipeline::builder::Builder;
pub use pipeline::{Pipeline, Stopper, Summary};
pub use step::{Attempt, FailedRecord, Step, StepError};

/// The entry point of the binary `mb`: parses the command line and runs it.
pub fn main() -> std::process::ExitCode {
    cli::main()
}

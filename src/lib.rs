//! mb turns a Kafka topic into tracked micro-batch runs, in one process of plain OS threads.
//!
//! # Life of a record
//!
//! 1. The [`producer`] (or anybody else) posts it to a topic, behind the seam [`broker::Broker`].
//! 2. A [`sensor::Sensor`] ticks: it makes a fresh [`broker::Consumer`] that starts at the sensor's
//!    cursor, and polls it until the tick is over.
//! 3. The partition's [`batcher::Batcher`] puts the record into the [`batch::Batch`] that is being
//!    filled, whose memory comes from the byte [`budget`]. At a limit it cuts the batch.
//! 4. The cut gets its identity: [`history::History`] plans the range under a run number, the
//!    [`ledger::Ledger`] has it in flight, and the [`run::Run`] goes to the [`run_queue`].
//! 5. A [`worker::Worker`] takes the run, waits until its range is in the history's file, and
//!    hands it to the [`step::Step`]: one attempt. A failed one is tried again as [`retry`] says.
//! 6. The outcome goes to the history thread, which writes it, with the records whole where they
//!    became dead letters, and only then tells the ledger that the run is done.
//! 7. The [`committer`] asks the ledger for the lowest offset not yet done, writes it to the
//!    history as an intent, and commits it to the log.
//! 8. After a crash, [`startup`] reads the log's committed offsets and the history's ranges:
//!    unfinished runs are made again with the same ranges, finished ones are passed over.
//!
//! [`pipeline::Pipeline`] owns every thread and channel of this and their order of starting and
//! stopping. A program that brings its own step begins at [`Builder`].

pub mod again;
pub mod batch;
pub mod batcher;
pub mod broker;
pub mod budget;
pub mod builder;
pub mod cancels;
pub mod cli;
pub mod clock;
pub mod committer;
pub mod config;
pub mod control;
pub mod data_dir;
pub mod dead_letters;
pub mod error;
pub mod events;
pub mod headers;
pub mod histogram;
pub mod history;
pub mod lanes;
pub mod ledger;
pub mod ledgers;
pub mod limits;
pub mod live;
pub mod messages;
pub mod metrics;
pub mod offset;
pub mod overview;
pub mod pacing;
pub mod partitioner;
pub mod pipeline;
pub mod producer;
pub mod requested;
pub mod reset;
pub mod retry;
pub mod run;
pub mod run_queue;
pub mod sensor;
pub mod signals;
pub mod split;
pub mod startup;
pub mod steering;
pub mod step;
pub mod stored;
pub mod thread;
pub mod units;
pub mod watch;
pub mod web;
pub mod worker;

pub use builder::Builder;
pub use config::{Client, Config, Produce};
pub use error::{Error, Result};
pub use pipeline::{Pipeline, Stopper, Summary};

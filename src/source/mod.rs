//! What feeds the pipeline: sensors that turn new records into runs, requests to process records once more
//! (`reprocess`), and the optional producer that posts messages to the topic.
//!
//! A sensor (`sensor`) ticks; a `tick` polls a fresh consumer and gives each record to the reader of its
//! partition (`partition_reader`), whose `batcher` cuts batches; `delivery` makes runs of them. What holds a
//! tick back is in `backpressure`, which offsets of a client's are believed in `claims`, what the log lacks in `gaps`,
//! what reaches a sensor from outside in `signals`. Everything here ends at the run queue; what happens to a run
//! after that is in `runs`.

mod backpressure;
pub mod batcher;
mod claims;
mod collect;
pub mod cursor_move;
mod delivery;
mod gaps;
mod intake;
mod partition_reader;
pub mod producer;
mod readers;
pub mod reprocess;
pub mod sensor;
pub mod signals;
mod tick;

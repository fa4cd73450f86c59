//! What feeds the pipeline: the sensors that turn new records into runs, requests to process records
//! again (`reprocess`), and the optional producer that posts messages to the topic.
//!
//! Everything here ends at the run queue; what happens to a run after that is in `runs`.

pub mod batcher;
pub mod producer;
pub mod reprocess;
pub mod sensor;

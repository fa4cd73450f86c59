//! The values that everything else is made of: offsets, records, batches, runs, errors, and the counters
//! of a running pipeline.
//!
//! Nothing in this folder talks to a broker, a file or a user. Two of its modules are the only doors to the
//! operating system that every layer needs: `clock` reads the time, `thread` starts named threads.

pub mod backoff;
pub mod batch;
pub mod budget;
pub mod clock;
pub mod crash;
pub mod error;
pub mod events;
pub mod headers;
pub mod lane;
pub mod latency;
pub mod live;
pub mod measure;
pub mod murmur;
pub mod offset;
pub mod planned;
pub mod run;
pub mod sync;
pub mod thread;

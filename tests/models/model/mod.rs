//! What the modelled files use of mb's `model`: most of it is real; time, threads and locks are stand-ins.

#[path = "../../../src/model/backoff.rs"]
pub mod backoff;
#[path = "../../../src/model/batch.rs"]
pub mod batch;
#[path = "../../../src/model/budget.rs"]
pub mod budget;
pub mod clock;
#[path = "../../../src/model/crash.rs"]
pub mod crash;
#[path = "../../../src/model/error.rs"]
pub mod error;
#[path = "../../../src/model/headers.rs"]
pub mod headers;
#[path = "../../../src/model/offset.rs"]
pub mod offset;
#[path = "../../../src/model/run.rs"]
pub mod run;
pub mod sync;
pub mod thread;

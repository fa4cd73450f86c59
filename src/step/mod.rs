//! Steps: what a run does with its batch. `contract` has the trait `Step`, which a user's own step implements.
//! mb's own steps are `log`, `discard`, `files` and `exec`; `delayed` is `--step-delay`. `files` and
//! `exec` wait in `shortage` if the disk is full or the machine is out of processes.

mod contract;
mod delayed;
mod discard;
mod exec;
mod files;
mod log;
pub mod record_json;
mod shortage;
pub mod shown_record;

pub use contract::{Attempt, FailedRecord, Step, StepError};
pub use delayed::Delayed;
pub use discard::Discard;
#[cfg(feature = "testing")]
pub use exec::parse_failed_file;
pub use exec::{ExecStep, OPTION_PREFIX, RUN_KEY_VARIABLE};
pub use files::FilesStep;
pub use log::LogStep;

//! The step: what a run does with its batch. A user's own step implements the trait `Step`; mb's own steps
//! are here too.

mod contract;
mod delayed;
mod discard;
mod exec;
mod files;
mod log;
pub mod record_json;
mod shortage;

pub use contract::{Attempt, FailedRecord, Step, StepError};
pub use delayed::Delayed;
pub use discard::Discard;
pub use exec::ExecStep;
#[cfg(feature = "testing")]
pub use exec::parse_failed_file;
pub use files::FilesStep;
pub use log::LogStep;

//! Commands and queries, a file for each subject: request types, their answers' types, and what performs them.
//!
//! Nothing here knows how a request arrived. Requests are checked here in full, whether they came through the control
//! socket, over HTTP, or from a command in this process.

pub mod cancel_run;
pub mod cursor;
pub mod dead_letters;
pub mod embedded_topic;
pub mod hold;
mod operation;
pub mod overview;
pub mod preview;
pub mod records;
pub mod requests;
pub mod runs;
pub mod sensor;
pub mod settings;

pub use operation::{Done, Operation};

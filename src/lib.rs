pub mod batch;
pub mod broker;
pub mod config;
pub mod error;
pub mod limits;
pub mod offset;
pub mod step;
pub mod thread;

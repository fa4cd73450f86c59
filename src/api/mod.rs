//! The commands and queries that other processes can send to mb.
//!
//! `operations` holds every command and query once: a request type, its answer's type, and the function that
//! performs it on a [`context::Context`]. The rest translates. `socket` carries operations over the control
//! socket, `http` over HTTP (with the page), and `instance` performs them for a command of the CLI, whether mb
//! is running or not.

pub mod context;
pub mod http;
pub mod instance;
pub mod metrics;
pub mod operations;
mod overview_cache;
pub mod request;
pub mod session;
pub mod socket;

//! The control socket: how commands reach a running mb (`control.sock` in the data directory, mode 0600).
//!
//! One JSON request a line, one JSON answer a line: `protocol` has their form, `server` and `client` the two
//! ends. `path` makes and finds the socket's file. `remote_topic` is the embedded topic as another process
//! sees it.

mod client;
mod path;
mod protocol;
mod remote_topic;
mod server;

pub use client::Client;
pub use remote_topic::RemoteTopic;
pub use server::Server;

//! How a running mb is asked and told things: commands and queries (`control`), the control socket, the
//! HTTP server with its page (`http`), and the Prometheus exposition (`metrics`).

pub mod control;
pub mod http;
pub mod metrics;

//! What can be seen of a running pipeline: lag, throughput and readiness, found by two threads (`watch`), and the
//! shapes of the overview that the page, the commands and the metrics show (`overview`).

pub mod overview;
pub mod watch;

//! What can be seen of a running pipeline: samples of lag and throughput (`watch`) and the overview that
//! page, metrics and commands are made from.

pub mod overview;
pub mod watch;

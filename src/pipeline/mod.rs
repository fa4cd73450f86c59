//! A pipeline owns every thread, channel and join of one topic's way through runs.
//!
//! `run` goes from the settings to the first contact with the broker, `startup` finds where each partition goes
//! on, `wiring` makes all parts, `running` starts their threads, `supervise` watches them, `shutdown` stops them.

pub mod builder;
mod cut_off;
mod run;
mod running;
mod shutdown;
pub mod signals;
pub mod startup;
mod status;
mod supervise;
mod threads;
pub mod wiring;
mod workers;

pub use run::{Pipeline, Stopper};
pub use shutdown::Summary;
pub use status::version;

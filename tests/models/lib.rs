//! The synchronisers that mb makes by hand, compiled from their own source files against the locks, atomics and
//! channels of shuttle, which decides which thread runs next. The tests are in `cases/`.
//!
//! This is a crate of its own because the files must be compiled without their unit tests, which need real
//! threads. The modules have the names that the files expect of mb. What the files use beside each other is
//! replaced by stand-ins: time, the history's file, settings.

// The unit tests and examples in these files need the rest of mb: they run there.
#![cfg(not(any(test, doctest)))]
#![allow(dead_code)]

extern crate self as crossbeam_channel;
extern crate self as fastrand;
extern crate self as rusqlite;

mod channel;
pub mod config;
pub mod file;
pub mod history;
pub mod kafka;
pub mod model;
pub mod runs;
pub mod source;
pub mod step;

pub use channel::{
    ReadyTimeoutError, Receiver, RecvError, RecvTimeoutError, Select, SendError, Sender,
    TryRecvError, TrySendError, after, bounded, never,
};
pub use file::{Connection, Error, Result};

/// fastrand's, without chance: the pause before the next probe of a hold.
pub fn f64() -> f64 {
    0.5
}

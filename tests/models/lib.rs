//! The synchronisers that mb makes by hand, compiled from their own source files against the locks and atomics
//! of shuttle, which decides which thread runs next. The tests are in `models.rs`.
//!
//! This is a crate of its own because the files must be compiled without their unit tests, which need real
//! threads. The modules have the names that the files expect of mb.

// The unit tests in these files need the rest of mb: they run there.
#![cfg(not(test))]
#![allow(dead_code)]

pub mod model;
pub mod runs;

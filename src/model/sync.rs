//! The locks of mb: a mutex without poisoning, and the condition variable that goes with it.
//!
//! A panic in a thread of mb ends the process after a clean shutdown, and that shutdown needs the very
//! locks that the thread may have held. std's mutex would return a `PoisonError` for each of them, and the last
//! commit could not be made; parking_lot's is unlocked. The data behind a lock must therefore be consistent whenever
//! code that can panic runs under it: users' steps never run under a lock.
//!
//! All files take these types from here and not from their crate, so that `tests/models` can compile a
//! file against the types of a model checker instead.

pub use std::sync::atomic;

pub use parking_lot::{Condvar, Mutex, MutexGuard};

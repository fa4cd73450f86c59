//! The binary `mb`. Everything is in the library (see `cli`), except what a library must not choose for its
//! program: the allocator.

use std::ffi::{c_int, c_long};
use std::process::ExitCode;

/// For librdkafka and SQLite too (feature `override`). One thread allocates a record's memory and another frees
/// it: with glibc's allocator a drain takes a third more time (docs/performance.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Freed memory goes back to the system after this time, not after a second (mimalloc's default), so memory
/// shrinks soon after a backlog is processed.
const PURGE_DELAY_MS: c_long = 200;

/// `mi_option_purge_delay` of mimalloc 3's `mi_option_t`.
const PURGE_DELAY: c_int = 15;

unsafe extern "C" {
    fn mi_option_set(option: c_int, value: c_long);
}

fn main() -> ExitCode {
    // SAFETY: mimalloc accepts options at any time, and ignores one that it does not know.
    unsafe { mi_option_set(PURGE_DELAY, PURGE_DELAY_MS) };
    mb::main()
}

//! The binary `mb`: everything is in the library; see `cli`. What is the process' own is here: who
//! gives it memory.

use std::ffi::{c_int, c_long};
use std::process::ExitCode;

/// For librdkafka and SQLite too (feature `override`). A record's memory is had by one thread and given
/// back by another: with glibc's allocator a drain takes a third more time (docs/performance.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Memory that was given back goes to the system after so long, not after a second (mimalloc's own
/// default): a backlog that is over does not stay.
const PURGE_DELAY_MS: c_long = 200;

/// `mi_option_purge_delay` of mimalloc 3's `mi_option_t`.
const PURGE_DELAY: c_int = 15;

unsafe extern "C" {
    fn mi_option_set(option: c_int, value: c_long);
}

fn main() -> ExitCode {
    // SAFETY: mimalloc takes it at any time; an option that it does not know is passed over.
    unsafe { mi_option_set(PURGE_DELAY, PURGE_DELAY_MS) };
    mb::main()
}

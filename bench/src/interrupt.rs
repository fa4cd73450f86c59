//! Ctrl-C and SIGTERM: everything that waits looks here, so that what was started is ended on the
//! way out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mb_bench::Result;

static CAME: AtomicBool = AtomicBool::new(false);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// # Errors
/// Where the handler cannot be set.
pub fn listen() -> Result<()> {
    ctrlc::set_handler(|| {
        if !CAME.swap(true, Ordering::SeqCst) {
            eprintln!("bench: stopping what was started");
        }
    })?;
    Ok(())
}

/// # Errors
/// Once the signal came.
pub fn check() -> Result<()> {
    if came() { Err("interrupted".into()) } else { Ok(()) }
}

pub fn came() -> bool {
    CAME.load(Ordering::SeqCst)
}

/// # Errors
/// Once the signal came.
pub fn sleep(duration: Duration) -> Result<()> {
    let end = Instant::now() + duration;
    loop {
        check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(LOOK_INTERVAL));
    }
}

//! SIGINT, SIGTERM and SIGHUP as messages of a channel, and what a second one means; SIGXFSZ, which
//! must not be the end.

use std::ffi::c_int;

use crossbeam_channel::{Receiver, bounded};
use rustix::process::Signal;

use crate::config::limits;
use crate::model::error::{Error, Result};
use crate::model::thread;
use crate::pipeline::Stopper;

/// A message per signal: the first asks for an orderly stop, the second for one at once. To be
/// called once per process.
///
/// # Errors
/// Where the handler cannot be set.
pub fn listen() -> Result<Receiver<()>> {
    let (sender, receiver) = bounded(2);
    ctrlc::set_handler(move || {
        // A third signal says nothing new.
        let _ = sender.try_send(());
    })
    .map_err(|cause| Error::Other(format!("cannot handle signals: {cause}")))?;
    Ok(receiver)
}

/// A pipeline's stop, requested by signals. A second signal ends the process with exit code 2, even if the pipeline
/// waits for a broker.
///
/// # Errors
/// As `listen`.
pub fn stop() -> Result<Receiver<()>> {
    outlive_file_limits();
    let signals = listen()?;
    let (stopper, stop) = Stopper::new();
    thread::spawn("signals", move || {
        let mut first = true;
        while signals.recv().is_ok() {
            stopper.stop();
            if !first {
                // A pipeline that does not wait for a broker ends by itself in this time.
                std::thread::sleep(limits::SECOND_SIGNAL_GRACE);
                log::error!("forced stop: a second signal came before mb had stopped");
                std::process::exit(2);
            }
            first = false;
        }
    })?;
    Ok(stop)
}

unsafe extern "C" {
    /// POSIX; the C library that std itself is linked with has it.
    fn signal(number: c_int, handler: extern "C" fn(c_int)) -> usize;
}

extern "C" fn nothing(_: c_int) {}

/// A file that outgrows `ulimit -f` would kill mb by SIGXFSZ; with a handler the write fails instead,
/// and is retried as on a full disk. Not "ignore", which commands would inherit.
fn outlive_file_limits() {
    // SAFETY: a handler that does nothing may be called at any moment, and replaces none.
    unsafe { signal(Signal::XFSZ.as_raw(), nothing) };
}

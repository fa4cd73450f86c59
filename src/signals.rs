//! SIGINT, SIGTERM and SIGHUP as messages of a channel, and what a second one means.

use crossbeam_channel::{Receiver, bounded};

use crate::error::{Error, Result};
use crate::pipeline::Stopper;
use crate::{limits, thread};

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

/// The stop that a pipeline listens to, pulled by signals. A second signal ends the process with
/// exit code 2 even where the pipeline waits for a broker.
///
/// # Errors
/// As `listen`.
pub fn stop() -> Result<Receiver<()>> {
    let signals = listen()?;
    let (stopper, stop) = Stopper::new();
    thread::spawn("signals", move || {
        let mut first = true;
        while signals.recv().is_ok() {
            stopper.stop();
            if !first {
                // The pipeline ends by itself in this time, but where it waits for a broker.
                std::thread::sleep(limits::SECOND_SIGNAL_GRACE);
                log::error!("ended at once, as asked");
                std::process::exit(2);
            }
            first = false;
        }
    })?;
    Ok(stop)
}

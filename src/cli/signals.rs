//! SIGINT, SIGTERM and SIGHUP as messages of a channel.

use crossbeam_channel::{Receiver, bounded};

use crate::error::{Error, Result};

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

//! `model::thread` over shuttle. A panic in a thread fails the model.

use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::model::error::Result;

pub struct Thread<T>(shuttle::thread::JoinHandle<T>);

impl<T> Thread<T> {
    pub fn join(self) -> Result<T> {
        Ok(self.0.join().expect("a panic fails the model"))
    }
}

pub fn spawn<T: Send + 'static>(
    _name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<Thread<T>> {
    Ok(Thread(shuttle::thread::spawn(body)))
}

pub fn stopped_within(stop: &Receiver<()>, wait: Duration) -> bool {
    !matches!(stop.recv_timeout(wait), Err(RecvTimeoutError::Timeout))
}

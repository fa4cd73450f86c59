//! What a client keeps between its requests: an open history and, for the embedded topic, a producer.
//! Opening either costs more than using it.

use std::path::Path;

use rusqlite::Connection;

use crate::history::{self, schema};
use crate::kafka::Producer;
use crate::model::error::Result;

/// One client's open files. A connection to the control socket has one of its own; HTTP requests share a few.
#[derive(Default)]
pub struct Session {
    history: Option<Connection>,
    producer: Option<(String, Box<dyn Producer>)>,
}

impl Session {
    /// The history of `data_dir`, to be read.
    ///
    /// # Errors
    /// As `schema::open_read_only`.
    pub fn history(&mut self, data_dir: &Path) -> Result<&Connection> {
        if self.history.is_none() {
            self.history = Some(schema::open_read_only(&data_dir.join(history::FILE))?);
        }
        Ok(self.history.as_ref().expect("opened just now"))
    }

    /// The producer for `topic`: the one that is open, or what `open` returns.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn producer(
        &mut self,
        topic: &str,
        open: impl FnOnce() -> Result<Box<dyn Producer>>,
    ) -> Result<&mut dyn Producer> {
        if self.producer.as_ref().is_none_or(|(known, _)| known != topic) {
            self.producer = Some((topic.to_owned(), open()?));
        }
        Ok(self.producer.as_mut().expect("opened just now").1.as_mut())
    }

    /// The producer that is open, if any.
    pub fn open_producer(&mut self) -> Option<&mut dyn Producer> {
        match &mut self.producer {
            Some((_, producer)) => Some(producer.as_mut()),
            None => None,
        }
    }
}

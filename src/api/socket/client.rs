//! The client of the control socket: sends a request, and reads the answer within a time limit.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Instant;

use super::path::{FILE, connect};
use super::protocol;
use crate::api::operations::Operation;
use crate::api::request::Request;
use crate::config::data_dir::DataDir;
use crate::config::{limits, rights};
use crate::model::error::{Error, Result};

/// A connection to a running mb.
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the mb that is running on this data directory; `None` if none is. An mb that has only just
    /// locked it, and a command that has the lock for a moment, are waited for.
    ///
    /// # Errors
    /// `Other` if an mb is running, but its socket cannot be reached; `Config` if it is another user's.
    pub fn connect(data_dir: &Path) -> Result<Option<Client>> {
        rights::check(data_dir)?;
        let path = data_dir.join(FILE);
        let open = || -> io::Result<Client> {
            let stream = connect(&path)?;
            stream.set_write_timeout(Some(limits::CONTROL_LIMIT))?;
            Ok(Client { stream: BufReader::new(stream) })
        };
        let deadline = Instant::now() + limits::LOCK_LIMIT;
        loop {
            // The socket first: a command that only asks need not touch the lock.
            let cause = match open() {
                Ok(client) => return Ok(Some(client)),
                Err(cause) => cause,
            };
            let Some(holder) = DataDir::holder(data_dir) else { return Ok(None) };
            if Instant::now() >= deadline {
                return Err(Error::Other(format!(
                    "{holder} runs on {}, but its control socket does not answer: {cause}; it may \
                     be stopping: try again",
                    data_dir.display()
                )));
            }
            thread::sleep(limits::LOCK_LOOK_INTERVAL);
        }
    }

    /// Sends the operation and waits for its answer.
    ///
    /// # Errors
    /// Those of the operation; `Other` if the running mb does not answer, or with something else.
    pub fn perform<O: Operation + Into<Request>>(&mut self, operation: O) -> Result<O::Answer> {
        let limit = operation.answer_limit();
        let request: Request = operation.into();
        let mut line = serde_json::to_vec(&request)
            .map_err(|cause| Error::Other(format!("a request that cannot be sent: {cause}")))?;
        line.push(b'\n');
        if line.len() > limits::CONTROL_REQUEST_BYTES {
            return Err(Error::Other(format!(
                "the request has {} bytes, and a running mb takes {} at most: stop mb and repeat the command",
                line.len(),
                limits::CONTROL_REQUEST_BYTES
            )));
        }
        let mut exchange = || -> io::Result<Vec<u8>> {
            self.stream.get_ref().set_read_timeout(Some(limit))?;
            self.stream.get_mut().write_all(&line)?;
            let mut answer = Vec::new();
            self.stream.read_until(b'\n', &mut answer)?;
            if answer.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(answer)
        };
        let answer = exchange()
            .map_err(|cause| Error::Other(format!("the running mb did not answer: {cause}")))?;
        serde_json::from_value(protocol::read_answer(&answer)?).map_err(|cause| {
            Error::Other(format!("the running mb gave an answer that cannot be read: {cause}"))
        })
    }
}

//! One connection: its requests one after another, each with one deadline for all of it, and their answers.
//! Which connections are open, and which one is closed for another, is in `shared`.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::request::{self, Method, Refusal, Request};
use super::response::{Body, Response};
use super::shared::{Phase, Shared};
use super::wrong_tokens::Consequence;
use super::{dispatch, events};
use crate::config::limits;
use crate::model::thread::stopped_within;

pub struct Connection {
    shared: Arc<Shared>,
    number: u64,
    stream: Arc<TcpStream>,
    /// Bytes that were read and belong to no whole request yet.
    buffer: Vec<u8>,
}

enum Next {
    Request(Request),
    Refused(Refusal),
    /// The client closed the connection, or sent nothing for too long.
    Ended,
}

impl Connection {
    pub fn new(shared: Arc<Shared>, number: u64, stream: Arc<TcpStream>) -> Connection {
        Connection { shared, number, stream, buffer: Vec::new() }
    }

    /// Answers requests until either side ends the connection.
    ///
    /// # Errors
    /// If the client is too slow or gone.
    pub fn serve(mut self) -> io::Result<()> {
        // Answers are written whole, so Nagle's algorithm would only delay them.
        self.stream.set_nodelay(true)?;
        let mut is_first = true;
        loop {
            let request = match self.next(is_first)? {
                Next::Request(mut request) => {
                    self.shared.guard.strip_base(&mut request);
                    request
                }
                Next::Refused(refusal) => {
                    self.answer(&refusal.into(), Method::Get, false)?;
                    return self.linger();
                }
                Next::Ended => return Ok(()),
            };
            is_first = false;
            self.shared.set_phase(self.number, Phase::Answering);
            let response = dispatch::answer(&self.shared, &request);
            if response.is_wrong_token && !self.delay(&request)? {
                return Ok(());
            }
            if matches!(response.body, Body::Events) && request.method == Method::Get {
                return self.events(&request, &response);
            }
            let keep = request.keep_alive && !self.shared.is_stopping();
            self.answer(&response, request.method, keep)?;
            if !keep {
                return self.linger();
            }
        }
    }

    fn next(&mut self, is_first: bool) -> io::Result<Next> {
        let mut is_begun = is_first;
        let wait = if is_first { limits::HTTP_REQUEST_LIMIT } else { limits::HTTP_IDLE_LIMIT };
        let mut deadline = Instant::now() + wait;
        // A head ends with the end of a line: until one arrives, there is no need to parse again.
        let mut has_line = true;
        if !is_first && self.buffer.is_empty() {
            self.shared.set_phase(self.number, Phase::Idle);
        }
        let head = loop {
            if !self.buffer.is_empty() {
                if !is_begun {
                    is_begun = true;
                    deadline = Instant::now() + limits::HTTP_REQUEST_LIMIT;
                    self.shared.set_phase(self.number, Phase::Reading);
                }
                if has_line || self.buffer.len() >= limits::HTTP_HEAD_BYTES {
                    match request::head(&self.buffer) {
                        Ok(Some(head)) => break head,
                        Ok(None) => {}
                        Err(refusal) => return Ok(Next::Refused(refusal)),
                    }
                }
            }
            let known = self.buffer.len();
            match self.read(deadline) {
                Ok(0) => return Ok(Next::Ended),
                Ok(_) => has_line = known == 0 || self.buffer[known..].contains(&b'\n'),
                Err(error) if error.kind() == ErrorKind::TimedOut && self.buffer.is_empty() => {
                    return Ok(Next::Ended);
                }
                Err(error) if error.kind() == ErrorKind::TimedOut => return Ok(too_slow()),
                Err(error) => return Err(error),
            }
        };
        self.buffer.drain(..head.bytes);
        if head.expects_continue && self.buffer.len() < head.body_bytes {
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        while self.buffer.len() < head.body_bytes {
            match self.read(deadline) {
                Ok(0) => return Ok(Next::Ended),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::TimedOut => return Ok(too_slow()),
                Err(error) => return Err(error),
            }
        }
        let mut request = head.request;
        request.body = self.buffer.drain(..head.body_bytes).collect();
        Ok(Next::Request(request))
    }

    /// Waits for more bytes; 0 if the client sends no more.
    fn read(&mut self, deadline: Instant) -> io::Result<usize> {
        let mut chunk = [0; 8192];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.as_ref().read(&mut chunk) {
                Ok(bytes) => {
                    self.buffer.extend_from_slice(&chunk[..bytes]);
                    return Ok(bytes);
                }
                // The socket's timeout may fire a moment before the deadline.
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Lets the answer to a wrong token wait. False if the client is gone, or the connection was closed for a new
    /// one, which the wait must not outlast: its thread counts as one of `HTTP_THREADS`.
    fn delay(&mut self, request: &Request) -> io::Result<bool> {
        let Consequence { wait, to_say } = self.shared.wrong_token();
        if let Some(count) = to_say {
            log::warn!(
                "page: {count} wrong token(s), the last one from {}: {} {}",
                self.stream.peer_addr()?,
                request.method.name(),
                request.path
            );
        }
        self.shared.set_phase(self.number, Phase::Delayed);
        // Neither more of the client's bytes nor the end of those that it sends makes it shorter.
        let deadline = Instant::now() + wait;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(true);
            }
            let mut closed = [PollFd::new(&*self.stream, PollFlags::RDHUP)];
            let left = Timespec::try_from(left).unwrap_or_default();
            match poll(&mut closed, Some(&left)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(false),
                Err(cause) => return Err(cause.into()),
            }
        }
    }

    fn answer(&mut self, response: &Response, method: Method, keep: bool) -> io::Result<()> {
        self.shared.set_phase(self.number, Phase::Writing);
        let mut bytes = response.head(keep);
        if let Body::Bytes(body) = &response.body
            && method != Method::Head
            && response.status != 304
        {
            bytes.extend_from_slice(body);
        }
        self.write(&bytes)
    }

    /// Writes everything by one deadline, in however small pieces the client reads.
    fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        let deadline = Instant::now() + limits::HTTP_WRITE_LIMIT;
        while !bytes.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_write_timeout(Some(left))?;
            match self.stream.as_ref().write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => bytes = &bytes[written..],
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes an overview each second, for as long as the client may see it: it may sign out meanwhile.
    fn events(&mut self, request: &Request, response: &Response) -> io::Result<()> {
        self.shared.set_phase(self.number, Phase::Streaming);
        self.write(&response.head(false))?;
        self.write(events::PREFACE)?;
        while self.shared.guard.is_signed_in(request) {
            self.write(&events::event(&self.shared.context))?;
            if stopped_within(&self.shared.stopping, self.shared.events.until_next()) {
                break;
            }
        }
        Ok(())
    }

    /// Ends the connection so that the answer arrives. A socket that is closed with bytes unread is reset, and
    /// the client may lose an answer that it had not read yet (RFC 9112, 9.6).
    fn linger(&mut self) -> io::Result<()> {
        self.shared.set_phase(self.number, Phase::Reading);
        self.stream.shutdown(Shutdown::Write)?;
        let deadline = Instant::now() + limits::HTTP_LINGER_LIMIT;
        let mut rest = 0;
        while rest < limits::HTTP_LINGER_BYTES {
            self.buffer.clear();
            match self.read(deadline) {
                Ok(bytes) if bytes > 0 => rest += bytes,
                _ => break,
            }
        }
        Ok(())
    }
}

fn too_slow() -> Next {
    let limit = limits::HTTP_REQUEST_LIMIT;
    Next::Refused(Refusal::new(408, format!("a request that was not whole within {limit:?}")))
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

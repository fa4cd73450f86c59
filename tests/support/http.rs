//! HTTP as bytes on a socket: what a browser never sends can be sent with it too.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::mb::Mb;

const LIMIT: Duration = Duration::from_secs(60);

/// The server of a running mb.
#[derive(Clone, Copy, Debug)]
pub struct Http {
    pub port: u16,
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    pub body: Vec<u8>,
}

impl Http {
    /// That of an mb that was started with `--listen PORT`, 0 too.
    pub fn of(mb: &Mb) -> Http {
        let line = mb.wait_for_line("page: http://", LIMIT);
        let port = line.trim_end_matches('/').rsplit(':').next().and_then(|port| port.parse().ok());
        Http { port: port.unwrap_or_else(|| panic!("no port in {line}")) }
    }

    pub fn connect(self) -> TcpStream {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("mb listens");
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        stream.set_write_timeout(Some(LIMIT)).expect("a limit");
        stream
    }

    /// Sends it and reads the answer, on a connection of its own.
    pub fn send(self, request: &str) -> Answer {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).expect("mb reads");
        read_answer(&mut stream, request.starts_with("HEAD "))
    }

    /// A request with a body and headers, each with its line's end.
    pub fn ask(self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        self.send(&self.request(method, path, headers, body))
    }

    pub fn request(self, method: &str, path: &str, headers: &str, body: &str) -> String {
        let (port, length) = (self.port, body.len());
        let length =
            if method == "GET" { String::new() } else { format!("Content-Length: {length}\r\n") };
        format!("{method} {path} HTTP/1.1\r\nHost: localhost:{port}\r\n{headers}{length}\r\n{body}")
    }

    pub fn get(self, path: &str) -> Answer {
        self.ask("GET", path, "", "")
    }

    pub fn post(self, path: &str, body: &str) -> Answer {
        self.ask("POST", path, "Content-Type: application/json\r\n", body)
    }

    /// Begins to listen to the events.
    pub fn events(self) -> TcpStream {
        let mut stream = self.connect();
        let request = self.request("GET", "/api/v1/events", "", "");
        stream.write_all(request.as_bytes()).expect("mb reads");
        stream
    }
}

impl Answer {
    /// # Panics
    /// Where the body is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|cause| panic!("{cause}: {self:?}"))
    }

    /// The value of the error's `kind`.
    pub fn kind(&self) -> String {
        self.json()["error"]["kind"].as_str().unwrap_or_default().to_owned()
    }

    pub fn message(&self) -> String {
        self.json()["error"]["message"].as_str().unwrap_or_default().to_owned()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value, by its name as it is sent.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}

/// Reads one answer, and no byte of the next.
///
/// # Panics
/// Where the connection ends before it is whole.
pub fn read_answer(stream: &mut TcpStream, is_head: bool) -> Answer {
    let head = read_until(stream, "\r\n\r\n");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no status in {head:?}"));
    let mut answer = Answer { status, head, body: Vec::new() };
    let length = answer.header("Content-Length").map_or(0, |text| text.parse().unwrap());
    if !is_head {
        answer.body = vec![0; length];
        stream.read_exact(&mut answer.body).expect("the whole body");
    }
    answer
}

/// Reads up to and with `end`.
///
/// # Panics
/// Where the connection ends before it.
pub fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        let mut byte = [0];
        let read = stream.read(&mut byte).expect("an answer in time");
        assert!(read == 1, "the connection ended after {:?}", String::from_utf8_lossy(&bytes));
        bytes.push(byte[0]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether the other side ends the connection, by an orderly end or not, within a minute; what it
/// sends before is passed over.
pub fn is_ended(stream: &mut TcpStream) -> bool {
    rest(stream).is_some()
}

/// What the other side still sends before it ends the connection, within a minute; `None` where it does
/// not.
pub fn rest(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let deadline = Instant::now() + Duration::from_secs(60);
    let (mut rest, mut chunk) = (Vec::new(), [0; 4096]);
    // A stream of events would go on for ever.
    while Instant::now() < deadline {
        match stream.read(&mut chunk) {
            Ok(0) => return Some(rest),
            Ok(bytes) => rest.extend_from_slice(&chunk[..bytes]),
            Err(cause) if cause.kind() == std::io::ErrorKind::ConnectionReset => return Some(rest),
            Err(_) => return None,
        }
    }
    None
}

//! A reverse proxy in front of the page, as nginx and Caddy are in theirs: a connection of its own for each request,
//! the `Host` that is set, a path that it takes away or leaves, and headers that tell about the client.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// What the proxy changes in a request.
#[derive(Clone, Debug, Default)]
pub struct Rewrite {
    /// The `Host` that mb gets; `None` for the browser's.
    pub host: Option<String>,
    /// The path that is taken away from the front.
    pub strip: &'static str,
}

/// A running proxy. Dropping it ends it.
pub struct HttpProxy {
    pub port: u16,
    stopping: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl HttpProxy {
    /// In front of the page on port `to`.
    pub fn start(port: u16, to: u16, rewrite: Rewrite) -> HttpProxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let stopping = Arc::new(AtomicBool::new(false));
        let accepting = {
            let stopping = Arc::clone(&stopping);
            thread::spawn(move || {
                for client in listener.incoming().flatten() {
                    if stopping.load(Ordering::Acquire) {
                        return;
                    }
                    let rewrite = rewrite.clone();
                    thread::spawn(move || forward(client, to, &rewrite));
                }
            })
        };
        HttpProxy { port, stopping, accepting: Some(accepting) }
    }
}

impl Drop for HttpProxy {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // It waits for one more connection.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

/// One request, and its answer until mb ends the connection: events go on for as long as the browser reads.
fn forward(mut client: TcpStream, to: u16, rewrite: &Rewrite) {
    let _ = client.set_read_timeout(Some(LIMIT));
    let Some((head, body)) = read_request(&mut client) else { return };
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)) else { return };
    let request = [rewritten(&head, rewrite).as_bytes(), &body].concat();
    if server.write_all(&request).is_err() {
        return;
    }
    let mut chunk = [0; 16 * 1024];
    loop {
        match server.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) if client.write_all(&chunk[..read]).is_ok() => {}
            Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    let _ = client.shutdown(Shutdown::Both);
}

/// The head, and the body that it announces.
fn read_request(client: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        read_more(client, &mut bytes)?;
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let length = header(&head, "content-length").and_then(|length| length.parse().ok());
    while bytes.len() < end + length.unwrap_or(0) {
        read_more(client, &mut bytes)?;
    }
    Some((head, bytes.split_off(end)))
}

fn read_more(client: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<()> {
    let mut chunk = [0; 4096];
    let read = client.read(&mut chunk).ok().filter(|read| *read > 0)?;
    bytes.extend_from_slice(&chunk[..read]);
    Some(())
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// The head as mb gets it.
fn rewritten(head: &str, rewrite: &Rewrite) -> String {
    let mut lines = head.trim_end().split("\r\n");
    let mut first = lines.next().unwrap_or_default().splitn(3, ' ');
    let (method, target) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
    let target = target.strip_prefix(rewrite.strip).unwrap_or(target);
    let host = header(head, "host").unwrap_or_default();
    let new_host = rewrite.host.as_deref().unwrap_or(host);
    let own = |line: &&str| {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        !matches!(name.as_str(), "host" | "connection")
    };
    let others: String = lines.filter(own).map(|line| format!("{line}\r\n")).collect();
    format!(
        "{method} {target} HTTP/1.1\r\nHost: {new_host}\r\n{others}X-Forwarded-For: 192.0.2.7\r\n\
         X-Forwarded-Host: {host}\r\nX-Forwarded-Proto: https\r\nForwarded: for=192.0.2.7;host={host}\r\n\
         Connection: close\r\n\r\n"
    )
}

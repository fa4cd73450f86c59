//! One connection to one broker: connecting, frames and versions, every wait under a deadline.
//! What is asked over it lives in the other files of `wire`.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, RequestHeader};
use kafka_protocol::protocol::{Encodable, Request, StrBytes, encode_request_header_into_buffer};

use super::reader::{Broken, Read, Reader};
use crate::error::Error;
use crate::thread::call_with_limit;

/// Bytes of an answer to ApiVersions at most; real ones are below 1 KiB.
const VERSIONS_ANSWER_BYTES: usize = 64 * 1024;

/// What went wrong on a connection, as one line that names no server: its caller does.
pub(super) type Cause = String;

/// The lowest and highest version that a broker serves, by API key.
pub(super) type Versions = BTreeMap<i16, (i16, i16)>;

#[derive(Debug)]
pub(super) struct Session {
    stream: TcpStream,
    next_correlation_id: i32,
    pub(super) versions: Versions,
}

impl Session {
    /// Connects to `address` (`HOST:PORT`; each address of the name in turn) and asks for the API
    /// versions, all before `deadline`.
    pub(super) fn open(address: &str, deadline: Instant) -> Result<Session, Cause> {
        let stream = connect(address, deadline)?;
        let mut session = Session {
            stream,
            // Not the same on every connection, so that an answer to somebody else shows.
            next_correlation_id: fastrand::i32(1..i32::MAX / 2),
            versions: Versions::new(),
        };
        // Version 0 is understood by every broker since 0.10.
        let answer =
            session.exchange(&ApiVersionsRequest::default(), 0, VERSIONS_ANSWER_BYTES, deadline)?;
        let (error, versions) = read_versions(&answer).map_err(|Broken| not_kafka())?;
        if error != 0 {
            return Err(format!("the answer to ApiVersions is error {error}"));
        }
        session.versions = versions;
        Ok(session)
    }

    /// The highest version of `api` from `ours` (both ends included) that the broker serves.
    pub(super) fn version(&self, api: ApiKey, ours: (i16, i16)) -> Result<i16, Cause> {
        let theirs = self.versions.get(&(api as i16));
        theirs
            .map(|&(low, high)| (low.max(ours.0), high.min(ours.1)))
            .filter(|(low, high)| low <= high)
            .map(|(_, high)| high)
            .ok_or_else(|| match theirs {
                None => format!("the broker does not serve {api:?}"),
                Some((low, high)) => format!(
                    "the broker serves {api:?} in versions {low} to {high}, mb speaks {} to {}",
                    ours.0, ours.1
                ),
            })
    }

    /// Sends a request and returns its answer behind the correlation id, at most `limit` bytes.
    pub(super) fn exchange<R: Request>(
        &mut self,
        request: &R,
        version: i16,
        limit: usize,
        deadline: Instant,
    ) -> Result<Vec<u8>, Cause> {
        let correlation_id = self.next_correlation_id;
        self.next_correlation_id = self.next_correlation_id.wrapping_add(1);
        let frame = encode(request, version, correlation_id)
            .map_err(|cause| format!("the request cannot be encoded: {cause}"))?;
        self.send(&frame, deadline)?;
        let mut head = [0; 8];
        self.fill(&mut head[..4], deadline)?;
        let length = answer_length(head, limit)?;
        self.fill(&mut head[4..], deadline)?;
        if head[4..] != correlation_id.to_be_bytes() {
            return Err("the answer belongs to another request: no Kafka, or a faulty proxy".into());
        }
        // The limit was checked, so the length may be believed.
        let mut answer = vec![0; length - 4];
        self.fill(&mut answer, deadline)?;
        Ok(answer)
    }

    fn send(&mut self, mut bytes: &[u8], deadline: Instant) -> Result<(), Cause> {
        while !bytes.is_empty() {
            let left = remaining(deadline)?;
            let _ = self.stream.set_write_timeout(Some(left));
            match self.stream.write(bytes) {
                Ok(0) => return Err(closed()),
                Ok(count) => bytes = &bytes[count..],
                Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
                Err(cause) => return Err(explain(&cause)),
            }
        }
        Ok(())
    }

    fn fill(&mut self, mut bytes: &mut [u8], deadline: Instant) -> Result<(), Cause> {
        while !bytes.is_empty() {
            let left = remaining(deadline)?;
            let _ = self.stream.set_read_timeout(Some(left));
            match self.stream.read(bytes) {
                Ok(0) => return Err(closed()),
                Ok(count) => bytes = &mut bytes[count..],
                Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
                Err(cause) => return Err(explain(&cause)),
            }
        }
        Ok(())
    }
}

/// A whole request frame: its length, its header, its body.
fn encode<R: Request>(request: &R, version: i16, correlation_id: i32) -> Result<Vec<u8>, String> {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation_id)
        .with_client_id(Some(StrBytes::from_static_str("mb")));
    let mut frame = vec![0; 4];
    encode_request_header_into_buffer(&mut frame, &header).map_err(|cause| cause.to_string())?;
    request.encode(&mut frame, version).map_err(|cause| cause.to_string())?;
    let length = u32::try_from(frame.len() - 4).map_err(|_| "too large".to_owned())?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame)
}

/// The length of an answer (correlation id and body) from its first four bytes, which also show
/// what else may be listening there.
fn answer_length(head: [u8; 8], limit: usize) -> Result<usize, Cause> {
    let [a, b, c, d, ..] = head;
    if [a, b, c, d] == *b"HTTP" {
        return Err("an HTTP server answers there, not Kafka: check the port".into());
    }
    // A TLS record: alert (21) or handshake (22), version 3.x.
    if matches!(a, 21 | 22) && b == 3 && c <= 4 {
        return Err("it answers in TLS, mb spoke plaintext: check the port (TLS is not there \
                    yet)"
            .into());
    }
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length < 4 {
        return Err(not_kafka());
    }
    if length > limit.saturating_add(4) {
        return Err(format!("{} (it announces {length} bytes, the limit is {limit})", not_kafka()));
    }
    Ok(length)
}

fn read_versions(answer: &[u8]) -> Read<(i16, Versions)> {
    let mut reader = Reader::new(answer, false);
    let error = reader.i16()?;
    let versions = reader.array(|api| Ok((api.i16()?, (api.i16()?, api.i16()?))))?;
    Ok((error, versions.into_iter().collect()))
}

fn connect(address: &str, deadline: Instant) -> Result<TcpStream, Cause> {
    let addresses = resolve(address, deadline)?;
    let mut causes = Vec::new();
    for (index, one) in addresses.iter().enumerate() {
        // A black-holed address leaves time for the others.
        let share = remaining(deadline)? / u32::try_from(addresses.len() - index).unwrap_or(1);
        match TcpStream::connect_timeout(one, share) {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(cause) if cause.kind() == ErrorKind::TimedOut => {
                causes.push("no connection in time: nothing answers at this address".to_owned());
            }
            Err(cause) => causes.push(explain(&cause)),
        }
    }
    causes.dedup();
    Err(causes.join("; "))
}

/// All addresses of a name; the system's resolver has no time limit, so it runs on its own thread.
fn resolve(address: &str, deadline: Instant) -> Result<Vec<SocketAddr>, Cause> {
    if let Ok(address) = address.parse() {
        return Ok(vec![address]);
    }
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).to_owned();
    let asked = address.to_owned();
    let found = call_with_limit("resolve", remaining(deadline)?, move || {
        asked.to_socket_addrs().map(|found| found.collect::<Vec<_>>())
    });
    match found.map_err(|cause: Error| cause.to_string())? {
        Some(Ok(found)) if !found.is_empty() => Ok(found),
        Some(Ok(_)) => Err(format!("the name {host} has no address")),
        Some(Err(cause)) => {
            let cause = cause.to_string();
            let cause = cause.strip_prefix("failed to lookup address information: ");
            Err(format!("the name {host} does not resolve{}", match cause {
                Some(cause) => format!(" ({cause})"),
                None => String::new(),
            }))
        }
        None => Err(format!("no answer in time about the name {host}")),
    }
}

/// What is left until the deadline; an error where it has passed.
fn remaining(deadline: Instant) -> Result<Duration, Cause> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(silent()) } else { Ok(left) }
}

fn explain(cause: &io::Error) -> Cause {
    match cause.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => silent(),
        ErrorKind::ConnectionRefused => "connection refused: nothing listens there".into(),
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
            closed()
        }
        _ => cause.to_string(),
    }
}

fn silent() -> Cause {
    "no answer in time".into()
}

fn closed() -> Cause {
    "it closed the connection instead of answering: no Kafka, or a listener with TLS or SASL"
        .into()
}

fn not_kafka() -> Cause {
    "what answers there is no Kafka".into()
}

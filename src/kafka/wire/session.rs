//! One connection to one broker: connecting, frames and versions; every wait has a deadline. What is requested
//! over it lives in the other files of `wire`.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, RequestHeader};
use kafka_protocol::protocol::{Encodable, StrBytes, encode_request_header_into_buffer};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::connect::{Cause, closed, connect, explain, remaining};
use super::reader::{Broken, Read, Reader};
use super::tls;

/// The largest answer to ApiVersions, in bytes; real ones are below 1 KiB.
const VERSIONS_ANSWER_BYTES: usize = 64 * 1024;

/// The lowest and highest version that a broker serves, by API key.
pub(super) type Versions = BTreeMap<i16, (i16, i16)>;

#[derive(Debug)]
pub(super) struct Session {
    stream: TcpStream,
    next_correlation_id: i32,
    pub(super) versions: Versions,
    /// When it was last used.
    used: Instant,
}

impl Session {
    /// Connects to `address` (`HOST:PORT`; each address of the name in turn) and asks for the API
    /// versions, all before `deadline`. A listener that expects TLS is named.
    pub(super) fn open(address: &str, deadline: Instant) -> Result<Session, Cause> {
        Session::open_plain(address, deadline).map_err(|cause| match cause == closed() {
            true => tls::is_expected(address, deadline).unwrap_or(cause),
            false => cause,
        })
    }

    /// `open`, without a second look at a listener that closes the connection.
    fn open_plain(address: &str, deadline: Instant) -> Result<Session, Cause> {
        let stream = connect(address, deadline)?;
        let mut session = Session {
            stream,
            // Random, so that an answer which a faulty proxy sends to the wrong connection is noticed.
            next_correlation_id: fastrand::i32(1..i32::MAX / 2),
            versions: Versions::new(),
            used: Instant::now(),
        };
        // Every broker since 0.10 understands version 0.
        let request =
            Request { api: ApiKey::ApiVersions, version: 0, body: &ApiVersionsRequest::default() };
        let answer = session.exchange(&request, VERSIONS_ANSWER_BYTES, deadline)?;
        let (error, versions) = read_versions(&answer).map_err(|Broken| not_kafka())?;
        if error != 0 {
            return Err(format!("the answer to ApiVersions is error {error}"));
        }
        session.versions = versions;
        Ok(session)
    }

    /// The connection is idle from now on, until its next request.
    pub(super) fn rest(&mut self) {
        self.used = Instant::now();
    }

    pub(super) fn idle_for(&self) -> Duration {
        self.used.elapsed()
    }

    /// Whether the broker has neither closed the connection nor sent anything unexpected on it. A broker that
    /// was restarted has closed it, and a request written now would be lost.
    pub(super) fn is_open(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        matches!(rustix::net::recv(&self.stream, &mut [0_u8][..], flags), Err(Errno::AGAIN))
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

    /// Sends a request and returns its answer without the correlation id, at most `limit` bytes.
    pub(super) fn exchange<R: Encodable>(
        &mut self,
        request: &Request<'_, R>,
        limit: usize,
        deadline: Instant,
    ) -> Result<Vec<u8>, Cause> {
        let length = self.send_request(request, limit, deadline)?;
        let mut answer = vec![0; length];
        self.fill(&mut answer, deadline)?;
        Ok(answer)
    }

    /// Like `exchange`, but keeps only the first `head` bytes of the answer, whatever its size.
    pub(super) fn exchange_head<R: Encodable>(
        &mut self,
        request: &Request<'_, R>,
        head: usize,
        deadline: Instant,
    ) -> Result<Vec<u8>, Cause> {
        let length = self.send_request(request, i32::MAX as usize, deadline)?;
        let mut answer = vec![0; length.min(head)];
        self.fill(&mut answer, deadline)?;
        let mut unwanted = length - answer.len();
        let mut scratch = vec![0; unwanted.min(64 * 1024)];
        while unwanted > 0 {
            let part = unwanted.min(scratch.len());
            self.fill(&mut scratch[..part], deadline)?;
            unwanted -= part;
        }
        Ok(answer)
    }

    /// Sends a request, reads the head of its answer and returns how many bytes follow.
    fn send_request<R: Encodable>(
        &mut self,
        request: &Request<'_, R>,
        limit: usize,
        deadline: Instant,
    ) -> Result<usize, Cause> {
        let correlation_id = self.next_correlation_id;
        self.next_correlation_id = self.next_correlation_id.wrapping_add(1);
        let frame = request
            .encode(correlation_id)
            .map_err(|cause| format!("the request cannot be encoded: {cause}"))?;
        self.send(&frame, deadline)?;
        let mut length = [0; 4];
        self.fill(&mut length, deadline)?;
        let length = answer_length(length, limit)?;
        let mut id = [0; 4];
        self.fill(&mut id, deadline)?;
        if id != correlation_id.to_be_bytes() {
            return Err("the answer belongs to another request: no Kafka, or a faulty proxy".into());
        }
        Ok(length - 4)
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

/// A request in one of its versions.
pub(super) struct Request<'a, R> {
    pub(super) api: ApiKey,
    pub(super) version: i16,
    pub(super) body: &'a R,
}

impl<R: Encodable> Request<'_, R> {
    /// The whole frame: its length, its header, its body.
    fn encode(&self, correlation_id: i32) -> Result<Vec<u8>, String> {
        let header = RequestHeader::default()
            .with_request_api_key(self.api as i16)
            .with_request_api_version(self.version)
            .with_correlation_id(correlation_id)
            .with_client_id(Some(StrBytes::from_static_str("mb")));
        let mut frame = vec![0; 4];
        encode_request_header_into_buffer(&mut frame, &header)
            .map_err(|cause| cause.to_string())?;
        self.body.encode(&mut frame, self.version).map_err(|cause| cause.to_string())?;
        let length = u32::try_from(frame.len() - 4).map_err(|_| "too large".to_owned())?;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        Ok(frame)
    }
}

/// The length of an answer (correlation id and body) from its first four bytes. They also show what listens
/// there if it is not Kafka.
fn answer_length(head: [u8; 4], limit: usize) -> Result<usize, Cause> {
    if head == *b"HTTP" {
        return Err("an HTTP server answers there, not Kafka: check the port".into());
    }
    if tls::is_record([head[0], head[1], head[2]]) {
        return Err(tls::cause());
    }
    let length = u32::from_be_bytes(head) as usize;
    if length < 4 {
        return Err(not_kafka());
    }
    if length > limit.saturating_add(4) {
        return Err(format!("{} (it announces {length} bytes, the limit is {limit})", not_kafka()));
    }
    Ok(length)
}

pub(super) fn read_versions(answer: &[u8]) -> Read<(i16, Versions)> {
    let mut reader = Reader::new(answer, false);
    let error = reader.i16()?;
    let versions = reader.array(|api| Ok((api.i16()?, (api.i16()?, api.i16()?))))?;
    Ok((error, versions.into_iter().collect()))
}

fn not_kafka() -> Cause {
    "what answers there is no Kafka".into()
}

/// The cause for an answer that cannot be decoded.
pub(super) fn broken(Broken: Broken) -> Cause {
    "the answer is broken: no Kafka, or bytes were changed on the way".into()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use crossbeam_channel::{Sender, bounded};

    use super::*;
    use crate::kafka::wire::Wire;
    use crate::model::thread::{Thread, spawn};

    const LIMIT: Duration = Duration::from_millis(300);

    /// A server for one connection: it reads a request, sends what `answer` returns for it, and then keeps the
    /// connection open (`hold`) or closes it.
    struct Fake {
        address: String,
        release: Option<Sender<()>>,
        thread: Thread<()>,
    }

    impl Fake {
        fn new(hold: bool, answer: impl FnOnce(&[u8]) -> Vec<u8> + Send + 'static) -> Fake {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let (release, held) = bounded::<()>(0);
            let thread = spawn("fake-broker", move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut length = [0; 4];
                stream.read_exact(&mut length).unwrap();
                let mut request = vec![0; u32::from_be_bytes(length) as usize];
                stream.read_exact(&mut request).unwrap();
                stream.write_all(&answer(&request)).unwrap();
                if hold {
                    let _ = held.recv();
                }
            })
            .unwrap();
            Fake { address, release: Some(release), thread }
        }

        /// The outcome of a probe as text; checks that the probe keeps its limit.
        fn probe(mut self) -> String {
            let started = Instant::now();
            let outcome = Wire::new(&self.address).probe(LIMIT);
            assert!(started.elapsed() < LIMIT * 10, "a probe keeps its limit");
            self.release = None;
            self.thread.join().unwrap();
            match outcome {
                Ok(probe) => format!("{:?}", probe.versions),
                Err(cause) => {
                    let text = cause.to_string();
                    assert!(!text.contains('\n'), "one line: {text}");
                    text
                }
            }
        }
    }

    /// A whole frame that answers `request`.
    fn frame(request: &[u8], body: &[u8]) -> Vec<u8> {
        let mut frame = (body.len() as u32 + 4).to_be_bytes().to_vec();
        frame.extend_from_slice(&request[4..8]);
        frame.extend_from_slice(body);
        frame
    }

    const VERSIONS: &[u8] = &[0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 16];

    #[test]
    fn a_broker_says_what_it_serves() {
        let fake = Fake::new(false, |request| frame(request, VERSIONS));
        assert_eq!(fake.probe(), "{1: (0, 16)}");
    }

    #[test]
    fn silence_ends_at_the_limit() {
        let text = Fake::new(true, |_| Vec::new()).probe();
        assert!(text.contains("no answer in time"), "{text}");
    }

    #[test]
    fn half_a_frame_and_then_silence_ends_at_the_limit() {
        let fake = Fake::new(true, |request| {
            let mut frame = frame(request, VERSIONS);
            frame.truncate(11);
            frame
        });
        let text = fake.probe();
        assert!(text.contains("no answer in time"), "{text}");
    }

    #[test]
    fn a_server_that_hangs_up_is_not_kafka_or_expects_tls() {
        let text = Fake::new(false, |_| Vec::new()).probe();
        assert!(text.contains("closed the connection") && text.contains("TLS"), "{text}");
    }

    #[test]
    fn an_http_server_is_named() {
        let answer = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n";
        let text = Fake::new(false, |_| answer.to_vec()).probe();
        assert!(text.contains("HTTP"), "{text}");
    }

    #[test]
    fn a_tls_listener_is_named() {
        let text = Fake::new(false, |_| vec![21, 3, 3, 0, 2, 2, 80]).probe();
        assert!(text.contains("TLS"), "{text}");
    }

    #[test]
    fn a_huge_length_is_refused_unread() {
        let text = Fake::new(true, |_| vec![0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 1]).probe();
        assert!(text.contains("no Kafka") && text.contains("2147483647"), "{text}");
        let text = Fake::new(true, |_| vec![0xff; 64]).probe();
        assert!(text.contains("no Kafka"), "{text}");
    }

    #[test]
    fn an_answer_to_another_request_is_refused() {
        let fake = Fake::new(true, |request| {
            let mut frame = frame(request, VERSIONS);
            frame[7] ^= 1;
            frame
        });
        let text = fake.probe();
        assert!(text.contains("another request"), "{text}");
    }

    #[test]
    fn an_array_longer_than_its_answer_is_refused() {
        let fake = Fake::new(true, |request| frame(request, &[0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0]));
        let text = fake.probe();
        assert!(text.contains("no Kafka"), "{text}");
    }

    #[test]
    fn no_garbage_makes_it_panic() {
        for seed in 0..50 {
            let fake = Fake::new(false, move |request| {
                let mut random = fastrand::Rng::with_seed(seed);
                let mut body: Vec<u8> =
                    (0..random.usize(0..200)).map(|_| random.u8(0..4)).collect();
                if seed % 2 == 0 { frame(request, &body) } else { std::mem::take(&mut body) }
            });
            assert!(!fake.probe().contains("panicked"), "seed {seed}");
        }
    }

    #[test]
    fn a_closed_port_and_an_unknown_name_have_different_errors() {
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let text = Wire::new(&port.to_string()).probe(LIMIT).unwrap_err().to_string();
        assert!(text.contains("connection refused"), "{text}");
        let text =
            Wire::new("no-such-host.invalid:9092").probe(LIMIT * 10).unwrap_err().to_string();
        assert!(text.contains("no-such-host.invalid"), "{text}");
    }

    #[test]
    fn the_second_server_is_asked_if_the_first_is_silent() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let good = Fake::new(false, |request| frame(request, VERSIONS));
        let servers = format!("{},{}", silent.local_addr().unwrap(), good.address);
        let probe = Wire::new(&servers).probe(LIMIT * 2).unwrap();
        assert_eq!(probe.address, good.address);
        good.thread.join().unwrap();
    }

    #[test]
    fn a_black_hole_ends_at_the_limit() {
        // 192.0.2.0/24 is reserved for documentation (RFC 5737): nothing answers there.
        let started = Instant::now();
        let outcome = Wire::new("192.0.2.1:9092").probe(LIMIT);
        assert!(outcome.is_err());
        assert!(started.elapsed() < LIMIT * 10);
    }
}

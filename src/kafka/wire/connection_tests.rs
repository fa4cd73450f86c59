//! Which connection a request takes, and which requests are sent again, against a broker that closes connections
//! when a test says so.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_protocol::ResponseError;
use kafka_protocol::messages::ApiKey;

use super::client::{IDLE_LIMIT, Wire};
use crate::kafka::{Commit, CommitError, Committed};
use crate::model::offset::Offset;
use crate::model::sync::Mutex;
use crate::model::thread::{Thread, spawn};

/// For what must happen, but on a busy machine.
const SLOW: Duration = Duration::from_secs(30);

/// A request that came.
#[derive(Clone, Copy, Debug)]
struct Request {
    api: ApiKey,
    /// How many of this API came, this one included.
    number: usize,
}

/// What the broker does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Normal,
    NormalThenClose,
    /// To OffsetFetch: it knows no such group.
    NoGroup,
    /// It closes the connection without an answer.
    Close,
}

type Script = Box<dyn Fn(Request) -> Answer + Send + Sync>;

struct Shared {
    /// What it says that its address is.
    advertised: String,
    script: Script,
    counts: Mutex<BTreeMap<i16, usize>>,
    connections: Mutex<Vec<TcpStream>>,
    stopped: Mutex<bool>,
}

/// It listens until it is dropped; one thread serves all its connections, one after another, which is
/// enough for a client that uses one at a time.
struct FakeBroker {
    address: String,
    shared: Arc<Shared>,
    acceptor: Option<Thread<()>>,
}

impl FakeBroker {
    fn start(script: impl Fn(Request) -> Answer + Send + Sync + 'static) -> FakeBroker {
        FakeBroker::advertising(None, script)
    }

    fn advertising(
        advertised: Option<&str>,
        script: impl Fn(Request) -> Answer + Send + Sync + 'static,
    ) -> FakeBroker {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared {
            advertised: advertised.unwrap_or(&address).to_owned(),
            script: Box::new(script),
            counts: Mutex::default(),
            connections: Mutex::default(),
            stopped: Mutex::new(false),
        });
        let acceptor = {
            let shared = Arc::clone(&shared);
            spawn("fake-broker", move || {
                let mut serving = Vec::new();
                for stream in listener.incoming() {
                    if *shared.stopped.lock() {
                        break;
                    }
                    let stream = stream.unwrap();
                    shared.connections.lock().push(stream.try_clone().unwrap());
                    let shared = Arc::clone(&shared);
                    serving.push(spawn("fake-connection", move || shared.serve(stream)).unwrap());
                }
                for thread in serving {
                    thread.join().unwrap();
                }
            })
            .unwrap()
        };
        FakeBroker { address, shared, acceptor: Some(acceptor) }
    }

    /// How many requests of this API came.
    fn count(&self, api: ApiKey) -> usize {
        self.shared.counts.lock().get(&(api as i16)).copied().unwrap_or(0)
    }

    fn connections(&self) -> usize {
        self.shared.connections.lock().len()
    }
}

impl Drop for FakeBroker {
    fn drop(&mut self) {
        *self.shared.stopped.lock() = true;
        for connection in self.shared.connections.lock().iter() {
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
        // Wakes the acceptor.
        let _ = TcpStream::connect(&self.address);
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().unwrap();
        }
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) {
        loop {
            let mut length = [0; 4];
            if stream.read_exact(&mut length).is_err() {
                return;
            }
            let mut request = vec![0; u32::from_be_bytes(length) as usize];
            if stream.read_exact(&mut request).is_err() {
                return;
            }
            let api = i16::from_be_bytes([request[0], request[1]]);
            let number = {
                let mut counts = self.counts.lock();
                let count = counts.entry(api).or_default();
                *count += 1;
                *count
            };
            let api = ApiKey::try_from(api).unwrap();
            let answer = (self.script)(Request { api, number });
            if answer != Answer::Close {
                let body = self.body(api, answer);
                let mut frame = (body.len() as u32 + 4).to_be_bytes().to_vec();
                frame.extend_from_slice(&request[4..8]);
                frame.extend_from_slice(&body);
                stream.write_all(&frame).unwrap();
            }
            if matches!(answer, Answer::NormalThenClose | Answer::Close) {
                let _ = stream.shutdown(std::net::Shutdown::Both);
                return;
            }
        }
    }

    /// The answers for topic `t` with partition 0, whose group is at offset 7; this broker coordinates all.
    fn body(&self, api: ApiKey, answer: Answer) -> Vec<u8> {
        let mut body = Vec::new();
        let (host, port) = self.advertised.rsplit_once(':').unwrap();
        let host = [&(host.len() as i16).to_be_bytes()[..], host.as_bytes()].concat();
        let port = port.parse::<i32>().unwrap().to_be_bytes();
        match api {
            ApiKey::ApiVersions => {
                body.extend(0_i16.to_be_bytes());
                let served = [
                    (ApiKey::FindCoordinator, 0),
                    (ApiKey::OffsetCommit, 2),
                    (ApiKey::OffsetFetch, 1),
                    (ApiKey::Metadata, 4),
                    (ApiKey::SaslHandshake, 1),
                ];
                body.extend((served.len() as i32).to_be_bytes());
                for (api, version) in served {
                    body.extend((api as i16).to_be_bytes());
                    body.extend([0, version, 0, version]);
                }
            }
            ApiKey::FindCoordinator => {
                body.extend(0_i16.to_be_bytes());
                body.extend(1_i32.to_be_bytes());
                body.extend(host);
                body.extend(port);
            }
            // This broker, no cluster id, no controller, no topic.
            ApiKey::Metadata => {
                body.extend([0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]);
                body.extend(host);
                body.extend(port);
                body.extend([0xff; 8]);
                body.extend([0; 4]);
            }
            ApiKey::SaslHandshake => {
                body.extend(b"\0\x21\0\0\0\x02\0\x05PLAIN\0\x0dSCRAM-SHA-256");
            }
            ApiKey::OffsetCommit | ApiKey::OffsetFetch => {
                body.extend(1_i32.to_be_bytes());
                body.extend(b"\0\x01t");
                body.extend(1_i32.to_be_bytes());
                body.extend(0_i32.to_be_bytes());
                let is_known = answer != Answer::NoGroup;
                if api == ApiKey::OffsetFetch {
                    let offset: i64 = if is_known { 7 } else { -1 };
                    body.extend(offset.to_be_bytes());
                    body.extend(b"\0\0");
                }
                let code = if is_known { 0 } else { ResponseError::GroupIdNotFound.code() };
                body.extend(code.to_be_bytes());
            }
            other => panic!("{other:?} is not served here"),
        }
        body
    }
}

fn commits() -> [Commit; 1] {
    [Commit::plain((0, Offset::ZERO))]
}

#[test]
fn a_commit_without_an_answer_is_not_sent_again() {
    let broker = FakeBroker::start(|request| match (request.api, request.number) {
        // The second commit is read, and the connection is closed instead of answered.
        (ApiKey::OffsetCommit, 2) => Answer::Close,
        _ => Answer::Normal,
    });
    let wire = Wire::new(&broker.address);
    wire.commit("g", "t", &commits()).unwrap();
    let second = wire.commit("g", "t", &commits());
    assert!(matches!(second, Err(CommitError::Unknown(_))), "{second:?}");
    assert_eq!(broker.count(ApiKey::OffsetCommit), 2, "sent once each");
    wire.commit("g", "t", &commits()).unwrap();
    assert_eq!(broker.count(ApiKey::OffsetCommit), 3);
}

#[test]
fn a_read_whose_connection_fails_is_sent_again_over_a_new_one() {
    let broker = FakeBroker::start(|request| match (request.api, request.number) {
        (ApiKey::OffsetFetch, 2) => Answer::Close,
        _ => Answer::Normal,
    });
    let wire = Wire::new(&broker.address);
    for _ in 0..2 {
        assert_eq!(
            wire.committed("g", "t", &[0]).unwrap()[&0],
            Ok(Some(Committed::plain(Offset::new(7))))
        );
    }
    assert_eq!(broker.count(ApiKey::OffsetFetch), 3);
}

#[test]
fn a_commit_does_not_use_a_connection_that_the_broker_has_closed() {
    let broker = FakeBroker::start(|request| match (request.api, request.number) {
        (ApiKey::OffsetCommit, 1) => Answer::NormalThenClose,
        _ => Answer::Normal,
    });
    let wire = Wire::new(&broker.address);
    wire.commit("g", "t", &commits()).unwrap();
    let began = Instant::now();
    while wire.idle.lock()[&broker.address].is_open() {
        assert!(began.elapsed() < SLOW, "the broker has closed it");
        std::thread::yield_now();
    }
    wire.commit("g", "t", &commits()).unwrap();
    assert_eq!(broker.count(ApiKey::OffsetCommit), 2);
}

#[test]
fn a_commit_that_reached_no_broker_is_refused_and_not_unknown() {
    let broker = FakeBroker::start(|_| Answer::Normal);
    let wire = Wire::new(&broker.address);
    wire.commit("g", "t", &commits()).unwrap();
    wire.forget_connections();
    drop(broker);
    let failed = wire.commit("g", "t", &commits());
    assert!(matches!(failed, Err(CommitError::Refused { .. })), "{failed:?}");
}

#[test]
fn a_connection_that_was_idle_for_too_long_is_replaced() {
    let broker = FakeBroker::start(|_| Answer::Normal);
    let mut wire = Wire::new(&broker.address);
    for _ in 0..3 {
        wire.committed("g", "t", &[0]).unwrap();
    }
    assert_eq!(broker.connections(), 1);
    assert!(IDLE_LIMIT < Duration::from_secs(600), "brokers close them after 10 minutes");
    wire.idle_limit = Duration::ZERO;
    wire.committed("g", "t", &[0]).unwrap();
    assert_eq!(broker.connections(), 2);
}

#[test]
fn a_group_that_the_broker_does_not_know_has_no_offsets_yet() {
    let broker = FakeBroker::start(|_| Answer::NoGroup);
    let wire = Wire::new(&broker.address);
    assert_eq!(wire.committed("g", "t", &[0]).unwrap()[&0], Ok(None));
}

#[test]
fn an_address_that_only_the_broker_names_is_blamed_on_the_broker() {
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let broker = FakeBroker::advertising(Some(&closed), |_| Answer::Normal);
    let wire = Wire::new(&broker.address);
    wire.probe(SLOW).unwrap();
    let began = Instant::now();
    let named = format!("the broker advertises {closed} as its address, which cannot be reached");
    for failed in [
        wire.reach_brokers(SLOW).unwrap_err().to_string(),
        wire.committed("g", "t", &[0]).unwrap_err().to_string(),
        wire.commit("g", "t", &commits()).unwrap_err().to_string(),
    ] {
        assert!(failed.contains(&named) && failed.contains("connection refused"), "{failed}");
        assert!(!failed.contains('\n'), "{failed}");
    }
    assert!(began.elapsed() < SLOW);

    let reachable = FakeBroker::start(|_| Answer::Normal);
    assert_eq!(Wire::new(&reachable.address).reach_brokers(SLOW), Ok(()));
}

#[test]
fn a_listener_that_expects_sasl_is_named_with_its_mechanisms() {
    let broker = FakeBroker::start(|request| match request.api {
        ApiKey::ApiVersions | ApiKey::SaslHandshake => Answer::Normal,
        // As Kafka's listeners do with whoever has not logged in.
        _ => Answer::Close,
    });
    let wire = Wire::new(&broker.address);
    wire.probe(SLOW).unwrap();
    let failed = wire.reach_brokers(SLOW).unwrap_err().to_string();
    assert!(failed.contains("expects SASL (PLAIN, SCRAM-SHA-256)"), "{failed}");
}

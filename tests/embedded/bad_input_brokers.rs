//! Servers that are no broker, or a broken one, against the built binary: mb ends in time with the cause
//! in one line, and the data directory is as good as before.
//!
//! Brokers that break later are in the `faults_` files.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::bad_input::data::{self, Data, refusal};
use crate::support::free_port;
use crate::support::mb::Mb;

/// mb promises 10 s for the first contact; the rest is a busy machine's.
const CONTACT_LIMIT: Duration = Duration::from_secs(15);

/// Serves every connection by `answer` (what it does with bytes that came), for as long as the test runs; its
/// address.
fn server(answer: impl Fn(&mut TcpStream, &[u8]) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let answer = Arc::clone(&answer);
            thread::spawn(move || {
                let mut request = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut request) {
                    answer(&mut stream, &request[..length]);
                }
            });
        }
    });
    address
}

fn say(stream: &mut TcpStream, bytes: &[u8]) {
    // Where mb has hung up, nobody reads it.
    let _ = stream.write_all(bytes);
}

fn hang_up(stream: &TcpStream) {
    let _ = stream.shutdown(std::net::Shutdown::Both);
}

/// A frame that answers `request`.
fn frame(request: &[u8], body: &[u8]) -> Vec<u8> {
    let mut frame = (body.len() as u32 + 4).to_be_bytes().to_vec();
    frame.extend_from_slice(&request[8..12]);
    frame.extend_from_slice(body);
    frame
}

/// The body of an ApiVersions answer (version 0): per request its number, lowest and highest version.
fn versions(served: &[(u16, u16, u16)]) -> Vec<u8> {
    let mut body = vec![0, 0];
    body.extend_from_slice(&(served.len() as u32).to_be_bytes());
    for (request, from, to) in served {
        for number in [request, from, to] {
            body.extend_from_slice(&number.to_be_bytes());
        }
    }
    body
}

const API_VERSIONS: [u8; 2] = [0, 18];

/// The clients of this build.
fn clients() -> &'static [&'static str] {
    if cfg!(feature = "rdkafka") { &["rdkafka", "kafka"] } else { &["kafka"] }
}

/// With each client mb gives up on `server` within its limit, with 1 and the cause; afterwards the
/// data directory serves the embedded topic as if nothing had been.
fn is_given_up_on(server: &str, cause: &str) {
    is_given_up_on_within(CONTACT_LIMIT, server, cause);
}

fn is_given_up_on_within(limit: Duration, server: &str, cause: &str) {
    let data: Vec<_> = clients().iter().map(|_| Data::with_records()).collect();
    let began = Instant::now();
    let start = |(data, client): (&Data, &&str)| {
        let to = ["--bootstrap-server", server, "--client", client, "--topic", data::TOPIC];
        Mb::start_in(data.path(), &[&to[..], &["--listen", "off", "--step", "discard"]].concat())
    };
    let running: Vec<_> = data.iter().zip(clients()).map(start).collect();
    let mut commands = Vec::new();
    for command in ["lag", "produce"] {
        let folder = tempfile::tempdir().unwrap();
        let args = [command, "--bootstrap-server", server, "--topic", data::TOPIC];
        commands.push((Mb::start_in(&folder.path().join("data"), &args), folder));
    }
    let commands = commands.into_iter().map(|(mb, _folder)| refusal(mb, 1, &[server, cause]));
    let said: Vec<_> =
        running.into_iter().map(|mb| refusal(mb, 1, &[server, cause])).chain(commands).collect();
    assert!(began.elapsed() <= limit, "{:?}: {said:?}", began.elapsed());
    for data in data {
        data.assert_offsets_unmoved();
        data.assert_nothing_lost();
    }
}

#[test]
fn a_closed_port_is_given_up_on_with_the_cause() {
    is_given_up_on(&format!("127.0.0.1:{}", free_port()), "refused");
}

#[test]
fn a_name_that_does_not_resolve_is_given_up_on_with_the_cause() {
    is_given_up_on("no-such-host.invalid:9092", "does not resolve");
}

#[test]
fn a_server_that_accepts_and_says_nothing_is_given_up_on_with_the_cause() {
    is_given_up_on(&server(|_, _| {}), "no answer in time");
}

#[test]
fn a_server_that_hangs_up_is_given_up_on_with_the_cause() {
    is_given_up_on(&server(|stream, _| hang_up(stream)), "closed the connection");
}

#[test]
fn an_http_server_is_given_up_on_with_the_cause() {
    let http = server(|stream, _| {
        say(stream, b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        hang_up(stream);
    });
    is_given_up_on(&http, "HTTP");
}

#[test]
fn a_tls_listener_is_given_up_on_with_the_cause() {
    // What OpenSSL answers to bytes that are no hello: a fatal alert.
    let tls = server(|stream, _| {
        say(stream, &[21, 3, 3, 0, 2, 2, 70]);
        hang_up(stream);
    });
    is_given_up_on(&tls, "TLS");
}

#[test]
fn a_tls_listener_that_says_nothing_to_plaintext_is_named() {
    // Java's listeners close the connection; to a hello they answer with a handshake of their own.
    let tls = server(|stream, request| {
        if request.starts_with(&[22, 3]) {
            say(stream, &[22, 3, 3, 0, 4, 2, 0, 0, 0]);
        }
        hang_up(stream);
    });
    is_given_up_on(&tls, "expects TLS");
}

/// A listener with SASL: it says what it serves and which mechanisms it has, and hangs up on anything else.
fn sasl_listener() -> String {
    server(|stream, request| match request.get(5) {
        Some(18) => {
            let served: Vec<_> = (0..60).map(|number| (number, 0, 9)).collect();
            say(stream, &frame(request, &versions(&served)));
        }
        Some(17) => say(stream, &frame(request, b"\0\x21\0\0\0\x01\0\x05PLAIN")),
        _ => hang_up(stream),
    })
}

#[test]
fn a_sasl_listener_is_named() {
    is_given_up_on(&sasl_listener(), "expects SASL (PLAIN)");
}

#[test]
fn a_sasl_listener_is_named_to_who_waits_for_the_broker() {
    let listener = sasl_listener();
    let args = ["--bootstrap-server", &listener, "--wait-for-broker", "--listen", "off"];
    let mut mb = Mb::start(&args);
    let line = mb.wait_for_line("waiting for the broker", CONTACT_LIMIT);
    assert!(line.contains("expects SASL (PLAIN)") && line.contains(&listener), "{line}");
    mb.term();
    assert_eq!(mb.wait(CONTACT_LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
}

/// A broker that answers at its address, and says that it is at another.
fn advertising(port: u16) -> String {
    server(move |stream, request| match request.get(5) {
        Some(18) => {
            let served: Vec<_> = (0..60).map(|number| (number, 0, 8)).collect();
            say(stream, &frame(request, &versions(&served)));
        }
        // Metadata, version 8: node 1 alone, no topic.
        Some(3) => {
            let head = [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 9];
            let broker = [&head[..], b"127.0.0.1\0\0", &port.to_be_bytes(), &[0xff; 2]].concat();
            let rest = [&[0xff; 2][..], &[0, 0, 0, 1], &[0; 4], &[0; 4]].concat();
            say(stream, &frame(request, &[broker, rest].concat()));
        }
        _ => hang_up(stream),
    })
}

#[test]
fn an_advertised_address_that_cannot_be_reached_is_named_by_every_command() {
    let dead = free_port();
    let broker = advertising(dead);
    is_given_up_on(
        &broker,
        &format!("the broker advertises 127.0.0.1:{dead} as its address, which cannot be reached"),
    );
}

#[test]
fn a_server_that_answers_garbage_is_given_up_on_with_the_cause() {
    is_given_up_on(&server(|stream, _| say(stream, &[0xa5; 4096])), "no Kafka");
    is_given_up_on(&server(|stream, _| say(stream, b"\x1b[31m220 mail\0\r\n")), "no Kafka");
}

#[test]
fn half_a_frame_is_given_up_on_with_the_cause() {
    let half = server(|stream, request| {
        let frame = frame(request, &versions(&[(3, 0, 12), (18, 0, 3)]));
        say(stream, &frame[..11]);
    });
    is_given_up_on(&half, "no answer in time");
}

#[test]
fn a_byte_every_now_and_then_is_given_up_on_with_the_cause() {
    let drip = server(|stream, request| {
        for byte in frame(request, &versions(&[(3, 0, 12); 500])) {
            if stream.write_all(&[byte]).is_err() {
                return;
            }
            // This is the server's pace, not a wait for anything.
            thread::sleep(Duration::from_millis(200));
        }
    });
    is_given_up_on(&drip, "no answer in time");
}

#[test]
fn a_length_that_no_answer_has_is_given_up_on_without_making_room_for_it() {
    let huge = server(|stream, _| say(stream, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 1]));
    is_given_up_on(&huge, "2147483647");
    let negative = server(|stream, _| say(stream, &[0x80, 0, 0, 0, 0, 0, 0, 1]));
    is_given_up_on(&negative, "no Kafka");
}

#[test]
fn an_answer_to_another_request_is_given_up_on_with_the_cause() {
    let confused = server(|stream, request| {
        let mut frame = frame(request, &versions(&[(3, 0, 12), (18, 0, 3)]));
        frame[7] ^= 1;
        say(stream, &frame);
    });
    is_given_up_on(&confused, "another request");
}

#[test]
fn a_broker_that_answers_its_first_question_alone_is_given_up_on() {
    // It names its versions and is silent from then on. Two calls with limits of their own follow
    // the first contact.
    let sullen = server(|stream, request| {
        if request.len() > 12 && request[4..6] == API_VERSIONS {
            let served: Vec<_> = (0..60).map(|number| (number, 0, 9)).collect();
            say(stream, &frame(request, &versions(&served)));
        }
    });
    is_given_up_on_within(CONTACT_LIMIT + mb::config::limits::BROKER_CALL_LIMIT, &sullen, "");
}

#[test]
fn a_broker_too_new_for_crate_kafka_is_refused_by_name() {
    let new = server(|stream, request| {
        let served =
            [(0, 3, 12), (1, 4, 17), (2, 1, 10), (3, 0, 13), (8, 2, 9), (9, 1, 9), (18, 0, 4)];
        say(stream, &frame(request, &versions(&served)));
    });
    let data = Data::with_records();
    let to = ["--bootstrap-server", &new, "--client", "kafka", "--topic", data::TOPIC];
    let mb = Mb::start_in(data.path(), &[&to[..], &["--listen", "off"]].concat());
    refusal(mb, 78, &["--client rdkafka"]);
    data.assert_offsets_unmoved();
    data.assert_nothing_lost();
}

//! What a real Kafka, or somebody at it, does behind mb's back: offsets that expire or are moved, an advertised
//! address that is dead, listeners that expect more than plaintext, a share group under mb's name, internal topics,
//! timestamps out of order. What the embedded topic can show of it: `tests/embedded/log_surprises.rs`.

use std::process::Command;
use std::time::{Duration, Instant};

use rdkafka::producer::{BaseRecord, Producer};

use crate::support::http::Http;
use crate::support::kafka::{Kafka, V3_9, V4_4};
use crate::support::mb::Mb;
use crate::support::proxy::Proxy;
use crate::support::{eventually, eventually_some, raw, unique};

const LIMIT: Duration = Duration::from_secs(60);
/// mb promises 10 s for the first contact; the rest is a busy machine's.
const CONTACT_LIMIT: Duration = Duration::from_secs(15);

fn values(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| format!("value-{n}").into_bytes()).collect()
}

/// A topic of one partition with ten records, and a group's name.
fn ten_records(kafka: &Kafka) -> (String, String) {
    let (topic, group) = (unique("orders"), unique("group"));
    kafka.create_topic(&topic, 1, &[]);
    raw::produce(&kafka.bootstrap(), "none", &topic, 0, &values(10));
    (topic, group)
}

/// The last line of a command that ends with `code`, and how long it took.
fn ends(args: &[&str], code: i32) -> (String, Duration) {
    let began = Instant::now();
    let mut mb = Mb::start(args);
    let ended = mb.wait(LIMIT).code();
    let said = mb.stderr();
    assert_eq!(ended, Some(code), "{args:?}: {}", said.join("\n"));
    (said.last().cloned().unwrap_or_default(), began.elapsed())
}

#[test]
fn servers_are_named_as_kafkas_tools_take_them() {
    let kafka = Kafka::shared(V3_9);
    let (topic, group) = ten_records(kafka);
    let server = kafka.bootstrap();
    for servers in [
        format!("{server},"),
        format!("127.0.0.1:1, {server}"),
        format!("PLAINTEXT://{server}"),
        format!(" plaintext://{server} , PLAINTEXT://127.0.0.1:1,"),
    ] {
        for client in ["rdkafka", "kafka"] {
            let to = ["--bootstrap-server", &servers, "--topic", &topic, "--client", client];
            ends(&[&["lag", "--group", &group], &to[..]].concat(), 0);
            let group = unique("group");
            let main = ["--group", &group, "--step", "discard", "--until-caught-up"];
            let (said, _) = ends(&[&to[..], &main].concat(), 0);
            assert!(said.contains("10 record(s)"), "{servers}: {said}");
        }
    }
}

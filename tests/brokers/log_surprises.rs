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
fn offsets_of_a_quiet_partition_outlive_the_brokers_retention() {
    let retention =
        [("offsets.retention.minutes", "1"), ("offsets.retention.check.interval.ms", "1000")];
    let kafka = Kafka::start_with(V3_9, &retention);
    let (topic, group) = ten_records(&kafka);
    let server = kafka.bootstrap();
    let flags = ["--bootstrap-server", &server, "--topic", &topic, "--group", &group];
    let mut mb = Mb::start(&[&flags[..], &["--step", "discard"]].concat());
    eventually(LIMIT, "all is committed", || raw::committed(&server, &group, &topic)[&0] == 10);
    let quiet = Instant::now();
    // A minute, the broker's look each second, and some time for it to be slow.
    while quiet.elapsed() < Duration::from_secs(80) {
        let committed = raw::committed(&server, &group, &topic)[&0];
        assert_eq!(committed, 10, "{:?} after the last record", quiet.elapsed());
        std::thread::sleep(Duration::from_secs(2));
    }
    mb.kill9();
    // On a fresh data directory the group's offset is all that is known.
    let fresh = [&flags[..], &["--step", "log", "--until-caught-up"]].concat();
    let (said, _) = ends(&fresh, 0);
    assert!(said.contains("0 record(s)"), "{said}");
}

#[test]
fn offsets_that_kafkas_tool_resets_while_mb_runs_are_followed() {
    let kafka = Kafka::shared(V3_9);
    let (topic, group) = ten_records(kafka);
    let server = kafka.bootstrap();
    let args = ["--bootstrap-server", &server, "--topic", &topic, "--group", &group];
    let more = ["--step", "discard", "--listen", "0"];
    let mb = Mb::start(&[&args[..], &more].concat());
    let http = Http::of(&mb);
    eventually(LIMIT, "all is committed", || raw::committed(&server, &group, &topic)[&0] == 10);
    eventually(LIMIT, "mb is ready", || http.ask("GET", "/readyz", "", "").status == 200);
    kafka.reset_group(&group, &topic, &["--to-offset", "3"]);
    let moved = Instant::now();
    let line = mb.wait_for_line("somebody moved the offset", LIMIT);
    assert!(moved.elapsed() < LIMIT, "within a minute");
    assert!(line.contains(&format!("of group {group} in {topic}/0 to 3")), "{line}");
    mb.wait_for_line(&format!("{topic}/0 is read from 3 on"), LIMIT);
    eventually(LIMIT, "they are done again", || raw::committed(&server, &group, &topic)[&0] == 10);
    let status = http.ask("GET", "/api/v1/status", "", "").body;
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
    assert_eq!(status["totals"]["records_done"], 17, "{status}");
    eventually(LIMIT, "mb is ready", || http.ask("GET", "/readyz", "", "").status == 200);
}

#[test]
fn an_advertised_address_that_is_dead_is_named_by_every_command() {
    let proxy = Proxy::start_without_broker(0);
    let dead = proxy.address();
    let kafka = Kafka::start_behind(std::slice::from_ref(&proxy), V3_9, &[]);
    let (topic, _) = ten_records(&kafka);
    let server = format!("127.0.0.1:{}", proxy.upstream());
    drop(proxy);
    let to = ["--bootstrap-server", &server, "--topic", &topic];
    let named = format!("the broker advertises {dead} as its address, which cannot be reached");
    for command in [&["produce", "--count", "3"][..], &["lag"], &["offsets", "--to-latest"], &[]] {
        for client in ["rdkafka", "kafka"] {
            let args = [command, &to, &["--client", client]].concat();
            let (said, took) = ends(&args, 1);
            assert!(said.contains(&named) && said.contains("refused"), "{args:?}: {said}");
            assert!(took < CONTACT_LIMIT, "{args:?}: {took:?}");
        }
    }
    let mut mb = Mb::start(&[&to[..], &["--wait-for-broker"]].concat());
    let line = mb.wait_for_line("waiting for the broker", CONTACT_LIMIT);
    assert!(line.contains(&named), "{line}");
    mb.term();
    assert_eq!(mb.wait(LIMIT).code(), Some(0));
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

#[test]
fn internal_topics_are_refused_without_force() {
    for version in [V3_9, V4_4] {
        let kafka = Kafka::shared(version);
        let (topic, group) = ten_records(kafka);
        let server = kafka.bootstrap();
        let to = ["--bootstrap-server", &server];
        // Commits, so that the cluster's own topic is there.
        let main = ["--topic", &topic, "--group", &group, "--step", "discard", "--until-caught-up"];
        ends(&[&to[..], &main].concat(), 0);
        let internal = ["--topic", "__consumer_offsets", "--step", "discard"];
        let (said, _) = ends(&[&to[..], &internal].concat(), 78);
        assert!(said.contains("__consumer_offsets") && said.contains("--force"), "{said}");
        let produce = ["produce", "--count", "1", "--topic", "__consumer_offsets"];
        let (said, _) = ends(&[&produce[..], &to].concat(), 78);
        assert!(said.contains("only the cluster itself writes to it"), "{said}");
        let group = unique("group");
        let forced = [&to[..], &internal, &["--force", "--group", &group]].concat();
        let mut mb = Mb::start(&forced);
        mb.wait_for_line("worker(s), batches", LIMIT);
        mb.term();
        assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
    }
}

#[test]
fn a_share_group_of_the_same_name_is_named_at_the_start() {
    let kafka = Kafka::shared(V4_4);
    let (topic, group) = ten_records(kafka);
    let server = kafka.bootstrap();
    // A consumer of Kafka's own makes the share group.
    let consumer = [
        "--bootstrap-server",
        &server,
        "--topic",
        &topic,
        "--group",
        &group,
        "--timeout-ms",
        "3000",
    ];
    kafka.tool("org.apache.kafka.tools.consumer.ConsoleShareConsumer", &consumer);
    let to = ["--bootstrap-server", &server, "--topic", &topic, "--group", &group];
    for line in [&["--step", "discard", "--until-caught-up"][..], &["--wait-for-broker"]] {
        let (said, took) = ends(&[&to[..], line].concat(), 78);
        assert!(said.contains(&group) && said.contains("is a share group"), "{said}");
        assert!(took < CONTACT_LIMIT, "{took:?}");
    }
    let (said, _) = ends(&[&["lag"], &to[..]].concat(), 78);
    assert!(said.contains("is a share group"), "{said}");
    // Any other name is free.
    let other = unique("group");
    let to = ["--bootstrap-server", &server, "--topic", &topic, "--group", &other];
    ends(&[&to[..], &["--step", "discard", "--until-caught-up"]].concat(), 0);
}

#[test]
fn a_replay_by_time_covers_records_behind_one_from_the_future() {
    const BEGIN: i64 = 1_767_225_600_000;
    let kafka = Kafka::shared(V3_9);
    let (server, topic, group) = (kafka.bootstrap(), unique("orders"), unique("group"));
    let any_time = [("message.timestamp.after.max.ms", "9223372036854775807")];
    kafka.create_topic(&topic, 1, &any_time);
    let producer = raw::producer(&server, &[]);
    for n in 0..20 {
        // The fourth has microseconds, by a faulty clock.
        let at = BEGIN + 1000 * n;
        let at = if n == 3 { at * 1000 } else { at };
        let record = BaseRecord::<(), [u8]>::to(&topic).partition(0).timestamp(at).payload(b"v");
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(LIMIT).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--bootstrap-server", &server, "--topic", &topic, "--group", &group];
    let out = tempfile::tempdir().unwrap();
    let files = ["--step", "files", "--out", out.path().to_str().unwrap(), "--until-caught-up"];
    let process = || {
        let mut mb = Mb::start_in(dir.path(), &[&flags[..], &files].concat());
        assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
        mb.stderr().last().cloned().unwrap_or_default()
    };
    assert!(process().contains("20 record(s)"));
    let window = ["replay", "--since", "2026-01-01", "--until", "2026-01-02"];
    let replay = Mb::run_in(dir.path(), &[&window[..], &flags].concat());
    let said = String::from_utf8(replay.stderr).unwrap();
    assert_eq!(replay.status.code(), Some(0), "{said}");
    assert!(said.contains("timestamps out of order"), "{said}");
    let again = process();
    assert!(
        again.contains("19 record(s)"),
        "all of the window, without the one from the future: {again}"
    );
}

/// A key and certificate for a listener with TLS, as Java keeps them.
fn keystore(folder: &std::path::Path) -> String {
    let path = folder.join("keystore.p12").to_str().unwrap().to_owned();
    let made = Command::new("keytool")
        .args(["-genkeypair", "-alias", "kafka", "-keyalg", "RSA", "-dname", "CN=localhost"])
        .args(["-storetype", "PKCS12", "-storepass", "password", "-keystore", &path])
        .output()
        .expect("keytool comes with Java");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    path
}

#[test]
fn listeners_with_sasl_or_tls_are_named_also_to_who_waits_for_the_broker() {
    let folder = tempfile::tempdir().unwrap();
    let store = keystore(folder.path());
    let proxies: Vec<_> = (0..3).map(Proxy::start_without_broker).collect();
    let plain =
        "org.apache.kafka.common.security.plain.PlainLoginModule required user_a=\"b\"\\u003b";
    let properties = [
        (
            "listener.security.protocol.map",
            "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PROXIED1:SASL_PLAINTEXT,PROXIED2:SSL,PROXIED3:SASL_SSL",
        ),
        ("listener.name.proxied1.sasl.enabled.mechanisms", "PLAIN"),
        ("listener.name.proxied1.plain.sasl.jaas.config", plain),
        ("listener.name.proxied3.sasl.enabled.mechanisms", "PLAIN"),
        ("listener.name.proxied3.plain.sasl.jaas.config", plain),
        ("ssl.keystore.location", &store),
        ("ssl.keystore.password", "password"),
        ("ssl.key.password", "password"),
    ];
    let kafka = Kafka::start_behind(&proxies, V3_9, &properties);
    let expected = ["expects SASL (PLAIN)", "expects TLS", "expects TLS"];
    for (proxy, expected) in proxies.iter().zip(expected) {
        let server = format!("127.0.0.1:{}", proxy.upstream());
        let mut waiting = Mb::start(&["--bootstrap-server", &server, "--wait-for-broker"]);
        let (said, took) = ends(&["lag", "--bootstrap-server", &server], 1);
        assert!(said.contains(expected) && said.contains(&server), "{said}");
        assert!(took < CONTACT_LIMIT, "{took:?}");
        let line = waiting.wait_for_line("waiting for the broker", CONTACT_LIMIT);
        assert!(line.contains(expected), "{line}");
        waiting.term();
        let code = eventually_some(LIMIT, "mb ends", || waiting.try_wait());
        assert_eq!(code.code(), Some(0));
    }
    drop(kafka);
}

/// Nothing behind the first record of an open transaction can be read, so the lag grows and mb can do nothing.
fn an_open_transaction_is_named(kafka: &Kafka) {
    let (topic, group) = ten_records(kafka);
    let server = kafka.bootstrap();
    let args = ["--bootstrap-server", &server, "--topic", &topic, "--group", &group];
    let more = ["--client", "rdkafka", "--step", "discard", "--listen", "0", "--stall-after", "15"];
    let mut mb = Mb::start(&[&args[..], &more].concat());
    let http = Http::of(&mb);
    let verdict = || http.ask("GET", "/api/v1/status", "", "").json()["verdict"].clone();
    let becomes = |state: &str, words: &[&str]| {
        eventually_some(LIMIT, &format!("{state}: {words:?}"), || {
            let verdict = verdict();
            let headline = verdict["headline"].as_str().unwrap();
            let is_so =
                verdict["state"] == state && words.iter().all(|word| headline.contains(word));
            is_so.then_some(verdict)
        })
    };
    becomes("keeping-up", &[]);
    let producer = raw::producer(&server, &[("transactional.id", &unique("transaction"))]);
    producer.init_transactions(LIMIT).unwrap();
    producer.begin_transaction().unwrap();
    producer.send(BaseRecord::<[u8], [u8]>::to(&topic).partition(0).payload(b"open")).unwrap();
    producer.flush(LIMIT).unwrap();
    raw::produce(&server, "none", &topic, 0, &values(500));

    let place = format!("partition {topic}/0 has made no progress");
    let open = "an open transaction of producer ";
    let begins = "begins at offset 10,";
    let waits = becomes("unknown", &["Waits for a transaction", &place, open, begins]);
    assert_eq!(waits["ready"], true, "{waits}");
    assert_eq!(waits["advice"], serde_json::Value::Null, "{waits}");
    let stalled = becomes("blocked", &["Stalled", &place, open, begins]);
    assert_eq!((&stalled["ready"], &stalled["level"]), (&false.into(), &"bad".into()));

    producer.commit_transaction(LIMIT).unwrap();
    eventually(LIMIT, "all is committed", || raw::committed(&server, &group, &topic)[&0] == 512);
    becomes("keeping-up", &[]);
    mb.term();
    assert_eq!(mb.wait(LIMIT).code(), Some(0));
}

#[test]
fn an_open_transaction_is_named_on_3_9() {
    an_open_transaction_is_named(Kafka::shared(V3_9));
}

#[test]
fn an_open_transaction_is_named_on_4_4() {
    an_open_transaction_is_named(Kafka::shared(V4_4));
}

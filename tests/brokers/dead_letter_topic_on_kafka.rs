//! Dead letters on a topic of real brokers: what another client reads, and offsets that wait for it.
//! On the embedded topic: `tests/embedded/dead_letter_topic.rs`.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer};

use crate::support::faults::{Row, each_seed};
use crate::support::kafka::{Kafka, V3_9, V4_4};
use crate::support::mb::Mb;
use crate::support::{eventually, raw, unique};

const LIMIT: Duration = Duration::from_secs(60);

/// Gives up on every record.
const GIVE_UP: [&str; 2] = ["--exec", "echo 'no use' >&2; exit 65"];

struct Names {
    server: String,
    topic: String,
    group: String,
    letters: String,
    to: String,
}

impl Names {
    fn on(kafka: &Kafka) -> Names {
        let letters = unique("letters");
        let to = format!("topic:{letters}");
        let (server, topic, group) = (kafka.bootstrap(), unique("orders"), unique("group"));
        Names { server, topic, group, letters, to }
    }

    fn args<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let own = [
            "--bootstrap-server",
            &self.server,
            "--topic",
            &self.topic,
            "--group",
            &self.group,
            "--dead-letter",
            &self.to,
            "--partitions",
            "1",
            "--listen",
            "off",
        ];
        [&own, &GIVE_UP[..], more].concat()
    }

    fn committed(&self) -> i64 {
        raw::committed(&self.server, &self.group, &self.topic)[&0]
    }
}

fn text<'a>(headers: &'a raw::Headers, name: &str) -> &'a str {
    let found = headers.iter().find(|(known, _)| known == name);
    let (_, value) = found.unwrap_or_else(|| panic!("no {name} in {headers:?}"));
    std::str::from_utf8(value.as_deref().unwrap()).unwrap()
}

#[test]
fn another_client_reads_the_record_as_it_was_and_the_headers() {
    let kafka = Kafka::shared(V4_4);
    let names = Names::on(kafka);
    kafka.create_topic(&names.topic, 1, &[]);
    let own = OwnedHeaders::new()
        .insert(Header { key: "trace", value: Some("7") })
        .insert(Header { key: "empty", value: None::<&str> });
    let producer = raw::producer(&names.server, &[]);
    let record = BaseRecord::<[u8], [u8]>::to(&names.topic).partition(0).key(b"k");
    producer.send(record.headers(own)).map_err(|(error, _)| error).unwrap();
    producer.flush(LIMIT).unwrap();
    let mut mb = Mb::start(&names.args(&["--until-caught-up"]));
    assert_eq!(mb.wait(LIMIT).code(), Some(0));
    let letters = raw::read_all(&names.server, &names.letters);
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].key.as_deref(), &letters[0].value), (Some(&b"k"[..]), &None));
    let headers = &raw::read_headers(&names.server, &names.letters)[0];
    assert_eq!(headers[0], ("trace".into(), Some(b"7".to_vec())));
    assert_eq!(headers[1], ("empty".into(), None));
    assert_eq!(text(headers, "__connect.errors.topic"), names.topic);
    assert_eq!(text(headers, "__connect.errors.offset"), "0");
    assert_eq!(text(headers, "__connect.errors.exception.class.name"), "dead-letter");
    assert!(text(headers, "__connect.errors.exception.message").contains("no use"));
    assert!(text(headers, "__mb.errors.timestamp").parse::<i64>().unwrap() > 0);
    assert_eq!(names.committed(), 1);
}

#[test]
fn a_client_without_headers_writes_an_envelope() {
    let names = Names::on(Kafka::shared(V3_9));
    raw::produce_pairs(
        &names.server,
        "none",
        &names.topic,
        0,
        &[(Some(b"k".to_vec()), Some(b"\xff".to_vec()))],
    );
    let mut mb = Mb::start(&names.args(&["--until-caught-up", "--client", "kafka"]));
    assert_eq!(mb.wait(LIMIT).code(), Some(0));
    let letters = raw::read_all(&names.server, &names.letters);
    assert_eq!(letters[0].key.as_deref(), Some(&b"k"[..]));
    let envelope: serde_json::Value =
        serde_json::from_slice(letters[0].value.as_deref().unwrap()).unwrap();
    assert_eq!((&envelope["key"], &envelope["value_base64"]), (&"k".into(), &"/w==".into()));
    let header = |key: &str| {
        let mut headers = envelope["headers"].as_array().unwrap().iter();
        headers.find(|header| header["key"] == key).unwrap()["value"].clone()
    };
    assert_eq!(header("__connect.errors.topic"), names.topic.as_str());
    assert_eq!(header("__connect.errors.task.id"), format!("{}/0/0-0", names.topic));
    assert_eq!(names.committed(), 1);
}

#[test]
fn row_23_offsets_wait_while_the_topic_is_gone_or_takes_no_such_record_and_go_on_after() {
    each_seed("row 23", offsets_wait_for_the_topic);
}

fn offsets_wait_for_the_topic(row: &mut Row) {
    let kafka = Kafka::shared(row.version());
    let names = Names::on(kafka);
    kafka.create_topic(&names.topic, 1, &[]);
    let mut mb = Mb::start(&names.args(&["--max-batch", "1"]));
    raw::produce(&names.server, "none", &names.topic, 0, &[b"first".to_vec()]);
    eventually(LIMIT, "the first letter is there", || names.committed() == 1);

    thread::sleep(row.millis(0..1_500));
    kafka.tool("topics", &["--delete", "--topic", &names.letters]);
    raw::produce(&names.server, "none", &names.topic, 0, &[b"second".to_vec()]);
    let line = mb.wait_for_line("its 1 dead letter(s) wait", LIMIT);
    assert!(line.contains(&names.letters) && line.contains("not committed"), "{line}");
    assert_eq!(names.committed(), 1);
    kafka.create_topic(&names.letters, 1, &[("max.message.bytes", "5000")]);
    eventually(LIMIT, "the offsets go on", || names.committed() == 2);
    let letters = raw::read_all(&names.server, &names.letters);
    assert_eq!(letters[0].value.as_deref(), Some(&b"second"[..]));

    let large = vec![b'x'; row.random.usize(6_000..50_000)];
    raw::produce(&names.server, "none", &names.topic, 0, &[large, b"after".to_vec()]);
    let from = mb.stderr().len();
    eventually(LIMIT, "the large one is told", || {
        let lines = mb.stderr();
        lines[from.min(lines.len())..].iter().any(|line| line.contains("dead letter(s) wait"))
            || lines.iter().filter(|line| line.contains("dead letter(s) wait")).count() > 1
    });
    assert_eq!(names.committed(), 2, "{}", mb.stderr().join("\n"));
    let change = ["--alter", "--entity-type", "topics", "--entity-name", &names.letters];
    let to = ["--add-config", "max.message.bytes=100000"];
    kafka.tool("configs", &[&change[..], &to].concat());
    eventually(LIMIT, "the offsets go on again", || names.committed() == 4);
    mb.term();
    assert_eq!(mb.wait(LIMIT).code(), Some(0));
}

#[test]
fn two_kills_lose_no_letter() {
    let kafka = Kafka::shared(V4_4);
    let names = Names::on(kafka);
    kafka.create_topic(&names.topic, 1, &[]);
    let values: Vec<Vec<u8>> = (0..60).map(|n| format!("value-{n}").into_bytes()).collect();
    raw::produce(&names.server, "none", &names.topic, 0, &values);
    let data_dir = tempfile::tempdir().unwrap();
    let more = ["--max-batch", "2", "--until-caught-up"];
    for passing in [1, 4] {
        let at = format!("dead-letter-acked:{passing}");
        let mut mb = Mb::start_to_crash(&at, data_dir.path(), &names.args(&more));
        mb.wait_for_crash(LIMIT);
    }
    let mut mb = Mb::start_in(data_dir.path(), &names.args(&more));
    assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
    assert_eq!(names.committed(), 60);
    let letters = raw::read_all(&names.server, &names.letters);
    let found: BTreeSet<_> = letters.into_iter().filter_map(|letter| letter.value).collect();
    assert_eq!(found, values.into_iter().collect());
}

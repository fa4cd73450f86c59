//! The form of a dead letter on a topic: the record unchanged, and headers with its origin and the error. Pure.
//!
//! Names that begin with `__connect.errors.` are those of Kafka Connect
//! (org.apache.kafka.connect.runtime.errors.DeadLetterQueueReporter), so that tools for its dead
//! letters read these too; the others are mb's own.

use std::borrow::Cow;

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::model::batch::Record;
use crate::model::offset::RunKey;
use crate::step::record_json::{HeaderJson, entry};

/// The value of Connect's header for the exception class, if the step named the record. For other records it is
/// how the run's attempts ended (`DeadLetters::why`).
pub const NAMED: &str = "named";

/// What all dead letters of a run share.
#[derive(Debug)]
pub struct Origin<'a> {
    pub key: &'a RunKey,
    pub group: &'a str,
    pub step: &'a str,
    pub attempts: u32,
}

pub type Header<'a> = (Cow<'a, str>, Option<Cow<'a, [u8]>>);

/// The record's own headers, then those about the failure. Not every client can write a name that is not
/// UTF-8, so invalid bytes are replaced.
pub fn headers<'a>(
    origin: &Origin<'a>,
    record: &Record<'a>,
    why: &'a str,
    message: &'a str,
) -> Vec<Header<'a>> {
    let own = record.headers.iter().map(|(name, value)| {
        let name = match String::from_utf8_lossy(name) {
            // C clients end a name at a zero byte.
            name if name.contains('\0') => Cow::Owned(name.replace('\0', "\u{fffd}")),
            name => name,
        };
        (name, value.map(Cow::Borrowed))
    });
    let text = |value: &'a str| Some(Cow::Borrowed(value.as_bytes()));
    let made = |value: String| Some(Cow::Owned(value.into_bytes()));
    let RunKey { topic, partition, .. } = origin.key;
    let mut of_mb = vec![
        ("__connect.errors.topic", text(topic)),
        ("__connect.errors.partition", made(partition.to_string())),
        ("__connect.errors.offset", made(record.offset.to_string())),
        ("__connect.errors.connector.name", text("mb")),
        ("__connect.errors.task.id", made(origin.key.to_string())),
        ("__connect.errors.stage", text("STEP")),
        ("__connect.errors.class.name", text(origin.step)),
        ("__connect.errors.exception.class.name", text(why)),
        ("__connect.errors.exception.message", text(message)),
        ("__mb.errors.run-key", made(origin.key.to_string())),
        ("__mb.errors.attempts", made(origin.attempts.to_string())),
        ("__mb.errors.group", text(origin.group)),
    ];
    if let Some(timestamp) = record.timestamp {
        of_mb.push(("__mb.errors.timestamp", made(timestamp.to_string())));
    }
    if record.edited {
        of_mb.push(("__mb.errors.edited", text("true")));
    }
    own.chain(of_mb.into_iter().map(|(name, value)| (Cow::Borrowed(name), value))).collect()
}

/// The dead letter as one JSON value, for clients without headers:
/// `{"key":…,"value":…,"headers":[{"key":…,"value":…},…]}`, bytes that are not UTF-8 as in `record_json`.
pub fn envelope(record: &Record<'_>, headers: &[Header<'_>]) -> Vec<u8> {
    let envelope = Envelope { record: *record, headers };
    serde_json::to_vec(&envelope).expect("text and base64 are JSON")
}

struct Envelope<'a> {
    record: Record<'a>,
    headers: &'a [Header<'a>],
}

struct List<'a>(&'a [Header<'a>]);

impl Serialize for Envelope<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        entry(&mut map, "key", "key_base64", self.record.key)?;
        entry(&mut map, "value", "value_base64", self.record.value)?;
        map.serialize_entry("headers", &List(self.headers))?;
        map.end()
    }
}

impl Serialize for List<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(
            self.0
                .iter()
                .map(|(key, value)| HeaderJson { key: key.as_bytes(), value: value.as_deref() }),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::headers::Headers;
    use crate::model::offset::{Offset, OffsetRange};

    fn key() -> RunKey {
        RunKey::new("orders", 3, OffsetRange::new(Offset::new(10), Offset::new(19)))
    }

    fn text(headers: &[Header<'_>]) -> Vec<(String, Option<String>)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        headers.iter().map(|(name, value)| (name.to_string(), value.as_deref().map(text))).collect()
    }

    #[test]
    fn a_dead_letter_has_its_own_headers_first_then_where_it_came_from_and_why() {
        let own = Headers::encode([("trace", Some("7")), ("none", None)]);
        let record = Record {
            offset: Offset::new(12),
            timestamp: Some(5),
            headers: Headers::decode(&own).unwrap(),
            ..Record::default()
        };
        let key = key();
        let origin = Origin { key: &key, group: "g", step: "exec", attempts: 3 };
        let found = text(&headers(&origin, &record, "retry", "exit code 1"));
        let expected = [
            ("trace", Some("7")),
            ("none", None),
            ("__connect.errors.topic", Some("orders")),
            ("__connect.errors.partition", Some("3")),
            ("__connect.errors.offset", Some("12")),
            ("__connect.errors.connector.name", Some("mb")),
            ("__connect.errors.task.id", Some("orders/3/10-19")),
            ("__connect.errors.stage", Some("STEP")),
            ("__connect.errors.class.name", Some("exec")),
            ("__connect.errors.exception.class.name", Some("retry")),
            ("__connect.errors.exception.message", Some("exit code 1")),
            ("__mb.errors.run-key", Some("orders/3/10-19")),
            ("__mb.errors.attempts", Some("3")),
            ("__mb.errors.group", Some("g")),
            ("__mb.errors.timestamp", Some("5")),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.map(str::to_owned)));
        assert_eq!(found, expected);
    }

    #[test]
    fn names_that_a_client_would_cut_or_refuse_are_mended() {
        let own = Headers::encode([(&b"a\0b"[..], None::<&[u8]>), (b"\xff", None)]);
        let record = Record { headers: Headers::decode(&own).unwrap(), ..Record::default() };
        let key = key();
        let origin = Origin { key: &key, group: "g", step: "s", attempts: 1 };
        let found = text(&headers(&origin, &record, "retry", ""));
        assert_eq!(found[0].0, "a\u{fffd}b");
        assert_eq!(found[1].0, "\u{fffd}");
    }

    #[test]
    fn an_envelope_is_json_whatever_the_bytes() {
        let record = Record { key: Some(b"k"), value: Some(b"\xff\x00"), ..Record::default() };
        let headers = [(Cow::Borrowed("a"), Some(Cow::Borrowed(&b"b"[..])))];
        let envelope = String::from_utf8(envelope(&record, &headers)).unwrap();
        assert_eq!(
            envelope,
            r#"{"key":"k","value_base64":"/wA=","headers":[{"key":"a","value":"b"}]}"#
        );
    }
}

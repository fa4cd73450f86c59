//! Records as JSON. `--exec`, `--step files`, the API and the page all use this form:
//! `{"partition":…,"offset":…,"timestamp":ms or null,"key":…,"value":…}`.

use std::borrow::Cow;
use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::model::batch::Record;
use crate::model::offset::Partition;

/// Serializes a record: text as text; bytes that are not UTF-8 as `key_base64` and `value_base64` instead
/// (standard alphabet, padded); a missing key or a null value as null.
#[derive(Clone, Copy, Debug)]
pub struct RecordJson<'a> {
    pub partition: Partition,
    pub record: Record<'a>,
}

impl JsonSchema for RecordJson<'_> {
    fn schema_name() -> Cow<'static, str> {
        "Record".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A record as steps get it. Bytes that are not UTF-8 are in base64, \
                under key_base64 and value_base64.",
            "type": "object",
            "properties": {
                "partition": { "type": "integer" },
                "offset": { "type": "integer" },
                "timestamp": {
                    "type": ["integer", "null"],
                    "description": "Milliseconds since 1970 (UTC)."
                },
                "key": { "type": ["string", "null"] },
                "key_base64": { "type": "string" },
                "value": { "type": ["string", "null"] },
                "value_base64": { "type": "string" }
            },
            "required": ["partition", "offset", "timestamp"]
        })
    }
}

impl Serialize for RecordJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(5))?;
        map.serialize_entry("partition", &self.partition)?;
        map.serialize_entry("offset", &self.record.offset.get())?;
        map.serialize_entry("timestamp", &self.record.timestamp)?;
        entry(&mut map, "key", "key_base64", self.record.key)?;
        entry(&mut map, "value", "value_base64", self.record.value)?;
        map.end()
    }
}

/// Serializes a header in the same way. A record may have several headers of one name.
#[derive(Clone, Copy, Debug)]
pub struct HeaderJson<'a> {
    pub name: &'a [u8],
    pub value: Option<&'a [u8]>,
}

impl JsonSchema for HeaderJson<'_> {
    fn schema_name() -> Cow<'static, str> {
        "Header".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A record's header. Bytes that are not UTF-8 are in base64, under \
                name_base64 and value_base64.",
            "type": "object",
            "properties": {
                "name": { "type": "string" },
                "name_base64": { "type": "string" },
                "value": { "type": ["string", "null"] },
                "value_base64": { "type": "string" }
            }
        })
    }
}

impl Serialize for HeaderJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        entry(&mut map, "name", "name_base64", Some(self.name))?;
        entry(&mut map, "value", "value_base64", self.value)?;
        map.end()
    }
}

/// Bytes as text under the first name, or as base64 under the second if they are not UTF-8.
pub(crate) fn entry<M: SerializeMap>(
    map: &mut M,
    text_name: &str,
    base64_name: &str,
    bytes: Option<&[u8]>,
) -> Result<(), M::Error> {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => map.serialize_entry(text_name, &()),
        Some((_, Ok(text))) => map.serialize_entry(text_name, text),
        Some((bytes, Err(_))) => map.serialize_entry(base64_name, &STANDARD.encode(bytes)),
    }
}

/// Writes each record as one line of JSON.
pub fn write_lines<'a>(
    out: &mut impl Write,
    partition: Partition,
    records: impl Iterator<Item = Record<'a>>,
) -> io::Result<()> {
    for record in records {
        serde_json::to_writer(&mut *out, &RecordJson { partition, record })?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::headers::Headers;
    use crate::model::offset::Offset;

    fn json(key: Option<&[u8]>, value: Option<&[u8]>, timestamp: Option<i64>) -> String {
        let record =
            Record { offset: Offset::new(7), timestamp, key, value, headers: Headers::NONE };
        serde_json::to_string(&RecordJson { partition: 2, record }).unwrap()
    }

    #[test]
    fn text_stays_text() {
        assert_eq!(
            json(Some(b"k"), Some("a \"b\"\n\u{1b}[1m ü".as_bytes()), Some(5)),
            r#"{"partition":2,"offset":7,"timestamp":5,"key":"k","value":"a \"b\"\n\u001b[1m ü"}"#
        );
    }

    #[test]
    fn bytes_that_are_not_utf8_come_as_base64() {
        assert_eq!(
            json(Some(b"\xff\x00"), Some(b"\xfe"), None),
            r#"{"partition":2,"offset":7,"timestamp":null,"key_base64":"/wA=","value_base64":"/g=="}"#
        );
    }

    #[test]
    fn a_headers_name_and_value_are_text_or_base64_each_by_itself() {
        let json = |name, value| serde_json::to_string(&HeaderJson { name, value }).unwrap();
        assert_eq!(json(b"a", Some(b"\xff")), r#"{"name":"a","value_base64":"/w=="}"#);
        assert_eq!(json(b"\xfe", None), r#"{"name_base64":"/g==","value":null}"#);
        assert_eq!(json(b"", Some(b"")), r#"{"name":"","value":""}"#);
    }

    #[test]
    fn missing_is_null_and_empty_is_empty() {
        assert_eq!(
            json(None, None, None),
            r#"{"partition":2,"offset":7,"timestamp":null,"key":null,"value":null}"#
        );
        assert_eq!(
            json(Some(b""), Some(b""), None),
            r#"{"partition":2,"offset":7,"timestamp":null,"key":"","value":""}"#
        );
    }
}

//! Records as JSON. `--exec`, `--step files`, the API and the page all use this form:
//! `{"partition":…,"offset":…,"timestamp":ms or null,"key":…,"value":…,"headers":[{"key":…,"value":…},…],"edited":true}`.

use std::borrow::Cow;
use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::ser::{Serialize, SerializeMap};
use serde_json::Serializer;
use serde_json::ser::{CompactFormatter, Formatter};

use crate::model::batch::Record;
use crate::model::headers::Headers;
use crate::model::offset::Partition;

/// Serializes a record: text as text; bytes that are not UTF-8 as `key_base64` and `value_base64` instead
/// (standard alphabet, padded); a missing key or a null value as null. A record without headers has no `headers`, and
/// one that nobody has edited no `edited`.
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
                "value_base64": { "type": "string" },
                "headers": {
                    "type": "array",
                    "description": "In their order; left out if there are none. A key may occur several times.",
                    "items": {
                        "type": "object",
                        "properties": {
                            "key": { "type": "string" },
                            "key_base64": { "type": "string" },
                            "value": { "type": ["string", "null"] },
                            "value_base64": { "type": "string" }
                        }
                    }
                },
                "edited": {
                    "type": "boolean",
                    "description": "True for a dead letter whose key or value a person has edited; otherwise left out."
                }
            },
            "required": ["partition", "offset", "timestamp"]
        })
    }
}

impl Serialize for RecordJson<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (headers, edited) = (self.record.headers, self.record.edited);
        let entries = 5 + usize::from(!headers.is_empty()) + usize::from(edited);
        let mut map = serializer.serialize_map(Some(entries))?;
        map.serialize_entry("partition", &self.partition)?;
        map.serialize_entry("offset", &self.record.offset.get())?;
        map.serialize_entry("timestamp", &self.record.timestamp)?;
        entry(&mut map, "key", "key_base64", self.record.key)?;
        entry(&mut map, "value", "value_base64", self.record.value)?;
        if !headers.is_empty() {
            map.serialize_entry("headers", &HeadersJson(headers))?;
        }
        if edited {
            map.serialize_entry("edited", &true)?;
        }
        map.end()
    }
}

struct HeadersJson<'a>(Headers<'a>);

impl Serialize for HeadersJson<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|(key, value)| HeaderJson { key, value }))
    }
}

/// Serializes a header in the same way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeaderJson<'a> {
    pub key: &'a [u8],
    pub value: Option<&'a [u8]>,
}

impl Serialize for HeaderJson<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        entry(&mut map, "key", "key_base64", Some(self.key))?;
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

/// Writes each record as one line of JSON, also for readers that split text at more characters than `\n`.
pub fn write_lines<'a>(
    out: &mut impl Write,
    partition: Partition,
    records: impl Iterator<Item = Record<'a>>,
) -> io::Result<()> {
    for record in records {
        let mut line = Serializer::with_formatter(&mut *out, OneLine);
        RecordJson { partition, record }.serialize(&mut line)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// The compact form, with the line separators escaped that JSON allows within strings (RFC 8259, section 7) and at which,
/// for one, Python's `splitlines()` splits: U+0085, U+2028 and U+2029.
struct OneLine;

impl Formatter for OneLine {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        // The first bytes of these three in UTF-8.
        if !fragment.bytes().any(|byte| byte == 0xC2 || byte == 0xE2) {
            return CompactFormatter.write_string_fragment(out, fragment);
        }
        let mut rest = fragment;
        while let Some(at) = rest.find(['\u{85}', '\u{2028}', '\u{2029}']) {
            let (before, found) = rest.split_at(at);
            let separator = found.chars().next().expect("it was found there");
            write!(out, "{before}\\u{:04x}", u32::from(separator))?;
            rest = &found[separator.len_utf8()..];
        }
        out.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::offset::Offset;

    fn json(key: Option<&[u8]>, value: Option<&[u8]>, timestamp: Option<i64>) -> String {
        let record = Record { offset: Offset::new(7), timestamp, key, value, ..Record::default() };
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
    fn headers_come_in_their_order_each_text_or_base64_by_itself() {
        let own = Headers::encode([
            (&b"a"[..], Some(&b"b"[..])),
            (b"a", Some(b"\xff")),
            (b"\xfe", None),
            (b"", Some(b"")),
        ]);
        let record = Record { headers: Headers::decode(&own).unwrap(), ..Record::default() };
        let json = serde_json::to_string(&RecordJson { partition: 2, record }).unwrap();
        let expected = r#""headers":[{"key":"a","value":"b"},{"key":"a","value_base64":"/w=="},{"key_base64":"/g==","value":null},{"key":"","value":""}]}"#;
        assert!(json.ends_with(expected), "{json}");
    }

    #[test]
    fn a_record_that_a_person_has_edited_says_so() {
        let record = Record { value: Some(b"v"), edited: true, ..Record::default() };
        let json = serde_json::to_string(&RecordJson { partition: 2, record }).unwrap();
        assert!(json.ends_with(r#""value":"v","edited":true}"#), "{json}");
    }

    #[test]
    fn a_record_is_one_line_whoever_splits_the_lines() {
        // What Python's str.splitlines() splits at.
        let separators = "\n\r\u{b}\u{c}\u{1c}\u{1d}\u{1e}\u{85}\u{2028}\u{2029}";
        let text = format!("a{separators}ü â \u{2027}\u{202a}{separators}");
        let record = Record { value: Some(text.as_bytes()), ..Record::default() };
        let mut lines = Vec::new();
        write_lines(&mut lines, 0, [record, record].into_iter()).unwrap();
        let lines = String::from_utf8(lines).unwrap();
        let found: Vec<_> = lines.split(|c| separators.contains(c)).collect();
        assert!(found.len() == 3 && found[0] == found[1] && found[2].is_empty(), "{lines}");
        assert!(found[0].contains("\\u0085\\u2028\\u2029ü â \u{2027}\u{202a}"), "{lines}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(found[0]).unwrap()["value"], text);
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

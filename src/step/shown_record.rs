//! Records as people see them: text as text, other bytes in base64, long values cut.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::limits;
use crate::model::batch::Record;
use crate::model::offset::Partition;

/// A record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ShownRecord {
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since 1970 (UTC).
    pub timestamp_ms: Option<i64>,
    #[serde(flatten)]
    pub pair: ShownPair,
    /// The first 100, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<ShownPair>,
    /// A person has edited key or value; left out otherwise.
    #[serde(skip_serializing_if = "is_false")]
    pub edited: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
fn is_false(it: &bool) -> bool {
    !it
}

/// Key and value of a record or of a header. What is not UTF-8 comes in base64, under `key_base64` or `value_base64`;
/// what the record does not have is null.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ShownPair {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
    /// How many bytes of the value are not shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut_bytes: Option<u64>,
    /// How many bytes of the key are not shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut_key_bytes: Option<u64>,
}

impl ShownRecord {
    pub fn of(partition: Partition, record: &Record<'_>) -> ShownRecord {
        let header = |(key, value)| ShownPair::of(Some(key), value);
        ShownRecord {
            partition,
            offset: record.offset.get(),
            timestamp_ms: record.timestamp,
            pair: ShownPair::of(record.key, record.value),
            headers: record.headers.iter().take(limits::SHOWN_HEADERS).map(header).collect(),
            edited: record.edited,
        }
    }
}

/// The beginning of a key or value, and how many bytes all of it has.
pub type Beginning<'a> = (&'a [u8], usize);

impl ShownPair {
    fn of(key: Option<&[u8]>, value: Option<&[u8]>) -> ShownPair {
        ShownPair::cut_at(limits::SHOWN_VALUE_BYTES, key.map(whole), value.map(whole))
    }

    /// At most `most` bytes of key and value, which are given whole or up to that length.
    pub fn cut_at(
        most: usize,
        key: Option<Beginning<'_>>,
        value: Option<Beginning<'_>>,
    ) -> ShownPair {
        let (key, key_base64, cut_key_bytes) = shown(key, most);
        let (value, value_base64, cut_bytes) = shown(value, most);
        ShownPair { key, key_base64, value, value_base64, cut_bytes, cut_key_bytes }
    }
}

fn whole(bytes: &[u8]) -> Beginning<'_> {
    (bytes, bytes.len())
}

/// Bytes as text or in base64, and how many of them are not shown.
fn shown(
    bytes: Option<Beginning<'_>>,
    most: usize,
) -> (Option<Option<String>>, Option<String>, Option<u64>) {
    let Some((beginning, length)) = bytes else { return (Some(None), None, None) };
    let part = &beginning[..beginning.len().min(most)];
    let (part, text) = cut(part, part.len() < length);
    let cut_bytes = (part.len() < length).then(|| (length - part.len()) as u64);
    match text {
        Some(text) => (Some(Some(text.to_owned())), None, cut_bytes),
        None => (None, Some(STANDARD.encode(part)), cut_bytes),
    }
}

/// The bytes that are shown, and the same as text if they are UTF-8. No character is cut in two.
fn cut(part: &[u8], is_more: bool) -> (&[u8], Option<&str>) {
    match std::str::from_utf8(part) {
        Ok(text) => (part, Some(text)),
        Err(error) if error.error_len().is_none() && is_more => {
            let whole = &part[..error.valid_up_to()];
            (whole, std::str::from_utf8(whole).ok())
        }
        Err(_) => (part, None),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::headers::Headers;
    use crate::model::offset::Offset;

    fn record(value: &[u8]) -> Value {
        let record = Record { offset: Offset::new(7), value: Some(value), ..Record::default() };
        serde_json::to_value(ShownRecord::of(2, &record)).unwrap()
    }

    #[test]
    fn a_record_is_text_or_base64_and_cut_if_it_is_long() {
        let short = record(b"a \x1b[1m");
        assert_eq!((&short["partition"], &short["offset"]), (&json!(2), &json!(7)));
        assert_eq!((&short["value"], &short["key"]), (&json!("a \u{1b}[1m"), &Value::Null));
        assert!(short.get("key").is_some() && short.get("cut_bytes").is_none());
        assert_eq!(record(b"\xfe")["value_base64"], "/g==");
        let long = record(&vec![b'x'; limits::SHOWN_VALUE_BYTES + 5]);
        assert_eq!(long["cut_bytes"], 5);
        assert_eq!(long["value"].as_str().map(str::len), Some(limits::SHOWN_VALUE_BYTES));
        // The last character lies across the limit, and is not shown.
        let text = format!("x{}", "ü".repeat(limits::SHOWN_VALUE_BYTES));
        let cut = record(text.as_bytes());
        assert_eq!(cut["value"].as_str().map(str::len), Some(limits::SHOWN_VALUE_BYTES - 1));
        let rest = text.len() - (limits::SHOWN_VALUE_BYTES - 1);
        assert_eq!(cut["cut_bytes"], rest as u64);
        assert_eq!(record(b"end \xc3").get("value"), None, "half a character is not text");
    }

    #[test]
    fn a_beginning_is_cut_by_what_all_of_it_has() {
        let pair = ShownPair::cut_at(4, Some((b"ke", 2)), Some(("a\u{fc}\u{fc}".as_bytes(), 900)));
        let shown = serde_json::to_value(pair).unwrap();
        assert_eq!(shown, json!({ "key": "ke", "value": "a\u{fc}", "cut_bytes": 897 }));
        let none = serde_json::to_value(ShownPair::cut_at(4, None, Some((b"\xff", 1)))).unwrap();
        assert_eq!(none, json!({ "key": null, "value_base64": "/w==" }));
    }

    #[test]
    fn headers_are_shown_in_the_form_of_key_and_value() {
        assert!(record(b"").get("headers").is_none());
        let own = Headers::encode([(&b"a"[..], None), (b"a", Some(&b"\xfe"[..]))]);
        let headers = Headers::decode(&own).unwrap();
        let shown = ShownRecord::of(2, &Record { headers, ..Record::default() });
        let expected =
            json!([{ "key": "a", "value": null }, { "key": "a", "value_base64": "/g==" }]);
        assert_eq!(serde_json::to_value(shown).unwrap()["headers"], expected);
    }
}

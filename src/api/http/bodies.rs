//! Bodies of requests, as JSON. A field that a body does not have is an error.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::request::Request;
use crate::api::operations::cursor::MoveCursor;
use crate::api::operations::dead_letters::{Discard, EditDeadLetter, EditedFields, Redrive, given};
use crate::history::dead_letters::Pick;
use crate::model::error::{Error, Result};

/// The body as JSON; no body at all is an empty object.
///
/// # Errors
/// `Usage` if it does not have the shape.
pub(super) fn body<T: DeserializeOwned>(request: &Request) -> Result<T> {
    let bytes = request.body.trim_ascii();
    let bytes = if bytes.is_empty() { b"{}" } else { bytes };
    // Serde reads an array as an object, by the order of its fields.
    if bytes[0] != b'{' {
        return Err(Error::Usage("body: expected a JSON object".into()));
    }
    serde_json::from_slice(bytes).map_err(|cause| Error::Usage(format!("body: {cause}")))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "EmptyBody")]
pub(super) struct Empty {}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NoteBody")]
pub(super) struct Note {
    /// Why, for people.
    #[serde(default)]
    pub note: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "CursorBody")]
pub(super) struct Cursor {
    /// Each partition's next offset.
    #[schemars(with = "BTreeMap<String, i64>")]
    offsets: BTreeMap<i32, i64>,
    /// Only says what would be moved.
    #[serde(default)]
    pub dry_run: bool,
    /// How long to wait for the partitions' running runs, in seconds; 30 by default.
    #[serde(default)]
    wait_s: Option<f64>,
}

impl Cursor {
    /// # Errors
    /// `Usage` if it names no partition.
    pub fn operation(self) -> Result<MoveCursor> {
        if self.offsets.is_empty() {
            return Err(Error::Usage("offsets: got none, expected {\"PARTITION\":OFFSET}".into()));
        }
        let Cursor { offsets, dry_run, wait_s } = self;
        Ok(MoveCursor { offsets: offsets.into_iter().collect(), dry_run, wait_s })
    }
}

/// Exactly one of ids, error and all.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RedriveBody {
    ids: Option<Vec<i64>>,
    /// A part of the dead letters' error.
    error: Option<String>,
    #[serde(default)]
    all: bool,
}

impl RedriveBody {
    /// # Errors
    /// `Usage` unless it names dead letters in exactly one way.
    pub fn operation(self) -> Result<Redrive> {
        pick(self.ids, self.error, self.all).map(Redrive)
    }
}

/// Exactly one of ids, error and all; and why the dead letters are not needed.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DiscardBody {
    ids: Option<Vec<i64>>,
    /// A part of the dead letters' error.
    error: Option<String>,
    #[serde(default)]
    all: bool,
    reason: String,
}

impl DiscardBody {
    /// # Errors
    /// `Usage` without a reason, or unless it names dead letters in exactly one way.
    pub fn operation(self) -> Result<Discard> {
        let note = self.reason.trim().to_owned();
        if note.is_empty() {
            return Err(Error::Usage("reason: got none, expected why they are not needed".into()));
        }
        Ok(Discard { pick: pick(self.ids, self.error, self.all)?, note })
    }
}

/// What is edited of a dead letter's record. A key or value that is not given stays as it is; null is no key, or
/// Kafka's null value. Bytes that are not UTF-8 come in base64.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EditBody {
    #[serde(default, deserialize_with = "given")]
    key: Option<Option<String>>,
    key_base64: Option<String>,
    #[serde(default, deserialize_with = "given")]
    value: Option<Option<String>>,
    value_base64: Option<String>,
    /// Redrives the dead letter too.
    #[serde(default)]
    redrive: bool,
}

impl EditBody {
    pub fn operation(self, id: i64) -> EditDeadLetter {
        let EditBody { key, key_base64, value, value_base64, redrive } = self;
        let fields = EditedFields { key, key_base64, value, value_base64 };
        EditDeadLetter { id, fields, redrive }
    }
}

/// A body that names no dead letters must not mean all of them.
fn pick(ids: Option<Vec<i64>>, error: Option<String>, all: bool) -> Result<Pick> {
    match (ids, error, all) {
        (Some(ids), None, false) if !ids.is_empty() => Ok(Pick { ids, ..Pick::default() }),
        (None, Some(error), false) if !error.is_empty() => {
            Ok(Pick { error: Some(error), ..Pick::default() })
        }
        (None, None, true) => Ok(Pick::default()),
        _ => Err(Error::Usage(
            "body: expected one of \"ids\":[NUMBER,…], \"error\":\"PART OF IT\" or \"all\":true"
                .into(),
        )),
    }
}

/// Offsets of a partition, both included.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ReplayBody")]
pub(super) struct Span {
    pub partition: i32,
    pub from: i64,
    /// Included.
    pub to: i64,
}

#[cfg(test)]
mod tests {
    use super::super::request::head;
    use super::*;

    fn request(body: &str) -> Request {
        let mut request = head(b"POST / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap().unwrap().request;
        request.body = body.into();
        request
    }

    #[test]
    fn dead_letters_are_named_in_exactly_one_way() {
        let redrive =
            |text: &str| body::<RedriveBody>(&request(text)).and_then(RedriveBody::operation);
        for text in [r#"{"ids":[1]}"#, r#"{"error":"x"}"#, r#"{"all":true}"#] {
            assert!(redrive(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "{}",
            "[]",
            r#"{"ids":[]}"#,
            r#"{"all":false}"#,
            r#"{"error":""}"#,
            r#"{"ids":[1],"all":true}"#,
            r#"{"ids":[1],"reason":"x"}"#,
            r#"{"idz":[1]}"#,
            r#"{"ids":["1"]}"#,
        ] {
            assert!(matches!(redrive(text), Err(Error::Usage(_))), "{text}");
        }
        let discard =
            |text: &str| body::<DiscardBody>(&request(text)).and_then(DiscardBody::operation);
        assert!(discard(r#"{"all":true,"reason":"old"}"#).is_ok());
        assert!(discard(r#"{"all":true,"reason":" "}"#).is_err());
        assert!(discard(r#"{"all":true}"#).is_err());
    }
}

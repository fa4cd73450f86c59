//! What routes read of a request: the fields of its query, and bodies of JSON, each strictly: a name
//! that is not known is an error that says which ones are, so that no filter is passed over.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::request::{Request, fields};
use crate::api::control::requests as control;
use crate::api::control::steer::CursorTarget;
use crate::config::limits;
use crate::history::letters::Pick;
use crate::model::error::{Error, Result};

/// The fields of a query that are left to be read.
pub struct Query {
    known: &'static [&'static str],
    fields: BTreeMap<String, String>,
}

impl Query {
    /// # Errors
    /// `Usage`, here and below, with the field's name.
    pub fn of(request: &Request, known: &'static [&'static str]) -> Result<Query> {
        let mut named = BTreeMap::new();
        for (name, value) in fields(&request.query).map_err(Error::Usage)? {
            if !known.contains(&name.as_str()) {
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(Error::Usage(format!("{name}: no such field, expected {known}")));
            }
            // An empty one is a form's field that nobody filled in.
            if !value.is_empty() && named.insert(name.clone(), value).is_some() {
                return Err(Error::Usage(format!("{name}: got it twice")));
            }
        }
        Ok(Query { known, fields: named })
    }

    pub fn text(&self, name: &str) -> Option<String> {
        debug_assert!(self.known.contains(&name), "{name} can be given");
        self.fields.get(name).cloned()
    }

    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>> {
        self.text(name)
            .map(|text| {
                let number = text.parse();
                number.map_err(|_| {
                    Error::Usage(format!("{name}: got {text:?}, expected a whole number"))
                })
            })
            .transpose()
    }

    pub fn is_set(&self, name: &str) -> Result<bool> {
        match self.text(name).as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(text) => {
                Err(Error::Usage(format!("{name}: got {text:?}, expected true or false")))
            }
        }
    }

    /// One of a few words.
    pub fn choice(&self, name: &str, choices: &[&str]) -> Result<Option<String>> {
        let text = self.text(name);
        match text.as_deref().filter(|text| !choices.contains(text)) {
            None => Ok(text),
            Some(text) => Err(Error::Usage(format!(
                "{name}: got {text:?}, expected one of {}",
                choices.join(", ")
            ))),
        }
    }

    /// Rows of a page.
    pub fn limit(&self) -> Result<u32> {
        let most = limits::HTTP_PAGE_ROWS_MAX;
        match self.number("limit")? {
            None => Ok(limits::HTTP_PAGE_ROWS),
            Some(limit) if (1..=most).contains(&limit) => Ok(limit),
            Some(limit) => {
                Err(Error::Usage(format!("limit: got {limit}, expected a number from 1 to {most}")))
            }
        }
    }
}

/// The body as JSON; none at all is an empty object.
///
/// # Errors
/// `Usage` where it does not have the shape.
pub fn body<T: DeserializeOwned>(request: &Request) -> Result<T> {
    let bytes = request.body.trim_ascii();
    let bytes = if bytes.is_empty() { b"{}" } else { bytes };
    // Serde takes an array for an object, by the order of its fields.
    if bytes[0] != b'{' {
        return Err(Error::Usage("body: expected a JSON object".into()));
    }
    serde_json::from_slice(bytes).map_err(|cause| Error::Usage(format!("body: {cause}")))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    #[serde(default)]
    pub note: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    offsets: BTreeMap<i32, i64>,
    #[serde(default)]
    pub dry_run: bool,
}

impl Cursor {
    /// # Errors
    /// `Usage` where it names no partition.
    pub fn target(self) -> Result<CursorTarget> {
        if self.offsets.is_empty() {
            return Err(Error::Usage("offsets: got none, expected {\"PARTITION\":OFFSET}".into()));
        }
        Ok(CursorTarget { offsets: self.offsets.into_iter().collect(), dry_run: self.dry_run })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Letters {
    ids: Option<Vec<i64>>,
    error: Option<String>,
    #[serde(default)]
    all: bool,
    reason: Option<String>,
}

impl Letters {
    /// What a redrive takes.
    pub fn redrive(self) -> Result<control::Request> {
        match self.reason {
            None => Ok(control::Request::Redrive(self.pick()?)),
            Some(_) => Err(Error::Usage("reason: a redrive has none".into())),
        }
    }

    /// What a discard takes.
    pub fn discard(mut self) -> Result<control::Request> {
        let note = self.reason.take().unwrap_or_default().trim().to_owned();
        if note.is_empty() {
            return Err(Error::Usage("reason: got none, expected why they are not needed".into()));
        }
        Ok(control::Request::Discard { pick: self.pick()?, note })
    }

    /// Exactly one way of naming them: what names none would be all.
    fn pick(self) -> Result<Pick> {
        match (self.ids, self.error, self.all) {
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
}

/// Offsets of a partition, both included.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    pub partition: i32,
    pub from: i64,
    pub to: i64,
}

#[cfg(test)]
mod tests {
    use super::super::request::head;
    use super::*;

    fn request(query: &str, body: &str) -> Request {
        let text = format!("POST /?{query} HTTP/1.1\r\nHost: h\r\n\r\n");
        let mut request = head(text.as_bytes()).unwrap().unwrap().request;
        request.body = body.into();
        request
    }

    #[test]
    fn a_query_is_read_strictly() {
        let query = |text: &str| Query::of(&request(text, ""), &["limit", "busy", "state"]);
        let found = query("limit=7&busy=true&state=").unwrap();
        assert_eq!((found.limit(), found.is_set("busy")), (Ok(7), Ok(true)));
        assert_eq!(found.text("state"), None);
        assert_eq!(query("").unwrap().limit(), Ok(limits::HTTP_PAGE_ROWS));
        for text in ["limit=0", "limit=201", "limit=x", "limit=-1"] {
            assert!(query(text).unwrap().limit().is_err(), "{text}");
        }
        assert!(query("busy=1").unwrap().is_set("busy").is_err());
        assert!(query("limit=1&limit=2").is_err());
        let error = query("sate=failed").err().unwrap().to_string();
        assert!(error.contains("limit, busy, state"), "{error}");
    }

    #[test]
    fn letters_are_named_in_exactly_one_way() {
        let redrive = |text: &str| body::<Letters>(&request("", text)).and_then(Letters::redrive);
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
        let discard = |text: &str| body::<Letters>(&request("", text)).and_then(Letters::discard);
        assert!(discard(r#"{"all":true,"reason":"old"}"#).is_ok());
        assert!(discard(r#"{"all":true,"reason":" "}"#).is_err());
        assert!(discard(r#"{"all":true}"#).is_err());
    }
}

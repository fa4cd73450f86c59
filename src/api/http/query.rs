//! Fields of a query: which ones a route has, for reading them and for the API's description. A field that a
//! route does not have is an error, so that a misspelt filter is not passed over.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::request::{Request, fields};
use crate::config::limits;
use crate::model::error::{Error, Result};

/// One field that a route's query may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub name: &'static str,
    pub kind: Kind,
    /// What it selects, for the API's description.
    pub about: &'static str,
    /// The value if it is not given, for the API's description.
    pub default: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Integer,
    Boolean,
    Choice(&'static [&'static str]),
    /// Rows of a page, 1 to `limits::HTTP_PAGE_ROWS_MAX`.
    PageRows,
}

impl Field {
    pub const fn new(name: &'static str, kind: Kind, about: &'static str) -> Field {
        Field { name, kind, about, default: None }
    }

    pub const fn or(self, default: &'static str) -> Field {
        Field { default: Some(default), ..self }
    }
}

/// The fields of one request's query.
#[derive(Debug)]
pub(super) struct Query {
    known: &'static [Field],
    values: BTreeMap<String, String>,
}

impl Query {
    /// # Errors
    /// `Usage`, here and below, with the field's name.
    pub fn of(request: &Request, known: &'static [Field]) -> Result<Query> {
        let mut values = BTreeMap::new();
        for (name, value) in fields(&request.query).map_err(Error::Usage)? {
            if !known.iter().any(|field| field.name == name) {
                let names: Vec<_> = known.iter().map(|field| field.name).collect();
                let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                return Err(Error::Usage(format!("{name}: no such field, expected {names}")));
            }
            // An empty value is that of a form's field that nobody filled in.
            if !value.is_empty() && values.insert(name.clone(), value).is_some() {
                return Err(Error::Usage(format!("{name}: got it twice")));
            }
        }
        Ok(Query { known, values })
    }

    /// The value of a text or, checked, of a choice.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        let Some(text) = self.values.get(name) else { return Ok(None) };
        match self.kind(name) {
            Some(Kind::Choice(choices)) if !choices.contains(&text.as_str()) => Err(Error::Usage(
                format!("{name}: got {text:?}, expected one of {}", choices.join(", ")),
            )),
            _ => Ok(Some(text.clone())),
        }
    }

    pub fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>> {
        debug_assert!(matches!(self.kind(name), Some(Kind::Integer | Kind::PageRows)), "{name}");
        let Some(text) = self.values.get(name) else { return Ok(None) };
        let number = text.parse().map(Some);
        number.map_err(|_| Error::Usage(format!("{name}: got {text:?}, expected a whole number")))
    }

    pub fn is_set(&self, name: &str) -> Result<bool> {
        debug_assert_eq!(self.kind(name), Some(Kind::Boolean), "{name}");
        match self.values.get(name).map(String::as_str) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(text) => {
                Err(Error::Usage(format!("{name}: got {text:?}, expected true or false")))
            }
        }
    }

    /// The field `limit`: rows of a page.
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

    fn kind(&self, name: &str) -> Option<Kind> {
        let kind = self.known.iter().find(|field| field.name == name).map(|field| field.kind);
        debug_assert!(kind.is_some(), "the route has no field {name}");
        kind
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::head;
    use super::*;

    const FIELDS: &[Field] = &[
        Field::new("limit", Kind::PageRows, ""),
        Field::new("busy", Kind::Boolean, ""),
        Field::new("state", Kind::Choice(&["open", "done"]), ""),
    ];

    fn query(text: &str) -> Result<Query> {
        let head = head(format!("GET /?{text} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes());
        Query::of(&head.unwrap().unwrap().request, FIELDS)
    }

    #[test]
    fn a_query_is_read_strictly() {
        let found = query("limit=7&busy=true&state=").unwrap();
        assert_eq!((found.limit(), found.is_set("busy")), (Ok(7), Ok(true)));
        assert_eq!(found.text("state"), Ok(None));
        assert_eq!(query("").unwrap().limit(), Ok(limits::HTTP_PAGE_ROWS));
        for text in ["limit=0", "limit=201", "limit=x", "limit=-1"] {
            assert!(query(text).unwrap().limit().is_err(), "{text}");
        }
        assert!(query("busy=1").unwrap().is_set("busy").is_err());
        assert_eq!(query("state=done").unwrap().text("state"), Ok(Some("done".into())));
        assert!(query("state=lost").unwrap().text("state").is_err());
        assert!(query("limit=1&limit=2").is_err());
        let error = query("sate=failed").unwrap_err().to_string();
        assert!(error.contains("limit, busy, state"), "{error}");
    }
}

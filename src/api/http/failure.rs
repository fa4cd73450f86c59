//! Errors of requests: the status, a word for programs, and a line for people.

use super::request::Refusal;
use super::response::Response;
use crate::model::error::Error;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub status: u16,
    pub kind: &'static str,
    pub message: String,
}

impl Failure {
    pub fn new(status: u16, kind: &'static str, message: impl Into<String>) -> Failure {
        Failure { status, kind, message: message.into() }
    }

    pub fn forbidden(refusal: Refusal) -> Failure {
        Failure::new(refusal.status, "forbidden", refusal.message)
    }

    pub fn not_found(what: &str, part: &str) -> Failure {
        Failure::new(404, "not_found", format!("there is no {what} {part}"))
    }
}

impl From<Failure> for Response {
    fn from(failure: Failure) -> Response {
        Response::error(failure.status, failure.kind, &failure.message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let (status, kind) = match &error {
            Error::Usage(_) => (400, "usage"),
            Error::Config(_)
            | Error::Unsupported { .. }
            | Error::UnknownTopic { .. }
            | Error::OffsetOutOfRange { .. }
            | Error::LogReplaced(_)
            | Error::Halt(_)
            | Error::NotNow(_) => (409, "conflict"),
            Error::Broker { .. }
            | Error::NoLeader { .. }
            | Error::Storage { .. }
            | Error::Unreadable { .. } => (503, "unavailable"),
            Error::Panic { .. } | Error::Forced(_) => (500, "internal"),
            // The request does not fit how things are.
            Error::Other(_) => (409, "conflict"),
        };
        // Messages name a flag where the API has a field of the same name.
        let message = error.to_string();
        let message = message.strip_prefix("--").map(str::to_owned).unwrap_or(message);
        Failure { status, kind, message }
    }
}

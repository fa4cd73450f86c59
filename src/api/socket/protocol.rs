//! Lines on the control socket: a request, and its answer `{"ok":…}` or `{"error":{"kind":…,"message":…}}`.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::context::Context;
use crate::api::request::Request;
use crate::api::session::Session;
use crate::model::error::{Error, Result};

/// An error on its way back.
#[derive(Debug, Serialize, Deserialize)]
struct Failure {
    kind: String,
    message: String,
}

/// Performs the request in `line`; its answer's line.
pub(super) fn answer(context: &Context, session: &mut Session, line: &[u8]) -> Vec<u8> {
    let request = serde_json::from_slice::<Request>(line)
        .map_err(|cause| Error::Usage(format!("a request that mb does not know: {cause}")));
    let answer = match request.and_then(|request| request.perform(context, session)) {
        Ok(value) => json!({ "ok": value }),
        Err(error) => json!({ "error": Failure::from(&error) }),
    };
    let mut line = answer.to_string().into_bytes();
    line.push(b'\n');
    line
}

/// Reads a line that `answer` made.
///
/// # Errors
/// The error in it; `Other` if it is not an answer.
pub(super) fn read_answer(line: &[u8]) -> Result<Value> {
    let unreadable = |cause: &dyn std::fmt::Display| {
        Error::Other(format!("an answer that cannot be read: {cause}"))
    };
    let mut answer: Value = serde_json::from_slice(line).map_err(|cause| unreadable(&cause))?;
    if let Some(ok) = answer.get_mut("ok") {
        return Ok(ok.take());
    }
    let failure: Failure =
        serde_json::from_value(answer["error"].take()).map_err(|cause| unreadable(&cause))?;
    Err(failure.into())
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Failure {
        let (kind, message) = match error {
            Error::UnknownTopic { topic } => ("unknown_topic", topic.clone()),
            Error::Usage(text) => ("usage", text.clone()),
            Error::Config(text) => ("config", text.clone()),
            other => ("other", other.to_string()),
        };
        Failure { kind: kind.to_owned(), message }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure.kind.as_str() {
            "unknown_topic" => Error::UnknownTopic { topic: failure.message },
            "usage" => Error::Usage(failure.message),
            "config" => Error::Config(failure.message),
            _ => Error::Other(failure.message),
        }
    }
}

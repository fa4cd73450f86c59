//! Answers: status, headers and body, and the head as bytes. `connection` writes them.

use std::borrow::Cow;
use std::fmt::Write;

use serde::Serialize;
use serde_json::json;

use super::request::Refusal;

/// The page loads nothing from other hosts, and runs no inline scripts or styles.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; \
     frame-ancestors 'none'";

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    content_type: &'static str,
    /// Besides those that every answer has.
    headers: Vec<(&'static str, String)>,
    pub body: Body,
    /// The request had a wrong token: the answer is to wait.
    pub is_wrong_token: bool,
}

#[derive(Debug)]
pub enum Body {
    Bytes(Cow<'static, [u8]>),
    /// The overview each second, until the connection ends.
    Events,
}

impl Response {
    pub fn new(
        status: u16,
        content_type: &'static str,
        body: impl Into<Cow<'static, [u8]>>,
    ) -> Response {
        let body = Body::Bytes(body.into());
        Response { status, content_type, headers: Vec::new(), body, is_wrong_token: false }
    }

    pub fn json(status: u16, value: &impl Serialize) -> Response {
        match serde_json::to_vec(value) {
            Ok(bytes) => Response::new(status, "application/json", bytes),
            Err(cause) => Response::error(
                500,
                "internal",
                &format!("the answer cannot be written as JSON: {cause}"),
            ),
        }
    }

    pub fn text(status: u16, text: impl Into<String>) -> Response {
        Response::new(status, "text/plain; charset=utf-8", text.into().into_bytes())
    }

    pub fn html(status: u16, text: String) -> Response {
        Response::new(status, "text/html; charset=utf-8", text.into_bytes())
    }

    /// `{"error":{"kind":…,"message":…}}`; the message becomes one line.
    pub fn error(status: u16, kind: &str, message: &str) -> Response {
        let line = message.replace(char::is_control, " ");
        Response::json(status, &json!({ "error": { "kind": kind, "message": line } }))
    }

    pub fn see_other(place: String) -> Response {
        Response::text(303, "").header("Location", place)
    }

    pub fn events() -> Response {
        let head = Response::new(200, "text/event-stream", "".as_bytes());
        // nginx holds an answer back until it has some kilobytes of it, unless it is told not to.
        Response { body: Body::Events, ..head }.header("X-Accel-Buffering", "no".to_owned())
    }

    pub fn header(mut self, name: &'static str, value: String) -> Response {
        self.headers.push((name, value));
        self
    }

    pub fn wrong_token(mut self) -> Response {
        self.is_wrong_token = true;
        self
    }

    /// The answer's head; `keep` if the connection stays open.
    pub fn head(&self, keep: bool) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        let mut line = |name: &str, value: &str| {
            // Writing to a string does not fail.
            let _ = write!(head, "{name}: {value}\r\n");
        };
        if let Body::Bytes(bytes) = &self.body
            && self.status != 304
        {
            line("Content-Length", &bytes.len().to_string());
        }
        if self.status != 304 && self.status != 303 {
            line("Content-Type", self.content_type);
        }
        line("Connection", if keep { "keep-alive" } else { "close" });
        line("Content-Security-Policy", CONTENT_SECURITY_POLICY);
        line("X-Content-Type-Options", "nosniff");
        line("Cross-Origin-Resource-Policy", "same-origin");
        for (name, value) in [("Referrer-Policy", "no-referrer"), ("Cache-Control", "no-store")] {
            if !self.headers.iter().any(|(known, _)| *known == name) {
                line(name, value);
            }
        }
        for (name, value) in &self.headers {
            line(name, value);
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}

impl From<Refusal> for Response {
    fn from(refusal: Refusal) -> Response {
        Response::error(refusal.status, kind(refusal.status), &refusal.message)
    }
}

/// The word for programs for a refusal's status.
fn kind(status: u16) -> &'static str {
    match status {
        401 => "no_token",
        403 => "forbidden",
        408 => "timeout",
        411 | 413 | 431 => "size",
        415 => "content_type",
        _ => "http",
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        303 => "See Other",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Answer",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errors_message_is_one_line() {
        let Response { body: Body::Bytes(bytes), .. } =
            Response::error(400, "usage", "a\r\nb\u{7}")
        else {
            panic!("an error has bytes")
        };
        let expected = r#"{"error":{"kind":"usage","message":"a  b "}}"#;
        assert_eq!(String::from_utf8_lossy(&bytes), expected);
    }

    #[test]
    fn every_head_has_the_security_headers() {
        let head = String::from_utf8(Response::text(200, "x").head(true)).unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n"), "{head}");
        for header in
            ["default-src 'none'", "nosniff", "no-referrer", "no-store", "frame-ancestors 'none'"]
        {
            assert!(head.contains(header), "{head}");
        }
        let cached = Response::text(200, "x").header("Cache-Control", "no-cache".into());
        assert!(!String::from_utf8(cached.head(false)).unwrap().contains("no-store"));
    }
}

//! Parses requests, and refuses what is malformed or ambiguous. Pure: `connection` reads from the socket, and
//! crate httparse splits a head into its parts.

use crate::config::limits;

/// The methods that mb has routes for; all others are `Other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Post,
    Patch,
    Other,
}

impl Method {
    pub fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Patch => "PATCH",
            Method::Other => "another method",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: Method,
    /// As received, without the query; starts with `/`.
    pub path: String,
    /// As received, without the question mark.
    pub query: String,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    /// HTTP/1.0, which may be without `Host`.
    pub is_old: bool,
    /// The connection stays open for another request.
    pub keep_alive: bool,
    pub body: Vec<u8>,
}

/// Everything before the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub request: Request,
    /// Length of the head.
    pub bytes: usize,
    /// Length of the body that follows.
    pub body_bytes: usize,
    /// The client waits for "100 Continue" before it sends the body.
    pub expects_continue: bool,
}

/// Why a request is refused: the status, and one line for people. Its connection is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub message: String,
}

impl Refusal {
    pub fn new(status: u16, message: impl Into<String>) -> Refusal {
        Refusal { status, message: message.into() }
    }
}

impl Request {
    /// The value of the first header of this name, which is given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Headers that must not occur twice: a proxy might go by the first and mb by the second (request smuggling).
const SINGLE: [&str; 10] = [
    "authorization",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "host",
    "if-none-match",
    "origin",
    "sec-fetch-mode",
    "sec-fetch-site",
];

/// The head at the beginning of `bytes`; `None` if it is not complete yet.
///
/// # Errors
/// Why it is refused.
pub fn head(bytes: &[u8]) -> Result<Option<Head>, Refusal> {
    let too_long = || Refusal::new(431, format!("a head above {} bytes", limits::HTTP_HEAD_BYTES));
    let mut headers = [httparse::EMPTY_HEADER; limits::HTTP_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let length = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length > limits::HTTP_HEAD_BYTES => {
            return Err(too_long());
        }
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() >= limits::HTTP_HEAD_BYTES => {
            return Err(too_long());
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Refusal::new(431, format!("more than {} headers", limits::HTTP_HEADERS)));
        }
        Err(cause) => return Err(Refusal::new(400, format!("not HTTP: {cause}"))),
    };
    request(&parsed, length).map(Some)
}

fn request(parsed: &httparse::Request<'_, '_>, bytes: usize) -> Result<Head, Refusal> {
    let method = match parsed.method {
        Some("GET") => Method::Get,
        Some("HEAD") => Method::Head,
        Some("POST") => Method::Post,
        Some("PATCH") => Method::Patch,
        _ => Method::Other,
    };
    let target = parsed.path.unwrap_or_default();
    if !target.starts_with('/') || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Refusal::new(400, "the target is not a path: expected / followed by ASCII"));
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut headers = Vec::with_capacity(parsed.headers.len());
    for header in parsed.headers.iter() {
        let name = header.name.to_ascii_lowercase();
        let is_known = |(known, _): &(String, String)| *known == name;
        if SINGLE.contains(&name.as_str()) && headers.iter().any(is_known) {
            return Err(Refusal::new(400, format!("two headers {name}")));
        }
        headers.push((name, String::from_utf8_lossy(header.value).trim().to_owned()));
    }
    let is_old = parsed.version == Some(0);
    let mut request = Request {
        method,
        path: path.to_owned(),
        query: query.to_owned(),
        headers,
        is_old,
        keep_alive: false,
        body: Vec::new(),
    };
    if !is_old && request.header("host").is_none() {
        return Err(Refusal::new(400, "the header Host is missing"));
    }
    let connection = request.header("connection").unwrap_or_default().to_ascii_lowercase();
    let says = |word: &str| connection.split(',').any(|said| said.trim() == word);
    request.keep_alive = !says("close") && (!is_old || says("keep-alive"));
    if request.header("transfer-encoding").is_some() {
        return Err(Refusal::new(
            411,
            "chunked bodies are not supported: send the body whole, with Content-Length",
        ));
    }
    let body_bytes = match request.header("content-length") {
        None => 0,
        Some(text) => body_bytes(text)?,
    };
    let expects_continue = match request.header("expect") {
        None => false,
        Some(text) if text.eq_ignore_ascii_case("100-continue") => !is_old,
        Some(_) => return Err(Refusal::new(417, "Expect: only 100-continue is known")),
    };
    Ok(Head { request, bytes, body_bytes, expects_continue })
}

fn body_bytes(text: &str) -> Result<usize, Refusal> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Refusal::new(400, "Content-Length: expected a number of bytes"));
    }
    // A number with too many digits is too large as well.
    match text.parse() {
        Ok(bytes) if bytes <= limits::HTTP_BODY_BYTES => Ok(bytes),
        _ => Err(Refusal::new(413, format!("a body above {} bytes", limits::HTTP_BODY_BYTES))),
    }
}

/// Decodes `name=value&…`; fields keep their order.
///
/// # Errors
/// If it is not percent-encoded UTF-8.
pub fn fields(text: &str) -> Result<Vec<(String, String)>, String> {
    let parts = text.split('&').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            Ok((decode(name)?, decode(value)?))
        })
        .collect()
}

fn decode(text: &str) -> Result<String, String> {
    let broken = || format!("{text:?} is not percent-encoded UTF-8");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || {
                    let digit = char::from(rest.next()?).to_digit(16)?;
                    u8::try_from(digit).ok()
                };
                let (high, low) = (digit().ok_or_else(broken)?, digit().ok_or_else(broken)?);
                high << 4 | low
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| broken())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(text: &str) -> Head {
        head(text.as_bytes()).expect(text).expect("a whole head")
    }

    fn status(text: &str) -> u16 {
        head(text.as_bytes()).expect_err(text).status
    }

    #[test]
    fn a_request_is_split_into_its_parts() {
        let found = whole(
            "POST /api/v1/x?a=1&b=%20 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\
             expect: 100-Continue\r\n\r\nabc",
        );
        assert_eq!((found.body_bytes, found.expects_continue), (3, true));
        let request = found.request;
        assert_eq!((request.method, request.path.as_str()), (Method::Post, "/api/v1/x"));
        assert_eq!(fields(&request.query).unwrap()[1], ("b".into(), " ".into()));
        assert_eq!(request.header("host"), Some("h"));
        assert!(request.keep_alive);
    }

    #[test]
    fn the_version_and_the_header_decide_whether_the_connection_stays_open() {
        assert!(!whole("GET / HTTP/1.0\r\n\r\n").request.keep_alive);
        assert!(whole("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").request.keep_alive);
        let close = "GET / HTTP/1.1\r\nHost: h\r\nConnection: x, CLOSE\r\n\r\n";
        assert!(!whole(close).request.keep_alive);
    }

    #[test]
    fn an_ambiguous_request_is_refused() {
        let with = |headers: &str| format!("POST / HTTP/1.1\r\nHost: h\r\n{headers}\r\n\r\n");
        assert_eq!(status(&with("Host: other")), 400);
        assert_eq!(status(&with("Content-Length: 1\r\nContent-Length: 1")), 400);
        for length in ["+1", "-1", "0x1", "1,1", ""] {
            assert_eq!(status(&with(&format!("Content-Length: {length}"))), 400, "{length}");
        }
        assert_eq!(status(&with("Content-Length: 99999999999999999999999")), 413);
        assert_eq!(status(&with("Transfer-Encoding: chunked\r\nContent-Length: 5")), 411);
        assert_eq!(status(&with("Expect: tea")), 417);
        assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), 400, "no Host");
        for target in ["http://a/", "*", "h:80", "/\u{e9}"] {
            assert_eq!(status(&format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n")), 400);
        }
        assert_eq!(status("\u{16}\u{3}\u{1}\u{2}\0\u{1}"), 400, "TLS");
    }

    #[test]
    fn a_head_without_an_end_is_refused_at_the_limit() {
        let endless = format!("GET / HTTP/1.1\r\nHost: {}", "h".repeat(limits::HTTP_HEAD_BYTES));
        assert_eq!(status(&endless), 431);
        let many = "a: b\r\n".repeat(limits::HTTP_HEADERS + 1);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\n{many}\r\n")), 431);
    }

    #[test]
    fn a_field_that_is_not_percent_encoded_is_refused() {
        assert_eq!(fields("a+b=%41").unwrap(), [("a b".into(), "A".into())]);
        for text in ["%", "%4", "%zz", "a=%ff"] {
            assert!(fields(text).is_err(), "{text}");
        }
    }

    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"GET / HTTP/1.1\r\n".to_vec()),
            Just(b"POST /a?b=%41 HTTP/1.0\r\n".to_vec()),
            Just(b"Host: localhost\r\n".to_vec()),
            Just(b"Content-Length: 18446744073709551616\r\n".to_vec()),
            Just(b"Content-Length: 4\r\n".to_vec()),
            Just(b"Transfer-Encoding: chunked\r\n".to_vec()),
            Just(b"\r\n".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..40),
        ];
        proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        /// No bytes make the parser panic, and a complete head stays the same with more bytes behind it.
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in pieces(), more in proptest::collection::vec(any::<u8>(), 0..9)) {
            if let Ok(Some(found)) = head(&bytes) {
                prop_assert!(found.bytes <= bytes.len());
                let longer = [&bytes[..], &more[..]].concat();
                prop_assert_eq!(head(&longer), Ok(Some(found)));
            }
            // Half of the bytes are incomplete, refused, or the same head.
            let half = head(&bytes[..bytes.len() / 2]);
            if let Ok(Some(early)) = half {
                prop_assert_eq!(head(&bytes), Ok(Some(early)));
            }
            let _ = fields(&String::from_utf8_lossy(&bytes));
        }
    }
}

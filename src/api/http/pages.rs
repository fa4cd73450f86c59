//! The page's addresses, signing in and out, and what a browser shows where nothing is. The page itself contains no
//! data: it gets everything from the API. Its files are in `assets`.
//!
//! A proxy may serve all of this below a path, and take that path away before mb sees it. So what is sent here names no
//! address from the root of its host: links go from the address that was asked for (`root`).

use schemars::JsonSchema;
use serde::Serialize;

use super::assets;
use super::auth::Guard;
use super::failure::Failure;
use super::request::{Request, fields};
use super::response::Response;
use super::route::Call;
use crate::api::operations::Done;
use crate::config::PublicUrl;
use crate::model::error::{Error, Result};

/// The page; a browser that is not signed in is sent to the form. If it follows a link from another site, it
/// sends no cookie (SameSite=Strict) although it may be signed in: the page finds out by itself.
pub fn page(guard: &Guard, request: &Request) -> Response {
    let is_from_elsewhere =
        matches!(request.header("sec-fetch-site"), Some("cross-site" | "same-site"));
    let root = root(request);
    if guard.is_signed_in(request) || is_from_elsewhere {
        return assets::index(request, &root);
    }
    let next = request.path.as_str();
    let is_plain = next == "/" || !is_safe(next);
    let next = if is_plain { String::new() } else { format!("?next={next}") };
    Response::see_other(format!("{root}login{next}"))
}

/// The way from the address that was asked for to the page's first address: `./`, or `../` for each folder.
fn root(request: &Request) -> String {
    let folders = request.path.matches('/').count().saturating_sub(1);
    if folders == 0 { "./".to_owned() } else { "../".repeat(folders) }
}

/// From the first address without its slash, which only a proxy shows, to the one with it.
pub fn with_slash(guard: &Guard) -> Response {
    let base = guard.public_url().map(PublicUrl::base).unwrap_or_default();
    Response::see_other(format!("{}/", base.rsplit('/').next().unwrap_or_default()))
}

/// A document with this title and body; works without scripts.
fn document(status: u16, request: &Request, title: &str, body: &str) -> Response {
    let root = root(request);
    Response::html(
        status,
        format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <meta name=\"color-scheme\" content=\"light dark\"><title>mb: {title}</title>\
             <link rel=\"icon\" href=\"{root}assets/icon.svg\" type=\"image/svg+xml\">\
             <link rel=\"stylesheet\" href=\"{root}assets/style.css\">\
             <body><main class=\"bare\">{body}</main></body></html>\n"
        ),
    )
}

/// Whether a person looks at the answer: a browser that opens an address says that it wants HTML.
pub fn is_for_person(request: &Request) -> bool {
    request.header("accept").is_some_and(|accept| accept.to_ascii_lowercase().contains("text/html"))
}

/// The page of an address at which nothing is.
pub fn not_found(request: &Request, message: &str) -> Response {
    let (message, root) = (escape(message), root(request));
    let body = format!(
        "<h1>Not found</h1><p>mb: {message}.</p><p><a href=\"{root}\">Go to the overview</a></p>"
    );
    document(404, request, "not found", &body)
}

/// The text as HTML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The form with a message above it; works without scripts.
pub fn form(status: u16, request: &Request, message: &str) -> Response {
    let next = next_of(request);
    let message =
        if message.is_empty() { String::new() } else { format!("<p role=\"alert\">{message}</p>") };
    let body = format!(
        "<h1>mb</h1>{message}<form method=\"post\" action=\"./login?next={next}\">\
         <p><label for=\"token\">Token (as in the file of --token-file)</label></p>\
         <p><input id=\"token\" name=\"token\" type=\"password\" required autofocus \
         autocomplete=\"current-password\"> <button>Sign in</button></p></form>"
    );
    // So that the browser sends the form's origin. Without a referrer it would send none, and over plain HTTP it
    // does not say by another header either that the form is this page's.
    document(status, request, "sign in", &body).header("Referrer-Policy", "same-origin".to_owned())
}

/// Takes the filled-in form: redirects to where the browser wanted to go, or shows the form once more.
///
/// # Errors
/// `Usage` if the body is not a form.
pub fn sign_in(guard: &Guard, request: &Request) -> Result<Response> {
    if !guard.needs_token() {
        return Ok(Response::see_other(to_next(request)));
    }
    let text = String::from_utf8_lossy(&request.body);
    let fields = fields(&text).map_err(Error::Usage)?;
    let token = fields.into_iter().find(|(name, _)| name == "token").map(|(_, token)| token);
    Ok(match guard.sign_in(&token.unwrap_or_default()) {
        Some(cookie) => Response::see_other(to_next(request)).header("Set-Cookie", cookie),
        None => form(401, request, "The token is wrong.").wrong_token(),
    })
}

/// What a client may do.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Session")]
pub struct SessionView {
    /// Nothing can be changed (--read-only).
    read_only: bool,
    /// A token is needed (--token-file).
    token: bool,
    /// This client is a browser that has signed in, and can sign out.
    signed_in: bool,
}

pub fn session(call: &mut Call<'_>) -> std::result::Result<SessionView, Failure> {
    let guard = &call.shared.guard;
    let signed_in = guard.sessions.knows(call.request);
    Ok(SessionView { read_only: guard.read_only, token: guard.needs_token(), signed_in })
}

/// Signs the browser out.
pub fn sign_out(guard: &Guard, request: &Request) -> Response {
    let removed = guard.sessions.end(request);
    let answer = Response::json(200, &Done {});
    removed.into_iter().fold(answer, |answer, cookie| answer.header("Set-Cookie", cookie))
}

/// The way from the form to where the browser goes after signing in.
fn to_next(request: &Request) -> String {
    format!(".{}", next_of(request))
}

/// Where a browser goes after signing in.
fn next_of(request: &Request) -> String {
    let fields = fields(&request.query).unwrap_or_default();
    let next = fields.into_iter().find(|(name, _)| name == "next").map(|(_, path)| path);
    next.filter(|path| is_safe(path)).unwrap_or_else(|| "/".to_owned())
}

/// Whether it is a path of the page that is safe in HTML and in a header.
fn is_safe(path: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-');
    path.starts_with('/') && !path.starts_with("//") && path.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str) -> Request {
        let text = format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
        super::super::request::head(text.as_bytes()).unwrap().unwrap().request
    }

    #[test]
    fn links_go_from_the_address_that_was_asked_for() {
        for (path, way) in [("/", "./"), ("/runs", "./"), ("/runs/7", "../"), ("/a/b/", "../../")] {
            assert_eq!(root(&get(path)), way, "{path}");
        }
    }

    #[test]
    fn what_was_asked_for_is_text_on_the_page_that_says_it_is_not_there() {
        let answer = not_found(&get("/runs/<b>"), "there is no run <b>\"&");
        let super::super::response::Body::Bytes(bytes) = answer.body else { panic!("bytes") };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.contains("no run &lt;b&gt;&quot;&amp;."), "{text}");
        assert!(text.contains("<a href=\"../\">"), "{text}");
    }

    #[test]
    fn after_signing_in_only_addresses_of_the_page_are_next() {
        assert!(is_safe("/") && is_safe("/runs/7") && is_safe("/dead-letters"));
        for path in ["", "runs", "//a", "/\\a", "/a:b", "/a\r\nb", "/\"", "/%2f"] {
            assert!(!is_safe(path), "{path}");
        }
    }
}

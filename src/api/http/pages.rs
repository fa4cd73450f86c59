//! The page's addresses, and the form for the token. The page itself contains no data: it gets everything from
//! the API. Its files are in `assets`.

use super::assets;
use super::auth::Guard;
use super::request::{Request, fields};
use super::response::Response;
use crate::model::error::{Error, Result};

/// The page; a browser that is not signed in is sent to the form. If it follows a link from another site, it
/// sends no cookie (SameSite=Strict) although it may be signed in: the page finds out by itself.
pub fn page(guard: &Guard, request: &Request) -> Response {
    let is_from_elsewhere =
        matches!(request.header("sec-fetch-site"), Some("cross-site" | "same-site"));
    if guard.is_signed_in(request) || is_from_elsewhere {
        return assets::index(request);
    }
    let next = request.path.as_str();
    let is_plain = next == "/" || !is_safe(next);
    Response::see_other(if is_plain { "/login".to_owned() } else { format!("/login?next={next}") })
}

/// The form with a message above it; works without scripts.
pub fn form(status: u16, request: &Request, message: &str) -> Response {
    let next = next_of(request);
    let message =
        if message.is_empty() { String::new() } else { format!("<p role=\"alert\">{message}</p>") };
    Response::html(
        status,
        format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <title>mb: sign in</title><link rel=\"stylesheet\" href=\"/assets/style.css\">\
             <main><h1>mb</h1>{message}<form method=\"post\" action=\"/login?next={next}\">\
             <p><label for=\"token\">Token (as in the file of --token-file)</label></p>\
             <p><input id=\"token\" name=\"token\" type=\"password\" required autofocus \
             autocomplete=\"current-password\"> <button>Sign in</button></p></form></main></html>\n"
        ),
    )
}

/// Takes the filled-in form: redirects to where the browser wanted to go, or shows the form once more.
///
/// # Errors
/// `Usage` if the body is not a form.
pub fn sign_in(guard: &Guard, request: &Request) -> Result<Response> {
    if !guard.needs_token() {
        return Ok(Response::see_other(next_of(request)));
    }
    let text = String::from_utf8_lossy(&request.body);
    let fields = fields(&text).map_err(Error::Usage)?;
    let token = fields.into_iter().find(|(name, _)| name == "token").map(|(_, token)| token);
    Ok(match guard.sign_in(&token.unwrap_or_default()) {
        Some(cookie) => Response::see_other(next_of(request)).header("Set-Cookie", cookie),
        None => form(401, request, "The token is wrong.").wrong_token(),
    })
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

    #[test]
    fn after_signing_in_only_addresses_of_the_page_are_next() {
        assert!(is_safe("/") && is_safe("/runs/7") && is_safe("/dead-letters"));
        for path in ["", "runs", "//a", "/\\a", "/a:b", "/a\r\nb", "/\"", "/%2f"] {
            assert!(!is_safe(path), "{path}");
        }
    }
}

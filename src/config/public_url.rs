//! The address under which a proxy serves the page to browsers (`--public-url`): how it is written, and its parts.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// What such an address looks like, for error messages.
const RULE: &str = "https:// or http:// and a host, with a port and a path if the proxy has them, as in \
     https://mb.example.com or https://example.com:8443/mb";

/// The address under which a proxy serves the page to browsers.
///
/// ```
/// let url: mb::PublicUrl = "https://Example.com:443/mb/".parse()?;
/// assert_eq!(url.to_string(), "https://example.com/mb/");
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl {
    is_https: bool,
    /// In lower case; an IPv6 address in brackets.
    host: String,
    port: u16,
    /// Empty, or with a slash at its beginning and none at its end.
    base: String,
}

impl PublicUrl {
    /// Whether browsers reach the proxy by TLS.
    pub fn is_https(&self) -> bool {
        self.is_https
    }

    /// The host in lower case; an IPv6 address is in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; 443 or 80 if the address names none.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path below which the proxy serves the page, as `/mb`; empty for the root.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// What a browser sends as `Origin` (RFC 6454): without a port that is the scheme's own.
    pub fn origin(&self) -> String {
        let scheme = if self.is_https { "https" } else { "http" };
        match self.port == default_port(self.is_https) {
            true => format!("{scheme}://{}", self.host),
            false => format!("{scheme}://{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}/", self.origin(), self.base)
    }
}

impl FromStr for PublicUrl {
    type Err = String;

    /// # Errors
    /// The rule that the address breaks; it follows "expected".
    fn from_str(text: &str) -> Result<PublicUrl, String> {
        parse(text).ok_or_else(|| RULE.to_owned())
    }
}

fn parse(text: &str) -> Option<PublicUrl> {
    let (scheme, rest) = text.split_once("://")?;
    let is_https = match scheme.to_ascii_lowercase().as_str() {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    // A colon behind the brackets of an IPv6 address, or the only one.
    let port_at = authority.rfind(':').filter(|at| !authority[*at..].contains(']'));
    let (host, port) = match port_at {
        Some(at) => (&authority[..at], Some(&authority[at + 1..])),
        None => (authority, None),
    };
    let port = match port {
        None => default_port(is_https),
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().ok().filter(|port| *port > 0)?
        }
        Some(_) => return None,
    };
    let base = path.strip_suffix('/').unwrap_or(path);
    let is_fine = is_host(host) && base.split('/').skip(1).all(is_segment);
    is_fine.then(|| PublicUrl {
        is_https,
        host: host.to_ascii_lowercase(),
        port,
        base: base.to_owned(),
    })
}

fn default_port(is_https: bool) -> u16 {
    if is_https { 443 } else { 80 }
}

/// A name or an address, as a browser sends it: a name with other letters is sent in its ASCII form.
fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[') {
        return address.strip_suffix(']').is_some_and(|bare| bare.parse::<Ipv6Addr>().is_ok());
    }
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !host.is_empty() && !host.starts_with('.') && !host.ends_with('.') && host.bytes().all(fits)
}

/// A part of the path that no proxy and no browser writes in another way.
fn is_segment(part: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~');
    !part.is_empty() && !matches!(part, "." | "..") && part.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_an_origin_and_a_path() {
        for (written, origin, base) in [
            ("https://mb.example.com", "https://mb.example.com", ""),
            ("https://MB.example.com:443/", "https://mb.example.com", ""),
            ("HTTP://wiki.example:80/tools/mb", "http://wiki.example", "/tools/mb"),
            ("https://example.com:8443/mb/", "https://example.com:8443", "/mb"),
            ("https://[2001:DB8::1]/mb", "https://[2001:db8::1]", "/mb"),
            ("http://[::1]:8080", "http://[::1]:8080", ""),
            ("http://127.0.0.1:443", "http://127.0.0.1:443", ""),
        ] {
            let url: PublicUrl = written.parse().expect(written);
            assert_eq!((url.origin().as_str(), url.base()), (origin, base), "{written}");
            assert_eq!(url.to_string().parse(), Ok(url), "{written}");
        }
    }

    #[test]
    fn what_is_no_address_of_a_page_is_refused_with_the_rule() {
        for bad in [
            "",
            "mb.example.com",
            "ftp://example.com",
            "https://",
            "https:///mb",
            "https://user@example.com",
            "https://a b.example",
            "https://bücher.example",
            "https://example.com:0",
            "https://example.com:70000",
            "https://example.com:+1",
            "https://example.com:",
            "https://[::1",
            "https://[x]",
            "https://example.com./",
            "https://example.com?x=1",
            "https://example.com/mb#top",
            "https://example.com//mb",
            "https://example.com/a/../b",
            "https://example.com/a%2fb",
            "https://example.com/mb//",
        ] {
            assert_eq!(bad.parse::<PublicUrl>(), Err(RULE.to_owned()), "{bad}");
        }
    }
}

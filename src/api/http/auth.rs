//! Decides which requests are allowed: by the host names that mb answers to, the origins that a change may come
//! from, the token (`token`), and the browsers that are signed in (`sessions`). Values in, decisions out.
//!
//! Another site's page, open in the same browser, must neither read nor change anything here, even if its own
//! name resolves to this machine (DNS rebinding). So `Host` is checked for everything except `/healthz`, and a
//! change needs JSON and, if the browser sends its origin, the same one.
//!
//! A proxy in front of mb may keep the browser's `Host` or send mb's own; the browser's `Origin` is the proxy's in both
//! cases. So the host and the origin of `--public-url` are accepted beside mb's own. `X-Forwarded-…` is never looked
//! at: mb cannot know whether a proxy or another site's page wrote it.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use super::request::{Refusal, Request};
use super::sessions::Sessions;
use super::token::{is_same, read_token};
use crate::config::limits;
use crate::config::{PublicUrl, Web};
use crate::model::error::{Error, Result};

pub(super) struct Guard {
    /// Without ports; IPv6 addresses in brackets.
    hosts: BTreeSet<String>,
    /// The name in the page's address.
    host: String,
    port: u16,
    /// Other machines can reach it, possibly under addresses that are not its own.
    is_open: bool,
    token: Option<String>,
    /// Where a proxy serves the page.
    public: Option<PublicUrl>,
    pub sessions: Sessions,
    pub read_only: bool,
}

/// The addresses of `--listen`.
///
/// # Errors
/// `Config` if the name has no address.
pub fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>> {
    // Independent of /etc/hosts; the server adds ::1.
    if host == "localhost" {
        return Ok(vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))]);
    }
    let mut addresses = match (host, port).to_socket_addrs() {
        Ok(addresses) => addresses.collect::<Vec<_>>(),
        Err(cause) => {
            return Err(Error::Config(format!(
                "--listen: host {host} has no address: {cause}; name one of this machine's"
            )));
        }
    };
    addresses.sort();
    addresses.dedup();
    Ok(addresses)
}

impl Guard {
    /// # Errors
    /// `Config` if other machines could reach it without a token, or the token's file cannot be used.
    pub fn new(web: &Web, addresses: &[SocketAddr]) -> Result<Guard> {
        let is_open = addresses.iter().any(|address| !address.ip().is_loopback());
        let token = web.token_file.as_deref().map(read_token).transpose()?;
        if is_open && token.is_none() {
            return Err(Error::Config(format!(
                "--listen: other machines can reach {}, which needs --token-file FILE with a token of at \
                 least {} bytes; or listen on 127.0.0.1",
                web.host,
                limits::TOKEN_BYTES_MIN
            )));
        }
        let public = web.public_url.clone();
        if is_open && !public.as_ref().is_some_and(PublicUrl::is_https) {
            log::warn!(
                "page: other machines can reach it without TLS, so the token can be read on the network: put a \
                 proxy with TLS in front of it, and name its address with --public-url"
            );
        }
        if let Some(public) = public.as_ref().filter(|_| token.is_none()) {
            log::warn!(
                "page: everyone who can reach {public} is let in, unless the proxy asks who they are: with \
                 --token-file FILE mb asks for a token"
            );
        }
        let bracketed = match web.host.parse() {
            Ok(IpAddr::V6(address)) => format!("[{address}]"),
            _ => web.host.to_ascii_lowercase(),
        };
        let machine = machine();
        let is_any = addresses.iter().any(|address| address.ip().is_unspecified());
        let host = match (is_any, web.host.as_str()) {
            (true, _) => machine.clone().unwrap_or_else(|| bracketed.clone()),
            (false, "127.0.0.1") => "localhost".to_owned(),
            (false, _) => bracketed.clone(),
        };
        let mut hosts = BTreeSet::from(["localhost", "127.0.0.1", "[::1]"].map(str::to_owned));
        hosts.insert(bracketed);
        if is_open {
            hosts.extend(machine);
        }
        Ok(Guard {
            hosts,
            host,
            port: web.port,
            is_open,
            token,
            sessions: Sessions::new(web.port, public.as_ref()),
            public,
            read_only: web.read_only,
        })
    }

    /// With the port that was bound, if any free one was asked for.
    pub fn on_port(mut self, port: u16) -> Guard {
        self.port = port;
        self.sessions = self.sessions.on_port(port);
        self
    }

    /// The page's address on this machine or network.
    pub fn url(&self) -> String {
        format!("http://{}:{}/", self.host, self.port)
    }

    /// The page's address behind a proxy, if there is one.
    pub fn public_url(&self) -> Option<&PublicUrl> {
        self.public.as_ref()
    }

    /// # Errors
    /// If the request was sent to another name.
    pub fn check_host(&self, request: &Request) -> Result<(), Refusal> {
        // Only HTTP/1.0 may be without it, which no browser uses.
        let Some(host) = request.header("host") else { return Ok(()) };
        let refused = || {
            Refusal::new(
                403,
                format!(
                    "Host: this mb does not answer to {host:?}; open it as {}, name its host with --listen, or \
                     the address of its proxy with --public-url",
                    self.public.as_ref().map_or_else(|| self.url(), PublicUrl::to_string)
                ),
            )
        };
        let (name, port) = split_port(host).ok_or_else(refused)?;
        let name = name.to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        // With a token, another port may belong to a tunnel or a container: another site's page has no token.
        let fits = |own: u16| port.is_none_or(|port| port == own) || self.token.is_some();
        let is_own = self.hosts.contains(name) || self.is_open && is_address(name);
        let is_public =
            self.public.as_ref().is_some_and(|url| url.host() == name && fits(url.port()));
        if is_own && fits(self.port) || is_public { Ok(()) } else { Err(refused()) }
    }

    /// Whether the request may read. Another site's page may link here, but not read.
    ///
    /// # Errors
    /// If another site's page made the request.
    pub fn check_read(&self, request: &Request) -> Result<(), Refusal> {
        let is_link = request.header("sec-fetch-mode") == Some("navigate");
        if is_from_here(request) || is_link { Ok(()) } else { Err(elsewhere("Sec-Fetch-Site")) }
    }

    /// Whether a request from this origin may change something.
    ///
    /// # Errors
    /// If another site's page may have made it.
    pub fn check_change(&self, request: &Request) -> Result<(), Refusal> {
        if !is_from_here(request) {
            return Err(elsewhere("Sec-Fetch-Site"));
        }
        let Some(origin) = request.header("origin") else { return Ok(()) };
        let public = self.public.as_ref().map(PublicUrl::origin);
        let is_public = public.is_some_and(|public| public.eq_ignore_ascii_case(origin));
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        let is_own = authority
            .zip(request.header("host"))
            .is_some_and(|(authority, host)| authority.eq_ignore_ascii_case(host));
        // A form on a page without a referrer is sent with the origin "null".
        let is_own_form =
            origin == "null" && request.header("sec-fetch-site") == Some("same-origin");
        if is_own || is_public || is_own_form {
            return Ok(());
        }
        let Refusal { status, message } = elsewhere("Origin");
        Err(Refusal::new(
            status,
            format!("{message}, {origin}: if that is the page's proxy, name it with --public-url"),
        ))
    }

    /// Takes the path of the public address away, which a proxy may leave in front.
    pub fn strip_base(&self, request: &mut Request) {
        let base = self.public.as_ref().map(PublicUrl::base).filter(|base| !base.is_empty());
        let rest = base.and_then(|base| request.path.strip_prefix(base));
        if let Some(rest) = rest.filter(|rest| rest.is_empty() || rest.starts_with('/')) {
            request.path = rest.to_owned();
        }
    }

    /// # Errors
    /// If the body is not declared as JSON, which another site's form cannot do.
    pub fn check_json(&self, request: &Request) -> Result<(), Refusal> {
        let kind = request.header("content-type").unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if kind.eq_ignore_ascii_case("application/json") {
            return Ok(());
        }
        Err(Refusal::new(415, "Content-Type: expected application/json"))
    }

    pub fn needs_token(&self) -> bool {
        self.token.is_some()
    }

    /// Whether the request has the token or comes from a signed-in browser, or no token is needed.
    pub fn is_signed_in(&self, request: &Request) -> bool {
        if self.token.is_none() {
            return true;
        }
        if let Some(token) = bearer(request) {
            return self.is_token(token);
        }
        self.sessions.knows(request)
    }

    /// Whether the request has a token that is wrong. A browser's id that is not known is none: mb may have been
    /// started anew meanwhile.
    pub fn has_wrong_token(&self, request: &Request) -> bool {
        self.token.is_some() && bearer(request).is_some_and(|token| !self.is_token(token))
    }

    /// Signs a browser in: its cookie; `None` if `token` is wrong.
    pub fn sign_in(&self, token: &str) -> Option<String> {
        if !self.is_token(token.trim()) {
            return None;
        }
        Some(self.sessions.begin())
    }

    fn is_token(&self, token: &str) -> bool {
        self.token.as_ref().is_some_and(|known| is_same(known.as_bytes(), token.as_bytes()))
    }
}

/// The token in the request's `Authorization`.
fn bearer(request: &Request) -> Option<&str> {
    let (scheme, token) = request.header("authorization")?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn elsewhere(header: &str) -> Refusal {
    Refusal::new(403, format!("{header}: the request comes from a page of another origin"))
}

fn is_from_here(request: &Request) -> bool {
    matches!(request.header("sec-fetch-site"), None | Some("same-origin" | "none"))
}

/// Splits `HOST` or `HOST:PORT`; `None` if it is neither.
fn split_port(host: &str) -> Option<(&str, Option<u16>)> {
    let name = match host.find(']') {
        Some(end) if host.starts_with('[') => &host[..=end],
        _ => host.split(':').next().unwrap_or_default(),
    };
    match &host[name.len()..] {
        "" => Some((name, None)),
        rest => {
            let digits = rest.strip_prefix(':')?;
            let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
            Some((name, Some(digits.parse().ok().filter(|_| is_number)?)))
        }
    }
}

fn is_address(name: &str) -> bool {
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    bare.map_or_else(|| name.parse::<Ipv4Addr>().is_ok(), |bare| bare.parse::<Ipv6Addr>().is_ok())
}

/// This machine's name, if it has one.
fn machine() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = name.trim().to_ascii_lowercase();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::super::request::head;
    use super::super::token::tests::token_file;
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn guard(host: &str, token: Option<&str>) -> Result<Guard> {
        guard_behind(None, host, token)
    }

    fn guard_behind(public: Option<&str>, host: &str, token: Option<&str>) -> Result<Guard> {
        let file = token.map(token_file);
        let web = Web {
            host: host.to_owned(),
            port: 3000,
            public_url: public.map(|url| url.parse().unwrap()),
            token_file: file.as_ref().map(|file| file.path().to_owned()),
            read_only: false,
        };
        Guard::new(&web, &resolve(host, 3000)?)
    }

    fn request(headers: &str) -> Request {
        head(format!("POST / HTTP/1.1\r\n{headers}\r\n\r\n").as_bytes()).unwrap().unwrap().request
    }

    fn takes(guard: &Guard, host: &str) -> bool {
        guard.check_host(&request(&format!("Host: {host}"))).is_ok()
    }

    #[test]
    fn on_loopback_only_loopback_names_with_its_port_are_accepted_as_hosts() {
        let guard = guard("127.0.0.1", None).unwrap();
        assert_eq!(guard.url(), "http://localhost:3000/");
        for host in
            ["localhost:3000", "LOCALHOST", "127.0.0.1:3000", "[::1]:3000", "localhost.:3000"]
        {
            assert!(takes(&guard, host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:3000",
            "localhost:3001",
            "localhost.evil.example:3000",
            "localhost:3000:3000",
            "localhost:",
            "localhost:+3000",
            "192.168.1.1:3000",
            "",
            "[::1",
            "[::2]:3000",
            "a@localhost:3000",
        ] {
            assert!(!takes(&guard, host), "{host}");
        }
    }

    #[test]
    fn beyond_loopback_a_token_is_needed_and_addresses_are_accepted_as_hosts() {
        let error = guard("0.0.0.0", None).err().unwrap();
        assert_eq!(error.exit_code(), 78);
        assert!(error.to_string().contains("--token-file"), "{error}");
        let guard = guard("0.0.0.0", Some(TOKEN)).unwrap();
        for host in ["10.1.2.3:3000", "[fe80::1]:3000", "localhost:8080"] {
            assert!(takes(&guard, host), "{host}");
        }
        assert!(takes(&guard, &format!("{}:3000", machine().unwrap())));
        assert!(!takes(&guard, "evil.example:3000"));
    }

    #[test]
    fn a_change_must_come_from_the_same_origin_or_from_outside_a_browser() {
        let guard = guard("127.0.0.1", None).unwrap();
        let check = |headers: &str| {
            let host = "Host: localhost:3000\r\nSec-Fetch-Mode: cors\r\n";
            guard.check_change(&request(&format!("{host}{headers}"))).is_ok()
        };
        assert!(check("X: y"));
        assert!(check("Origin: http://localhost:3000\r\nSec-Fetch-Site: same-origin"));
        assert!(check("Origin: null\r\nSec-Fetch-Site: same-origin"));
        assert!(!check("Origin: null"));
        assert!(!check("Origin: http://localhost:3001"));
        assert!(!check("Origin: http://evil.example"));
        assert!(!check("Origin: localhost:3000"));
        assert!(!check("Origin: http://localhost:3000\r\nSec-Fetch-Site: same-site"));
        assert!(!check("Sec-Fetch-Site: cross-site"));
    }

    #[test]
    fn behind_a_proxy_its_host_and_origin_are_accepted_too() {
        let guard = guard_behind(Some("https://mb.example.com"), "127.0.0.1", None).unwrap();
        for host in ["mb.example.com", "MB.example.com:443", "localhost:3000", "127.0.0.1:3000"] {
            assert!(takes(&guard, host), "{host}");
        }
        for host in ["mb.example.com:3000", "example.com", "a.mb.example.com", "localhost:443"] {
            assert!(!takes(&guard, host), "{host}");
        }
        let check = |host: &str, origin: &str| {
            let forwarded = "X-Forwarded-Host: evil.example\r\nX-Forwarded-Proto: https\r\n";
            let headers = format!("Host: {host}\r\n{forwarded}Origin: {origin}");
            guard.check_change(&request(&headers)).is_ok()
        };
        // The proxy keeps the browser's Host, or sends mb's own.
        for host in ["mb.example.com", "localhost:3000"] {
            assert!(check(host, "https://mb.example.com"), "{host}");
            for other in ["https://evil.example", "https://mb.example.com:444", "null"] {
                assert!(!check(host, other), "{host}, {other}");
            }
        }
        assert!(!check("localhost:3000", "http://mb.example.com"), "another scheme");
        assert!(check("localhost:3000", "http://localhost:3000"), "and without the proxy");
    }

    #[test]
    fn the_path_of_the_public_address_is_taken_away_once() {
        let guard = guard_behind(Some("https://example.com/mb"), "127.0.0.1", None).unwrap();
        for (path, stripped) in [
            ("/mb/", "/"),
            ("/mb/runs/7", "/runs/7"),
            ("/mb", ""),
            ("/runs/7", "/runs/7"),
            ("/mbx", "/mbx"),
            ("/mb/mb/", "/mb/"),
        ] {
            let mut request = request("Host: example.com");
            path.clone_into(&mut request.path);
            guard.strip_base(&mut request);
            assert_eq!(request.path, stripped, "{path}");
        }
    }

    #[test]
    fn only_the_token_or_a_cookie_of_this_mb_signs_in() {
        let guard = guard("127.0.0.1", Some(&format!("  {TOKEN}\n"))).unwrap();
        let signed_in =
            |header: &str| guard.is_signed_in(&request(&format!("Host: localhost\r\n{header}")));
        assert!(signed_in(&format!("Authorization: Bearer {TOKEN}")));
        assert!(signed_in(&format!("Authorization: bearer {TOKEN}")));
        assert!(!signed_in("Authorization: Bearer 0123456789abcdeF"));
        assert!(!signed_in("Authorization: Bearer "));
        assert!(!signed_in(&format!("Authorization: Basic {TOKEN}")));
        assert!(!signed_in("X: y"));
        assert_eq!(guard.sign_in("something else"), None);
        let cookie = guard.sign_in(TOKEN).unwrap();
        assert!(cookie.contains("; HttpOnly; SameSite=Strict"), "{cookie}");
        assert!(!cookie.contains(TOKEN));
        let pair = cookie.split(';').next().unwrap();
        assert!(signed_in(&format!("Cookie: {pair}")));
    }
}

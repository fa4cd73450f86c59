//! Decides which requests are allowed: by the host names that mb answers to, the origins that a change may come
//! from, the token, and the browsers that are signed in. Values in, decisions out; reads nothing but the token's file.
//!
//! Another site's page, open in the same browser, must neither read nor change anything here, even if its own
//! name resolves to this machine (DNS rebinding). So `Host` is checked for everything except `/healthz`, and a
//! change needs JSON and, if the browser sends its origin, the same one.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use uuid::Uuid;

use super::request::{Refusal, Request};
use crate::config::Web;
use crate::config::limits;
use crate::model::error::{Error, Result};
use crate::model::sync::{Mutex, MutexGuard};

/// The cookie of a signed-in browser. Its name ends with the port: cookies are shared between ports (RFC 6265,
/// 8.5), and another mb may listen on another one.
const COOKIE: &str = "mb_session_";

pub struct Guard {
    cookie: String,
    /// Without ports; IPv6 addresses in brackets.
    hosts: BTreeSet<String>,
    /// The name in the page's address.
    host: String,
    port: u16,
    /// Other machines can reach it, possibly under addresses that are not its own.
    is_open: bool,
    token: Option<String>,
    pub read_only: bool,
    /// Ids of signed-in browsers, and since when; the oldest first.
    signed_in: Mutex<Vec<(String, Instant)>>,
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
        if is_open {
            log::warn!(
                "page: other machines can reach it without TLS, so the token can be read on the network: put a \
                 proxy with TLS in front of it"
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
            cookie: format!("{COOKIE}{}", web.port),
            hosts,
            host,
            port: web.port,
            is_open,
            token,
            read_only: web.read_only,
            signed_in: Mutex::default(),
        })
    }

    /// The name of the cookie of a signed-in browser.
    pub fn cookie(&self) -> &str {
        &self.cookie
    }

    /// With the port that was bound, if any free one was asked for.
    pub fn on_port(mut self, port: u16) -> Guard {
        self.port = port;
        self.cookie = format!("{COOKIE}{port}");
        self
    }

    /// The page's address.
    pub fn url(&self) -> String {
        format!("http://{}:{}/", self.host, self.port)
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
                    "Host: this mb does not answer to {host:?}; open it as {}, or name its host with \
                     --listen",
                    self.url()
                ),
            )
        };
        let (name, port) = split_port(host).ok_or_else(refused)?;
        let name = name.to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        let is_known = self.hosts.contains(name) || self.is_open && is_address(name);
        // With a token, another port may belong to a tunnel or a container: another site's page has no token.
        let is_port = port.is_none_or(|port| port == self.port) || self.token.is_some();
        if is_known && is_port { Ok(()) } else { Err(refused()) }
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
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        let is_own = authority
            .zip(request.header("host"))
            .is_some_and(|(authority, host)| authority.eq_ignore_ascii_case(host));
        // A form on a page without a referrer is sent with the origin "null".
        let is_own_form =
            origin == "null" && request.header("sec-fetch-site") == Some("same-origin");
        if is_own || is_own_form { Ok(()) } else { Err(elsewhere("Origin")) }
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
        let cookies = request.header("cookie").unwrap_or_default().split(';');
        let mut ids = cookies.filter_map(|cookie| cookie.trim().split_once('='));
        let Some((_, id)) = ids.find(|(name, _)| *name == self.cookie) else { return false };
        let mut known = false;
        // All of them are compared, so that the time reveals nothing about any of them.
        for (signed_in, since) in self.signed_in().iter() {
            let is_fresh = since.elapsed() < limits::SIGNED_IN_LIMIT;
            known |= is_same(signed_in.as_bytes(), id.as_bytes()) && is_fresh;
        }
        known
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
        // 244 bits of the system's randomness.
        let id = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let mut signed_in = self.signed_in();
        signed_in.retain(|(_, since)| since.elapsed() < limits::SIGNED_IN_LIMIT);
        if signed_in.len() >= limits::SIGNED_IN_MAX {
            signed_in.remove(0);
        }
        signed_in.push((id.clone(), Instant::now()));
        let seconds = limits::SIGNED_IN_LIMIT.as_secs();
        let cookie = &self.cookie;
        Some(format!("{cookie}={id}; HttpOnly; SameSite=Strict; Path=/; Max-Age={seconds}"))
    }

    fn is_token(&self, token: &str) -> bool {
        self.token.as_ref().is_some_and(|known| is_same(known.as_bytes(), token.as_bytes()))
    }

    fn signed_in(&self) -> MutexGuard<'_, Vec<(String, Instant)>> {
        self.signed_in.lock()
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

/// Compares in a time that does not depend on where they differ. Lengths are not secret.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let difference =
        a.iter().zip(b).fold(0, |difference, (a, b)| std::hint::black_box(difference | (a ^ b)));
    difference == 0
}

fn read_token(path: &Path) -> Result<String> {
    let unfit = |why: &str| {
        Err(Error::Config(format!(
            "--token-file: {}: {why}, expected one line of {} to {} visible ASCII characters",
            path.display(),
            limits::TOKEN_BYTES_MIN,
            limits::TOKEN_BYTES_MAX
        )))
    };
    let read = || -> std::io::Result<(Vec<u8>, u32)> {
        let file = File::open(path)?;
        let mode = file.metadata()?.permissions().mode();
        let mut bytes = Vec::new();
        // With room for the end of the line.
        file.take(limits::TOKEN_BYTES_MAX as u64 + 2).read_to_end(&mut bytes)?;
        Ok((bytes, mode))
    };
    let (bytes, mode) = match read() {
        Ok(read) => read,
        Err(cause) => return unfit(&format!("cannot read it: {cause}")),
    };
    let token = bytes.trim_ascii();
    let Some(token) = str::from_utf8(token).ok().filter(|_| token.iter().all(u8::is_ascii_graphic))
    else {
        return unfit("it contains other characters");
    };
    if !(limits::TOKEN_BYTES_MIN..=limits::TOKEN_BYTES_MAX).contains(&token.len()) {
        return unfit(&format!("it has {} bytes", token.len()));
    }
    if mode & 0o004 != 0 {
        // Not refused: secrets that an orchestrator mounts often have this mode.
        log::warn!(
            "--token-file: {} is readable by every user of this machine; chmod 600 makes it private",
            path.display()
        );
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::request::head;
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn token_file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn guard(host: &str, token: Option<&str>) -> Result<Guard> {
        let file = token.map(token_file);
        let token_file = file.as_ref().map(|file| file.path().to_owned());
        let web = Web { host: host.to_owned(), port: 3000, token_file, read_only: false };
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
        assert!(signed_in(&format!("Cookie: other=1; {pair}")));
        assert!(!signed_in(&format!("Cookie: {pair}0")));
        assert!(!signed_in("Cookie: mb_session="));
        for _ in 0..limits::SIGNED_IN_MAX {
            guard.sign_in(TOKEN).unwrap();
        }
        assert!(!signed_in(&format!("Cookie: {pair}")), "the oldest is signed out");
    }

    #[test]
    fn a_token_that_is_too_short_or_cannot_be_sent_is_refused() {
        for text in ["", "0123456789abcde", "0123456789 abcdef", "0123456789abcd\u{e9}\u{e9}"] {
            let error = guard("127.0.0.1", Some(text)).err().expect(text);
            assert!(error.to_string().starts_with("--token-file: "), "{error}");
        }
        assert!(guard("127.0.0.1", Some(&"x".repeat(5000))).is_err());
    }
}

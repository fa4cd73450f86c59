//! The browsers that are signed in, and the cookie by which mb knows one. Whether a request needs to come from
//! one is decided in `auth`.

use std::time::Instant;

use uuid::Uuid;

use super::request::Request;
use super::token::is_same;
use crate::config::PublicUrl;
use crate::config::limits;
use crate::model::sync::Mutex;

/// The cookie's name ends with the port: cookies are shared between ports (RFC 6265, 8.5), and another mb may
/// listen on another one.
const COOKIE: &str = "mb_session_";

pub(super) struct Sessions {
    cookie: String,
    /// Browsers come by TLS, so the cookie must not go without it.
    is_secure: bool,
    /// The path of the page behind a proxy; empty for the root.
    base: String,
    /// Ids of signed-in browsers, and since when; the oldest first.
    signed_in: Mutex<Vec<(String, Instant)>>,
}

impl Sessions {
    pub fn new(port: u16, public: Option<&PublicUrl>) -> Sessions {
        Sessions {
            cookie: format!("{COOKIE}{port}"),
            is_secure: public.is_some_and(PublicUrl::is_https),
            base: public.map(PublicUrl::base).unwrap_or_default().to_owned(),
            signed_in: Mutex::default(),
        }
    }

    /// With the port that was bound, if any free one was asked for.
    pub fn on_port(self, port: u16) -> Sessions {
        Sessions { cookie: format!("{COOKIE}{port}"), ..self }
    }

    pub fn cookie(&self) -> &str {
        &self.cookie
    }

    /// Whether the request comes from a signed-in browser.
    pub fn knows(&self, request: &Request) -> bool {
        let Some(id) = self.id(request) else { return false };
        let mut known = false;
        // All of them are compared, so that the time reveals nothing about any of them.
        for (signed_in, since) in self.signed_in.lock().iter() {
            let is_fresh = since.elapsed() < limits::SIGNED_IN_LIMIT;
            known |= is_same(signed_in.as_bytes(), id.as_bytes()) && is_fresh;
        }
        known
    }

    /// Signs a browser in: the value of `Set-Cookie`.
    ///
    /// The cookie has no `Path`, so its path is the folder of the form's address as the browser sees it
    /// (RFC 6265, 5.1.4): `/` on this machine, `/mb` if a proxy serves the page there. mb cannot tell the two apart
    /// if the proxy takes its path away and sends another `Host`.
    pub fn begin(&self) -> String {
        // 244 bits of the system's randomness.
        let id = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let seconds = limits::SIGNED_IN_LIMIT.as_secs();
        let set = self.set(&format!("{id}; Max-Age={seconds}"));
        let mut signed_in = self.signed_in.lock();
        signed_in.retain(|(_, since)| since.elapsed() < limits::SIGNED_IN_LIMIT);
        if signed_in.len() >= limits::SIGNED_IN_MAX {
            signed_in.remove(0);
        }
        signed_in.push((id, Instant::now()));
        set
    }

    /// Signs the browser of this request out: the values of `Set-Cookie` that remove its cookie, wherever the page
    /// was when it was set.
    pub fn end(&self, request: &Request) -> Vec<String> {
        if let Some(id) = self.id(request) {
            let mut signed_in = self.signed_in.lock();
            signed_in.retain(|(known, _)| !is_same(known.as_bytes(), id.as_bytes()));
        }
        let mut paths = vec!["/"];
        paths.extend(Some(self.base.as_str()).filter(|base| !base.is_empty()));
        paths.iter().map(|path| self.set(&format!("; Path={path}; Max-Age=0"))).collect()
    }

    fn set(&self, value: &str) -> String {
        let secure = if self.is_secure { "; Secure" } else { "" };
        format!("{}={value}; HttpOnly; SameSite=Strict{secure}", self.cookie)
    }

    /// The id in the request's cookie.
    fn id<'r>(&self, request: &'r Request) -> Option<&'r str> {
        let cookies = request.header("cookie")?.split(';');
        let mut ids = cookies.filter_map(|cookie| cookie.trim().split_once('='));
        ids.find(|(name, _)| *name == self.cookie).map(|(_, id)| id)
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::head;
    use super::*;

    fn request(headers: &str) -> Request {
        head(format!("POST / HTTP/1.1\r\nHost: h\r\n{headers}\r\n\r\n").as_bytes())
            .unwrap()
            .unwrap()
            .request
    }

    /// The request that a browser with this cookie sends.
    fn with(set: &str) -> Request {
        request(&format!("Cookie: other=1; {}", set.split(';').next().unwrap()))
    }

    #[test]
    fn a_browser_is_known_until_it_signs_out() {
        let sessions = Sessions::new(3000, None);
        let (one, other) = (sessions.begin(), sessions.begin());
        assert!(sessions.knows(&with(&one)) && sessions.knows(&with(&other)));
        assert!(one.starts_with("mb_session_3000="), "{one}");
        assert!(!sessions.knows(&with(&format!("{}0", one.split(';').next().unwrap()))));
        assert!(!sessions.knows(&request("Cookie: mb_session_3000=")));
        assert!(!sessions.knows(&request("X: y")));
        let removed = sessions.end(&with(&one));
        assert!(!sessions.knows(&with(&one)) && sessions.knows(&with(&other)));
        assert_eq!(removed.len(), 1);
        assert!(removed[0].starts_with("mb_session_3000=; Path=/; Max-Age=0"), "{removed:?}");
        assert_eq!(sessions.end(&request("X: y")).len(), 1, "signed in or not");
    }

    #[test]
    fn the_oldest_browser_is_signed_out_for_one_too_many() {
        let sessions = Sessions::new(3000, None);
        let first = sessions.begin();
        for _ in 0..limits::SIGNED_IN_MAX {
            sessions.begin();
        }
        assert!(!sessions.knows(&with(&first)));
    }

    #[test]
    fn behind_a_proxy_with_tls_the_cookie_goes_over_tls_only() {
        let at = |url: &str| Sessions::new(3000, Some(&url.parse().unwrap()));
        let sessions = at("https://example.com/tools/mb");
        let cookie = sessions.begin();
        assert!(cookie.ends_with("; HttpOnly; SameSite=Strict; Secure"), "{cookie}");
        assert!(!cookie.contains("Path"), "{cookie}");
        let removed = sessions.end(&with(&cookie));
        assert!(removed[0].contains("; Path=/;") && removed[1].contains("; Path=/tools/mb;"));
        assert!(removed.iter().all(|cookie| cookie.contains("; Secure")), "{removed:?}");
        assert!(!at("http://wiki.example").begin().contains("Secure"));
    }
}

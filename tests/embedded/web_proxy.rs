//! The page behind a proxy with TLS, as its manual says to build one: the proxy keeps the browser's `Host` or sends
//! mb's own, takes a path away or leaves it. And signing out.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::support::free_port;
use crate::support::http::{Answer, Http, is_ended, read_until};
use crate::support::http_proxy::{HttpProxy, Rewrite};
use crate::support::mb::Mb;

const LIMIT: Duration = Duration::from_secs(60);
const TOKEN: &str = "a-token-of-more-than-16-bytes";
const JSON: &str = "Content-Type: application/json\r\n";
const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";

/// An mb that asks for a token, behind a proxy.
struct Behind {
    mb: Mb,
    /// mb itself.
    direct: Http,
    /// The proxy, as a browser reaches it once its TLS is off.
    proxied: Http,
    _proxy: HttpProxy,
    _folder: tempfile::TempDir,
}

/// `host` is what mb gets as `Host`, if not the browser's; `PORT` in it is mb's port.
fn behind(public_url: &str, host: Option<&str>, strip: &'static str) -> Behind {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    fs::write(&file, TOKEN).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let job = ["--client", "embedded", "--rate", "50", "--listen", "127.0.0.1:0"];
    let page = ["--public-url", public_url, "--token-file", file.to_str().unwrap()];
    let mb = Mb::start(&[&job[..], &page].concat());
    let direct = Http::of(&mb);
    mb.wait_for_line("worker(s), batches of", LIMIT);
    let host = host.map(|host| host.replace("PORT", &direct.port.to_string()));
    let proxy = HttpProxy::start(free_port(), direct.port, Rewrite { host, strip });
    let proxied = Http { port: proxy.port };
    Behind { mb, direct, proxied, _proxy: proxy, _folder: folder }
}

impl Behind {
    /// What a browser at this origin sends.
    fn ask(&self, origin: &str, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let host = origin.split("//").nth(1).unwrap();
        let length = body.len();
        self.proxied.send(&format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nSec-Fetch-Site: same-origin\r\n\
             {headers}Content-Length: {length}\r\n\r\n{body}"
        ))
    }

    /// The cookie with which this browser signs in, as a header.
    fn sign_in(&self, origin: &str, base: &str) -> (Answer, String) {
        let form = format!("token={TOKEN}");
        let answer = self.ask(origin, "POST", &format!("{base}/login?next=/runs/7"), FORM, &form);
        assert_eq!(answer.status, 303, "{answer:?}");
        let set = answer.header("Set-Cookie").unwrap();
        let cookie = format!("Cookie: {}\r\n", set.split(';').next().unwrap());
        (answer, cookie)
    }
}

#[test]
fn behind_a_proxy_that_keeps_the_host_or_sends_its_own_browsers_sign_in_and_change_things() {
    let origin = "https://mb.example.com";
    for host in [None, Some("localhost:PORT"), Some("127.0.0.1:PORT")] {
        let page = behind(origin, host, "");
        page.mb.wait_for_line("page: behind the proxy at https://mb.example.com/", LIMIT);
        let (answer, cookie) = page.sign_in(origin, "");
        assert_eq!(answer.header("Location"), Some("./runs/7"));
        let set = answer.header("Set-Cookie").unwrap();
        assert!(set.contains("; Secure") && set.contains("; HttpOnly; SameSite=Strict"), "{set}");

        let change = |origin: &str, cookie: &str| {
            let headers = format!("{JSON}{cookie}");
            page.ask(origin, "POST", "/api/v1/sensor/pause", &headers, "{}").status
        };
        assert_eq!(change(origin, &cookie), 200, "{host:?}");
        assert_eq!(change(origin, ""), 401, "{host:?}");
        // What a proxy says about the browser's host is not looked at: a page elsewhere could say it too.
        for other in ["https://evil.example", "http://mb.example.com.evil.example"] {
            let refused = change(other, &cookie);
            assert_eq!(refused, 403, "{host:?}, {other}");
        }
        // Without the proxy the page is there as before.
        let own = format!("Origin: http://localhost:{}\r\n{JSON}{cookie}", page.direct.port);
        assert_eq!(page.direct.ask("POST", "/api/v1/sensor/resume", &own, "{}").status, 200);
        let named =
            "GET / HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: mb.example.com\r\n\r\n";
        assert_eq!(page.direct.send(named).status, 403);
    }
}

#[test]
fn below_a_path_links_and_redirects_stay_below_it_whether_the_proxy_takes_it_away_or_not() {
    let origin = "https://example.com:8443";
    for (strip, host) in [("/tools/mb", Some("localhost:PORT")), ("/tools/mb", None), ("", None)] {
        let page = behind("https://example.com:8443/tools/mb/", host, strip);
        let get = |path: &str, headers: &str| page.ask(origin, "GET", path, headers, "");
        // Relative to the address that the browser shows, all of these are below the path.
        let asked = get("/tools/mb/runs/7", "");
        assert_eq!(asked.header("Location"), Some("../login?next=/runs/7"), "{strip:?}");
        let form = get("/tools/mb/login?next=/runs/7", "").text();
        assert!(form.contains("action=\"./login?next=/runs/7\""), "{form}");
        assert!(form.contains("href=\"./assets/style.css\""), "{form}");
        let (answer, cookie) = page.sign_in(origin, "/tools/mb");
        assert_eq!(answer.header("Location"), Some("./runs/7"));
        // Without Path a browser keeps it for the form's folder.
        assert!(!answer.header("Set-Cookie").unwrap().contains("Path"), "{answer:?}");
        for (path, root) in
            [("/", "./"), ("/runs", "./"), ("/runs/7", "../"), ("/dead-letters/7", "../")]
        {
            let text = get(&format!("/tools/mb{path}"), &cookie).text();
            assert!(text.contains(&format!("src=\"{root}assets/app.js\"")), "{path}: {text}");
            assert!(!text.contains("=\"/"), "{path}: {text}");
        }
        assert_eq!(get("/tools/mb/assets/app.js", "").status, 200);
        let changed = format!("{JSON}{cookie}");
        let paused = page.ask(origin, "POST", "/tools/mb/api/v1/sensor/pause", &changed, "{}");
        assert_eq!(paused.status, 200, "{paused:?}");
    }
    // A proxy that takes the path away redirects by itself.
    let page = behind("https://example.com/tools/mb", None, "");
    let bare = page.ask("https://example.com", "GET", "/tools/mb", "", "");
    assert_eq!((bare.status, bare.header("Location")), (303, Some("mb/")));
    assert_eq!(page.ask("https://example.com", "GET", "/tools/mbx", "", "").status, 404);
}

#[test]
fn a_browser_that_signs_out_sees_nothing_more_and_its_events_end() {
    let origin = "https://mb.example.com";
    let page = behind(origin, None, "");
    let (_, cookie) = page.sign_in(origin, "");
    let (_, other) = page.sign_in(origin, "");
    let ask = |method: &str, path: &str, headers: &str| page.ask(origin, method, path, headers, "");
    assert_eq!(ask("GET", "/api/v1/session", &cookie).json()["signed_in"], true);
    let events = |cookie: &str| {
        let mut stream = page.direct.connect();
        let request = page.direct.request("GET", "/api/v1/events", cookie, "");
        std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
        read_until(&mut stream, "event: ");
        stream
    };
    let (mut ends, mut stays) = (events(&cookie), events(&other));

    // Another site cannot sign it out.
    let elsewhere = page.ask("https://evil.example", "POST", "/api/v1/logout", &cookie, "{}");
    assert_eq!(elsewhere.status, 403);
    let answer = ask("POST", "/api/v1/logout", &cookie);
    assert_eq!(answer.status, 200, "{answer:?}");
    let removed = answer.header("Set-Cookie").unwrap();
    assert!(removed.contains("=; Path=/; Max-Age=0") && removed.contains("; Secure"), "{removed}");
    assert_eq!(ask("GET", "/api/v1/session", &cookie).status, 401);
    assert_eq!(ask("GET", "/", &cookie).header("Location"), Some("./login"));
    assert!(is_ended(&mut ends), "its events end");
    read_until(&mut stays, "event: ");
    assert_eq!(ask("GET", "/api/v1/session", &other).status, 200);
    assert_eq!(ask("POST", "/api/v1/logout", "").status, 200, "whoever is not signed in may ask");
    // A program's token is no browser: there is nothing to sign out of.
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(ask("GET", "/api/v1/session", &bearer).json()["signed_in"], false);
}

#[test]
fn an_address_that_no_proxy_has_is_one_line_and_exit_64() {
    let folder = tempfile::tempdir().unwrap();
    for url in ["mb.example.com", "ftp://mb.example.com", "https://", "https://a/?b=c", ""] {
        let args = ["--client", "embedded", "--public-url", url];
        let output = Mb::run_in(folder.path(), &args);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{url}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(
            text.starts_with("mb: --public-url: got ") && text.contains("https://mb.example.com"),
            "{text}"
        );
    }
}

#[test]
fn without_a_token_the_log_says_who_is_let_in_and_an_unknown_proxy_is_told_what_to_do() {
    let job = ["--client", "embedded", "--rate", "50", "--listen", "127.0.0.1:0"];
    let mb = Mb::start(&[&job[..], &["--public-url", "https://mb.example.com"]].concat());
    mb.wait_for_line("everyone who can reach https://mb.example.com/ is let in", LIMIT);

    let mb = Mb::start(&job);
    let http = Http::of(&mb);
    mb.wait_for_line("worker(s), batches of", LIMIT);
    let headers = format!("Origin: https://mb.example.com\r\n{JSON}");
    let answer = http.ask("POST", "/api/v1/sensor/pause", &headers, "{}");
    assert_eq!(answer.status, 403);
    let told = answer.message();
    assert!(told.contains("https://mb.example.com") && told.contains("--public-url"), "{told}");
    let host = http.send("GET / HTTP/1.1\r\nHost: mb.example.com\r\n\r\n").message();
    assert!(host.contains("--public-url"), "{host}");
}

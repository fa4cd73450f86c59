//! The HTTP server of a running mb as its worst clients see it: slow, many, hostile, from other
//! sites, without a token. What the API answers is in `web_api`.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use crate::support::http::{Answer, Http, is_ended, read_answer, read_until, rest};
use crate::support::mb::Mb;
use crate::support::{eventually, free_port};

const LIMIT: Duration = Duration::from_secs(60);
const READY: &str = "worker(s), batches of";
const TOKEN: &str = "a-token-of-more-than-16-bytes";

fn start(args: &[&str]) -> (Mb, Http) {
    let job = ["--client", "embedded", "--rate", "50", "--listen", "127.0.0.1:0"];
    let mb = Mb::start(&[&job[..], args].concat());
    let http = Http::of(&mb);
    mb.wait_for_line(READY, LIMIT);
    (mb, http)
}

fn is_healthy(http: Http) -> bool {
    let answer = http.get("/healthz");
    (answer.status, answer.text().as_str()) == (200, "ok\n")
}

#[test]
fn clients_that_are_slow_are_ended_by_the_deadline_while_others_are_served() {
    let (_mb, http) = start(&[]);
    let mut silent = http.connect();
    let mut half = http.connect();
    half.write_all(b"GET /healthz HTTP/1.1\r\nHost: localh").unwrap();
    let mut half_body = http.connect();
    let request = http.request("POST", "/api/v1/sensor/pause", "", "0123456789");
    half_body.write_all(&request.as_bytes()[..request.len() - 1]).unwrap();
    // A byte now and then does not put the end off.
    let mut trickle = http.connect();
    let mut bytes = "GET / HTTP/1.1\r\nX: ".bytes().chain(std::iter::repeat(b'x'));
    trickle.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    eventually(LIMIT, "the trickle ends", || {
        let _ = trickle.write_all(&[bytes.next().unwrap()]);
        match trickle.read(&mut chunk) {
            Ok(0) => true,
            Ok(read) => {
                answer.extend_from_slice(&chunk[..read]);
                false
            }
            Err(cause) => cause.kind() == std::io::ErrorKind::ConnectionReset,
        }
    });
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(read_answer(&mut half, false).status, 408);
    assert_eq!(read_answer(&mut half_body, false).status, 408);
    assert!(is_ended(&mut silent) && is_ended(&mut half) && is_ended(&mut half_body));
    assert!(is_healthy(http));
}

#[test]
fn a_client_that_does_not_read_is_dropped() {
    let (_mb, http) = start(&[]);
    let mut stream = http.connect();
    // Answers of some 100 KB each, until no more of them fit between the two.
    let request = http.request("GET", "/api/v1/openapi.json", "", "");
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    while stream.write_all(request.as_bytes()).is_ok() {}
    assert!(is_healthy(http));
    // Its end comes although it still does not read: writing to it fails at last.
    eventually(LIMIT, "it is dropped", || match stream.write(b"x") {
        Ok(_) => false,
        Err(cause) => cause.kind() != std::io::ErrorKind::WouldBlock,
    });
}

#[test]
fn the_oldest_incomplete_connection_goes_for_a_new_one() {
    let (_mb, http) = start(&[]);
    let mut idle = http.connect();
    idle.write_all(http.request("GET", "/healthz", "", "").as_bytes()).unwrap();
    assert_eq!(read_answer(&mut idle, false).status, 200);
    let mut watching = http.events();
    read_until(&mut watching, "\n\n");

    let mut incomplete: Vec<TcpStream> = Vec::new();
    for _ in 0..64 {
        let mut stream = http.connect();
        stream.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        incomplete.push(stream);
    }
    for _ in 0..100 {
        assert!(is_healthy(http), "each new one is served");
    }
    // Past its time it would have an answer that says so.
    assert_eq!(rest(&mut incomplete[0]), Some(Vec::new()), "the oldest went for a new one");
    // Those with a whole request behind them stayed.
    idle.write_all(http.request("GET", "/healthz", "", "").as_bytes()).unwrap();
    assert_eq!(read_answer(&mut idle, false).status, 200);
    read_until(&mut watching, "event: ");
}

#[test]
fn event_streams_beyond_the_cap_push_out_the_oldest_and_health_is_reachable() {
    let (_mb, http) = start(&[]);
    let mut streams: Vec<TcpStream> = (0..64)
        .map(|_| {
            let mut stream = http.events();
            read_until(&mut stream, "event: ");
            stream
        })
        .collect();
    assert!(is_healthy(http));
    assert!(is_ended(&mut streams[0]));
    let mut newest = streams.pop().unwrap();
    read_until(&mut newest, "event: ");
}

#[test]
fn an_event_stream_says_when_to_come_again_and_goes_on() {
    let (_mb, http) = start(&[]);
    let mut stream = http.events();
    let head = read_until(&mut stream, "\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("text/event-stream"), "{head}");
    assert_eq!(read_until(&mut stream, "\n\n"), "retry: 1000\n\n");
    for _ in 0..3 {
        let event = read_until(&mut stream, "\n\n");
        let mut lines = event.lines();
        assert!(matches!(lines.next(), Some("event: overview" | "event: failure")), "{event}");
        let data = lines.next().unwrap().strip_prefix("data: ").unwrap();
        assert!(serde_json::from_str::<serde_json::Value>(data).unwrap().is_object());
    }
    assert_eq!(http.ask("HEAD", "/api/v1/events", "", "").status, 200);
}

#[test]
fn mb_stops_at_once_with_pages_open() {
    let (mut mb, http) = start(&[]);
    let mut streams: Vec<TcpStream> = (0..10).map(|_| http.events()).collect();
    for stream in &mut streams {
        read_until(stream, "event: ");
    }
    let mut idle = http.connect();
    let mut half = http.connect();
    half.write_all(b"GET").unwrap();
    mb.term();
    assert_eq!(mb.wait(Duration::from_secs(20)).code(), Some(0), "{}", mb.stderr().join("\n"));
    for stream in streams.iter_mut().chain([&mut idle, &mut half]) {
        assert!(is_ended(stream));
    }
    let log = mb.stderr().join("\n");
    assert!(!log.contains("left to itself") && !log.contains("panicked"), "{log}");
}

#[test]
fn other_hosts_and_origins_are_refused() {
    let (_mb, http) = start(&[]);
    let port = http.port;
    let with_host = |host: &str| http.send(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    for host in ["localhost".to_owned(), format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        assert_eq!(with_host(&host).status, 200, "{host}");
    }
    let wrong_port = format!("localhost:{}", port - 1);
    for host in ["evil.example", &wrong_port, "192.168.0.1", "localhost.evil.example", "a b", ""] {
        let answer = with_host(host);
        assert_eq!(answer.status, 403, "{host}: {answer:?}");
        assert!(answer.message().contains("does not answer to"), "{answer:?}");
        let missing = http.send(&format!("GET /none HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(missing.status, 403, "not even what there is not");
    }
    // But whether the process lives may be asked under any name.
    assert_eq!(http.send("GET /healthz HTTP/1.1\r\nHost: pod-7\r\n\r\n").status, 200);

    let json = "Content-Type: application/json\r\n";
    let change = |headers: &str, body: &str| {
        http.ask("POST", "/api/v1/dead-letters/redrive", &format!("{json}{headers}"), body)
    };
    let all = r#"{"all":true}"#;
    for headers in [
        "Origin: http://evil.example\r\n",
        "Origin: null\r\n",
        "Origin: http://localhost:1\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: same-site\r\n",
    ] {
        let answer = change(headers, all);
        assert_eq!((answer.status, answer.kind().as_str()), (403, "forbidden"), "{headers}");
    }
    let own = format!("Origin: http://localhost:{port}\r\nSec-Fetch-Site: same-origin\r\n");
    let answer = change(&own, all);
    assert_eq!(answer.status, 409, "it comes through, and finds nothing to redrive: {answer:?}");
    for kind in ["", "Content-Type: text/plain\r\n", "Content-Type: multipart/form-data\r\n"] {
        let answer = http.ask("POST", "/api/v1/dead-letters/redrive", kind, all);
        assert_eq!(answer.status, 415, "{kind}");
    }
    // Other sites may link to what is read, not read it.
    let read = |headers: &str| http.ask("GET", "/api/v1/runs", headers, "").status;
    assert_eq!(read("Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n"), 403);
    assert_eq!(read("Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n"), 200);
}

#[test]
fn what_is_too_large_or_no_http_is_refused_with_the_reason() {
    let (mb, http) = start(&[]);
    let host = format!("Host: localhost:{}\r\n", http.port);
    let refused = |request: &str| http.send(request).status;
    assert_eq!(refused(&format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(16 << 10))), 431);
    assert_eq!(refused(&format!("GET / HTTP/1.1\r\n{host}{}\r\n", "a: b\r\n".repeat(100))), 431);
    assert_eq!(refused(&format!("GET /{} HTTP/1.1\r\n{host}\r\n", "x".repeat(16 << 10))), 431);
    let large = http.request("POST", "/api/v1/replay", "", &"x".repeat((1 << 20) + 1));
    assert_eq!(refused(&large), 413);
    let length = format!("POST / HTTP/1.1\r\n{host}Content-Length: 99999999999999999999\r\n\r\n");
    assert_eq!(refused(&length), 413);
    let chunked = format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    assert_eq!(refused(&chunked), 411);
    let twice = format!("POST / HTTP/1.1\r\n{host}Content-Length: 0\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(refused(&twice), 400);
    for garbage in
        ["\u{16}\u{3}\u{1}\u{2}\0", "HELO\r\n\r\n", "GET\r\n\r\n", "\0\0\0\0", "GET  /\r\n"]
    {
        assert_eq!(refused(garbage), 400, "{garbage:?}");
    }
    assert_eq!(refused(&format!("GET http://evil.example/ HTTP/1.1\r\n{host}\r\n")), 400);
    assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), 400);
    assert!(is_healthy(http));
    assert!(!mb.stderr().join("\n").contains("panicked"));
}

#[test]
fn random_bytes_do_no_harm() {
    let (mb, http) = start(&[]);
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..200 {
        let mut bytes: Vec<u8> = (0..random.usize(..300)).map(|_| random.u8(..)).collect();
        if random.bool() {
            bytes.splice(0..0, b"GET / HTTP/1.1\r\n".iter().copied());
        }
        let mut stream = http.connect();
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        assert!(is_ended(&mut stream));
    }
    assert!(is_healthy(http));
    assert!(!mb.stderr().join("\n").contains("panicked"));
}

#[test]
fn connections_are_kept_and_requests_may_follow_one_another_at_once() {
    let (_mb, http) = start(&[]);
    let mut stream = http.connect();
    let first = http.request("GET", "/healthz", "", "");
    let second = http.request("HEAD", "/", "", "");
    let json = "Content-Type: application/json\r\n";
    let third = http.request("POST", "/api/v1/dead-letters/redrive", json, "[1]");
    let last = http.request("GET", "/none", "Connection: close\r\n", "");
    stream.write_all([first, second, third, last].concat().as_bytes()).unwrap();
    assert_eq!(read_answer(&mut stream, false).text(), "ok\n");
    let head = read_answer(&mut stream, true);
    assert_eq!(head.status, 200);
    let length: usize = head.header("Content-Length").unwrap().parse().unwrap();
    assert_eq!(length, http.get("/").body.len());
    assert_eq!(read_answer(&mut stream, false).status, 400);
    let end = read_answer(&mut stream, false);
    assert_eq!((end.status, end.header("Connection")), (404, Some("close")));
    assert!(is_ended(&mut stream));

    // HTTP/1.0 closes, but where it asks not to.
    let mut old = http.connect();
    old.write_all(b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").unwrap();
    assert_eq!(read_answer(&mut old, false).header("Connection"), Some("keep-alive"));
    old.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(read_answer(&mut old, false).header("Connection"), Some("close"));
    assert!(is_ended(&mut old));
}

#[test]
fn a_body_may_wait_until_it_is_asked_for_and_a_half_closed_client_gets_its_answer() {
    let (_mb, http) = start(&[]);
    let mut stream = http.connect();
    let headers = "Content-Type: application/json\r\nExpect: 100-continue\r\n";
    let request = http.request("POST", "/api/v1/dead-letters/redrive", headers, "[1]");
    let (head, body) = request.split_at(request.len() - 3);
    stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(read_until(&mut stream, "\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(body.as_bytes()).unwrap();
    assert_eq!(read_answer(&mut stream, false).status, 400);
    // One that is too large is not asked for.
    let length = format!("Content-Length: {}\r\n", 2 << 20);
    let large = http.request("GET", "/", &format!("Expect: 100-continue\r\n{length}"), "");
    assert_eq!(http.send(&large).status, 413);

    let mut half = http.connect();
    half.write_all(http.request("GET", "/healthz", "", "").as_bytes()).unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_answer(&mut half, false).text(), "ok\n");
    assert!(is_ended(&mut half));
}

#[test]
fn answers_keep_browsers_safe_and_files_are_cached_by_their_tag() {
    let (_mb, http) = start(&[]);
    let page = http.get("/");
    let policy = page.header("Content-Security-Policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'self'"), "{policy}");
    assert_eq!(page.header("X-Content-Type-Options"), Some("nosniff"));
    assert_eq!(page.header("Referrer-Policy"), Some("no-referrer"));
    let tag = page.header("ETag").unwrap();
    let again = http.ask("GET", "/", &format!("If-None-Match: {tag}\r\n"), "");
    assert_eq!((again.status, again.body.len()), (304, 0));
    assert_eq!(http.get("/api/v1/session").header("Cache-Control"), Some("no-store"));
    for path in ["/runs", "/ticks", "/dead-letters", "/lag", "/help"] {
        assert_eq!(http.get(path).body, page.body, "{path}");
    }
    for path in ["/runs/7", "/dead-letters/7"] {
        assert_eq!(http.get(path).text(), page.text().replace("=\"./", "=\"../"), "{path}");
    }
    for path in ["/assets/none", "/assets/../index.html", "/assets/", "//", "/runs/", "/api/v1"] {
        assert_eq!(http.get(path).status, 404, "{path}");
    }
    // A program gets JSON, a person a page with a way on.
    let shown = |path: &str, accept: &str| {
        let answer = http.ask("GET", path, &format!("Accept: {accept}\r\n"), "");
        assert_eq!(answer.status, 404, "{path}");
        (answer.header("Content-Type").unwrap_or_default().to_owned(), answer.text())
    };
    let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    for (path, root) in [("/none", "./"), ("/runs/", "../"), ("/a/b/c", "../../"), ("/<b>", "./")] {
        let (kind, text) = shown(path, browser);
        assert_eq!(kind, "text/html; charset=utf-8", "{path}");
        assert!(text.contains("nothing is at this address"), "{text}");
        assert!(text.contains(&format!("<a href=\"{root}\">")) && !text.contains("<b>"), "{text}");
        for accept in ["application/json", "*/*"] {
            let (kind, text) = shown(path, accept);
            assert_eq!(kind, "application/json", "{path}");
            assert!(text.contains("\"kind\":\"not_found\""), "{text}");
        }
    }
    let (kind, text) = shown("/api/v1/runs/99999", browser);
    assert!(kind.starts_with("text/html") && text.contains("there is no run 99999"), "{text}");
    let wrong = http.post("/api/v1/runs", "{}");
    assert_eq!((wrong.status, wrong.header("Allow")), (405, Some("GET, HEAD")));
    assert_eq!(http.ask("DELETE", "/api/v1/settings", "", "").header("Allow"), Some("PATCH"));
}

#[test]
fn localhost_means_both_loopback_addresses() {
    let (_mb, http) = start(&[]);
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        eprintln!("no IPv6 here: not looked at");
        return;
    }
    let mut stream = TcpStream::connect((Ipv6Addr::LOCALHOST, http.port)).unwrap();
    stream.write_all(http.request("GET", "/healthz", "", "").as_bytes()).unwrap();
    assert_eq!(read_answer(&mut stream, false).text(), "ok\n");
}

#[test]
fn a_taken_port_is_an_error_that_names_it() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let dir = tempfile::tempdir().unwrap();
    let error = |args: &[&str]| {
        let output = Mb::run_in(dir.path(), &[&["--client", "embedded"], args].concat());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{text}");
        let error = text.lines().last().unwrap().to_owned();
        assert!(error.starts_with("mb: --listen: "), "{text}");
        error
    };
    let text = error(&["--listen", &port]);
    assert!(text.contains(&format!("127.0.0.1:{port}")) && text.contains("--listen off"), "{text}");
    let text = error(&["--listen", "host.invalid:3000"]);
    assert!(text.contains("host.invalid"), "{text}");
    let text = error(&["--listen", "0.0.0.0:0"]);
    assert!(text.contains("--token-file"), "{text}");
    assert!(!dir.path().join("control.sock").exists(), "nothing is left behind");
}

#[test]
fn the_page_is_there_while_mb_waits_for_its_broker() {
    let server = format!("127.0.0.1:{}", free_port());
    let mut mb =
        Mb::start(&["--bootstrap-server", &server, "--wait-for-broker", "--listen", "127.0.0.1:0"]);
    let http = Http::of(&mb);
    assert!(is_healthy(http));
    assert_eq!(http.get("/").status, 200);
    assert_eq!(http.get("/readyz").status, 503);
    let replay = http.post("/api/v1/replay", r#"{"partition":0,"from":0,"to":1}"#);
    assert!(matches!(replay.status, 409 | 503), "{replay:?}");
    assert!(replay.message().contains("still waiting for"), "{replay:?}");
    let runs = http.get("/api/v1/runs");
    assert_eq!((runs.status, runs.kind().as_str()), (503, "starting"), "no history yet");
    mb.term();
    assert_eq!(mb.wait(LIMIT).code(), Some(0));
}

#[test]
fn with_a_token_only_its_bearer_and_browsers_that_signed_in_see_anything() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    fs::write(&file, format!("{TOKEN}\n")).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let job = ["--client", "embedded", "--rate", "50", "--listen", "0.0.0.0:0"];
    let mb = Mb::start(&[&job[..], &["--token-file", file.to_str().unwrap()]].concat());
    let http = Http::of(&mb);
    mb.wait_for_line(READY, LIMIT);
    assert!(!mb.stderr().join("\n").contains(TOKEN));

    assert!(is_healthy(http));
    assert!(matches!(http.get("/readyz").status, 200 | 503));
    for path in ["/api/v1/runs", "/api/v1/events", "/metrics", "/api/v1/session"] {
        let answer = http.get(path);
        assert_eq!((answer.status, answer.kind().as_str()), (401, "no_token"), "{path}");
    }
    assert_eq!(http.post("/api/v1/sensor/pause", "{}").status, 401);
    let bearer = |token: &str| {
        http.ask("GET", "/api/v1/runs", &format!("Authorization: Bearer {token}\r\n"), "").status
    };
    assert_eq!(bearer(TOKEN), 200);
    assert_eq!(bearer("a-token-of-more-than-16-byteS"), 401);

    // A browser is sent to the form, and from there to where it wanted to go.
    assert_eq!(http.get("/runs/7").header("Location"), Some("../login?next=/runs/7"));
    let form = http.get("/login?next=/runs/7");
    assert!(form.text().contains("action=\"./login?next=/runs/7\""), "{form:?}");
    assert!(!form.text().contains("<script"));
    let sign_in = |next: &str, token: &str, origin: &str| -> Answer {
        let kind = "Content-Type: application/x-www-form-urlencoded\r\n";
        let headers = format!("{kind}{origin}");
        http.ask("POST", &format!("/login{next}"), &headers, &format!("token={token}"))
    };
    assert_eq!(sign_in("", "wrong", "").status, 401);
    assert_eq!(sign_in("", TOKEN, "Origin: http://evil.example\r\n").status, 403);
    let signed_in =
        sign_in("?next=/runs/7", TOKEN, "Origin: null\r\nSec-Fetch-Site: same-origin\r\n");
    assert_eq!((signed_in.status, signed_in.header("Location")), (303, Some("./runs/7")));
    for next in ["?next=//evil.example", "?next=http://evil.example", "?next=/%0d%0aX:y", "?next=%"]
    {
        assert_eq!(sign_in(next, TOKEN, "").header("Location"), Some("./"), "{next}");
    }
    let cookie = signed_in.header("Set-Cookie").unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let cookie = format!("Cookie: {}\r\n", cookie.split(';').next().unwrap());
    let seen = http.ask("GET", "/api/v1/session", &cookie, "");
    let session = serde_json::json!({ "read_only": false, "token": true, "signed_in": true });
    assert_eq!(seen.json(), session);
    assert_eq!(http.ask("GET", "/runs/7", &cookie, "").status, 200);
}

#[test]
fn wrong_tokens_are_logged_and_answered_later_and_later_while_the_right_one_is_answered_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    fs::write(&file, TOKEN).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let (mb, http) = start(&["--token-file", file.to_str().unwrap()]);
    let get = |path: &str, token: &str| {
        let began = Instant::now();
        let answer = http.ask("GET", path, &format!("Authorization: Bearer {token}\r\n"), "");
        (answer.status, began.elapsed())
    };
    let took: Vec<Duration> = (0..5)
        .map(|number| {
            // Also where an answer needs no token, and would tell a right one from a wrong one.
            let path = if number == 3 { "/readyz" } else { "/api/v1/runs" };
            let (status, took) = get(path, &format!("wrong-token-number-{number}"));
            assert!(number == 3 || status == 401, "{status}");
            took
        })
        .collect();
    // 50 ms that double.
    for (number, took) in (0..).zip(&took) {
        assert!(*took >= Duration::from_millis(50 << number), "{number}: {took:?}");
    }
    // More of them than mb has connections, which it does not answer for seconds.
    let flood: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut stream = http.connect();
            let wrong = "Authorization: Bearer a-wrong-token-in-a-flood\r\n";
            // mb may have closed it for one that came later.
            let _ = stream.write_all(http.request("GET", "/api/v1/runs", wrong, "").as_bytes());
            stream
        })
        .collect();
    let (status, took) = get("/api/v1/runs", TOKEN);
    assert!(status == 200 && took < Duration::from_secs(2), "{status} after {took:?}");
    assert!(is_healthy(http));
    drop(flood);
    let said = mb.stderr();
    let lines: Vec<_> = said.iter().filter(|line| line.contains("wrong token")).collect();
    assert_eq!(lines.len(), 1, "one line a minute: {lines:?}");
    assert!(lines[0].contains("127.0.0.1") && !lines[0].contains("number-0"), "{lines:?}");
}

#[test]
fn a_read_only_mb_changes_nothing() {
    let (_mb, http) = start(&["--read-only"]);
    assert_eq!(http.get("/api/v1/session").json()["read_only"], true);
    let json = "Content-Type: application/json\r\n";
    for (method, path, body) in [
        ("POST", "/api/v1/sensor/pause", "{}"),
        ("POST", "/api/v1/sensor/cursor", r#"{"offsets":{"0":1}}"#),
        ("POST", "/api/v1/dead-letters/redrive", r#"{"all":true}"#),
        ("POST", "/api/v1/dead-letters/discard", r#"{"all":true,"reason":"x"}"#),
        ("POST", "/api/v1/replay", r#"{"partition":0,"from":0,"to":1}"#),
        ("POST", "/api/v1/runs/1/cancel", "{}"),
        ("PATCH", "/api/v1/settings", r#"{"rate":1}"#),
    ] {
        let answer = http.ask(method, path, json, body);
        assert_eq!((answer.status, answer.kind().as_str()), (403, "read_only"), "{path}");
    }
    // What only looks is none of these.
    let dry = http.post("/api/v1/sensor/cursor", r#"{"offsets":{"0":1},"dry_run":true}"#);
    assert_ne!(dry.status, 403);
    assert_ne!(http.post("/api/v1/sensor/preview", "{}").status, 403);
    assert_eq!(http.get("/api/v1/runs").status, 200);
}

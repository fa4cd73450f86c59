//! The page in Chromium, used as a person would: on real Kafka, with hostile content, through a lost
//! connection, with a long history, and where nothing has happened yet.

#[path = "../support/mod.rs"]
mod support;
mod verdicts;

use std::fs;
use std::path::Path;
use std::process::Command;

use support::browser::{Browser, LIMIT};
use support::http_proxy::{HttpProxy, Rewrite};
use support::kafka::{Kafka, V3_9};
use support::mb::Mb;
use support::{eventually, free_port, raw, unique};

const WIDTHS: [(u32, u32); 3] = [(400, 900), (1000, 800), (1600, 1000)];

/// A running mb and where its page is.
struct Site {
    mb: Mb,
    url: String,
}

impl Site {
    fn start(data_dir: &Path, port: u16, args: &[&str]) -> Site {
        let address = format!("127.0.0.1:{port}");
        let mb = Mb::start_in(data_dir, &[args, &["--listen", &address]].concat());
        mb.wait_for_line("page: ", LIMIT);
        Site { mb, url: format!("http://localhost:{port}") }
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }
}

fn axe() -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/axe");
    let found = Command::new(script).output().expect("scripts/axe runs");
    let text = String::from_utf8_lossy(&found.stderr);
    assert!(found.status.success(), "{text}");
    fs::read_to_string(String::from_utf8(found.stdout).unwrap().trim_end()).unwrap()
}

fn messages(from: usize, count: usize) -> Vec<Vec<u8>> {
    (from..from + count).map(|n| format!("{{\"order\":{n}}}").into_bytes()).collect()
}

#[test]
fn a_person_sees_runs_go_by_mends_a_failure_pauses_and_adds_workers() {
    let kafka = Kafka::shared(V3_9);
    let (server, topic) = (kafka.bootstrap(), unique("orders"));
    kafka.create_topic(&topic, 4, &[]);
    for partition in 0..4 {
        raw::produce(&server, "none", &topic, partition, &messages(0, 1000));
    }
    raw::produce(&server, "none", &topic, 2, &[b"{\"order\":\"poison\"}".to_vec()]);
    let data = tempfile::tempdir().unwrap();
    let mended = data.path().join("mended");
    let step = format!(
        "! grep poison >/dev/null || test -e {} || {{ echo 'no such customer' >&2; exit 65; }}",
        mended.display()
    );
    let args = ["--bootstrap-server", &server, "--topic", &topic, "--exec", &step];
    let pace = ["--max-batch", "20", "--max-concurrent-runs", "1", "--step-delay", "100ms"];
    let site = Site::start(data.path(), free_port(), &[&args[..], &pace].concat());
    let browser = Browser::start();
    browser.look(1600, 1000, false);

    // One worker is too few: 200 runs of 0.1 s and more wait.
    browser.open(&site.at("/"));
    browser.wait_for("[data-test=connection]", "live");
    eventually(LIMIT, "runs go by", || browser.count("[data-test=newest-run]") >= 5);
    eventually(LIMIT, "a worker shows its run", || {
        browser.text("[data-test=worker]").is_some_and(|text| text.contains(&topic))
    });
    let lag = || browser.text("[data-test=lag]").unwrap_or_default();
    let before = lag();
    assert!(before.contains('k') || before.len() > 2, "messages wait: {before}");
    browser.fill("[data-test=set-max-concurrent-runs]", "10");
    browser.click("[data-test=set-max-concurrent-runs-apply]");
    browser.wait_for("[data-test=set-max-concurrent-runs-note]", "changed from 1");
    eventually(LIMIT, "ten workers", || browser.count("[data-test=worker]") == 10);
    eventually(LIMIT, "the lag falls to nothing", || lag() == "0");
    browser.wait_for("[data-test=verdict]", "Keeping up");

    // The failed run is found by its error, and shows its records.
    browser.open(&site.at("/runs"));
    browser.click("[data-test=tab-failed]");
    browser.wait_for("[data-test=run]", "no such customer");
    browser.fill("[data-test=filter-error]", "no such cust");
    browser.keys("\u{e007}");
    eventually(LIMIT, "the filter is in the address", || {
        browser
            .script("return location.search", &serde_json::json!([]))
            .as_str()
            .is_some_and(|search| search.contains("error=no"))
    });
    browser.click("[data-test=run] a");
    browser.wait_for("[data-test=run-error]", "no such customer");
    eventually(LIMIT, "its records", || browser.count("[data-test=record-error]") > 0);
    if browser.count("[data-test=more-failed]") > 0 {
        browser.click("[data-test=more-failed] summary");
    }
    browser.wait_for("[data-test=run-view]", "poison");

    // Its dead letters are redriven once the step is mended.
    fs::write(&mended, "").unwrap();
    browser.click("[data-test=run-dead-letters]");
    browser.wait_for("[data-test=error-group]", "no such customer");
    browser.click("[data-test=redrive-error]");
    browser.click("[data-test=tab-redriven]");
    browser.wait_for("[data-test=dead-letter]", "redriven");

    // Paused, what is written waits; resumed, it goes on.
    browser.open(&site.at("/"));
    browser.wait_for("[data-test=verdict]", "Keeping up");
    browser.click("[data-test=pause]");
    browser.wait_for("[data-test=verdict]", "Paused");
    raw::produce(&server, "none", &topic, 0, &messages(1000, 50));
    eventually(LIMIT, "what is written waits", || lag() == "50");
    browser.click("[data-test=preview]");
    browser.wait_for("[data-test=preview-dialog]", "50 records");
    browser.keys("\u{e00c}");
    browser.click("[data-test=resume]");
    eventually(LIMIT, "what waited is done", || lag() == "0");
    assert_eq!(browser.errors(), [""; 0]);
    drop(site.mb);
}

#[test]
fn its_words_and_figures_are_right() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page/text.test.mjs");
    let tested = Command::new("node").arg("--test").arg(file).output();
    let tested = tested.expect("node is installed: run scripts/setup test");
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stdout));
}

#[test]
fn every_view_fits_all_widths_in_light_and_dark() {
    let kafka = Kafka::shared(V3_9);
    let (server, topic) = (kafka.bootstrap(), unique("looks"));
    kafka.create_topic(&topic, 6, &[]);
    for partition in 0..6 {
        raw::produce(&server, "none", &topic, partition, &messages(0, 200));
    }
    let data = tempfile::tempdir().unwrap();
    let step = "test \"$MB_PARTITION\" != 3 || { echo 'no such table: orders' >&2; exit 65; }";
    let args = ["--bootstrap-server", &server, "--topic", &topic, "--exec", step];
    let site = Site::start(data.path(), free_port(), &[&args[..], &["--rate", "300"]].concat());
    let browser = Browser::start();
    // It takes half a second for each view: `make axe` asks for it.
    let axe = std::env::var_os("MB_TEST_AXE").map(|_| axe());
    browser.open(&site.at("/"));
    browser.wait_for("[data-test=connection]", "live");
    eventually(LIMIT, "some runs", || browser.count("[data-test=newest-run]") >= 8);
    let views = [
        ("overview", "/", "[data-test=newest-run]"),
        ("runs", "/runs", "[data-test=run]"),
        ("run", "/runs/1", "[data-test=run-view] [data-test=record]"),
        ("ticks", "/ticks", "[data-test=sensor-state]"),
        ("dead-letters", "/dead-letters", "[data-test=dead-letter]"),
        ("dead-letter", "/dead-letters/1", "[data-test=dead-letter-view]"),
        ("lag", "/lag", "[data-test=partition]"),
        ("help", "/help", "[data-test=word]"),
    ];
    for (width, height) in WIDTHS {
        for dark in [false, true] {
            browser.look(width, height, dark);
            for (name, path, there) in views {
                browser.open(&site.at(path));
                browser.wait_for(there, "");
                browser.wait_for("[data-test=connection]", "live");
                let colours = if dark { "dark" } else { "light" };
                browser.screenshot(&format!("{name}-{width}-{colours}"));
                let wider = "return document.documentElement.scrollWidth - innerWidth;";
                let wider = browser.script(wider, &serde_json::json!([])).as_i64().unwrap();
                assert!(wider <= 0, "{name} is {wider} pixels wider than {width}");
                if let Some(axe) = &axe {
                    let faults = browser.serious_faults(axe);
                    assert_eq!(faults, [""; 0], "{name}, {width}, {colours}");
                }
            }
        }
    }
    assert_eq!(browser.errors(), [""; 0]);
}

#[test]
fn hostile_content_is_text_and_the_page_lives() {
    let kafka = Kafka::shared(V3_9);
    let (server, topic) = (kafka.bootstrap(), unique("<hostile>").replace(['<', '>'], "_"));
    kafka.create_topic(&topic, 1, &[("max.message.bytes", "8000000")]);
    let markup = "<script>window.hacked=1</script><img src=x onerror=window.hacked=1>";
    let hostile = [
        markup.to_owned(),
        "\u{1b}[2J\u{0}\u{7}bell".to_owned(),
        "\u{202e}txet desrever\u{2066}".to_owned(),
        format!("long {}", "x".repeat(3_000_000)),
    ];
    let records: Vec<Vec<u8>> = hostile.iter().map(|text| text.clone().into_bytes()).collect();
    raw::produce(&server, "none", &topic, 0, &records);
    let data = tempfile::tempdir().unwrap();
    let step = format!(
        "cat >/dev/null; printf '%s\\033[31m\\342\\200\\256' '{markup}'; head -c 100000 /dev/zero | tr '\\0' y; \
         printf '%s\\n' '{markup}' >&2; exit 65"
    );
    let args = ["--bootstrap-server", &server, "--topic", &topic, "--exec", &step];
    let whole = ["--max-batch-bytes", "8MiB", "--max-wait", "2s"];
    let site = Site::start(data.path(), free_port(), &[&args[..], &whole].concat());
    let browser = Browser::start();
    browser.look(1600, 1000, false);
    browser.open(&site.at("/runs?state=failed"));
    browser.wait_for("[data-test=run]", "<script>");
    browser.click("[data-test=run] a");
    browser.wait_for("[data-test=run-error]", markup);
    browser.wait_for("[data-test=attempt]", markup);
    eventually(LIMIT, "four records", || browser.count("[data-test=record]") == 4);
    let shown = browser.text("[data-test=run-view]").unwrap();
    assert!(shown.contains(markup), "{shown:.2000}");
    for c in ['\u{1b}', '\u{0}', '\u{7}', '\u{202e}', '\u{2066}'] {
        assert!(!shown.contains(c), "{c:?} is shown as it is");
    }
    browser.open(&site.at("/dead-letters"));
    browser.wait_for("[data-test=error-group]", "<script>");
    eventually(LIMIT, "four letters", || browser.count("[data-test=dead-letter]") == 4);
    for id in 1..=4 {
        browser.open(&site.at(&format!("/dead-letters/{id}")));
        browser.wait_for("[data-test=dead-letter-view]", "");
    }
    browser.open(&site.at("/"));
    browser.wait_for("[data-test=connection]", "live");
    let hacked = browser.script("return window.hacked || 0;", &serde_json::json!([]));
    assert_eq!(hacked, 0);
    assert_eq!(browser.errors(), [""; 0]);
}

#[test]
fn a_lost_mb_is_said_at_once_and_the_page_goes_on_when_it_is_back() {
    let data = tempfile::tempdir().unwrap();
    let port = free_port();
    let args = ["--client", "embedded", "--rate", "100", "--step", "discard"];
    let mut site = Site::start(data.path(), port, &args);
    let browser = Browser::start();
    browser.look(1600, 1000, false);
    browser.open(&site.at("/"));
    browser.wait_for("[data-test=connection]", "live");
    site.mb.kill9();
    browser.wait_for("[data-test=connection]", "no answer");
    let _again = Site::start(data.path(), port, &args);
    browser.wait_for("[data-test=connection]", "live");
    browser.wait_for("[data-test=verdict]", "Keeping up");
}

#[test]
fn a_first_start_says_on_every_view_what_will_come() {
    let data = tempfile::tempdir().unwrap();
    // It makes the topic, and posts its first message after minutes.
    let args = ["--client", "embedded", "--step", "discard", "--rate", "0.001"];
    let site = Site::start(data.path(), free_port(), &args);
    let browser = Browser::start();
    browser.look(1600, 1000, false);
    for path in ["/", "/runs", "/ticks", "/dead-letters", "/lag", "/help"] {
        browser.open(&site.at(path));
        browser.wait_for("[data-test=connection]", "live");
        let text = browser.text("main").unwrap();
        assert!(!text.contains("undefined") && !text.contains("NaN"), "{path}: {text}");
    }
    browser.open(&site.at("/runs/7"));
    browser.wait_for("[data-test=error]", "7");
    browser.open(&site.at("/"));
    browser.wait_for("[data-test=verdict]", "no records yet");
    let faults = browser.errors();
    // A run that there is not is a 404, which Chromium counts among errors.
    assert!(faults.iter().all(|fault| fault.contains("404")), "{faults:?}");
}

#[test]
fn a_hundred_thousand_runs_are_paged_filtered_and_sorted() {
    let data = tempfile::tempdir().unwrap();
    let fill = ["--client", "embedded", "--rate", "max", "--count", "100000", "--max-batch", "1"];
    let end = ["--step", "discard", "--until-caught-up", "--listen", "off"];
    let mut filled = Mb::start_in(data.path(), &[&fill[..], &end].concat());
    assert_eq!(filled.wait(5 * LIMIT).code(), Some(0));
    let site =
        Site::start(data.path(), free_port(), &["--client", "embedded", "--step", "discard"]);
    let browser = Browser::start();
    browser.look(1600, 1000, false);
    browser.open(&site.at("/runs"));
    browser.wait_for("[data-test=tab-all]", "100");
    let first = || browser.text("[data-test=run] a").unwrap_or_default();
    eventually(LIMIT, "the newest run", || !first().is_empty());
    let newest = first();
    browser.click("[data-test=older]");
    eventually(LIMIT, "an older page", || first() != newest && !first().is_empty());
    browser.click("[data-test=newer]");
    eventually(LIMIT, "the newest page again", || first() == newest);
    browser.open(&site.at("/runs?sort=run_time&partition=2"));
    browser.wait_for("[data-test=run]", "First_Topic/2/");
    assert_eq!(browser.errors(), [""; 0]);
}

#[test]
fn a_poison_record_among_20_000_dead_letters_is_found_mended_and_redriven() {
    let data = tempfile::tempdir().unwrap();
    let lines = data.path().join("lines");
    let line = |order| match order {
        12_345 => format!("{{\"order\":{order},\"item\":\"POISON-17\"}}\n"),
        _ => format!("{{\"order\":{order},\"item\":\"tea\"}}\n"),
    };
    fs::write(&lines, (0..20_000).map(line).collect::<String>()).unwrap();
    let folder = data.path().join("data");
    let mut produce = Command::new(env!("CARGO_BIN_EXE_mb"));
    produce.args(["produce", "-", "--client", "embedded", "--data-dir"]).arg(&folder);
    let produced = produce.stdin(fs::File::open(&lines).unwrap()).status();
    assert!(produced.unwrap().success());
    // At first the step takes nothing; then everything but poison.
    let (mended, got) = (data.path().join("mended"), data.path().join("got"));
    let step = format!(
        "test -e {} || exit 65; echo 'half of it'; tee -a {} | grep -q POISON && exit 65; exit 0",
        mended.display(),
        got.display()
    );
    let args = ["--client", "embedded", "--max-batch", "500", "--exec", &step];
    let site = Site::start(&folder, free_port(), &args);
    let browser = Browser::start();
    browser.look(1600, 1000, false);
    browser.open(&site.at("/dead-letters"));
    browser.wait_for("[data-test=nav-dead-letters]", "20,000");
    browser.wait_for("[data-test=error-group]", "20,000");
    fs::write(&mended, "").unwrap();

    browser.fill("[data-test=filter-search]", "poison-17");
    eventually(LIMIT, "one dead letter", || browser.count("[data-test=dead-letter]") == 1);
    browser.wait_for("[data-test=dead-letter]", "POISON-17");
    browser.wait_for("[data-test=searched]", "Looked at 20,000 dead letters.");
    let script = "return document.querySelector('[data-test=redrive-all]').disabled;";
    let all = browser.script(script, &serde_json::json!([]));
    assert_eq!(all, true, "no button acts on more than was found");
    browser.click("[data-test=dead-letter] th a");
    browser.click("[data-test=edit]");
    browser.fill("[data-test=edit-value]", "{\"order\":12345,");
    browser.wait_for("[data-test=editor]", "This is not JSON");
    browser.screenshot("dead-letter-editor-1600-light");
    browser.fill("[data-test=edit-value]", "{\"order\":12345,\"item\":\"mended\"}");
    browser.click("[data-test=edit-redrive]");
    browser.wait_for("[data-test=dead-letter-facts]", "redriven");
    browser.wait_for("[data-test=edited-record]", "mended");
    browser.wait_for("[data-test=original-record]", "POISON-17");
    browser.screenshot("dead-letter-edited-1600-light");
    let got = fs::read_to_string(&got).unwrap();
    assert!(
        got.lines().count() == 1 && got.contains("mended") && got.ends_with("\"edited\":true}\n"),
        "{got}"
    );

    // A run whose 500 records all failed is no longer than a person reads.
    browser.open(&site.at("/runs/1"));
    browser.wait_for("[data-test=record-error]", "exit code 65");
    eventually(LIMIT, "its records", || browser.count("[data-test=record]") == 100);
    let height = "return document.documentElement.scrollHeight;";
    let height = browser.script(height, &serde_json::json!([])).as_i64().unwrap();
    assert!(height < 3000, "{height} pixels");
    browser.screenshot("run-failed-1600-light");
    browser.click("[data-test=again]");
    browser.wait_for("[data-test=toast-good]", "open dead letters of run 1 will be redriven");
    browser.click("[data-test=toast-good] a");
    browser.wait_for("[data-test=request-summary]", "succeeded");
    assert_eq!(browser.errors(), [""; 0]);
}

#[test]
fn what_a_command_prints_is_on_its_runs_page_while_it_runs() {
    let data = tempfile::tempdir().unwrap();
    let go_on = data.path().join("go_on");
    let step = format!(
        "echo 'loading part 1'; until test -e {}; do sleep 0.1; done; echo 'loading part 2'; exit 65",
        go_on.display()
    );
    let some = ["--client", "embedded", "--rate", "max", "--count", "20", "--partitions", "1"];
    let site = Site::start(data.path(), free_port(), &[&some[..], &["--exec", &step]].concat());
    let browser = Browser::start();
    browser.look(400, 900, false);
    browser.open(&site.at("/runs/1"));
    browser.wait_for("[data-test=output]", "loading part 1");
    fs::write(&go_on, "").unwrap();
    browser.wait_for("[data-test=attempt]", "loading part 2");
    browser.wait_for("[data-test=record-error]", "exit code 65");
    assert_eq!(browser.count("[data-test=output]"), 0);
    assert_eq!(browser.errors(), [""; 0]);
}

#[test]
fn beyond_loopback_the_page_asks_for_its_token() {
    let data = tempfile::tempdir().unwrap();
    let token = data.path().join("token");
    fs::write(&token, "0123456789abcdef0123\n").unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let given = ["--client", "embedded", "--step", "discard", "--rate", "10"];
    let args = [&given[..], &["--token-file", token.to_str().unwrap()]].concat();
    let site = Site::start(data.path(), free_port(), &args);
    let browser = Browser::start();
    browser.look(400, 900, false);
    browser.open(&site.at("/runs"));
    browser.wait_for("body", "oken");
    browser.fill("input[name=token]", "0123456789abcdef0123");
    browser.keys("\u{e007}");
    browser.wait_for("[data-test=connection]", "live");
}

#[test]
fn below_a_path_of_a_proxy_a_person_signs_in_changes_a_setting_and_logs_out() {
    const TOKEN: &str = "0123456789abcdef0123";
    let data = tempfile::tempdir().unwrap();
    let token = data.path().join("token");
    fs::write(&token, TOKEN).unwrap();
    let (own, port) = (free_port(), free_port());
    let url = format!("http://mb.test:{port}/tools/mb");
    let given = ["--client", "embedded", "--step", "discard", "--rate", "10"];
    let page = ["--public-url", &url, "--token-file", token.to_str().unwrap()];
    let _site = Site::start(data.path(), own, &[&given[..], &page].concat());
    let rewrite = Rewrite { host: Some(format!("localhost:{own}")), strip: "/tools/mb" };
    let _proxy = HttpProxy::start(port, own, rewrite);
    let browser = Browser::start();
    browser.look(1000, 800, false);
    let script = |body: &str| browser.script(body, &serde_json::json!([]));
    let place = || script("return location.pathname").as_str().unwrap().to_owned();

    browser.open(&format!("{url}/runs/1"));
    browser.fill("input[name=token]", TOKEN);
    browser.keys("\u{e007}");
    browser.wait_for("[data-test=connection]", "live");
    assert_eq!(place(), "/tools/mb/runs/1");
    browser.wait_for("[data-test=run-view]", "First_Topic");
    browser.click(".brand");
    browser.wait_for("[data-test=verdict]", "");
    assert_eq!(place(), "/tools/mb/");
    let outside = "return [...document.querySelectorAll('a[href]')].map(e => e.href)
        .filter(at => !new URL(at).pathname.startsWith('/tools/mb/'))";
    for view in ["/runs", "/ticks", "/dead-letters", "/lag", "/help", "/"] {
        browser.click(&format!("#nav a[href='/tools/mb{view}']"));
        eventually(LIMIT, view, || place() == format!("/tools/mb{view}"));
        assert_eq!(script(outside), serde_json::json!([]), "{view}");
    }
    browser.fill("[data-test=set-max-batch]", "7");
    browser.click("[data-test=set-max-batch-apply]");
    browser.wait_for("[data-test=set-max-batch-note]", "changed from 50");
    assert_eq!(browser.errors(), [""; 0]);

    browser.click("[data-test=logout]");
    browser.wait_for("label[for=token]", "Token");
    assert_eq!(place(), "/tools/mb/login");
    browser.open(&format!("{url}/runs"));
    browser.wait_for("label[for=token]", "Token");
}

#[test]
fn words_explain_themselves_to_the_pointer_and_the_keyboard_and_lead_to_the_help() {
    let data = tempfile::tempdir().unwrap();
    let args = ["--client", "embedded", "--rate", "20", "--step", "discard"];
    let site = Site::start(data.path(), free_port(), &args);
    let browser = Browser::start();
    // Where run keys used to break in the middle of a word.
    browser.look(1280, 900, false);
    let script = |body: &str| browser.script(body, &serde_json::json!([]));
    let texts = |value: serde_json::Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let mut words = std::collections::BTreeSet::new();
    for path in ["/", "/runs", "/ticks", "/dead-letters", "/lag"] {
        browser.open(&site.at(path));
        browser.wait_for("[data-test=connection]", "live");
        // Each can have the focus, and has a text that a screen reader reads out.
        let bare = "return [...document.querySelectorAll('[data-word]')].filter(e => e.tabIndex < 0
            || !document.getElementById(e.getAttribute('aria-describedby'))?.textContent).map(e => e.outerHTML)";
        assert_eq!(texts(script(bare)), [""; 0], "{path}");
        let here = "return [...document.querySelectorAll('[data-word]')].map(e => e.dataset.word)";
        words.extend(texts(script(here)));
    }
    for word in ["tick", "run", "lag", "cursor", "worker", "batch", "dead letter", "verdict"] {
        assert!(words.contains(word), "{word} is explained where it stands: {words:?}");
    }
    browser.open(&site.at("/runs"));
    eventually(LIMIT, "some runs", || browser.count("[data-test=run]") >= 5);
    let broken = "return [...document.querySelectorAll('.key-text')].filter(e => e.getClientRects().length > 1
        || e.offsetHeight > 30).map(e => e.textContent)";
    assert_eq!(texts(script(broken)), [""; 0], "keys on several lines");

    // The pointer, and Escape.
    const SHOWN: &str = "[data-test=tip]:popover-open";
    browser.open(&site.at("/lag"));
    browser.wait_for("[data-test=partition]", "0");
    assert_eq!(browser.count(SHOWN), 0);
    browser.hover("[data-word=cursor]");
    browser.wait_for(SHOWN, "the offset that the sensor reads next");
    browser.keys("\u{e00c}");
    eventually(LIMIT, "Escape hides it", || browser.count(SHOWN) == 0);

    // The keyboard: Tab to the word, Enter to its place in the list.
    let focused = || script("return document.activeElement.dataset.word ?? ''");
    for _ in 0..20 {
        if focused() == "lag" {
            break;
        }
        browser.keys("\u{e004}");
    }
    browser.wait_for(SHOWN, "how many records");
    browser.keys("\u{e007}");
    browser.wait_for("[data-test=word]:focus", "how many records");
    let place = script("return location.pathname + location.hash");
    assert_eq!(place, "/help#lag");
    assert_eq!(browser.count(SHOWN), 0);
    assert_eq!(browser.errors(), [""; 0]);
}

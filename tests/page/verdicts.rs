//! Each verdict as the page shows it: brought about for real, with the same words and the same colour as the API's, and
//! with the numbers of its advice.

use std::time::Duration;

use rdkafka::producer::{BaseRecord, Producer};
use serde_json::Value;
use tempfile::TempDir;

use super::Site;
use crate::support::browser::{Browser, LIMIT};
use crate::support::cluster::{Cluster, OFFSETS_TOPIC};
use crate::support::http::Http;
use crate::support::kafka::{Kafka, V3_9};
use crate::support::mb::Mb;
use crate::support::{eventually, eventually_some, free_port, raw, unique};

/// A page that shows the verdict of one mb.
struct Page<'a> {
    browser: &'a Browser,
    _site: Site,
    http: Http,
    /// mb's, kept until it has ended.
    _data: TempDir,
}

impl<'a> Page<'a> {
    fn open(browser: &'a Browser, args: &[&str]) -> Page<'a> {
        let data = tempfile::tempdir().unwrap();
        let site = Site::start(data.path(), free_port(), args);
        let http = Http::of(&site.mb);
        browser.open(&site.at("/"));
        browser.wait_for("[data-test=connection]", "live");
        Page { browser, _site: site, http, _data: data }
    }

    /// The API's verdict.
    fn verdict(&self) -> Value {
        self.http.ask("GET", "/api/v1/status", "", "").json()["verdict"].clone()
    }

    /// The page shows this verdict, and all of `words`; so does the API. Returns the API's.
    fn shows(&self, state: &str, level: &str, words: &[&str]) -> Value {
        let shown = format!("[data-test=verdict][data-state={state}][data-level={level}]");
        let has_all = |text: &str| words.iter().all(|word| text.contains(word));
        eventually(LIMIT, &format!("the page shows {state}: {words:?}"), || {
            self.browser.text(&shown).is_some_and(|text| has_all(&text))
        });
        // The picture is for people, who want to see what a failed test saw.
        self.browser.screenshot(&format!("verdict-{state}"));
        eventually_some(LIMIT, &format!("the API says {state}: {words:?}"), || {
            let verdict = self.verdict();
            let is_same = verdict["state"] == state && verdict["level"] == level;
            let headline = verdict["headline"].as_str().is_some_and(has_all);
            (is_same && headline).then_some(verdict)
        })
    }

    /// Sets what the page offers to set.
    fn set(&self, name: &str, value: &str) {
        self.browser.fill(&format!("[data-test=set-{name}]"), value);
        self.browser.click(&format!("[data-test=set-{name}-apply]"));
    }
}

fn topic_with(kafka: &Kafka, records: usize) -> (String, String) {
    let (server, topic) = (kafka.bootstrap(), unique("verdicts"));
    kafka.create_topic(&topic, 1, &[]);
    raw::produce(&server, "none", &topic, 0, &super::messages(0, records));
    (server, topic)
}

/// The number behind "set max-concurrent-runs to ".
fn advised_workers(advice: &str) -> u32 {
    let rest = advice.split("set max-concurrent-runs to ").nth(1).expect("an advice on workers");
    rest.split(' ').next().and_then(|number| number.parse().ok()).expect("a number")
}

#[test]
fn keeping_up_falling_behind_with_advice_catching_up_and_paused() {
    let (server, topic) = topic_with(Kafka::shared(V3_9), 0);
    let browser = Browser::start();
    browser.look(1600, 1000, false);
    let args = ["--bootstrap-server", &server, "--topic", &topic, "--step", "discard"];
    // 1 worker × 20 records ÷ 0.1 s = 200/s.
    let pace = ["--rate", "100", "--max-batch", "20", "--max-concurrent-runs", "1"];
    let step = ["--step-delay", "100ms", "--max-wait", "200ms"];
    let page = Page::open(&browser, &[&args[..], &pace, &step].concat());
    page.shows("keeping-up", "good", &["Keeping up"]);

    page.set("rate", "600");
    let behind = page.shows("falling-behind", "bad", &["alling behind"]);
    let advice = behind["advice"].as_str().expect("an advice");
    assert!(behind["ready"] == false && advice.contains("1 worker × 20 records ÷"), "{behind}");
    let shown = browser.text("[data-test=advice]").unwrap_or_default();
    assert!(shown.contains("set max-concurrent-runs to "), "{shown}");

    // Not so many that the lag is gone before anybody has seen it fall.
    page.set("max-concurrent-runs", &(advised_workers(&shown) + 1).to_string());
    page.shows("catching-up", "warn", &["Catching up", "done in about"]);
    page.shows("keeping-up", "good", &["Keeping up"]);

    browser.click("[data-test=pause]");
    page.shows("paused", "warn", &["Paused", "no tick begins by itself"]);
    assert_eq!(browser.errors(), [""; 0]);
}

#[test]
fn dead_letters_a_hold_and_steps_that_fail() {
    let (server, topic) = topic_with(Kafka::shared(V3_9), 100);
    let browser = Browser::start();
    browser.look(1600, 1000, true);
    let away = tempfile::tempdir().unwrap();
    let away = away.path().join("away");
    let step = format!(
        "test ! -e {} || {{ echo 'the database is away' >&2; exit 75; }}; ! grep -q '\"order\\\\\":7[}}]'",
        away.display()
    );
    let args = ["--bootstrap-server", &server, "--topic", &topic, "--exec", &step];
    let more = ["--max-batch", "1", "--max-attempts", "1"];
    let page = Page::open(&browser, &[&args[..], &more].concat());
    let open = page.shows("dead-letters-open", "warn", &["1 dead letter is open"]);
    assert_eq!(open["ready"], true, "{open}");

    std::fs::write(&away, "").unwrap();
    raw::produce(&server, "none", &topic, 0, &super::messages(100, 50));
    let held = page.shows("held", "bad", &["Holding", "the database is away"]);
    assert_eq!(held["ready"], false, "{held}");
    std::fs::remove_file(&away).unwrap();
    page.shows("dead-letters-open", "warn", &[]);
    assert_eq!(browser.errors(), [""; 0]);
}

#[test]
fn a_partition_that_cannot_be_read_an_open_transaction_and_another_member() {
    let kafka = Kafka::shared(V3_9);
    let (server, topic) = topic_with(kafka, 10);
    let browser = Browser::start();
    browser.look(400, 900, false);
    let (group, other) = (unique("group"), tempfile::tempdir().unwrap());
    let args = ["--bootstrap-server", &server, "--topic", &topic, "--group", &group];
    let more = ["--step", "discard", "--stall-after", "60"];
    let flags = [&args[..], &more].concat();
    let page = Page::open(&browser, &flags);
    page.shows("keeping-up", "good", &[]);

    let producer = raw::producer(&server, &[("transactional.id", &unique("transaction"))]);
    producer.init_transactions(LIMIT).unwrap();
    producer.begin_transaction().unwrap();
    producer.send(BaseRecord::<[u8], [u8]>::to(&topic).partition(0).payload(b"open")).unwrap();
    producer.flush(LIMIT).unwrap();
    let words = ["Waits for a transaction", "begins at offset 10,"];
    let waits = page.shows("unknown", "wait", &words);
    assert_eq!(waits["ready"], true, "{waits}");
    producer.commit_transaction(LIMIT).unwrap();
    page.shows("keeping-up", "good", &[]);

    let second = Mb::start_in(other.path(), &[&flags[..], &["--listen", "off"]].concat());
    let mut at = 10;
    eventually(Duration::from_secs(90), "the other one is named", || {
        // Both commit only while there is something to do.
        raw::produce(&server, "none", &topic, 0, &super::messages(at, 1));
        at += 1;
        page.verdict()["headline"].as_str().is_some_and(|words| words.contains("another mb"))
    });
    page.shows("blocked", "bad", &["another mb"]);
    drop(second);
    assert_eq!(browser.errors(), [""; 0]);
    browser.open("about:blank");
    drop(page);

    let large = unique("larger");
    kafka.create_topic(&large, 1, &[("max.message.bytes", "10000000")]);
    raw::produce(&server, "none", &large, 0, &[vec![b'x'; 3 << 20]]);
    let args = ["--bootstrap-server", &server, "--topic", &large, "--step", "discard"];
    let page = Page::open(&browser, &[&args[..], &["--queue-bytes", "2MiB"]].concat());
    page.shows("blocked", "bad", &["A partition cannot be read", "--queue-bytes"]);
    assert_eq!(browser.errors(), [""; 0]);
}

#[test]
fn a_partition_without_a_leader_and_a_broker_that_is_away() {
    let cluster = Cluster::start(V3_9);
    let topic = unique("spread");
    cluster.node(1).create_topic_on(&topic, &[1, 2]);
    eventually(LIMIT, "there are coordinators", || cluster.committed("any", &topic, 2).is_some());
    cluster.wait_until_in_sync(&[OFFSETS_TOPIC]);
    let servers = cluster.bootstrap();
    let browser = Browser::start();
    browser.look(1000, 900, false);
    let args = ["--bootstrap-server", &servers, "--topic", &topic, "--step", "discard"];
    let page = Page::open(&browser, &args);
    page.shows("keeping-up", "good", &[]);
    cluster.node(2).kill9();
    page.shows(
        "blocked",
        "bad",
        &["A partition cannot be read", &format!("{topic}/1 has no leader")],
    );
    for node in [1, 3] {
        cluster.node(node).kill9();
    }
    page.shows("blocked", "bad", &["The broker does not answer"]);
    assert_eq!(browser.errors(), [""; 0]);
}

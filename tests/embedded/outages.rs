//! An outage of the step's target is no poison: mb holds, and no record becomes a dead letter that a working
//! step would take. The rule is in docs/failures.md; pure parts of it are tested in `runs::retry` and
//! `runs::queue::hold`.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mb::history::{FILE, schema};

use crate::bad_input::data::{Data, LIMIT, TOPIC};
use crate::support::faults::is_long;
use crate::support::http::Http;
use crate::support::mb::Mb;
use crate::support::{eventually, test_seed};

/// mb is ready again so long after an outage: the longest pause between probes, and the time of a run.
const READY_AGAIN: Duration = Duration::from_secs(5);
/// Few records a run, and little time between attempts.
const SMALL: [&str; 4] = ["--max-batch", "5", "--retry-backoff", "50ms"];
/// The page's address, for status and readiness.
const PAGE: [&str; 2] = ["--listen", "127.0.0.1:0"];

/// A command whose target is there while a file is.
struct Target(PathBuf);

impl Target {
    fn of(data: &Data) -> Target {
        let target = Target(data.beside("target"));
        target.comes();
        target
    }

    fn comes(&self) {
        fs::write(&self.0, "").unwrap();
    }

    fn goes(&self) {
        fs::remove_file(&self.0).unwrap();
    }

    /// A command that ends with `code` while the target is away.
    fn command(&self, code: u8) -> String {
        format!(
            "cat >/dev/null; test -e {} || {{ echo connection refused >&2; exit {code}; }}",
            self.0.display()
        )
    }
}

fn records(count: i64) -> Data {
    let mut data = Data::empty();
    for number in 0..count {
        data.post(None, Some(format!("value {number}").as_bytes()), &[]);
    }
    data
}

fn start(data: &Data, command: &str, more: &[&str]) -> Mb {
    let base = ["--client", "embedded", "--topic", TOPIC, "--exec", command];
    Mb::start_in(data.path(), &[&base, &SMALL[..], more].concat())
}

fn ends(mut mb: Mb, code: i32) -> Vec<String> {
    let status = mb.wait(LIMIT);
    let said = mb.stderr();
    assert_eq!(status.code(), Some(code), "{}", said.join("\n"));
    said
}

/// The offsets of all dead letters.
fn dead_letters(data: &Data) -> BTreeSet<(i32, i64)> {
    let history = schema::open_read_only(&data.path().join(FILE)).unwrap();
    let mut query = history.prepare("SELECT partition, record_offset FROM dead_letters").unwrap();
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

fn trouble(said: &[String]) -> Vec<&String> {
    said.iter().filter(|line| line.contains(" WARN ") || line.contains(" ERROR ")).collect()
}

#[test]
fn a_target_that_is_away_costs_no_dead_letter_and_few_lines_of_trouble() {
    let data = records(200);
    let target = Target::of(&data);
    target.goes();
    let mb = start(&data, &target.command(1), &[&["--until-caught-up"], &PAGE[..]].concat());
    mb.wait_for_line("holding: the step fails for every run", LIMIT);
    let http = Http::of(&mb);
    eventually(LIMIT, "readiness says so", || {
        let answer = http.get("/readyz");
        answer.status == 503 && answer.text().contains("held")
    });
    let hold = &http.get("/api/v1/status").json()["hold"];
    assert!(hold["cause"].as_str().unwrap().ends_with("connection refused"), "{hold}");
    let metrics = http.get("/metrics").text();
    let is_it = |line: &str| line.starts_with("mb_holding{") && line.ends_with("} 1");
    assert!(metrics.lines().any(is_it), "{metrics}");
    target.comes();
    let returned = Instant::now();
    mb.wait_for_line("the step works again after", LIMIT);
    assert!(returned.elapsed() < READY_AGAIN, "after {:?}", returned.elapsed());
    let said = ends(mb, 0);
    assert_eq!(dead_letters(&data), BTreeSet::new());
    assert_eq!(data.committed()[&0].get(), 200);
    let trouble = trouble(&said);
    let held = trouble.iter().filter(|line| line.contains("holding: ")).count();
    // Two runs may fail in the same moment.
    assert!(held == 1 && trouble.len() <= 3, "an attempt that failed, and the hold: {trouble:#?}");
}

#[test]
fn a_bad_record_among_good_ones_is_given_up_on_after_its_attempts() {
    let mut data = records(100);
    data.post(None, Some(b"poison"), &[]);
    let mb = start(&data, "! grep -q poison", &["--until-caught-up"]);
    let said = ends(mb, 0);
    assert!(!said.join("\n").contains("holding"), "{}", said.join("\n"));
    let letters = dead_letters(&data);
    assert!(letters.contains(&(0, 100)) && letters.len() <= 5, "its batch: {letters:?}");
}

#[test]
fn codes_that_mean_not_now_never_make_dead_letters() {
    for (code, more) in [(75, "hold"), (75, "dead-letter"), (127, "dead-letter"), (126, "hold")] {
        // Of two runs the second one would fail quietly.
        let data = records(if more == "hold" { 10 } else { 5 });
        let target = Target::of(&data);
        target.goes();
        let flags = ["--max-attempts", "1", "--on-outage", more, "--outage-patience", "0s"];
        let mb =
            start(&data, &target.command(code), &[&flags[..], &["--until-caught-up"]].concat());
        let awaited = if more == "hold" { "holding: " } else { "attempt 4 failed" };
        mb.wait_for_line(awaited, LIMIT);
        target.comes();
        ends(mb, 0);
        assert_eq!(dead_letters(&data), BTreeSet::new(), "{code}, {more}");
    }
}

#[test]
fn a_script_that_vanishes_is_waited_for() {
    let data = records(100);
    let (script, away) = (data.beside("step.sh"), data.beside("away.sh"));
    fs::write(&script, "cat >/dev/null\n").unwrap();
    let mb = start(&data, &format!(". {}", script.display()), &["--step-delay", "20ms"]);
    eventually(LIMIT, "it runs", || data_runs(&data) > 0);
    fs::rename(&script, &away).unwrap();
    mb.wait_for_line("holding: ", LIMIT);
    fs::rename(&away, &script).unwrap();
    mb.wait_for_line("the step works again", LIMIT);
    mb.term();
    ends(mb, 0);
    assert_eq!(dead_letters(&data), BTreeSet::new());
}

fn data_runs(data: &Data) -> i64 {
    let Ok(history) = schema::open_read_only(&data.path().join(FILE)) else { return 0 };
    history
        .query_row("SELECT count(*) FROM runs WHERE state = 2", [], |row| row.get(0))
        .unwrap_or(0)
}

/// The only worker tries a bad run until mb holds; the run that probes is good.
#[test]
fn a_hold_that_its_first_probe_ends_is_not_reported() {
    let data = records(50);
    let command = r#"! grep -q '"offset":0,'"#;
    let base = ["--client", "embedded", "--topic", TOPIC, "--exec", command, "--until-caught-up"];
    let one = ["--max-concurrent-runs", "1", "--max-batch", "5", "--retry-backoff", "0"];
    let args = [&base[..], &one].concat();
    let mb = Mb::start_under("export RUST_LOG=mb=debug", data.path(), &args);
    let said = ends(mb, 0).join("\n");
    assert!(said.contains("waits until the step works: "), "no hold: {said}");
    assert!(!said.contains("holding: ") && !said.contains("the step works again"), "{said}");
    assert_eq!(dead_letters(&data), (0..5).map(|offset| (0, offset)).collect());
}

#[test]
fn a_run_that_cannot_be_compared_is_given_up_on_when_patience_is_over() {
    for order in ["none", "partition"] {
        let data = records(if order == "none" { 5 } else { 20 });
        let command = r#"! grep -q '"offset":0,'"#;
        let flags = ["--outage-patience", "3s", "--order", order, "--until-caught-up"];
        let said = ends(start(&data, command, &flags), 0);
        assert!(said.join("\n").contains("holding: "), "{order}: {}", said.join("\n"));
        let expected: BTreeSet<_> = (0..5).map(|offset| (0, offset)).collect();
        assert_eq!(dead_letters(&data), expected, "{order}: those behind it are processed");
        assert_eq!(data.committed()[&0].get(), data.posted().len() as i64);
    }
}

#[test]
fn a_hold_that_takes_too_long_ends_mb_when_somebody_waits_for_it_and_the_next_start_goes_on() {
    let data = records(40);
    let target = Target::of(&data);
    target.goes();
    let flags = ["--until-caught-up", "--hold-limit", "500ms"];
    let said = ends(start(&data, &target.command(1), &flags), 75);
    let last = said.last().unwrap();
    assert!(last.contains("--hold-limit") && last.contains("connection refused"), "{last}");
    assert_eq!(dead_letters(&data), BTreeSet::new());
    assert_eq!(data.committed().get(&0).map_or(0, |offset| offset.get()), 0);
    target.comes();
    ends(start(&data, &target.command(1), &flags), 0);
    assert_eq!(dead_letters(&data), BTreeSet::new());
    assert_eq!(data.committed()[&0].get(), 40);
}

#[test]
fn an_outage_may_halt_mb_or_be_taken_for_bad_records() {
    let data = records(20);
    let target = Target::of(&data);
    target.goes();
    ends(start(&data, &target.command(1), &["--on-outage", "halt"]), 65);
    assert_eq!(dead_letters(&data), BTreeSet::new());
    let flags = ["--on-outage", "dead-letter", "--until-caught-up"];
    ends(start(&data, &target.command(1), &flags), 0);
    assert_eq!(dead_letters(&data).len(), 20);
}

#[test]
fn a_person_may_try_now_or_give_up() {
    let data = records(20);
    let target = Target::of(&data);
    let output = Mb::run_in(data.path(), &["retry-now"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && text.contains("no mb runs"), "{text}");
    target.goes();
    let mb =
        start(&data, &target.command(1), &[&["--max-concurrent-runs", "1"], &PAGE[..]].concat());
    let hold = || Http::of(&mb).get("/api/v1/status").json()["hold"].clone();
    mb.wait_for_line("holding: ", LIMIT);
    let output = Mb::run_in(data.path(), &["give-up"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    eventually(LIMIT, "what had failed is given up on", || !dead_letters(&data).is_empty());
    target.comes();
    // If the hold has just ended by itself, there is nothing to try, and that is no error.
    let said = |command: &str| {
        let output = Mb::run_in(data.path(), &[command]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{command}: {text}");
        text
    };
    let text = said("retry-now");
    assert!(text.contains("the step is tried now") || text.contains("nothing is held"), "{text}");
    eventually(LIMIT, "the hold is over", || hold().is_null());
    assert!(said("retry-now").contains("nothing is held"));
    assert!(said("give-up").contains("no run is given up on"));
    mb.term();
    ends(mb, 0);
    assert_eq!(data.committed()[&0].get(), 20, "given up on or processed");
}

/// A producer at 200 records a second, one of a hundred of them poison, while the target goes and comes, the
/// script vanishes, and mb is killed: dead letters are exactly the poison records, all others are processed, and
/// mb is ready again in time after each outage. The long form (`MB_FAULT_LONG`) has outages of up to a minute.
#[test]
fn whatever_goes_away_dead_letters_are_exactly_the_poison_records() {
    let seed = test_seed();
    println!("MB_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let data = Data::empty();
    let target = Target::of(&data);
    let (script, away, done) =
        (data.beside("step.sh"), data.beside("away.sh"), data.beside("done"));
    let text = format!(
        r#"input=$(cat)
test -e {} || {{ echo connection refused >&2; exit 1; }}
if printf '%s' "$input" | grep -q '"offset":[0-9]*57,'; then echo poison >&2; exit 3; fi
printf '%s\n' "$input" | sed -n 's/.*"offset":\([0-9]*\),.*/\1/p' >>{}
"#,
        target.0.display(),
        done.display()
    );
    fs::write(&script, text).unwrap();
    let command = format!(". {}", script.display());
    let busy = ["--rate", "200", "--bisect", "--max-wait", "50ms"];
    let flags = [&busy[..], &PAGE[..]].concat();
    let mut mb = start(&data, &command, &flags);
    let rounds = if is_long() { 8 } else { 4 };
    for _ in 0..rounds {
        let time =
            Duration::from_millis(random.u64(if is_long() { 1000..60_000 } else { 500..3000 }));
        let is_script = random.bool();
        if is_script {
            fs::rename(&script, &away).unwrap()
        } else {
            target.goes()
        }
        if random.bool() {
            std::thread::sleep(time / 2);
            mb.kill9();
            mb = start(&data, &command, &flags);
        }
        mb.wait_for_line("holding: ", LIMIT);
        std::thread::sleep(time);
        if is_script {
            fs::rename(&away, &script).unwrap()
        } else {
            target.comes()
        }
        let http = Http::of(&mb);
        eventually(READY_AGAIN, "mb is ready", || http.get("/readyz").status == 200);
        if random.bool() {
            mb.kill9();
            mb = start(&data, &command, &flags);
        }
        std::thread::sleep(Duration::from_millis(random.u64(500..3000)));
    }
    // While good records come, every poison record can be told from an outage.
    let posted = || {
        let lag = Http::of(&mb).get("/api/v1/lag").json();
        lag["top"][0]["end"].as_i64().unwrap()
    };
    let all = posted();
    // After the long outages, tens of thousands of runs wait, each of which starts a shell.
    let limit = if is_long() { 10 * LIMIT } else { LIMIT };
    eventually(limit, "all up to here is committed", || {
        let lag = Http::of(&mb).get("/api/v1/lag").json();
        lag["top"][0]["committed"].as_i64().is_some_and(|committed| committed >= all)
    });
    mb.term();
    ends(mb, 0);
    let end = data.committed()[&0].get();
    let poison: BTreeSet<_> =
        (0..end).filter(|offset| offset % 100 == 57).map(|offset| (0, offset)).collect();
    assert!(!poison.is_empty(), "{end} records");
    let letters: BTreeSet<_> =
        dead_letters(&data).into_iter().filter(|(_, offset)| *offset < end).collect();
    assert_eq!(letters, poison);
    let processed: BTreeSet<i64> =
        fs::read_to_string(&done).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    let processed: BTreeSet<_> = processed.into_iter().filter(|offset| *offset < end).collect();
    let good: BTreeSet<i64> = (0..end).filter(|offset| offset % 100 != 57).collect();
    let differing: Vec<_> = processed.symmetric_difference(&good).collect();
    assert!(differing.is_empty(), "{differing:?}");
}

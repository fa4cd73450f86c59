//! Finding a bad record and mending it, with the built binary: dead letters are searched, edited and redriven, also across
//! kills; a failed run is run again without doing a record twice; and what came of it is counted.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::http::Http;
use crate::support::mb::Mb;

const LIMIT: Duration = Duration::from_secs(60);

/// A data directory with an embedded topic of one partition; what the step got is beside it.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// Records `{"order":0}` to `{"order":RECORDS - 1}`; those in `bad` have a word that the step does not take.
    fn new(records: usize, bad: &[usize]) -> Place {
        let place = Place { folder: tempfile::tempdir().unwrap() };
        let lines: String = (0..records)
            .map(|order| {
                let word = if bad.contains(&order) { "POISON" } else { "tea" };
                format!("k{order}\t{{\"order\":{order},\"item\":\"{word}\"}}\n")
            })
            .collect();
        let produce =
            ["produce", "-", "--client", "embedded", "--partitions", "1", "--key-separator", "\t"];
        let output = place.with_stdin(&produce, &lines);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        place
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn with_stdin(&self, args: &[&str], input: &str) -> std::process::Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mb"));
        command.args(args).arg("--data-dir").arg(self.data());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// The step keeps every line that it gets, and names those with POISON as failed.
    fn step(&self) -> String {
        format!(
            "tee -a {} | grep POISON | sed 's/.*\"offset\":\\([0-9]*\\).*/\\1 no such item/' > $MB_FAILED_FILE; exit 0",
            self.got().display()
        )
    }

    fn got(&self) -> PathBuf {
        self.folder.path().join("got")
    }

    /// What the step got, in any order, and forgets it.
    fn take_got(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.got()).unwrap_or_default();
        let _ = std::fs::remove_file(self.got());
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn start(&self, more: &[&str]) -> Mb {
        let step = self.step();
        let args = ["--client", "embedded", "--max-batch", "200", "--exec", &step];
        Mb::start_in(&self.data(), &[&args[..], more].concat())
    }

    /// Processes all that there is.
    fn process(&self, more: &[&str]) {
        let mut mb = self.start(&[&["--until-caught-up", "--listen", "off"], more].concat());
        assert_eq!(mb.wait(LIMIT).code(), Some(0), "{:?}", mb.stderr());
    }

    fn mb(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let output = Mb::run_in(&self.data(), args);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }

    fn json(&self, args: &[&str]) -> Vec<Value> {
        let (code, stdout, stderr) = self.mb(&[args, &["--json"]].concat());
        assert_eq!(code, Some(0), "{args:?}: {stderr}");
        serde_json::from_str(&stdout).unwrap()
    }

    fn letter(&self, id: &str) -> Value {
        self.json(&["dead-letters", "show", id]).remove(0)
    }

    /// What came of the newest request: records that succeeded, failed and are left.
    fn newest_request(&self) -> [Value; 4] {
        let newest = self.json(&["requests", "list", "--limit", "1"]).remove(0);
        ["state", "records", "records_failed", "records_left"].map(|field| newest[field].clone())
    }
}

fn file_with(folder: &Path, content: &[u8]) -> String {
    let path = folder.join("mended");
    std::fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn an_edited_dead_letter_is_redriven_as_it_was_edited_whatever_is_killed_in_between() {
    let place = Place::new(100, &[33]);
    let mut mb = place.start(&["--listen", "off"]);
    eventually(LIMIT, "the bad record is a dead letter", || {
        place.mb(&["dead-letters", "list"]).1.contains("no such item")
    });
    place.take_got();
    let value = r#"{"order":33,"item":"tea, mended"}"#;
    let edit = ["dead-letters", "edit", "1", "--value-file", "-", "--json"];
    let edited = place.with_stdin(&edit, value);
    let done: Value = serde_json::from_slice(&edited.stdout).unwrap();
    assert_eq!(done, json!([{ "id": 1, "redrive": null }]));
    mb.kill9();
    let letter = place.letter("1");
    assert_eq!(letter["record"]["value"], r#"{"order":33,"item":"POISON"}"#);
    assert_eq!(
        (&letter["edited"]["value"], &letter["edited"]["key"]),
        (&value.into(), &"k33".into())
    );
    assert_eq!(letter["preview"]["value"], value, "what a redrive would process");
    let (_, text, _) = place.mb(&["dead-letters", "show", "1"]);
    assert!(text.contains("POISON") && text.contains("tea, mended"), "{text}");

    // The redrive is requested, and mb killed while its run is under way; then it comes again.
    place.json(&["dead-letters", "redrive", "1"]);
    let killed = ["--client", "embedded", "--listen", "off", "--step", "discard"];
    let mut killed = Mb::start_to_crash("stepped", &place.data(), &killed);
    killed.wait_for_crash(LIMIT);
    place.process(&[]);
    let got = place.take_got();
    let [record] = &got[..] else { panic!("{got:?}") };
    assert_eq!((&record["offset"], &record["value"]), (&33.into(), &value.into()));
    assert_eq!((&record["partition"], &record["edited"]), (&0.into(), &true.into()));
    let letter = place.letter("1");
    assert_eq!((&letter["state"], &letter["edited"]["value"]), (&"redriven".into(), &value.into()));
    let (code, _, stderr) = place.mb(&["dead-letters", "edit", "1", "--key", "x"]);
    assert!(code == Some(1) && stderr.contains("is redriven already"), "{stderr}");
}

#[test]
fn an_edit_outlives_a_redrive_that_fails_and_can_be_taken_back() {
    let place = Place::new(10, &[3]);
    place.process(&[]);
    let wrong = file_with(place.folder.path(), b"no text \xff");
    place.json(&["dead-letters", "edit", "1", "--value-file", &wrong, "--key", "POISON"]);
    for redrive in 1..=2 {
        place.take_got();
        place.json(&["dead-letters", "redrive", "1"]);
        place.process(&["--max-attempts", "1"]);
        let got = place.take_got();
        assert_eq!(got.len(), 1, "redrive {redrive}");
        assert_eq!((&got[0]["key"], &got[0]["edited"]), (&"POISON".into(), &true.into()));
        assert!(got[0]["value_base64"].is_string(), "bytes that are no text");
        assert_eq!(place.newest_request(), [json!("done"), json!(0), json!(1), json!(0)]);
    }
    assert_eq!(place.letter("1")["state"], "open");
    let listed = place.mb(&["dead-letters", "list"]).1;
    assert!(listed.contains("open, edited") && listed.contains("(base64)"), "{listed}");
    place.json(&["dead-letters", "revert", "1"]);
    assert_eq!(place.letter("1")["edited"], Value::Null);
    let (code, _, stderr) = place.mb(&["dead-letters", "revert", "1"]);
    assert!(code == Some(1) && stderr.contains("dead letter 1 is not edited"), "{stderr}");
    place.json(&["dead-letters", "redrive", "1"]);
    place.process(&[]);
    let got = place.take_got();
    assert_eq!(got[0]["value"], r#"{"order":3,"item":"POISON"}"#);
    assert!(got[0].get("edited").is_none(), "{got:?}");
}

#[test]
fn what_cannot_be_edited_is_said_in_one_line() {
    let place = Place::new(5, &[3]);
    place.process(&[]);
    let large = file_with(place.folder.path(), &vec![b'x'; 9 << 20]);
    let refused = |args: &[&str]| {
        let (code, stdout, stderr) = place.mb(&[&["dead-letters"], args].concat());
        assert_eq!(stdout, "", "{args:?}");
        let line = stderr.lines().last().unwrap_or_default().to_owned();
        (code, line)
    };
    for (args, expected, says) in [
        (&["edit", "1"][..], 64, "expected --value-file FILE or --key TEXT"),
        (&["edit"], 64, "got 0 of them with edit, expected one"),
        (&["revert", "1", "2"], 64, "got 2 of them with revert, expected one"),
        (&["edit", "7", "--key", "x"], 1, "dead letter 7 is not in the history"),
        (&["edit", "1", "--value-file", "/no/such"], 78, "/no/such, which cannot be read"),
        (&["list", "--sort", "size"], 64, "expected one of newest, oldest, error"),
        (&["list", "--by-error", "--search", "x"], 64, "expected only one of them"),
        (&["redrive", "1", "--key", "x"], 64, "expected it only with edit"),
    ] {
        let (code, line) = refused(args);
        assert!(code == Some(expected) && line.contains(says), "{args:?}: {code:?} {line}");
    }
    let mb = place.start(&["--listen", "127.0.0.1:0"]);
    let http = Http::of(&mb);
    let (code, line) = refused(&["edit", "1", "--value-file", &large]);
    assert!(code == Some(1) && line.contains("stop mb and repeat the command"), "{line}");
    let body = json!({ "value": "x".repeat(1 << 20) }).to_string();
    let answer = http.post("/api/v1/dead-letters/1/edit", &body);
    assert_eq!((answer.status, answer.message()), (413, "a body above 1048576 bytes".to_owned()));
    assert_eq!(place.letter("1")["edited"], Value::Null, "nothing was edited");
    drop(mb);
    place.json(&["dead-letters", "edit", "1", "--value-file", &large]);
    let edited = place.letter("1")["edited"]["value"].as_str().map(str::len);
    assert_eq!(edited, Some(9 << 20));
}

#[test]
fn a_bad_record_is_found_by_a_word_of_it_and_lists_are_sorted() {
    let place = Place::new(60, &[7, 31, 44]);
    place.process(&[]);
    let found = |args: &[&str]| {
        let rows = place.json(&[&["dead-letters", "list"], args].concat());
        rows.iter().map(|row| row["offset"].as_i64().unwrap()).collect::<Vec<_>>()
    };
    let oldest = found(&["--sort", "oldest"]);
    let mut newest = found(&[]);
    newest.reverse();
    assert_eq!((oldest.len(), &oldest), (3, &newest));
    assert_eq!(found(&["--search", "order\":31,"]), [31]);
    assert_eq!(found(&["--search", "K44"]), [44], "the key, in any case");
    assert_eq!(found(&["--search", "no SUCH item", "--sort", "error"]).len(), 3);
    assert_eq!(found(&["--search", "poison", "--limit", "2"]).len(), 2);
    assert_eq!(found(&["--search", "nowhere"]), [0i64; 0]);
    let listed = place.mb(&["dead-letters", "list", "--search", "k7"]).1;
    assert!(
        listed.contains("KEY") && listed.contains(r#"{"order":7,"item":"POISON"}"#),
        "{listed}"
    );
}

#[test]
fn a_run_that_is_run_again_redrives_its_open_dead_letters_or_else_is_replayed() {
    for bisect in [false, true] {
        let place = Place::new(100, &[33, 66]);
        let fails = "! grep -q POISON";
        let flags = ["--bisect", "--max-attempts", "1", "--exec", fails];
        let more = if bisect { &flags[..] } else { &[] };
        let step = place.step();
        let args = ["--client", "embedded", "--max-batch", "200", "--listen", "off"];
        let run = |more: &[&str]| {
            let exec = ["--exec", &step];
            let more = if more.is_empty() { &exec[..] } else { more };
            Mb::start_in(&place.data(), &[&args[..], more].concat())
        };
        let mb = run(more);
        let open = || place.mb(&["dead-letters", "list"]).1.lines().count();
        eventually(LIMIT, "both are dead letters", || open() == 3);
        drop(mb);
        place.take_got();
        let mb = run(&[]);
        eventually(LIMIT, "mb runs", || place.mb(&["status"]).0 == Some(0));
        let again = || place.json(&["runs", "again", "1"]).remove(0);
        assert_eq!(again(), json!({ "request": 1, "did": "redrive", "dead_letters": 2 }));
        eventually(LIMIT, "the redrive is done", || place.newest_request()[0] == "done");
        let offsets: Vec<_> = place.take_got().iter().map(|got| got["offset"].clone()).collect();
        assert_eq!(offsets, [33, 66], "no record of the others");
        assert_eq!(place.newest_request(), [json!("done"), json!(0), json!(2), json!(0)]);

        // A run of the redrive left them again. Once they are gone, the run is replayed.
        let redrive = place.json(&["runs", "--request", "1"]).remove(0)["id"].to_string();
        let again = |id: &str| place.json(&["runs", "again", id]).remove(0);
        assert_eq!(again(&redrive)["did"], "redrive");
        eventually(LIMIT, "the second redrive is done", || place.newest_request()[0] == "done");
        place.json(&["dead-letters", "discard", "--all", "--note", "of no use"]);
        place.take_got();
        assert_eq!(again("1"), json!({ "request": 3, "did": "replay", "dead_letters": 0 }));
        eventually(LIMIT, "the replay is done", || place.newest_request()[0] == "done");
        assert_eq!(place.take_got().len(), 100);
        assert_eq!(place.newest_request(), [json!("done"), json!(98), json!(2), json!(0)]);
        drop(mb);
    }
}

#[test]
fn a_redrive_that_saves_all_but_one_says_so_however_its_run_was_split() {
    for flags in [&[][..], &["--bisect", "--max-attempts", "1"]] {
        let place = Place::new(116, &[50]);
        let args = ["--client", "embedded", "--listen", "off", "--max-batch", "200"];
        let fail = ["--until-caught-up", "--max-attempts", "1", "--on-outage", "dead-letter"];
        let failing = [&args[..], &fail, &["--exec", "exit 1"]].concat();
        let mut mb = Mb::start_in(&place.data(), &failing);
        assert_eq!(mb.wait(LIMIT).code(), Some(0));
        assert_eq!(place.json(&["dead-letters", "list", "--limit", "200"]).len(), 116);
        place.json(&["dead-letters", "redrive", "--all"]);
        let waiting = [json!("open"), json!(0), json!(0), json!(116)];
        assert_eq!(place.newest_request(), waiting);
        let step = if flags.is_empty() { place.step() } else { "! grep -q POISON".to_owned() };
        let redrive = [&args[..], &["--until-caught-up", "--exec", &step], flags].concat();
        let mut mb = Mb::start_in(&place.data(), &redrive);
        assert_eq!(mb.wait(LIMIT).code(), Some(0), "{:?}", mb.stderr());
        let done = [json!("done"), json!(115), json!(1), json!(0)];
        assert_eq!(place.newest_request(), done, "{flags:?}");
        let (_, table, _) = place.mb(&["requests", "list"]);
        let row: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
        let counts = row.windows(4).any(|cells| cells == ["115", "1", "0", "116"]);
        assert!(counts, "SUCCEEDED, FAILED, LEFT, RECORDS: {table}");
    }
}

#[test]
fn a_runs_failed_records_come_first_with_their_errors_and_an_edited_one_says_so() {
    let place = Place::new(116, &[50]);
    let mb = place.start(&["--listen", "127.0.0.1:0"]);
    let http = Http::of(&mb);
    let letters = || http.get("/api/v1/dead-letters").json()["dead_letters"].clone();
    eventually(LIMIT, "the bad record is a dead letter", || {
        letters().as_array().is_some_and(|all| all.len() == 1)
    });
    let records = http.get("/api/v1/runs/1/records").json();
    let failed = &records["failed"][0];
    assert_eq!((&failed["offset"], &failed["error"]), (&50.into(), &"no such item".into()));
    assert_eq!((&failed["dead_letter"], &failed["state"]), (&1.into(), &"open".into()));
    assert_eq!((&records["failed_of"], &records["of"]), (&1.into(), &116.into()));
    let others = records["records"].as_array().unwrap();
    assert!(others.len() == 100 && others.iter().all(|record| record["offset"] != 50));
    let edit = r#"{"value":"tea","redrive":true}"#;
    let edited = http.post("/api/v1/dead-letters/1/edit", edit).json();
    assert_eq!(edited["redrive"]["letters"], 1, "{edited}");
    let request = edited["redrive"]["request"].clone();
    let state = || {
        http.get(&format!("/api/v1/requests?id={request}")).json()["requests"][0]["state"].clone()
    };
    eventually(LIMIT, "the redrive is done", || state() == "done");
    let run = http.get(&format!("/api/v1/runs?request={request}")).json()["runs"][0]["id"].clone();
    let records = http.get(&format!("/api/v1/runs/{run}/records")).json();
    assert_eq!(records["failed"], json!([]));
    let redriven = &records["records"][0];
    assert_eq!((&redriven["value"], &redriven["edited"]), (&"tea".into(), &true.into()));
}

#[test]
fn what_a_command_prints_is_shown_while_it_runs() {
    let place = Place::new(3, &[]);
    let go_on = place.folder.path().join("go_on");
    let step = format!(
        "echo 'step 1 of 2'; echo 'be patient' >&2; until test -e {}; do sleep 0.1; done; echo 'step 2 of 2'",
        go_on.display()
    );
    let args = ["--client", "embedded", "--listen", "127.0.0.1:0", "--exec", &step];
    let mb = Mb::start_in(&place.data(), &args);
    let http = Http::of(&mb);
    let run = || http.get("/api/v1/runs/1").json();
    let so_far = "step 1 of 2\n[stderr]\nbe patient\n";
    eventually(LIMIT, "its output so far", || run()["output"] == so_far);
    assert_eq!(run()["state"], "running");
    let (_, shown, _) = place.mb(&["runs", "1"]);
    assert!(shown.contains("step 1 of 2") && shown.contains("running"), "{shown}");
    std::fs::write(&go_on, "").unwrap();
    eventually(LIMIT, "the run ends", || run()["state"] == "succeeded");
    assert_eq!(run()["output"], "step 1 of 2\nstep 2 of 2\n[stderr]\nbe patient\n");
}

//! Data directories that earlier versions of mb left behind: this one opens them and goes on where they ended.
//! How the kept ones were made is in tests/old_data/; each release adds one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mb::history::schema;
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::mb::Mb;

/// The versions whose data directories are kept.
const VERSIONS: [&str; 1] = ["1a34139"];

/// A copy of a kept data directory, and a file beside it in which the step names its runs.
struct Old {
    folder: TempDir,
}

impl Old {
    fn unpack(version: &str, name: &str) -> Old {
        let folder = tempfile::tempdir().unwrap();
        let kept = Path::new(env!("CARGO_MANIFEST_DIR"));
        let kept = kept.join("tests/old_data").join(version).join(format!("{name}.tar.gz"));
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        let tar = Command::new("tar").arg("-xzf").arg(&kept).arg("-C").arg(&data).status().unwrap();
        assert!(tar.success(), "{}", kept.display());
        Old { folder }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// What a command prints with --json.
    fn json(&self, args: &[&str]) -> Vec<Value> {
        let output = Mb::run_in(&self.data(), &[args, &["--json"]].concat());
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The chosen fields of each row.
    fn rows(&self, args: &[&str], fields: &[&str]) -> Vec<Value> {
        let row = |row: &Value| fields.iter().map(|field| row[field].clone()).collect();
        self.json(args).iter().map(row).collect()
    }

    /// The chosen fields of each dead letter, in the order of the log.
    fn dead_letters(&self, fields: &[&str]) -> Vec<Value> {
        let fields = [&["partition", "offset"], fields].concat();
        let mut rows = self.rows(&["dead-letters", "list", "--state", "all"], &fields);
        rows.sort_by_key(|row| (row[0].as_i64(), row[1].as_i64()));
        rows.iter().map(|row| row.as_array().unwrap()[2..].to_vec().into()).collect()
    }

    /// The number of the only open dead letter.
    fn open_dead_letter(&self) -> String {
        let rows = self.rows(&["dead-letters", "list"], &["id"]);
        let [row] = &rows[..] else { panic!("{rows:?}") };
        row[0].to_string()
    }

    fn command(&self, args: &[&str]) {
        let output = Mb::run_in(&self.data(), args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Processes everything that is left with a step that accepts every record. Returns what each run got, as
    /// its key and its values, ascending.
    fn process(&self) -> Vec<(String, Vec<String>)> {
        let out = self.folder.path().join("out");
        fs::create_dir_all(&out).unwrap();
        let step = format!("cat > \"{}/$(echo $MB_RUN_KEY | tr / +)\"", out.display());
        self.command(&[
            "--client",
            "embedded",
            "--topic",
            "orders",
            "--listen",
            "off",
            "--until-caught-up",
            "--exec",
            &step,
        ]);
        let mut runs: Vec<_> = fs::read_dir(&out)
            .unwrap()
            .map(|file| {
                let path = file.unwrap().path();
                let key = path.file_name().unwrap().to_str().unwrap().replace('+', "/");
                let records = fs::read_to_string(&path).unwrap();
                let value = |line: &str| {
                    let record: Value = serde_json::from_str(line).unwrap();
                    record["value"].as_str().unwrap().to_owned()
                };
                (key, records.lines().map(value).collect())
            })
            .collect();
        runs.sort();
        fs::remove_dir_all(&out).unwrap();
        runs
    }

    /// The group is at the end of each partition.
    fn assert_caught_up(&self, end: i64) {
        let lag = self.rows(
            &["lag", "--client", "embedded", "--topic", "orders"],
            &["current_offset", "log_end_offset", "lag"],
        );
        assert_eq!(lag, [json!([end, end, 0]), json!([end, end, 0])]);
    }
}

/// The values of a partition's records: its offset is half of a record's number.
fn values(partition: i64, offsets: std::ops::Range<i64>) -> Vec<String> {
    let value = |offset: i64| match offset * 2 + partition {
        number @ (6 | 17 | 30) => format!("bad-{number}"),
        number => format!("good-{number}"),
    };
    offsets.map(value).collect()
}

fn run(key: &str, values: Vec<String>) -> (String, Vec<String>) {
    (key.to_owned(), values)
}

/// Dead letters and requests as each kept data directory has them.
fn assert_dead_letters_and_requests(old: &Old) {
    assert_eq!(
        old.dead_letters(&["partition", "offset", "state", "note"]),
        [
            json!([0, 3, "redriving", null]),
            json!([0, 15, "open", null]),
            json!([1, 8, "discarded", "test data"]),
        ]
    );
    let open = old.json(&["dead-letters", "show", &old.open_dead_letter()]);
    assert_eq!(open[0]["record"]["value"], "bad-30");
    let open = old.rows(&["requests", "list", "--state", "open"], &["id", "kind"]);
    assert_eq!(open, [json!([2, "replay"]), json!([1, "redrive"])]);
}

#[test]
fn a_data_directory_that_an_older_mb_left_cleanly_goes_on_with_nothing_lost() {
    for version in VERSIONS {
        let old = Old::unpack(version, "stopped");
        assert_dead_letters_and_requests(&old);
        assert_eq!(
            old.process(),
            [
                run("orders/0/20-29", values(0, 20..30)),
                run("orders/0/3-3.redrive-1", values(0, 3..4)),
                run("orders/1/0-4.replay-2", values(1, 0..5)),
                run("orders/1/20-29", values(1, 20..30)),
            ]
        );
        old.assert_caught_up(30);
        assert_eq!(old.json(&["requests", "list", "--state", "open"]), [] as [Value; 0]);
        // Its open dead letter can be edited and redriven.
        let mended = old.folder.path().join("mended");
        fs::write(&mended, "mended-30").unwrap();
        let edit = ["dead-letters", "edit", &old.open_dead_letter(), "--value-file"];
        old.command(&[&edit[..], &[mended.to_str().unwrap()]].concat());
        old.command(&["dead-letters", "redrive", &old.open_dead_letter()]);
        assert_eq!(old.process(), [run("orders/0/15-15.redrive-3", vec!["mended-30".into()])]);
        assert_eq!(
            old.dead_letters(&["offset", "state"]),
            [json!([3, "redriven"]), json!([15, "redriven"]), json!([8, "discarded"])]
        );
    }
}

#[test]
fn runs_that_an_older_mb_had_not_finished_when_it_was_killed_are_made_again_under_their_keys() {
    for version in VERSIONS {
        let old = Old::unpack(version, "killed");
        assert_dead_letters_and_requests(&old);
        // 0/30-39 lies above the committed offset of its partition, but is done, and is not made again.
        assert_eq!(
            old.process(),
            [
                run("orders/0/20-29", values(0, 20..30)),
                run("orders/0/3-3.redrive-1", values(0, 3..4)),
                run("orders/1/0-4.replay-2", values(1, 0..5)),
            ]
        );
        old.assert_caught_up(40);
        let runs = old.rows(&["runs", "--limit", "1000"], &["key", "state"]);
        for key in ["orders/0/20-29", "orders/0/30-39", "orders/1/20-29", "orders/1/30-39"] {
            let of_key = runs.iter().filter(|run| run[0] == key);
            assert_eq!(of_key.collect::<Vec<_>>(), [&json!([key, "succeeded"])]);
        }
    }
}

/// What an older mb does with this one's files is shown by what this mb does with files of a version higher.
#[test]
fn a_file_of_a_newer_mb_is_refused_in_one_line_that_names_both_versions() {
    for version in VERSIONS {
        for file in [mb::history::FILE, mb::kafka::embedded::FILE] {
            let old = Old::unpack(version, "stopped");
            let db = Connection::open(old.data().join(file)).unwrap();
            let known: i64 = if file == mb::history::FILE {
                schema::VERSION
            } else {
                mb::kafka::embedded::VERSION
            };
            let newer = known + 1;
            db.pragma_update(None, "user_version", newer).unwrap();
            drop(db);
            let output = Mb::run_in(
                &old.data(),
                &[
                    "--client", "embedded", "--topic", "orders", "--listen", "off", "--step",
                    "discard",
                ],
            );
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(78), "{stderr}");
            let errors: Vec<_> = stderr.lines().filter(|line| line.starts_with("mb: ")).collect();
            let [error] = errors[..] else { panic!("{stderr}") };
            assert!(error.contains(file), "{error}");
            assert!(error.contains(&format!("version {newer}")), "{error}");
            let names_own = ["knows", "reads version"].map(|verb| format!("{verb} {known}"));
            assert!(names_own.iter().any(|words| error.contains(words)), "{error}");
            let db = Connection::open(old.data().join(file)).unwrap();
            assert_eq!(query(&db, "PRAGMA user_version"), newer, "the file is left as it is");
        }
    }
}

fn query(db: &Connection, sql: &str) -> i64 {
    db.query_row(sql, [], |row| row.get(0)).unwrap()
}

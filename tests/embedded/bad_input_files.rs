//! Bad files and folders against the built binary: what is in the place of mb's own, damaged, foreign,
//! taken away, read-only. Bytes, flags and commands are in bad_input.rs.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use mb::history::{clean_shutdown, schema};
use rusqlite::Connection;

use crate::bad_input::data::{Data, LIMIT, TOPIC, refusal};
use crate::support::mb::Mb;

#[test]
fn a_data_directory_that_is_none_is_refused_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "mine").unwrap();
    let dangling = folder.path().join("dangling");
    std::os::unix::fs::symlink(folder.path().join("nowhere/at all"), &dangling).unwrap();
    let paths = [file.clone(), file.join("below"), dangling, "/proc/mb".into(), "/dev/null".into()];
    for path in paths {
        let mb = Mb::start_in(&path, &["--client", "embedded"]);
        refusal(mb, 78, &["--data-dir", path.to_str().unwrap()]);
    }
    assert_eq!(fs::read(&file).unwrap(), b"mine");
}

/// A file system of its own, in memory; gone when this is dropped.
struct Disk(std::path::PathBuf);

impl Disk {
    fn mount(path: &Path) -> Disk {
        let disk = Disk(path.to_owned());
        disk.call(&["-t", "tmpfs", "-o", "size=16m", "mb-bad-input"]);
        disk
    }

    fn writable(&self, is_writable: bool) {
        let option = if is_writable { "remount,rw" } else { "remount,ro" };
        self.call(&["-o", option]);
    }

    fn call(&self, args: &[&str]) {
        let output = Command::new("mount").args(args).arg(&self.0).output().expect("mount");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "this test needs root, to mount a file system: {said}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_read_only_disk_is_refused_and_everything_on_it_comes_later() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::mount(dir.path());
    let data = Data::with_records_on(dir);
    let out = data.beside("out");
    disk.writable(false);
    let path = data.path().to_str().unwrap().to_owned();
    data.refused(78, &["--step", "discard"], &["--data-dir", &path, "Read-only"]);
    disk.writable(true);
    data.assert_offsets_unmoved();
    assert!(!out.exists());
    data.assert_nothing_lost();
}

#[test]
fn what_lies_in_the_place_of_mbs_own_files_is_named_and_left() {
    for name in ["mb.lock", "control.sock", "history.db", "history.db-left"] {
        let data = Data::with_records();
        fs::create_dir(data.file(name)).unwrap();
        data.refused(78, &["--step", "discard"], &["--data-dir", name]);
        data.assert_offsets_unmoved();
        fs::remove_dir(data.file(name)).unwrap();
        data.assert_nothing_lost();
    }
}

#[test]
fn a_fifo_in_the_place_of_mbs_own_files_is_named_and_not_waited_for() {
    for name in ["mb.lock", "history.db", "history.db-left", "history.db-left.new"] {
        let data = Data::with_records();
        let file = data.file(name);
        assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
        data.refused(78, &["--step", "discard"], &["--data-dir: got a FIFO at", name]);
        refusal(Mb::start_in(data.path(), &["runs"]), 78, &["--data-dir"]);
        fs::remove_file(&file).unwrap();
        data.assert_nothing_lost();
    }
}

#[test]
fn a_damaged_history_is_moved_aside_and_nothing_is_lost() {
    for what in ["garbage", "truncated", "a text"] {
        let data = Data::with_records();
        data.run(&["--step", "discard", "--group", "other"]);
        let history = data.file(mb::history::FILE);
        Connection::open(&history).unwrap().pragma_update(None, "journal_mode", "DELETE").unwrap();
        let mut bytes = fs::read(&history).unwrap();
        match what {
            "garbage" => bytes.fill(0xa5),
            "truncated" => bytes.truncate(5000),
            _ => bytes = b"not a database".repeat(100),
        }
        fs::write(&history, &bytes).unwrap();
        let command = Mb::start_in(data.path(), &["runs"]);
        refusal(command, 78, &["--data-dir", "history.db"]);
        assert!(fs::read(&history).unwrap() == bytes, "{what}: a command changes nothing");

        data.assert_nothing_lost();
        let aside = fs::read_dir(data.path()).unwrap().map(|entry| entry.unwrap().path());
        let aside: Vec<_> =
            aside.filter(|path| path.display().to_string().contains(".damaged-")).collect();
        assert!(aside.len() == 1 && fs::read(&aside[0]).unwrap() == bytes, "{what}: {aside:?}");
    }
}

/// A history of so many bytes that its check is spared where nobody has touched it.
fn with_long_history(data: &Data) -> std::path::PathBuf {
    let history = data.file(mb::history::FILE);
    data.run(&["--step", "discard", "--group", "other"]);
    let db = Connection::open(&history).unwrap();
    db.execute("UPDATE runs SET output = ?1 WHERE id = 1", ["x".repeat(20 << 20)]).unwrap();
    drop(db);
    assert_eq!(clean_shutdown::unchanged_since(&history), None, "somebody has written to it");
    data.run(&["--step", "discard", "--group", "other"]);
    assert!(clean_shutdown::unchanged_since(&history).is_some());
    history
}

fn damage(history: &Path) {
    let file = fs::OpenOptions::new().write(true).open(history).unwrap();
    file.write_all_at(&[0x5a; 16384], 4096).unwrap();
}

/// A good start moves it aside.
fn assert_moved_aside(data: &Data) {
    data.assert_nothing_lost();
    let mut names = fs::read_dir(data.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.any(|name| name.to_string_lossy().contains(".damaged-")));
}

#[test]
fn a_long_history_that_was_damaged_is_checked_also_where_mb_was_stopped_before_it_opened_it() {
    let data = Data::with_records();
    let history = with_long_history(&data);
    damage(&history);
    let nobody = format!("127.0.0.1:{}", crate::support::free_port());
    let waits = ["--bootstrap-server", &nobody, "--wait-for-broker", "--listen", "off"];
    let mut waiting = Mb::start_in(data.path(), &waits);
    waiting.wait_for_line("waiting for the broker", LIMIT);
    waiting.term();
    assert_eq!(waiting.wait(LIMIT).code(), Some(0), "{:?}", waiting.stderr());
    assert_moved_aside(&data);
}

#[test]
fn a_long_history_is_checked_after_a_kill_and_after_commands_that_write_to_it() {
    let data = Data::with_records();
    let history = with_long_history(&data);
    let mut killed = data.start(&["--exec", "kill -KILL $PPID"]);
    assert_eq!(killed.wait(LIMIT).code(), None, "{:?}", killed.stderr());
    assert_eq!(clean_shutdown::unchanged_since(&history), None);
    data.run(&["--step", "discard"]);
    assert!(clean_shutdown::unchanged_since(&history).is_some());
    // What it writes keeps what is known of the file.
    let reset = ["offsets", "--topic", TOPIC, "--to-earliest", "--execute"];
    let reset = Mb::run_in(data.path(), &[&reset[..], &["--client", "embedded"]].concat());
    assert!(reset.status.success(), "{reset:?}");
    assert!(clean_shutdown::unchanged_since(&history).is_some());
    let replay = ["replay", "--topic", TOPIC, "--partition", "0", "--from", "0", "--to", "1"];
    let replay = Mb::run_in(data.path(), &[&replay[..], &["--client", "embedded"]].concat());
    assert!(replay.status.success(), "{replay:?}");
    assert_eq!(clean_shutdown::unchanged_since(&history), None);
    damage(&history);
    assert_moved_aside(&data);
}

#[test]
fn a_history_without_its_journal_is_an_older_one_and_nothing_is_lost() {
    for what in ["gone", "empty", "garbage", "cut"] {
        let data = Data::with_records();
        let deadly = "test $MB_FIRST_OFFSET -lt 25 || kill -KILL $PPID";
        let one_by_one = ["--max-batch", "5", "--max-concurrent-runs", "1"];
        let mut killed = data.start(&[&["--exec", deadly], &one_by_one[..]].concat());
        assert_eq!(killed.wait(LIMIT).code(), None, "{:?}", killed.stderr());
        let journal = data.file("history.db-wal");
        let bytes = fs::read(&journal).unwrap();
        assert!(bytes.len() > 4096, "{what}: the last writes are in the journal");
        match what {
            "gone" => fs::remove_file(&journal).unwrap(),
            "empty" => fs::write(&journal, b"").unwrap(),
            "garbage" => fs::write(&journal, vec![0xa5; bytes.len()]).unwrap(),
            _ => fs::write(&journal, &bytes[..bytes.len() / 2]).unwrap(),
        }
        data.assert_nothing_lost();
    }
}

#[test]
fn a_history_that_is_taken_away_while_mb_runs_ends_it_before_it_commits_what_was_in_it() {
    let ways = [
        ("rm history.db*", "was removed"),
        (
            // At no moment is there no file: that would be another way.
            "mkdir away; ln history.db away; : >away/new; mv away/new history.db; mv history.db-* away",
            "was replaced by another file",
        ),
        ("mkdir away; mv * away", "was removed"),
    ];
    for (way, said) in ways {
        let data = Data::with_records();
        // Its first failure is kept as a dead letter in a file that nobody will find.
        let command = format!(
            "test $MB_FIRST_OFFSET -lt 20 || {{ cd '{}'; {way}; exit 65; }}",
            data.path().display()
        );
        let one_by_one = ["--max-batch", "5", "--max-concurrent-runs", "1"];
        let mut mb = data.start(&[&["--exec", &command], &one_by_one[..]].concat());
        assert_eq!(mb.wait(LIMIT).code(), Some(1), "{way}: {:?}", mb.stderr());
        let lines = mb.stderr().join("\n");
        assert!(lines.contains("the history is gone") && lines.contains(said), "{way}: {lines}");
        // The topic itself is needed again; the history stays lost.
        for file in fs::read_dir(data.file("away")).into_iter().flatten() {
            let file = file.unwrap();
            if file.file_name().to_string_lossy().starts_with("topic.db") {
                fs::rename(file.path(), data.file(file.file_name().to_str().unwrap())).unwrap();
            }
        }
        assert!(data.committed()[&0].get() <= 20, "{way}: {:?}", data.committed());
        data.assert_nothing_lost();
    }
}

/// A database with this version, and with a table of somebody's.
fn foreign(path: &Path, version: i64) -> Vec<u8> {
    let db = Connection::open(path).unwrap();
    db.pragma_update(None, "user_version", version).unwrap();
    db.execute_batch("CREATE TABLE pets(name)").unwrap();
    drop(db);
    fs::read(path).unwrap()
}

#[test]
fn a_history_of_a_newer_mb_or_of_another_program_is_refused_untouched() {
    let known = schema::VERSION.to_string();
    for (version, words) in
        [(99, ["version 99", known.as_str()]), (0, ["no history of mb", "name"])]
    {
        let data = Data::with_records();
        let history = data.file(mb::history::FILE);
        let before = foreign(&history, version);
        data.refused(78, &["--step", "discard"], &words);
        assert!(fs::read(&history).unwrap() == before, "version {version}");
        data.assert_offsets_unmoved();
        fs::remove_file(&history).unwrap();
        data.assert_nothing_lost();
    }
}

#[test]
fn a_topic_file_that_is_none_is_refused_untouched() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 4] = [
        ("garbage", |path| fs::write(path, "no database".repeat(1000)).unwrap()),
        ("newer", |path| {
            let db = Connection::open(path).unwrap();
            db.pragma_update(None, "user_version", 99).unwrap();
        }),
        ("foreign", |path| {
            fs::remove_file(path).unwrap();
            foreign(path, 0);
        }),
        ("a folder", |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
    ];
    for (what, damage) in damages {
        let data = Data::with_records();
        let topic = data.topic_file();
        let sound = data.beside("sound.db");
        fs::copy(&topic, &sound).unwrap();
        damage(&topic);
        let before = fs::read(&topic).ok();
        data.refused(78, &["--step", "discard"], &["topic.db", "--data-dir"]);
        assert!(fs::read(&topic).ok() == before, "{what}");
        if topic.is_dir() {
            fs::remove_dir(&topic).unwrap();
        }
        fs::rename(&sound, &topic).unwrap();
        data.assert_offsets_unmoved();
        data.assert_nothing_lost();
    }
}

#[test]
fn a_folder_for_files_that_cannot_be_written_is_refused_and_nothing_starts() {
    let data = Data::with_records();
    let file = data.beside("file");
    fs::write(&file, "mine").unwrap();
    for out in [file.as_path(), &file.join("below"), Path::new("/proc/mb")] {
        let out = out.to_str().unwrap();
        data.refused(78, &["--step", "files", "--out", out], &["--out", out]);
    }
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    data.assert_offsets_unmoved();
    data.assert_nothing_lost();
}

#[test]
fn a_folder_without_a_history_is_named_by_commands_and_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let path = missing.to_str().unwrap();
    refusal(Mb::start_in(&missing, &["runs"]), 78, &["--data-dir", path]);
    refusal(Mb::start_in(&missing, &["lag", "--client", "embedded"]), 78, &["--data-dir", path]);
    assert!(!missing.exists());
}

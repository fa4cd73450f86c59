//! The data directory of the built binary: for its user alone, a path and no link or URI; and what another user
//! is told.
//!
//! To be another user needs root.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::eventually;
use crate::support::mb::Mb;

const LIMIT: Duration = Duration::from_secs(60);
const READY: &str = "worker(s), batches of";
/// A few messages, and mb goes on.
const JOB: [&str; 8] =
    ["--client", "embedded", "--rate", "100", "--count", "5", "--partitions", "1"];

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn open_to_all(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// The files in a folder that group or others may touch.
fn open_files(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    // mb replaces some of them.
    let mode = |file: &PathBuf| Some(fs::symlink_metadata(file).ok()?.permissions().mode());
    files.filter(|file| mode(file).is_some_and(|mode| mode & 0o077 != 0)).collect()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn under_any_umask_the_data_directory_and_its_files_are_their_users_and_out_is_as_the_umask_has_it()
{
    let top = tempfile::tempdir().unwrap();
    let (data_dir, out) = (top.path().join("data"), top.path().join("out"));
    let job = [&JOB[..], &["--step", "files", "--out", out.to_str().unwrap()]].concat();
    let mut mb = Mb::start_under("umask 022", &data_dir, &job);
    mb.wait_for_line("posted 5 messages", LIMIT);
    let written = out.join("First_Topic/0");
    eventually(LIMIT, "a file is whole", || written.is_dir() && !open_files(&written).is_empty());
    assert_eq!((mode(&data_dir), open_files(&data_dir)), (0o700, vec![]));
    mb.term();
    assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
    assert_eq!(open_files(&data_dir), [] as [PathBuf; 0]);
    assert_eq!(mode(&written), 0o755);
    assert!(open_files(&written).iter().all(|file| mode(file) == 0o644));
}

#[test]
fn what_an_earlier_mb_left_open_to_others_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let all = [&JOB[..], &["--until-caught-up", "--step", "discard"]].concat();
    assert!(Mb::run_in(dir.path(), &all).status.success());
    for entry in fs::read_dir(dir.path()).unwrap() {
        open_to_all(&entry.unwrap().path(), 0o644);
    }
    open_to_all(dir.path(), 0o755);
    let mb = Mb::start_in(dir.path(), &["--client", "embedded", "--step", "discard"]);
    mb.wait_for_line(READY, LIMIT);
    assert_eq!((mode(dir.path()), open_files(dir.path())), (0o700, vec![]));
}

#[test]
fn a_link_in_the_place_of_a_file_of_mbs_is_refused_and_what_it_points_to_is_left_alone() {
    for name in ["mb.lock", "history.db", "topic.db", "history.db-left"] {
        let top = tempfile::tempdir().unwrap();
        let (data_dir, outside) = (top.path().join("data"), top.path().join("outside"));
        fs::create_dir(&data_dir).unwrap();
        fs::write(&outside, "kept").unwrap();
        symlink(&outside, data_dir.join(name)).unwrap();
        let refused = Mb::run_in(&data_dir, &JOB);
        let said = said(&refused);
        assert_eq!(refused.status.code(), Some(78), "{name}: {said}");
        let expected = format!("got a symbolic link at {}", data_dir.join(name).display());
        assert!(said.contains(&expected) && !said.contains("panicked"), "{name}: {said}");
        assert_eq!(fs::read(&outside).unwrap(), b"kept", "{name}");
    }
}

#[test]
fn a_data_directory_that_reads_like_a_uri_is_a_folder_of_that_name() {
    let (top, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let running = Mb::start_in(other.path(), &JOB);
    running.wait_for_line("posted 5 messages", LIMIT);
    let uri = format!("file:{}", other.path().display());
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mb"));
        command.args(args).args(["--data-dir", &uri]).current_dir(top.path());
        command.env_remove("RUST_LOG").output().unwrap()
    };
    let done =
        run(&[&JOB[..], &["--until-caught-up", "--listen", "off", "--step", "discard"]].concat());
    assert!(done.status.success(), "{}", said(&done));
    let own = top.path().join(format!("file:{}", other.path().display()));
    assert!(own.join("history.db").is_file() && own.join("topic.db").is_file());
    let listed = run(&["runs", "--json"]);
    let rows: Vec<Value> = serde_json::from_slice(&listed.stdout).unwrap();
    assert!(!rows.is_empty(), "{}", said(&listed));
    // The other mb was not touched, nor taken for this one.
    let status = run(&["status"]);
    assert!(said(&status).contains("no mb runs on"), "{}", said(&status));
}

#[test]
fn a_link_on_the_way_to_the_data_directory_is_followed_once() {
    let top = tempfile::tempdir().unwrap();
    let (real, link) = (top.path().join("private/mb"), top.path().join("mb"));
    fs::create_dir_all(&real).unwrap();
    symlink(&real, &link).unwrap();
    let mut mb = Mb::start_in(&link, &JOB);
    mb.wait_for_line("posted 5 messages", LIMIT);
    assert!(Mb::run_in(&real, &["runs"]).status.success());
    assert!(Mb::run_in(&link, &["runs"]).status.success());
    // Where the link leads from now on is of no interest to the mb that runs.
    fs::remove_file(&link).unwrap();
    symlink(top.path().join("nowhere"), &link).unwrap();
    assert!(Mb::run_in(&real, &["runs"]).status.success());
    mb.term();
    assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));
    assert!(!real.join("control.sock").exists() && !top.path().join("nowhere").exists());
}

/// Commands of another user, in a folder that this user can get to.
struct Other {
    top: TempDir,
}

impl Other {
    fn user() -> Other {
        let is_root = rustix::process::geteuid().is_root();
        assert!(is_root, "this test needs root, to run commands as another user");
        let top = tempfile::tempdir().unwrap();
        open_to_all(top.path(), 0o755);
        fs::copy(env!("CARGO_BIN_EXE_mb"), top.path().join("mb")).unwrap();
        open_to_all(&top.path().join("mb"), 0o755);
        Other { top }
    }

    fn runs(&self, args: &[&str], data_dir: &Path) -> Output {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.arg(self.top.path().join("mb")).args(args).arg("--data-dir").arg(data_dir);
        command.env_remove("RUST_LOG").current_dir(self.top.path()).output().unwrap()
    }
}

const COMMANDS: [&[&str]; 12] = [
    &["status"],
    &["runs"],
    &["runs", "1"],
    &["runs", "cancel", "1"],
    &["dead-letters", "list"],
    &["dead-letters", "redrive", "--all"],
    &["requests", "list"],
    &["pause"],
    &["lag"],
    &["replay", "--from", "0", "--partition", "0"],
    &["offsets", "--to-earliest", "--execute"],
    &["--client", "embedded", "--rate", "1", "--listen", "off"],
];

#[test]
fn another_user_is_told_whose_the_data_directory_is_and_that_mb_runs_there() {
    let other = Other::user();
    let data_dir = other.top.path().join("data");
    let mut mb = Mb::start_in(&data_dir, &JOB);
    mb.wait_for_line("posted 5 messages", LIMIT);
    for args in COMMANDS {
        let refused = other.runs(args, &data_dir);
        let said = said(&refused);
        assert_eq!(
            (refused.status.code(), said.lines().count()),
            (Some(78), 1),
            "{args:?}: {said}"
        );
        let runs = format!("mb runs there as pid {}", mb.pid());
        assert!(said.contains("belongs to root") && said.contains(&runs), "{args:?}: {said}");
        assert!(said.contains(data_dir.to_str().unwrap()), "{args:?}: {said}");
    }
    // Even if the folder was opened again meanwhile, the socket is its user's.
    open_to_all(&data_dir, 0o755);
    let said_open = said(&other.runs(&["status"], &data_dir));
    assert!(said_open.contains(&format!("pid {}", mb.pid())), "{said_open}");
    open_to_all(&data_dir, 0o700);
    mb.term();
    assert_eq!(mb.wait(LIMIT).code(), Some(0), "{}", mb.stderr().join("\n"));

    for args in COMMANDS {
        let said = said(&other.runs(args, &data_dir));
        assert!(said.contains("belongs to root") && !said.contains("mb runs"), "{args:?}: {said}");
    }
}

#[test]
fn another_user_is_told_which_folder_above_is_closed() {
    let other = Other::user();
    let above = other.top.path().join("above");
    let data_dir = above.join("data");
    assert!(Mb::run_in(&data_dir, &[&JOB[..], &["--until-caught-up"]].concat()).status.success());
    open_to_all(&above, 0o700);
    for args in COMMANDS {
        let refused = other.runs(args, &data_dir);
        let said = said(&refused);
        assert_eq!(refused.status.code(), Some(78), "{args:?}: {said}");
        let whose = format!("{} belongs to root", above.display());
        assert!(said.contains(&whose) && !said.contains("no mb runs"), "{args:?}: {said}");
    }
}

//! The commit that build.rs finds for `mb --version`, in repositories as git makes them.

use std::fs;
use std::path::Path;
use std::process::Command;

#[path = "../../build.rs"]
#[allow(dead_code, reason = "its main is cargo's to call")]
mod build_script;

use build_script::commit;

fn git(folder: &Path, args: &[&str]) -> String {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=mb", "-c", "user.email=mb@localhost"]).args(args);
    // Neither the repository of a hook that runs these tests, nor this user's settings.
    command.env_remove("GIT_DIR").env_remove("GIT_WORK_TREE").env_remove("GIT_INDEX_FILE");
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    let output = command.current_dir(folder).output().expect("git runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn commit_something(folder: &Path) {
    git(folder, &["commit", "-q", "--allow-empty", "-m", "something"]);
}

/// Build.rs finds the commit that git names, and watches only files that exist.
fn assert_found(folder: &Path) {
    let (found, files) = commit(folder).expect("a commit");
    assert_eq!(found, git(folder, &["rev-parse", "--short=7", "HEAD"]));
    assert!(files.iter().all(|file| file.is_file()), "{files:?}");
}

#[test]
fn the_commit_is_found_on_a_branch_packed_or_not_in_a_worktree_and_without_a_branch() {
    let top = tempfile::tempdir().unwrap();
    let folder = top.path().join("mb");
    fs::create_dir(&folder).unwrap();
    git(&folder, &["init", "-q"]);
    assert_eq!(commit(&folder), None, "there is no commit yet");
    commit_something(&folder);
    assert_found(&folder);
    git(&folder, &["pack-refs", "--all"]);
    assert_found(&folder);
    let other = top.path().join("other");
    git(&folder, &["worktree", "add", "-q", "-b", "a/b", other.to_str().unwrap()]);
    commit_something(&other);
    assert_found(&other);
    git(&folder, &["pack-refs", "--all"]);
    assert_found(&other);
    assert_found(&folder);
    git(&other, &["checkout", "-q", "--detach"]);
    commit_something(&other);
    assert_found(&other);
}

#[test]
fn each_commit_changes_a_file_that_cargo_watches() {
    let folder = tempfile::tempdir().unwrap();
    git(folder.path(), &["init", "-q"]);
    commit_something(folder.path());
    for pack in [false, true] {
        if pack {
            git(folder.path(), &["pack-refs", "--all"]);
        }
        let (before, files) = commit(folder.path()).unwrap();
        let texts = || files.iter().map(|file| fs::read(file).ok()).collect::<Vec<_>>();
        let texts_before = texts();
        git(folder.path(), &["commit", "-q", "--allow-empty", "-m", "another"]);
        assert_ne!(commit(folder.path()).unwrap().0, before);
        assert_ne!(texts(), texts_before);
    }
}

#[test]
fn a_source_archive_has_no_commit_even_inside_of_another_repository() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(commit(folder.path()), None);
    git(folder.path(), &["init", "-q"]);
    commit_something(folder.path());
    let archive = folder.path().join("mb-0.1.0");
    fs::create_dir(&archive).unwrap();
    assert_eq!(commit(&archive), None);
    fs::create_dir(archive.join(".git")).unwrap();
    fs::write(archive.join(".git/HEAD"), "ref: refs/heads/.invalid\n").unwrap();
    assert_eq!(commit(&archive), None, "git's new storage of branches is not read");
}

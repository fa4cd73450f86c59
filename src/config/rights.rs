//! A data directory that this user may not use: whose it is, and which mb runs there.
//!
//! The directory is closed to other users, so nothing in it tells them anything. But a running mb has a lock on
//! the directory itself (`data_dir`), and the system shows everybody who has which lock.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat, major, minor};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::model::error::{Error, Result};

/// One line per lock: number, kind, two words, the holder's process id, MAJOR:MINOR:INODE, and its range.
const LOCKS: &str = "/proc/locks";

/// Files of the directory that every command needs, if they are there.
const FILES: [&str; 4] = ["mb.lock", "control.sock", "history.db", "topic.db"];

/// Checks that this user may use the data directory and what is in it. To be called before it is looked at:
/// a file that may not be seen would pass for one that is missing.
///
/// # Errors
/// `Config` that says whose it is, and which mb runs there. Whatever else may be wrong with it is for others to
/// find.
pub fn check(data_dir: &Path) -> Result<()> {
    let folder = match fs::metadata(data_dir) {
        Ok(found) => found,
        Err(cause) if cause.kind() == ErrorKind::PermissionDenied => {
            return Err(closed_above(data_dir));
        }
        Err(_) => return Ok(()),
    };
    let Some((path, uid)) = closed_part(data_dir, &folder) else { return Ok(()) };
    // What its own user may not do, for one in a folder of mode 0500, is no matter of users.
    if uid == geteuid().as_raw() {
        return Ok(());
    }
    let owner = user(uid);
    let what_now = match holder(&folder) {
        Some(pid) => {
            format!("mb runs there as pid {pid}, under another user: run this command as {owner}")
        }
        None => format!("use it as {owner}, or name a directory of your own"),
    };
    Err(Error::Config(format!(
        "--data-dir: got {}, which belongs to {owner} and is closed to this user; {what_now}",
        path.display()
    )))
}

/// What this user may not use: the directory or a file in it, with its owner.
fn closed_part(data_dir: &Path, folder: &fs::Metadata) -> Option<(PathBuf, u32)> {
    let all = Access::READ_OK | Access::WRITE_OK;
    if may_not(data_dir, all | Access::EXEC_OK) {
        return Some((data_dir.to_owned(), folder.uid()));
    }
    let mut files = FILES.iter().map(|name| data_dir.join(name));
    let path = files.find(|path| may_not(path, all))?;
    let owner = fs::metadata(&path).ok()?.uid();
    Some((path, owner))
}

/// A folder above cannot be entered.
fn closed_above(data_dir: &Path) -> Error {
    let visible = data_dir.ancestors().find_map(|above| Some((above, fs::metadata(above).ok()?)));
    let whose = match visible {
        Some((above, found)) => format!("{} belongs to {}", above.display(), user(found.uid())),
        None => "a folder above it is another user's".to_owned(),
    };
    Error::Config(format!(
        "--data-dir: got {}, which this user cannot look at: {whose} and is closed to this user; run this command \
         as the user that mb runs as",
        data_dir.display()
    ))
}

fn may_not(path: &Path, access: Access) -> bool {
    accessat(CWD, path, access, AtFlags::EACCESS) == Err(Errno::ACCESS)
}

/// The name in the system's list of users, and the number.
fn user(uid: u32) -> String {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    name_of(uid, &users).map_or_else(|| format!("user {uid}"), str::to_owned)
}

/// NAME:PASSWORD:UID:…
fn name_of(uid: u32, users: &str) -> Option<&str> {
    let of_line = |line: &'_ str| line.split(':').nth(2).and_then(|number| number.parse().ok());
    users.lines().find(|line| of_line(line) == Some(uid))?.split(':').next()
}

/// The process that has a lock on the folder.
fn holder(folder: &fs::Metadata) -> Option<u32> {
    let locks = fs::read_to_string(LOCKS).ok()?;
    let (major, minor) = (major(folder.dev()), minor(folder.dev()));
    pid_in(&locks, &format!("{major:02x}:{minor:02x}:{}", folder.ino()))
}

fn pid_in(locks: &str, place: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_it = words.get(1) == Some(&"FLOCK") && words.get(5) == Some(&place);
        is_it.then(|| words.get(4)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found_by_the_place_of_its_file() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 fd:01:1234 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 12 fd:01:123 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 13 fd:01:1234 0 EOF\n\
                     3: FLOCK  ADVISORY  READ  14 fd:01:1234 0 EOF\n";
        assert_eq!(pid_in(locks, "fd:01:1234"), Some(14));
        assert_eq!(pid_in(locks, "fd:01:12"), None);
    }

    #[test]
    fn users_have_names_if_the_system_knows_them() {
        let users =
            "root:x:0:0:root:/root:/bin/bash\nbroken\nmb:x:998:998::/var/lib/mb:/bin/false\n";
        assert_eq!(name_of(998, users), Some("mb"));
        assert_eq!(name_of(7, users), None);
    }

    #[test]
    fn what_does_not_exist_or_may_be_used_is_no_matter_of_rights() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(check(folder.path()), Ok(()));
        assert_eq!(check(&folder.path().join("missing/deep")), Ok(()));
    }
}

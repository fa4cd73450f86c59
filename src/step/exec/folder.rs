//! The private folder in which commands write their `MB_FAILED_FILE`s: creates it, removes it, and removes
//! those of processes that were killed. The files in it belong to `failed_file`.
//!
//! Its parent is mb's data directory, to which mb is known to have write access and in which no other program
//! writes. (For an `ExecStep` in a Rust program the default is the system's folder for temporary files; the
//! parent need not be private.) Each folder has a random name: a command that outlived its mb must not write
//! into the folder that the next mb reads. A folder is locked (flock) as long as its process lives. The lock
//! tells leftovers apart, because a process id may be in use again; and tools that clean temporary folders
//! (systemd-tmpfiles) skip locked ones.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{self, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock, fstat, open, stat, statat};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::config::limits::SCRATCH_FOLDER_TRIES;

/// What names begin with. The process id follows (for people who look for the owner), a dash, and 16
/// hexadecimal digits.
const PREFIX: &str = "mb-exec-";

/// A folder of this process. It is removed with all its files when this value is dropped.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    handle: OwnedFd,
    /// Device and inode, which tell whether the path still leads to this folder.
    identity: (u64, u64),
    /// Kept open, so that a folder that replaces it cannot get its inode number.
    parent: OwnedFd,
}

impl Folder {
    pub fn make(parent: &Path) -> io::Result<Folder> {
        // Absolute, since a command may change its working directory.
        let parent = path::absolute(parent)?;
        for _ in 0..SCRATCH_FOLDER_TRIES {
            let name = format!("{PREFIX}{}-{:016x}", std::process::id(), fastrand::u64(..));
            let path = parent.join(name);
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made?,
            }
            match Folder::lock(&parent, path) {
                // Another process that removes leftovers found the folder before it was locked.
                Ok(None) => {}
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
                Ok(Some(folder)) if !folder.is_in_place() => {}
                Ok(Some(folder)) => return Ok(folder),
                Err(cause) => return Err(cause),
            }
        }
        Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "another process keeps removing or creating such folders",
        ))
    }

    /// `None` if another process has the lock.
    fn lock(parent: &Path, path: PathBuf) -> io::Result<Option<Folder>> {
        // Without NOFOLLOW: the data directory may be a symlink that the user made.
        let parent =
            open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let handle = open_folder(&path)?;
        // Other errors are ignored: on a file system without locks (NFS refuses them for folders) no process
        // can lock a leftover, so none removes a folder that is in use.
        let locked = flock(&handle, FlockOperation::NonBlockingLockExclusive);
        if locked == Err(Errno::WOULDBLOCK) {
            return Ok(None);
        }
        let found = fstat(&handle)?;
        Ok(Some(Folder { path, handle, identity: (found.st_dev, found.st_ino), parent }))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// Whether the path still leads to this folder: it was neither removed nor replaced.
    pub fn is_in_place(&self) -> bool {
        statat(CWD, &self.path, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|found| (found.st_dev, found.st_ino) == self.identity)
    }

    /// Whether the parent was neither removed nor replaced.
    pub fn is_parent_in_place(&self) -> bool {
        let (Some(parent), Ok(was)) = (self.path.parent(), fstat(&self.parent)) else {
            return false;
        };
        stat(parent).is_ok_and(|is| (is.st_dev, is.st_ino) == (was.st_dev, was.st_ino))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.is_in_place() {
            remove(&self.path);
        }
    }
}

/// Removes the folders that killed processes left in `parent`.
pub fn remove_leftovers(parent: &Path) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let path = entry?.path();
        // Another process may remove leftovers at the same time: a folder that is gone is no error.
        if is_named_so(&path)
            && is_own(&path)
            && let Ok(handle) = open_folder(&path)
        {
            // The lock is held during the removal, so that no other process starts to remove it too.
            if flock(&handle, FlockOperation::NonBlockingLockExclusive).is_ok() {
                remove(&path);
            }
        }
    }
    Ok(())
}

fn is_named_so(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let parts = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-'));
    parts.is_some_and(|(process, random)| {
        process.parse::<u32>().is_ok()
            && random.len() == 16
            && random.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// Whether this user owns it: other users' folders are in the system's temporary folder too.
fn is_own(path: &Path) -> bool {
    statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|found| found.st_uid == geteuid().as_raw())
}

fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(open(path, flags, Mode::empty())?)
}

/// Removes a folder with all its files, without following symlinks. If that fails, the next start tries again.
pub fn remove(folder: &Path) {
    match fs::remove_dir_all(folder) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            log::warn!(target: "mb::step", "cannot remove {}: {cause}", folder.display());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn entries(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn it_is_private_and_goes_away_with_all_that_is_in_it() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::make(parent.path()).unwrap();
        assert_eq!(fs::metadata(folder.path()).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(is_named_so(folder.path()) && folder.path().is_absolute(), "{folder:?}");
        fs::create_dir(folder.path().join("deep")).unwrap();
        fs::write(folder.path().join("deep/file"), "x").unwrap();
        drop(folder);
        assert_eq!(entries(parent.path()), [] as [&str; 0]);
    }

    #[test]
    fn leftovers_of_dead_processes_go_and_nothing_else_does() {
        let parent = tempfile::tempdir().unwrap();
        let alive = Folder::make(parent.path()).unwrap();
        fs::write(alive.path().join("1"), "17").unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "x").unwrap();
        let dead = parent.path().join("mb-exec-1-0123456789abcdef");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("1"), "17").unwrap();
        symlink(outside.path(), dead.join("link")).unwrap();
        symlink(outside.path(), parent.path().join("mb-exec-2-0123456789abcdef")).unwrap();
        fs::write(parent.path().join("mb-exec-3-0123456789abcdef"), "a file").unwrap();
        for name in ["mb-exec-", "mb-exec-1-0123", "mb-exec-x-0123456789abcdef", "history.db"] {
            fs::create_dir(parent.path().join(name)).unwrap();
        }
        remove_leftovers(parent.path()).unwrap();
        assert!(!dead.exists());
        assert_eq!(entries(parent.path()).len(), 7, "{:?}", entries(parent.path()));
        assert_eq!(entries(alive.path()), ["1"]);
        assert_eq!(entries(outside.path()), ["kept"]);
    }

    #[test]
    fn one_that_was_replaced_is_not_in_place_and_its_successor_is_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::make(parent.path()).unwrap();
        assert!(folder.is_in_place());
        let path = folder.path().to_owned();
        fs::rename(&path, parent.path().join("moved")).unwrap();
        assert!(!folder.is_in_place());
        fs::create_dir(&path).unwrap();
        assert!(!folder.is_in_place());
        drop(folder);
        assert!(path.exists());
    }
}

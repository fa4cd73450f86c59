//! The private folder where commands write their `MB_FAILED_FILE`s: made, told apart from those of
//! dead processes, removed. The files in it are `failed_file`'s.
//!
//! Its parent is mb's data directory: the one place that mb is known to be able to write to, and
//! that nobody else does. (A program that has an `ExecStep` of its own without naming a place gets
//! the system's folder for temporary files; nothing here needs the parent to be private.) Each
//! folder has a name of its own, so that a command that outlived its mb never writes where the next
//! mb reads. It is locked as long as its process lives: that, not a process id, says which folders
//! are leftovers, and tools that clean temporary folders respect it too.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{self, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock, fstat, open, stat, statat};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::config::limits::SCRATCH_FOLDER_TRIES;

/// Then the process' id, for people, a dash, and 16 hexadecimal digits.
const PREFIX: &str = "mb-exec-";

/// A folder of this process; it goes away with this value, and all that is in it.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    handle: OwnedFd,
    /// Device and inode: whether what stands at the path is still this folder.
    identity: (u64, u64),
    /// Kept open, so that no folder in its place can have its number.
    parent: OwnedFd,
}

impl Folder {
    pub fn make(parent: &Path) -> io::Result<Folder> {
        // A command may change its working directory.
        let parent = path::absolute(parent)?;
        for _ in 0..SCRATCH_FOLDER_TRIES {
            let name = format!("{PREFIX}{}-{:016x}", std::process::id(), fastrand::u64(..));
            let path = parent.join(name);
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made?,
            }
            match Folder::lock(&parent, path) {
                // Another process that cleans up took it for a leftover before it was locked.
                Ok(None) => {}
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
                Ok(Some(folder)) if !folder.is_in_place() => {}
                Ok(Some(folder)) => return Ok(folder),
                Err(cause) => return Err(cause),
            }
        }
        Err(io::Error::new(io::ErrorKind::AlreadyExists, "another process removes or makes them"))
    }

    /// `None` where another process has the lock.
    fn lock(parent: &Path, path: PathBuf) -> io::Result<Option<Folder>> {
        // The parent may be a link of somebody's.
        let parent =
            open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let handle = open_folder(&path)?;
        // A file system without locks (NFS refuses them for folders) is no hindrance: there no
        // process can lock a leftover, and so none removes it.
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

    /// Whether a command that opens its path gets into this folder: nobody removed or replaced it.
    pub fn is_in_place(&self) -> bool {
        statat(CWD, &self.path, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|found| (found.st_dev, found.st_ino) == self.identity)
    }

    /// Whether its parent is where it was: nobody removed or replaced it.
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
        // Another process may clean up at the same time: what is gone needs nothing.
        if is_named_so(&path)
            && is_own(&path)
            && let Ok(handle) = open_folder(&path)
        {
            // The lock is held until it is removed: so no process takes it for its own meanwhile.
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

/// Whether it is this user's: the system's temporary folder is everybody's.
fn is_own(path: &Path) -> bool {
    statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|found| found.st_uid == geteuid().as_raw())
}

fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(open(path, flags, Mode::empty())?)
}

/// Follows no symlink. What cannot be removed is left to the next start.
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

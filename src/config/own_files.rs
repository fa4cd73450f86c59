//! mb's own files in the data directory: for their user alone, and never a link that leads elsewhere.
//!
//! The history and the embedded topic hold records and the output of commands, which a umask of 022 would show
//! to every user of the machine. A link in the place of one of the files would have mb overwrite whatever it
//! points to. What a step writes (`--out`) is the user's, and keeps the umask.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{self, Path, PathBuf};

use crate::model::error::{Error, Result};

/// Of the data directory, and of each file in it.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// What group and others may do.
const OTHERS: u32 = 0o077;

/// How the names of mb's files begin; SQLite and mb append to them (`-wal`, `-left`, `.damaged-…`).
const FILES: [&str; 3] = ["mb.lock", "history.db", "topic.db"];
/// What else mb makes in its directory: the control socket and folders that have their mode from the start.
const OTHER_NAMES: [&str; 3] = ["control.sock", ".control", "mb-exec-"];

/// Makes the data directory for its user alone. Missing folders above it are made as the umask has it.
pub fn make_folder(path: &Path) -> io::Result<()> {
    let make = || match DirBuilder::new().mode(FOLDER_MODE).create(path) {
        Err(cause) if cause.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made,
    };
    match make() {
        Err(cause) if cause.kind() == ErrorKind::NotFound => {
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            make()
        }
        made => made,
    }
}

/// Takes away what group and others may do with mb's files in the data directory, which an mb before this one may
/// have given them, and with the directory itself, unless it holds other files too: `--data-dir /tmp` must not
/// shut out everybody else. To be called under the lock: nobody makes a file meanwhile.
pub fn tighten(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let entries: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    let begins = |path: &Path, names: &[&str]| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        names.iter().any(|own| name.starts_with(own))
    };
    let is_own = |path: &PathBuf| begins(path, &FILES) || begins(path, &OTHER_NAMES);
    // The folder first: from then on nobody else can exchange a file in it.
    if entries.iter().all(is_own) {
        close(folder);
    } else if is_open(folder) {
        log::warn!(
            "{} holds other files too, so it stays open to other users: they cannot read mb's files in it, but \
             a directory of mb's own, with mode 0700, is better",
            folder.display()
        );
    }
    entries.iter().filter(|path| begins(path, &FILES)).for_each(|path| close(path));
}

/// Takes away what group and others may do. The file is not opened: closing it would end SQLite's locks (close(2)
/// ends all POSIX locks that the process has on the file).
fn close(path: &Path) {
    if !is_open(path) {
        return;
    }
    let closed = fs::symlink_metadata(path).and_then(|found| {
        fs::set_permissions(path, Permissions::from_mode(found.permissions().mode() & !OTHERS))
    });
    if let Err(cause) = closed {
        log::warn!("{} is open to other users, and cannot be closed: {cause}", path.display());
    }
}

/// Whether group or others may do something with it. A link is not followed: what it leads to is not mb's.
fn is_open(path: &Path) -> bool {
    let is_open = |found: fs::Metadata| {
        !found.file_type().is_symlink() && found.permissions().mode() & OTHERS != 0
    };
    fs::symlink_metadata(path).is_ok_and(is_open)
}

/// The file's path for whoever opens it: its folder without links, so absolute, and in its place a regular file
/// that was there, or that is `made` now for mb's user alone. `what` names the file in errors.
///
/// SQLite takes a relative path that begins with `file:` for a URI, with options in it.
///
/// # Errors
/// `Config` if something else stands there.
pub fn to_open(path: &Path, what: &str, made: bool) -> Result<PathBuf> {
    check_file(path, what)?;
    let resolved = resolved(path);
    if made {
        // If it cannot be made, the one who opens it finds out why.
        let _ = create(&resolved);
    }
    Ok(resolved)
}

/// The path with the links of its folder resolved.
pub fn resolved(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    match (fs::canonicalize(folder.unwrap_or(Path::new("."))), path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => path::absolute(path).unwrap_or_else(|_| path.to_owned()),
    }
}

/// A new file; neither one that exists nor a link is opened.
fn create(path: &Path) -> io::Result<fs::File> {
    OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)
}

/// Replaces the file at `path` by one with this text, by way of `beside`, so that it is whole or as before.
pub fn replace(path: &Path, beside: &Path, text: &str) -> io::Result<()> {
    match fs::remove_file(beside) {
        Err(cause) if cause.kind() != ErrorKind::NotFound => return Err(cause),
        _ => {}
    }
    create(beside)?.write_all(text.as_bytes())?;
    fs::rename(beside, path)
}

/// Opens the file for reading and writing, and makes it if it is missing. Neither follows a link nor waits, if
/// it is a FIFO.
pub fn open(path: &Path, create: bool) -> io::Result<fs::File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    if create {
        options.write(true).create(true).truncate(false).mode(FILE_MODE);
    }
    options.open(path)
}

/// Checks that a file of mb's in the data directory is a regular file or does not exist yet. Without this
/// check SQLite would hang on a FIFO, and would report a directory there as an error that seems temporary.
/// `what` names the file in the error.
///
/// # Errors
/// `Config` if something else stands there.
pub fn check_file(path: &Path, what: &str) -> Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    let kind = found.file_type();
    let got = match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_symlink() => "a symbolic link",
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    Err(Error::Config(format!(
        "--data-dir: got {got} at {}, expected {what} or nothing there; move it away, or name another \
         directory",
        path.display()
    )))
}

/// The file beside `path` whose name is that of `path` followed by `ending`.
pub fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_folder_is_made_for_its_user_alone_and_the_ones_above_it_are_not() {
        let top = tempfile::tempdir().unwrap();
        let folder = top.path().join("above/data");
        make_folder(&folder).unwrap();
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(mode(&top.path().join("above")) & 0o500, 0o500);
        make_folder(&folder).unwrap();
        fs::write(top.path().join("file"), "").unwrap();
        assert!(make_folder(&top.path().join("file")).is_err());
    }

    #[test]
    fn what_is_open_to_others_is_closed_and_other_files_and_links_are_left_alone() {
        let top = tempfile::tempdir().unwrap();
        let folder = top.path().join("data");
        fs::create_dir(&folder).unwrap();
        let outside = top.path().join("outside");
        fs::write(&outside, "").unwrap();
        let files = ["history.db", "history.db-wal", "topic.db", "mb.lock"];
        for file in files {
            fs::write(folder.join(file), "").unwrap();
        }
        symlink(&outside, folder.join("history.db-left")).unwrap();
        let open =
            |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        files.iter().for_each(|file| open(&folder.join(file), 0o644));
        open(&outside, 0o644);
        open(&folder, 0o755);
        tighten(&folder);
        assert_eq!(files.map(|file| mode(&folder.join(file))), [0o600; 4]);
        assert_eq!((mode(&folder), mode(&outside)), (0o700, 0o644));

        // With somebody's files in it, it may be /tmp.
        let foreign = folder.join("somebody's");
        fs::write(&foreign, "").unwrap();
        open(&foreign, 0o644);
        open(&folder.join("history.db"), 0o644);
        open(&folder, 0o1777);
        tighten(&folder);
        assert_eq!((mode(&folder), mode(&foreign)), (0o777, 0o644));
        assert_eq!(mode(&folder.join("history.db")), 0o600);
    }

    #[test]
    fn a_path_is_a_path_whatever_it_looks_like_and_links_count_up_to_its_folder() {
        let top = tempfile::tempdir().unwrap();
        let folder = top.path().join("real");
        fs::create_dir(&folder).unwrap();
        symlink(&folder, top.path().join("link")).unwrap();
        let path = to_open(&top.path().join("link/history.db"), "mb's history", true).unwrap();
        assert_eq!(path, fs::canonicalize(&folder).unwrap().join("history.db"));
        assert_eq!(mode(&path), 0o600);
        // What is there stays as it is.
        fs::write(&path, "text").unwrap();
        to_open(&path, "mb's history", true).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"text");
        let uri = Path::new("file:history.db?mode=memory");
        let own = fs::canonicalize(".").unwrap();
        assert_eq!(to_open(uri, "mb's history", false).unwrap(), own.join(uri));
    }

    #[test]
    fn a_link_in_a_files_place_is_refused_and_not_followed() {
        let top = tempfile::tempdir().unwrap();
        let (outside, link) = (top.path().join("outside"), top.path().join("history.db"));
        fs::write(&outside, "kept").unwrap();
        symlink(&outside, &link).unwrap();
        let error = to_open(&link, "mb's history", true).unwrap_err().to_string();
        assert!(error.contains("got a symbolic link at"), "{error}");
        assert!(open(&link, true).is_err() && open(&link, false).is_err());
        symlink(top.path().join("nothing"), top.path().join("dangling")).unwrap();
        assert!(open(&top.path().join("dangling"), true).is_err());
        replace(&top.path().join("text"), &link, "new").unwrap();
        assert_eq!(fs::read(&outside).unwrap(), b"kept");
        assert_eq!(fs::read(top.path().join("text")).unwrap(), b"new");
    }
}

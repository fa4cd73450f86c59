//! The socket's file: made so that nobody else can connect, and found however long its path is.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::io::Errno;

/// The socket's name in the data directory.
pub(super) const FILE: &str = "control.sock";

/// Makes the socket. It appears under its name with its mode set: it is bound in a folder that nobody else can
/// enter, then moved.
pub(super) fn listen(data_dir: &Path, path: &Path) -> io::Result<UnixListener> {
    let private = data_dir.join(".control");
    let _ = fs::remove_dir_all(&private);
    fs::DirBuilder::new().mode(0o700).create(&private)?;
    let made = private.join(FILE);
    let listener = short(&made, |short| UnixListener::bind(short))?;
    fs::set_permissions(&made, fs::Permissions::from_mode(0o600))?;
    fs::rename(&made, path)?;
    fs::remove_dir(&private)?;
    Ok(listener)
}

/// A link in the socket's place is not followed: it may lead to another mb, or to another program.
pub(super) fn connect(path: &Path) -> io::Result<UnixStream> {
    if fs::symlink_metadata(path)?.is_symlink() {
        return Err(Errno::LOOP.into());
    }
    short(path, |short| UnixStream::connect(short))
}

/// Passes a short name of `path` to `open`. A socket's path has at most 107 bytes (unix(7)), which a data
/// directory deep in a tree exceeds, so the folder is named by a descriptor.
fn short<T>(path: &Path, open: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let folder = fs::File::open(path.parent().unwrap_or(Path::new(".")))?;
    let name = path.file_name().unwrap_or_default();
    open(&Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name))
}

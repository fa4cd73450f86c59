//! Whether the history's file is still where it was opened. SQLite does not notice when the file is removed,
//! replaced or truncated: it goes on in a file without a name, and everything written there is lost.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file, as it was found last.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// Its size, which never shrinks.
    bytes: u64,
}

impl Place {
    /// `None` if there is no such file; a database in memory has none.
    pub fn of(path: &Path) -> Option<Place> {
        let found = fs::metadata(path).ok()?;
        let (device, inode, bytes) = (found.dev(), found.ino(), found.len());
        Some(Place { path: path.to_owned(), device, inode, bytes })
    }

    /// # Errors
    /// What became of the file. `Ok` if that cannot be found out.
    pub fn check(&mut self) -> Result<(), String> {
        let path = self.path.display();
        match fs::metadata(&self.path) {
            Err(cause) if cause.kind() == ErrorKind::NotFound => Err(format!("{path} was removed")),
            Err(_) => Ok(()),
            Ok(found) if (found.dev(), found.ino()) != (self.device, self.inode) => {
                Err(format!("{path} was replaced by another file"))
            }
            Ok(found) if found.len() < self.bytes => {
                Err(format!("{path} was cut off, from {} to {} bytes", self.bytes, found.len()))
            }
            Ok(found) => {
                self.bytes = found.len();
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_grow_but_not_be_truncated_replaced_or_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.db");
        assert!(Place::of(&path).is_none());
        fs::write(&path, "one").unwrap();
        let mut place = Place::of(&path).unwrap();
        fs::write(&path, "one, two").unwrap();
        assert_eq!(place.check(), Ok(()));
        fs::write(&path, "one").unwrap();
        let cut_off = place.check().unwrap_err();
        assert!(cut_off.ends_with("was cut off, from 8 to 3 bytes"), "{cut_off}");

        let mut place = Place::of(&path).unwrap();
        // Kept, or its number could be used again.
        fs::rename(&path, folder.path().join("old")).unwrap();
        let removed = place.check().unwrap_err();
        assert!(removed.ends_with("history.db was removed"), "{removed}");
        fs::write(&path, "one, two, three").unwrap();
        let replaced = place.check().unwrap_err();
        assert!(replaced.ends_with("history.db was replaced by another file"), "{replaced}");
    }
}

//! A file system of a few megabytes, in memory, that can be filled up: what a full disk is to mb.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Gone when this is dropped.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub fn new(megabytes: u64) -> SmallDisk {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        let size = format!("size={megabytes}m");
        mount.args(["-t", "tmpfs", "-o", &size, "mb-faults"]).arg(dir.path());
        let output = mount.output().expect("mount is there");
        assert!(
            output.status.success(),
            "this test needs a small file system and may not mount one ({}); run it as root, or within \
             'unshare --user --map-root-user --mount'",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        SmallDisk(dir)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all room but so many bytes; removing the file gives it back.
    pub fn fill_up(&self, left: usize) -> PathBuf {
        let path = self.path().join("ballast");
        let mut file = File::create(&path).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        let bytes = file.metadata().unwrap().len();
        file.set_len(bytes.saturating_sub(left as u64)).unwrap();
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

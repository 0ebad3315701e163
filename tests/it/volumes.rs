//! Small file systems, which tests fill.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A kind of file system: they differ in how they report that they are full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileSystem {
    Tmpfs,
    Ext4,
}

/// A small file system of its own; unmounted when it is dropped.
pub(crate) struct Volume(PathBuf);

impl Volume {
    /// `None` where this process may not mount, or where there is no program that makes the file system.
    pub(crate) fn mount(at: &Path, kind: FileSystem, mebibytes: u64) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mut mount = Command::new("mount");
        match kind {
            FileSystem::Tmpfs => mount.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"]),
            FileSystem::Ext4 => {
                let image = at.with_extension("ext4");
                File::create(&image).unwrap().set_len(mebibytes << 20).unwrap();
                let made = Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image).status();
                made.is_ok_and(|status| status.success()).then_some(())?;
                mount.args(["-o", "loop"]).arg(image)
            }
        };
        let mounted = mount.arg(at).stderr(Stdio::null()).status();
        mounted.is_ok_and(|status| status.success()).then(|| Self(at.to_owned()))
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Free space, bytes.
    pub(crate) fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.0).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// Changes an option of the mount, such as `ro`.
    pub(crate) fn remount(&self, option: &str) {
        let status = Command::new("mount").args(["-o", &format!("remount,{option}")]).arg(&self.0).status();
        assert!(status.is_ok_and(|status| status.success()));
    }

    /// Takes all that is left.
    pub(crate) fn fill(&self) {
        let mut ballast = File::options().create(true).append(true).open(self.0.join("ballast")).unwrap();
        for size in [1 << 20, 4096, 1] {
            while ballast.write_all(&vec![0; size]).is_ok() {}
        }
    }

    /// Gives back what [`Self::fill`] took.
    pub(crate) fn empty(&self) {
        let _ = fs::remove_file(self.0.join("ballast"));
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

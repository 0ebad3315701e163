//! Detects whether a file has changed, without opening it.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Metadata that differs once a file was written to or replaced: device, inode, size, modification time and change time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp([u64; 3], [i64; 4]);

impl Stamp {
    /// Returns the stamp of the file at `path`, or `None` if its metadata cannot be read.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|metadata| Self::from(&metadata))
    }
}

impl From<&Metadata> for Stamp {
    fn from(of: &Metadata) -> Self {
        Self([of.dev(), of.ino(), of.size()], [of.mtime(), of.mtime_nsec(), of.ctime(), of.ctime_nsec()])
    }
}

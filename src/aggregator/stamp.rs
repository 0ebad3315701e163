//! Whether a file has changed since the last look, without opening it.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// What of a file is different once it was written to or replaced: device, inode, size, and the times of its contents and of its inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp([u64; 3], [i64; 4]);

impl Stamp {
    /// The stamp of the file at `path`; `None` where there is none.
    pub(super) fn of(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|metadata| Self::from(&metadata))
    }
}

impl From<&Metadata> for Stamp {
    fn from(of: &Metadata) -> Self {
        Self([of.dev(), of.ino(), of.size()], [of.mtime(), of.mtime_nsec(), of.ctime(), of.ctime_nsec()])
    }
}

//! Detects whether a file has changed, without opening it, and reloads files that have.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

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

/// A file that is reloaded when it changes.
#[derive(Debug)]
pub(crate) struct WatchedFile {
    path: PathBuf,
    seen: Option<Stamp>,
}

impl WatchedFile {
    /// Reads the file with `read`, and returns it with its content.
    ///
    /// # Errors
    /// Returns the errors of `read`.
    pub(crate) fn open<T, E>(path: &Path, read: impl FnOnce(&Path) -> Result<T, E>) -> Result<(Self, T), E> {
        let seen = Stamp::of(path);
        let content = read(path)?;
        Ok((Self { path: path.to_owned(), seen }, content))
    }

    /// Returns the path of the file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file with `read` if it changed; an unchanged file costs one `stat`. Returns `None` if there is nothing new.
    pub(crate) fn reload<T, E>(&mut self, read: impl FnOnce(&Path) -> Result<T, E>) -> Option<Result<T, E>> {
        let now = Stamp::of(&self.path);
        if self.seen == now {
            return None;
        }
        let content = read(&self.path);
        // The file changed during the read, so the content may be incomplete: it is read again the next time.
        if Stamp::of(&self.path) != now {
            return None;
        }
        self.seen = now;
        Some(content)
    }
}

//! Exclusive use of a data directory: only one aggregator may open a store.
//!
//! SQLite allows several processes to write one file. Two aggregators with one store would each trust their own picture of it in memory, so
//! the second one must not start.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::store::{VolumeError, check_local};

/// Name of the lock file in the data directory. The file stays when the process ends; the kernel releases the lock.
const NAME: &str = "lock";

/// Why a data directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataLockError {
    /// Another process has locked the directory. Retry after that process has ended.
    #[error(
        "opening the data directory {directory}: another aggregator uses it; stop that aggregator, or pass another directory with --data",
        directory = .0.display()
    )]
    InUse(PathBuf),
    /// The directory is not on a local disk.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The directory or the lock file could not be created or locked.
    #[error("opening the data directory {directory}: {source}", directory = .directory.display())]
    Open {
        /// The data directory.
        directory: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// The lock of a data directory. It is released when the value is dropped, and when the process ends in any way.
#[derive(Debug)]
pub(crate) struct DataLock(#[expect(dead_code, reason = "the open file holds the lock")] File);

impl DataLock {
    /// Creates the directory if it does not exist, and locks it.
    ///
    /// # Errors
    /// Fails if another process holds the lock, or if the directory is not writable.
    pub(crate) fn acquire(directory: &Path) -> Result<Self, DataLockError> {
        let open = |source| DataLockError::Open { directory: directory.to_owned(), source };
        std::fs::create_dir_all(directory).map_err(open)?;
        // Locks of network file systems are not reliable.
        check_local(directory)?;
        let file = File::options().create(true).append(true).open(directory.join(NAME)).map_err(open)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(DataLockError::InUse(directory.to_owned())),
            Err(TryLockError::Error(source)) => Err(open(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_has_one_user_at_a_time() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("data");
        let first = DataLock::acquire(&directory).unwrap();
        let error = DataLock::acquire(&directory).unwrap_err().to_string();
        assert!(error.contains("another aggregator uses it") && error.contains("--data"), "{error}");
        drop(first);
        DataLock::acquire(&directory).unwrap();
    }

    #[test]
    fn an_unusable_directory_is_named() {
        let place = tempfile::NamedTempFile::new().unwrap();
        let error = DataLock::acquire(&place.path().join("data")).unwrap_err().to_string();
        assert!(error.starts_with(&format!("opening the data directory {}", place.path().display())), "{error}");
    }
}

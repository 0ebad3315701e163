//! The lock that keeps two processes from using one store.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use super::StoreError;
use crate::store::ErrorKind;

/// Maximum time for which a new process waits for the one that it replaces.
const PATIENCE: Duration = Duration::from_secs(5);

/// Interval between two attempts.
const RETRY: Duration = Duration::from_millis(50);

/// Locks the store at `path` for as long as the returned file is open. The kernel releases the lock of a process that is killed.
///
/// The lock is on a file of its own: closing any descriptor of the database would release SQLite's own locks
/// (<https://www.sqlite.org/howtocorrupt.html>).
///
/// # Errors
/// When another process holds the lock, or the file cannot be created.
pub(super) async fn acquire(doing: &'static str, path: &Path) -> Result<File, StoreError> {
    let started = std::time::Instant::now();
    loop {
        match try_acquire(doing, path) {
            Err(error) if error.kind == ErrorKind::InUse && started.elapsed() < PATIENCE => {
                tokio::time::sleep(RETRY).await;
            }
            outcome => return outcome,
        }
    }
}

/// Locks the store at `path`, or fails at once. See [`acquire`].
pub(super) fn try_acquire(doing: &'static str, path: &Path) -> Result<File, StoreError> {
    let name = beside(path, ".lock");
    let failed = |error: std::io::Error| {
        StoreError::new(doing, ErrorKind::Failing, format!("{}: {error}", name.display()))
            .with_hint("check the data directory and its permissions")
    };
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&name).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(in_use(doing, path)),
        Err(error) => Err(failed(error.into())),
    }
}

pub(super) fn in_use(doing: &'static str, path: &Path) -> StoreError {
    let cause = format!("another process has {} open", path.display());
    StoreError::new(doing, ErrorKind::InUse, cause).with_hint("stop the aggregator first")
}

/// Returns the path with `suffix` appended to the file name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

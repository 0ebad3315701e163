//! Operations on the file of a store: a backup, and the assignment to another cluster.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::StoreError;
use super::lock::{beside, try_acquire};
use crate::store::{ClusterIdentity, ErrorKind};

/// `application_id` of a store.
const APPLICATION: i64 = 0x4f55_5443;

/// Maximum time for which a statement waits for the aggregator's current transaction.
const PATIENCE: Duration = Duration::from_secs(30);

/// Writes a copy of the store at `store` to the new file `to`, also while an aggregator writes to the store. Returns the size of the copy,
/// bytes.
///
/// The copy is the state at one moment, has no write-ahead log, and is checked before it gets its name.
///
/// # Errors
/// When there is no store, `to` exists, the volume is full, or the copy is not intact.
pub fn back_up(store: &Path, to: &Path) -> Result<u64, StoreError> {
    const DOING: &str = "backing up the store";
    if to.symlink_metadata().is_ok() {
        return Err(exists(DOING, to));
    }
    let source = open(DOING, store, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let partial = beside(to, &format!(".partial-{}", std::process::id()));
    let copied = copy(DOING, &source, &partial, to);
    if copied.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    copied
}

fn copy(doing: &'static str, source: &Connection, partial: &Path, to: &Path) -> Result<u64, StoreError> {
    let failed = |error: io::Error| file_failed(doing, partial, &error);
    // The backup must not be readable by other users. SQLite fills an existing empty file.
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(partial).map_err(failed)?;
    let name = partial.to_str().ok_or_else(|| StoreError::new(doing, ErrorKind::Rejected, "the path is not UTF-8"))?;
    source.execute("VACUUM INTO ?", [name]).map_err(|error| database_failed(doing, &error))?;
    check(doing, &open(doing, partial, OpenFlags::SQLITE_OPEN_READ_ONLY)?, Check::Full)?;
    File::open(partial).and_then(|file| file.sync_all()).map_err(failed)?;
    match renameat_with(CWD, partial, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        Err(rustix::io::Errno::EXIST) => return Err(exists(doing, to)),
        Err(error) => return Err(file_failed(doing, to, &error.into())),
    }
    sync_directory_of(to).map_err(|error| file_failed(doing, to, &error))?;
    to.metadata().map(|file| file.len()).map_err(|error| file_failed(doing, to, &error))
}

/// Assigns the store at `store`, with everything in it, to another cluster. Returns the cluster that it belonged to.
///
/// # Errors
/// When there is no store, or an aggregator has it open.
pub fn adopt(store: &Path, cluster: &ClusterIdentity) -> Result<ClusterIdentity, StoreError> {
    const DOING: &str = "assigning the store to another cluster";
    if !store.is_file() {
        return Err(missing(DOING, store));
    }
    let _lock = try_acquire(DOING, store)?;
    let connection = open(DOING, store, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let failed = |error: rusqlite::Error| database_failed(DOING, &error);
    connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    let sql = "SELECT key, name FROM cluster WHERE id = (SELECT cluster FROM meta)";
    let before = connection.query_row(sql, [], |row| Ok(ClusterIdentity { key: row.get(0)?, name: row.get(1)? }));
    let before = before.map_err(failed)?;
    let sql = "UPDATE cluster SET key = ?, name = ? WHERE id = (SELECT cluster FROM meta)";
    connection.execute(sql, [&cluster.key, &cluster.name]).map_err(failed)?;
    connection.close().map_err(|(_, error)| failed(error))?;
    Ok(before)
}

/// Opens a file, and makes sure that it is a store of this version.
fn open(doing: &'static str, path: &Path, access: OpenFlags) -> Result<Connection, StoreError> {
    if !path.is_file() {
        return Err(missing(doing, path));
    }
    let failed = |error: rusqlite::Error| database_failed(doing, &error);
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(failed)?;
    connection.busy_timeout(PATIENCE).map_err(failed)?;
    let application: i64 = connection.query_row("PRAGMA application_id", [], |row| row.get(0)).map_err(failed)?;
    if application != APPLICATION {
        let cause = format!("{} is not a store of this version", path.display());
        let hint = "start the aggregator once: it migrates stores of earlier versions";
        return Err(StoreError::new(doing, ErrorKind::Version, cause).with_hint(hint));
    }
    Ok(connection)
}

/// Statement that checks a store.
#[derive(Clone, Copy, Debug)]
pub(super) enum Check {
    /// Every page and row.
    Quick,
    /// Also that every index agrees with its table.
    Full,
}

/// Fails if a store is damaged or has a reference to a row that does not exist.
pub(super) fn check(doing: &'static str, connection: &Connection, check: Check) -> Result<(), StoreError> {
    let failed = |error: rusqlite::Error| database_failed(doing, &error);
    // KiB. Indexes are compared with their tables in the order of the indexes.
    connection.pragma_update(None, "cache_size", -131_072).map_err(failed)?;
    let pragma = match check {
        Check::Quick => "PRAGMA quick_check(1)",
        Check::Full => "PRAGMA integrity_check(1)",
    };
    let answer: String = connection.query_row(pragma, [], |row| row.get(0)).map_err(failed)?;
    if answer != "ok" {
        return Err(StoreError::new(doing, ErrorKind::Damaged, format!("integrity check: {answer}")));
    }
    let mut references = connection.prepare("PRAGMA foreign_key_check").map_err(failed)?;
    if references.exists([]).map_err(failed)? {
        return Err(StoreError::new(doing, ErrorKind::Damaged, "a row refers to a row that does not exist"));
    }
    Ok(())
}

pub(super) fn sync_directory_of(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

pub(super) fn file_failed(doing: &'static str, path: &Path, error: &io::Error) -> StoreError {
    let kind = if error.kind() == io::ErrorKind::StorageFull { ErrorKind::Full } else { ErrorKind::Failing };
    StoreError::new(doing, kind, format!("{}: {error}", path.display()))
}

pub(super) fn database_failed(doing: &'static str, error: &rusqlite::Error) -> StoreError {
    use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked, DiskFull, NotADatabase};
    match error.sqlite_error_code() {
        Some(DiskFull) => StoreError::new(doing, ErrorKind::Full, "the volume is full").with_hint("free some space"),
        Some(DatabaseBusy | DatabaseLocked) => {
            StoreError::new(doing, ErrorKind::InUse, "another process holds the store's lock")
                .with_hint("close other programs that have the file open")
        }
        Some(NotADatabase) => StoreError::new(doing, ErrorKind::Version, "the file is not a store"),
        _ => StoreError::new(doing, ErrorKind::Failing, error.to_string()),
    }
}

fn missing(doing: &'static str, path: &Path) -> StoreError {
    match std::fs::metadata(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            StoreError::new(doing, ErrorKind::Failing, format!("{}: {error}", path.display()))
                .with_hint("run the command as the user of the aggregator")
        }
        _ => StoreError::new(doing, ErrorKind::Version, format!("there is no store at {}", path.display()))
            .with_hint("name the aggregator's data directory with --data"),
    }
}

fn exists(doing: &'static str, path: &Path) -> StoreError {
    StoreError::new(doing, ErrorKind::Exists, format!("{} exists", path.display()))
        .with_hint("choose another name, a backup never overwrites a file")
}

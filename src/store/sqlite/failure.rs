//! Converts errors of SQLite to errors of the store.

use crate::store::{ErrorKind, StoreError};

/// Failure within an operation of this module.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// SQLite or its driver.
    #[error("{0}")]
    Database(#[from] sqlx::Error),
    /// The tables could not be created.
    #[error("{0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A row has a value that Outcrop never writes.
    #[error("the store is damaged: {0} is invalid")]
    Damaged(&'static str),
    /// Already an error of the store.
    #[error("{0}")]
    Store(StoreError),
}

/// Primary result codes (<https://sqlite.org/rescode.html>).
const PERM: i64 = 3;
const BUSY: i64 = 5;
const LOCKED: i64 = 6;
const NO_MEMORY: i64 = 7;
const READ_ONLY: i64 = 8;
const IO_ERROR: i64 = 10;
const CORRUPT: i64 = 11;
const FULL: i64 = 13;
const CANNOT_OPEN: i64 = 14;
const NOT_A_DATABASE: i64 = 26;

/// Extended code of a shared-memory file that could not grow: the volume is full.
const SHARED_MEMORY_SIZE: i64 = 4874;

impl Failure {
    /// Returns the store's error for this failure of `doing`.
    pub(super) fn during(self, doing: &'static str) -> StoreError {
        let cause = match self {
            Self::Store(error) => return error,
            Self::Damaged(_) => return StoreError::new(doing, ErrorKind::Damaged, self.to_string()),
            Self::Migrate(error) => {
                return StoreError::new(doing, ErrorKind::Version, error.to_string())
                    .with_hint("the file is not a store of this version or an earlier one");
            }
            Self::Database(error) => error,
        };
        let sqlx::Error::Database(error) = &cause else {
            // The driver's thread or the pool has ended, or a column is not of the type that it was written with.
            let kind = match cause {
                sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::ColumnNotFound(_) => {
                    ErrorKind::Damaged
                }
                _ => ErrorKind::Failing,
            };
            return StoreError::new(doing, kind, cause.to_string());
        };
        let code = error.code().and_then(|code| code.parse::<i64>().ok()).unwrap_or_default();
        let message = format!("{} (SQLite code {code})", error.message());
        let new = |kind, cause: &str| StoreError::new(doing, kind, cause);
        match code & 0xff {
            FULL => {
                new(ErrorKind::Full, "the volume is full").with_hint("free some space, writes resume by themselves")
            }
            IO_ERROR if code == SHARED_MEMORY_SIZE => {
                new(ErrorKind::Full, "the volume is full").with_hint("free some space, writes resume by themselves")
            }
            BUSY | LOCKED => new(ErrorKind::Failing, "another process holds the store's lock")
                .with_hint("close other programs that have the file open"),
            NOT_A_DATABASE => new(ErrorKind::Version, "the file is not a store"),
            CORRUPT => new(ErrorKind::Failing, &message).with_hint("restore the store from a backup"),
            READ_ONLY | PERM | CANNOT_OPEN | IO_ERROR | NO_MEMORY => {
                new(ErrorKind::Failing, &message).with_hint("check the volume and its permissions")
            }
            // A constraint, a value that is too large: the write is at fault, and the next one may be stored.
            _ => new(ErrorKind::Rejected, &message),
        }
    }
}

/// Awaits `work`, and adds the operation to its error.
pub(super) async fn doing<T>(
    doing: &'static str,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, StoreError> {
    work.await.map_err(|failure| failure.during(doing))
}

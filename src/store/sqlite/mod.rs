//! The store in one SQLite file.

mod dictionary;
mod findings;
mod history;
mod layers;
mod questions;
mod stacks;

use std::path::Path;
use std::sync::Arc;

use outcrop_proto::{Digest, LayerId};
use sqlx::Row as _;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use tokio::sync::Mutex;

use super::StoreError;
use dictionary::Dictionary;

/// Connections that read. Each may keep some pages in memory.
const READERS: u32 = 3;

/// The store in one SQLite file, on a local disk: its write-ahead log needs shared memory.
#[derive(Clone, Debug)]
pub struct Sqlite {
    /// One writer at a time is all that SQLite has: waiting for it here is fairer than being told that it is busy.
    writer: SqlitePool,
    reader: SqlitePool,
    /// What is kept once. Held while rows that name it are written.
    dictionary: Arc<Mutex<Dictionary>>,
}

impl Sqlite {
    /// Opens the store at `path`, and makes it if there is none.
    ///
    /// # Errors
    /// When the file cannot be opened, is no store, or is one of a later version.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A commit is on the disk before it is acknowledged.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            // KiB of pages for each connection.
            .pragma("cache_size", "-8192")
            // A log that has grown large is cut when it is next begun anew.
            .pragma("journal_size_limit", "67108864");
        let writer = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
        sqlx::migrate!("src/store/sqlite/migrations").run(&writer).await?;
        let reader = SqlitePoolOptions::new().max_connections(READERS).connect_with(options.read_only(true)).await?;
        let dictionary = Arc::new(Mutex::new(Dictionary::load(&reader).await?));
        Ok(Self { writer, reader, dictionary })
    }
}

/// Rows as one parameter, for `json_each`.
fn json(rows: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(rows).map_err(|_| StoreError::Damaged("rows"))
}

/// A count as SQLite has it.
fn integer(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

/// A count out of the store; what cannot be is none.
fn count<T: TryFrom<i64> + Default>(row: &SqliteRow, column: &str) -> Result<T, StoreError> {
    Ok(T::try_from(row.try_get::<i64, _>(column)?).unwrap_or_default())
}

fn layer_id(text: &str) -> Result<LayerId, StoreError> {
    text.parse().map_err(|_| StoreError::Damaged("a layer's identity"))
}

fn digest(row: &SqliteRow, column: &str) -> Result<Digest, StoreError> {
    let bytes: &[u8] = row.try_get(column)?;
    bytes.try_into().map(Digest).map_err(|_| StoreError::Damaged("a digest"))
}

/// Lines of a column.
fn lines(row: &SqliteRow, column: &str) -> Result<Vec<String>, StoreError> {
    Ok(row.try_get::<&str, _>(column)?.lines().map(ToOwned::to_owned).collect())
}

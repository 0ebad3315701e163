//! The store in one SQLite file.
//!
//! One connection writes, see [`Writer`]; a few read. SQLite's words, codes and `sqlx` stay in this module.

mod deliveries;
mod documents;
mod failure;
mod findings;
mod history;
mod keys;
mod layers;
mod lock;
mod migrate_v1;
mod notices;
mod offline;
mod outbox;
mod portion;
mod questions;
mod reading;
mod stacks;
mod upkeep;
mod writer;

use std::path::{Path, PathBuf};
use std::pin::Pin;

use outcrop_proto::{Digest, FindingStatus, LayerId, Severity, Word as _};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqliteRow, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, Row as _, SqliteConnection};

use super::{ClusterIdentity, ErrorKind, Options, StoreError, StoreHealth};
use failure::{Failure, doing};
pub use migrate_v1::needs_migration;
pub use offline::{adopt, back_up};
use writer::Writer;

/// A job on the connection that writes.
type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The store in one SQLite file, on a local disk: its write-ahead log needs shared memory.
#[derive(Clone, Debug)]
pub struct Sqlite {
    path: PathBuf,
    cluster: ClusterIdentity,
    outbox: bool,
    writer: Writer,
    reader: SqlitePool,
}

impl Sqlite {
    /// Opens the store at `path`, and creates it if there is none.
    ///
    /// # Errors
    /// When the file cannot be opened, is not a store, is one of a later version, or belongs to another cluster.
    pub async fn open(path: &Path, options: Options) -> Result<Self, StoreError> {
        const OPENING: &str = "opening the store";
        let lock = lock::acquire(OPENING, path).await?;
        migrate_from_v1(path, &options.cluster).await?;
        let connect = connect_options(path);
        let prepared = async {
            let mut connection = writer::connect(&connect).await?;
            sqlx::migrate!("src/store/sqlite/migrations").run(&mut connection).await.map_err(Failure::from)?;
            let known = upkeep::claim(&mut connection, &options.cluster).await?;
            Ok((connection, known))
        };
        let (connection, known) = doing(OPENING, prepared).await?;
        if known.key != options.cluster.key {
            let cause = format!("it belongs to cluster {known}, not {}", options.cluster);
            let error = StoreError::new(OPENING, ErrorKind::OtherCluster, cause);
            let ClusterIdentity { key, name } = &options.cluster;
            let uid = if key == name { String::new() } else { format!(" --cluster-uid {key}") };
            let data = path.parent().unwrap_or(path).display();
            let hint = format!(
                "pass the --cluster or the --data that belong together; if the cluster was replaced, run: outcrop store adopt --data {data} --cluster {name}{uid}"
            );
            return Err(error.with_hint(hint));
        }
        let reader = doing(OPENING, reading::open(connect.clone())).await?;
        Ok(Self {
            path: path.to_owned(),
            cluster: options.cluster,
            outbox: options.outbox,
            writer: Writer::new(connect, connection, lock, options.write_duration),
            reader,
        })
    }

    /// Runs a write as one transaction. See [`Writer::run`].
    async fn write<T, J>(&self, doing: &'static str, job: J) -> Result<T, StoreError>
    where
        T: Send + 'static,
        J: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, Failure>> + Send + 'static,
    {
        self.writer.run(doing, job).await
    }
}

/// Migrates the file at `path` if it is a store of version 1.
async fn migrate_from_v1(path: &Path, cluster: &ClusterIdentity) -> Result<(), StoreError> {
    const MIGRATING: &str = "migrating the store from version 1";
    if !needs_migration(path)? {
        return Ok(());
    }
    tracing::info!("store of version 1 found; migrating it");
    let new = migrate_v1::new_file(path)?;
    let created = async {
        let mut connection = writer::connect(&connect_options(&new)).await?;
        sqlx::migrate!("src/store/sqlite/migrations").run(&mut connection).await?;
        upkeep::claim(&mut connection, cluster).await?;
        Ok(connection.close().await?)
    };
    doing(MIGRATING, created).await?;
    let path = path.to_owned();
    let migrated = tokio::task::spawn_blocking(move || migrate_v1::migrate(&path, &new)).await;
    migrated.map_err(|error| StoreError::new(MIGRATING, ErrorKind::Failing, error.to_string()))?
}

/// Returns the options for opening the file.
fn connect_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // A commit is on the disk before it is acknowledged.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        // KiB of pages for each connection.
        .pragma("cache_size", "-8192")
        // A log that has grown large is cut when it is next begun anew.
        .pragma("journal_size_limit", "67108864")
        // The driver would log statements; the store's spans and errors say what was done.
        .disable_statement_logging()
}

/// Returns rows as one parameter, for `json_each`.
fn json(rows: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string(rows).map_err(|_| Failure::Damaged("rows"))
}

/// Returns a count as SQLite stores it.
fn integer(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

/// Returns a count out of the store; one that is out of range is 0.
fn count<T: TryFrom<i64> + Default>(row: &SqliteRow, column: &str) -> Result<T, Failure> {
    Ok(T::try_from(row.try_get::<i64, _>(column)?).unwrap_or_default())
}

fn layer_id(text: &str) -> Result<LayerId, Failure> {
    text.parse().map_err(|_| Failure::Damaged("a layer's identity"))
}

fn digest(row: &SqliteRow, column: &str) -> Result<Digest, Failure> {
    optional_digest(row, column)?.ok_or(Failure::Damaged("a digest"))
}

fn optional_digest(row: &SqliteRow, column: &str) -> Result<Option<Digest>, Failure> {
    let Some(bytes) = row.try_get::<Option<&[u8]>, _>(column)? else { return Ok(None) };
    bytes.try_into().map(|bytes| Some(Digest(bytes))).map_err(|_| Failure::Damaged("a digest"))
}

/// Returns the severity in the column `rank`: its place among all, the worst first.
fn severity(row: &SqliteRow) -> Result<Severity, Failure> {
    let rank = u8::try_from(row.try_get::<i64, _>("rank")?).ok();
    rank.and_then(Severity::from_rank).ok_or(Failure::Damaged("a severity"))
}

/// Returns the status of a finding.
fn status(row: &SqliteRow) -> Result<FindingStatus, Failure> {
    FindingStatus::from_word(row.try_get("status")?).ok_or(Failure::Damaged("the status of a finding"))
}

/// Returns the lines of a column.
fn lines(row: &SqliteRow, column: &str) -> Result<Vec<String>, Failure> {
    Ok(row.try_get::<&str, _>(column)?.lines().map(ToOwned::to_owned).collect())
}

//! Connections that read.
//!
//! Dropping the future of a statement does not end the statement: it runs on a thread of the driver. A connection for reading therefore has a progress
//! handler, which interrupts a statement whose caller is gone.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use sqlx::SqliteConnection;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};

use super::{Failure, Sqlite};

/// Connections that read: one for each concurrent request of the API (`MAX_RUNNING` in `web/turns.rs`), one for the aggregator's
/// own work, and one for deliveries.
pub(super) const READERS: u32 = 8;

/// Steps of SQLite's virtual machine between two checks whether the caller is gone: less than a millisecond.
const STEPS: i32 = 10_000;

/// A connection that reads. When it is dropped, a statement that still runs is interrupted.
#[derive(Debug)]
pub(super) struct Reading {
    connection: PoolConnection<sqlx::Sqlite>,
    abandoned: Arc<AtomicBool>,
}

impl Deref for Reading {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.connection
    }
}

impl DerefMut for Reading {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.abandoned.store(true, Relaxed);
    }
}

/// Opens the pool of connections that read.
pub(super) async fn open(connect: SqliteConnectOptions) -> Result<SqlitePool, Failure> {
    // KiB of pages for each connection; the connection that writes has more.
    let connect = connect.read_only(true).pragma("cache_size", "-4096");
    let pool = SqlitePoolOptions::new().max_connections(READERS).after_release(|connection, _| {
        Box::pin(async move {
            // The handler of this caller must not interrupt the next one.
            connection.lock_handle().await?.remove_progress_handler();
            Ok(true)
        })
    });
    Ok(pool.connect_with(connect).await?)
}

impl Sqlite {
    /// Returns a connection that reads, for as long as the result exists.
    pub(super) async fn reading(&self) -> Result<Reading, Failure> {
        let mut connection = self.reader.acquire().await?;
        let abandoned = Arc::new(AtomicBool::new(false));
        let is_abandoned = Arc::clone(&abandoned);
        connection.lock_handle().await?.set_progress_handler(STEPS, move || !is_abandoned.load(Relaxed));
        Ok(Reading { connection, abandoned })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::{ClusterIdentity, Options};

    #[tokio::test]
    async fn a_statement_ends_when_its_caller_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = ClusterIdentity { key: "test".to_owned(), name: "test".to_owned() };
        let options = Options { cluster, outbox: false, write_duration: None };
        let store = Sqlite::open(&dir.path().join("store"), options).await.unwrap();
        let endless =
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers) SELECT max(n) FROM numbers";
        let endless = async || {
            let mut reading = store.reading().await.unwrap();
            sqlx::query(endless).fetch_all(&mut *reading).await.unwrap();
        };
        let all = futures_util::future::join_all((0..READERS).map(|_| endless()));
        assert!(tokio::time::timeout(Duration::from_millis(100), all).await.is_err(), "every connection is in use");
        // Each connection comes back, and answers the next caller.
        let mut readings = Vec::new();
        for _ in 0..READERS {
            let mut reading = store.reading().await.unwrap();
            sqlx::query("SELECT count(*) FROM finding").fetch_one(&mut *reading).await.unwrap();
            readings.push(reading);
        }
        drop(readings);
        sqlx::query("SELECT count(*) FROM finding").fetch_one(&store.reader).await.unwrap();
    }
}

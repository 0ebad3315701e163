//! The one connection that writes.

use std::sync::Arc;
use std::time::Instant;

use outcrop_proto::clock;
use prometheus_client::metrics::histogram::Histogram;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};
use tokio::sync::Mutex;
use tracing::Instrument as _;

use super::{BoxFuture, Failure, StoreError, StoreHealth};
use crate::store::ErrorKind;

/// Owns the connection that writes.
///
/// - Each transaction runs in a task of its own: a caller that is dropped does not stop it half way.
/// - A connection whose transaction failed in any way is closed, and the next transaction opens a new one. SQLite ends a transaction by
///   itself on some errors (<https://sqlite.org/lang_transaction.html#response_to_errors_within_a_transaction>), so nobody can know in
///   which state the old connection is.
/// - Success is reported after COMMIT has succeeded, and not before.
#[derive(Clone, Debug)]
pub(super) struct Writer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: SqliteConnectOptions,
    /// `None` after a failure, and while a transaction runs.
    idle: Mutex<Option<SqliteConnection>>,
    health: StoreHealth,
    /// Observes the duration of each transaction that was tried, without the time that it waited for its turn.
    duration: Option<Histogram>,
    /// Held until the last transaction has ended.
    _lock: std::fs::File,
}

/// Whether a transaction is tried while the store does not accept writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Normal,
    Probe,
}

impl Writer {
    pub(super) fn new(
        options: SqliteConnectOptions,
        connection: SqliteConnection,
        lock: std::fs::File,
        duration: Option<Histogram>,
    ) -> Self {
        let (idle, health) = (Mutex::new(Some(connection)), StoreHealth::default());
        Self(Arc::new(Inner { options, idle, health, duration, _lock: lock }))
    }

    pub(super) fn health(&self) -> &StoreHealth {
        &self.0.health
    }

    /// Runs `job` as one transaction.
    ///
    /// # Errors
    /// When the store does not accept writes, the job fails, or COMMIT does. Then nothing is stored.
    pub(super) async fn run<T, J>(&self, doing: &'static str, job: J) -> Result<T, StoreError>
    where
        T: Send + 'static,
        J: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, Failure>> + Send + 'static,
    {
        self.spawn(doing, Mode::Normal, job).await
    }

    /// Runs `job` as one transaction also while the store does not accept writes. If it is committed, the store accepts writes again.
    pub(super) async fn probe<J>(&self, doing: &'static str, job: J) -> Result<(), StoreError>
    where
        J: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<(), Failure>> + Send + 'static,
    {
        self.spawn(doing, Mode::Probe, job).await
    }

    async fn spawn<T, J>(&self, doing: &'static str, mode: Mode, job: J) -> Result<T, StoreError>
    where
        T: Send + 'static,
        J: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, Failure>> + Send + 'static,
    {
        let inner = Arc::clone(&self.0);
        let task = tokio::spawn(async move { inner.transaction(doing, mode, job).await }.in_current_span());
        let ended = |error: tokio::task::JoinError| StoreError::new(doing, ErrorKind::Failing, error.to_string());
        task.await.map_err(ended)?
    }
}

impl Inner {
    #[tracing::instrument(level = "debug", name = "store transaction", skip(self, mode, job))]
    async fn transaction<T, J>(&self, doing: &'static str, mode: Mode, job: J) -> Result<T, StoreError>
    where
        J: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, Failure>>,
    {
        let mut idle = self.idle.lock().await;
        if mode == Mode::Normal
            && let Some(outage) = self.health.state().outage()
        {
            let cause = format!("the store does not accept writes: {}", outage.reason);
            return Err(StoreError::new(doing, ErrorKind::Paused, cause));
        }
        // Taken out: if this task panics, the connection is dropped with its transaction.
        let started = Instant::now();
        let outcome = self.commit(idle.take(), job).await;
        if let Some(duration) = &self.duration {
            duration.observe(started.elapsed().as_secs_f64());
        }
        match outcome {
            Ok((connection, value)) => {
                *idle = Some(connection);
                // Before the next transaction may run.
                if mode == Mode::Probe {
                    self.health.recovered();
                }
                Ok(value)
            }
            Err(failure) => {
                let error = failure.during(doing);
                self.health.failed(&error, clock::timestamp().as_second());
                tracing::debug!(%error, "store transaction failed");
                Err(error)
            }
        }
    }

    async fn commit<T, J>(&self, connection: Option<SqliteConnection>, job: J) -> Result<(SqliteConnection, T), Failure>
    where
        J: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, Failure>>,
    {
        let mut connection = match connection {
            Some(connection) => connection,
            None => connect(&self.options).await?,
        };
        // Spelled out instead of `begin()`: the driver counts transactions, and its count is wrong after SQLite has ended one by itself.
        let outcome = async {
            execute(&mut connection, "BEGIN IMMEDIATE").await?;
            let value = job(&mut connection).await?;
            execute(&mut connection, "COMMIT").await?;
            Ok(value)
        };
        match outcome.await {
            Ok(value) => Ok((connection, value)),
            Err(failure) => {
                // Waits until the file is closed, so that the next connection does not find it locked. Closing rolls back.
                let _ = connection.close_hard().await;
                Err(failure)
            }
        }
    }
}

pub(super) async fn connect(options: &SqliteConnectOptions) -> Result<SqliteConnection, Failure> {
    Ok(options.connect().await?)
}

async fn execute(connection: &mut SqliteConnection, sql: &'static str) -> Result<(), Failure> {
    sqlx::query(sql).execute(connection).await?;
    Ok(())
}

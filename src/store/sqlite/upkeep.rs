//! The state of the store itself: its cluster, its health, its size.

use async_trait::async_trait;
use outcrop_proto::clock;
use sqlx::{Row as _, SqliteConnection};

use super::{Failure, Sqlite, StoreError, StoreHealth};
use crate::store::{Capacity, ClusterIdentity, CorrectedTimes, ErrorKind, Upkeep, free};

/// Room with which writes resume after the volume was full, bytes; on a small volume an eighth of it.
const ROOM: u64 = 16 << 20;

#[async_trait]
impl Upkeep for Sqlite {
    fn health(&self) -> &StoreHealth {
        self.writer.health()
    }

    async fn probe(&self) -> Result<(), StoreError> {
        const PROBING: &str = "probing the store";
        // A row would fit into the last free page, and the next inventory would not.
        if matches!(self.health().state(), crate::store::HealthState::Full(_))
            && let Ok(space) = free(&self.path)
        {
            let needed = ROOM.min(space.total / 8);
            if space.free < needed {
                let cause = format!("{} bytes are free, {needed} are needed", space.free);
                return Err(StoreError::new(PROBING, ErrorKind::Full, cause).with_hint("free some space"));
            }
        }
        let now = clock::timestamp().as_second();
        self.writer
            .probe(PROBING, move |connection| {
                Box::pin(async move {
                    let sql = "UPDATE meta SET probed_at = max(probed_at + 1, ?)";
                    sqlx::query(sql).bind(now).execute(connection).await?;
                    Ok(())
                })
            })
            .await
    }

    async fn correct_times(&self, now: i64) -> Result<CorrectedTimes, StoreError> {
        self.write("correcting times", move |connection| Box::pin(async move { correct_times(connection, now).await }))
            .await
    }

    async fn capacity(&self) -> Result<Capacity, StoreError> {
        let files = ["", "-wal", "-shm"].map(|suffix| {
            let mut name = self.path.as_os_str().to_owned();
            name.push(suffix);
            std::fs::metadata(name).map_or(0, |file| file.len())
        });
        let space = free(&self.path).ok();
        Ok(Capacity { used: files.iter().sum(), free: space.map(|space| space.free) })
    }

    fn cluster(&self) -> &ClusterIdentity {
        &self.cluster
    }
}

/// Every column with a time in seconds since 1970, and its table.
const TIMES: [(&str, &str); 12] = [
    ("layer", "read_at"),
    ("verification", "at"),
    ("distrusted", "at"),
    ("finding", "opened"),
    ("finding", "closed"),
    ("run", "since"),
    ("run", "until"),
    ("rematch", "at"),
    ("outbox", "at"),
    ("target", "delivered_at"),
    ("delivery", "at"),
    ("delivery", "refused_at"),
];

/// Generations that would begin at the same time as a later one. Their columns identify a row, so that both cannot stay.
const GENERATIONS: [(&str, &str, &str); 2] = [("finding", "opened", "verdict"), ("run", "since", "subject")];

async fn correct_times(connection: &mut SqliteConnection, now: i64) -> Result<CorrectedTimes, Failure> {
    let latest = TIMES.map(|(table, column)| format!("SELECT max({column}) AS at FROM {table}")).join(" UNION ALL ");
    let sql = format!("SELECT coalesce(max(at), 0) FROM ({latest})");
    let latest: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut *connection).await?;
    if latest <= now {
        return Ok(CorrectedTimes::default());
    }
    let superseded = GENERATIONS.map(|(table, column, of)| {
        format!(
            "DELETE FROM {table} WHERE {column} >= ?1 AND EXISTS (SELECT 1 FROM {table} AS later
             WHERE later.package_set = {table}.package_set AND later.{of} = {table}.{of} AND later.{column} > {table}.{column})"
        )
    });
    let corrected = TIMES.map(|(table, column)| format!("UPDATE {table} SET {column} = ?1 WHERE {column} > ?1"));
    let days = "DELETE FROM daily_count WHERE day > date(?1, 'unixepoch')".to_owned();
    let mut rows = 0;
    for sql in superseded.into_iter().chain(corrected).chain([days]) {
        rows += sqlx::query(sqlx::AssertSqlSafe(sql)).bind(now).execute(&mut *connection).await?.rows_affected();
    }
    Ok(CorrectedTimes { rows, latest })
}

/// Makes a new store that of `cluster`. Returns the cluster that the store belongs to, with its display name brought up to date.
pub(super) async fn claim(
    connection: &mut SqliteConnection,
    cluster: &ClusterIdentity,
) -> Result<ClusterIdentity, Failure> {
    let sql = "SELECT key, name FROM meta JOIN cluster ON cluster.id = meta.cluster";
    if let Some(row) = sqlx::query(sql).fetch_optional(&mut *connection).await? {
        let known = ClusterIdentity { key: row.try_get("key")?, name: row.try_get("name")? };
        if known.key == cluster.key && known.name != cluster.name {
            let update = "UPDATE cluster SET name = ? WHERE key = ?";
            sqlx::query(update).bind(&cluster.name).bind(&cluster.key).execute(connection).await?;
        }
        return Ok(known);
    }
    // One statement, so that a crash leaves no cluster without the store being its own.
    sqlx::query("INSERT OR IGNORE INTO cluster (key, name) VALUES (?, ?)")
        .bind(&cluster.key)
        .bind(&cluster.name)
        .execute(&mut *connection)
        .await?;
    sqlx::query("INSERT INTO meta SELECT 1, id, 0 FROM cluster WHERE key = ?")
        .bind(&cluster.key)
        .execute(connection)
        .await?;
    Ok(cluster.clone())
}

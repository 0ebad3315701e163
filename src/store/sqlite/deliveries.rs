//! Targets and deliveries.

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use sqlx::{Connection as _, Row as _, SqliteConnection};

use super::portion::{self, head};
use super::{Failure, Sqlite, StoreError, count, doing, integer, json};
use crate::store::{
    Backlog, BacklogLimit, Deliveries, DeliveryId, DeliveryRow, NewDelivery, Portion, PortionLimit, Progress, Selects,
    SnapshotPlace, Target, TargetId, TargetSpec,
};

/// Events that are removed in one transaction.
const REMOVED: i64 = 5_000;

/// Columns of [`delivery`], without the body.
const DELIVERY: &str =
    "SELECT delivery.id, target.name, key, delivery.sequence, at, records, length(body) AS bytes, refused, refused_at
    FROM delivery JOIN target ON target.id = delivery.target";

#[async_trait]
impl Deliveries for Sqlite {
    async fn set_targets(&self, targets: &[TargetSpec]) -> Result<Vec<Target>, StoreError> {
        // A start on a full volume must not fail for want of a write that changes nothing.
        if let Some(known) = doing("reading targets", self.known_targets(targets)).await? {
            return Ok(known);
        }
        let targets = targets.to_vec();
        self.write("storing targets", move |connection| {
            Box::pin(async move { set_targets(connection, &targets).await })
        })
        .await
    }

    async fn portion(
        &self,
        target: TargetId,
        selects: &dyn Selects,
        limit: PortionLimit,
    ) -> Result<Portion, StoreError> {
        let work = async {
            let mut reading = self.reading().await?;
            // One transaction: everything is read as of one time.
            let mut transaction = reading.begin().await?;
            let row = by_id(&mut transaction, target).await?;
            let portion = portion::next(&mut transaction, row, selects, limit).await?;
            transaction.commit().await?;
            Ok(portion)
        };
        doing("reading what a target is told", work).await
    }

    async fn enqueue(
        &self,
        target: &Target,
        progress: Progress,
        delivery: Option<NewDelivery>,
    ) -> Result<(), StoreError> {
        let target = target.clone();
        self.write("storing a delivery", move |connection| {
            Box::pin(async move { enqueue(connection, &target, &progress, delivery).await })
        })
        .await
    }

    async fn next_delivery(&self, target: TargetId) -> Result<Option<(DeliveryRow, Vec<u8>)>, StoreError> {
        let work = async {
            let sql = "SELECT min(id) FROM delivery WHERE target = ? AND refused IS NULL";
            let mut reading = self.reading().await?;
            let id: Option<DeliveryId> = sqlx::query_scalar(sql).bind(target).fetch_one(&mut *reading).await?;
            match id {
                Some(id) => with_body(&mut reading, id).await,
                None => Ok(None),
            }
        };
        doing("reading the next delivery", work).await
    }

    async fn delivered(&self, id: DeliveryId, at: i64) -> Result<(), StoreError> {
        self.write("removing an accepted delivery", move |connection| {
            Box::pin(async move {
                sqlx::query("UPDATE target SET delivered_at = ? WHERE id = (SELECT target FROM delivery WHERE id = ?)")
                    .bind(at)
                    .bind(id)
                    .execute(&mut *connection)
                    .await?;
                sqlx::query("DELETE FROM delivery WHERE id = ?").bind(id).execute(connection).await?;
                Ok(())
            })
        })
        .await
    }

    async fn refuse(&self, id: DeliveryId, reason: &str, at: i64) -> Result<(), StoreError> {
        let reason = reason.to_owned();
        self.write("storing that a delivery was refused", move |connection| {
            Box::pin(async move {
                let sql = "UPDATE delivery SET refused = ?, refused_at = ? WHERE id = ?";
                sqlx::query(sql).bind(reason).bind(at).bind(id).execute(connection).await?;
                Ok(())
            })
        })
        .await
    }

    async fn deliveries(&self, after: DeliveryId, limit: usize) -> Result<Vec<DeliveryRow>, StoreError> {
        let work = async {
            let sql = format!("{DELIVERY} WHERE delivery.id > ? ORDER BY delivery.id LIMIT ?");
            let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(after).bind(integer(limit));
            rows.fetch_all(&mut *self.reading().await?).await?.iter().map(delivery).collect()
        };
        doing("reading deliveries", work).await
    }

    async fn delivery(&self, id: DeliveryId) -> Result<Option<(DeliveryRow, Vec<u8>)>, StoreError> {
        doing("reading a delivery", async { with_body(&mut *self.reading().await?, id).await }).await
    }

    async fn settle_refused(&self, id: DeliveryId, again: bool) -> Result<bool, StoreError> {
        self.write("settling a refused delivery", move |connection| {
            Box::pin(async move {
                let sql = match again {
                    true => {
                        "UPDATE delivery SET refused = NULL, refused_at = NULL WHERE id = ? AND refused IS NOT NULL"
                    }
                    false => "DELETE FROM delivery WHERE id = ? AND refused IS NOT NULL",
                };
                Ok(sqlx::query(sql).bind(id).execute(connection).await?.rows_affected() > 0)
            })
        })
        .await
    }

    async fn resync(&self, target: TargetId) -> Result<(), StoreError> {
        self.write("requesting a snapshot", move |connection| Box::pin(begin_again(connection, target))).await
    }

    async fn backlog(&self, target: TargetId) -> Result<Backlog, StoreError> {
        let work = async {
            let mut reading = self.reading().await?;
            let row = by_id(&mut reading, target).await?;
            // Of a snapshot that did not begin, no event waits.
            let (events, event) = match row.snapshot {
                Some(SnapshotPlace::Begin) => (0, None),
                _ => {
                    let sql = "SELECT count(*), min(id) FROM outbox WHERE id > ?";
                    let counted = sqlx::query(sql).bind(row.cursor).fetch_one(&mut *reading).await?;
                    let oldest: Option<i64> = counted.try_get(1)?;
                    let sql = "SELECT at FROM outbox WHERE id = ?";
                    let at: Option<i64> = sqlx::query_scalar(sql).bind(oldest).fetch_optional(&mut *reading).await?;
                    (u64::try_from(counted.try_get::<i64, _>(0)?).unwrap_or_default(), at)
                }
            };
            let sql = "SELECT count(*) FILTER (WHERE refused IS NULL) AS waiting, count(refused) AS refused,
                min(at) FILTER (WHERE refused IS NULL) AS oldest FROM delivery WHERE target = ?";
            let stored = sqlx::query(sql).bind(target).fetch_one(&mut *reading).await?;
            let made: Option<i64> = stored.try_get("oldest")?;
            Ok(Backlog {
                events,
                oldest_event: event,
                oldest: event.into_iter().chain(made).min(),
                deliveries: count(&stored, "waiting")?,
                refused: count(&stored, "refused")?,
            })
        };
        doing("reading the backlog of a target", work).await
    }

    async fn limit_backlog(&self, target: TargetId, limit: BacklogLimit) -> Result<u64, StoreError> {
        self.write("limiting the backlog of a target", move |connection| {
            Box::pin(async move { limit_backlog(connection, target, limit).await })
        })
        .await
    }

    async fn remove_told(&self) -> Result<bool, StoreError> {
        // Most of the time there is nothing to write.
        let first = "SELECT min(id) FROM outbox";
        let is_empty = async {
            let first: Option<i64> = sqlx::query_scalar(first).fetch_one(&mut *self.reading().await?).await?;
            Ok(first.is_none())
        };
        if doing("reading the outbox", is_empty).await? {
            return Ok(false);
        }
        self.write("removing events that every target was told", move |connection| {
            Box::pin(async move {
                let head = head(connection).await?;
                let sql = "SELECT min(cursor) FROM target WHERE snapshot IS NOT ?";
                let told: Option<i64> =
                    sqlx::query_scalar(sql).bind(json(&SnapshotPlace::Begin)?).fetch_one(&mut *connection).await?;
                let first: Option<i64> = sqlx::query_scalar(first).fetch_one(&mut *connection).await?;
                let (Some(first), told) = (first, told.unwrap_or(head)) else { return Ok(false) };
                let up_to = told.min(first.saturating_add(REMOVED - 1));
                sqlx::query("DELETE FROM outbox WHERE id <= ?").bind(up_to).execute(connection).await?;
                Ok(up_to < told)
            })
        })
        .await
    }
}

impl Sqlite {
    /// Returns the targets, if the stored ones are these.
    async fn known_targets(&self, targets: &[TargetSpec]) -> Result<Option<Vec<Target>>, Failure> {
        let rows = sqlx::query("SELECT * FROM target").fetch_all(&mut *self.reading().await?).await?;
        let mut known = Vec::new();
        for spec in targets {
            for row in &rows {
                let is_same = row.try_get::<&[u8], _>("selection")? == spec.selection.0.as_slice();
                if is_same && row.try_get::<&str, _>("name")? == spec.name {
                    known.push(target(row)?);
                }
            }
        }
        Ok(Some(known).filter(|known| known.len() == targets.len() && known.len() == rows.len()))
    }
}

/// Returns a target.
async fn by_id(connection: &mut SqliteConnection, id: TargetId) -> Result<Target, Failure> {
    let row = sqlx::query("SELECT * FROM target WHERE id = ?").bind(id).fetch_one(connection).await?;
    target(&row)
}

fn target(row: &SqliteRow) -> Result<Target, Failure> {
    let place = row.try_get::<Option<&str>, _>("snapshot")?.map(serde_json::from_str).transpose();
    Ok(Target {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        cursor: row.try_get("cursor")?,
        snapshot: place.map_err(|_| Failure::Damaged("a place in a snapshot"))?,
        revision: row.try_get("revision")?,
        sequence: count(row, "sequence")?,
        dropped: count(row, "dropped")?,
        delivered_at: row.try_get("delivered_at")?,
    })
}

fn delivery(row: &SqliteRow) -> Result<DeliveryRow, Failure> {
    let refused: Option<String> = row.try_get("refused")?;
    let refused_at: Option<i64> = row.try_get("refused_at")?;
    Ok(DeliveryRow {
        id: row.try_get("id")?,
        target: row.try_get("name")?,
        key: row.try_get("key")?,
        sequence: count(row, "sequence")?,
        at: row.try_get("at")?,
        records: count(row, "records")?,
        bytes: count(row, "bytes")?,
        refused: refused.zip(refused_at),
    })
}

async fn with_body(
    connection: &mut SqliteConnection,
    id: DeliveryId,
) -> Result<Option<(DeliveryRow, Vec<u8>)>, Failure> {
    let sql = format!("{DELIVERY} WHERE delivery.id = ?");
    let Some(row) = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id).fetch_optional(&mut *connection).await? else {
        return Ok(None);
    };
    let body = sqlx::query_scalar("SELECT body FROM delivery WHERE id = ?").bind(id).fetch_one(connection).await?;
    Ok(Some((delivery(&row)?, body)))
}

async fn set_targets(connection: &mut SqliteConnection, targets: &[TargetSpec]) -> Result<Vec<Target>, Failure> {
    let names: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
    sqlx::query("DELETE FROM target WHERE name NOT IN (SELECT value FROM json_each(?))")
        .bind(json(&names)?)
        .execute(&mut *connection)
        .await?;
    let head = head(connection).await?;
    let mut rows = Vec::new();
    for TargetSpec { name, selection } in targets {
        let sql = "INSERT INTO target (cluster, name, selection, cursor, snapshot) SELECT cluster, ?1, ?2, ?3, ?4 FROM meta WHERE true
            ON CONFLICT (cluster, name) DO UPDATE SET selection = ?2, snapshot = ?4, revision = revision + 1
            WHERE selection <> ?2";
        sqlx::query(sql)
            .bind(name)
            .bind(selection.0.as_slice())
            .bind(head)
            .bind(json(&SnapshotPlace::Begin)?)
            .execute(&mut *connection)
            .await?;
        let row = sqlx::query("SELECT * FROM target WHERE name = ?").bind(name).fetch_one(&mut *connection).await?;
        rows.push(target(&row)?);
    }
    Ok(rows)
}

/// Has a target begin with a snapshot.
async fn begin_again(connection: &mut SqliteConnection, target: TargetId) -> Result<(), Failure> {
    let sql = "UPDATE target SET snapshot = ?, revision = revision + 1 WHERE id = ?";
    sqlx::query(sql).bind(json(&SnapshotPlace::Begin)?).bind(target).execute(connection).await?;
    Ok(())
}

async fn enqueue(
    connection: &mut SqliteConnection,
    target: &Target,
    progress: &Progress,
    delivery: Option<NewDelivery>,
) -> Result<(), Failure> {
    let is_stored = store_progress(connection, target, progress).await?;
    match delivery.filter(|_| is_stored) {
        Some(delivery) => store_delivery(connection, target.id, delivery).await,
        None => Ok(()),
    }
}

/// Stores a delivery as the last one of its target.
pub(super) async fn store_delivery(
    connection: &mut SqliteConnection,
    target: TargetId,
    NewDelivery { key, records, body, at }: NewDelivery,
) -> Result<(), Failure> {
    let sql = "UPDATE target SET sequence = sequence + 1 WHERE id = ?";
    sqlx::query(sql).bind(target).execute(&mut *connection).await?;
    let sql = "INSERT INTO delivery (target, key, sequence, at, records, body)
        SELECT id, ?2, sequence, ?3, ?4, ?5 FROM target WHERE id = ?1";
    let row = sqlx::query(sql).bind(target).bind(key).bind(at).bind(integer(records)).bind(body);
    row.execute(connection).await?;
    Ok(())
}

/// Stores how far a portion goes. Returns `false` and stores nothing if a snapshot was requested since.
pub(super) async fn store_progress(
    connection: &mut SqliteConnection,
    target: &Target,
    progress: &Progress,
) -> Result<bool, Failure> {
    let place = progress.snapshot.as_ref().map(json).transpose()?;
    let sql = "UPDATE target SET cursor = ?3, snapshot = ?4 WHERE id = ?1 AND revision = ?2";
    let updated = sqlx::query(sql).bind(target.id).bind(target.revision).bind(progress.cursor).bind(place);
    if updated.execute(&mut *connection).await?.rows_affected() == 0 {
        return Ok(false);
    }
    let id = target.id;
    if progress.begins {
        for table in ["target_subject", "target_package_set", "target_pending"] {
            let sql = format!("DELETE FROM {table} WHERE target = ?");
            sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id).execute(&mut *connection).await?;
        }
        let sql = "UPDATE target_document SET stale = 1 WHERE target = ?";
        sqlx::query(sql).bind(id).execute(&mut *connection).await?;
    }
    let sets =
        progress.package_sets.iter().map(|(set, chain, head, after)| (set, outcrop_proto::hex(&chain.0), head, after));
    let subjects: Vec<i64> = progress.subjects.iter().map(|(subject, _)| *subject).collect();
    let has = progress.subjects.iter().flat_map(|(subject, sets)| sets.iter().map(move |set| (subject, set)));
    for (sql, rows) in [
        (
            "INSERT INTO target_package_set SELECT ?1, value ->> 0, unhex(value ->> 1), value ->> 2, value ->> 3 FROM json_each(?2) WHERE true
             ON CONFLICT DO UPDATE SET after = excluded.after",
            json(&sets.collect::<Vec<_>>())?,
        ),
        (
            "DELETE FROM target_subject WHERE target = ?1 AND subject IN (SELECT value FROM json_each(?2))",
            json(&subjects)?,
        ),
        (
            "INSERT OR IGNORE INTO target_subject SELECT ?1, value ->> 0, value ->> 1 FROM json_each(?2)",
            json(&has.collect::<Vec<_>>())?,
        ),
        (
            "DELETE FROM target_package_set WHERE target = ?1 AND package_set IN (SELECT value FROM json_each(?2))",
            json(&progress.gone)?,
        ),
        (
            "INSERT OR IGNORE INTO target_pending SELECT ?1, value ->> 0, value ->> 1 FROM json_each(?2)",
            json(&progress.pending.iter().collect::<Vec<_>>())?,
        ),
        (
            "DELETE FROM target_pending WHERE target = ?1 AND item IN (SELECT value FROM json_each(?2))",
            json(&progress.settled)?,
        ),
    ] {
        if rows != "[]" {
            sqlx::query(sql).bind(id).bind(rows).execute(&mut *connection).await?;
        }
    }
    Ok(true)
}

async fn limit_backlog(
    connection: &mut SqliteConnection,
    target: TargetId,
    BacklogLimit { events, since, drop_oldest }: BacklogLimit,
) -> Result<u64, Failure> {
    let row = by_id(connection, target).await?;
    if row.snapshot == Some(SnapshotPlace::Begin) {
        return Ok(0);
    }
    // The last event that is too old, and the one before the newest `events`.
    let sql = "SELECT max(id) FROM outbox WHERE id > ?1 AND at < ?2";
    let old: Option<i64> = sqlx::query_scalar(sql).bind(row.cursor).bind(since).fetch_one(&mut *connection).await?;
    let sql = "SELECT id FROM outbox WHERE id > ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2";
    let many: Option<i64> =
        sqlx::query_scalar(sql).bind(row.cursor).bind(integer(events)).fetch_optional(&mut *connection).await?;
    let Some(up_to) = old.into_iter().chain(many).max() else { return Ok(0) };
    let sql = "SELECT count(*) FROM outbox WHERE id > ? AND (id <= ? OR ?)";
    let left_out: i64 =
        sqlx::query_scalar(sql).bind(row.cursor).bind(up_to).bind(!drop_oldest).fetch_one(&mut *connection).await?;
    match drop_oldest {
        true => {
            sqlx::query("UPDATE target SET cursor = ?, dropped = dropped + ?, revision = revision + 1 WHERE id = ?")
                .bind(up_to)
                .bind(left_out)
                .bind(target)
                .execute(connection)
                .await?;
        }
        false => begin_again(connection, target).await?,
    }
    Ok(u64::try_from(left_out).unwrap_or_default())
}

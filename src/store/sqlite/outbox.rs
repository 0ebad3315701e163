//! The outbox.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use outcrop_proto::Severity;
use sqlx::{Row as _, SqliteConnection};

use super::{Failure, Sqlite, StoreError, doing, integer, json};
use crate::store::{Condition, OUTBOX_VERSION, Outbox, OutboxEvent, OutboxId, OutboxRow};

#[async_trait]
impl Outbox for Sqlite {
    async fn append(&self, events: &[OutboxEvent], at: i64) -> Result<(), StoreError> {
        if !self.outbox || events.is_empty() {
            return Ok(());
        }
        let events = events.to_vec();
        self.write("storing events", move |connection| Box::pin(async move { append(connection, &events, at).await }))
            .await
    }

    async fn outbox(&self, after: OutboxId, limit: usize) -> Result<Vec<OutboxRow>, StoreError> {
        let work = async {
            let sql = "SELECT outbox.id, at, key, body FROM outbox JOIN cluster ON cluster.id = outbox.cluster
                WHERE outbox.id > ? ORDER BY outbox.id LIMIT ?";
            let rows = sqlx::query(sql).bind(after).bind(integer(limit)).fetch_all(&self.reader).await?;
            rows.iter()
                .map(|row| {
                    let event = serde_json::from_str(row.try_get("body")?);
                    Ok(OutboxRow {
                        id: row.try_get("id")?,
                        at: row.try_get("at")?,
                        cluster: row.try_get("key")?,
                        event: event.map_err(|_| Failure::Damaged("an event"))?,
                    })
                })
                .collect()
        };
        doing("reading events", work).await
    }

    async fn open_conditions(&self) -> Result<BTreeSet<Condition>, StoreError> {
        let work = async {
            let sql = "SELECT condition FROM open_condition WHERE cluster = (SELECT cluster FROM meta)";
            let rows = sqlx::query(sql).fetch_all(&self.reader).await?;
            rows.iter()
                .map(|row| serde_json::from_str(row.try_get(0)?).map_err(|_| Failure::Damaged("a condition")))
                .collect()
        };
        doing("reading open conditions", work).await
    }
}

/// Stores events in the transaction of the write that they follow from.
pub(super) async fn append(connection: &mut SqliteConnection, events: &[OutboxEvent], at: i64) -> Result<(), Failure> {
    let row = |event: &OutboxEvent| {
        let subject = event.subject().map(json).transpose()?;
        Ok((event.kind(), event.package_set(), subject, json(event)?, event.item()))
    };
    let rows: Vec<_> = events.iter().map(row).collect::<Result<_, Failure>>()?;
    sqlx::query(
        "INSERT INTO outbox (cluster, at, kind, package_set, subject, version, body, item)
         SELECT meta.cluster, ?1, value ->> 0, value ->> 1, value ->> 2, ?2, value ->> 3, value ->> 4
         FROM json_each(?3) CROSS JOIN meta ORDER BY json_each.key",
    )
    .bind(at)
    .bind(OUTBOX_VERSION)
    .bind(json(&rows)?)
    .execute(&mut *connection)
    .await?;
    // Of several events of one condition the last one counts.
    let conditions: BTreeMap<Condition, bool> = events.iter().filter_map(OutboxEvent::condition).collect();
    for (begins, sql) in [
        (true, "INSERT OR IGNORE INTO open_condition SELECT meta.cluster, value FROM json_each(?) CROSS JOIN meta"),
        (
            false,
            "DELETE FROM open_condition WHERE cluster = (SELECT cluster FROM meta)
             AND condition IN (SELECT value FROM json_each(?))",
        ),
    ] {
        let keys = conditions.iter().filter(|(_, begun)| **begun == begins).map(|(condition, _)| json(condition));
        let keys: Vec<String> = keys.collect::<Result<_, Failure>>()?;
        if !keys.is_empty() {
            sqlx::query(sql).bind(json(&keys)?).execute(&mut *connection).await?;
        }
    }
    Ok(())
}

/// Stores an event of `kind` for each of these verdicts in the package sets ?2 (one, or all where it is open if NULL). The bodies are
/// [`FindingEvent`](crate::store::FindingEvent)s: thousands of them never leave SQLite.
pub(super) async fn append_findings(
    connection: &mut SqliteConnection,
    kind: &'static str,
    package_set: Option<i64>,
    verdicts: &[i64],
    at: i64,
) -> Result<(), Failure> {
    if verdicts.is_empty() {
        return Ok(());
    }
    let sets = match package_set {
        Some(_) => "(SELECT ?2 AS package_set) AS sets",
        None => "finding AS sets ON sets.verdict = verdict.id AND sets.closed IS NULL AND ?2 IS NULL",
    };
    let sql = format!(
        "INSERT INTO outbox (cluster, at, kind, package_set, version, item, body)
         SELECT meta.cluster, ?1, ?3, sets.package_set, ?4, 'finding ' || sets.package_set || ' ' || verdict.id, json_object('kind', ?3, 'package_set', sets.package_set,
             'vulnerability', vulnerability, 'aliases', json((WITH RECURSIVE split (alias, rest) AS (
                 SELECT '', aliases || char(10) UNION ALL
                 SELECT substr(rest, 1, instr(rest, char(10)) - 1), substr(rest, instr(rest, char(10)) + 1)
                 FROM split WHERE rest <> '') SELECT json_group_array(alias) FROM split WHERE alias <> '')),
             'severity', ?5 ->> rank, 'score', score, 'status', status, 'fixed', fixed, 'type', package.type, 'package', name,
             'version', version, 'purl', purl)
         FROM json_each(?6) AS wanted CROSS JOIN verdict ON verdict.id = wanted.value
         CROSS JOIN package ON package.id = verdict.package CROSS JOIN {sets} CROSS JOIN meta ORDER BY wanted.key"
    );
    sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(at)
        .bind(package_set)
        .bind(kind)
        .bind(OUTBOX_VERSION)
        .bind(json(&Severity::WORST_FIRST)?)
        .bind(json(&verdicts)?)
        .execute(connection)
        .await?;
    Ok(())
}

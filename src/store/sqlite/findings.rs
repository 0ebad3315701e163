//! Results of matching.

use async_trait::async_trait;
use outcrop_proto::Digest;
use sqlx::{Row as _, SqliteConnection};

use super::outbox::{append, append_findings};
use super::{Failure, Sqlite, StoreError, count, digest, doing, integer, json};
use crate::store::{Findings, OutboxEvent, PackageSetFindings, RematchRow, Verdict, VerdictId};

#[async_trait]
impl Findings for Sqlite {
    async fn put_verdicts(&self, verdicts: &[Verdict], at: i64) -> Result<Vec<VerdictId>, StoreError> {
        if verdicts.is_empty() {
            return Ok(Vec::new());
        }
        let (rows, outbox) = (verdict_rows(verdicts), self.outbox);
        let rows = doing("storing verdicts", async { rows }).await?;
        self.write("storing verdicts", move |connection| {
            Box::pin(async move {
                let touched = write_verdicts(connection, &rows).await?;
                if outbox {
                    append_findings(connection, "finding-changed", None, &touched, at).await?;
                }
                verdict_ids(connection, &rows).await
            })
        })
        .await
    }

    async fn put_findings(
        &self,
        findings: &PackageSetFindings,
        database: &Digest,
        at: i64,
    ) -> Result<(u64, u64), StoreError> {
        let (findings, database, outbox) = (findings.clone(), *database, self.outbox);
        self.write("storing findings", move |connection| {
            Box::pin(async move { write_findings(connection, &findings, &database, at, outbox).await })
        })
        .await
    }

    async fn begin_rematch(&self, database: &Digest, at: i64) -> Result<i64, StoreError> {
        let (database, outbox) = (*database, self.outbox);
        self.write("storing that a rematch begins", move |connection| {
            Box::pin(async move {
                let used = database_id(connection, &database).await?;
                let last = sqlx::query("SELECT database FROM rematch ORDER BY id DESC LIMIT 1");
                let last = last.fetch_optional(&mut *connection).await?;
                let last = last.map(|row| row.try_get::<i64, _>(0)).transpose()?;
                // Only the last one is read.
                sqlx::query("DELETE FROM rematch").execute(&mut *connection).await?;
                let row = sqlx::query("INSERT INTO rematch (database, at) VALUES (?, ?) RETURNING id")
                    .bind(used)
                    .bind(at)
                    .fetch_one(&mut *connection)
                    .await?;
                if outbox && last != Some(used) {
                    let changed = OutboxEvent::DatabaseChanged { database: database.to_string() };
                    append(connection, &[changed], at).await?;
                }
                Ok(row.try_get(0)?)
            })
        })
        .await
    }

    async fn end_rematch(&self, id: i64, outcome: &RematchRow) -> Result<(), StoreError> {
        let outcome = outcome.clone();
        self.write("storing that a rematch ended", move |connection| {
            Box::pin(async move {
                sqlx::query("UPDATE rematch SET seconds = ?, stacks = ?, appeared = ?, went = ? WHERE id = ?")
                    .bind(outcome.seconds)
                    .bind(integer(outcome.stacks))
                    .bind(integer(outcome.appeared))
                    .bind(integer(outcome.went))
                    .bind(id)
                    .execute(connection)
                    .await?;
                Ok(())
            })
        })
        .await
    }

    async fn last_rematch(&self) -> Result<Option<(Digest, Option<RematchRow>)>, StoreError> {
        let work = async {
            let sql = "SELECT rematch.*, digest FROM rematch JOIN advisory_database ON advisory_database.id = database
                ORDER BY rematch.id DESC LIMIT 1";
            let Some(row) = sqlx::query(sql).fetch_optional(&self.reader).await? else { return Ok(None) };
            let ended = match row.try_get::<Option<f64>, _>("seconds")? {
                None => None,
                Some(seconds) => Some(RematchRow {
                    at: row.try_get("at")?,
                    seconds,
                    stacks: count(&row, "stacks")?,
                    appeared: count(&row, "appeared")?,
                    went: count(&row, "went")?,
                }),
            };
            Ok(Some((digest(&row, "digest")?, ended)))
        };
        doing("reading the last rematch", work).await
    }
}

/// Returns verdicts as a parameter.
fn verdict_rows(verdicts: &[Verdict]) -> Result<String, Failure> {
    let row = |of: &Verdict| {
        let head = (of.package, of.vulnerability.clone(), i64::from(of.unassessed), of.severity.rank());
        (head, of.score, of.status, of.fixed.clone(), of.summary.clone(), of.aliases.join("\n"))
    };
    json(&verdicts.iter().map(row).collect::<Vec<_>>())
}

/// Stores verdicts that are new or say something else than before, with their names. Returns the ids of these.
async fn write_verdicts(connection: &mut SqliteConnection, rows: &str) -> Result<Vec<VerdictId>, Failure> {
    let touched = sqlx::query(
        "INSERT INTO verdict (package, vulnerability, unassessed, rank, score, status, fixed, summary, aliases)
         SELECT value ->> '$[0][0]', value ->> '$[0][1]', value ->> '$[0][2]', value ->> '$[0][3]',
             CAST(value ->> 1 AS REAL), value ->> 2, value ->> 3, value ->> 4, value ->> 5
         FROM json_each(?) WHERE true
         ON CONFLICT (package, vulnerability, unassessed) DO UPDATE SET rank = excluded.rank, score = excluded.score,
             status = excluded.status, fixed = excluded.fixed, summary = excluded.summary, aliases = excluded.aliases
             WHERE (rank, score, status, fixed, summary, aliases) IS NOT
                 (excluded.rank, excluded.score, excluded.status, excluded.fixed, excluded.summary, excluded.aliases)
         RETURNING id",
    );
    let touched = touched.bind(rows).fetch_all(&mut *connection).await?;
    let touched: Vec<VerdictId> = touched.iter().map(|row| row.try_get(0)).collect::<Result<_, sqlx::Error>>()?;
    if touched.is_empty() {
        return Ok(touched);
    }
    let ids = json(&touched)?;
    sqlx::query("DELETE FROM vulnerability_name WHERE verdict IN (SELECT value FROM json_each(?))")
        .bind(&ids)
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "WITH RECURSIVE touched (verdict, name, rest) AS (
             SELECT verdict.id, vulnerability, aliases || char(10) FROM json_each(?) CROSS JOIN verdict ON verdict.id = value
             UNION ALL
             SELECT verdict, substr(rest, 1, instr(rest, char(10)) - 1), substr(rest, instr(rest, char(10)) + 1)
             FROM touched WHERE rest <> '')
         INSERT OR IGNORE INTO vulnerability_name (name, verdict) SELECT name, verdict FROM touched WHERE name <> ''",
    )
    .bind(ids)
    .execute(connection)
    .await?;
    Ok(touched)
}

/// Returns the ids of verdicts, in their order.
async fn verdict_ids(connection: &mut SqliteConnection, rows: &str) -> Result<Vec<VerdictId>, Failure> {
    let sql = "SELECT verdict.id FROM json_each(?) AS wanted CROSS JOIN verdict
            ON package = wanted.value ->> '$[0][0]' AND vulnerability = wanted.value ->> '$[0][1]'
            AND unassessed = wanted.value ->> '$[0][2]'
        ORDER BY wanted.key";
    let ids = sqlx::query(sql).bind(rows).fetch_all(connection).await?;
    Ok(ids.iter().map(|row| row.try_get(0)).collect::<Result<_, sqlx::Error>>()?)
}

/// Returns the row id of a database.
async fn database_id(connection: &mut SqliteConnection, database: &Digest) -> Result<i64, Failure> {
    let sql = "SELECT id FROM advisory_database WHERE digest = ?";
    if let Some(row) = sqlx::query(sql).bind(database.0.as_slice()).fetch_optional(&mut *connection).await? {
        return Ok(row.try_get(0)?);
    }
    let sql = "INSERT INTO advisory_database (digest) VALUES (?) RETURNING id";
    Ok(sqlx::query(sql).bind(database.0.as_slice()).fetch_one(connection).await?.try_get(0)?)
}

async fn write_findings(
    connection: &mut SqliteConnection,
    findings: &PackageSetFindings,
    database: &Digest,
    at: i64,
    outbox: bool,
) -> Result<(u64, u64), Failure> {
    let PackageSetFindings { package_set, verdicts, counts } = findings;
    let sql = "SELECT verdict FROM finding WHERE package_set = ? AND closed IS NULL ORDER BY verdict";
    let rows = sqlx::query(sql).bind(package_set).fetch_all(&mut *connection).await?;
    let open: Vec<VerdictId> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, sqlx::Error>>()?;
    let opened: Vec<VerdictId> = verdicts.iter().filter(|id| open.binary_search(id).is_err()).copied().collect();
    let closed: Vec<VerdictId> = open.iter().filter(|id| verdicts.binary_search(id).is_err()).copied().collect();
    if !closed.is_empty() {
        sqlx::query(
            "UPDATE finding SET closed = ? WHERE package_set = ? AND closed IS NULL
             AND verdict IN (SELECT value FROM json_each(?))",
        )
        .bind(at)
        .bind(package_set)
        .bind(json(&closed)?)
        .execute(&mut *connection)
        .await?;
    }
    if !opened.is_empty() {
        // One that was opened and closed in this very second opens again.
        sqlx::query(
            "INSERT INTO finding SELECT ?1, value, ?2, NULL FROM json_each(?3) WHERE true
             ON CONFLICT DO UPDATE SET closed = NULL",
        )
        .bind(package_set)
        .bind(at)
        .bind(json(&opened)?)
        .execute(&mut *connection)
        .await?;
    }
    let used = database_id(connection, database).await?;
    let (severities, by_layer) = (json(&counts.severities.worst_first())?, json(&counts.by_layer)?);
    let updated = sqlx::query(
        "UPDATE package_set SET matched = ?1, withheld = ?2, severities = ?3, by_layer = ?4, dropped = ?6 WHERE id = ?5
         RETURNING (SELECT 1)",
    );
    let updated = updated.bind(used).bind(counts.withheld).bind(severities).bind(by_layer).bind(package_set);
    let updated = updated.bind(counts.dropped);
    if updated.fetch_optional(&mut *connection).await?.is_none() {
        // Removed meanwhile: nothing was stored of it.
        let removed = StoreError::new("storing findings", crate::store::ErrorKind::Rejected, "the package set is gone");
        return Err(Failure::Store(removed));
    }
    if outbox {
        append_findings(connection, "finding-closed", Some(*package_set), &closed, at).await?;
        append_findings(connection, "finding-opened", Some(*package_set), &opened, at).await?;
    }
    Ok((opened.len() as u64, closed.len() as u64))
}

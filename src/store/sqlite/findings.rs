//! What matching found.

use async_trait::async_trait;
use outcrop_proto::Digest;
use sqlx::Row as _;

use super::dictionary::write_verdicts;
use super::{Sqlite, StoreError, count, digest, integer, json};
use crate::store::{Findings, RematchRow, StackFindings, Verdict, VerdictId};

#[async_trait]
impl Findings for Sqlite {
    async fn put_verdicts(&self, verdicts: &[Verdict]) -> Result<Vec<VerdictId>, StoreError> {
        let mut dictionary = self.dictionary.lock().await;
        let mut numbers = Vec::with_capacity(verdicts.len());
        let mut touched = Vec::new();
        for verdict in verdicts {
            let (number, is_told) = dictionary.verdict(verdict);
            numbers.push(number);
            if is_told {
                touched.push((number, verdict));
            }
        }
        if touched.is_empty() {
            return Ok(numbers);
        }
        let written = async {
            let mut transaction = self.writer.begin().await?;
            write_verdicts(&mut transaction, &touched).await?;
            Ok(transaction.commit().await?)
        };
        let written = written.await.map(|()| numbers);
        dictionary.settle(&self.reader, written).await
    }

    async fn put_findings(&self, findings: &StackFindings, at: i64) -> Result<(u64, u64), StoreError> {
        let StackFindings { stack, verdicts, counts } = findings;
        let sql = "SELECT verdict FROM finding WHERE stack = ? AND closed IS NULL ORDER BY verdict";
        let rows = sqlx::query(sql).bind(stack).fetch_all(&self.reader).await?;
        let open: Vec<i64> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, sqlx::Error>>()?;
        let appeared: Vec<i64> = verdicts.iter().filter(|id| open.binary_search(id).is_err()).copied().collect();
        let went: Vec<i64> = open.iter().filter(|id| verdicts.binary_search(id).is_err()).copied().collect();
        let severities = json(&counts.severities)?;
        let by_layer = json(&counts.by_layer)?;
        let sql = "SELECT 1 FROM stack WHERE id = ? AND withheld = ? AND severities = ? AND by_layer = ?";
        let same = sqlx::query(sql).bind(stack).bind(counts.withheld).bind(&severities).bind(&by_layer);
        let same = same.fetch_optional(&self.reader).await?.is_some();
        if same && appeared.is_empty() && went.is_empty() {
            return Ok((0, 0));
        }
        let mut transaction = self.writer.begin().await?;
        sqlx::query(
            "UPDATE finding SET closed = ? WHERE stack = ? AND closed IS NULL
             AND verdict IN (SELECT value FROM json_each(?))",
        )
        .bind(at)
        .bind(stack)
        .bind(json(&went)?)
        .execute(&mut *transaction)
        .await?;
        // One that was closed in this very second opens again; one that somebody else opened meanwhile is open.
        sqlx::query(
            "INSERT INTO finding SELECT ?1, value, ?2, NULL FROM json_each(?3) WHERE NOT EXISTS
                 (SELECT 1 FROM finding AS open WHERE open.stack = ?1 AND open.verdict = value AND open.closed IS NULL)
             ON CONFLICT DO UPDATE SET closed = NULL",
        )
        .bind(stack)
        .bind(at)
        .bind(json(&appeared)?)
        .execute(&mut *transaction)
        .await?;
        sqlx::query("UPDATE stack SET withheld = ?, severities = ?, by_layer = ? WHERE id = ?")
            .bind(counts.withheld)
            .bind(severities)
            .bind(by_layer)
            .bind(stack)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok((appeared.len() as u64, went.len() as u64))
    }

    async fn begin_rematch(&self, database: &Digest, at: i64) -> Result<i64, StoreError> {
        let mut transaction = self.writer.begin().await?;
        // Only the last one is asked for.
        sqlx::query("DELETE FROM rematch").execute(&mut *transaction).await?;
        let row = sqlx::query("INSERT INTO rematch (database, at) VALUES (?, ?) RETURNING id")
            .bind(database.0.as_slice())
            .bind(at)
            .fetch_one(&mut *transaction)
            .await?;
        let id = row.try_get(0)?;
        transaction.commit().await?;
        Ok(id)
    }

    async fn end_rematch(&self, id: i64, outcome: &RematchRow) -> Result<(), StoreError> {
        sqlx::query("UPDATE rematch SET seconds = ?, stacks = ?, appeared = ?, went = ? WHERE id = ?")
            .bind(outcome.seconds)
            .bind(integer(outcome.stacks))
            .bind(integer(outcome.appeared))
            .bind(integer(outcome.went))
            .bind(id)
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    async fn last_rematch(&self) -> Result<Option<(Digest, Option<RematchRow>)>, StoreError> {
        let sql = "SELECT * FROM rematch ORDER BY id DESC LIMIT 1";
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
        Ok(Some((digest(&row, "database")?, ended)))
    }
}

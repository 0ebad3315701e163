//! Who ran which stack when.

use std::collections::{BTreeSet, HashMap};

use async_trait::async_trait;
use sqlx::Row as _;

use super::{Sqlite, StoreError, json};
use crate::store::{History, Run, Seen, SeenFinding, StackId};

/// Seconds between the end of a run and the beginning of the next one of the same stack, for which they are one.
const PAUSE: i64 = 3600;

#[async_trait]
impl History for Sqlite {
    async fn record_runs(&self, begun: &[Run], ended: &[Run]) -> Result<(), StoreError> {
        if begun.is_empty() && ended.is_empty() {
            return Ok(());
        }
        let rows = |runs: &[Run]| {
            let rows: Vec<(&str, i64, i64)> = runs.iter().map(|run| (&*run.subject, run.stack, run.at)).collect();
            json(&rows)
        };
        let (begun, ended) = (rows(begun)?, rows(ended)?);
        let mut transaction = self.writer.begin().await?;
        sqlx::query("INSERT OR IGNORE INTO subject (key) SELECT value ->> 0 FROM json_each(?)")
            .bind(&begun)
            .execute(&mut *transaction)
            .await?;
        // What begins again soon after it ended went on: a container that crashes every minute has not a run for each.
        sqlx::query(
            "UPDATE run SET until = NULL FROM json_each(?1) JOIN subject ON subject.key = value ->> 0
             WHERE run.subject = subject.id AND run.stack = value ->> 1 AND run.until >= (value ->> 2) - ?2
             AND NOT EXISTS (SELECT 1 FROM run AS later WHERE later.subject = run.subject
                 AND (later.since > run.since OR later.stack = run.stack AND later.until IS NULL))",
        )
        .bind(&begun)
        .bind(PAUSE)
        .execute(&mut *transaction)
        .await?;
        // A stack that was removed meanwhile has no history; one that runs already goes on.
        sqlx::query(
            "INSERT OR IGNORE INTO run SELECT subject.id, stack.id, value ->> 2, NULL
             FROM json_each(?) JOIN subject ON subject.key = value ->> 0 JOIN stack ON stack.id = value ->> 1
             WHERE NOT EXISTS (SELECT 1 FROM run WHERE run.subject = subject.id AND run.stack = stack.id AND until IS NULL)",
        )
        .bind(&begun)
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "UPDATE run SET until = max(since, value ->> 2) FROM json_each(?) JOIN subject ON subject.key = value ->> 0
             WHERE run.subject = subject.id AND run.stack = value ->> 1 AND run.until IS NULL",
        )
        .bind(ended)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn open_runs(&self) -> Result<Vec<Run>, StoreError> {
        let sql = "SELECT key, stack, since FROM run JOIN subject ON subject.id = run.subject WHERE until IS NULL";
        let rows = sqlx::query(sql).fetch_all(&self.reader).await?;
        rows.iter()
            .map(|row| Ok(Run { subject: row.try_get(0)?, stack: row.try_get(1)?, at: row.try_get(2)? }))
            .collect()
    }

    async fn seen(&self, subjects: &[String], problems: Option<&[String]>) -> Result<Vec<Seen>, StoreError> {
        let sql = "SELECT subject.key, run.since, run.until, run.stack
            FROM json_each(?) AS wanted CROSS JOIN subject ON subject.key = wanted.value
            CROSS JOIN run ON run.subject = subject.id
            ORDER BY subject.key, run.since, run.stack";
        let runs = sqlx::query(sql).bind(json(&subjects)?).fetch_all(&self.reader).await?;
        let stacks: BTreeSet<StackId> = runs.iter().map(|row| row.try_get("stack")).collect::<Result<_, _>>()?;
        // What many subjects ran is looked through once.
        let sql = "SELECT finding.stack, verdict, opened, closed, problem, package.type, name
            FROM json_each(?1) AS wanted CROSS JOIN finding ON finding.stack = wanted.value
            CROSS JOIN verdict ON verdict.id = finding.verdict CROSS JOIN package ON package.id = verdict.package
            WHERE ?2 IS NULL OR problem IN (SELECT value FROM json_each(?2))";
        let problems = problems.map(|problems| json(&problems)).transpose()?;
        let query = sqlx::query(sql).bind(json(&stacks)?).bind(problems);
        let mut found: HashMap<StackId, Vec<SeenFinding>> = HashMap::new();
        for row in query.fetch_all(&self.reader).await? {
            found.entry(row.try_get("stack")?).or_default().push(SeenFinding {
                problem: row.try_get("problem")?,
                package: (row.try_get("type")?, row.try_get("name")?),
                verdict: row.try_get("verdict")?,
                opened: row.try_get("opened")?,
                closed: row.try_get("closed")?,
            });
        }
        let mut seen = Vec::with_capacity(runs.len());
        for row in &runs {
            let stack = row.try_get("stack")?;
            let run = Seen {
                subject: row.try_get("key")?,
                since: row.try_get("since")?,
                until: row.try_get("until")?,
                stack,
                finding: None,
            };
            match found.get(&stack) {
                None => seen.push(run),
                Some(found) => {
                    seen.extend(found.iter().map(|finding| Seen { finding: Some(finding.clone()), ..run.clone() }));
                }
            }
        }
        Ok(seen)
    }

    async fn tidy(&self, history: i64, unused: i64, present: &[StackId]) -> Result<(), StoreError> {
        let mut dictionary = self.dictionary.lock().await;
        let present = json(&present)?;
        let mut transaction = self.writer.begin().await?;
        // Of a stack that nobody runs any more, what was found stays as long as somebody's history needs it.
        let unused_stacks = "SELECT id FROM stack WHERE id NOT IN (SELECT value FROM json_each(?1))
            AND NOT EXISTS (SELECT 1 FROM run WHERE run.stack = stack.id AND (until IS NULL OR until >= ?2))";
        let statements = [
            "DELETE FROM run WHERE until < ?3 AND ?1 IS NOT NULL AND ?2 IS NOT NULL".to_owned(),
            format!("DELETE FROM stack_package WHERE stack IN ({unused_stacks}) AND ?3 IS NOT NULL"),
            // Whoever runs it again has it read and merged again.
            format!(
                "UPDATE stack SET cataloguers = 0 WHERE cataloguers > 0 AND id IN ({unused_stacks})
                 AND ?3 IS NOT NULL"
            ),
            format!(
                "DELETE FROM layer WHERE ?3 IS NOT NULL AND read_at < ?2 AND id NOT IN (SELECT value FROM stack,
                 json_each('[\"' || replace(layers, char(10), '\",\"') || '\"]') WHERE stack.id NOT IN ({unused_stacks}))"
            ),
            format!(
                "DELETE FROM stack WHERE id IN ({unused_stacks}) AND ?3 IS NOT NULL
                 AND NOT EXISTS (SELECT 1 FROM run WHERE run.stack = stack.id)"
            ),
        ];
        for statement in statements {
            sqlx::query(sqlx::AssertSqlSafe(statement))
                .bind(&present)
                .bind(unused)
                .bind(history)
                .execute(&mut *transaction)
                .await?;
        }
        for statement in [
            "DELETE FROM subject WHERE id NOT IN (SELECT subject FROM run)",
            "DELETE FROM verdict WHERE id NOT IN (SELECT verdict FROM finding)",
            "DELETE FROM package WHERE id NOT IN (SELECT package FROM stack_package)
                AND id NOT IN (SELECT owner FROM stack_package) AND id NOT IN (SELECT package FROM verdict)",
            "DELETE FROM evidence WHERE id NOT IN (SELECT evidence FROM stack_package)",
        ] {
            sqlx::query(statement).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        *dictionary = super::dictionary::Dictionary::load(&self.reader).await?;
        Ok(())
    }
}

//! Documents that targets keep, and what they are written from.

use async_trait::async_trait;
use outcrop_proto::{Digest, hex};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::history::subject;
use super::{Failure, Sqlite, StoreError, count, digest, doing, integer, json, portion};
use crate::store::{
    DocumentRow, Documents, FindingRow, PackageSetId, PackageSetState, SubjectKey, TargetId, VerdictId,
};

#[async_trait]
impl Documents for Sqlite {
    async fn document(&self, target: TargetId, name: &str) -> Result<Option<DocumentRow>, StoreError> {
        let work = async {
            let sql = "SELECT name, digest, size, remote, stale FROM target_document WHERE target = ? AND name = ?";
            let row = sqlx::query(sql).bind(target).bind(name).fetch_optional(&mut *self.reading().await?).await?;
            row.as_ref().map(document).transpose()
        };
        doing("reading a document of a target", work).await
    }

    async fn documents(&self, target: TargetId, after: &str, limit: usize) -> Result<Vec<DocumentRow>, StoreError> {
        let work = async {
            let sql = "SELECT name, digest, size, remote, stale FROM target_document WHERE target = ? AND name > ?
                ORDER BY name LIMIT ?";
            let rows = sqlx::query(sql).bind(target).bind(after).bind(integer(limit));
            rows.fetch_all(&mut *self.reading().await?).await?.iter().map(document).collect()
        };
        doing("reading documents of a target", work).await
    }

    async fn record_documents(
        &self,
        target: TargetId,
        accepted: &[DocumentRow],
        removed: &[String],
    ) -> Result<(), StoreError> {
        if accepted.is_empty() && removed.is_empty() {
            return Ok(());
        }
        let rows =
            accepted.iter().map(|of| (&of.name, hex(&of.digest.0), of.size, &of.remote, of.stale)).collect::<Vec<_>>();
        let rows = doing("recording documents of a target", async { json(&rows) }).await?;
        let removed = doing("recording documents of a target", async { json(&removed) }).await?;
        self.write("recording documents of a target", move |connection| {
            Box::pin(async move {
                for (sql, rows) in [
                    (
                        "DELETE FROM target_document WHERE target = ?1 AND name IN (SELECT value FROM json_each(?2))",
                        removed,
                    ),
                    (
                        "INSERT OR REPLACE INTO target_document (target, name, digest, size, remote, stale)
                         SELECT target.id, value ->> 0, unhex(value ->> 1), value ->> 2, value ->> 3, value ->> 4
                         FROM json_each(?2) CROSS JOIN target ON target.id = ?1",
                        rows,
                    ),
                ] {
                    sqlx::query(sql).bind(target).bind(rows).execute(&mut *connection).await?;
                }
                Ok(())
            })
        })
        .await
    }

    async fn forget_documents(&self, target: TargetId) -> Result<(), StoreError> {
        self.write("forgetting documents of a target", move |connection| {
            Box::pin(async move {
                sqlx::query("DELETE FROM target_document WHERE target = ?").bind(target).execute(connection).await?;
                Ok(())
            })
        })
        .await
    }

    async fn is_complete(&self, target: TargetId) -> Result<bool, StoreError> {
        let work = async {
            let sql = "SELECT snapshot IS NULL FROM target WHERE id = ?";
            Ok(sqlx::query_scalar(sql).bind(target).fetch_one(&mut *self.reading().await?).await?)
        };
        doing("reading a target", work).await
    }

    async fn told_package_set(
        &self,
        target: TargetId,
        identity: &Digest,
    ) -> Result<Option<(PackageSetId, PackageSetState)>, StoreError> {
        let work = async {
            let mut reading = self.reading().await?;
            let sql = "SELECT stack.id FROM stack CROSS JOIN target_package_set AS told
                ON told.package_set = stack.id AND told.target = ? WHERE stack.chain = ?";
            let id = sqlx::query_scalar(sql).bind(target).bind(identity.0.as_slice());
            let Some(id) = id.fetch_optional(&mut *reading).await? else { return Ok(None) };
            Ok(portion::state(&mut reading, id).await?.map(|state| (id, state)))
        };
        doing("reading a package set", work).await
    }

    async fn told_package_sets(
        &self,
        target: TargetId,
        after: PackageSetId,
        limit: usize,
    ) -> Result<Vec<(PackageSetId, Digest)>, StoreError> {
        let work = async {
            let sql = "SELECT package_set, chain FROM target_package_set WHERE target = ? AND package_set > ?
                ORDER BY package_set LIMIT ?";
            let rows = sqlx::query(sql).bind(target).bind(after).bind(integer(limit));
            let rows = rows.fetch_all(&mut *self.reading().await?).await?;
            rows.iter().map(|row| Ok((row.try_get("package_set")?, digest(row, "chain")?))).collect()
        };
        doing("reading package sets of a target", work).await
    }

    async fn told_subjects(
        &self,
        target: TargetId,
        after: i64,
        limit: usize,
    ) -> Result<Vec<(i64, SubjectKey, Vec<Digest>)>, StoreError> {
        let work = async {
            let mut reading = self.reading().await?;
            let sql = "SELECT subject.*, (SELECT group_concat(lower(hex(chain)), ' ') FROM target_subject AS has
                    JOIN stack ON stack.id = has.package_set WHERE has.target = ?1 AND has.subject = told.subject) AS sets
                FROM (SELECT DISTINCT subject FROM target_subject WHERE target = ?1 AND subject > ?2
                    ORDER BY subject LIMIT ?3) AS told
                CROSS JOIN subject ON subject.id = told.subject ORDER BY subject.id";
            let rows = sqlx::query(sql).bind(target).bind(after).bind(integer(limit));
            let rows = rows.fetch_all(&mut *reading).await?;
            rows.iter().map(|row| Ok((row.try_get("id")?, subject(row)?, package_sets(row)?))).collect()
        };
        doing("reading subjects of a target", work).await
    }

    async fn told_containers(
        &self,
        target: TargetId,
        of: &SubjectKey,
    ) -> Result<Vec<(SubjectKey, Vec<Digest>)>, StoreError> {
        let work = async {
            let mut reading = self.reading().await?;
            let sql = "SELECT subject.*, group_concat(lower(hex(chain)), ' ') AS sets
                FROM subject CROSS JOIN target_subject AS has ON has.subject = subject.id AND has.target = ?1
                JOIN stack ON stack.id = has.package_set
                WHERE subject.kind = ?2 AND subject.node = ?3 AND subject.namespace = ?4 AND subject.workload = ?5
                    AND (?2 = 'workload-container' OR subject.container = ?6)
                    AND subject.workload_kind = ?7 AND subject.workload_group = ?8
                    AND subject.cluster = (SELECT cluster FROM meta)
                GROUP BY subject.id ORDER BY subject.container";
            let query = sqlx::query(sql).bind(target);
            let query = match of {
                SubjectKey::WorkloadContainer { workload, container } => query
                    .bind("workload-container")
                    .bind("")
                    .bind(&*workload.namespace)
                    .bind(&*workload.name)
                    .bind(&**container)
                    .bind(&*workload.kind)
                    .bind(&*workload.group),
                SubjectKey::Container { node, namespace, container } => query
                    .bind("container")
                    .bind(&**node)
                    .bind(&**namespace)
                    .bind("")
                    .bind(&**container)
                    .bind("")
                    .bind(""),
                SubjectKey::Node { node } => {
                    query.bind("node").bind(&**node).bind("").bind("").bind("").bind("").bind("")
                }
            };
            let rows = query.fetch_all(&mut *reading).await?;
            rows.iter().map(|row| Ok((subject(row)?, package_sets(row)?))).collect()
        };
        doing("reading the containers of a workload", work).await
    }

    async fn open_findings(
        &self,
        package_set: PackageSetId,
        after: VerdictId,
        limit: usize,
    ) -> Result<Vec<(FindingRow, i64)>, StoreError> {
        let work = async { portion::open_findings(&mut *self.reading().await?, package_set, after, limit).await };
        doing("reading the findings of a package set", work).await
    }
}

fn document(row: &SqliteRow) -> Result<DocumentRow, Failure> {
    Ok(DocumentRow {
        name: row.try_get("name")?,
        digest: digest(row, "digest")?,
        size: count(row, "size")?,
        remote: row.try_get("remote")?,
        stale: row.try_get("stale")?,
    })
}

/// Returns the identities in the column `sets`, sorted.
fn package_sets(row: &SqliteRow) -> Result<Vec<Digest>, Failure> {
    let text: Option<&str> = row.try_get("sets")?;
    let parse = |digits: &str| format!("sha256:{digits}").parse().map_err(|_| Failure::Damaged("an identity"));
    let mut sets = text.unwrap_or_default().split_whitespace().map(parse).collect::<Result<Vec<Digest>, _>>()?;
    sets.sort_unstable();
    Ok(sets)
}

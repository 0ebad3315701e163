//! Notices of notification targets.
//!
//! Pairs of a vulnerability and a workload are made of rows, never in memory: a portion names subjects and findings that changed, and one
//! statement finds the pairs that are new.

use async_trait::async_trait;
use outcrop_proto::{CoverageState, Digest, Word};
use sqlx::{Row as _, SqliteConnection};

use super::deliveries::{store_delivery, store_progress};
use super::{Failure, Sqlite, StoreError, count, doing, integer, json, severity};
use crate::store::{
    Change, Condition, FindingChange, NewDelivery, NoticeFilter, NoticeId, NoticeRow, NoticeScope, NoticeTotals,
    Notices, OutboxEvent, PackageSetId, PackageSetState, PendingNotices, Portion, ProblemNotice, Target, TargetId,
    VerdictId, WorkloadKey,
};

/// Notices that a target has at most.
const MOST: usize = 300_000;

/// Notices that are looked at in one transaction.
const PAGE: usize = 2_000;

/// Time for which a message counts, seconds.
const HOUR: i64 = 3_600;

/// Time after which a vulnerability that a workload does not have any more is forgotten, so that people are told when it comes back, seconds.
const FORGET: i64 = 7 * 24 * 3_600;

/// A condition on `notice`: its workload has its vulnerability, as far as the target is told of the workload. In most cases it is the verdict of
/// the notice; otherwise any verdict of the vulnerability.
const IS_OPEN: &str = "(EXISTS (SELECT 1 FROM target_subject AS has CROSS JOIN finding
        ON finding.package_set = has.package_set AND finding.verdict = notice.verdict AND closed IS NULL
    WHERE has.target = notice.target AND has.subject IN (
        SELECT id FROM subject WHERE node = '' AND namespace = notice.namespace AND workload = notice.workload
            AND workload_kind = notice.workload_kind AND workload_group = notice.workload_group
        UNION ALL SELECT id FROM subject WHERE node = notice.workload AND notice.workload_kind = 'Node'))
    OR EXISTS (SELECT 1 FROM target_subject AS has CROSS JOIN vulnerability_name AS named
        CROSS JOIN verdict ON verdict.id = named.verdict CROSS JOIN finding
        ON finding.package_set = has.package_set AND finding.verdict = verdict.id AND closed IS NULL
    WHERE named.name = notice.vulnerability AND verdict.vulnerability = notice.vulnerability
        AND has.target = notice.target AND has.subject IN (
        SELECT id FROM subject WHERE node = '' AND namespace = notice.namespace AND workload = notice.workload
            AND workload_kind = notice.workload_kind AND workload_group = notice.workload_group
        UNION ALL SELECT id FROM subject WHERE node = notice.workload AND notice.workload_kind = 'Node')))";

#[async_trait]
impl Notices for Sqlite {
    async fn note(&self, portion: Portion, filter: NoticeFilter, at: i64) -> Result<(), StoreError> {
        self.write("storing notices", move |connection| {
            Box::pin(async move { note(connection, &portion, filter, at).await })
        })
        .await
    }

    async fn pending_notices(&self, target: TargetId, at: i64) -> Result<PendingNotices, StoreError> {
        let work = async {
            let mut reading = self.reading().await?;
            let sql = "SELECT started, summary, sent FROM notification WHERE target = ?";
            let Some(row) = sqlx::query(sql).bind(target).fetch_optional(&mut *reading).await? else {
                return Ok(PendingNotices::default());
            };
            let Some(started) = row.try_get::<Option<i64>, _>("started")? else {
                return Ok(PendingNotices::default());
            };
            let summary: bool = row.try_get("summary")?;
            let sql = "SELECT min(at) FROM notice_problem WHERE target = ? AND is_raised <> is_told";
            let problem: Option<i64> = sqlx::query_scalar(sql).bind(target).fetch_one(&mut *reading).await?;
            let sql = "SELECT min(at), max(id) FROM notice WHERE target = ? AND told IS NULL";
            let notices = sqlx::query(sql).bind(target).fetch_one(&mut *reading).await?;
            let notice: Option<i64> = notices.try_get(0)?;
            let begun = summary.then_some(started);
            Ok(PendingNotices {
                summary,
                oldest: begun.into_iter().chain(notice).chain(problem).min(),
                last: notices.try_get::<Option<i64>, _>(1)?.unwrap_or_default(),
                sent: recent(row.try_get("sent")?, at)?,
            })
        };
        doing("reading pending notices", work).await
    }

    async fn settle_notices(&self, target: TargetId) -> Result<(), StoreError> {
        let mut after: NoticeId = 0;
        loop {
            let next = self.write("removing notices of findings that closed", move |connection| {
                Box::pin(async move {
                    let page = "SELECT id FROM notice WHERE target = ?1 AND told IS NULL AND id > ?2 ORDER BY id LIMIT ?3";
                    let sql = format!("SELECT max(id) FROM ({page})");
                    let bound = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(target).bind(after);
                    let last: Option<i64> = bound.bind(integer(PAGE)).fetch_one(&mut *connection).await?;
                    let Some(last) = last else { return Ok(None) };
                    let sql = format!(
                        "DELETE FROM notice WHERE target = ?1 AND told IS NULL AND id > ?2 AND id <= ?3 AND NOT {IS_OPEN}"
                    );
                    let delete = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(target).bind(after).bind(last);
                    delete.execute(connection).await?;
                    Ok(Some(last))
                })
            });
            match next.await? {
                Some(last) => after = last,
                None => return Ok(()),
            }
        }
    }

    async fn total_notices(&self, target: TargetId, scope: NoticeScope) -> Result<NoticeTotals, StoreError> {
        let work = async {
            let mut reading = self.reading().await?;
            let (scoped, last) = scoped(scope);
            let sql = format!(
                "SELECT rank, count(*) AS vulnerabilities FROM
                    (SELECT min(rank) AS rank FROM notice WHERE {scoped} GROUP BY vulnerability) GROUP BY rank ORDER BY rank"
            );
            let bound = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(target).bind(last);
            let rows = bound.fetch_all(&mut *reading).await?;
            let vulnerabilities = rows
                .iter()
                .map(|row| Ok((severity(row)?, count(row, "vulnerabilities")?)))
                .collect::<Result<_, Failure>>()?;
            let sql = format!(
                "SELECT count(*) AS workloads FROM
                    (SELECT DISTINCT namespace, workload_group, workload_kind, workload FROM notice WHERE {scoped})"
            );
            let bound = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(target).bind(last);
            let workloads = count(&bound.fetch_one(&mut *reading).await?, "workloads")?;
            let sql = "SELECT count(*) AS problems FROM notice_problem WHERE target = ? AND is_raised <> is_told";
            let problems = count(&sqlx::query(sql).bind(target).fetch_one(&mut *reading).await?, "problems")?;
            let sql = "SELECT is_full FROM notification WHERE target = ?";
            let full: Option<bool> = sqlx::query_scalar(sql).bind(target).fetch_optional(&mut *reading).await?;
            Ok(NoticeTotals { vulnerabilities, workloads, problems, is_full: full.unwrap_or_default() })
        };
        doing("counting notices", work).await
    }

    async fn notices(
        &self,
        target: TargetId,
        scope: NoticeScope,
        vulnerabilities: usize,
        each: &mut (dyn FnMut(NoticeRow) + Send),
    ) -> Result<(), StoreError> {
        let work = async {
            use futures_util::TryStreamExt as _;
            let (scoped, last) = scoped(scope);
            let sql = format!(
                "WITH worst AS MATERIALIZED (SELECT vulnerability AS name, min(rank) AS worst, count(*) AS workloads
                    FROM notice WHERE {scoped} GROUP BY vulnerability ORDER BY worst, workloads DESC, name LIMIT ?3)
                 SELECT notice.vulnerability, notice.rank, namespace, workload_group, workload_kind, workload,
                    package.name AS package, package.version, verdict.fixed, coalesce(verdict.summary, '') AS summary
                 FROM worst JOIN notice ON notice.vulnerability = worst.name AND {scoped}
                 LEFT JOIN verdict ON verdict.id = notice.verdict LEFT JOIN package ON package.id = verdict.package
                 ORDER BY worst.worst, worst.workloads DESC, worst.name, notice.id"
            );
            let mut reading = self.reading().await?;
            let bound = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(target).bind(last).bind(integer(vulnerabilities));
            let mut rows = bound.fetch(&mut *reading);
            while let Some(row) = rows.try_next().await? {
                let text = |column: &str| row.try_get::<&str, _>(column);
                let package: Option<String> = row.try_get("package")?;
                let version: Option<String> = row.try_get("version")?;
                let fixed: Option<String> = row.try_get("fixed")?;
                each(NoticeRow {
                    vulnerability: text("vulnerability")?.to_owned(),
                    severity: severity(&row)?,
                    workload: WorkloadKey {
                        namespace: text("namespace")?.into(),
                        group: text("workload_group")?.into(),
                        kind: text("workload_kind")?.into(),
                        name: text("workload")?.into(),
                    },
                    package: package.zip(version).map(|(package, version)| (package, version, fixed)),
                    summary: row.try_get("summary")?,
                });
            }
            Ok(())
        };
        doing("reading notices", work).await
    }

    async fn problem_notices(&self, target: TargetId, limit: usize) -> Result<Vec<ProblemNotice>, StoreError> {
        let work = async {
            let sql = "SELECT problem, message, at, is_raised FROM notice_problem
                WHERE target = ? AND is_raised <> is_told ORDER BY is_raised DESC, at, problem LIMIT ?";
            let rows = sqlx::query(sql).bind(target).bind(integer(limit));
            let rows = rows.fetch_all(&mut *self.reading().await?).await?;
            rows.iter()
                .map(|row| {
                    Ok(ProblemNotice {
                        problem: row.try_get("problem")?,
                        message: row.try_get("message")?,
                        at: row.try_get("at")?,
                        is_raised: row.try_get("is_raised")?,
                    })
                })
                .collect()
        };
        doing("reading notices of problems", work).await
    }

    async fn tell_notices(&self, target: TargetId, up_to: NoticeId, delivery: NewDelivery) -> Result<(), StoreError> {
        self.write("storing a message", move |connection| {
            Box::pin(async move {
                let at = delivery.at;
                let sql = "UPDATE notice SET told = ?3 WHERE target = ?1 AND told IS NULL AND id <= ?2";
                sqlx::query(sql).bind(target).bind(up_to).bind(at).execute(&mut *connection).await?;
                sqlx::query("DELETE FROM notice_problem WHERE target = ? AND NOT is_raised")
                    .bind(target)
                    .execute(&mut *connection)
                    .await?;
                sqlx::query("UPDATE notice_problem SET is_told = 1 WHERE target = ?")
                    .bind(target)
                    .execute(&mut *connection)
                    .await?;
                let sql = "SELECT sent FROM notification WHERE target = ?";
                let sent: String = sqlx::query_scalar(sql).bind(target).fetch_one(&mut *connection).await?;
                let mut sent = recent(&sent, at)?;
                sent.push(at);
                sqlx::query("UPDATE notification SET summary = 0, sent = ? WHERE target = ?")
                    .bind(json(&sent)?)
                    .bind(target)
                    .execute(&mut *connection)
                    .await?;
                store_delivery(connection, target, delivery).await
            })
        })
        .await
    }

    async fn forget_notices(&self, at: i64) -> Result<(), StoreError> {
        let mut after: NoticeId = 0;
        loop {
            let next = self.write("forgetting notices of findings that closed", move |connection| {
                Box::pin(async move {
                    let page = "SELECT id FROM notice WHERE id > ?1 ORDER BY id LIMIT ?2";
                    let sql = format!("SELECT max(id) FROM ({page})");
                    let bound = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(after).bind(integer(PAGE));
                    let last: Option<i64> = bound.fetch_one(&mut *connection).await?;
                    let Some(last) = last else { return Ok(None) };
                    for sql in [
                        format!(
                            "UPDATE notice SET gone = NULL WHERE id > ?1 AND id <= ?2 AND gone <= ?3 AND {IS_OPEN}"
                        ),
                        format!(
                            "UPDATE notice SET gone = ?3 WHERE id > ?1 AND id <= ?2 AND gone IS NULL AND NOT {IS_OPEN}"
                        ),
                        format!("DELETE FROM notice WHERE id > ?1 AND id <= ?2 AND gone <= ?3 - {FORGET}"),
                    ] {
                        let statement = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(after).bind(last).bind(at);
                        statement.execute(&mut *connection).await?;
                    }
                    Ok(Some(last))
                })
            });
            match next.await? {
                Some(last) => after = last,
                None => return Ok(()),
            }
        }
    }
}

/// Returns the condition for the notices of a scope, with the target as the first parameter, and the second one.
const fn scoped(scope: NoticeScope) -> (&'static str, NoticeId) {
    match scope {
        NoticeScope::All => ("notice.target = ?1 AND notice.gone IS NULL AND notice.id <= ?2", NoticeId::MAX),
        NoticeScope::Pending(last) => ("notice.target = ?1 AND notice.told IS NULL AND notice.id <= ?2", last),
    }
}

/// Returns the stored times that are less than an hour before `at`.
fn recent(sent: &str, at: i64) -> Result<Vec<i64>, Failure> {
    let mut sent: Vec<i64> = serde_json::from_str(sent).map_err(|_| Failure::Damaged("times of messages"))?;
    // One that is later was stored while the clock was ahead.
    sent.retain(|time| (at.saturating_sub(HOUR)..=at).contains(time));
    Ok(sent)
}

async fn note(
    connection: &mut SqliteConnection,
    Portion { target, told, progress }: &Portion,
    filter: NoticeFilter,
    at: i64,
) -> Result<(), Failure> {
    let Some(progress) = progress else { return Ok(()) };
    if !store_progress(connection, target, progress).await? {
        return Ok(());
    }
    let sql = "INSERT INTO notification (target) VALUES (?) ON CONFLICT DO NOTHING";
    sqlx::query(sql).bind(target.id).execute(&mut *connection).await?;
    let subjects: Vec<i64> = progress.subjects.iter().map(|(subject, _)| *subject).collect();
    let opened: Vec<(PackageSetId, VerdictId)> = told
        .iter()
        .filter_map(|of| match &of.change {
            // Package sets that are told of as a whole come before the subjects that have them.
            Change::Finding { change: FindingChange::Opened | FindingChange::Changed, finding, .. } => {
                Some((finding.package_set, finding.verdict))
            }
            _ => None,
        })
        .collect();
    if !subjects.is_empty() || !opened.is_empty() {
        pairs(connection, target.id, &subjects, &opened, filter, at).await?;
    }
    for of in told {
        match &of.change {
            Change::Event(OutboxEvent::ProblemRaised { problem, message }) => {
                raise(connection, target.id, problem, message, of.at.unwrap_or(at)).await?;
            }
            Change::Condition(Condition::Problem { problem }) => raise(connection, target.id, problem, "", at).await?,
            Change::Event(OutboxEvent::ProblemCleared { problem }) => {
                clear(connection, target.id, problem, of.at.unwrap_or(at)).await?;
            }
            Change::PackageSet { package_set, is_new } => {
                coverage(connection, target, package_set, *is_new, of.at.unwrap_or(at)).await?;
            }
            Change::PackageSetGone { package_set } => {
                clear(connection, target.id, &coverage_problem(package_set), of.at.unwrap_or(at)).await?;
            }
            Change::SnapshotEnds => end_snapshot(connection, target.id, at).await?,
            _ => {}
        }
    }
    Ok(())
}

/// Stores pairs of a vulnerability and a workload that are new: of these subjects, and of these findings in whatever subjects.
async fn pairs(
    connection: &mut SqliteConnection,
    target: TargetId,
    subjects: &[i64],
    opened: &[(PackageSetId, VerdictId)],
    filter: NoticeFilter,
    at: i64,
) -> Result<(), Failure> {
    let sql = "SELECT count(*) FROM (SELECT 1 FROM notice WHERE target = ? LIMIT ?)";
    let known: i64 = sqlx::query_scalar(sql).bind(target).bind(integer(MOST)).fetch_one(&mut *connection).await?;
    let room = integer(MOST).saturating_sub(known);
    // The first statement finds the findings of a package set once, however many subjects have it.
    let sql = "WITH has AS MATERIALIZED (SELECT subject, package_set FROM target_subject
            WHERE target = ?1 AND subject IN (SELECT value FROM json_each(?2))),
        opened AS MATERIALIZED (SELECT value ->> 0 AS package_set, value ->> 1 AS verdict FROM json_each(?3)),
        found AS MATERIALIZED (SELECT finding.package_set, finding.verdict FROM finding
            WHERE finding.package_set IN (SELECT package_set FROM has) AND closed IS NULL),
        pair AS (SELECT subject, verdict FROM has JOIN found USING (package_set)
            UNION SELECT subject, verdict FROM opened JOIN target_subject AS has
                ON has.target = ?1 AND has.package_set = opened.package_set)
        INSERT INTO notice (target, vulnerability, namespace, workload_group, workload_kind, workload, rank, verdict, at, told)
        SELECT ?1, vulnerability, iif(subject.node = '', namespace, '') AS of_namespace, workload_group AS of_group,
            iif(subject.node = '', workload_kind, 'Node') AS of_kind, iif(subject.node = '', workload, node) AS of_name,
            min(rank), verdict.id, ?4, (SELECT iif(started IS NULL, ?4, NULL) FROM notification WHERE target = ?1)
        FROM pair JOIN verdict ON verdict.id = pair.verdict JOIN subject ON subject.id = pair.subject
        WHERE rank <= ?5 AND status = coalesce(?6, status) AND (fixed IS NOT NULL) = coalesce(?7, fixed IS NOT NULL)
        GROUP BY vulnerability, of_namespace, of_group, of_kind, of_name LIMIT ?8
        ON CONFLICT (target, vulnerability, workload, namespace, workload_kind, workload_group) DO UPDATE
            SET gone = NULL, rank = excluded.rank, verdict = excluded.verdict
            WHERE notice.gone IS NOT NULL OR excluded.rank < notice.rank";
    let insert = sqlx::query(sql).bind(target).bind(json(&subjects)?).bind(json(&opened)?).bind(at);
    let insert = insert.bind(filter.at_least.rank()).bind(filter.status.map(Word::word));
    let stored = insert.bind(filter.fixable).bind(room).execute(&mut *connection).await?.rows_affected();
    if integer(stored) >= room {
        let sql = "UPDATE notification SET is_full = 1 WHERE target = ?";
        sqlx::query(sql).bind(target).execute(connection).await?;
    }
    Ok(())
}

async fn raise(
    connection: &mut SqliteConnection,
    target: TargetId,
    problem: &str,
    message: &str,
    at: i64,
) -> Result<(), Failure> {
    // A problem that is known to be raised stays as it is; one that was cleared and is raised again before people were told of that, too.
    let sql = "INSERT INTO notice_problem (target, problem, message, at, is_raised) VALUES (?1, ?2, ?3, ?4, 1)
        ON CONFLICT DO UPDATE SET message = iif(?3 = '', message, ?3), is_raised = 1";
    sqlx::query(sql).bind(target).bind(problem).bind(message).bind(at).execute(connection).await?;
    Ok(())
}

async fn clear(connection: &mut SqliteConnection, target: TargetId, problem: &str, at: i64) -> Result<(), Failure> {
    let sql = "DELETE FROM notice_problem WHERE target = ? AND problem = ? AND NOT is_told";
    sqlx::query(sql).bind(target).bind(problem).execute(&mut *connection).await?;
    let sql = "UPDATE notice_problem SET is_raised = 0, at = ?3 WHERE target = ?1 AND problem = ?2 AND is_raised";
    sqlx::query(sql).bind(target).bind(problem).bind(at).execute(connection).await?;
    Ok(())
}

/// Returns the key of the problem that containers of a package set are not scanned any more.
fn coverage_problem(package_set: &Digest) -> String {
    let digest = package_set.to_string();
    format!("coverage {}", digest.get(..digest.len().min(19)).unwrap_or_default())
}

/// Notes that containers that were scanned are not scanned in full any more, or are again.
async fn coverage(
    connection: &mut SqliteConnection,
    target: &Target,
    package_set: &PackageSetState,
    is_new: bool,
    at: i64,
) -> Result<(), Failure> {
    let problem = coverage_problem(&package_set.identity);
    if package_set.coverage.state == CoverageState::Scanned {
        return clear(connection, target.id, &problem, at).await;
    }
    // The first state of a package set is no loss. The event is still stored: its removal follows this transaction.
    let sql = "SELECT body ->> 'from' FROM outbox JOIN stack ON outbox.package_set = stack.id
        WHERE chain = ?1 AND outbox.id > ?2 AND outbox.kind = 'coverage-changed' ORDER BY outbox.id LIMIT 1";
    let before = sqlx::query_scalar(sql).bind(package_set.identity.0.as_slice()).bind(target.cursor);
    let before: Option<Option<String>> = before.fetch_optional(&mut *connection).await?;
    if is_new || before.flatten().as_deref() != Some(CoverageState::Scanned.as_str()) {
        return Ok(());
    }
    let sql = "SELECT count(DISTINCT subject) FROM target_subject AS has JOIN stack ON stack.id = has.package_set
        WHERE target = ? AND chain = ?";
    let count = sqlx::query_scalar(sql).bind(target.id).bind(package_set.identity.0.as_slice());
    let count: i64 = count.fetch_one(&mut *connection).await?;
    let (state, reason) = (package_set.coverage.state.as_str(), &package_set.coverage.reason);
    let message = format!("{count} container(s) of workloads were scanned and are {state} now: {reason}");
    raise(connection, target.id, &problem, &message, at).await
}

/// Ends a snapshot. Problems that were raised before and are not open any more were cleared meanwhile.
async fn end_snapshot(connection: &mut SqliteConnection, target: TargetId, at: i64) -> Result<(), Failure> {
    // Coverage is no condition: it is a problem of a package set as long as the target knows that.
    let open = "(SELECT condition ->> 'problem' FROM open_condition
        WHERE cluster = (SELECT cluster FROM meta) AND condition ->> 'kind' = 'problem'
        UNION ALL SELECT 'coverage sha256:' || lower(substr(hex(chain), 1, 12)) FROM target_package_set WHERE target = ?1)";
    for sql in [
        format!("DELETE FROM notice_problem WHERE target = ?1 AND NOT is_told AND ?2 >= 0 AND problem NOT IN {open}"),
        format!(
            "UPDATE notice_problem SET is_raised = 0, at = ?2 WHERE target = ?1 AND is_raised AND problem NOT IN {open}"
        ),
        "UPDATE notification SET started = ?2 WHERE target = ?1 AND started IS NULL".to_owned(),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(sql)).bind(target).bind(at).execute(&mut *connection).await?;
    }
    Ok(())
}

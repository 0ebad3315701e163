//! Subjects, and their current and former package sets.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use futures_util::TryStreamExt as _;
use jiff::civil::Date;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::outbox::append;
use super::{Failure, Sqlite, StoreError, count, doing, integer, json, severity};
use crate::store::{
    DayCount, FindingName, FixedRow, History, OutboxEvent, PackageSetId, Retention, Run, Seen, SeenFinding, StackId,
    SubjectKey, WorkloadKey,
};

/// Seconds between the end of a run and the beginning of the next one of the same package set, for which they are one.
const PAUSE: i64 = 3600;

/// A subject's columns: kind, namespace, workload's group, kind and name, container, node.
type SubjectColumns<'a> = (&'static str, &'a str, &'a str, &'a str, &'a str, &'a str, &'a str);

/// The subject of a row of `json_each` whose value starts with [`SubjectColumns`].
const SUBJECT: &str = "subject ON subject.node = value ->> 6 AND subject.namespace = value ->> 1
    AND subject.workload = value ->> 4 AND subject.container = value ->> 5 AND subject.workload_kind = value ->> 3
    AND subject.workload_group = value ->> 2 AND subject.kind = value ->> 0
    AND subject.cluster = (SELECT cluster FROM meta)";

#[async_trait]
impl History for Sqlite {
    async fn record_runs(&self, begun: &[Run], ended: &[Run]) -> Result<(), StoreError> {
        if begun.is_empty() && ended.is_empty() {
            return Ok(());
        }
        let (begun, ended, outbox) = (begun.to_vec(), ended.to_vec(), self.outbox);
        self.write("storing runs", move |connection| {
            Box::pin(async move { write_runs(connection, &begun, &ended, outbox).await })
        })
        .await
    }

    async fn open_runs(&self) -> Result<Vec<Run>, StoreError> {
        let work = async {
            let sql = "SELECT subject.*, package_set, since FROM run JOIN subject ON subject.id = run.subject
                WHERE until IS NULL";
            let rows = sqlx::query(sql).fetch_all(&mut *self.reading().await?).await?;
            rows.iter()
                .map(|row| {
                    let (package_set, at) = (row.try_get("package_set")?, row.try_get("since")?);
                    Ok(Run { subject: subject(row)?, package_set, at })
                })
                .collect()
        };
        doing("reading runs", work).await
    }

    async fn seen(
        &self,
        subjects: &[SubjectKey],
        vulnerabilities: Option<&[String]>,
        each: &mut (dyn FnMut(Seen) + Send),
    ) -> Result<(), StoreError> {
        doing("reading the history of findings", self.read_seen(subjects, vulnerabilities, each)).await
    }

    async fn fixed(
        &self,
        subject: &SubjectKey,
        after: Option<&FindingName>,
        now: i64,
        limit: usize,
    ) -> Result<Vec<FixedRow>, StoreError> {
        doing("reading fixed findings", self.read_fixed(subject, after, now, limit)).await
    }

    async fn tidy(&self, retention: &Retention, present: &[StackId]) -> Result<(), StoreError> {
        let (retention, present) = (*retention, present.to_vec());
        self.write("removing unused rows", move |connection| {
            Box::pin(async move { tidy(connection, &retention, &present).await })
        })
        .await
    }

    async fn record_day(&self, day: Date, counts: &[DayCount]) -> Result<(), StoreError> {
        let row = |of: &DayCount| (of.namespace.clone().unwrap_or_default(), of.severity.rank(), integer(of.findings));
        let rows: Vec<_> = counts.iter().map(row).collect();
        self.write("storing the counts of a day", move |connection| {
            Box::pin(async move {
                let day = day.to_string();
                sqlx::query("DELETE FROM daily_count WHERE day = ?").bind(&day).execute(&mut *connection).await?;
                sqlx::query(
                    "INSERT INTO daily_count (day, cluster, namespace, rank, findings)
                     SELECT ?, meta.cluster, value ->> 0, value ->> 1, value ->> 2 FROM json_each(?) CROSS JOIN meta
                     WHERE true ON CONFLICT DO UPDATE SET findings = findings + excluded.findings",
                )
                .bind(day)
                .bind(json(&rows)?)
                .execute(connection)
                .await?;
                Ok(())
            })
        })
        .await
    }

    async fn days(&self, from: Date) -> Result<Vec<DayCount>, StoreError> {
        let work = async {
            let sql = "SELECT * FROM daily_count WHERE day >= ? ORDER BY day, namespace, rank";
            let rows = sqlx::query(sql).bind(from.to_string()).fetch_all(&mut *self.reading().await?).await?;
            rows.iter()
                .map(|row| {
                    let day: &str = row.try_get("day")?;
                    let namespace: String = row.try_get("namespace")?;
                    Ok(DayCount {
                        day: day.parse().map_err(|_| Failure::Damaged("a day"))?,
                        namespace: (!namespace.is_empty()).then_some(namespace),
                        severity: severity(row)?,
                        findings: count(row, "findings")?,
                    })
                })
                .collect()
        };
        doing("reading the counts of days", work).await
    }
}

impl Sqlite {
    async fn read_seen(
        &self,
        subjects: &[SubjectKey],
        vulnerabilities: Option<&[String]>,
        each: &mut (dyn FnMut(Seen) + Send),
    ) -> Result<(), Failure> {
        let mut reading = self.reading().await?;
        let subjects: Vec<_> = subjects.iter().map(columns).collect();
        let subjects = json(&subjects)?;
        // A package set that many subjects had is read once.
        let sql = format!(
            "SELECT finding.package_set, verdict, opened, closed, vulnerability, package.type, name
             FROM (SELECT DISTINCT package_set AS id FROM json_each(?1) AS wanted CROSS JOIN {SUBJECT}
                 CROSS JOIN run ON run.subject = subject.id) AS had
             CROSS JOIN finding ON finding.package_set = had.id
             CROSS JOIN verdict ON verdict.id = finding.verdict CROSS JOIN package ON package.id = verdict.package
             WHERE ?2 IS NULL OR vulnerability IN (SELECT value FROM json_each(?2))"
        );
        let vulnerabilities = vulnerabilities.map(|vulnerabilities| json(&vulnerabilities)).transpose()?;
        let mut found: HashMap<PackageSetId, Vec<SeenFinding>> = HashMap::new();
        let mut rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(&subjects).bind(vulnerabilities).fetch(&mut *reading);
        while let Some(row) = rows.try_next().await? {
            found.entry(row.try_get("package_set")?).or_default().push(SeenFinding {
                vulnerability: row.try_get("vulnerability")?,
                package: (row.try_get("type")?, row.try_get("name")?),
                verdict: row.try_get("verdict")?,
                opened: row.try_get("opened")?,
                closed: row.try_get("closed")?,
            });
        }
        drop(rows);
        let sql = format!(
            "SELECT subject.*, run.since, run.until, run.package_set FROM json_each(?) AS wanted CROSS JOIN {SUBJECT}
             CROSS JOIN run ON run.subject = subject.id ORDER BY wanted.key, run.since, run.package_set"
        );
        let mut rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(subjects).fetch(&mut *reading);
        while let Some(row) = rows.try_next().await? {
            let package_set = row.try_get("package_set")?;
            let (since, until) = (row.try_get("since")?, row.try_get("until")?);
            let run = Seen { subject: subject(&row)?, since, until, package_set, finding: None };
            match found.get(&package_set) {
                None => each(run),
                Some(found) => {
                    found.iter().for_each(|finding| each(Seen { finding: Some(finding.clone()), ..run.clone() }));
                }
            }
        }
        Ok(())
    }

    async fn read_fixed(
        &self,
        subject: &SubjectKey,
        after: Option<&FindingName>,
        now: i64,
        limit: usize,
    ) -> Result<Vec<FixedRow>, Failure> {
        // Most of what a subject had it still has: such verdicts are left out by their number, before anything else is read of them. Of the
        // others, those are left out that another version of the package has. The last verdict is found by a text that sorts as the times do.
        let sql = format!(
            "WITH had (subject) AS MATERIALIZED (SELECT subject.id FROM json_each(?1) CROSS JOIN {SUBJECT}),
             open (verdict) AS MATERIALIZED (SELECT DISTINCT finding.verdict FROM had CROSS JOIN run ON run.subject = had.subject
                 AND until IS NULL CROSS JOIN finding ON finding.package_set = run.package_set AND closed IS NULL)
             SELECT vulnerability, package.type, name, min(max(since, opened)) AS began,
                 max(printf('%020d %020d', min(coalesce(until, ?2), coalesce(closed, ?2)), verdict.id)) AS last
             FROM had CROSS JOIN run ON run.subject = had.subject
             CROSS JOIN finding ON finding.package_set = run.package_set
                 AND finding.verdict NOT IN (SELECT verdict FROM open)
                 AND max(since, opened) <= min(coalesce(until, ?2), coalesce(closed, ?2))
             CROSS JOIN verdict ON verdict.id = finding.verdict CROSS JOIN package ON package.id = verdict.package
             WHERE (vulnerability, package.type, name) > (?3, ?4, ?5)
             GROUP BY vulnerability, package.type, name
             HAVING NOT EXISTS (SELECT 1 FROM vulnerability_name AS same CROSS JOIN verdict AS other
                     ON other.id = +same.verdict AND other.vulnerability = verdict.vulnerability
                     AND +other.id IN (SELECT verdict FROM open)
                 CROSS JOIN package AS held ON held.id = other.package AND held.type = package.type AND held.name = package.name
                 WHERE same.name = verdict.vulnerability)
             ORDER BY vulnerability, package.type, name LIMIT ?6"
        );
        let (vulnerability, (r#type, name)) = after.cloned().unwrap_or_default();
        let mut reading = self.reading().await?;
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(json(&[columns(subject)])?).bind(now);
        let rows =
            query.bind(vulnerability).bind(r#type).bind(name).bind(integer(limit)).fetch_all(&mut *reading).await?;
        let fixed = |row: &SqliteRow| {
            let last = row.try_get::<&str, _>("last")?.split_once(' ');
            let last = last.and_then(|(on, verdict)| Some((on.parse().ok()?, verdict.parse().ok()?)));
            let (on, verdict) = last.ok_or(Failure::Damaged("the time of a finding"))?;
            let name = (row.try_get("vulnerability")?, (row.try_get("type")?, row.try_get("name")?));
            Ok(FixedRow { name, verdict, since: row.try_get("began")?, on })
        };
        rows.iter().map(fixed).collect()
    }
}

async fn write_runs(
    connection: &mut SqliteConnection,
    begun: &[Run],
    ended: &[Run],
    outbox: bool,
) -> Result<(), Failure> {
    let rows = |runs: &[Run]| {
        let row = |run: &Run| {
            let (kind, namespace, group, workload_kind, workload, container, node) = columns(&run.subject);
            serde_json::json!([
                kind,
                namespace,
                group,
                workload_kind,
                workload,
                container,
                node,
                run.package_set,
                run.at
            ])
        };
        json(&runs.iter().map(row).collect::<Vec<_>>())
    };
    let (begun_rows, ended_rows) = (rows(begun)?, rows(ended)?);
    sqlx::query(
        "INSERT OR IGNORE INTO subject
             (cluster, kind, namespace, workload_group, workload_kind, workload, container, node)
         SELECT meta.cluster, value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6
         FROM json_each(?) CROSS JOIN meta",
    )
    .bind(&begun_rows)
    .execute(&mut *connection)
    .await?;
    // A run that starts again soon after its end continues, so that a container which crashes every minute has one run.
    let sql = format!(
        "UPDATE run SET until = NULL FROM (SELECT subject.id, value ->> 7 AS package_set, value ->> 8 AS at
             FROM json_each(?1) CROSS JOIN {SUBJECT}) AS begun
         WHERE run.subject = begun.id AND run.package_set = begun.package_set AND run.until >= begun.at - ?2
         AND NOT EXISTS (SELECT 1 FROM run AS later WHERE later.subject = run.subject
             AND (later.since > run.since OR later.package_set = run.package_set AND later.until IS NULL))
         RETURNING subject, package_set"
    );
    let resumed = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(&begun_rows).bind(PAUSE);
    let mut changed = resumed.fetch_all(&mut *connection).await?;
    // A package set that was removed meanwhile has no history; a run that is open goes on.
    let sql = format!(
        "INSERT OR IGNORE INTO run SELECT subject.id, package_set.id, value ->> 8, NULL
         FROM json_each(?) CROSS JOIN {SUBJECT} CROSS JOIN package_set ON package_set.id = value ->> 7
         WHERE NOT EXISTS (SELECT 1 FROM run WHERE run.subject = subject.id AND run.package_set = package_set.id
             AND until IS NULL)
         RETURNING subject, package_set"
    );
    let new = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(&begun_rows);
    changed.extend(new.fetch_all(&mut *connection).await?);
    let sql = format!(
        "UPDATE run SET until = max(since, ended.at) FROM (SELECT subject.id, value ->> 7 AS package_set, value ->> 8 AS at
             FROM json_each(?) CROSS JOIN {SUBJECT}) AS ended
         WHERE run.subject = ended.id AND run.package_set = ended.package_set AND run.until IS NULL
         RETURNING subject"
    );
    let gone = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(ended_rows).fetch_all(&mut *connection).await?;
    if outbox {
        tell(connection, &changed, &gone, begun.iter().chain(ended).map(|run| run.at).max().unwrap_or_default())
            .await?;
    }
    Ok(())
}

/// Writes which subjects have other package sets, and which have none any more.
async fn tell(
    connection: &mut SqliteConnection,
    changed: &[SqliteRow],
    ended: &[SqliteRow],
    at: i64,
) -> Result<(), Failure> {
    // Those that begin to have one, and those that have one less.
    let mut subjects: BTreeMap<i64, Option<PackageSetId>> = BTreeMap::new();
    for row in ended {
        subjects.insert(row.try_get(0)?, None);
    }
    for row in changed {
        subjects.insert(row.try_get(0)?, row.try_get(1)?);
    }
    let sql = "SELECT *, EXISTS (SELECT 1 FROM run WHERE run.subject = subject.id AND until IS NULL) AS has
        FROM subject WHERE id = ?";
    let mut events = Vec::new();
    for (id, package_set) in subjects {
        let row = sqlx::query(sql).bind(id).fetch_one(&mut *connection).await?;
        let subject = subject(&row)?;
        events.push(match row.try_get("has")? {
            true => OutboxEvent::WorkloadChanged { subject, package_set },
            false => OutboxEvent::WorkloadGone { subject },
        });
    }
    if events.is_empty() { Ok(()) } else { append(connection, &events, at).await }
}

async fn tidy(connection: &mut SqliteConnection, retention: &Retention, present: &[StackId]) -> Result<(), Failure> {
    let present = json(&present)?;
    // The findings of an unused stack stay as long as the history of a subject needs them.
    let unused = "SELECT id FROM stack WHERE id NOT IN (SELECT value FROM json_each(?1))
        AND NOT EXISTS (SELECT 1 FROM run WHERE run.package_set = stack.id AND (until IS NULL OR until >= ?2))";
    let statements = [
        "DELETE FROM run WHERE until < ?3 AND ?1 IS NOT NULL AND ?2 IS NOT NULL".to_owned(),
        format!("DELETE FROM package_set_package WHERE package_set IN ({unused}) AND ?3 IS NOT NULL"),
        format!("UPDATE package_set SET matched = NULL WHERE id IN ({unused}) AND ?3 IS NOT NULL"),
        // A stack that is used again is read and merged again.
        format!(
            "UPDATE stack SET catalogers = 0, inputs = NULL WHERE catalogers > 0 AND id IN ({unused}) AND ?3 IS NOT NULL"
        ),
        format!(
            "DELETE FROM layer WHERE ?3 IS NOT NULL AND read_at < ?2 AND id NOT IN (SELECT value FROM stack,
             json_each('[\"' || replace(layers, char(10), '\",\"') || '\"]') WHERE stack.id NOT IN ({unused}))"
        ),
        format!(
            "DELETE FROM package_set WHERE id IN ({unused}) AND ?3 IS NOT NULL
             AND NOT EXISTS (SELECT 1 FROM run WHERE run.package_set = package_set.id)"
        ),
    ];
    for statement in statements {
        sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(&present)
            .bind(retention.unused_since)
            .bind(retention.runs_since)
            .execute(&mut *connection)
            .await?;
    }
    for statement in [
        "DELETE FROM subject WHERE id NOT IN (SELECT subject FROM run)",
        "DELETE FROM verdict WHERE id NOT IN (SELECT verdict FROM finding)",
        "DELETE FROM package WHERE id NOT IN (SELECT package FROM package_set_package)
            AND id NOT IN (SELECT owner FROM package_set_package WHERE owner IS NOT NULL)
            AND id NOT IN (SELECT package FROM verdict)",
        "DELETE FROM evidence WHERE id NOT IN (SELECT evidence FROM package_set_package)",
        "DELETE FROM advisory_database WHERE id NOT IN (SELECT database FROM rematch)
            AND id NOT IN (SELECT matched FROM package_set WHERE matched IS NOT NULL)",
    ] {
        sqlx::query(statement).execute(&mut *connection).await?;
    }
    let days = sqlx::query("DELETE FROM daily_count WHERE day < ?").bind(retention.days_since.to_string());
    days.execute(connection).await?;
    Ok(())
}

fn columns(subject: &SubjectKey) -> SubjectColumns<'_> {
    match subject {
        SubjectKey::WorkloadContainer { workload: WorkloadKey { namespace, group, kind, name }, container } => {
            ("workload-container", namespace, group, kind, name, container, "")
        }
        SubjectKey::Container { node, namespace, container } => ("container", namespace, "", "", "", container, node),
        SubjectKey::Node { node } => ("node", "", "", "", "", "", node),
    }
}

/// Returns the row id of a subject; `None` if it is not stored.
pub(super) async fn subject_id(
    connection: &mut SqliteConnection,
    subject: &SubjectKey,
) -> Result<Option<i64>, Failure> {
    let sql = format!("SELECT subject.id FROM json_each(?) CROSS JOIN {SUBJECT}");
    let id = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(json(&[columns(subject)])?);
    Ok(id.fetch_optional(connection).await?)
}

/// Returns the subject in a row of `subject`.
pub(super) fn subject(row: &SqliteRow) -> Result<SubjectKey, Failure> {
    let text = |column: &str| row.try_get::<&str, _>(column).map(std::sync::Arc::from);
    match row.try_get::<&str, _>("kind")? {
        "workload-container" => Ok(SubjectKey::WorkloadContainer {
            workload: WorkloadKey {
                namespace: text("namespace")?,
                group: text("workload_group")?,
                kind: text("workload_kind")?,
                name: text("workload")?,
            },
            container: text("container")?,
        }),
        "container" => Ok(SubjectKey::Container {
            node: text("node")?,
            namespace: text("namespace")?,
            container: text("container")?,
        }),
        "node" => Ok(SubjectKey::Node { node: text("node")? }),
        _ => Err(Failure::Damaged("a subject's kind")),
    }
}

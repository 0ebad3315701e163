//! Questions over all package sets.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{Stream, TryStreamExt as _};
use outcrop_proto::{FindingStatus, SeverityCounts};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Failure, Sqlite, StoreError, count, doing, integer, json, lines, severity, status};
use crate::store::{
    EndedRun, FindingRow, FindingsFilter, FindingsOrder, HasRow, ListedPackage, PackageRow, PackageSetId,
    PackagesFilter, PackagesOrder, Questions, VerdictId, VulnerabilityRow,
};

/// Of at most so many package sets the findings are sorted; of more, verdicts are read in their order.
const FEW: usize = 64;

/// Packages of the name ?1, whole or short. An npm package with a scope is another package than the one without.
const NAMED: &str = "SELECT id FROM package WHERE name = ?1 COLLATE NOCASE
    UNION SELECT id FROM package WHERE short = ?1 COLLATE NOCASE AND name NOT LIKE '@%'";

#[async_trait]
impl Questions for Sqlite {
    async fn findings(&self, filter: &FindingsFilter<'_>) -> Result<Vec<FindingRow>, StoreError> {
        doing("reading findings", self.read_findings(filter)).await
    }

    async fn count_findings(&self, package_sets: &[(PackageSetId, u64)]) -> Result<SeverityCounts, StoreError> {
        let work = async {
            let sql = "SELECT rank, sum(wanted.value ->> 1) AS findings FROM json_each(?) AS wanted
                CROSS JOIN finding ON finding.package_set = wanted.value ->> 0 AND closed IS NULL
                CROSS JOIN verdict ON verdict.id = finding.verdict GROUP BY rank";
            let mut counts = SeverityCounts::default();
            for row in sqlx::query(sql).bind(json(&package_sets)?).fetch_all(&mut *self.reading().await?).await? {
                counts.add(severity(&row)?, count(&row, "findings")?);
            }
            Ok(counts)
        };
        doing("counting findings", work).await
    }

    async fn verdicts(&self, ids: &[VerdictId]) -> Result<Vec<FindingRow>, StoreError> {
        let work = async {
            let sql = "SELECT 0 AS package_set, verdict.id, rank, vulnerability, aliases, type, name, version, purl,
                    NULL AS paths, 0 AS layer, status, fixed, score, summary
                FROM verdict CROSS JOIN package ON package.id = verdict.package
                WHERE verdict.id IN (SELECT value FROM json_each(?))";
            sqlx::query(sql)
                .bind(json(&ids)?)
                .fetch_all(&mut *self.reading().await?)
                .await?
                .iter()
                .map(finding)
                .collect()
        };
        doing("reading verdicts", work).await
    }

    async fn list_packages(&self, filter: &PackagesFilter<'_>) -> Result<Vec<PackageRow>, StoreError> {
        doing("reading packages", self.read_packages(filter)).await
    }

    async fn listed_packages(
        &self,
        package_set: PackageSetId,
        after: Option<(&str, i64, i64)>,
        limit: usize,
    ) -> Result<Vec<ListedPackage>, StoreError> {
        let work = async {
            let sql = "SELECT package.id, place, type, name, version, purl, paths, layer
                FROM package_set_package AS held CROSS JOIN package ON package.id = held.package
                JOIN evidence ON evidence.id = held.evidence
                WHERE package_set = ?1 AND (?2 IS NULL OR (purl, package.id, place) > (?2, ?3, ?4))
                ORDER BY purl, package.id, place LIMIT ?5";
            let (purl, id, place) = after.map_or((None, 0, 0), |(purl, id, place)| (Some(purl), id, place));
            let rows = sqlx::query(sql).bind(package_set).bind(purl).bind(id).bind(place).bind(integer(limit));
            let package = |row: &SqliteRow| {
                Ok(ListedPackage {
                    id: row.try_get("id")?,
                    place: row.try_get("place")?,
                    r#type: row.try_get("type")?,
                    name: row.try_get("name")?,
                    version: row.try_get("version")?,
                    purl: row.try_get("purl")?,
                    evidence: row.try_get("paths")?,
                    layer: count(row, "layer")?,
                })
            };
            rows.fetch_all(&mut *self.reading().await?).await?.iter().map(package).collect()
        };
        doing("reading packages of a package set", work).await
    }

    async fn packages_named(
        &self,
        name: &str,
        package_sets: Option<&[PackageSetId]>,
    ) -> Result<Vec<HasRow>, StoreError> {
        let work = async {
            let sql = format!(
                "SELECT package_set, package.id, type, name, version, purl, evidence.id AS evidence, paths, layer
                 FROM ({NAMED}) AS named CROSS JOIN package ON package.id = named.id
                 CROSS JOIN package_set_package ON package_set_package.package = package.id
                     AND (?2 IS NULL OR package_set IN (SELECT value FROM json_each(?2)))
                 JOIN evidence ON evidence.id = package_set_package.evidence
                 ORDER BY name, version, package.id, package_set"
            );
            let query = sqlx::query(sqlx::AssertSqlSafe(sql))
                .bind(name)
                .bind(package_sets.map(|sets| json(&sets)).transpose()?);
            has(query.fetch(&mut *self.reading().await?)).await
        };
        doing("reading packages of a name", work).await
    }

    async fn packages_with(
        &self,
        vulnerability: &str,
        package_sets: Option<&[PackageSetId]>,
    ) -> Result<Vec<HasRow>, StoreError> {
        let work = async {
            let sql = "SELECT DISTINCT package_set_package.package_set, package.id, type, package.name, version, purl,
                    evidence.id AS evidence, paths, layer
                FROM vulnerability_name CROSS JOIN verdict ON verdict.id = vulnerability_name.verdict
                CROSS JOIN finding ON finding.verdict = verdict.id AND closed IS NULL
                    AND (?2 IS NULL OR finding.package_set IN (SELECT value FROM json_each(?2)))
                CROSS JOIN package_set_package ON package_set_package.package_set = finding.package_set
                    AND package_set_package.package = verdict.package
                CROSS JOIN package ON package.id = verdict.package
                JOIN evidence ON evidence.id = package_set_package.evidence
                WHERE vulnerability_name.name = ?1
                ORDER BY package.name, version, package.id, package_set_package.package_set";
            let package_sets = package_sets.map(|sets| json(&sets)).transpose()?;
            let query = sqlx::query(sql).bind(vulnerability).bind(package_sets);
            has(query.fetch(&mut *self.reading().await?)).await
        };
        doing("reading packages with a vulnerability", work).await
    }

    async fn ended_runs(
        &self,
        package_sets: &[PackageSetId],
        namespaces: Option<&[String]>,
        (subject, package_set): (i64, PackageSetId),
        limit: usize,
    ) -> Result<Vec<EndedRun>, StoreError> {
        let work = async {
            // Of several runs of the same package set, the last counts; one that has not ended means that the subject has it.
            let sql = "SELECT subject.*, run.package_set, max(coalesce(until, ?6)) AS until
                FROM json_each(?1) AS wanted CROSS JOIN run ON run.package_set = wanted.value
                CROSS JOIN subject ON subject.id = run.subject
                WHERE subject.kind <> 'node' AND (run.subject, run.package_set) > (?3, ?4)
                    AND (?2 IS NULL OR subject.kind = 'workload-container'
                        AND subject.namespace IN (SELECT value FROM json_each(?2)))
                GROUP BY run.subject, run.package_set HAVING max(coalesce(until, ?6)) < ?6
                ORDER BY run.subject, run.package_set LIMIT ?5";
            let query = sqlx::query(sql).bind(json(&package_sets)?);
            let query = query.bind(namespaces.map(|namespaces| json(&namespaces)).transpose()?);
            let rows = query.bind(subject).bind(package_set).bind(integer(limit)).bind(i64::MAX);
            let run = |row: &SqliteRow| {
                Ok(EndedRun {
                    number: row.try_get("id")?,
                    subject: super::history::subject(row)?,
                    package_set: row.try_get("package_set")?,
                    until: row.try_get("until")?,
                })
            };
            rows.fetch_all(&mut *self.reading().await?).await?.iter().map(run).collect()
        };
        doing("reading runs that have ended", work).await
    }

    async fn vulnerability(&self, name: &str) -> Result<Vec<VulnerabilityRow>, StoreError> {
        doing("reading a vulnerability", self.read_vulnerability(name)).await
    }
}

impl Sqlite {
    async fn read_findings(&self, filter: &FindingsFilter<'_>) -> Result<Vec<FindingRow>, Failure> {
        // A cross join keeps the order in which SQLite reads tables.
        let from = if filter.package_sets.len() <= FEW {
            "(SELECT value AS id FROM json_each(?1)) AS wanted CROSS JOIN finding ON finding.package_set = wanted.id
             CROSS JOIN verdict ON verdict.id = finding.verdict"
        } else {
            "verdict CROSS JOIN finding ON finding.verdict = verdict.id
             AND finding.package_set IN (SELECT value FROM json_each(?1))"
        };
        let columns = match filter.order {
            FindingsOrder::Severity => ["rank", "vulnerability"],
            FindingsOrder::Vulnerability => ["vulnerability", "rank"],
        };
        let [first, second] = columns;
        let (direction, comes_after) = if filter.descending { ("DESC", "<") } else { ("ASC", ">") };
        let place = if filter.after.is_some() {
            let value = |column| if column == "rank" { "?3" } else { "?4" };
            let (one, two) = (value(first), value(second));
            // The first condition is one that an index of verdicts can use.
            format!(
                "AND ({first}, {second}, verdict.id) {comes_after}= ({one}, {two}, ?5)
                 AND ({first}, {second}, verdict.id, finding.package_set) {comes_after} ({one}, {two}, ?5, ?6)"
            )
        } else {
            "AND coalesce(?3, ?4, ?5, ?6) IS NOT NULL".to_owned()
        };
        // Where a package set has a package several times, its first row is shown.
        let sql = format!(
            "SELECT finding.package_set, verdict.id, rank, vulnerability, aliases, type, name, version, purl, paths, layer,
                 status, fixed, score, summary
             FROM {from}
             CROSS JOIN package ON package.id = verdict.package
             CROSS JOIN package_set_package AS held ON held.package_set = finding.package_set
                 AND held.package = verdict.package AND held.place = 0
             JOIN evidence ON evidence.id = held.evidence
             WHERE closed IS NULL AND rank BETWEEN ?11 AND ?2 {place}
                 AND (?7 IS NULL OR verdict.id IN
                     (SELECT verdict FROM vulnerability_name WHERE vulnerability_name.name = ?7))
                 AND (?8 IS NULL OR verdict.package IN (SELECT id FROM package AS named
                     WHERE named.name = ?8 COLLATE NOCASE OR named.short = ?8 COLLATE NOCASE))
                 AND (?9 IS NULL OR status = ?9)
             ORDER BY {first} {direction}, {second} {direction}, verdict.id {direction}, finding.package_set {direction}
             LIMIT ?10"
        );
        let (severity, vulnerability, verdict, set) = filter.after.clone().unwrap_or_default();
        // The place itself is what lies behind the package set before it.
        let set = match (filter.inclusive, filter.descending) {
            (false, _) => set,
            (true, false) => set.saturating_sub(1),
            (true, true) => set.saturating_add(1),
        };
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(json(&filter.package_sets)?)
            .bind(filter.at_least.rank())
            .bind(severity.rank())
            .bind(vulnerability)
            .bind(verdict)
            .bind(set)
            .bind(filter.vulnerability)
            .bind(filter.package)
            .bind(filter.status.map(FindingStatus::as_str))
            .bind(integer(filter.limit))
            .bind(filter.at_most.rank())
            .fetch_all(&mut *self.reading().await?)
            .await?;
        rows.iter().map(finding).collect()
    }

    async fn read_packages(&self, filter: &PackagesFilter<'_>) -> Result<Vec<PackageRow>, Failure> {
        let filters = "(?3 IS NULL OR type = ?3) AND (?4 IS NULL OR version = ?4)
            AND (?1 IS NULL OR id IN named)";
        // The packages of a name are few, and package sets have many.
        let from = match filter.name {
            Some(_) => {
                "named CROSS JOIN package_set_package AS held ON held.package = named.id
                 JOIN wanted ON wanted.package_set = held.package_set"
            }
            None => "wanted CROSS JOIN package_set_package AS held ON held.package_set = wanted.package_set",
        };
        let (direction, comes_after) = if filter.descending { ("DESC", "<") } else { ("ASC", ">") };
        let columns: &[&str] = match filter.order {
            PackagesOrder::Name => &[],
            PackagesOrder::Containers => &["containers"],
            PackagesOrder::Findings => &["rank0", "rank1", "rank2", "rank3", "rank4", "rank5"],
        };
        // Packages with the same counts are sorted by name, whatever the order of counts: a count has its sign inverted instead.
        let sign = if filter.descending { "-" } else { "" };
        let counts: String = columns.iter().map(|column| format!("{sign}{column}, ")).collect();
        let (after, name, version, id) = filter.after.clone().unwrap_or_default();
        let place = match (&filter.after, columns) {
            (None, _) => "AND coalesce(?5, ?6, ?7) IS NOT NULL".to_owned(),
            (Some(_), []) => format!("AND (name, version, id) {comes_after} (?5, ?6, ?7)"),
            (Some(_), _) => {
                let counted: String = after.iter().map(|count| format!("{sign}{count}, ")).collect();
                format!("AND ({counts}name, version, id) > ({counted}?5, ?6, ?7)")
            }
        };
        let sql = match filter.order {
            PackagesOrder::Name => format!(
                "WITH named (id) AS ({NAMED})
                 SELECT id, type, name, version, purl FROM package
                 WHERE {filters} {place} AND EXISTS (SELECT 1 FROM package_set_package WHERE package = package.id
                     AND package_set IN (SELECT value ->> 0 FROM json_each(?2)))
                 ORDER BY name {direction}, version {direction}, id {direction} LIMIT ?8"
            ),
            // A package set that has a package several times, with several owners, counts once.
            PackagesOrder::Containers => format!(
                "WITH wanted (package_set, containers) AS MATERIALIZED
                     (SELECT value ->> 0, value ->> 1 FROM json_each(?2)),
                 named (id) AS ({NAMED}),
                 counted (package, containers) AS (SELECT package, sum(containers) FROM {from}
                     WHERE place = 0 GROUP BY package)
                 SELECT id, type, name, version, purl FROM counted CROSS JOIN package ON package.id = counted.package
                 WHERE {filters} {place} ORDER BY {counts}name, version, id LIMIT ?8"
            ),
            PackagesOrder::Findings => {
                let rank = |rank: usize| format!("count(DISTINCT CASE rank WHEN {rank} THEN vulnerability END)");
                let ranks: Vec<String> = (0..columns.len()).map(rank).collect();
                let shown: String =
                    columns.iter().map(|column| format!(", coalesce(found.{column}, 0) AS {column}")).collect();
                format!(
                    "WITH wanted (package_set) AS MATERIALIZED (SELECT value ->> 0 FROM json_each(?2)),
                     named (id) AS ({NAMED}),
                     counted (package) AS (SELECT DISTINCT package FROM {from}),
                     found (package, {}) AS (SELECT package, {} FROM verdict
                         WHERE EXISTS (SELECT 1 FROM finding WHERE finding.verdict = verdict.id AND closed IS NULL
                             AND finding.package_set IN (SELECT package_set FROM wanted))
                         GROUP BY package)
                     SELECT * FROM (SELECT id, type, name, version, purl{shown}
                         FROM counted CROSS JOIN package ON package.id = counted.package
                         LEFT JOIN found ON found.package = counted.package)
                     WHERE {filters} {place} ORDER BY {counts}name, version, id LIMIT ?8",
                    columns.join(", "),
                    ranks.join(", ")
                )
            }
        };
        let sets = json(&filter.package_sets)?;
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(filter.name)
            .bind(&sets)
            .bind(filter.r#type)
            .bind(filter.version)
            .bind(name)
            .bind(version)
            .bind(id)
            .bind(integer(filter.limit))
            .fetch_all(&mut *self.reading().await?)
            .await?;
        let package = |row: &SqliteRow| {
            Ok(PackageRow {
                id: row.try_get("id")?,
                r#type: row.try_get("type")?,
                name: row.try_get("name")?,
                version: row.try_get("version")?,
                purl: row.try_get("purl")?,
                stacks: 0,
                containers: 0,
                severities: SeverityCounts::default(),
            })
        };
        let mut packages: Vec<PackageRow> = rows.iter().map(package).collect::<Result<_, Failure>>()?;
        self.count_packages(&mut packages, filter.package_sets).await?;
        Ok(packages)
    }

    /// Counts the given package sets, and the containers that have them, for each package; and its open vulnerabilities in them.
    async fn count_packages(
        &self,
        packages: &mut [PackageRow],
        package_sets: &[(PackageSetId, u64)],
    ) -> Result<(), Failure> {
        let containers: HashMap<PackageSetId, u64> = package_sets.iter().copied().collect();
        let ids: Vec<i64> = packages.iter().map(|package| package.id).collect();
        let ids = json(&ids)?;
        let sets = json(&package_sets)?;
        let mut reading = self.reading().await?;
        let mut counted: HashMap<i64, (u64, u64)> = HashMap::new();
        let sql = "SELECT package, package_set FROM package_set_package
            WHERE place = 0 AND package IN (SELECT value FROM json_each(?1))
                AND package_set IN (SELECT value ->> 0 FROM json_each(?2))";
        // A page of packages may be in every package set: the rows are added up as they come.
        let mut rows = sqlx::query(sql).bind(&ids).bind(&sets).fetch(&mut *reading);
        while let Some(row) = rows.try_next().await? {
            if let Some(more) = containers.get(&row.try_get("package_set")?) {
                let counts = counted.entry(row.try_get("package")?).or_default();
                *counts = (counts.0 + 1, counts.1 + more);
            }
        }
        drop(rows);
        let mut severities: HashMap<i64, SeverityCounts> = HashMap::new();
        let sql = "SELECT package, rank, count(DISTINCT vulnerability) AS vulnerabilities FROM verdict
            WHERE package IN (SELECT value FROM json_each(?1)) AND EXISTS (SELECT 1 FROM finding
                WHERE finding.verdict = verdict.id AND closed IS NULL
                AND finding.package_set IN (SELECT value ->> 0 FROM json_each(?2)))
            GROUP BY package, rank";
        for row in sqlx::query(sql).bind(&ids).bind(sets).fetch_all(&mut *reading).await? {
            let counts = severities.entry(row.try_get("package")?).or_default();
            counts.add(severity(&row)?, count(&row, "vulnerabilities")?);
        }
        for package in packages {
            (package.stacks, package.containers) = counted.get(&package.id).copied().unwrap_or_default();
            package.severities = severities.get(&package.id).copied().unwrap_or_default();
        }
        Ok(())
    }

    async fn read_vulnerability(&self, name: &str) -> Result<Vec<VulnerabilityRow>, Failure> {
        let sql = "SELECT verdict.id, vulnerability, aliases, rank, summary, package.name, version, purl, status,
                fixed, finding.package_set
            FROM vulnerability_name CROSS JOIN verdict ON verdict.id = vulnerability_name.verdict
            CROSS JOIN package ON package.id = verdict.package
            CROSS JOIN finding ON finding.verdict = verdict.id AND closed IS NULL
            WHERE vulnerability_name.name = ? ORDER BY package.name, version, verdict.id, finding.package_set";
        let mut rows: Vec<(VerdictId, VulnerabilityRow)> = Vec::new();
        let mut reading = self.reading().await?;
        let mut found = sqlx::query(sql).bind(name).fetch(&mut *reading);
        while let Some(row) = found.try_next().await? {
            let verdict: VerdictId = row.try_get("id")?;
            let package_set: PackageSetId = row.try_get("package_set")?;
            if let Some((last, same)) = rows.last_mut()
                && *last == verdict
            {
                same.package_sets.push(package_set);
                continue;
            }
            let vulnerability = VulnerabilityRow {
                vulnerability: row.try_get("vulnerability")?,
                aliases: lines(&row, "aliases")?,
                severity: severity(&row)?,
                summary: row.try_get("summary")?,
                package: row.try_get("name")?,
                version: row.try_get("version")?,
                purl: row.try_get("purl")?,
                status: status(&row)?,
                fixed: row.try_get("fixed")?,
                package_sets: vec![package_set],
            };
            rows.push((verdict, vulnerability));
        }
        Ok(rows.into_iter().map(|(_, vulnerability)| vulnerability).collect())
    }
}

pub(super) fn finding(row: &SqliteRow) -> Result<FindingRow, Failure> {
    Ok(FindingRow {
        package_set: row.try_get("package_set")?,
        verdict: row.try_get("id")?,
        severity: severity(row)?,
        vulnerability: row.try_get("vulnerability")?,
        aliases: lines(row, "aliases")?,
        r#type: row.try_get("type")?,
        package: row.try_get("name")?,
        version: row.try_get("version")?,
        purl: row.try_get("purl")?,
        evidence: row.try_get::<Option<String>, _>("paths")?.unwrap_or_default(),
        layer: count(row, "layer")?,
        status: status(row)?,
        fixed: row.try_get("fixed")?,
        score: row.try_get("score")?,
        summary: row.try_get("summary")?,
    })
}

/// Returns the rows of a query, which are sorted by package. Texts that many rows have are stored once: all package sets may have the package.
async fn has(mut rows: impl Stream<Item = Result<SqliteRow, sqlx::Error>> + Unpin) -> Result<Vec<HasRow>, Failure> {
    let mut all: Vec<HasRow> = Vec::new();
    let mut paths: HashMap<i64, Arc<str>> = HashMap::new();
    while let Some(row) = rows.try_next().await? {
        let package: i64 = row.try_get("id")?;
        let text = |column: &str| row.try_get::<&str, _>(column).map(Arc::<str>::from);
        let [r#type, name, version, purl] = match all.last() {
            Some(HasRow { package: last, r#type, name, version, purl, .. }) if *last == package => {
                [r#type, name, version, purl].map(Arc::clone)
            }
            _ => [text("type")?, text("name")?, text("version")?, text("purl")?],
        };
        let evidence = match paths.entry(row.try_get("evidence")?) {
            Entry::Occupied(entry) => Arc::clone(entry.get()),
            Entry::Vacant(entry) => Arc::clone(entry.insert(text("paths")?)),
        };
        let (package_set, layer) = (row.try_get("package_set")?, count(&row, "layer")?);
        all.push(HasRow { package_set, package, r#type, name, version, purl, evidence, layer });
    }
    Ok(all)
}

//! Questions over all stacks.

use std::collections::HashMap;

use async_trait::async_trait;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Sqlite, StoreError, count, json, lines};
use crate::store::{
    FindingRow, HasRow, PackageRow, ProblemRow, Questions, RANKS, StackId, VerdictId, Wanted, WantedPackages,
};

/// With so few stacks their findings are sorted; with more, verdicts are gone through in their order.
const FEW: usize = 64;

/// Packages of the name ?1, whole or short.
const NAMED: &str = "SELECT id FROM package WHERE name = ?1 COLLATE NOCASE
    UNION SELECT id FROM package WHERE short = ?1 COLLATE NOCASE";

#[async_trait]
impl Questions for Sqlite {
    async fn findings(&self, wanted: &Wanted<'_>) -> Result<Vec<FindingRow>, StoreError> {
        // A cross join keeps the order in which SQLite goes through tables.
        let from = if wanted.stacks.len() <= FEW {
            "(SELECT value AS id FROM json_each(?1)) AS wanted CROSS JOIN finding ON finding.stack = wanted.id
             CROSS JOIN verdict ON verdict.id = finding.verdict"
        } else {
            "verdict CROSS JOIN finding ON finding.verdict = verdict.id
             AND finding.stack IN (SELECT value FROM json_each(?1))"
        };
        let sql = format!(
            "SELECT finding.stack, verdict.id, rank, problem, aliases, type, name, version, purl, paths, layer, status,
                 fixed, score, summary
             FROM {from}
             CROSS JOIN package ON package.id = verdict.package
             CROSS JOIN stack_package ON stack_package.stack = finding.stack AND stack_package.package = verdict.package
                 AND owner = (SELECT min(owner) FROM stack_package AS other
                     WHERE other.stack = finding.stack AND other.package = verdict.package)
             LEFT JOIN evidence ON evidence.id = stack_package.evidence
             WHERE closed IS NULL AND rank <= ?2
                 AND (rank, problem, verdict.id) >= (?3, ?4, ?5)
                 AND (rank, problem, verdict.id, finding.stack) > (?3, ?4, ?5, ?6)
                 AND (?7 IS NULL OR verdict.id IN (SELECT verdict FROM problem WHERE problem.name = ?7))
                 AND (?8 IS NULL OR verdict.package IN (SELECT id FROM package AS named
                     WHERE named.name = ?8 COLLATE NOCASE OR named.short = ?8 COLLATE NOCASE))
                 AND (?9 IS NULL OR status = ?9)
             ORDER BY rank, problem, verdict.id, finding.stack LIMIT ?10"
        );
        let (rank, problem, verdict, stack) = wanted.after.clone().unwrap_or((0, String::new(), 0, i64::MIN));
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(json(&wanted.stacks)?)
            .bind(wanted.worst_to)
            .bind(rank)
            .bind(problem)
            .bind(verdict)
            // The place itself: what lies behind the stack before it.
            .bind(if wanted.inclusive { stack.saturating_sub(1) } else { stack })
            .bind(wanted.problem)
            .bind(wanted.package)
            .bind(wanted.status)
            .bind(super::integer(wanted.limit))
            .fetch_all(&self.reader)
            .await?;
        rows.iter().map(finding).collect()
    }

    async fn verdicts(&self, ids: &[VerdictId]) -> Result<Vec<FindingRow>, StoreError> {
        let sql = "SELECT 0 AS stack, verdict.id, rank, problem, aliases, type, name, version, purl, NULL AS paths, 0 AS layer,
                status, fixed, score, summary
            FROM verdict CROSS JOIN package ON package.id = verdict.package
            WHERE verdict.id IN (SELECT value FROM json_each(?))";
        sqlx::query(sql).bind(json(&ids)?).fetch_all(&self.reader).await?.iter().map(finding).collect()
    }

    async fn list_packages(&self, wanted: &WantedPackages<'_>) -> Result<Vec<PackageRow>, StoreError> {
        let filters = "(?3 IS NULL OR type = ?3) AND (?4 IS NULL OR version = ?4)
            AND (?1 IS NULL OR id IN named)";
        // The packages of a name are few, and stacks have many.
        let from = match wanted.name {
            Some(_) => {
                "named CROSS JOIN stack_package ON stack_package.package = named.id
                JOIN wanted ON wanted.stack = stack_package.stack"
            }
            None => "wanted CROSS JOIN stack_package ON stack_package.stack = wanted.stack",
        };
        let sql = if wanted.by_containers {
            // A stack may have a package several times, with several owners: it counts once.
            format!(
                "WITH wanted (stack, containers) AS MATERIALIZED (SELECT value ->> 0, value ->> 1 FROM json_each(?2)),
                 named (id) AS ({NAMED}),
                 counted (package, containers) AS (SELECT package, sum(containers) FROM {from}
                     WHERE owner = 0 OR NOT EXISTS (SELECT 1 FROM stack_package AS other WHERE other.stack = wanted.stack
                         AND other.package = stack_package.package AND other.owner < stack_package.owner)
                     GROUP BY package)
                 SELECT id, type, name, version, purl FROM counted CROSS JOIN package ON package.id = counted.package
                 WHERE {filters} AND (-containers, name, version, id) > (-?5, ?6, ?7, ?8)
                 ORDER BY -containers, name, version, id LIMIT ?9"
            )
        } else {
            format!(
                "WITH named (id) AS ({NAMED})
                 SELECT id, type, name, version, purl FROM package
                 WHERE {filters} AND ?5 IS NOT NULL AND (name, version, id) > (?6, ?7, ?8)
                     AND EXISTS (SELECT 1 FROM stack_package WHERE package = package.id
                         AND stack IN (SELECT value ->> 0 FROM json_each(?2)))
                 ORDER BY name, version, id LIMIT ?9"
            )
        };
        let first = (i64::MAX as u64, String::new(), String::new(), 0);
        let (containers, name, version, id) = wanted.after.clone().unwrap_or(first);
        let stacks = json(&wanted.stacks)?;
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(wanted.name)
            .bind(&stacks)
            .bind(wanted.r#type)
            .bind(wanted.version)
            .bind(super::integer(containers))
            .bind(name)
            .bind(version)
            .bind(id)
            .bind(super::integer(wanted.limit))
            .fetch_all(&self.reader)
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
                severities: [0; RANKS.len()],
            })
        };
        let mut packages: Vec<PackageRow> = rows.iter().map(package).collect::<Result<_, StoreError>>()?;
        self.count_packages(&mut packages, wanted.stacks).await?;
        Ok(packages)
    }

    async fn packages_named(&self, name: &str, stacks: &[StackId]) -> Result<Vec<HasRow>, StoreError> {
        let sql = format!(
            "SELECT stack_package.stack, package.id, type, name, version, purl, paths, layer
             FROM ({NAMED}) AS named CROSS JOIN package ON package.id = named.id
             CROSS JOIN stack_package ON stack_package.package = package.id
                 AND stack_package.stack IN (SELECT value FROM json_each(?2))
             LEFT JOIN evidence ON evidence.id = stack_package.evidence
             ORDER BY name, version, package.id, stack_package.stack"
        );
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(name).bind(json(&stacks)?);
        has(&query.fetch_all(&self.reader).await?)
    }

    async fn packages_with(&self, problem: &str, stacks: &[StackId]) -> Result<Vec<HasRow>, StoreError> {
        let sql = "SELECT DISTINCT stack_package.stack, package.id, type, package.name, version, purl, paths, layer
            FROM problem CROSS JOIN verdict ON verdict.id = problem.verdict
            CROSS JOIN finding ON finding.verdict = verdict.id AND closed IS NULL
                AND finding.stack IN (SELECT value FROM json_each(?2))
            CROSS JOIN stack_package ON stack_package.stack = finding.stack AND stack_package.package = verdict.package
            CROSS JOIN package ON package.id = verdict.package
            LEFT JOIN evidence ON evidence.id = stack_package.evidence
            WHERE problem.name = ?1 ORDER BY package.name, version, package.id, stack_package.stack";
        has(&sqlx::query(sql).bind(problem).bind(json(&stacks)?).fetch_all(&self.reader).await?)
    }

    async fn problem(&self, name: &str) -> Result<Vec<ProblemRow>, StoreError> {
        let sql =
            "SELECT problem.verdict, verdict.problem, aliases, rank, summary, package.name, version, purl, status,
                fixed, finding.stack
            FROM problem CROSS JOIN verdict ON verdict.id = problem.verdict
            CROSS JOIN package ON package.id = verdict.package
            CROSS JOIN finding ON finding.verdict = verdict.id AND closed IS NULL
            WHERE problem.name = ? ORDER BY package.name, version, verdict.id, finding.stack";
        let mut rows: Vec<(i64, ProblemRow)> = Vec::new();
        for row in sqlx::query(sql).bind(name).fetch_all(&self.reader).await? {
            let verdict: i64 = row.try_get("verdict")?;
            let stack: StackId = row.try_get("stack")?;
            if let Some((last, same)) = rows.last_mut()
                && *last == verdict
            {
                same.stacks.push(stack);
                continue;
            }
            let problem = ProblemRow {
                problem: row.try_get("problem")?,
                aliases: lines(&row, "aliases")?,
                rank: count(&row, "rank")?,
                summary: row.try_get("summary")?,
                package: row.try_get("name")?,
                version: row.try_get("version")?,
                purl: row.try_get("purl")?,
                status: row.try_get("status")?,
                fixed: row.try_get("fixed")?,
                stacks: vec![stack],
            };
            rows.push((verdict, problem));
        }
        Ok(rows.into_iter().map(|(_, problem)| problem).collect())
    }
}

impl Sqlite {
    /// How many of `stacks`, and of the containers on them, have each package; and what is wrong with it in them.
    async fn count_packages(&self, packages: &mut [PackageRow], stacks: &[(StackId, u64)]) -> Result<(), StoreError> {
        let containers: HashMap<StackId, u64> = stacks.iter().copied().collect();
        let ids: Vec<i64> = packages.iter().map(|package| package.id).collect();
        let ids = json(&ids)?;
        let mut counted: HashMap<i64, (u64, u64)> = HashMap::new();
        let sql = "SELECT DISTINCT package, stack FROM stack_package WHERE package IN (SELECT value FROM json_each(?))";
        for row in sqlx::query(sql).bind(&ids).fetch_all(&self.reader).await? {
            if let Some(more) = containers.get(&row.try_get("stack")?) {
                let counts = counted.entry(row.try_get("package")?).or_default();
                *counts = (counts.0 + 1, counts.1 + more);
            }
        }
        let mut severities: HashMap<i64, [u32; RANKS.len()]> = HashMap::new();
        let sql = "SELECT package, rank, count(DISTINCT problem) AS problems FROM verdict
            WHERE package IN (SELECT value FROM json_each(?1)) AND EXISTS (SELECT 1 FROM finding
                WHERE finding.verdict = verdict.id AND closed IS NULL
                AND finding.stack IN (SELECT value ->> 0 FROM json_each(?2)))
            GROUP BY package, rank";
        for row in sqlx::query(sql).bind(&ids).bind(json(&stacks)?).fetch_all(&self.reader).await? {
            let counts = severities.entry(row.try_get("package")?).or_default();
            if let Some(of_rank) = counts.get_mut(count::<usize>(&row, "rank")?) {
                *of_rank = count(&row, "problems")?;
            }
        }
        for package in packages {
            (package.stacks, package.containers) = counted.get(&package.id).copied().unwrap_or_default();
            package.severities = severities.get(&package.id).copied().unwrap_or_default();
        }
        Ok(())
    }
}

fn finding(row: &SqliteRow) -> Result<FindingRow, StoreError> {
    Ok(FindingRow {
        stack: row.try_get("stack")?,
        verdict: row.try_get("id")?,
        rank: count(row, "rank")?,
        problem: row.try_get("problem")?,
        aliases: lines(row, "aliases")?,
        r#type: row.try_get("type")?,
        package: row.try_get("name")?,
        version: row.try_get("version")?,
        purl: row.try_get("purl")?,
        evidence: row.try_get::<Option<String>, _>("paths")?.unwrap_or_default(),
        layer: count(row, "layer")?,
        status: row.try_get("status")?,
        fixed: row.try_get("fixed")?,
        score: row.try_get("score")?,
        summary: row.try_get("summary")?,
    })
}

fn has(rows: &[SqliteRow]) -> Result<Vec<HasRow>, StoreError> {
    rows.iter()
        .map(|row| {
            Ok(HasRow {
                stack: row.try_get("stack")?,
                package: row.try_get("id")?,
                r#type: row.try_get("type")?,
                name: row.try_get("name")?,
                version: row.try_get("version")?,
                purl: row.try_get("purl")?,
                evidence: row.try_get::<Option<String>, _>("paths")?.unwrap_or_default(),
                layer: count(row, "layer")?,
            })
        })
        .collect()
}

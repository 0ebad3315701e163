//! What many rows name and is kept once: distributions, packages, the paths that list them, and verdicts.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use outcrop_proto::{Digest, Distribution, Package};
use sqlx::sqlite::{SqlitePool, SqliteRow};
use sqlx::{Row as _, SqliteConnection};

use super::{StoreError, integer, json};
use crate::store::Verdict;

/// A digest of an entry's text: images choose these, so that it has to be one that nobody can make collide.
type Key = [u8; 16];

/// Numbers of the rows that are there.
#[derive(Debug, Default)]
pub(super) struct Dictionary {
    distributions: Numbers<Key>,
    packages: Numbers<Key>,
    evidence: Numbers<Key>,
    verdicts: Numbers<(i64, String, bool)>,
    /// What a verdict says, as a hash: whether its row has to be touched.
    said: HashMap<i64, u64>,
}

/// Numbers that were given, and the last of them.
#[derive(Debug)]
struct Numbers<K> {
    given: HashMap<K, i64>,
    last: i64,
}

impl<K> Default for Numbers<K> {
    fn default() -> Self {
        Self { given: HashMap::new(), last: 0 }
    }
}

impl<K: Eq + std::hash::Hash> Numbers<K> {
    fn learn(&mut self, key: K, number: i64) {
        self.last = self.last.max(number);
        self.given.insert(key, number);
    }

    /// The number of `key`; a new one, and `true`, if it has none.
    fn number(&mut self, key: K) -> (i64, bool) {
        match self.given.get(&key) {
            Some(number) => (*number, false),
            None => {
                self.learn(key, self.last + 1);
                (self.last, true)
            }
        }
    }
}

fn key(parts: &[&str]) -> Key {
    let mut text = Vec::new();
    for part in parts {
        text.extend_from_slice(&part.len().to_le_bytes());
        text.extend_from_slice(part.as_bytes());
    }
    let [half @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = Digest::of(&text).0;
    half
}

/// A value that may be missing, apart from every value that is not.
fn optional(text: Option<&str>) -> String {
    text.map_or_else(String::new, |text| format!("={text}"))
}

fn package_key(package: &Package, distribution: Option<i64>, purl: &str) -> Key {
    let (source, source_version) = package.source.as_ref().map(|source| (&*source.name, &*source.version)).unzip();
    key(&[
        package.kind.as_str(),
        &package.name,
        &package.version,
        &optional(package.arch.as_deref()),
        &optional(source),
        &optional(source_version),
        &optional(package.vendor.as_deref()),
        &optional(package.module.as_deref()),
        &distribution.unwrap_or_default().to_string(),
        purl,
    ])
}

fn said(verdict: &Verdict) -> u64 {
    let mut hasher = DefaultHasher::new();
    let Verdict { rank, score, status, fixed, summary, aliases, .. } = verdict;
    (rank, score.map(f64::to_bits), status, fixed, summary, aliases).hash(&mut hasher);
    hasher.finish()
}

/// Rows to add.
#[derive(Default)]
pub(super) struct Additions {
    distributions: Vec<(i64, String, String, String, String)>,
    packages: Vec<PackageColumns>,
    evidence: Vec<(i64, String)>,
}

/// Columns of a package, in the table's order.
type PackageColumns = (
    i64,
    &'static str,
    String,
    String,
    String,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<i64>,
    String,
);

impl Dictionary {
    pub(super) async fn load(pool: &SqlitePool) -> Result<Self, StoreError> {
        let mut dictionary = Self::default();
        for row in sqlx::query("SELECT id, os, version, codename, name FROM distribution").fetch_all(pool).await? {
            let text = |column| row.try_get::<&str, _>(column);
            let key = key(&[text("os")?, text("version")?, text("codename")?, text("name")?]);
            dictionary.distributions.learn(key, row.try_get("id")?);
        }
        for row in sqlx::query("SELECT * FROM package").fetch_all(pool).await? {
            let (number, package, distribution) = package(&row)?;
            let key = package_key(&package, distribution, row.try_get("purl")?);
            dictionary.packages.learn(key, number);
        }
        for row in sqlx::query("SELECT id, paths FROM evidence").fetch_all(pool).await? {
            dictionary.evidence.learn(key(&[row.try_get("paths")?]), row.try_get("id")?);
        }
        // What they say is not loaded: each is written once more when it is first said again, in one pass over all.
        for row in sqlx::query("SELECT id, package, problem, unassessed FROM verdict").fetch_all(pool).await? {
            let key = (row.try_get("package")?, row.try_get("problem")?, row.try_get("unassessed")?);
            dictionary.verdicts.learn(key, row.try_get("id")?);
        }
        Ok(dictionary)
    }

    /// Passes on what came of writing. Whoever failed half-way left numbers that no row has: they are loaded again.
    pub(super) async fn settle<T>(
        &mut self,
        pool: &SqlitePool,
        written: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if written.is_err()
            && let Ok(loaded) = Self::load(pool).await
        {
            *self = loaded;
        }
        written
    }

    pub(super) fn distribution(&mut self, distribution: &Distribution, add: &mut Additions) -> i64 {
        let Distribution { id, version_id, codename, name, .. } = distribution;
        let (number, new) = self.distributions.number(key(&[id, version_id, codename, name]));
        if new {
            add.distributions.push((number, id.clone(), version_id.clone(), codename.clone(), name.clone()));
        }
        number
    }

    /// The number of a package of `distribution`, whose package URL is `purl`.
    pub(super) fn package(
        &mut self,
        package: &Package,
        distribution: Option<i64>,
        purl: &str,
        add: &mut Additions,
    ) -> i64 {
        let distribution = distribution.filter(|_| package.kind.is_os());
        let (number, new) = self.packages.number(package_key(package, distribution, purl));
        if new {
            let short = package.name.rsplit([':', '/']).next().unwrap_or_default();
            let (source, source_version) =
                package.source.as_ref().map(|source| (source.name.clone(), source.version.clone())).unzip();
            add.packages.push((
                number,
                package.kind.as_str(),
                package.name.clone(),
                short.to_owned(),
                package.version.clone(),
                package.arch.clone(),
                source,
                source_version,
                package.vendor.clone(),
                package.module.clone(),
                distribution,
                purl.to_owned(),
            ));
        }
        number
    }

    pub(super) fn evidence(&mut self, paths: &str, add: &mut Additions) -> i64 {
        let (number, new) = self.evidence.number(key(&[paths]));
        if new {
            add.evidence.push((number, paths.to_owned()));
        }
        number
    }

    /// The number of a verdict, and whether its row has to be written: it is new, or says something else than before.
    pub(super) fn verdict(&mut self, verdict: &Verdict) -> (i64, bool) {
        let key = (verdict.package, verdict.problem.clone(), verdict.unassessed);
        let (number, new) = self.verdicts.number(key);
        let said = said(verdict);
        let changed = self.said.insert(number, said) != Some(said);
        (number, new || changed)
    }
}

impl Additions {
    pub(super) async fn write(&self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        let all = [
            (json(&self.distributions)?, self.distributions.len(), 5, "distribution"),
            (json(&self.packages)?, self.packages.len(), 12, "package"),
            (json(&self.evidence)?, self.evidence.len(), 2, "evidence"),
        ];
        for (rows, count, columns, table) in all {
            if count > 0 {
                let columns: Vec<String> = (0..columns).map(|column| format!("value ->> {column}")).collect();
                let sql = format!("INSERT INTO {table} SELECT {} FROM json_each(?)", columns.join(", "));
                sqlx::query(sqlx::AssertSqlSafe(sql)).bind(rows).execute(&mut *connection).await?;
            }
        }
        Ok(())
    }
}

/// A row of `package`: its number, the package, the number of its distribution.
pub(super) fn package(row: &SqliteRow) -> Result<(i64, Package, Option<i64>), StoreError> {
    let kind =
        outcrop_proto::PackageType::from_name(row.try_get("type")?).ok_or(StoreError::Damaged("a package's type"))?;
    let name: String = row.try_get("name")?;
    let version: String = row.try_get("version")?;
    let mut package = Package::new(kind, name, version);
    package.arch = row.try_get("arch")?;
    let source: Option<String> = row.try_get("source")?;
    let source_version: Option<String> = row.try_get("source_version")?;
    package.source = source.zip(source_version).map(|(name, version)| outcrop_proto::SourcePackage { name, version });
    package.vendor = row.try_get("vendor")?;
    package.module = row.try_get("module")?;
    Ok((row.try_get("id")?, package, row.try_get("distribution")?))
}

/// Verdicts whose rows are new or say something else, as parameters.
pub(super) async fn write_verdicts(
    connection: &mut SqliteConnection,
    verdicts: &[(i64, &Verdict)],
) -> Result<(), StoreError> {
    let rows: Vec<_> = verdicts
        .iter()
        .map(|(number, verdict)| {
            (
                number,
                verdict.package,
                &verdict.problem,
                i64::from(verdict.unassessed),
                integer(verdict.rank),
                verdict.score,
                verdict.status,
                &verdict.fixed,
                &verdict.summary,
                verdict.aliases.join("\n"),
            )
        })
        .collect();
    sqlx::query(
        "INSERT INTO verdict SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4,
             CAST(value ->> 5 AS REAL), value ->> 6, value ->> 7, value ->> 8, value ->> 9 FROM json_each(?) WHERE true
         ON CONFLICT (id) DO UPDATE SET rank = excluded.rank, score = excluded.score, status = excluded.status,
             fixed = excluded.fixed, summary = excluded.summary, aliases = excluded.aliases",
    )
    .bind(json(&rows)?)
    .execute(&mut *connection)
    .await?;
    let numbers: Vec<i64> = verdicts.iter().map(|(number, _)| *number).collect();
    sqlx::query("DELETE FROM problem WHERE verdict IN (SELECT value FROM json_each(?))")
        .bind(json(&numbers)?)
        .execute(&mut *connection)
        .await?;
    let names: Vec<(&str, i64)> = verdicts
        .iter()
        .flat_map(|(number, verdict)| {
            verdict.aliases.iter().chain([&verdict.problem]).map(|name| (name.as_str(), *number))
        })
        .collect();
    sqlx::query("INSERT OR IGNORE INTO problem SELECT value ->> 0, value ->> 1 FROM json_each(?)")
        .bind(json(&names)?)
        .execute(&mut *connection)
        .await?;
    Ok(())
}

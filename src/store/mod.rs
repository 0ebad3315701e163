//! What outlives a restart: inventories by layer, stacks merged once, findings by stack.
//!
//! One SQLite file. Whatever a method acknowledged is on the disk (`synchronous = FULL`): it survives a kill and a power loss.

pub mod volume;

use std::collections::BTreeMap;
use std::path::Path;

use outcrop_proto::{Coverage, CoverageState, Digest, LayerId};
use sqlx::Row as _;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database said no.
    #[error("the store: {0}")]
    Database(#[from] sqlx::Error),
    /// The file is of another version, or no store at all.
    #[error("the store's tables could not be brought up to date: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A row holds what nobody wrote.
    #[error("the store is damaged: {0}")]
    Damaged(&'static str),
}

/// The store.
#[derive(Clone, Debug)]
pub struct Store {
    pool: SqlitePool,
}

/// What one node read of a layer.
#[derive(Clone, Debug)]
pub struct LayerRow {
    /// The layer.
    pub id: LayerId,
    /// The canonical encoding, compressed.
    pub inventory: Vec<u8>,
    /// Digest of the canonical encoding.
    pub digest: Digest,
    /// Version of the cataloguers that read it.
    pub cataloguers: u32,
    /// Who read it.
    pub node: String,
    /// In which cage.
    pub cage: String,
    /// Whether overlay's marks could be seen.
    pub marks: bool,
    /// When, in seconds since 1970.
    pub read_at: i64,
}

/// A stack, merged and matched.
#[derive(Clone, Debug)]
pub struct StackRow {
    /// Its identity.
    pub id: Digest,
    /// Its layers, newest first.
    pub layers: Vec<LayerId>,
    /// What a node answered, encoded.
    pub answers: Option<Vec<u8>>,
    /// How far it was seen.
    pub coverage: Coverage,
    /// The distribution's name.
    pub distribution: Option<String>,
    /// What it holds.
    pub packages: Vec<PackageRow>,
    /// How many findings are left to the distribution.
    pub withheld: usize,
    /// How many packages name nothing.
    pub unidentified: usize,
    /// (ecosystem, state, reason)
    pub assessed: Vec<(String, String, String)>,
    /// What was found.
    pub findings: Vec<FindingRow>,
}

/// A package of a stack.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PackageRow {
    /// As purl names it.
    pub r#type: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The package.
    pub purl: String,
    /// The first path that lists it.
    pub evidence: String,
    /// Index into the stack's layers, newest first.
    pub layer: u32,
}

/// A problem of a package of a stack.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct FindingRow {
    /// The problem.
    pub id: String,
    /// Its other names.
    pub aliases: Vec<String>,
    /// The package's name.
    pub package: String,
    /// The package.
    pub purl: String,
    /// Its version.
    pub installed: String,
    /// The way out.
    pub status: String,
    /// The version that mends it.
    pub fixed: Option<String>,
    /// How bad it is.
    pub severity: String,
    /// The score that this comes from.
    pub score: Option<f64>,
    /// Index into the stack's layers, newest first.
    pub layer: u32,
    /// What it is about.
    pub summary: String,
}

impl Store {
    /// Opens the store at `path`, and makes it if there is none.
    ///
    /// # Errors
    /// When the file cannot be opened, is no store, or is one of a later version.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true);
        // One writer at a time is all that SQLite has.
        let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await?;
        sqlx::migrate!("src/store/migrations").run(&pool).await?;
        Ok(Self { pool })
    }

    /// Keeps what a node read of a layer.
    ///
    /// # Errors
    /// When it is not on the disk.
    pub async fn put_layer(&self, row: &LayerRow) -> Result<(), StoreError> {
        sqlx::query("INSERT OR REPLACE INTO layer VALUES (?, ?, ?, ?, ?, ?, ?, ?)")
            .bind(row.id.to_string())
            .bind(&row.inventory)
            .bind(row.digest.0.as_slice())
            .bind(row.cataloguers)
            .bind(&row.node)
            .bind(&row.cage)
            .bind(row.marks)
            .bind(row.read_at)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// The layers that this set of cataloguers has read.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn layers(&self, cataloguers: u32) -> Result<Vec<LayerId>, StoreError> {
        let rows =
            sqlx::query("SELECT id FROM layer WHERE cataloguers >= ?").bind(cataloguers).fetch_all(&self.pool).await?;
        rows.iter().map(|row| layer_id(row.try_get("id")?)).collect()
    }

    /// The compressed inventory of a layer, and whether overlay's marks could be seen in it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn inventory(&self, id: &LayerId) -> Result<Option<(Vec<u8>, bool)>, StoreError> {
        let row = sqlx::query("SELECT inventory, marks FROM layer WHERE id = ?")
            .bind(id.to_string())
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.map(|row| Ok::<_, sqlx::Error>((row.try_get("inventory")?, row.try_get("marks")?))).transpose()?)
    }

    /// Keeps what a stack holds, in place of what was kept of it before.
    ///
    /// # Errors
    /// When not all of it is on the disk; then none is.
    pub async fn put_stack(&self, row: &StackRow) -> Result<(), StoreError> {
        let id = row.id.0.as_slice();
        let mut transaction = self.pool.begin().await?;
        sqlx::query("DELETE FROM stack WHERE id = ?").bind(id).execute(&mut *transaction).await?;
        let layers: Vec<String> = row.layers.iter().map(ToString::to_string).collect();
        let mut severities: BTreeMap<&str, usize> = BTreeMap::new();
        for finding in &row.findings {
            *severities.entry(&finding.severity).or_default() += 1;
        }
        sqlx::query("INSERT INTO stack VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
            .bind(id)
            .bind(layers.join("\n"))
            .bind(row.answers.as_deref())
            .bind(row.coverage.state.as_str())
            .bind(&row.coverage.reason)
            .bind(row.distribution.as_deref())
            .bind(count(row.packages.len()))
            .bind(count(row.withheld))
            .bind(count(row.unidentified))
            .bind(serde_json::to_string(&severities).map_err(|_| StoreError::Damaged("counts"))?)
            .execute(&mut *transaction)
            .await?;
        for (ecosystem, state, reason) in &row.assessed {
            sqlx::query("INSERT OR IGNORE INTO assessed VALUES (?, ?, ?, ?)")
                .bind(id)
                .bind(ecosystem)
                .bind(state)
                .bind(reason)
                .execute(&mut *transaction)
                .await?;
        }
        for finding in &row.findings {
            sqlx::query("INSERT OR IGNORE INTO finding VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
                .bind(id)
                .bind(&finding.purl)
                .bind(&finding.id)
                .bind(finding.aliases.join("\n"))
                .bind(&finding.package)
                .bind(&finding.installed)
                .bind(&finding.status)
                .bind(finding.fixed.as_deref())
                .bind(&finding.severity)
                .bind(finding.score)
                .bind(finding.layer)
                .bind(&finding.summary)
                .execute(&mut *transaction)
                .await?;
        }
        for finding in &row.findings {
            for name in finding.aliases.iter().chain([&finding.id]) {
                sqlx::query("INSERT OR IGNORE INTO problem VALUES (?, ?)")
                    .bind(name)
                    .bind(&finding.id)
                    .execute(&mut *transaction)
                    .await?;
            }
        }
        for package in &row.packages {
            let short = package.name.rsplit([':', '/']).next().unwrap_or_default();
            sqlx::query("INSERT OR IGNORE INTO package VALUES (?, ?, ?, ?, ?, ?, ?, ?)")
                .bind(id)
                .bind(&package.purl)
                .bind(&package.r#type)
                .bind(&package.name)
                .bind(short)
                .bind(&package.version)
                .bind(&package.evidence)
                .bind(package.layer)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Packages of this name, whole or without what stands before its last `:` or `/`, by stack.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn packages_named(&self, name: &str) -> Result<Vec<(Digest, PackageRow)>, StoreError> {
        let sql = "SELECT * FROM package WHERE name = ?1 OR short = ?1 ORDER BY name, version, purl";
        packages(&sqlx::query(sql).bind(name).fetch_all(&self.pool).await?)
    }

    /// Packages that have the problem of this name, by stack.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn packages_with(&self, problem: &str) -> Result<Vec<(Digest, PackageRow)>, StoreError> {
        let sql = "SELECT DISTINCT package.* FROM problem JOIN finding USING (id) JOIN package USING (stack, purl) \
            WHERE problem.name = ? ORDER BY package.name, package.version, package.purl";
        packages(&sqlx::query(sql).bind(problem).fetch_all(&self.pool).await?)
    }

    /// Every stack with how far it was seen.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn stacks(&self) -> Result<Vec<(Digest, Coverage)>, StoreError> {
        let rows = sqlx::query("SELECT id, state, reason FROM stack").fetch_all(&self.pool).await?;
        rows.iter()
            .map(|row| {
                Ok((
                    stack_id(row, "id")?,
                    Coverage::new(state(row.try_get("state")?)?, row.try_get::<String, _>("reason")?),
                ))
            })
            .collect()
    }

    /// The layers of a stack, newest first, and what a node answered to what they leave open.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn stack(&self, id: &Digest) -> Result<Option<(Vec<LayerId>, Option<Vec<u8>>)>, StoreError> {
        let row = sqlx::query("SELECT layers, answers FROM stack WHERE id = ?")
            .bind(id.0.as_slice())
            .fetch_optional(&self.pool)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let layers: String = row.try_get("layers")?;
        let layers = layers.lines().map(layer_id).collect::<Result<_, _>>()?;
        Ok(Some((layers, row.try_get("answers")?)))
    }

    /// What was found in a stack.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn findings(&self, stack: &Digest) -> Result<Vec<FindingRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM finding WHERE stack = ? ORDER BY package, id, purl")
            .bind(stack.0.as_slice())
            .fetch_all(&self.pool)
            .await?;
        rows.iter()
            .map(|row| {
                let aliases: String = row.try_get("aliases")?;
                Ok(FindingRow {
                    id: row.try_get("id")?,
                    aliases: aliases.lines().map(ToOwned::to_owned).collect(),
                    package: row.try_get("package")?,
                    purl: row.try_get("purl")?,
                    installed: row.try_get("installed")?,
                    status: row.try_get("status")?,
                    fixed: row.try_get("fixed")?,
                    severity: row.try_get("severity")?,
                    score: row.try_get("score")?,
                    layer: row.try_get("layer")?,
                    summary: row.try_get("summary")?,
                })
            })
            .collect()
    }

    /// Every stack with how many findings of each severity it has, and how many withheld ones.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn counts(&self) -> Result<Vec<(Digest, BTreeMap<String, usize>, usize)>, StoreError> {
        let rows = sqlx::query("SELECT id, severities, withheld FROM stack").fetch_all(&self.pool).await?;
        let counts = |row: &SqliteRow| {
            let severities: &str = row.try_get("severities")?;
            let severities = serde_json::from_str(severities).map_err(|_| StoreError::Damaged("counts"))?;
            Ok((stack_id(row, "id")?, severities, usize::try_from(row.try_get::<i64, _>("withheld")?).unwrap_or(0)))
        };
        rows.iter().map(counts).collect()
    }

    /// What matching was worth, of every stack: (stack, ecosystem, state, reason).
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn assessed(&self) -> Result<Vec<(Digest, String, String, String)>, StoreError> {
        let sql = "SELECT stack, ecosystem, state, reason FROM assessed ORDER BY stack, ecosystem";
        let rows = sqlx::query(sql).fetch_all(&self.pool).await?;
        let assessed = |row: &SqliteRow| {
            Ok((stack_id(row, "stack")?, row.try_get("ecosystem")?, row.try_get("state")?, row.try_get("reason")?))
        };
        rows.iter().map(assessed).collect()
    }
}

fn count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn layer_id(text: &str) -> Result<LayerId, StoreError> {
    text.parse().map_err(|_| StoreError::Damaged("a layer's identity"))
}

fn packages(rows: &[SqliteRow]) -> Result<Vec<(Digest, PackageRow)>, StoreError> {
    let package = |row: &SqliteRow| {
        let package = PackageRow {
            r#type: row.try_get("type")?,
            name: row.try_get("name")?,
            version: row.try_get("version")?,
            purl: row.try_get("purl")?,
            evidence: row.try_get("evidence")?,
            layer: row.try_get("layer")?,
        };
        Ok((stack_id(row, "stack")?, package))
    };
    rows.iter().map(package).collect()
}

fn stack_id(row: &SqliteRow, column: &str) -> Result<Digest, StoreError> {
    let id: &[u8] = row.try_get(column)?;
    id.try_into().map(Digest).map_err(|_| StoreError::Damaged("a stack's identity"))
}

fn state(word: &str) -> Result<CoverageState, StoreError> {
    CoverageState::ALL.into_iter().find(|state| state.as_str() == word).ok_or(StoreError::Damaged("a coverage state"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package() -> PackageRow {
        PackageRow {
            r#type: "maven".to_owned(),
            name: "org.apache:curl-core".to_owned(),
            version: "1".to_owned(),
            purl: "pkg:deb/debian/curl@1".to_owned(),
            evidence: "/app.jar!/curl.jar".to_owned(),
            layer: 1,
        }
    }

    fn stack(findings: &[&str]) -> StackRow {
        let finding = |id: &&str| FindingRow {
            id: (*id).to_owned(),
            aliases: vec!["GHSA-1".to_owned()],
            package: "curl".to_owned(),
            purl: "pkg:deb/debian/curl@1".to_owned(),
            installed: "1".to_owned(),
            status: "fixed".to_owned(),
            fixed: Some("2".to_owned()),
            severity: "high".to_owned(),
            score: Some(7.5),
            layer: 1,
            summary: "it's bad".to_owned(),
        };
        StackRow {
            id: Digest::of(b"stack"),
            layers: vec![LayerId::Diff(Digest::of(b"app")), LayerId::Chain(Digest::of(b"base"))],
            answers: Some(vec![1, 2]),
            coverage: Coverage::new(CoverageState::Partial, "why"),
            distribution: None,
            packages: vec![package()],
            withheld: 2,
            unidentified: 1,
            assessed: vec![("npm".to_owned(), "stale".to_owned(), "old".to_owned())],
            findings: findings.iter().map(finding).collect(),
        }
    }

    #[tokio::test]
    async fn what_was_put_is_there_after_the_store_was_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let layer = LayerRow {
            id: LayerId::Diff(Digest::of(b"app")),
            inventory: b"bytes".to_vec(),
            digest: Digest::of(b"bytes"),
            cataloguers: 2,
            node: "n".to_owned(),
            cage: "c".to_owned(),
            marks: true,
            read_at: 5,
        };
        let before = Store::open(&path).await.unwrap();
        before.put_layer(&layer).await.unwrap();
        before.put_stack(&stack(&["CVE-1", "CVE-2"])).await.unwrap();
        drop(before);
        let store = Store::open(&path).await.unwrap();
        assert_eq!(store.layers(2).await.unwrap(), [layer.id]);
        assert!(store.layers(3).await.unwrap().is_empty(), "older cataloguers read it");
        assert_eq!(store.inventory(&layer.id).await.unwrap(), Some((b"bytes".to_vec(), true)));
        let expected = stack(&["CVE-1", "CVE-2"]);
        assert_eq!(store.stacks().await.unwrap(), [(expected.id, expected.coverage)]);
        assert_eq!(store.stack(&expected.id).await.unwrap(), Some((expected.layers, expected.answers)));
        assert_eq!(store.findings(&expected.id).await.unwrap(), expected.findings);
        let assessed = (expected.id, "npm".to_owned(), "stale".to_owned(), "old".to_owned());
        assert_eq!(store.assessed().await.unwrap(), [assessed]);
        let found = [(expected.id, package())];
        for name in ["curl-core", "org.apache:curl-core"] {
            assert_eq!(store.packages_named(name).await.unwrap(), found, "{name}");
        }
        for name in ["CVE-1", "GHSA-1"] {
            assert_eq!(store.packages_with(name).await.unwrap(), found, "{name}");
        }
        assert!(store.packages_named("curl").await.unwrap().is_empty());
        assert_eq!(store.counts().await.unwrap(), [(expected.id, BTreeMap::from([("high".to_owned(), 2)]), 2)]);
    }

    #[tokio::test]
    async fn a_stack_that_is_put_again_has_only_its_new_findings() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.db")).await.unwrap();
        store.put_stack(&stack(&["CVE-1", "CVE-2"])).await.unwrap();
        store.put_stack(&stack(&["CVE-3"])).await.unwrap();
        let found = store.findings(&Digest::of(b"stack")).await.unwrap();
        assert_eq!(found, stack(&["CVE-3"]).findings);
    }

    #[tokio::test]
    async fn a_file_that_is_no_store_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        std::fs::write(&path, "not a database, though of some length").unwrap();
        assert!(Store::open(&path).await.is_err());
    }
}

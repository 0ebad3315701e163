//! Stacks and their packages.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use outcrop_proto::{Coverage, CoverageState, Digest, Distribution, Package, PackageType, Severity, StackPackage};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::keys::{self, INSERT_PACKAGES, Key, distribution_key, evidence_key, package_columns, package_key};
use super::outbox::append;
use super::{Failure, Sqlite, StoreError, count, digest, doing, integer, json, layer_id, lines, optional_digest};
use crate::store::{
    Counts, MergedPackage, MergedStack, OutboxEvent, PackageRef, PackageSetId, StackId, Stacks, Summary,
};

/// Paths of a package that are stored: a jar may contain the same package a hundred times.
const PATHS: usize = 16;

/// Rows for [`summary`].
const SUMMARIES: &str =
    "SELECT stack.*, package_set.*, advisory_database.digest AS matched_digest, os, version, codename,
        distribution.name AS distribution_name
    FROM stack JOIN package_set ON package_set.id = stack.id
    LEFT JOIN distribution ON distribution.id = package_set.distribution
    LEFT JOIN advisory_database ON advisory_database.id = package_set.matched";

#[async_trait]
impl Stacks for Sqlite {
    async fn put_stack(&self, stack: &MergedStack, at: i64) -> Result<Summary, StoreError> {
        let rows = doing("storing a stack", async { StackRows::new(stack) }).await?;
        let outbox = self.outbox;
        self.write("storing a stack", move |connection| Box::pin(rows.write(connection, outbox.then_some(at)))).await
    }

    async fn stacks(&self) -> Result<Vec<Summary>, StoreError> {
        let work = async { sqlx::query(SUMMARIES).fetch_all(&self.reader).await?.iter().map(summary).collect() };
        doing("reading stacks", work).await
    }

    async fn stacks_to_match(&self, database: &Digest) -> Result<Vec<Summary>, StoreError> {
        let work = async {
            let sql = format!("{SUMMARIES} WHERE catalogers > 0 AND advisory_database.digest IS NOT ?");
            let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(database.0.as_slice());
            query.fetch_all(&self.reader).await?.iter().map(summary).collect()
        };
        doing("reading stacks to match", work).await
    }

    async fn packages_of(&self, package_set: PackageSetId) -> Result<Vec<PackageRef>, StoreError> {
        let work = async {
            let sql = "SELECT package, owner, layer FROM package_set_package WHERE package_set = ?";
            let rows = sqlx::query(sql).bind(package_set).fetch_all(&self.reader).await?;
            rows.iter()
                .map(|row| {
                    Ok(PackageRef { package: row.try_get(0)?, owner: row.try_get(1)?, layer: count(row, "layer")? })
                })
                .collect()
        };
        doing("reading the packages of a stack", work).await
    }

    async fn packages(&self, ids: &[i64]) -> Result<Vec<(i64, Package, Option<Distribution>)>, StoreError> {
        let work = async {
            let sql = "SELECT package.*, os, distribution.version AS os_version, codename,
                    distribution.name AS distribution_name
                FROM json_each(?) CROSS JOIN package ON package.id = value
                LEFT JOIN distribution ON distribution.id = package.distribution";
            let rows = sqlx::query(sql).bind(json(&ids)?).fetch_all(&self.reader).await?;
            rows.iter()
                .map(|row| {
                    let (id, package) = keys::package(row)?;
                    Ok((id, package, distribution(row, "os_version")?))
                })
                .collect()
        };
        doing("reading packages", work).await
    }
}

/// A stack as parameters of its statements: it is encoded before the connection that writes is taken.
struct StackRows {
    chain: Digest,
    layers: String,
    inputs: Digest,
    coverage: Coverage,
    distribution: Option<(String, Distribution)>,
    types: i64,
    catalogers: u32,
    unidentified: i64,
    checked_by: String,
    packages: i64,
    package_rows: String,
    evidence_rows: String,
    set_rows: String,
}

impl StackRows {
    fn new(stack: &MergedStack) -> Result<Self, Failure> {
        let distribution = stack.distribution.as_ref();
        let (mut package_rows, mut evidence_rows, mut set_rows) = (Vec::new(), Vec::new(), Vec::new());
        // Where a package is listed several times, the entry without an owner comes first: it is the one that is shown.
        let mut packages: Vec<&MergedPackage> = stack.packages.iter().collect();
        packages.sort_by_key(|package| package.package.owner.is_some());
        let paths: Vec<String> = packages.iter().map(|package| paths(&package.package)).collect();
        let (mut known, mut known_evidence) = (HashSet::new(), HashSet::new());
        // The owners under which each package was seen.
        let mut owners_of: HashMap<Key, Vec<Option<Key>>> = HashMap::new();
        for (MergedPackage { package, purl, owner_purl }, paths) in packages.iter().zip(&paths) {
            let key = package_key(&package.package, distribution, purl);
            if known.insert(key) {
                package_rows.push(package_columns(key, &package.package, purl));
            }
            let owner = package.owner.as_ref().zip(owner_purl.as_deref()).map(|(owner, purl)| {
                let key = package_key(&owner.package, distribution, purl);
                if known.insert(key) {
                    package_rows.push(package_columns(key, &owner.package, purl));
                }
                key
            });
            let evidence = evidence_key(paths);
            if known_evidence.insert(evidence) {
                evidence_rows.push((evidence, paths));
            }
            let owners = owners_of.entry(key).or_default();
            if !owners.contains(&owner) {
                set_rows.push((key, owners.len(), owner, package.layer, evidence));
                owners.push(owner);
            }
        }
        let layers: Vec<String> = stack.layers.iter().map(ToString::to_string).collect();
        Ok(Self {
            chain: stack.chain,
            layers: layers.join("\n"),
            inputs: stack.inputs,
            coverage: stack.coverage.clone(),
            distribution: match distribution {
                Some(distribution) => Some((json(&[distribution_key(distribution)])?, distribution.clone())),
                None => None,
            },
            types: stack.packages.iter().fold(0, |types, package| types | 1 << package.package.package.kind as u8),
            catalogers: stack.catalogers,
            unidentified: integer(stack.unidentified),
            checked_by: json(&stack.checked_by)?,
            packages: integer(stack.packages.len()),
            package_rows: json(&package_rows)?,
            evidence_rows: json(&evidence_rows)?,
            set_rows: json(&set_rows)?,
        })
    }

    /// Writes the rows; `tell_at` is the time of events, where these are stored.
    async fn write(self, connection: &mut SqliteConnection, tell_at: Option<i64>) -> Result<Summary, Failure> {
        let distribution = self.write_distribution(connection).await?;
        sqlx::query(INSERT_PACKAGES).bind(&self.package_rows).bind(distribution).execute(&mut *connection).await?;
        sqlx::query(
            "INSERT INTO evidence (key, paths) SELECT unhex(value ->> 0), value ->> 1 FROM json_each(?)
             WHERE unhex(value ->> 0) NOT IN (SELECT key FROM evidence) ON CONFLICT (key) DO NOTHING",
        )
        .bind(&self.evidence_rows)
        .execute(&mut *connection)
        .await?;
        let (id, before) = self.write_stack(connection, distribution).await?;
        sqlx::query("DELETE FROM package_set_package WHERE package_set = ?").bind(id).execute(&mut *connection).await?;
        sqlx::query(
            "INSERT INTO package_set_package (package_set, package, place, owner, layer, evidence)
             SELECT ?1, package.id, value ->> 1, owner.id, value ->> 3, evidence.id FROM json_each(?2)
             CROSS JOIN package ON package.key = unhex(value ->> 0)
             CROSS JOIN evidence ON evidence.key = unhex(value ->> 4)
             LEFT JOIN package AS owner ON owner.key = unhex(value ->> 2)",
        )
        .bind(id)
        .bind(&self.set_rows)
        .execute(&mut *connection)
        .await?;
        if let Some(at) = tell_at {
            self.tell(connection, id, before, at).await?;
        }
        let sql = format!("{SUMMARIES} WHERE stack.id = ?");
        summary(&sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id).fetch_one(connection).await?)
    }

    async fn write_distribution(&self, connection: &mut SqliteConnection) -> Result<Option<i64>, Failure> {
        let Some((key, Distribution { id, version_id, codename, name, .. })) = &self.distribution else {
            return Ok(None);
        };
        sqlx::query(
            "INSERT INTO distribution (key, os, version, codename, name) VALUES (unhex(?1 ->> 0), ?2, ?3, ?4, ?5)
             ON CONFLICT (key) DO NOTHING",
        )
        .bind(key)
        .bind(id)
        .bind(version_id)
        .bind(codename)
        .bind(name)
        .execute(&mut *connection)
        .await?;
        let sql = "SELECT id FROM distribution WHERE key = unhex(? ->> 0)";
        Ok(Some(sqlx::query(sql).bind(key).fetch_one(connection).await?.try_get(0)?))
    }

    /// Returns the row id, and the coverage before.
    async fn write_stack(
        &self,
        connection: &mut SqliteConnection,
        distribution: Option<i64>,
    ) -> Result<(StackId, Option<(String, String)>), Failure> {
        let sql = "SELECT id, state, reason FROM stack WHERE chain = ?";
        let known = sqlx::query(sql).bind(self.chain.0.as_slice()).fetch_optional(&mut *connection).await?;
        let (id, before) = match &known {
            Some(row) => (row.try_get(0)?, Some((row.try_get(1)?, row.try_get(2)?))),
            None => {
                let sql = "INSERT INTO package_set (kind, types, packages, unidentified) VALUES ('stack', 0, 0, 0)
                    RETURNING id";
                (sqlx::query(sql).fetch_one(&mut *connection).await?.try_get(0)?, None)
            }
        };
        sqlx::query(
            "UPDATE package_set SET distribution = ?, types = ?, packages = ?, unidentified = ?, matched = NULL WHERE id = ?",
        )
        .bind(distribution)
        .bind(self.types)
        .bind(self.packages)
        .bind(self.unidentified)
        .bind(id)
        .execute(&mut *connection)
        .await?;
        sqlx::query(
            "INSERT INTO stack (id, chain, layers, state, reason, catalogers, inputs, checked_by)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (id) DO UPDATE SET layers = excluded.layers, state = excluded.state, reason = excluded.reason,
                 catalogers = excluded.catalogers, inputs = excluded.inputs, checked_by = excluded.checked_by",
        )
        .bind(id)
        .bind(self.chain.0.as_slice())
        .bind(&self.layers)
        .bind(self.coverage.state.as_str())
        .bind(&self.coverage.reason)
        .bind(self.catalogers)
        .bind(self.inputs.0.as_slice())
        .bind(&self.checked_by)
        .execute(connection)
        .await?;
        Ok((id, before))
    }

    /// Writes what the stack's new packages mean to targets.
    async fn tell(
        &self,
        connection: &mut SqliteConnection,
        id: StackId,
        before: Option<(String, String)>,
        at: i64,
    ) -> Result<(), Failure> {
        let mut events = vec![OutboxEvent::InventoryReady {
            package_set: id,
            stack: Some(self.chain.to_string()),
            packages: u64::try_from(self.packages).unwrap_or_default(),
        }];
        let (state, reason) = (self.coverage.state.as_str(), &self.coverage.reason);
        if before.as_ref().is_none_or(|before| before.0 != state || before.1 != *reason) {
            events.push(OutboxEvent::CoverageChanged {
                package_set: Some(id),
                subject: None,
                from: before.map(|(state, _)| state),
                to: state.to_owned(),
                reason: reason.clone(),
            });
        }
        append(connection, &events, at).await
    }
}

/// Returns the paths that list a package, one per line.
fn paths(package: &StackPackage) -> String {
    let path = |path: &Vec<u8>| format!("/{}", String::from_utf8_lossy(path).replace('\n', "\u{fffd}"));
    package.evidence.iter().take(PATHS).map(path).collect::<Vec<_>>().join("\n")
}

/// Returns the summary in a row of [`SUMMARIES`].
fn summary(row: &SqliteRow) -> Result<Summary, Failure> {
    let types: i64 = row.try_get("types")?;
    let numbers = |column: &str| -> Result<Vec<u32>, Failure> {
        serde_json::from_str(row.try_get(column)?).map_err(|_| Failure::Damaged("a list of counts"))
    };
    let severities = Severity::WORST_FIRST.into_iter().zip(numbers("severities")?.into_iter().map(u64::from)).collect();
    Ok(Summary {
        id: row.try_get("id")?,
        chain: digest(row, "chain")?,
        layers: lines(row, "layers")?.iter().map(|line| layer_id(line)).collect::<Result<_, _>>()?,
        inputs: optional_digest(row, "inputs")?,
        matched: optional_digest(row, "matched_digest")?,
        coverage: coverage(row)?,
        distribution: distribution(row, "version")?,
        types: PackageType::ALL.into_iter().filter(|kind| types & (1 << *kind as u8) != 0).collect(),
        catalogers: count(row, "catalogers")?,
        packages: count(row, "packages")?,
        unidentified: count(row, "unidentified")?,
        counts: Counts {
            severities,
            by_layer: numbers("by_layer")?,
            withheld: count(row, "withheld")?,
            dropped: count(row, "dropped")?,
        },
        checked_by: serde_json::from_str(row.try_get("checked_by")?)
            .map_err(|_| Failure::Damaged("a list of nodes"))?,
    })
}

/// Returns the coverage in a row of a stack.
pub(super) fn coverage(row: &SqliteRow) -> Result<Coverage, Failure> {
    let state: &str = row.try_get("state")?;
    let state = CoverageState::ALL.into_iter().find(|known| known.as_str() == state);
    Ok(Coverage::new(state.ok_or(Failure::Damaged("a coverage state"))?, row.try_get::<String, _>("reason")?))
}

/// Returns the distribution in a row, if it has one.
pub(super) fn distribution(row: &SqliteRow, version: &str) -> Result<Option<Distribution>, Failure> {
    let Some(id) = row.try_get::<Option<String>, _>("os")? else { return Ok(None) };
    Ok(Some(Distribution {
        id,
        version_id: row.try_get(version)?,
        codename: row.try_get("codename")?,
        name: row.try_get("distribution_name")?,
        id_like: Vec::new(),
    }))
}

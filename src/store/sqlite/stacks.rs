//! Stacks and their packages.

use async_trait::async_trait;
use outcrop_proto::{Coverage, CoverageState, Distribution, Package, PackageType, StackPackage};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::dictionary::{self, Additions};
use super::{Sqlite, StoreError, count, digest, integer, json, layer_id, lines};
use crate::store::{Counts, MergedPackage, MergedStack, PackageRef, StackId, Stacks, Summary};

/// Paths that list a package, of those that are told: a jar may hold the same one a hundred times.
const PATHS: usize = 16;

/// Rows for [`summary`].
const SUMMARIES: &str = "SELECT stack.*, os, version, codename, distribution.name AS distribution_name
    FROM stack LEFT JOIN distribution ON distribution.id = stack.distribution";

#[async_trait]
impl Stacks for Sqlite {
    async fn put_stack(&self, stack: &MergedStack) -> Result<Summary, StoreError> {
        let mut dictionary = self.dictionary.lock().await;
        let written = self.write_stack(stack, &mut dictionary).await;
        dictionary.settle(&self.reader, written).await
    }

    async fn stacks(&self) -> Result<Vec<Summary>, StoreError> {
        sqlx::query(SUMMARIES).fetch_all(&self.reader).await?.iter().map(summary).collect()
    }

    async fn packages_of(&self, stack: StackId) -> Result<Vec<PackageRef>, StoreError> {
        let sql = "SELECT package, owner, layer FROM stack_package WHERE stack = ?";
        let rows = sqlx::query(sql).bind(stack).fetch_all(&self.reader).await?;
        rows.iter()
            .map(|row| Ok(PackageRef { package: row.try_get(0)?, owner: row.try_get(1)?, layer: count(row, "layer")? }))
            .collect()
    }

    async fn packages(&self, ids: &[i64]) -> Result<Vec<(i64, Package, Option<Distribution>)>, StoreError> {
        let sql = "SELECT package.*, os, distribution.version AS os_version, codename,
                distribution.name AS distribution_name
            FROM package LEFT JOIN distribution ON distribution.id = package.distribution
            WHERE package.id IN (SELECT value FROM json_each(?))";
        let rows = sqlx::query(sql).bind(json(&ids)?).fetch_all(&self.reader).await?;
        rows.iter()
            .map(|row| {
                let (number, package, _) = dictionary::package(row)?;
                Ok((number, package, distribution(row, "os_version")?))
            })
            .collect()
    }
}

impl Sqlite {
    async fn write_stack(
        &self,
        stack: &MergedStack,
        dictionary: &mut dictionary::Dictionary,
    ) -> Result<Summary, StoreError> {
        let mut add = Additions::default();
        let distribution =
            stack.distribution.as_ref().map(|distribution| dictionary.distribution(distribution, &mut add));
        let mut rows = Vec::with_capacity(stack.packages.len());
        for MergedPackage { package, purl, owner_purl } in &stack.packages {
            let number = dictionary.package(&package.package, distribution, purl, &mut add);
            let owner = package.owner.as_ref().zip(owner_purl.as_deref());
            let owner =
                owner.map_or(0, |(owner, purl)| dictionary.package(&owner.package, distribution, purl, &mut add));
            let evidence = dictionary.evidence(&paths(package), &mut add);
            rows.push((number, owner, package.layer, evidence));
        }
        let types = stack.packages.iter().fold(0_i64, |types, package| types | 1 << package.package.package.kind as u8);
        let layers: Vec<String> = stack.layers.iter().map(ToString::to_string).collect();

        let mut transaction = self.writer.begin().await?;
        add.write(&mut transaction).await?;
        let row = sqlx::query(
            "INSERT INTO stack (chain, layers, state, reason, distribution, types, cataloguers, packages, unidentified)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (chain) DO UPDATE SET layers = excluded.layers, state = excluded.state,
                 reason = excluded.reason, distribution = excluded.distribution, types = excluded.types,
                 cataloguers = excluded.cataloguers, packages = excluded.packages, unidentified = excluded.unidentified
             RETURNING id",
        )
        .bind(stack.chain.0.as_slice())
        .bind(layers.join("\n"))
        .bind(stack.coverage.state.as_str())
        .bind(&stack.coverage.reason)
        .bind(distribution)
        .bind(types)
        .bind(stack.cataloguers)
        .bind(integer(stack.packages.len()))
        .bind(integer(stack.unidentified))
        .fetch_one(&mut *transaction)
        .await?;
        let id: StackId = row.try_get("id")?;
        sqlx::query("DELETE FROM stack_package WHERE stack = ?").bind(id).execute(&mut *transaction).await?;
        sqlx::query(
            "INSERT OR IGNORE INTO stack_package
             SELECT ?, value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(?)",
        )
        .bind(id)
        .bind(json(&rows)?)
        .execute(&mut *transaction)
        .await?;
        let sql = format!("{SUMMARIES} WHERE stack.id = ?");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id).fetch_one(&mut *transaction).await?;
        let summary = summary(&row)?;
        transaction.commit().await?;
        Ok(summary)
    }
}

/// The paths that list a package, one a line.
fn paths(package: &StackPackage) -> String {
    let path = |path: &Vec<u8>| format!("/{}", String::from_utf8_lossy(path).replace('\n', "\u{fffd}"));
    package.evidence.iter().take(PATHS).map(path).collect::<Vec<_>>().join("\n")
}

/// A row of `stack` with its distribution.
fn summary(row: &SqliteRow) -> Result<Summary, StoreError> {
    let types: i64 = row.try_get("types")?;
    let state: &str = row.try_get("state")?;
    let state = CoverageState::ALL.into_iter().find(|known| known.as_str() == state);
    let numbers = |column: &str| -> Result<Vec<u32>, StoreError> {
        serde_json::from_str(row.try_get(column)?).map_err(|_| StoreError::Damaged("counts"))
    };
    let mut severities = [0; crate::store::RANKS.len()];
    severities.iter_mut().zip(numbers("severities")?).for_each(|(to, from)| *to = from);
    Ok(Summary {
        id: row.try_get("id")?,
        chain: digest(row, "chain")?,
        layers: lines(row, "layers")?.iter().map(|line| layer_id(line)).collect::<Result<_, _>>()?,
        coverage: Coverage::new(
            state.ok_or(StoreError::Damaged("a coverage state"))?,
            row.try_get::<String, _>("reason")?,
        ),
        distribution: distribution(row, "version")?,
        types: PackageType::ALL.into_iter().filter(|kind| types & (1 << *kind as u8) != 0).collect(),
        cataloguers: count(row, "cataloguers")?,
        packages: count(row, "packages")?,
        unidentified: count(row, "unidentified")?,
        counts: Counts { severities, by_layer: numbers("by_layer")?, withheld: count(row, "withheld")? },
    })
}

/// The distribution in a row, if it has one.
fn distribution(row: &SqliteRow, version: &str) -> Result<Option<Distribution>, StoreError> {
    let Some(id) = row.try_get::<Option<String>, _>("os")? else { return Ok(None) };
    Ok(Some(Distribution {
        id,
        version_id: row.try_get(version)?,
        codename: row.try_get("codename")?,
        name: row.try_get("distribution_name")?,
        id_like: Vec::new(),
    }))
}

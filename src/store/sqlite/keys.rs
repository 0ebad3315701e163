//! Keys of rows that many others refer to and that are stored once: distributions, packages, and the paths that list them.
//!
//! Images choose these texts, so a key must be a collision-resistant digest.

use outcrop_proto::{Digest, Distribution, Package, PackageType, SourcePackage};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::Failure;

/// Half a SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key(pub(super) [u8; 16]);

impl Key {
    /// The key of a list of texts.
    fn of(parts: &[&str]) -> Self {
        let mut text = Vec::new();
        for part in parts {
            text.extend_from_slice(&part.len().to_le_bytes());
            text.extend_from_slice(part.as_bytes());
        }
        let [half @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = Digest::of(&text).0;
        Self(half)
    }
}

/// Hexadecimal, for `unhex`.
impl serde::Serialize for Key {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&outcrop_proto::hex(&self.0))
    }
}

/// A value that may be missing, apart from every value that is not.
fn optional(text: Option<&str>) -> String {
    text.map_or_else(String::new, |text| format!("={text}"))
}

pub(super) fn distribution_key(distribution: &Distribution) -> Key {
    let Distribution { id, version_id, codename, name, .. } = distribution;
    Key::of(&[id, version_id, codename, name])
}

/// The key of a package whose package URL is `purl`; of an operating system's package also by its distribution.
pub(super) fn package_key(package: &Package, distribution: Option<&Distribution>, purl: &str) -> Key {
    let (source, source_version) = package.source.as_ref().map(|source| (&*source.name, &*source.version)).unzip();
    let distribution = distribution.filter(|_| package.kind.is_os());
    let distribution = distribution.map(|of| [&*of.id, &*of.version_id, &*of.codename, &*of.name]);
    Key::of(&[
        package.kind.as_str(),
        &package.name,
        &package.version,
        &optional(package.arch.as_deref()),
        &optional(source),
        &optional(source_version),
        &optional(package.vendor.as_deref()),
        &optional(package.module.as_deref()),
        distribution.map_or("", |[id, ..]| id),
        distribution.map_or("", |[_, version, ..]| version),
        distribution.map_or("", |[_, _, codename, _]| codename),
        distribution.map_or("", |[.., name]| name),
        purl,
    ])
}

pub(super) fn evidence_key(paths: &str) -> Key {
    Key::of(&[paths])
}

/// A package's columns, in the order of [`INSERT_PACKAGES`].
pub(super) type PackageColumns<'a> = (
    Key,
    &'static str,
    &'a str,
    &'a str,
    &'a str,
    Option<&'a str>,
    Option<&'a str>,
    Option<&'a str>,
    Option<&'a str>,
    Option<&'a str>,
    bool,
    &'a str,
);

/// Stores the packages ?1 of the distribution ?2 that are not there yet.
pub(super) const INSERT_PACKAGES: &str = "INSERT INTO package
        (key, type, name, short, version, arch, source, source_version, vendor, module, distribution, purl)
    SELECT unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
        value ->> 8, value ->> 9, iif(value ->> 10, ?2, NULL), value ->> 11
    FROM json_each(?1) WHERE unhex(value ->> 0) NOT IN (SELECT key FROM package)
    ON CONFLICT (key) DO NOTHING";

pub(super) fn package_columns<'a>(key: Key, package: &'a Package, purl: &'a str) -> PackageColumns<'a> {
    let (source, source_version) = package.source.as_ref().map(|source| (&*source.name, &*source.version)).unzip();
    (
        key,
        package.kind.as_str(),
        &package.name,
        package.name.rsplit([':', '/']).next().unwrap_or_default(),
        &package.version,
        package.arch.as_deref(),
        source,
        source_version,
        package.vendor.as_deref(),
        package.module.as_deref(),
        package.kind.is_os(),
        purl,
    )
}

/// Returns the row id and the package of a row of `package`.
pub(super) fn package(row: &SqliteRow) -> Result<(i64, Package), Failure> {
    let kind = PackageType::from_name(row.try_get("type")?).ok_or(Failure::Damaged("a package's type"))?;
    let name: String = row.try_get("name")?;
    let version: String = row.try_get("version")?;
    let mut package = Package::new(kind, name, version);
    package.arch = row.try_get("arch")?;
    let source: Option<String> = row.try_get("source")?;
    let source_version: Option<String> = row.try_get("source_version")?;
    package.source = source.zip(source_version).map(|(name, version)| SourcePackage { name, version });
    package.vendor = row.try_get("vendor")?;
    package.module = row.try_get("module")?;
    Ok((row.try_get("id")?, package))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_every_column_apart() {
        let plain = Package::new(PackageType::Deb, "a", "1");
        let other = |change: &dyn Fn(&mut Package)| {
            let mut package = plain.clone();
            change(&mut package);
            package
        };
        let packages = [
            plain.clone(),
            other(&|of| of.kind = PackageType::Rpm),
            other(&|of| of.name = "b".to_owned()),
            other(&|of| of.version = "2".to_owned()),
            other(&|of| of.arch = Some(String::new())),
            other(&|of| of.source = Some(SourcePackage { name: String::new(), version: String::new() })),
            other(&|of| of.vendor = Some(String::new())),
            other(&|of| of.module = Some(String::new())),
        ];
        let debian = Distribution { id: "debian".to_owned(), ..Distribution::default() };
        let mut keys: Vec<Key> = packages.iter().map(|package| package_key(package, None, "purl")).collect();
        keys.push(package_key(&plain, Some(&debian), "purl"));
        keys.push(package_key(&plain, None, "other purl"));
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[..index].contains(key), "{index}");
        }
        let npm = Package::new(PackageType::Npm, "a", "1");
        assert_eq!(package_key(&npm, None, ""), package_key(&npm, Some(&debian), ""), "of no distribution");
    }
}

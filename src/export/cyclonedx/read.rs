//! Reads the packages of a CycloneDX SBOM from the package URLs of its components.

use std::str::FromStr as _;

use outcrop_proto::{Distribution, Package, PackageType, SourcePackage};
use packageurl::PackageUrl;
use serde::Deserialize;

/// Maximum number of components, at any depth.
const MAX_COMPONENTS: usize = 2_000_000;

#[derive(Deserialize)]
struct Document {
    #[serde(rename = "bomFormat")]
    bom_format: String,
    #[serde(default)]
    components: Vec<Component>,
}

#[derive(Deserialize)]
struct Component {
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    purl: Option<String>,
    #[serde(default)]
    components: Vec<Self>,
}

/// The contents of an SBOM.
#[derive(Debug, Default)]
pub struct Listed {
    /// The operating system component, or else the distribution in the package URLs.
    pub distribution: Option<Distribution>,
    /// Packages that can be matched, without duplicates, each with its package URL.
    pub packages: Vec<(Package, String)>,
    /// Number of components with a package URL that cannot be matched.
    pub left_out: usize,
}

/// Reasons for which an SBOM cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The bytes are not JSON of the expected shape.
    #[error("not a CycloneDX JSON SBOM ({0}); create one with syft -o cyclonedx-json")]
    Malformed(#[from] serde_json::Error),
    /// The JSON is of another format.
    #[error("unsupported SBOM format {0:?}: expected CycloneDX JSON")]
    Format(String),
    /// The SBOM has more components than the limit.
    #[error("the SBOM has more components than the limit of {MAX_COMPONENTS}")]
    TooMany,
}

/// Reads an SBOM.
///
/// # Errors
/// If `bytes` are not a CycloneDX SBOM in JSON.
pub fn read(bytes: &[u8]) -> Result<Listed, ReadError> {
    let document: Document = serde_json::from_slice(bytes)?;
    if document.bom_format != "CycloneDX" {
        return Err(ReadError::Format(document.bom_format));
    }
    let mut listed = Listed::default();
    let mut pending = document.components;
    let mut seen = 0_usize;
    while let Some(component) = pending.pop() {
        seen += 1;
        if seen > MAX_COMPONENTS {
            return Err(ReadError::TooMany);
        }
        if component.r#type == "operating-system" {
            listed.distribution.get_or_insert_with(|| Distribution {
                id: component.name.to_lowercase(),
                version_id: component.version.clone().unwrap_or_default(),
                name: format!("{} {}", component.name, component.version.as_deref().unwrap_or_default()),
                ..Distribution::default()
            });
        }
        if let Some(text) = &component.purl {
            match package(text) {
                Some((package, distribution)) => {
                    listed.distribution = listed.distribution.take().or(distribution);
                    listed.packages.push((package, text.clone()));
                }
                None => listed.left_out += 1,
            }
        }
        pending.extend(component.components);
    }
    listed.packages.sort();
    listed.packages.dedup_by(|a, b| a.0 == b.0);
    Ok(listed)
}

/// Returns the package that a package URL identifies, and its distribution. `None` if its type is not supported.
fn package(text: &str) -> Option<(Package, Option<Distribution>)> {
    let url = PackageUrl::from_str(text).ok()?;
    let kind = PackageType::from_name(url.ty())?;
    let qualifier = |name: &str| url.qualifiers().get(name).map(|value| value.to_string());
    let ecosystem = kind.ecosystem();
    let name = ecosystem.join_name(url.namespace(), url.name());
    let version = url.version()?.to_owned();
    let version = match qualifier("epoch").filter(|_| ecosystem.has_epoch) {
        Some(epoch) => format!("{epoch}:{version}"),
        None => version,
    };
    let mut package = Package { arch: qualifier("arch"), ..Package::new(kind, name, version) };
    if ecosystem.by_source_package {
        // Syft and Trivy name the source package as `upstream`: `name` or `name@version`.
        let upstream = qualifier("upstream").unwrap_or_else(|| package.name.clone());
        let (name, version) = match upstream.split_once('@') {
            Some((name, version)) => (name.to_owned(), version.to_owned()),
            None => (upstream, package.version.clone()),
        };
        package.source = Some(SourcePackage { name, version });
    }
    let distribution = qualifier("distro").filter(|_| ecosystem.is_os()).and_then(|distro| {
        let (id, version) = distro.rsplit_once('-')?;
        Some(Distribution {
            id: id.to_owned(),
            version_id: version.to_owned(),
            name: distro.clone(),
            ..Distribution::default()
        })
    });
    Some((package, distribution))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_urls_name_packages_sources_and_distributions() {
        let (package, distribution) =
            package("pkg:deb/debian/libssl3@3.0.11-1~deb12u2?arch=amd64&distro=debian-12&upstream=openssl").unwrap();
        assert_eq!((package.name.as_str(), package.version.as_str()), ("libssl3", "3.0.11-1~deb12u2"));
        assert_eq!(package.source.unwrap().name, "openssl");
        assert_eq!(distribution.unwrap().version_id, "12");
        let name = |text: &str| super::package(text).unwrap().0.name;
        assert_eq!(name("pkg:maven/org.apache/log4j@2"), "org.apache:log4j");
        assert_eq!(name("pkg:npm/%40scope/name@1"), "@scope/name");
        assert!(super::package("pkg:cargo/serde@1").is_none());
    }
}

//! Reads the packages of a CycloneDX SBOM from the package URLs of its components.

use std::fmt;
use std::str::FromStr as _;

use outcrop_proto::ecosystem::PurlName;
use outcrop_proto::{Distribution, Package, PackageType, SourcePackage};
use packageurl::PackageUrl;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Maximum number of components, at any depth. Most of them are files.
const MAX_COMPONENTS: usize = 2_000_000;

/// Maximum number of packages. Each takes many times the memory of its text.
const MAX_PACKAGES: usize = 500_000;

/// The contents of an SBOM.
#[derive(Debug, Default)]
pub struct Listed {
    /// The operating system component, or else the distribution in the package URLs.
    pub distribution: Option<Distribution>,
    /// Packages that can be matched, without duplicates, each with its package URL.
    pub packages: Vec<(Package, String)>,
    /// Number of components that cannot be matched: libraries without a package URL, and package URLs of another type or without a version.
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
    /// The SBOM has more components, or more packages, than the limit.
    #[error("the SBOM has more {what} than the limit of {limit}")]
    TooMany {
        /// `components` or `packages`.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}

/// Reads an SBOM.
///
/// # Errors
/// If `bytes` are not a CycloneDX SBOM in JSON.
pub fn read(bytes: &[u8]) -> Result<Listed, ReadError> {
    let mut found = Found::default();
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    let parsed = Document(&mut found).deserialize(&mut parser).and_then(|()| parser.end());
    if let Some((what, limit)) = found.exceeded {
        return Err(ReadError::TooMany { what, limit });
    }
    parsed?;
    if found.format != "CycloneDX" {
        return Err(ReadError::Format(found.format));
    }
    let mut packages = found.packages;
    packages.sort();
    packages.dedup_by(|a, b| a.0 == b.0);
    Ok(Listed { distribution: found.system.or(found.distribution), packages, left_out: found.left_out })
}

/// What was found in the document so far. Components are not kept: millions of empty ones are a few megabytes of text.
#[derive(Default)]
struct Found {
    format: String,
    components: usize,
    /// The limit that was exceeded, if so, with what it counts.
    exceeded: Option<(&'static str, usize)>,
    /// The operating system component.
    system: Option<Distribution>,
    /// The distribution of a package URL.
    distribution: Option<Distribution>,
    packages: Vec<(Package, String)>,
    left_out: usize,
}

impl Found {
    /// Adds a component whose fields are complete.
    fn add(&mut self, component: Component) -> Result<(), &'static str> {
        if component.r#type == "operating-system" {
            self.system.get_or_insert_with(|| component.system());
        }
        match component.package() {
            Some((package, distribution)) => {
                if self.packages.len() == MAX_PACKAGES {
                    self.exceeded = Some(("packages", MAX_PACKAGES));
                    return Err("too many packages");
                }
                self.distribution = self.distribution.take().or(distribution);
                self.packages.push((package, component.purl.unwrap_or_default()));
            }
            None => {
                let is_library = matches!(component.r#type.as_str(), "library" | "framework");
                // The image itself is no package of it.
                let is_image = component.r#type == "container";
                self.left_out += usize::from(!is_image && (component.purl.is_some() || is_library));
            }
        }
        Ok(())
    }
}

/// The fields of a component without the components in it.
#[derive(Default)]
struct Component {
    r#type: String,
    group: String,
    name: String,
    version: String,
    purl: Option<String>,
}

impl Component {
    fn system(&self) -> Distribution {
        Distribution {
            id: self.name.to_lowercase(),
            version_id: self.version.clone(),
            name: format!("{} {}", self.name, self.version),
            ..Distribution::default()
        }
    }

    /// Returns its package, and the distribution in its package URL. `None` if it has no package URL that can be matched.
    fn package(&self) -> Option<(Package, Option<Distribution>)> {
        let (mut package, distribution) = package(self.purl.as_ref()?, &self.version)?;
        // The specification has the names of npm and Go in lower case, but their packages are not. Their own names still are as they were.
        let ecosystem = package.kind.ecosystem();
        if matches!(ecosystem.purl_name, PurlName::Path) {
            let own = [self.name.clone(), ecosystem.join_name(Some(&self.group), &self.name)];
            if let Some(own) = own.into_iter().find(|own| own.to_lowercase() == package.name.to_lowercase()) {
                package.name = own;
            }
        }
        Some((package, distribution))
    }
}

/// Reads a document into what was found.
struct Document<'a>(&'a mut Found);

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum DocumentField {
    BomFormat,
    Components,
    #[serde(other)]
    Other,
}

impl<'de> DeserializeSeed<'de> for Document<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Document<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a document")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut format = None;
        while let Some(field) = map.next_key()? {
            match field {
                DocumentField::BomFormat => format = Some(map.next_value()?),
                DocumentField::Components => map.next_value_seed(Components(&mut *self.0))?,
                DocumentField::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        self.0.format = format.ok_or_else(|| A::Error::missing_field("bomFormat"))?;
        Ok(())
    }
}

/// Reads a list of components, one by one.
struct Components<'a>(&'a mut Found);

impl<'de> DeserializeSeed<'de> for Components<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Components<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of components")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(OneComponent(&mut *self.0))?.is_some() {}
        Ok(())
    }
}

/// Reads a component and those in it.
struct OneComponent<'a>(&'a mut Found);

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum ComponentField {
    Type,
    Group,
    Name,
    Version,
    Purl,
    Components,
    #[serde(other)]
    Other,
}

impl<'de> DeserializeSeed<'de> for OneComponent<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OneComponent<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a component")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.0.components += 1;
        if self.0.components > MAX_COMPONENTS {
            self.0.exceeded = Some(("components", MAX_COMPONENTS));
            return Err(A::Error::custom("too many components"));
        }
        let mut component = Component::default();
        while let Some(field) = map.next_key()? {
            let text = match field {
                ComponentField::Type => &mut component.r#type,
                ComponentField::Group => &mut component.group,
                ComponentField::Name => &mut component.name,
                ComponentField::Version => &mut component.version,
                ComponentField::Purl => {
                    component.purl = map.next_value()?;
                    continue;
                }
                ComponentField::Components => {
                    map.next_value_seed(Components(&mut *self.0))?;
                    continue;
                }
                ComponentField::Other => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *text = map.next_value::<Option<String>>()?.unwrap_or_default();
        }
        self.0.add(component).map_err(A::Error::custom)
    }
}

/// Returns the package that a package URL identifies, and its distribution. A package URL without a version has `version`. `None` if its type
/// is not supported, or there is no version.
fn package(text: &str, version: &str) -> Option<(Package, Option<Distribution>)> {
    let url = PackageUrl::from_str(text).ok()?;
    let kind = PackageType::from_name(url.ty())?;
    let qualifier = |name: &str| url.qualifiers().get(name).map(|value| value.to_string());
    let ecosystem = kind.ecosystem();
    let as_written = if matches!(ecosystem.purl_name, PurlName::Path) { untyped(text) } else { None };
    let named = as_written.as_ref().unwrap_or(&url);
    let name = ecosystem.join_name(named.namespace(), named.name());
    let version = url.version().or(Some(version)).filter(|version| !version.is_empty())?.to_owned();
    let version = match qualifier("epoch").filter(|_| ecosystem.has_epoch && !version.contains(':')) {
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

/// Parses a package URL as one of an unknown type, whose names are not put into lower case.
fn untyped(text: &str) -> Option<PackageUrl<'static>> {
    let (_, rest) = text.strip_prefix("pkg:")?.trim_start_matches('/').split_once('/')?;
    PackageUrl::from_str(&format!("pkg:x/{rest}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an SBOM with these components.
    fn listed(components: &str) -> Result<Listed, ReadError> {
        read(format!(r#"{{"components":[{components}],"bomFormat":"CycloneDX"}}"#).as_bytes())
    }

    #[test]
    fn names_of_npm_and_go_keep_their_case() {
        let name = |component: &str| listed(component).unwrap().packages[0].0.name.clone();
        assert_eq!(name(r#"{"purl":"pkg:npm/JSONStream@1.0.0"}"#), "JSONStream");
        assert_eq!(name(r#"{"name":"JSONStream","purl":"pkg:npm/jsonstream@1.0.0"}"#), "JSONStream");
        assert_eq!(name(r#"{"name":"other","purl":"pkg:npm/jsonstream@1.0.0"}"#), "jsonstream");
        assert_eq!(name(r#"{"purl":"pkg:npm/%40Scope/Name@1.0.0"}"#), "@Scope/Name");
        assert_eq!(name(r#"{"group":"@Scope","name":"Name","purl":"pkg:npm/%40scope/name@1.0.0"}"#), "@Scope/Name");
        let module = "github.com/Azure/go-autorest/autorest";
        assert_eq!(name(&format!(r#"{{"purl":"pkg:golang/{module}@v0.11.0"}}"#)), module);
        let purl = format!("pkg:golang/{}@v0.11.0", module.to_lowercase());
        assert_eq!(name(&format!(r#"{{"name":"{module}","purl":"{purl}"}}"#)), module);
    }

    #[test]
    fn a_version_beside_the_package_url_counts() {
        let found = listed(r#"{"purl":"pkg:npm/lodash","version":"4.17.20"}"#).unwrap();
        assert_eq!((found.packages[0].0.version.as_str(), found.left_out), ("4.17.20", 0));
        let found = listed(r#"{"purl":"pkg:npm/lodash@1.0.0","version":"4.17.20"}"#).unwrap();
        assert_eq!(found.packages[0].0.version, "1.0.0");
        assert_eq!(listed(r#"{"purl":"pkg:npm/lodash","version":null}"#).unwrap().left_out, 1);
    }

    #[test]
    fn libraries_that_cannot_be_matched_are_counted() {
        let found = listed(
            r#"{"type":"library","group":"org.apache","name":"log4j","version":"2.14"},
               {"type":"framework","name":"spring"},{"type":"file","name":"a"},{"type":"library","purl":""},
               {"type":"application","name":"app","components":[{"type":"library","name":"deep"}]}"#,
        );
        assert_eq!(found.unwrap().left_out, 4);
    }

    #[test]
    fn components_are_counted_and_dropped_while_they_are_read() {
        let many = |count: usize| vec!["{}"; count].join(",");
        let error = listed(&many(MAX_COMPONENTS + 1)).unwrap_err();
        assert!(matches!(error, ReadError::TooMany { what: "components", limit: MAX_COMPONENTS }), "{error}");
        // The limit is found before the rest of the document is read.
        let cut = format!(r#"{{"components":[{},"#, many(MAX_COMPONENTS + 1));
        assert!(matches!(read(cut.as_bytes()).unwrap_err(), ReadError::TooMany { .. }));
        let mut found = Found::default();
        let nested = r#"{"components":[{"components":[{"purl":"pkg:npm/a@1"}]},{},{}]}"#;
        Document(&mut found).deserialize(&mut serde_json::Deserializer::from_str(nested)).unwrap_err();
        assert_eq!((found.components, found.packages.len()), (4, 1));
    }

    #[test]
    fn package_urls_name_packages_sources_and_distributions() {
        let (package, distribution) =
            package("pkg:deb/debian/libssl3@3.0.11-1~deb12u2?arch=amd64&distro=debian-12&upstream=openssl", "")
                .unwrap();
        assert_eq!((package.name.as_str(), package.version.as_str()), ("libssl3", "3.0.11-1~deb12u2"));
        assert_eq!(package.source.unwrap().name, "openssl");
        assert_eq!(distribution.unwrap().version_id, "12");
        let name = |text: &str| super::package(text, "").unwrap().0.name;
        assert_eq!(name("pkg:maven/org.apache/log4j@2"), "org.apache:log4j");
        assert_eq!(name("pkg:npm/%40scope/name@1"), "@scope/name");
        assert!(super::package("pkg:cargo/serde@1", "").is_none());
    }
}

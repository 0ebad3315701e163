//! The table of ecosystems: one row for each type of package.
//!
//! Whatever depends on the type of a package reads it here: package URLs, SBOMs, matching, `who-has`, the documentation. A new ecosystem
//! is one variant of [`PackageType`], one row, one cataloger, and a [`VersionOrder`] where no existing one fits. A new distribution
//! is one row of [`DISTRIBUTIONS`].

use std::borrow::Cow;

use crate::fact::Distribution;
use crate::package::{Package, PackageType};

/// The version order of an ecosystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VersionOrder {
    /// [deb-version(7)](https://manpages.debian.org/deb-version.7).
    Dpkg,
    /// apk-tools.
    Apk,
    /// rpm's `rpmvercmp`, with epochs.
    Rpm,
    /// [PEP 440](https://peps.python.org/pep-0440/).
    Pep440,
    /// [Semantic Versioning 2.0.0](https://semver.org).
    Semver,
    /// [Maven's `ComparableVersion`](https://maven.apache.org/pom.html#version-order-specification).
    Maven,
}

/// The grammar in which an ecosystem writes ranges of versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeGrammar {
    /// [Ranges of node-semver](https://github.com/npm/node-semver#ranges).
    Npm,
    /// [Version requirements of Cargo](https://doc.rust-lang.org/cargo/reference/specifying-dependencies.html).
    Cargo,
    /// [Version queries of Go](https://go.dev/ref/mod#version-queries).
    Go,
    /// [Version specifiers of PEP 440](https://peps.python.org/pep-0440/#version-specifiers).
    Pep440,
    /// [Version ranges of Maven](https://maven.apache.org/enforcer/enforcer-rules/versionRanges.html).
    Maven,
    /// [Requirements of RubyGems](https://guides.rubygems.org/patterns/#pessimistic-version-constraint).
    Gem,
    /// [Relationships of Debian packages](https://www.debian.org/doc/debian-policy/ch-relationships.html).
    Dpkg,
    /// [Constraints of apk](https://man.archlinux.org/man/apk-world.5).
    Apk,
    /// [Dependencies of rpm](https://rpm-software-management.github.io/rpm/manual/dependencies.html).
    Rpm,
}

/// The installer of an ecosystem's packages, which determines the source of their advisories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The package manager of a distribution. Advisories are those of the distribution (see [`DISTRIBUTIONS`]).
    OperatingSystem {
        /// When an installed package of this ecosystem owns the application packages in its files.
        owner: OwnerRule,
    },
    /// An application's package manager.
    Application {
        /// OSV's name of the ecosystem.
        osv: &'static str,
    },
}

/// When the claim of an operating-system package on a file counts: the application package read from the file is then matched
/// against the distribution's advisories and not against the language's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerRule {
    /// The distribution's advisories name the source package of the owner. Packages of third parties are not named there.
    NamedByAdvisories,
    /// The owner's vendor is the distribution.
    Vendor,
}

/// The relation between the name of a package and the namespace and name of its package URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PurlName {
    /// The namespace is the distribution's ID; the version's epoch and the architecture are qualifiers.
    Distribution,
    /// No namespace; the name is in lower case, with `-` for `_`.
    Lowercase,
    /// `group:artifact`: the group is the namespace.
    Group,
    /// `namespace/name`, where the namespace may be missing or hold several parts.
    Path,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Ecosystem {
    /// The [purl type](https://github.com/package-url/purl-spec).
    pub purl_type: &'static str,
    /// Name in documentation.
    pub display_name: &'static str,
    /// The installer of its packages.
    pub origin: Origin,
    /// The order of versions.
    pub version_order: VersionOrder,
    /// The grammar of ranges of versions.
    pub range_grammar: RangeGrammar,
    /// The shape of its package URLs.
    pub purl_name: PurlName,
    /// Whether advisories name source packages.
    pub by_source_package: bool,
    /// Whether a version may begin with `epoch:`, which a package URL holds as a qualifier.
    pub has_epoch: bool,
    /// Returns the form of a name in which advisories are looked up.
    pub normalize_name: fn(&str) -> Cow<'_, str>,
    /// Returns the form of a version in which it is compared.
    pub normalize_version: fn(&str) -> &str,
    /// The files from which packages are read, for the documentation.
    pub evidence: &'static str,
}

impl PackageType {
    /// Returns the row of this type. No other code matches on package types.
    pub const fn ecosystem(self) -> &'static Ecosystem {
        match self {
            Self::Deb => &Ecosystem {
                purl_type: "deb",
                display_name: "dpkg",
                origin: Origin::OperatingSystem { owner: OwnerRule::NamedByAdvisories },
                version_order: VersionOrder::Dpkg,
                range_grammar: RangeGrammar::Dpkg,
                purl_name: PurlName::Distribution,
                by_source_package: true,
                has_epoch: false,
                normalize_name: unchanged_name,
                normalize_version: unchanged_version,
                evidence: "dpkg `status`, `status.d`",
            },
            Self::Apk => &Ecosystem {
                purl_type: "apk",
                display_name: "apk",
                origin: Origin::OperatingSystem { owner: OwnerRule::NamedByAdvisories },
                version_order: VersionOrder::Apk,
                range_grammar: RangeGrammar::Apk,
                purl_name: PurlName::Distribution,
                by_source_package: true,
                has_epoch: false,
                normalize_name: unchanged_name,
                normalize_version: unchanged_version,
                evidence: "apk `installed`",
            },
            Self::Rpm => &Ecosystem {
                purl_type: "rpm",
                display_name: "RPM",
                origin: Origin::OperatingSystem { owner: OwnerRule::Vendor },
                version_order: VersionOrder::Rpm,
                range_grammar: RangeGrammar::Rpm,
                purl_name: PurlName::Distribution,
                by_source_package: false,
                has_epoch: true,
                normalize_name: unchanged_name,
                normalize_version: unchanged_version,
                evidence: "rpm's SQLite database; its older formats make the container `partial`",
            },
            Self::Pypi => &Ecosystem {
                purl_type: "pypi",
                display_name: "Python",
                origin: Origin::Application { osv: "PyPI" },
                version_order: VersionOrder::Pep440,
                range_grammar: RangeGrammar::Pep440,
                purl_name: PurlName::Lowercase,
                by_source_package: false,
                has_epoch: false,
                normalize_name: pep503,
                normalize_version: unchanged_version,
                evidence: "`dist-info`, `egg-info`",
            },
            Self::Npm => &Ecosystem {
                purl_type: "npm",
                display_name: "npm",
                origin: Origin::Application { osv: "npm" },
                version_order: VersionOrder::Semver,
                range_grammar: RangeGrammar::Npm,
                purl_name: PurlName::Path,
                by_source_package: false,
                has_epoch: false,
                normalize_name: unchanged_name,
                normalize_version: unchanged_version,
                evidence: "installed `package.json` with name and version",
            },
            Self::Maven => &Ecosystem {
                purl_type: "maven",
                display_name: "Java",
                origin: Origin::Application { osv: "Maven" },
                version_order: VersionOrder::Maven,
                range_grammar: RangeGrammar::Maven,
                purl_name: PurlName::Group,
                by_source_package: false,
                has_epoch: false,
                normalize_name: unchanged_name,
                normalize_version: unchanged_version,
                evidence: "jar, war, ear, nested and shaded, by `pom.properties`, manifest and name",
            },
            Self::Golang => &Ecosystem {
                purl_type: "golang",
                display_name: "Go",
                origin: Origin::Application { osv: "Go" },
                version_order: VersionOrder::Semver,
                range_grammar: RangeGrammar::Go,
                purl_name: PurlName::Path,
                by_source_package: false,
                has_epoch: false,
                normalize_name: unchanged_name,
                normalize_version: go_version,
                evidence: "build information in executables",
            },
        }
    }
}

fn unchanged_name(name: &str) -> Cow<'_, str> {
    Cow::Borrowed(name)
}

fn unchanged_version(version: &str) -> &str {
    version
}

/// [PEP 503](https://peps.python.org/pep-0503/#normalized-names): lower case; a run of `-`, `_` and `.` is one `-`.
fn pep503(name: &str) -> Cow<'_, str> {
    let mut out = String::with_capacity(name.len());
    for character in name.chars() {
        match character {
            '-' | '_' | '.' if out.ends_with('-') => {}
            '-' | '_' | '.' => out.push('-'),
            other => out.extend(other.to_lowercase()),
        }
    }
    Cow::Owned(out)
}

/// Go's advisories write versions without `v`, and never with `+incompatible`.
fn go_version(version: &str) -> &str {
    let version = version.strip_prefix('v').unwrap_or(version);
    version.strip_suffix("+incompatible").unwrap_or(version)
}

/// OSV's form of a distribution's release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// The first number of `VERSION_ID`: `Debian:12`.
    Major,
    /// The first two numbers, after a `v`: `Alpine:v3.17`.
    MajorMinor,
    /// All of `VERSION_ID`, with a suffix for long-term releases: `Ubuntu:22.04:LTS`. Extended support (Pro) is another source and
    /// not matched by default.
    WholeOrLongTerm,
}

/// A distribution whose advisories OSV has.
#[derive(Clone, Copy, Debug)]
pub struct DistributionRow {
    /// `ID` in [os-release(5)](https://www.freedesktop.org/software/systemd/man/latest/os-release.html).
    pub id: &'static str,
    /// OSV's name of the ecosystem, without the release; also its name in documentation.
    pub osv: &'static str,
    /// The type of its packages.
    pub package_type: PackageType,
    /// OSV's form of its releases.
    pub release: Release,
}

/// Every distribution whose advisories are matched.
pub const DISTRIBUTIONS: &[DistributionRow] = &[
    DistributionRow { id: "debian", osv: "Debian", package_type: PackageType::Deb, release: Release::Major },
    DistributionRow { id: "ubuntu", osv: "Ubuntu", package_type: PackageType::Deb, release: Release::WholeOrLongTerm },
    DistributionRow { id: "alpine", osv: "Alpine", package_type: PackageType::Apk, release: Release::MajorMinor },
    DistributionRow { id: "almalinux", osv: "AlmaLinux", package_type: PackageType::Rpm, release: Release::Major },
    DistributionRow { id: "rocky", osv: "Rocky Linux", package_type: PackageType::Rpm, release: Release::Major },
];

impl Distribution {
    /// Returns OSV's names of the ecosystems whose advisories apply, the best first, such as `Debian:12`. Empty if the release is
    /// unknown; `None` if OSV has no advisories of the distribution.
    pub fn osv_ecosystems(&self) -> Option<Vec<String>> {
        let row = DISTRIBUTIONS.iter().find(|row| row.id == self.id)?;
        let version = self.version_id.as_str();
        let mut numbers = version.split('.');
        let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next());
        let releases = match (row.release, minor) {
            _ if version.is_empty() || major.is_empty() => Vec::new(),
            (Release::Major, _) => vec![major.to_owned()],
            (Release::MajorMinor, Some(minor)) => vec![format!("v{major}.{minor}")],
            (Release::MajorMinor, None) => Vec::new(),
            (Release::WholeOrLongTerm, _) => vec![format!("{version}:LTS"), version.to_owned()],
        };
        Some(releases.into_iter().map(|release| format!("{}:{release}", row.osv)).collect())
    }
}

/// Returns the ecosystem that OSV calls `name`, with or without a release: `Debian:12`, `npm`. `None` for one of which no packages
/// are read.
pub fn by_osv_name(name: &str) -> Option<&'static Ecosystem> {
    let name = name.split(':').next().unwrap_or_default();
    let distribution = DISTRIBUTIONS.iter().find(|row| row.osv == name).map(|row| row.package_type);
    let application = || PackageType::ALL.into_iter().find(|of| of.ecosystem().osv() == Some(name));
    distribution.or_else(application).map(PackageType::ecosystem)
}

impl Ecosystem {
    /// Returns OSV's name, for the packages of applications.
    pub const fn osv(&self) -> Option<&'static str> {
        match self.origin {
            Origin::OperatingSystem { .. } => None,
            Origin::Application { osv } => Some(osv),
        }
    }

    /// Returns whether a distribution's package manager installs its packages.
    pub const fn is_os(&self) -> bool {
        matches!(self.origin, Origin::OperatingSystem { .. })
    }

    /// Splits the name of a package into the namespace and the name of its package URL. The distribution's ID, if it is the namespace,
    /// is the caller's to add.
    pub fn split_name<'a>(&self, name: &'a str) -> (Option<&'a str>, Cow<'a, str>) {
        let split = match self.purl_name {
            PurlName::Distribution => None,
            PurlName::Lowercase => return (None, Cow::Owned(name.to_lowercase().replace('_', "-"))),
            PurlName::Group => name.split_once(':'),
            PurlName::Path => name.rsplit_once('/'),
        };
        split.map_or((None, Cow::Borrowed(name)), |(namespace, name)| (Some(namespace), Cow::Borrowed(name)))
    }

    /// Joins the namespace and the name of a package URL into the name of a package: the reverse of [`Self::split_name`].
    pub fn join_name(&self, namespace: Option<&str>, name: &str) -> String {
        match (self.purl_name, namespace.filter(|namespace| !namespace.is_empty())) {
            (PurlName::Group, Some(group)) => format!("{group}:{name}"),
            (PurlName::Path, Some(path)) => format!("{path}/{name}"),
            (PurlName::Distribution | PurlName::Lowercase, _) | (_, None) => name.to_owned(),
        }
    }
}

impl Package {
    /// Returns the name and the version under which advisories of its ecosystem list this package: those of its source package where
    /// the ecosystem's advisories name source packages.
    pub fn advisory_name(&self) -> (&str, &str) {
        let ecosystem = self.kind.ecosystem();
        let (name, version) = match &self.source {
            Some(source) if ecosystem.by_source_package => (&source.name, &source.version),
            _ => (&self.name, &self.version),
        };
        (name, (ecosystem.normalize_version)(version))
    }
}

/// Returns the table of the documentation, in Markdown: what is read, from which files, matched against which advisories.
pub fn markdown_table() -> String {
    let mut table = "| ecosystem | from | matched against OSV's |\n|---|---|---|\n".to_owned();
    for kind in PackageType::ALL {
        let ecosystem = kind.ecosystem();
        let distributions: Vec<&str> =
            DISTRIBUTIONS.iter().filter(|row| row.package_type == kind).map(|row| row.osv).collect();
        let (name, osv) = match ecosystem.osv() {
            Some(osv) => (ecosystem.display_name.to_owned(), osv.to_owned()),
            None => (distributions.join(", "), distributions.join(", ")),
        };
        table.push_str(&format!("| {name} | {} | {osv} |\n", ecosystem.evidence));
    }
    table
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_type_has_a_row_of_its_own() {
        let names: BTreeSet<&str> = PackageType::ALL.into_iter().map(PackageType::as_str).collect();
        assert_eq!(names.len(), PackageType::ALL.len());
        for kind in PackageType::ALL {
            let ecosystem = kind.ecosystem();
            assert_eq!(PackageType::from_name(ecosystem.purl_type), Some(kind));
            let distributions = DISTRIBUTIONS.iter().filter(|row| row.package_type == kind).count();
            assert_eq!(ecosystem.is_os(), distributions > 0, "{kind}: who publishes its advisories?");
        }
    }

    #[test]
    fn a_release_names_its_ecosystem() {
        let cases: [(&str, &str, Option<&[&str]>); 8] = [
            ("debian", "12", Some(&["Debian:12"])),
            ("debian", "", Some(&[])),
            ("ubuntu", "22.04", Some(&["Ubuntu:22.04:LTS", "Ubuntu:22.04"])),
            ("alpine", "3.17.2", Some(&["Alpine:v3.17"])),
            ("alpine", "3", Some(&[])),
            ("almalinux", "9.4", Some(&["AlmaLinux:9"])),
            ("rocky", "8.9", Some(&["Rocky Linux:8"])),
            ("slackware", "15.0", None),
        ];
        for (id, version, expected) in cases {
            let distribution =
                Distribution { id: id.to_owned(), version_id: version.to_owned(), ..Distribution::default() };
            let expected = expected.map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>());
            assert_eq!(distribution.osv_ecosystems(), expected, "{id} {version}");
        }
    }

    #[test]
    fn osv_names_lead_to_their_order() {
        for (name, order) in [
            ("Debian:12", Some(VersionOrder::Dpkg)),
            ("Ubuntu:22.04:LTS", Some(VersionOrder::Dpkg)),
            ("Rocky Linux:9", Some(VersionOrder::Rpm)),
            ("Go", Some(VersionOrder::Semver)),
            ("crates.io", None),
            ("", None),
        ] {
            assert_eq!(by_osv_name(name).map(|ecosystem| ecosystem.version_order), order, "{name}");
        }
    }

    #[test]
    fn names_are_split_and_joined() {
        for (kind, name, split) in [
            (PackageType::Maven, "org.apache:log4j", (Some("org.apache"), "log4j")),
            (PackageType::Npm, "@scope/name", (Some("@scope"), "name")),
            (PackageType::Golang, "github.com/google/uuid", (Some("github.com/google"), "uuid")),
            (PackageType::Deb, "libc6", (None, "libc6")),
            (PackageType::Pypi, "requests", (None, "requests")),
        ] {
            let ecosystem = kind.ecosystem();
            let (namespace, short) = ecosystem.split_name(name);
            assert_eq!((namespace, &*short), split);
            assert_eq!(ecosystem.join_name(namespace, &short), name);
        }
    }

    #[test]
    fn advisories_are_looked_up_by_normalized_names() {
        let pypi = PackageType::Pypi.ecosystem();
        for name in ["Foo.Bar", "foo__bar", "FOO-_-BAR"] {
            assert_eq!((pypi.normalize_name)(name), "foo-bar");
        }
        assert_eq!((PackageType::Npm.ecosystem().normalize_name)("Foo_Bar"), "Foo_Bar");
        let go = Package::new(PackageType::Golang, "example.com/m", "v2.0.0+incompatible");
        assert_eq!(go.advisory_name(), ("example.com/m", "2.0.0"));
        let source = Some(crate::SourcePackage { name: "openssl".to_owned(), version: "3".to_owned() });
        for (kind, expected) in [(PackageType::Deb, ("openssl", "3")), (PackageType::Rpm, ("libssl", "3.0"))] {
            let package = Package { source: source.clone(), ..Package::new(kind, "libssl", "3.0") };
            assert_eq!(package.advisory_name(), expected);
        }
    }
}

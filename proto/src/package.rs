//! A package as its own ecosystem describes it.

use std::fmt;

/// The kind of a package: the `type` of its [package URL](https://github.com/package-url/purl-spec).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PackageType {
    /// A Debian or Ubuntu package (dpkg).
    Deb = 1,
    /// An Alpine package (apk).
    Apk = 2,
    /// An RPM package.
    Rpm = 3,
    /// A Python distribution.
    Pypi = 4,
    /// A Node.js package.
    Npm = 5,
    /// A Java artifact; its name is `group:artifact`.
    Maven = 6,
    /// A Go module, by module path; the standard library is `stdlib`.
    Golang = 7,
}

impl PackageType {
    /// Every type, in order.
    pub const ALL: [Self; 7] = [Self::Deb, Self::Apk, Self::Rpm, Self::Pypi, Self::Npm, Self::Maven, Self::Golang];

    /// The purl type.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deb => "deb",
            Self::Apk => "apk",
            Self::Rpm => "rpm",
            Self::Pypi => "pypi",
            Self::Npm => "npm",
            Self::Maven => "maven",
            Self::Golang => "golang",
        }
    }

    /// The type whose purl type is `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Whether a distribution's package manager installs these, as opposed to an application's.
    pub const fn is_os(self) -> bool {
        matches!(self, Self::Deb | Self::Apk | Self::Rpm)
    }
}

impl fmt::Display for PackageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The source package that a binary package was built from; advisories of distributions name these.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourcePackage {
    /// Name of the source package.
    pub name: String,
    /// Version of the source package, in the ecosystem's own syntax (RPM: `[epoch:]version-release`).
    pub version: String,
}

/// One installed package, as one piece of evidence lists it.
///
/// Strings come from images: they are UTF-8 (invalid bytes replaced) and bounded, and nothing else is known of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Package {
    /// Ecosystem.
    pub kind: PackageType,
    /// Name as the ecosystem spells it. Maven: `group:artifact`. PyPI: as written in the metadata.
    pub name: String,
    /// Version as the ecosystem spells it. RPM: `[epoch:]version-release`.
    pub version: String,
    /// Architecture, where the ecosystem has one.
    pub arch: Option<String>,
    /// Source package, where the database names one. A deb or apk that names none is its own source: then this
    /// holds the package's own name and version.
    pub source: Option<SourcePackage>,
    /// Licenses as declared, in the order in which they are declared, not normalized.
    pub licenses: Vec<String>,
    /// Where in the evidence the package lies, for archives in archives (`BOOT-INF/lib/x.jar`, levels joined by `!/`).
    pub inner: Option<String>,
    /// RPM: the vendor; other types: none.
    pub vendor: Option<String>,
    /// RPM: the modularity label `name:stream:version:context:arch`; other types: none.
    pub module: Option<String>,
}

impl Package {
    /// A package of which nothing but type, name and version is known.
    pub fn new(kind: PackageType, name: impl Into<String>, version: impl Into<String>) -> Self {
        Self {
            kind,
            name: name.into(),
            version: version.into(),
            arch: None,
            source: None,
            licenses: Vec::new(),
            inner: None,
            vendor: None,
            module: None,
        }
    }
}

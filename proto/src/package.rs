//! A package as its ecosystem describes it.

use std::fmt;

/// The type of a package, as its [package URL](https://github.com/package-url/purl-spec) names it. Everything that depends on the
/// type is in the row that [`PackageType::ecosystem`] returns. The numbers are part of the encoding of facts.
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
    /// Every type, in the order of their numbers.
    pub const ALL: [Self; 7] = [Self::Deb, Self::Apk, Self::Rpm, Self::Pypi, Self::Npm, Self::Maven, Self::Golang];

    /// Returns the purl type.
    pub const fn as_str(self) -> &'static str {
        self.ecosystem().purl_type
    }

    /// Returns the type whose purl type is `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Returns whether a distribution's package manager installs packages of this type.
    pub const fn is_os(self) -> bool {
        self.ecosystem().is_os()
    }
}

impl fmt::Display for PackageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The source package from which a binary package was built.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourcePackage {
    /// Name of the source package.
    pub name: String,
    /// Version of the source package, in the ecosystem's own syntax (RPM: `[epoch:]version-release`).
    pub version: String,
}

/// One installed package, as one piece of evidence lists it.
///
/// All strings come from images: they are bounded and UTF-8 (invalid bytes are replaced), and otherwise arbitrary.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Package {
    /// The type.
    pub kind: PackageType,
    /// Name as the ecosystem spells it. Maven: `group:artifact`. PyPI: as written in the metadata.
    pub name: String,
    /// Version as the ecosystem spells it. RPM: `[epoch:]version-release`.
    pub version: String,
    /// Architecture, where the ecosystem has one.
    pub arch: Option<String>,
    /// Source package, where the database names one. A deb or apk without one is its own source package: this field then
    /// holds the package's own name and version.
    pub source: Option<SourcePackage>,
    /// Licenses as declared, in the order in which they are declared, not normalized.
    pub licenses: Vec<String>,
    /// Path of the package inside the evidence, for nested archives (`BOOT-INF/lib/x.jar`, levels joined by `!/`).
    pub inner: Option<String>,
    /// RPM: the vendor; other types: none.
    pub vendor: Option<String>,
    /// RPM: the modularity label `name:stream:version:context:arch`; other types: none.
    pub module: Option<String>,
}

impl Package {
    /// Creates a package of which only type, name and version are known.
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

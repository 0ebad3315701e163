//! What a cataloguer reads from one evidence.

use crate::package::Package;

/// The distribution that an `os-release` file names
/// ([os-release(5)](https://www.freedesktop.org/software/systemd/man/latest/os-release.html)).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Distribution {
    /// `ID`, lower case: `debian`, `ubuntu`, `alpine`, `almalinux`, `rocky`.
    pub id: String,
    /// `VERSION_ID`, empty for rolling and unreleased distributions.
    pub version_id: String,
    /// `VERSION_CODENAME`, or empty.
    pub codename: String,
    /// `PRETTY_NAME`, else `NAME`, else empty.
    pub name: String,
    /// `ID_LIKE`, split at spaces.
    pub id_like: Vec<String>,
}

/// The digest of a file's bytes, by the algorithm that a package database recorded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileDigest {
    /// MD5 (dpkg's `md5sums`, old RPM).
    Md5([u8; 16]),
    /// SHA-1 (apk's `Z:`, RPM).
    Sha1([u8; 20]),
    /// SHA-256 (RPM).
    Sha256([u8; 32]),
}

/// A package database's word that one of its packages installed a file.
///
/// Databases list every file; a fact keeps the claims on paths that could be evidence, since only these are asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    /// Path from the image's root, without a leading slash.
    pub path: Vec<u8>,
    /// Name of the package that claims the file, without architecture.
    pub package: String,
    /// What the database recorded of the file's bytes, if anything.
    pub digest: Option<FileDigest>,
}

/// Something that is surely a package, but does not say which: a jar without coordinates.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unidentified {
    /// Where in the evidence it lies, levels joined by `!/`; empty when it is the evidence itself.
    pub inner: String,
    /// SHA-256 of its bytes.
    pub sha256: [u8; 32],
}

/// What a cataloguer reads from **one** evidence (or a declared group of files).
///
/// Every list is sorted and free of duplicates once [`Fact::normalize`] has run, so that equal knowledge has one encoding.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fact {
    /// Packages that the evidence lists as installed.
    pub packages: Vec<Package>,
    /// The distribution that the evidence names.
    pub distribution: Option<Distribution>,
    /// Files that packages claim.
    pub claims: Vec<Claim>,
    /// Packages without identity.
    pub unidentified: Vec<Unidentified>,
    /// Parts of the evidence that could not be read, one sentence each. The rest of the fact stands.
    pub warnings: Vec<String>,
}

impl Fact {
    /// Brings every list into its one order.
    pub fn normalize(&mut self) {
        fn unique<T: Ord>(list: &mut Vec<T>) {
            list.sort_unstable();
            list.dedup();
        }
        unique(&mut self.packages);
        unique(&mut self.claims);
        unique(&mut self.unidentified);
        unique(&mut self.warnings);
    }

    /// Whether the evidence said nothing at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

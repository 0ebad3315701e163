//! The input of all writers: plain data, independent of where it was read.

use outcrop_proto::{AssessedState, Coverage, Digest, FindingStatus, Severity};
use serde::Serialize;

use super::purl::image_purl;

/// The head of a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// Display name of what it covers, for example `cluster prod, namespace shop`.
    pub name: String,
    /// UID and display name of the cluster; `None` for the report of a scan.
    pub cluster: Option<(String, String)>,
    /// SHA-256 of the advisory database; `None` if packages were not matched.
    pub database: Option<String>,
    /// When it was made, in seconds since 1970; 0 for a CycloneDX document that is the same whenever it is made.
    pub made_at: i64,
    /// Distinguishes it from all other documents: random, or a digest of everything that it depends on.
    pub seed: Vec<u8>,
}

impl Document {
    /// Returns the time as RFC 3339 in UTC, without fractions of a second.
    pub(super) fn time(&self) -> String {
        jiff::Timestamp::from_second(self.made_at).map(|time| time.to_string()).unwrap_or_default()
    }

    /// Returns its UUID of version 8 ([RFC 9562](https://www.rfc-editor.org/rfc/rfc9562#section-5.8)).
    pub(super) fn uuid(&self) -> String {
        let Digest(hash) = Digest::of(&self.seed);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash[..16]);
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let hex = outcrop_proto::hex(&bytes);
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}

/// An image, or something else that was scanned as a whole: a directory, an SBOM.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Index of the image in its document.
    pub number: usize,
    /// Whether it is a container's image.
    pub is_container: bool,
    /// Name: of the image as a pod asks for it, of a directory its path.
    pub name: String,
    /// Digest of the image in its registry, `sha256:…`, if it is known.
    pub digest: Option<String>,
    /// Identity of its stack of layers.
    pub stack: Option<String>,
    /// Its coverage; `None` if it is not known.
    pub coverage: Option<Coverage>,
    /// Name of the distribution.
    pub distribution: Option<String>,
    /// Against which sources its packages were matched.
    pub assessed: Vec<Tested>,
    /// Containers that run it; replicas once.
    pub places: Vec<Place>,
}

impl Image {
    /// Returns its package URL. Without a digest it is not unique.
    pub(super) fn purl(&self) -> String {
        image_purl(&self.name, self.digest.as_deref(), self.is_container)
    }

    /// Returns the name and, if the name does not contain it, the digest.
    pub(super) fn reference(&self) -> String {
        match &self.digest {
            Some(digest) if !self.name.contains(digest.as_str()) => format!("{}@{digest}", self.name),
            _ => self.name.clone(),
        }
    }
}

/// An ecosystem of an image, and whether its packages were matched. No finding means nothing without it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tested {
    /// OSV's name of the ecosystem, with the release of a distribution.
    pub ecosystem: String,
    /// The state.
    pub state: AssessedState,
    /// The reason; empty if the ecosystem is matched.
    pub reason: String,
}

/// A container of an image; for a workload its container, once for all replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// Kubernetes namespace.
    pub namespace: Option<String>,
    /// Workload, as `Kind/name`.
    pub workload: Option<String>,
    /// Name of the container.
    pub container: String,
}

impl Place {
    /// Returns its parts, joined by `/`.
    pub(super) fn path(&self) -> String {
        let parts = [self.namespace.as_deref(), self.workload.as_deref(), Some(self.container.as_str())];
        parts.into_iter().flatten().collect::<Vec<_>>().join("/")
    }
}

/// A package of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Package {
    /// Package URL; empty if its name is not valid in one.
    pub purl: String,
    /// Type, as in the package URL.
    pub r#type: String,
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Licenses as declared, not normalized; empty if none are known.
    pub licenses: Vec<String>,
    /// Paths that list it; the path inside an archive follows `!/`.
    pub evidence: Vec<String>,
    /// Layer that introduced it.
    pub layer: Option<String>,
}

impl Package {
    /// Returns what distinguishes it from the image's other packages: its package URL, else type, name and version.
    pub(super) fn key(&self) -> String {
        key(&self.purl, &self.r#type, &self.name, &self.version)
    }
}

/// A vulnerability of a package in an image.
#[derive(Clone, Debug)]
pub struct Finding {
    /// ID of the vulnerability.
    pub id: String,
    /// Its other IDs.
    pub aliases: Vec<String>,
    /// Package URL.
    pub purl: String,
    /// Type of the package.
    pub r#type: String,
    /// Name of the package.
    pub package: String,
    /// Installed version.
    pub installed: String,
    /// Paths that list the package.
    pub evidence: Vec<String>,
    /// The vendor's statement about a fix.
    pub status: FindingStatus,
    /// First version with the fix.
    pub fixed: Option<String>,
    /// Severity.
    pub severity: Severity,
    /// CVSS base score from which the severity follows.
    pub score: Option<f64>,
    /// One line about the vulnerability.
    pub summary: String,
    /// Layer that introduced the package.
    pub layer: Option<String>,
}

impl Finding {
    /// Returns the [key](Package::key) of its package.
    pub(super) fn package_key(&self) -> String {
        key(&self.purl, &self.r#type, &self.package, &self.installed)
    }

    /// Returns whether it is the same statement about the same package, in whatever image.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (&self.id, &self.purl, &self.package, &self.installed, self.status, &self.fixed)
            == (&other.id, &other.purl, &other.package, &other.installed, other.status, &other.fixed)
    }

    /// Returns the recommended action, as far as the advisory states one.
    pub(super) fn action(&self) -> String {
        match (self.status, &self.fixed) {
            (_, Some(fixed)) => format!("Upgrade {} to {fixed}", self.package),
            (FindingStatus::Deferred, None) => format!("The vendor plans a fix of {}, and not now", self.package),
            (FindingStatus::WillNotFix, None) => format!("The vendor will not fix {}", self.package),
            (FindingStatus::EndOfLife, None) => {
                format!("The release that {} belongs to gets no more fixes: upgrade the release", self.package)
            }
            (FindingStatus::UnderInvestigation, None) => format!("The vendor is investigating {}", self.package),
            (FindingStatus::Fixed | FindingStatus::Affected, None) => {
                format!("No fixed version of {} is known", self.package)
            }
        }
    }
}

fn key(purl: &str, r#type: &str, name: &str, version: &str) -> String {
    if purl.is_empty() { format!("{type}:{name}@{version}") } else { purl.to_owned() }
}

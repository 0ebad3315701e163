//! Filters and rows of questions over all package sets.

use std::sync::Arc;

use outcrop_proto::{FindingStatus, Severity, SeverityCounts};

use super::{PackageSetId, VerdictId};
use crate::store::FindingEvent;

/// Order of findings. Within it, they are sorted by verdict and package set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FindingsOrder {
    /// By severity, the worst first, then by vulnerability.
    #[default]
    Severity,
    /// By vulnerability, then by severity, the worst first.
    Vulnerability,
}

/// Selects findings.
#[derive(Clone, Debug)]
pub struct FindingsFilter<'a> {
    /// Package sets to look at.
    pub package_sets: &'a [PackageSetId],
    /// The mildest severity to return.
    pub at_least: Severity,
    /// The worst severity to return.
    pub at_most: Severity,
    /// A name of the vulnerability.
    pub vulnerability: Option<&'a str>,
    /// Name of the package, whole or short.
    pub package: Option<&'a str>,
    /// Status.
    pub status: Option<FindingStatus>,
    /// Order of the rows.
    pub order: FindingsOrder,
    /// Reverses the order.
    pub descending: bool,
    /// Continue behind this place: severity, vulnerability, verdict, package set.
    pub after: Option<(Severity, String, VerdictId, PackageSetId)>,
    /// Whether the place itself is returned too.
    pub inclusive: bool,
    /// Maximum number of rows.
    pub limit: usize,
}

/// A finding of a package set.
#[derive(Clone, Debug, PartialEq)]
pub struct FindingRow {
    /// The package set; 0 in an answer about verdicts.
    pub package_set: PackageSetId,
    /// The verdict.
    pub verdict: VerdictId,
    /// The severity.
    pub severity: Severity,
    /// The vulnerability.
    pub vulnerability: String,
    /// Its other names.
    pub aliases: Vec<String>,
    /// The package's purl type.
    pub r#type: String,
    /// The package's name.
    pub package: String,
    /// The package's version.
    pub version: String,
    /// The package URL.
    pub purl: String,
    /// Paths that list the package, one per line.
    pub evidence: String,
    /// Index into the stack's layers, newest first.
    pub layer: u32,
    /// The status.
    pub status: FindingStatus,
    /// The version that fixes it.
    pub fixed: Option<String>,
    /// The score.
    pub score: Option<f64>,
    /// One line about the vulnerability.
    pub summary: String,
}

impl FindingRow {
    /// Returns it as events have it.
    pub fn event(&self) -> FindingEvent {
        FindingEvent {
            package_set: self.package_set,
            vulnerability: self.vulnerability.clone(),
            aliases: self.aliases.clone(),
            severity: self.severity,
            score: self.score,
            status: self.status,
            fixed: self.fixed.clone(),
            package_type: self.r#type.clone(),
            package: self.package.clone(),
            version: self.version.clone(),
            purl: self.purl.clone(),
        }
    }
}

/// Order of packages. Packages with the same counts are sorted by name and version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PackagesOrder {
    /// By name and version.
    #[default]
    Name,
    /// By the number of containers.
    Containers,
    /// By open vulnerabilities: first by the number of the worst severity, then by that of the next one.
    Findings,
}

impl PackagesOrder {
    /// Returns the counts of a package by which it is sorted.
    pub fn counts(self, package: &PackageRow) -> Vec<u64> {
        match self {
            Self::Name => Vec::new(),
            Self::Containers => vec![package.containers],
            Self::Findings => package.severities.worst_first().to_vec(),
        }
    }
}

/// Selects packages.
#[derive(Clone, Debug)]
pub struct PackagesFilter<'a> {
    /// Package sets to look at, each with the number of containers that have it.
    pub package_sets: &'a [(PackageSetId, u64)],
    /// Purl type.
    pub r#type: Option<&'a str>,
    /// Name, whole or short.
    pub name: Option<&'a str>,
    /// Version.
    pub version: Option<&'a str>,
    /// Order of the rows.
    pub order: PackagesOrder,
    /// Reverses the order.
    pub descending: bool,
    /// Continue behind this place: counts in the order of [`PackagesOrder::counts`], name, version, row id.
    pub after: Option<(Vec<u64>, String, String, i64)>,
    /// Maximum number of rows.
    pub limit: usize,
}

/// A package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageRow {
    /// Its row id.
    pub id: i64,
    /// Its purl type.
    pub r#type: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The package URL.
    pub purl: String,
    /// Number of the selected package sets that contain it.
    pub stacks: u64,
    /// Number of containers that have one of these.
    pub containers: u64,
    /// Its open vulnerabilities, by severity.
    pub severities: SeverityCounts,
}

/// A package of a package set. A package with several owners has several rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedPackage {
    /// Its row id.
    pub id: i64,
    /// Index of the row among those of the package.
    pub place: i64,
    /// Its purl type.
    pub r#type: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The package URL.
    pub purl: String,
    /// Paths that list it, one per line.
    pub evidence: String,
    /// Index into the stack's layers, newest first.
    pub layer: u32,
}

/// A package set contains a package. Rows share their texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HasRow {
    /// The package set.
    pub package_set: PackageSetId,
    /// The package's row id.
    pub package: i64,
    /// Its purl type.
    pub r#type: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its version.
    pub version: Arc<str>,
    /// The package URL.
    pub purl: Arc<str>,
    /// Paths that list the package, one per line.
    pub evidence: Arc<str>,
    /// Index into the stack's layers, newest first.
    pub layer: u32,
}

/// A verdict, and the package sets in which it is open.
#[derive(Clone, Debug, PartialEq)]
pub struct VulnerabilityRow {
    /// The vulnerability.
    pub vulnerability: String,
    /// Its other names.
    pub aliases: Vec<String>,
    /// The severity.
    pub severity: Severity,
    /// One line about the vulnerability.
    pub summary: String,
    /// The package's name.
    pub package: String,
    /// The package's version.
    pub version: String,
    /// The package URL.
    pub purl: String,
    /// The status.
    pub status: FindingStatus,
    /// The version that fixes it.
    pub fixed: Option<String>,
    /// Package sets in which it is open.
    pub package_sets: Vec<PackageSetId>,
}

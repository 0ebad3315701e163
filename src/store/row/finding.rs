//! Rows of verdicts and findings.

use outcrop_proto::{FindingStatus, Severity, SeverityCounts};

use super::PackageSetId;

/// Row id of a verdict. The database assigns it and never assigns it again.
pub type VerdictId = i64;

/// Counts of the open findings of a package set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// By severity.
    pub severities: SeverityCounts,
    /// By the layer that introduced the package, newest first; empty where the package set is not a stack.
    pub by_layer: Vec<u32>,
    /// Findings left to the distribution; not among the others.
    pub withheld: u32,
    /// Findings that are not stored, since there are too many; not among the others.
    pub dropped: u32,
}

/// A vulnerability of a package, in whatever package set the package is.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The package.
    pub package: i64,
    /// The vulnerability.
    pub vulnerability: String,
    /// Whether the package's distribution, which owns it, does not assess the vulnerability.
    pub unassessed: bool,
    /// The severity.
    pub severity: Severity,
    /// The score that the severity comes from.
    pub score: Option<f64>,
    /// The status.
    pub status: FindingStatus,
    /// The version that fixes it.
    pub fixed: Option<String>,
    /// One line about the vulnerability.
    pub summary: String,
    /// Its other names.
    pub aliases: Vec<String>,
}

/// All findings of a package set.
#[derive(Clone, Debug)]
pub struct PackageSetFindings {
    /// The package set.
    pub package_set: PackageSetId,
    /// Its verdicts, sorted, each once.
    pub verdicts: Vec<VerdictId>,
    /// Their counts.
    pub counts: Counts,
}

/// Result of matching everything.
#[derive(Clone, Debug, PartialEq)]
pub struct RematchRow {
    /// When it began, seconds since 1970.
    pub at: i64,
    /// Duration, seconds.
    pub seconds: f64,
    /// Stacks that were matched.
    pub stacks: u64,
    /// Findings that opened.
    pub appeared: u64,
    /// Findings that closed.
    pub went: u64,
}

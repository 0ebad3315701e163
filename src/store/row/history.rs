//! Rows of runs, and counts by day.

use jiff::civil::Date;
use outcrop_proto::Severity;

use super::{PackageSetId, SubjectKey, VerdictId};

/// A subject has a package set, since or until a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    /// The subject.
    pub subject: SubjectKey,
    /// The package set.
    pub package_set: PackageSetId,
    /// Since when, or until when, seconds since 1970.
    pub at: i64,
}

/// A subject had a package set, and does not have it any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedRun {
    /// The subject's row id.
    pub number: i64,
    /// The subject.
    pub subject: SubjectKey,
    /// The package set.
    pub package_set: PackageSetId,
    /// When the last run ended, seconds since 1970.
    pub until: i64,
}

/// A subject had a finding while it had a package set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The subject.
    pub subject: SubjectKey,
    /// When it began to have the package set, seconds since 1970.
    pub since: i64,
    /// When it ended to have it; `None` while it does.
    pub until: Option<i64>,
    /// The package set.
    pub package_set: PackageSetId,
    /// A finding of the package set; `None` for a run without any of the requested findings.
    pub finding: Option<SeenFinding>,
}

/// A finding in the history of a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenFinding {
    /// The vulnerability.
    pub vulnerability: String,
    /// Type and name of the package, without its version.
    pub package: (String, String),
    /// The verdict.
    pub verdict: VerdictId,
    /// When it opened, seconds since 1970.
    pub opened: i64,
    /// When it closed.
    pub closed: Option<i64>,
}

/// The name that distinguishes the findings of a subject: the vulnerability, and type and name of the package, without its version.
pub type FindingName = (String, (String, String));

/// A finding that a subject had and does not have any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedRow {
    /// The finding.
    pub name: FindingName,
    /// The last verdict that it was open for.
    pub verdict: VerdictId,
    /// When the subject first had it, seconds since 1970.
    pub since: i64,
    /// When the subject last had it.
    pub on: i64,
}

/// Retention of [`tidy`](crate::store::History::tidy).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Runs that ended before this are removed, seconds since 1970.
    pub runs_since: i64,
    /// Packages and inventories of stacks that no container has used since this time are removed; seconds since 1970.
    pub unused_since: i64,
    /// Daily counts before this day are removed.
    pub days_since: Date,
}

/// Open findings of one day, cluster, namespace and severity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DayCount {
    /// The day, in UTC.
    pub day: Date,
    /// Kubernetes namespace; `None` for containers without a pod.
    pub namespace: Option<String>,
    /// The severity.
    pub severity: Severity,
    /// Open findings, each counted once for each container that has it.
    pub findings: u64,
}

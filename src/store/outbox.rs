//! Events for targets outside, stored until every target has received them.
//!
//! An event that follows from a store write is stored in the transaction of that write; all others by
//! [`append`](super::Outbox::append). Without a configured target no event is stored.

use outcrop_proto::{FindingStatus, Severity};
use serde::{Deserialize, Serialize};

use super::{PackageSetId, SubjectKey, WorkloadKey};

/// Version of the body of an event. It grows when a field changes its meaning or goes; new fields are optional.
pub const OUTBOX_VERSION: u32 = 1;

/// Row id of an event. It grows with every event and is never assigned again.
pub type OutboxId = i64;

/// A stored event.
#[derive(Clone, Debug, PartialEq)]
pub struct OutboxRow {
    /// Its row id.
    pub id: OutboxId,
    /// When it happened, seconds since 1970.
    pub at: i64,
    /// Key of the cluster.
    pub cluster: String,
    /// The event.
    pub event: OutboxEvent,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum OutboxEvent {
    /// Matching found a vulnerability in a package set that it did not find before.
    FindingOpened(FindingEvent),
    /// Severity, score, status, fixed version, summary or names of an open finding changed.
    FindingChanged(FindingEvent),
    /// Matching does not find a vulnerability any more.
    FindingClosed(FindingEvent),
    /// A suppression begins, ends or changes.
    SuppressionChanged {
        /// Identity of the suppression.
        suppression: String,
        /// Whether it applies now.
        active: bool,
        /// The reason that its author gave.
        reason: String,
    },
    /// A subject begins to have a package set, or has one of several no more.
    WorkloadChanged {
        /// The subject.
        subject: SubjectKey,
        /// The package set that it begins to have.
        package_set: Option<PackageSetId>,
    },
    /// A subject has no package set any more.
    WorkloadGone {
        /// The subject.
        subject: SubjectKey,
    },
    /// The packages of a package set are stored.
    InventoryReady {
        /// The package set.
        package_set: PackageSetId,
        /// The stack's identity, where it is one.
        stack: Option<String>,
        /// Number of packages.
        packages: u64,
    },
    /// The coverage of a package set or of a subject changes.
    CoverageChanged {
        /// The package set, where the change is about one.
        package_set: Option<PackageSetId>,
        /// The subject, where the change is about one.
        subject: Option<SubjectKey>,
        /// The state before.
        from: Option<String>,
        /// The state now.
        to: String,
        /// The reason now.
        reason: String,
    },
    /// A configuration issue appears.
    IssueOpened(IssueEvent),
    /// A configuration issue is gone.
    IssueClosed(IssueEvent),
    /// Another advisory database is in use.
    DatabaseChanged {
        /// Its digest.
        database: String,
    },
    /// Something is wrong with Outcrop itself.
    ProblemRaised {
        /// Key of the problem: its kind, and what of that kind has it: `store`, `certificate renewal`.
        problem: String,
        /// The message that people read.
        message: String,
    },
    /// It is not wrong any more.
    ProblemCleared {
        /// Key of the problem.
        problem: String,
    },
    /// A user changed something.
    Audit {
        /// Name of the user.
        actor: String,
        /// `distrust-node`, `trust-node` or `push-database`.
        action: String,
        /// Name of the node, or digest of the database; empty where it is not known.
        target: String,
        /// What came of it.
        #[serde(default)]
        outcome: AuditOutcome,
    },
}

/// What came of an attempt to change something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuditOutcome {
    /// It was changed.
    #[default]
    Done,
    /// The caller has no right to change it.
    Denied,
    /// The request was refused for another reason, or failed.
    Failed,
}

/// Something that begins and ends, and is told of at both times.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Condition {
    /// A configuration issue.
    Issue(IssueEvent),
    /// A problem of Outcrop itself.
    Problem {
        /// Its key.
        problem: String,
    },
}

impl Condition {
    /// Returns the event that tells that the condition has ended.
    pub fn ended(self) -> OutboxEvent {
        match self {
            Self::Issue(issue) => OutboxEvent::IssueClosed(issue),
            Self::Problem { problem } => OutboxEvent::ProblemCleared { problem },
        }
    }
}

/// A finding of a package set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FindingEvent {
    /// The package set.
    pub package_set: PackageSetId,
    /// The vulnerability.
    pub vulnerability: String,
    /// Its other names.
    pub aliases: Vec<String>,
    /// The severity.
    pub severity: Severity,
    /// The score.
    pub score: Option<f64>,
    /// The status.
    pub status: FindingStatus,
    /// The version that fixes it.
    pub fixed: Option<String>,
    /// The package's purl type.
    #[serde(rename = "type")]
    pub package_type: String,
    /// The package's name.
    pub package: String,
    /// The package's version.
    pub version: String,
    /// The package URL.
    pub purl: String,
}

/// A configuration issue of a workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IssueEvent {
    /// The workload.
    pub workload: WorkloadKey,
    /// Identity of the rule.
    pub rule: String,
    /// Path of the field in the workload.
    pub path: String,
}

impl OutboxEvent {
    /// Returns the kind, as it is stored.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::FindingOpened(_) => "finding-opened",
            Self::FindingChanged(_) => "finding-changed",
            Self::FindingClosed(_) => "finding-closed",
            Self::SuppressionChanged { .. } => "suppression-changed",
            Self::WorkloadChanged { .. } => "workload-changed",
            Self::WorkloadGone { .. } => "workload-gone",
            Self::InventoryReady { .. } => "inventory-ready",
            Self::CoverageChanged { .. } => "coverage-changed",
            Self::IssueOpened(_) => "issue-opened",
            Self::IssueClosed(_) => "issue-closed",
            Self::DatabaseChanged { .. } => "database-changed",
            Self::ProblemRaised { .. } => "problem-raised",
            Self::ProblemCleared { .. } => "problem-cleared",
            Self::Audit { .. } => "audit",
        }
    }

    /// Returns the condition that the event begins (`true`) or ends (`false`), if it does either.
    pub fn condition(&self) -> Option<(Condition, bool)> {
        let problem = |problem: &String| Condition::Problem { problem: problem.clone() };
        match self {
            Self::IssueOpened(issue) => Some((Condition::Issue(issue.clone()), true)),
            Self::IssueClosed(issue) => Some((Condition::Issue(issue.clone()), false)),
            Self::ProblemRaised { problem: key, .. } => Some((problem(key), true)),
            Self::ProblemCleared { problem: key } => Some((problem(key), false)),
            _ => None,
        }
    }

    /// Returns the package set that the event is about.
    pub const fn package_set(&self) -> Option<PackageSetId> {
        match self {
            Self::FindingOpened(finding) | Self::FindingChanged(finding) | Self::FindingClosed(finding) => {
                Some(finding.package_set)
            }
            Self::InventoryReady { package_set, .. } => Some(*package_set),
            Self::WorkloadChanged { package_set, .. } | Self::CoverageChanged { package_set, .. } => *package_set,
            _ => None,
        }
    }

    /// Returns the identity of what the event is about; `None` for an event that nothing follows, and for findings, whose identity contains
    /// a row id. A target is told the sum of several events of one item.
    pub fn item(&self) -> Option<String> {
        match self {
            Self::WorkloadChanged { subject, .. } | Self::WorkloadGone { subject } => {
                Some(format!("subject {}", serde_json::to_string(subject).ok()?))
            }
            Self::InventoryReady { package_set, .. } | Self::CoverageChanged { package_set: Some(package_set), .. } => {
                Some(format!("package-set {package_set}"))
            }
            Self::SuppressionChanged { suppression, .. } => Some(format!("suppression {suppression}")),
            Self::DatabaseChanged { .. } => Some("database".to_owned()),
            Self::IssueOpened(_) | Self::IssueClosed(_) | Self::ProblemRaised { .. } | Self::ProblemCleared { .. } => {
                Some(format!("condition {}", serde_json::to_string(&self.condition()?.0).ok()?))
            }
            Self::FindingOpened(_)
            | Self::FindingChanged(_)
            | Self::FindingClosed(_)
            | Self::CoverageChanged { package_set: None, .. }
            | Self::Audit { .. } => None,
        }
    }

    /// Returns the subject that the event is about.
    pub const fn subject(&self) -> Option<&SubjectKey> {
        match self {
            Self::WorkloadChanged { subject, .. } | Self::WorkloadGone { subject } => Some(subject),
            Self::CoverageChanged { subject, .. } => subject.as_ref(),
            _ => None,
        }
    }
}

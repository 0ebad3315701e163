//! Rows of notices: what people are told of by notification targets.

use outcrop_proto::{FindingStatus, Severity};

use super::WorkloadKey;

/// Row id of a notice. It is never assigned again.
pub type NoticeId = i64;

/// Selects the findings that people are told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoticeFilter {
    /// The mildest severity.
    pub at_least: Severity,
    /// The status.
    pub status: Option<FindingStatus>,
    /// Whether there is a fixed version.
    pub fixable: Option<bool>,
}

/// What waits for a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PendingNotices {
    /// Whether the first snapshot is complete, and the message that summarizes it is not stored yet.
    pub summary: bool,
    /// When the oldest of them was stored, seconds since 1970; `None` where none waits.
    pub oldest: Option<i64>,
    /// The last of them.
    pub last: NoticeId,
    /// Times of messages within the last hour, oldest first, seconds since 1970.
    pub sent: Vec<i64>,
}

/// Which notices a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeScope {
    /// All of them: the summary.
    All,
    /// Those that wait, up to this one.
    Pending(NoticeId),
}

/// The sums over notices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoticeTotals {
    /// Number of vulnerabilities of each severity, the most severe first.
    pub vulnerabilities: Vec<(Severity, u64)>,
    /// Number of workloads.
    pub workloads: u64,
    /// Number of problems.
    pub problems: u64,
    /// Whether some findings are left out, because the target has too many notices.
    pub is_full: bool,
}

/// A vulnerability of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoticeRow {
    /// The vulnerability.
    pub vulnerability: String,
    /// Its severity in the workload.
    pub severity: Severity,
    /// The workload; a node has the kind `Node` and no namespace.
    pub workload: WorkloadKey,
    /// The package, its version, and the version that fixes it.
    pub package: Option<(String, String, Option<String>)>,
    /// What the vulnerability is.
    pub summary: String,
}

/// A problem of Outcrop itself that was raised or cleared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProblemNotice {
    /// Its key.
    pub problem: String,
    /// The message that people read; empty where it is not known.
    pub message: String,
    /// When it was raised or cleared, seconds since 1970.
    pub at: i64,
    /// Whether it is raised.
    pub is_raised: bool,
}

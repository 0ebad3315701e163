//! States and statuses of findings, containers, layers and subjects (decisions 31 and 32).

use serde::{Deserialize, Serialize};

use crate::word::words;

words! {
    /// Whether a finding is still there.
    pub enum FindingState {
        /// Matching says that the package has the vulnerability.
        Open = "open",
        /// Matching no longer says so, or the subject no longer has the package set.
        Closed = "closed",
    }
}

words! {
    /// The vendor's statement about a fix, with the names of Trivy and Grype. The package is vulnerable in every case.
    pub enum FindingStatus {
        /// A fixed version is available.
        Fixed = "fixed",
        /// No fix is known.
        Affected = "affected",
        /// A fix is planned, and not now.
        Deferred = "deferred",
        /// The vendor will not fix it.
        WillNotFix = "will-not-fix",
        /// The vendor is still investigating.
        UnderInvestigation = "under-investigation",
        /// The release no longer gets fixes.
        EndOfLife = "end-of-life",
    }
}

words! {
    /// Whether the packages of an ecosystem could be matched. Zero findings mean nothing without it.
    pub enum AssessedState {
        /// Matched against a current source.
        Matched = "matched",
        /// Matched against a source that is old: later advisories are missing.
        Stale = "stale",
        /// Not matched.
        Unmatched = "unmatched",
    }
}

words! {
    /// How far the reading of a layer has come. Every layer has exactly one state.
    pub enum LayerState {
        /// Its inventory is in the store.
        Known = "known",
        /// A node reads it.
        Leased = "leased",
        /// No node reads it yet.
        Waiting = "waiting",
        /// No node could read it.
        Failed = "failed",
    }
}

words! {
    /// Whether the aggregator learns what runs on a node. Every node has exactly one state.
    pub enum NodeState {
        /// The stream of its agent is open.
        Attached = "attached",
        /// The stream of its agent is open, and the agent reports that it cannot do a part of its work.
        Degraded = "degraded",
        /// The stream of its agent has ended.
        Silent = "silent",
        /// The API server knows the node, and no agent has attached from it.
        WithoutAgent = "without-agent",
    }
}

words! {
    /// The kind of a subject.
    pub enum SubjectKind {
        /// A container of a Kubernetes workload, whichever pod, node and image runs it.
        WorkloadContainer = "workload-container",
        /// A container of which no workload is known.
        Container = "container",
        /// A node, with the packages of its own root filesystem.
        Node = "node",
    }
}

words! {
    /// How completely a container was read. Every container has exactly one state.
    pub enum CoverageState {
        /// All evidence was read.
        Scanned = "scanned",
        /// Some evidence could not be read or decided.
        Partial = "partial",
        /// Not read yet.
        Pending = "pending",
        /// Its storage is of a kind that is not read.
        Unsupported = "unsupported",
        /// It exceeds a limit.
        TooLarge = "too-large",
        /// Reading it failed.
        Failed = "failed",
        /// The operator excluded it.
        Excluded = "excluded",
    }
}

/// A coverage state with its reason.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Coverage {
    /// The state.
    pub state: CoverageState,
    /// The reason, for the operator; empty only for [`CoverageState::Scanned`].
    pub reason: String,
}

impl Coverage {
    /// Creates a coverage from its state and reason.
    pub fn new(state: CoverageState, reason: impl Into<String>) -> Self {
        Self { state, reason: reason.into() }
    }

    /// Creates the coverage of a container whose storage is not read.
    pub fn unsupported(reason: impl Into<String>) -> Self {
        Self::new(CoverageState::Unsupported, reason)
    }

    /// Creates the coverage of a container that could not be read.
    pub fn failed(reason: impl Into<String>) -> Self {
        Self::new(CoverageState::Failed, reason)
    }

    /// Returns this coverage with a restriction: `scanned` becomes `partial`, and the reason of `partial` is extended.
    #[must_use]
    pub fn but(self, restriction: &str) -> Self {
        match self.state {
            CoverageState::Scanned => Self::new(CoverageState::Partial, restriction),
            CoverageState::Partial => Self::new(self.state, format!("{}; {restriction}", self.reason)),
            _ => self,
        }
    }
}

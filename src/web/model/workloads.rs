//! Workloads: what people deploy, with what runs of it, what is found in it, and how it is configured.

use std::collections::BTreeMap;

use outcrop_proto::{Coverage, CoverageState};
use serde::Serialize;
use utoipa::ToSchema;

use super::CoverageShape;

/// A workload: the topmost owner of pods that is known.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct WorkloadItem {
    /// Its namespace.
    pub namespace: String,
    /// Its API group: `apps`; empty for the core group.
    pub group: String,
    /// Its kind: `Deployment`, or a custom resource's own.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its identity in the cluster.
    pub uid: String,
    /// Whose it is: the first of the owner keys that it, or else its namespace, has as a label or an annotation.
    pub owner: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// When it was made; where it is of a kind that is not watched, when one of its pods was.
    pub created: String,
    /// Why it is out of view, if so.
    pub excluded: Option<String>,
    /// Its pods that are not over.
    pub pods: u64,
    /// Its containers; the sum of `coverage`.
    pub containers: u64,
    /// States that its containers have, with how many have each.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub coverage: BTreeMap<CoverageState, u64>,
    /// Names of its images.
    pub images: Vec<String>,
    /// Findings by severity: those of replicas of one container count once.
    pub findings: BTreeMap<String, u64>,
    /// Findings left to the distribution, counted in the same way.
    pub withheld: u64,
    /// The level of the Pod Security Standards that it satisfies: `privileged`, `baseline`, `restricted`.
    pub pod_security: String,
    /// Configuration issues, by the level that they break: `baseline`, `restricted`, `recommended`.
    pub issues: BTreeMap<String, u64>,
}

/// A workload in full.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct WorkloadDetail {
    /// What a list says of it.
    pub workload: WorkloadItem,
    /// Its containers: those that are the same in all replicas once.
    pub containers: Vec<WorkloadContainer>,
    /// What its specification leaves to be desired.
    pub configuration: Vec<IssueItem>,
    /// Names of its pods that are not over.
    pub pods: Vec<String>,
}

/// A container of a workload, in all its replicas that are alike.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct WorkloadContainer {
    /// Its name.
    pub name: String,
    /// `init`, `sidecar`, `main` or `ephemeral`.
    pub kind: String,
    /// The image's name as it was.
    pub image: String,
    /// The identity of its stack.
    pub stack: Option<String>,
    /// How far it was seen.
    #[schema(value_type = CoverageShape)]
    pub coverage: Coverage,
    /// How many replicas are so.
    pub replicas: u64,
    /// The distribution's name.
    pub distribution: Option<String>,
    /// How many packages it has.
    pub packages: u64,
    /// Findings, by severity.
    pub findings: BTreeMap<String, u64>,
}

/// A configuration issue of a workload, as its newest pod shows it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct IssueItem {
    /// The workload's namespace.
    pub namespace: String,
    /// The workload, as `Kind/name`.
    pub workload: String,
    /// The rule that is broken.
    pub rule: String,
    /// `baseline` and `restricted`, of the Pod Security Standards; `recommended` beyond them.
    pub level: String,
    /// What is wrong.
    pub title: String,
    /// The field.
    pub path: String,
    /// What stands there.
    pub found: String,
    /// Why it matters.
    pub why: String,
    /// What to do.
    pub fix: String,
}

//! Workloads, with their containers, findings and configuration issues.

use std::collections::BTreeMap;

use outcrop_proto::SeverityCounts;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Coverage, CoverageWord};

/// A workload: the topmost known owner of pods.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WorkloadItem {
    /// Namespace.
    pub namespace: String,
    /// API group: `apps`; empty for the core group.
    pub group: String,
    /// Kind: `Deployment`, or that of a custom resource.
    pub kind: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Owner: the value of the first owner key that the workload, or else its namespace, has as a label or an annotation.
    pub owner: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Number of its labels and annotations that are not stored, because they are too long or too many: neither selectors nor owners see them.
    pub dropped_labels: u64,
    /// When it was created; for a kind that is not watched, when one of its pods was created.
    pub created: String,
    /// Reason for which it is excluded; `null` if it is not.
    pub excluded: Option<String>,
    /// Number of pods that have not finished.
    pub pods: u64,
    /// Number of containers; the sum of `coverage`.
    pub containers: u64,
    /// Number of containers in each coverage state that occurs.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub coverage: BTreeMap<CoverageWord, u64>,
    /// Names of its images.
    pub images: Vec<String>,
    /// Findings by severity; replicas of one container count once.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub findings: SeverityCounts,
    /// Findings that are withheld because the distribution's advisories apply to the package, counted in the same way.
    pub withheld: u64,
    /// The strictest level of the Pod Security Standards that it satisfies: `privileged`, `baseline` or `restricted`.
    pub pod_security: String,
    /// Number of configuration issues by the level that they violate: `baseline`, `restricted` or `recommended`.
    pub issues: BTreeMap<String, u64>,
}

/// A workload with its containers and configuration issues.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WorkloadDetail {
    /// The workload as lists show it.
    pub workload: WorkloadItem,
    /// Containers; those that are equal in all replicas once.
    pub containers: Vec<WorkloadContainer>,
    /// Configuration issues.
    pub configuration: Vec<IssueItem>,
    /// Names of the pods that have not finished.
    pub pods: Vec<String>,
}

/// A container of a workload, for all replicas that are equal.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WorkloadContainer {
    /// Name.
    pub name: String,
    /// `init`, `sidecar`, `main` or `ephemeral`.
    pub kind: String,
    /// Name of the image, as the pod asks for it.
    pub image: String,
    /// The image that the kubelet resolved the name to, usually `NAME@DIGEST`.
    pub image_id: Option<String>,
    /// Identity of its stack.
    pub stack: Option<String>,
    /// Its coverage.
    pub coverage: Coverage,
    /// Number of equal replicas.
    pub replicas: u64,
    /// Name of the distribution.
    pub distribution: Option<String>,
    /// Number of packages; `null` while it has not been read.
    pub packages: Option<u64>,
    /// Findings by severity; `null` if it is not known whether there are any: it has not been read, or nothing was found where not everything was
    /// read and matched.
    #[schema(value_type = Option<BTreeMap<String, u64>>)]
    pub findings: Option<SeverityCounts>,
}

/// A configuration issue of a workload, as its newest pod shows it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct IssueItem {
    /// Namespace of the workload.
    pub namespace: String,
    /// The workload, as `Kind/name`.
    pub workload: String,
    /// ID of the violated rule.
    pub rule: String,
    /// `baseline` or `restricted` of the Pod Security Standards; `recommended` for rules beyond them.
    pub level: String,
    /// The defect.
    pub title: String,
    /// Path of the field.
    pub path: String,
    /// Value of the field.
    pub found: String,
    /// Why it matters.
    pub why: String,
    /// The fix.
    pub fix: String,
}

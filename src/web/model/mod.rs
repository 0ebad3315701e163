//! The responses of the API: plain types, which the server serializes and the command line deserializes.
//!
//! Decision 28 lists the rules for names. Counts cover only what the caller may see. Times are RFC 3339 in UTC. A client ignores fields
//! that it does not know and keeps unknown words as text ([`Open`]).

use std::collections::BTreeMap;

use outcrop_proto::SeverityCounts;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::problems::ActiveProblem;

mod deliveries;
mod fleet;
mod word;
mod workloads;

pub use deliveries::{DeliveryChanged, DeliveryDetail, DeliveryItem, TargetItem, TargetTest};
pub use fleet::{
    AgentItem, AgentProblem, KubernetesNode, LayerCounts, LayerItem, NodeCounts, NodeItem, RoleItem, StepItem,
};
pub use word::{
    AssessedWord, CoverageWord, LayerWord, NodeStateWord, Open, ProblemWord, RuntimeWord, SeverityWord, StatusWord,
    StorageWord,
};
pub use workloads::{IssueItem, WorkloadContainer, WorkloadDetail, WorkloadItem};

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// Items in the requested order.
    pub items: Vec<T>,
    /// Value of `continue` for the next page; missing on the last page.
    #[serde(rename = "continue", default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// State of everything that the caller may see.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Version of the aggregator.
    pub version: String,
    /// Name of the cluster.
    pub cluster: String,
    /// Time since the aggregator started.
    pub uptime_seconds: u64,
    /// Whether the caller may read some namespaces only. Then nothing outside of them is counted: no node without such containers, no
    /// container without a pod.
    #[serde(default)]
    pub restricted: bool,
    /// Numbers of nodes.
    pub nodes: NodeCounts,
    /// Number of containers; the sum of `coverage`.
    pub containers: u64,
    /// Number of containers in each coverage state.
    pub coverage: Vec<CoverageCount>,
    /// Number of containers for each reason, for states other than `scanned`.
    pub reasons: Vec<ReasonCount>,
    /// Number of containers in each state of matching, by ecosystem.
    pub assessed: Vec<AssessedCount>,
    /// Comparison of the nodes' containers with the API server's; `null` outside Kubernetes.
    pub kubernetes: Option<KubernetesStatus>,
    /// Connections that an offline aggregator may open; `null` if it is not offline.
    pub offline: Option<OfflineStatus>,
    /// Numbers of layers.
    pub layers: LayerCounts,
    /// Age of the container that has waited longest to be scanned; `null` if none waits.
    pub oldest_unscanned_seconds: Option<u64>,
    /// Containers since the aggregator started.
    pub lifetimes: Lifetimes,
    /// Reports from nodes since the aggregator started.
    pub reports: ReportCounts,
    /// Connections of agents.
    #[serde(default)]
    pub connections: ConnectionCounts,
    /// Reason for which the aggregator accepts no reports at the moment; `null` if it accepts them.
    pub store_error: Option<String>,
    /// Advisory database in use; `null` if there is none.
    pub database: Option<DatabaseStatus>,
    /// Reason for which the latest advisory database was refused; the previous one stays in use.
    pub database_error: Option<String>,
    /// Current problems, ordered by kind; empty for callers who may not read everything.
    pub problems: Vec<ProblemItem>,
    /// Targets of deliveries; empty for callers who may not read everything.
    #[serde(default)]
    pub targets: Vec<TargetItem>,
    /// Findings of containers by severity: a finding of an image counts once for each container that runs it.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub findings: SeverityCounts,
    /// Findings that are withheld because the distribution's advisories apply to the package, counted in the same way.
    pub withheld: u64,
    /// Latest rematch of everything; `null` before the first one.
    pub rematch: Option<Rematch>,
}

/// Connections that an offline aggregator may open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OfflineStatus {
    /// TCP ports that it may connect to: those of the API server and of DNS, and of allowed hosts.
    pub ports: Vec<u16>,
    /// Hosts that deliveries may go to; no other one is contacted.
    #[serde(default)]
    pub allowed: Vec<String>,
    /// Whether the kernel refuses all others (Linux 6.7 and later).
    pub enforced: bool,
}

/// Comparison of the nodes' containers with the API server's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KubernetesStatus {
    /// Whether the first complete list of the API server has arrived.
    pub synced: bool,
    /// Workloads that have pods.
    pub workloads: u64,
    /// Pods that have not finished.
    pub pods: u64,
    /// Containers that run according to the kubelet and that no node has reported. They count as containers, with a reason.
    pub untold: u64,
    /// Containers that belong to a pod according to their node, where the API server does not know the pod. Only callers who may see
    /// everything see them.
    pub strays: u64,
}

/// Number of containers in a coverage state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CoverageCount {
    /// The state.
    pub state: CoverageWord,
    /// Number of containers.
    pub containers: u64,
}

/// Number of containers in a coverage state for a reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReasonCount {
    /// The state.
    pub state: CoverageWord,
    /// The reason.
    pub reason: String,
    /// Number of containers.
    pub containers: u64,
}

/// Number of containers in a state of matching, for one ecosystem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AssessedCount {
    /// OSV's name of the ecosystem.
    pub ecosystem: String,
    /// The state.
    pub state: AssessedWord,
    /// The reason; empty if the ecosystem is matched.
    pub reason: String,
    /// Number of containers.
    pub containers: u64,
}

/// Containers since the aggregator started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Lifetimes {
    /// Containers that nodes have reported: those that ended and those that run.
    pub seen: u64,
    /// Containers that ended, by their last coverage state.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub ended: BTreeMap<CoverageWord, u64>,
    /// Containers that ended before anything was read; they are among the `failed`.
    pub gone_before_reading: u64,
}

/// Reports from nodes since the aggregator started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReportCounts {
    /// Requested inventories that were stored.
    pub inventories: u64,
    /// Cross-reads that agreed with the first reading.
    pub verified: u64,
    /// Cross-reads that disagreed with the first reading.
    pub contradicted: u64,
    /// Inventories and answers that were not requested.
    pub unasked: u64,
    /// Calls and streams of agents that were refused.
    pub refused: u64,
    /// The same by reason: `wire-version`, `token`, `node`, `cluster`, `malformed`, `unasked`, `too-large`, `timed-out`, `replaced`.
    #[serde(default)]
    pub refused_by_reason: BTreeMap<String, u64>,
}

/// Connections of agents. All but `open` are counted since the aggregator started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConnectionCounts {
    /// Open connections.
    pub open: u64,
    /// Connections that were closed immediately because a limit was reached.
    pub turned_away: u64,
    /// Handshakes that failed or timed out.
    pub failed: u64,
    /// Connections that were closed because they had no authenticated call for too long.
    pub unidentified: u64,
    /// Connections that were closed because their node opened too many others.
    pub surplus: u64,
}

/// The advisory database.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DatabaseStatus {
    /// SHA-256 of the file.
    pub digest: String,
    /// Its origin: the watched file, or the caller who pushed it.
    pub brought_by: String,
    /// When it was loaded.
    pub brought_at: String,
    /// Day of `--db-as-of`, on which the age of its sources is judged; `null` for today.
    #[serde(default)]
    pub as_of: Option<String>,
    /// ID of the key that signed it; `null` if it is not signed.
    pub signed_by: Option<String>,
    /// Sources in it.
    pub sources: Vec<SourceStatus>,
}

/// A source of advisories.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SourceStatus {
    /// OSV's name of the ecosystem.
    pub ecosystem: String,
    /// Number of records.
    pub records: u64,
    /// When the newest record was changed.
    pub newest: String,
    /// Age of the newest record; `null` if its date is unknown.
    pub age_days: Option<i64>,
}

/// A rematch: all stacks matched against a new advisory database.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Rematch {
    /// When it started.
    pub at: String,
    /// Its duration.
    pub seconds: f64,
    /// Stacks that were matched.
    pub stacks: u64,
    /// Findings of stacks that opened.
    pub appeared: u64,
    /// Findings of stacks that closed.
    pub went: u64,
    /// Nodes that had to read something for it.
    pub nodes_rescanned: u64,
}

/// Coverage of a container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct Coverage {
    /// The state.
    pub state: CoverageWord,
    /// The reason; empty only for `scanned`.
    pub reason: String,
}

impl From<outcrop_proto::Coverage> for Coverage {
    fn from(coverage: outcrop_proto::Coverage) -> Self {
        Self { state: coverage.state.into(), reason: coverage.reason }
    }
}

/// A container.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ContainerItem {
    /// Name of its node.
    pub node: String,
    /// Container runtime.
    pub runtime: RuntimeWord,
    /// Namespace of the container runtime, not of Kubernetes; empty for runtimes without namespaces.
    pub runtime_namespace: String,
    /// ID in the container runtime.
    pub id: String,
    /// Name in its pod.
    pub name: String,
    /// Namespace of its pod.
    pub namespace: Option<String>,
    /// Name of its pod.
    pub pod: Option<String>,
    /// Its workload, as `Kind/name`.
    pub workload: Option<String>,
    /// Name of the image: as the pod asks for it, outside of Kubernetes as the runtime had it when the container was created.
    pub image: String,
    /// The image that the kubelet resolved the name to, usually `NAME@DIGEST`; `null` outside of Kubernetes.
    pub image_id: Option<String>,
    /// Identity of its stack.
    pub stack: Option<String>,
    /// How the runtime stores its files; `null` if the agent could not tell.
    pub storage: Option<StorageWord>,
    /// Its coverage.
    pub coverage: Coverage,
    /// Whether its node, which is degraded, could not find out if it still runs: its last known state is shown.
    #[serde(default)]
    pub unconfirmed: bool,
    /// Name of the distribution.
    pub distribution: Option<String>,
    /// Number of packages; `null` while it has not been read.
    pub packages: Option<u64>,
    /// Findings by severity; `null` if it is not known whether there are any: it has not been read, or nothing was found where not everything was
    /// read and matched.
    #[schema(value_type = Option<BTreeMap<String, u64>>)]
    pub findings: Option<SeverityCounts>,
    /// When a node first reported it.
    pub since: String,
}

impl ContainerItem {
    /// Creates the item of a container of which nothing is known but its coverage.
    pub fn new(of: ContainerRef, coverage: impl Into<Coverage>) -> Self {
        let ContainerRef {
            node,
            runtime,
            runtime_namespace,
            id,
            name,
            namespace,
            pod,
            workload,
            image,
            image_id,
            stack,
        } = of;
        Self {
            node,
            runtime,
            runtime_namespace,
            id,
            name,
            namespace,
            pod,
            workload,
            image,
            image_id,
            stack,
            storage: None,
            coverage: coverage.into(),
            unconfirmed: false,
            distribution: None,
            packages: None,
            findings: None,
            since: String::new(),
        }
    }
}

/// An image that runs: a stack, by whichever names.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ImageItem {
    /// Identity of its stack.
    pub stack: String,
    /// Names by which containers refer to it.
    pub names: Vec<String>,
    /// Images that kubelets resolved these names to, usually `NAME@DIGEST`.
    pub ids: Vec<String>,
    /// Time of the build, if its configuration is known and has it.
    pub created: Option<String>,
    /// Operating system, architecture and variant, such as `linux/arm64/v8`.
    pub platform: Option<String>,
    /// The user that runs the image's processes unless a pod says otherwise; `root` where the image names none.
    pub user: Option<String>,
    /// Disk space of its unpacked layers on a node, bytes, if the node's runtime measured it.
    pub size: Option<u64>,
    /// Labels that tell where it comes from: `org.opencontainers.image.` with `source`, `revision`, `version`, `vendor` and `base.name`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its coverage.
    pub coverage: Coverage,
    /// Name of the distribution.
    pub distribution: Option<String>,
    /// Number of layers.
    pub layers: u64,
    /// Number of packages; `null` while it has not been read.
    pub packages: Option<u64>,
    /// Number of packages without a name, which cannot be matched.
    pub unidentified: u64,
    /// Findings by severity; `null` if it is not known whether there are any: it has not been read, or nothing was found where not everything was
    /// read and matched.
    #[schema(value_type = Option<BTreeMap<String, u64>>)]
    pub findings: Option<SeverityCounts>,
    /// Findings that are withheld because the distribution's advisories apply to the package.
    pub withheld: u64,
    /// Number of containers that run it.
    pub containers: u64,
    /// Number of nodes that run it.
    pub nodes: u64,
}

/// A package that runs.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PackageItem {
    /// Package URL.
    pub purl: String,
    /// Type as in the package URL: `deb`, `npm`, `maven`, …
    pub r#type: String,
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Number of images that contain it.
    pub images: u64,
    /// Number of containers that contain it.
    pub containers: u64,
    /// Findings by severity; each vulnerability counts once, however many containers have it.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub findings: SeverityCounts,
}

/// A finding of a container.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct FindingItem {
    /// The container.
    pub container: ContainerRef,
    /// ID of the vulnerability.
    pub id: String,
    /// Its other IDs.
    pub aliases: Vec<String>,
    /// Name of the package.
    pub package: String,
    /// Package URL.
    pub purl: String,
    /// Installed version.
    pub installed: String,
    /// Path that lists the package; the path inside an archive follows `!/`.
    pub evidence: String,
    /// The vendor's statement about a fix.
    pub status: StatusWord,
    /// First version with the fix.
    pub fixed: Option<String>,
    /// Severity.
    pub severity: SeverityWord,
    /// CVSS base score from which the severity follows.
    pub score: Option<f64>,
    /// Layer that introduced the package.
    pub layer: Option<String>,
    /// Where the image's source code is, by its label `org.opencontainers.image.source`.
    pub source: Option<String>,
    /// One line about the vulnerability.
    pub summary: String,
    /// When the subject first had the finding; new images, recreated containers and new databases do not reset it.
    pub first_seen: String,
    /// When the finding closed; `null` if it is open.
    pub fixed_on: Option<String>,
}

/// Identification of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContainerRef {
    /// Name of its node.
    pub node: String,
    /// Container runtime.
    pub runtime: RuntimeWord,
    /// Namespace of the container runtime, not of Kubernetes; empty for runtimes without namespaces.
    pub runtime_namespace: String,
    /// ID in the container runtime.
    pub id: String,
    /// Name in its pod.
    pub name: String,
    /// Namespace of its pod.
    pub namespace: Option<String>,
    /// Name of its pod.
    pub pod: Option<String>,
    /// Its workload, as `Kind/name`.
    pub workload: Option<String>,
    /// Name of the image: as the pod asks for it, outside of Kubernetes as the runtime had it when the container was created.
    pub image: String,
    /// The image that the kubelet resolved the name to, usually `NAME@DIGEST`; `null` outside of Kubernetes.
    pub image_id: Option<String>,
    /// Identity of its stack.
    pub stack: Option<String>,
}

/// A vulnerability and the packages that have it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AdvisoryItem {
    /// ID of the vulnerability.
    pub id: String,
    /// Its other IDs.
    pub aliases: Vec<String>,
    /// One line about the vulnerability.
    pub summary: String,
    /// Highest severity among the packages.
    pub severity: SeverityWord,
    /// Packages that have it.
    pub packages: Vec<AdvisoryPackage>,
    /// Number of containers that have it.
    pub containers: u64,
    /// Number of images that have it.
    pub images: u64,
    /// Number of nodes that have it.
    pub nodes: u64,
}

/// A package that has a vulnerability.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AdvisoryPackage {
    /// Package URL.
    pub purl: String,
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// The vendor's statement about a fix.
    pub status: StatusWord,
    /// First version with the fix.
    pub fixed: Option<String>,
    /// Number of containers that contain the package.
    pub containers: u64,
}

/// A container that has the requested package, or had it within the retention of packages.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct HasItem {
    /// The container.
    pub container: ContainerRef,
    /// Package URL.
    pub purl: String,
    /// Name of the package.
    pub package: String,
    /// Version.
    pub version: String,
    /// Path that lists the package; the path inside an archive follows `!/`.
    pub evidence: String,
    /// Layer that introduced the package.
    pub layer: Option<String>,
    /// When the last container of the workload that had the package ended; `null` for a container that runs. Then the container has no
    /// `id`, `pod` and `image`.
    #[serde(default)]
    pub ran_until: Option<String>,
}

/// One page of the containers that have the requested package or vulnerability.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct HasPage {
    /// The containers, each with the package.
    pub items: Vec<HasItem>,
    /// Value of `continue` for the next page; missing on the last page.
    #[serde(rename = "continue", default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The vulnerability, if the query names one; `null` if it names a package.
    pub vulnerability: Option<AskedVulnerability>,
}

/// A vulnerability that a query names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AskedVulnerability {
    /// Its ID, as publishers spell it.
    pub id: String,
    /// Whether an advisory in the database in use is known by this ID. If not, no item means nothing: the advisory may be newer than the
    /// database.
    pub in_database: bool,
    /// When the newest record of the database was changed; `null` without a database.
    pub newest_record: Option<String>,
}

/// A current problem of Outcrop itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProblemItem {
    /// The part of Outcrop that has the problem.
    pub kind: ProblemWord,
    /// Which of several of that kind, such as a file's path; empty where there is only one.
    pub subject: String,
    /// What is wrong, and what to do about it.
    pub message: String,
    /// When the problem was raised, in seconds since 1970.
    pub since: i64,
}

impl From<ActiveProblem> for ProblemItem {
    fn from(problem: ActiveProblem) -> Self {
        let ActiveProblem { kind, subject, message, since } = problem;
        Self { kind: kind.into(), subject, message, since }
    }
}

/// Result of pushing an advisory database.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Pushed {
    /// SHA-256 of the file.
    pub digest: String,
    /// Whether the file was in use already.
    pub unchanged: bool,
    /// The changes of the rematch; `null` if it was in use already.
    pub rematch: Option<Rematch>,
}

/// Result of distrusting or trusting a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Requeued {
    /// Number of layers that have to be read again.
    pub layers: u64,
}

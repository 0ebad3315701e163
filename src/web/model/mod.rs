//! What the API answers: plain types, as they are written in JSON.
//!
//! Names of people's words are those of `docs/architecture.md`. Counts never say more than the caller may see. Times are RFC 3339, UTC.

use std::collections::BTreeMap;

use outcrop_proto::{Coverage, CoverageState, Runtime, Step, Storage};
use serde::Serialize;
use utoipa::ToSchema;

use crate::problems::ActiveProblem;

mod workloads;

pub use workloads::{IssueItem, WorkloadContainer, WorkloadDetail, WorkloadItem};

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Page<T> {
    /// The items, in the order asked for.
    pub items: Vec<T>,
    /// Where the next page begins: the value for `continue`. `None` on the last page.
    #[serde(rename = "continue", skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The state of everything that the caller may see.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Status {
    /// The aggregator's version.
    pub version: String,
    /// The cluster that it is for.
    pub cluster: String,
    /// How long it has run.
    pub uptime_seconds: u64,
    /// The nodes, counted.
    pub nodes: NodeCounts,
    /// How many containers there are; the sum of `coverage`.
    pub containers: u64,
    /// Every state, with how many containers have it.
    pub coverage: Vec<CoverageCount>,
    /// Why, for those that are not simply scanned.
    pub reasons: Vec<ReasonCount>,
    /// What matching was worth, by ecosystem.
    pub assessed: Vec<AssessedCount>,
    /// How nodes' containers and the API server's agree; `None` outside of Kubernetes.
    pub kubernetes: Option<KubernetesStatus>,
    /// What the aggregator may connect to, where it runs offline.
    pub offline: Option<OfflineStatus>,
    /// The layers that nodes have.
    pub layers: LayerCounts,
    /// How long the container that waits longest has waited to be scanned.
    pub oldest_unscanned_seconds: Option<u64>,
    /// Containers since the aggregator started, and how those that ended had been seen.
    pub lifetimes: Lifetimes,
    /// What was taken from nodes, and what was not, since the start.
    pub reports: ReportCounts,
    /// Why nothing is taken from nodes at the moment, if so: the store's volume is full.
    pub store_error: Option<String>,
    /// The advisory database.
    pub database: Option<DatabaseStatus>,
    /// What is wrong with the database that was offered last, if anything is: the one in use was kept.
    pub database_error: Option<String>,
    /// The current problems, ordered by kind; empty for callers who may not read everything.
    pub problems: Vec<ActiveProblem>,
    /// Findings of containers, by severity: a finding of a stack counts for each container on it.
    pub findings: BTreeMap<String, u64>,
    /// Findings left to the distribution, counted in the same way.
    pub withheld: u64,
    /// The last time that everything was matched again.
    pub rematch: Option<Rematch>,
}

/// Nodes, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct NodeCounts {
    /// All that are known.
    pub known: u64,
    /// Those whose stream lives.
    pub attached: u64,
    /// Those that are not attached.
    pub silent: u64,
    /// Those whose agent has a weaker cage than the full one.
    pub weak_cage: u64,
    /// Those that are not believed.
    pub distrusted: u64,
    /// Those that the API server knows and that no agent has attached from.
    pub without_agent: u64,
}

/// What is left to an aggregator that runs offline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct OfflineStatus {
    /// TCP ports that it may connect to: those of the API server and of DNS.
    pub ports: Vec<u16>,
    /// Whether the kernel refuses all others; it can since Linux 6.7.
    pub enforced: bool,
}

/// How nodes' containers and the API server's agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct KubernetesStatus {
    /// Whether the API server was listed whole, once.
    pub synced: bool,
    /// Workloads that have pods.
    pub workloads: u64,
    /// Pods that are not over.
    pub pods: u64,
    /// Containers that the kubelet says run, and that no node has told of. They are among the containers, with the reason.
    pub untold: u64,
    /// Containers whose node says that they are of a pod, and that the API server does not know. They are seen by who sees everything.
    pub strays: u64,
}

/// A node.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct NodeItem {
    /// Its name.
    pub name: String,
    /// Its agent's version.
    pub agent_version: String,
    /// Version of its set of cataloguers.
    pub cataloguers: u32,
    /// The weakest cage of its agent's processes.
    pub cage: String,
    /// Whether it can read overlay's marks.
    pub marks: bool,
    /// Whether its stream lives.
    pub attached: bool,
    /// Whether what it reads is not believed.
    pub distrusted: bool,
    /// How long nothing was heard of it.
    pub silent_seconds: u64,
    /// How many containers it has.
    pub containers: u64,
    /// How many layers it has read that are in the store.
    pub layers_read: u64,
    /// What its agent tells of itself; `None` until it did.
    pub agent: Option<AgentItem>,
    /// What its kubelet told the API server; `None` outside of Kubernetes.
    pub kubernetes: Option<KubernetesNode>,
    /// Why no agent can run on it, if so.
    pub blind: Option<String>,
}

/// A node, as its kubelet told the API server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct KubernetesNode {
    /// The kubelet's version.
    pub kubelet: String,
    /// The container runtime and its version.
    pub runtime: String,
    /// `linux` or `windows`.
    pub system: String,
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// The operating system's name.
    pub image: String,
    /// The kernel's version.
    pub kernel: String,
}

/// What an agent tells of itself: it has no listener that could be asked.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AgentItem {
    /// Its processes.
    pub roles: Vec<RoleItem>,
    /// Layers read.
    pub layers_read: u64,
    /// Layers read for another node's word.
    pub layers_verified: u64,
    /// Layers that could not be read.
    pub layers_failed: u64,
    /// Workers that died of what they read.
    pub worker_deaths: u64,
    /// Containers that ended before anything could be read of them.
    pub gone_before_reading: u64,
    /// Layers that wait to be read.
    pub queue: u64,
}

/// A process of an agent.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RoleItem {
    /// `runtime`, `reader`, `worker`
    pub name: String,
    /// Resident memory, bytes.
    pub resident_bytes: u64,
    /// Processor time, milliseconds.
    pub cpu_milliseconds: u64,
    /// How often it was started.
    pub starts: u64,
}

/// How many containers have a state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct CoverageCount {
    /// The state.
    #[schema(value_type = CoverageWord)]
    pub state: CoverageState,
    /// How many.
    pub containers: u64,
}

/// How many containers have a state for a reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ReasonCount {
    /// The state.
    #[schema(value_type = CoverageWord)]
    pub state: CoverageState,
    /// Why.
    pub reason: String,
    /// How many.
    pub containers: u64,
}

/// What matching was worth for an ecosystem, in how many containers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct AssessedCount {
    /// OSV's name for it.
    pub ecosystem: String,
    /// matched, stale, unmatched
    pub state: String,
    /// Why.
    pub reason: String,
    /// How many.
    pub containers: u64,
}

/// Layers by how far they are. Each is counted in exactly one of the first four; `disputed` and `outdated` are among the known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct LayerCounts {
    /// Read.
    pub known: u64,
    /// Being read.
    pub leased: u64,
    /// Not read yet.
    pub waiting: u64,
    /// Could not be read.
    pub failed: u64,
    /// Two nodes disagree on what it holds.
    pub disputed: u64,
    /// Read by older cataloguers; waits to be read again.
    pub outdated: u64,
}

/// Containers since the aggregator started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Lifetimes {
    /// How many were told of.
    pub seen: u64,
    /// Those that have ended, by the state that they had in the end: `seen` is these and those that run.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub ended: BTreeMap<CoverageState, u64>,
    /// Those that ended before anything could be read of them; they are among the `failed`.
    pub gone_before_reading: u64,
}

/// What was taken from nodes, and what was not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct ReportCounts {
    /// Inventories that were asked for, and are in the store.
    pub inventories: u64,
    /// Cross-reads that came to the same.
    pub verified: u64,
    /// Cross-reads that came to something else.
    pub contradicted: u64,
    /// Inventories and answers that nobody had asked for.
    pub unasked: u64,
    /// Calls and streams of agents that were refused.
    pub refused: u64,
    /// The same by reason: `wire-version`, `token`, `node`, `cluster`, `malformed`, `unasked`, `too-large`, `timed-out`.
    pub refused_by_reason: BTreeMap<String, u64>,
}

/// The advisory database.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DatabaseStatus {
    /// SHA-256 of its file.
    pub digest: String,
    /// Who brought it: the watched file, or who pushed it.
    pub brought_by: String,
    /// When.
    pub brought_at: String,
    /// The key that it is signed with, if it is.
    pub signed_by: Option<String>,
    /// What is in it.
    pub sources: Vec<SourceStatus>,
}

/// A source of advisories.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SourceStatus {
    /// OSV's name for it.
    pub ecosystem: String,
    /// How many records.
    pub records: u64,
    /// When the newest was changed.
    pub newest: String,
    /// How many days ago that is.
    pub age_days: Option<i64>,
}

/// Everything was matched again.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Rematch {
    /// When it began.
    pub at: String,
    /// How long it took.
    pub seconds: f64,
    /// Stacks that were looked at.
    pub stacks: u64,
    /// Findings of stacks that were not there before.
    pub appeared: u64,
    /// Findings of stacks that are not there any more.
    pub went: u64,
    /// Nodes that had to read something for it.
    pub nodes_rescanned: u64,
}

/// A container.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ContainerItem {
    /// Its node.
    pub node: String,
    /// The container runtime.
    #[schema(value_type = RuntimeShape)]
    pub runtime: Runtime,
    /// The runtime's namespace, not Kubernetes'; empty for runtimes without namespaces.
    pub runtime_namespace: String,
    /// The runtime's ID.
    pub id: String,
    /// Its name in its pod.
    pub name: String,
    /// Its pod's namespace.
    pub namespace: Option<String>,
    /// Its pod.
    pub pod: Option<String>,
    /// Its workload, as `Kind/name`.
    pub workload: Option<String>,
    /// The image's name as it was.
    pub image: String,
    /// The identity of its stack.
    pub stack: Option<String>,
    /// How the runtime stores its files; null where the agent could not tell.
    #[schema(value_type = Option<StorageShape>)]
    pub storage: Option<Storage>,
    /// How far it was seen.
    #[schema(value_type = CoverageShape)]
    pub coverage: Coverage,
    /// The distribution's name.
    pub distribution: Option<String>,
    /// How many packages it has.
    pub packages: u64,
    /// Findings, by severity.
    pub findings: BTreeMap<String, u64>,
    /// Since when it has been known here.
    pub since: String,
}

/// An image that runs: a stack, by whatever names.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ImageItem {
    /// The identity of its stack.
    pub stack: String,
    /// The names that containers call it by.
    pub names: Vec<String>,
    /// How far it was seen.
    #[schema(value_type = CoverageShape)]
    pub coverage: Coverage,
    /// The distribution's name.
    pub distribution: Option<String>,
    /// How many layers it has.
    pub layers: u64,
    /// How many packages.
    pub packages: u64,
    /// Packages without a name, which nothing can match.
    pub unidentified: u64,
    /// Findings, by severity.
    pub findings: BTreeMap<String, u64>,
    /// Number of withheld findings.
    pub withheld: u64,
    /// How many containers run it.
    pub containers: u64,
    /// On how many nodes.
    pub nodes: u64,
}

/// A layer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LayerItem {
    /// Its identity.
    pub id: String,
    /// `known`, `leased`, `waiting`, `failed`
    pub state: String,
    /// Why it could not be read, or that nodes disagree on it.
    pub reason: String,
    /// Whether two nodes disagree on what it holds.
    pub disputed: bool,
    /// Who read it.
    pub read_by: Option<String>,
    /// When.
    pub read_at: Option<String>,
    /// In which cage.
    pub cage: Option<String>,
    /// Version of the cataloguers that read it.
    pub cataloguers: Option<u32>,
    /// How many other nodes came to the same.
    pub verified_by: u64,
    /// The step of the build that made it.
    #[schema(value_type = Option<StepShape>)]
    pub step: Option<Step>,
    /// How many images stand on it.
    pub images: u64,
    /// The name of one of them, for people.
    pub image: Option<String>,
    /// How many containers.
    pub containers: u64,
    /// Impact: how many findings would go if it were replaced. Each finding of each container counts.
    pub findings: u64,
    /// In how many containers these are.
    pub affected_containers: u64,
}

/// A package that runs.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PackageItem {
    /// The package URL.
    pub purl: String,
    /// As purl names it: `deb`, `npm`, `maven`, …
    pub r#type: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// How many images have it.
    pub images: u64,
    /// How many containers.
    pub containers: u64,
    /// Findings in it, by severity, counted once and not for each container.
    pub findings: BTreeMap<String, u64>,
}

/// A finding of a container.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FindingItem {
    /// The container.
    pub container: ContainerRef,
    /// The problem.
    pub id: String,
    /// Its other names.
    pub aliases: Vec<String>,
    /// The package's name.
    pub package: String,
    /// The package URL.
    pub purl: String,
    /// Its version.
    pub installed: String,
    /// The path that lists it, with the place in an archive after `!/`.
    pub evidence: String,
    /// fixed, affected, will-not-fix, under-investigation, end-of-life
    pub status: String,
    /// The version that mends it.
    pub fixed: Option<String>,
    /// How bad it is.
    pub severity: String,
    /// The score that this comes from.
    pub score: Option<f64>,
    /// The layer that brought the package.
    pub layer: Option<String>,
    /// What it is about.
    pub summary: String,
    /// Since when this subject has had it: new images, re-created containers and new databases do not reset it.
    pub first_seen: String,
    /// When it went, for one that is closed.
    pub fixed_on: Option<String>,
}

/// Which container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ContainerRef {
    /// Its node.
    pub node: String,
    /// The container runtime.
    #[schema(value_type = RuntimeShape)]
    pub runtime: Runtime,
    /// The runtime's namespace, not Kubernetes'; empty for runtimes without namespaces.
    pub runtime_namespace: String,
    /// The runtime's ID.
    pub id: String,
    /// Its name in its pod.
    pub name: String,
    /// Its pod's namespace.
    pub namespace: Option<String>,
    /// Its pod.
    pub pod: Option<String>,
    /// Its workload, as `Kind/name`.
    pub workload: Option<String>,
    /// The image's name as it was.
    pub image: String,
    /// The identity of its stack.
    pub stack: Option<String>,
}

/// What a problem touches.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AdvisoryItem {
    /// The problem.
    pub id: String,
    /// Its other names.
    pub aliases: Vec<String>,
    /// What it is about.
    pub summary: String,
    /// How bad it is at worst.
    pub severity: String,
    /// The packages that have it.
    pub packages: Vec<AdvisoryPackage>,
    /// How many containers have one of them.
    pub containers: u64,
    /// How many images.
    pub images: u64,
    /// How many nodes.
    pub nodes: u64,
}

/// A package that a problem touches.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AdvisoryPackage {
    /// The package URL.
    pub purl: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The way out.
    pub status: String,
    /// The version that mends it.
    pub fixed: Option<String>,
    /// How many containers have it.
    pub containers: u64,
}

/// Who has it: a container and a package.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct HasItem {
    /// The container.
    pub container: ContainerRef,
    /// The package URL.
    pub purl: String,
    /// The package's name.
    pub package: String,
    /// Its version.
    pub version: String,
    /// The path that lists it, with the place in an archive after `!/`.
    pub evidence: String,
    /// The layer that brought it.
    pub layer: Option<String>,
}

/// What came of a database that was offered.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Pushed {
    /// SHA-256 of its file.
    pub digest: String,
    /// Whether it is the one that was in use already.
    pub unchanged: bool,
    /// What matching against it changed; `None` where it is unchanged.
    pub rematch: Option<Rematch>,
}

/// How many layers have to be read again, because a node's word is worth more or less than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Requeued {
    /// How many.
    pub layers: u64,
}

/// What the OpenAPI document says of [`CoverageState`], which the ground floor has without it. A test holds both together.
#[derive(ToSchema)]
#[schema(as = CoverageState, rename_all = "kebab-case")]
#[expect(dead_code, reason = "the document is made from its shape")]
enum CoverageWord {
    Scanned,
    Partial,
    Pending,
    Unsupported,
    TooLarge,
    Failed,
    Excluded,
}

/// How far a container was seen.
#[derive(ToSchema)]
#[schema(as = Coverage)]
#[expect(dead_code, reason = "the document is made from its shape")]
struct CoverageShape {
    state: CoverageWord,
    /// Why; empty only where everything was scanned.
    reason: String,
}

/// A container runtime.
#[derive(ToSchema)]
#[schema(as = Runtime, rename_all = "kebab-case")]
#[expect(dead_code, reason = "the document is made from its shape")]
enum RuntimeShape {
    Containerd,
    CriO,
    Docker,
    Podman,
    Unknown,
}

/// How a runtime stores a container's files.
#[derive(ToSchema)]
#[schema(as = Storage, rename_all = "kebab-case")]
#[expect(dead_code, reason = "the document is made from its shape")]
enum StorageShape {
    LayerDirectories,
    MergedTree,
    MountedRoot,
}

/// A step of an image's build.
#[derive(ToSchema)]
#[schema(as = Step)]
#[expect(dead_code, reason = "the document is made from its shape")]
struct StepShape {
    /// Its place in the history, from 0.
    number: u32,
    /// `RUN`, `COPY`, `ADD`, …; empty where that does not show.
    keyword: String,
    /// When, in seconds since 1970; 0 where that is not known.
    created: i64,
    /// Its text; empty unless the node's operator switched it on, since it may hold secrets.
    text: String,
}

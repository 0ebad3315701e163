//! Nodes, their agents and layers.

use outcrop_proto::Step;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{LayerWord, NodeStateWord};

/// Numbers of nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeCounts {
    /// Nodes that have reported at least once.
    pub known: u64,
    /// Nodes whose stream is open.
    pub attached: u64,
    /// Attached nodes whose agent reports that it cannot do a part of its work.
    #[serde(default)]
    pub degraded: u64,
    /// Nodes whose stream is not open.
    pub silent: u64,
    /// Nodes whose agent has a weaker sandbox than the full one.
    pub weak_cage: u64,
    /// Distrusted nodes.
    pub distrusted: u64,
    /// Nodes that the API server knows and from which no agent has attached.
    pub without_agent: u64,
}

/// A node.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NodeItem {
    /// Name.
    pub name: String,
    /// Its state.
    #[serde(default)]
    pub state: NodeStateWord,
    /// What its agent cannot do at the moment; empty if it is not degraded.
    #[serde(default)]
    pub problems: Vec<AgentProblem>,
    /// Version of its agent; empty if no agent has attached.
    pub agent_version: String,
    /// Version of its set of catalogers.
    pub catalogers: u32,
    /// The weakest sandbox of its agent's processes.
    pub cage: String,
    /// Whether it can read overlay's opaque marks.
    pub marks: bool,
    /// Whether its stream is open.
    pub attached: bool,
    /// Whether its inventories are distrusted.
    pub distrusted: bool,
    /// Time since its last message.
    pub silent_seconds: u64,
    /// Number of containers.
    pub containers: u64,
    /// Number of layers in the store that it has read.
    pub layers_read: u64,
    /// Metrics of its agent; `null` until the agent reports them.
    pub agent: Option<AgentItem>,
    /// The node as the API server knows it; `null` outside Kubernetes.
    pub kubernetes: Option<KubernetesNode>,
    /// Reason for which no agent can run on it; `null` if one can.
    pub blind: Option<String>,
}

/// A part of its work that an agent cannot do at the moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgentProblem {
    /// What is wrong, and what to do about it.
    pub message: String,
    /// When it began, by the node's clock.
    pub began_at: String,
}

/// A node as its kubelet reports it to the API server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KubernetesNode {
    /// Version of the kubelet.
    pub kubelet: String,
    /// Name and version of the container runtime.
    pub runtime: String,
    /// `linux` or `windows`.
    pub system: String,
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// Name of the operating system.
    pub image: String,
    /// Version of the kernel.
    pub kernel: String,
}

/// Metrics of an agent. The agent has no listener; it reports them in its stream.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AgentItem {
    /// Its processes.
    pub roles: Vec<RoleItem>,
    /// Layers that it has read.
    pub layers_read: u64,
    /// Layers that it has read to verify another node.
    pub layers_verified: u64,
    /// Layers that it could not read.
    pub layers_failed: u64,
    /// Workers that died while they read a layer.
    pub worker_deaths: u64,
    /// Containers that ended before anything was read.
    pub gone_before_reading: u64,
    /// Layers that wait to be read.
    pub queue: u64,
}

/// A process of an agent.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RoleItem {
    /// `runtime`, `reader` or `worker`.
    pub name: String,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Processor time.
    pub cpu_milliseconds: u64,
    /// Number of starts.
    pub starts: u64,
}

/// Numbers of layers. Each layer is in exactly one of the first four; `disputed` and `outdated` layers are among the known ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LayerCounts {
    /// Read.
    pub known: u64,
    /// Being read.
    pub leased: u64,
    /// Not read yet.
    pub waiting: u64,
    /// Could not be read.
    pub failed: u64,
    /// Two nodes disagree about the contents.
    pub disputed: u64,
    /// Read by older catalogers; queued to be read again.
    pub outdated: u64,
}

/// A layer.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LayerItem {
    /// Identity.
    pub id: String,
    /// Its state.
    pub state: LayerWord,
    /// Reason for which it could not be read, or that nodes disagree about it.
    pub reason: String,
    /// Whether two nodes disagree about the contents.
    pub disputed: bool,
    /// Node that read it.
    pub read_by: Option<String>,
    /// When it was read.
    pub read_at: Option<String>,
    /// Sandbox in which it was read.
    pub cage: Option<String>,
    /// Version of the catalogers that read it.
    pub catalogers: Option<u32>,
    /// Number of other nodes whose reading agreed.
    pub verified_by: u64,
    /// Step of the image's build that created it.
    pub step: Option<StepItem>,
    /// Number of images that contain it.
    pub images: u64,
    /// Name of one of these images.
    pub image: Option<String>,
    /// Number of containers that run it.
    pub containers: u64,
    /// Impact: number of findings of containers that would close if the layer were replaced.
    pub findings: u64,
    /// Number of containers that have these findings.
    pub affected_containers: u64,
}

/// A step of an image's build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Step)]
pub struct StepItem {
    /// Position in the history, from 0.
    pub number: u32,
    /// `RUN`, `COPY`, `ADD`, …; empty if the history does not show it.
    pub keyword: String,
    /// Creation time in seconds since 1970; 0 if it is unknown.
    pub created: i64,
    /// Text; empty unless the node's operator enabled it, because it may contain secrets.
    pub text: String,
}

impl From<Step> for StepItem {
    fn from(step: Step) -> Self {
        let Step { number, keyword, created, text } = step;
        Self { number, keyword, created, text }
    }
}

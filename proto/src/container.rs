//! A container as its runtime reports it, and its coverage.

use serde::{Deserialize, Serialize};

/// How much of a container was read. Every container has exactly one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CoverageState {
    /// All evidence was read.
    Scanned,
    /// Some evidence could not be read or decided.
    Partial,
    /// Not read yet.
    Pending,
    /// Storage of a kind that Outcrop does not read.
    Unsupported,
    /// Larger than a limit.
    TooLarge,
    /// Reading failed.
    Failed,
    /// Excluded by the configuration.
    Excluded,
}

impl CoverageState {
    /// Every state.
    pub const ALL: [Self; 7] =
        [Self::Scanned, Self::Partial, Self::Pending, Self::Unsupported, Self::TooLarge, Self::Failed, Self::Excluded];

    /// Returns the name that users see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scanned => "scanned",
            Self::Partial => "partial",
            Self::Pending => "pending",
            Self::Unsupported => "unsupported",
            Self::TooLarge => "too-large",
            Self::Failed => "failed",
            Self::Excluded => "excluded",
        }
    }
}

impl std::fmt::Display for CoverageState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// A coverage state with its reason.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Coverage {
    /// The state.
    pub state: CoverageState,
    /// Reason, for the operator; empty only for [`CoverageState::Scanned`].
    pub reason: String,
}

impl Coverage {
    /// Creates a coverage.
    pub fn new(state: CoverageState, reason: impl Into<String>) -> Self {
        Self { state, reason: reason.into() }
    }

    /// Creates an `unsupported` coverage.
    pub fn unsupported(reason: impl Into<String>) -> Self {
        Self::new(CoverageState::Unsupported, reason)
    }

    /// Creates a `failed` coverage.
    pub fn failed(reason: impl Into<String>) -> Self {
        Self::new(CoverageState::Failed, reason)
    }
}

/// Reason of a [failed](CoverageState::Failed) container that ended before anything could be read of it. Agents send it and the aggregator
/// counts it.
pub const GONE_BEFORE_READING: &str = "gone before reading";

/// The Kubernetes pod of a container, as the kubelet reported it to the runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Pod {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's UID; for a static pod the hash of its manifest.
    pub uid: String,
}

/// A step of an image's build, from the `history` of its configuration
/// ([OCI image configuration](https://github.com/opencontainers/image-spec/blob/main/config.md#properties)).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Step {
    /// Index in the history, from 0.
    pub number: u32,
    /// Keyword: `RUN`, `COPY`, `ADD`, …; empty where the history does not show it.
    pub keyword: String,
    /// Time of the step, seconds since 1970; 0 where it is not known.
    pub created: i64,
    /// Text of the step; empty unless the node's operator enabled it, since it may contain secrets.
    pub text: String,
}

/// Whether a container runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// The container has a task that is created, running or paused.
    Running,
    /// The container has no task, but its sandbox runs: an init container, a finished job, a container between two starts.
    Exited,
}

/// A container runtime. The wire and the API know a container by its runtime, the runtime's namespace and the ID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Runtime {
    /// containerd; its namespaces keep `k8s.io` (Kubernetes), `moby` (Docker) and `default` (`ctr`) apart.
    #[default]
    Containerd,
    /// CRI-O, without namespaces. No agent reports it yet.
    CriO,
    /// Docker with its own storage, without namespaces. No agent reports it yet.
    Docker,
    /// Podman, without namespaces. No agent reports it yet.
    Podman,
    /// A runtime that a newer agent reports and this version does not know.
    Unknown,
}

impl Runtime {
    /// Every runtime, in the order of their names.
    pub const ALL: [Self; 5] = [Self::Containerd, Self::CriO, Self::Docker, Self::Podman, Self::Unknown];

    /// Returns the name that users see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::CriO => "cri-o",
            Self::Podman => "podman",
            Self::Docker => "docker",
            Self::Unknown => "unknown",
        }
    }

    /// Returns the runtime that the kubelet names before a container's ID and a node's runtime version: `containerd` in
    /// `containerd://4f9c`.
    pub fn from_scheme(scheme: &str) -> Self {
        Self::ALL.into_iter().find(|runtime| runtime.as_str() == scheme).unwrap_or(Self::Unknown)
    }

    /// Returns the runtime's namespace that holds the kubelet's containers; empty for runtimes without namespaces, `None` for
    /// runtimes that a kubelet does not use.
    pub const fn kubernetes_namespace(self) -> Option<&'static str> {
        match self {
            Self::Containerd => Some("k8s.io"),
            Self::CriO | Self::Docker => Some(""),
            Self::Podman | Self::Unknown => None,
        }
    }
}

impl std::fmt::Display for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Identity of a container on its node.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContainerKey {
    /// The container runtime.
    pub runtime: Runtime,
    /// The runtime's namespace, not Kubernetes'; empty for runtimes without namespaces.
    pub namespace: String,
    /// The runtime's ID of the container, unique in the namespace.
    pub id: String,
}

/// How a runtime stores a container's files, as far as it matters to who can read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Storage {
    /// One directory per layer (overlayfs): results belong to the layer and are shared.
    LayerDirectories,
    /// One directory with the merged content of all layers (native, btrfs): results belong to the container alone.
    MergedTree,
    /// Only the container's mounted root shows its files (devmapper, blockfile, EROFS, ZFS).
    MountedRoot,
}

impl Storage {
    /// Every kind of storage.
    pub const ALL: [Self; 3] = [Self::LayerDirectories, Self::MergedTree, Self::MountedRoot];

    /// Returns the name that users see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LayerDirectories => "layer-directories",
            Self::MergedTree => "merged-tree",
            Self::MountedRoot => "mounted-root",
        }
    }
}

/// One mount, as a storage driver describes it (containerd's `types.Mount`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Type: `overlay`, `bind`, `btrfs`, …; containerd 2.2 and later may prefix it with `format/`, `mkfs/` or `mkdir/`.
    pub kind: String,
    /// Source; for `bind` a path on the host.
    pub source: String,
    /// Path below the root; empty for all but multi-part mounts.
    pub target: String,
    /// Options, in the order of the response, which differs between containerd's versions and has no meaning.
    pub options: Vec<String>,
}

/// A container, as its runtime reports it.
///
/// Environment, arguments and labels are left out, since they may contain secrets. The author of the image or the pod chooses most of
/// the strings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Identity on the node.
    pub key: ContainerKey,
    /// The container's name in its pod; its ID where it has no pod.
    pub name: String,
    /// The pod, where the CRI plugin created this container.
    pub pod: Option<Pod>,
    /// The image's *name* when the container was created. Names move, so it is never an identity.
    pub image: String,
    /// Digest of the image's configuration (`sha256:…`) that the CRI plugin recorded when it created the container.
    pub image_ref: Option<String>,
    /// Whether it runs.
    pub status: Status,
    /// Whether it is a pod's sandbox (the pause container). The fields below are empty for a sandbox.
    pub sandbox: bool,
    /// Name of the storage driver (containerd: the snapshotter): `overlayfs`, `native`, `stargz`, …; empty where the runtime
    /// names none.
    pub storage_driver: String,
    /// The runtime's own name of the container's writable layer. Only the runtime's module interprets it.
    pub storage_id: String,
    /// End of the path at which the runtime mounts the container's root: `/io.containerd.runtime.v2.task/k8s.io/abc/rootfs`.
    pub root_mount: String,
    /// The names of the layers below the writable one, **newest first** (an image config's diff IDs stand base first). For layers
    /// that containerd unpacked these are chain IDs, `sha256:…`; other tools may have named theirs differently.
    pub chain: Vec<String>,
    /// Mounts of the container's root; empty where [`Self::refused`] says why they were not requested.
    pub mounts: Vec<Mount>,
    /// Image configurations that may be the container's, unparsed and untrusted. A configuration is the container's own only if the chain
    /// IDs of its diff IDs equal [`Self::chain`].
    pub configs: Vec<Vec<u8>>,
    /// Reason why the container is not read, where it is known already.
    pub refused: Option<Coverage>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_prints_as_it_is_stored() {
        for state in CoverageState::ALL {
            let word: String = state.as_str().into();
            let stored = CoverageState::deserialize(
                serde::de::value::StringDeserializer::<serde::de::value::Error>::new(word.clone()),
            );
            assert_eq!(stored, Ok(state), "{word}");
            assert_eq!(format!("{state:>12}").trim(), word);
        }
    }
}

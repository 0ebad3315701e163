//! What a runtime says of one container, and how far Outcrop could look into it.

use serde::{Deserialize, Serialize};

/// How far a container was looked into. Every container has exactly one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CoverageState {
    /// Everything that cataloguers want was read.
    Scanned,
    /// Some of it could not be read or decided.
    Partial,
    /// Not looked at yet.
    Pending,
    /// Its storage is of a kind that is not read.
    Unsupported,
    /// Beyond a limit.
    TooLarge,
    /// An error got in the way.
    Failed,
    /// The operator left it out.
    Excluded,
}

impl CoverageState {
    /// Every state.
    pub const ALL: [Self; 7] =
        [Self::Scanned, Self::Partial, Self::Pending, Self::Unsupported, Self::TooLarge, Self::Failed, Self::Excluded];

    /// The word as users see it.
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
    /// Why, in words for the operator; empty only for [`CoverageState::Scanned`].
    pub reason: String,
}

impl Coverage {
    /// A state and its reason.
    pub fn new(state: CoverageState, reason: impl Into<String>) -> Self {
        Self { state, reason: reason.into() }
    }

    /// Storage of a kind that is not read.
    pub fn unsupported(reason: impl Into<String>) -> Self {
        Self::new(CoverageState::Unsupported, reason)
    }

    /// An error got in the way.
    pub fn failed(reason: impl Into<String>) -> Self {
        Self::new(CoverageState::Failed, reason)
    }
}

/// Why a container has [failed](CoverageState::Failed) that ended before anything could be read of it: agents and the aggregator say it,
/// and count by it.
pub const GONE_BEFORE_READING: &str = "gone before reading";

/// The Kubernetes pod of a container, as the kubelet told the runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Pod {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's UID; for static pods the hash of their manifest.
    pub uid: String,
}

/// A step of an image's build, as its configuration's `history` tells of it
/// ([OCI image configuration](https://github.com/opencontainers/image-spec/blob/main/config.md#properties)).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Step {
    /// Its place in the history, from 0.
    pub number: u32,
    /// `RUN`, `COPY`, `ADD`, …; empty where that does not show.
    pub keyword: String,
    /// When, in seconds since 1970; 0 where that is not known.
    pub created: i64,
    /// Its text; empty unless the node's operator switched it on, since it may hold secrets.
    pub text: String,
}

/// Whether a container's processes live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It has a task that is created, running or paused.
    Running,
    /// It has none, but its sandbox lives: an init container, a finished job, one between two starts.
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

/// One mount as a snapshotter describes it (containerd's `types.Mount`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// `overlay`, `bind`, `btrfs`, …; containerd 2.2 and later may put `format/`, `mkfs/` or `mkdir/` before it.
    pub kind: String,
    /// What is mounted; for `bind` a path on the host.
    pub source: String,
    /// Where below the root; empty for all but multi-part mounts.
    pub target: String,
    /// As given, in the order given: the order differs between containerd's versions and means nothing.
    pub options: Vec<String>,
}

/// What a runtime says of one container.
///
/// Environment, arguments and labels are not here, since all of them may hold secrets.
/// Every string but the sandbox's and pod's may have been chosen by whoever built the image or the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Identity on the node.
    pub key: ContainerKey,
    /// The container's name in its pod; the ID where it has no pod.
    pub name: String,
    /// The pod, where the CRI plugin made this container.
    pub pod: Option<Pod>,
    /// The image's *name* as it was when the container was made. Names move: this is for people, never an identity.
    pub image: String,
    /// The digest of the image's config (`sha256:…`) that the CRI plugin recorded when it made the container.
    pub image_ref: Option<String>,
    /// Whether it runs.
    pub status: Status,
    /// Whether it is a pod's sandbox (the pause container) and not a workload. Nothing below is asked for a sandbox.
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
    /// How the runtime would mount the container's root; empty where [`Self::refused`] says why nobody asked.
    pub mounts: Vec<Mount>,
    /// Image configs that may be the container's, unparsed; each byte may be hostile. One is the container's own only if
    /// the chain IDs of its diff IDs equal [`Self::chain`].
    pub configs: Vec<Vec<u8>>,
    /// Set where it is known already that this container is not read.
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

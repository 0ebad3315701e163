//! A container as its runtime describes it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use crate::status::{Coverage, CoverageState};
use crate::word::{Word as _, words};

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

/// Properties of an image for people, most of them from its configuration
/// ([OCI image configuration](https://github.com/opencontainers/image-spec/blob/main/config.md#properties)).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ImageDetails {
    /// Time of the build, seconds since 1970; 0 where it is not known.
    pub created: i64,
    /// Operating system, architecture and variant, such as `linux/arm64/v8`; empty where they are not known.
    pub platform: String,
    /// The user that runs the image's processes unless a pod says otherwise: `NAME|UID[:GROUP|GID]`. An empty text means root.
    pub user: String,
    /// Labels of [`Self::LABELS`] that the image has.
    pub labels: BTreeMap<String, String>,
    /// Disk space of its unpacked layers on the node, bytes; 0 where it is not known.
    pub size: u64,
}

impl ImageDetails {
    /// The label with the place of the source code.
    pub const SOURCE: &str = "org.opencontainers.image.source";

    /// The labels that are reported: where the image comes from, and what it was built on
    /// ([OCI annotations](https://github.com/opencontainers/image-spec/blob/main/annotations.md)). Others may contain anything.
    pub const LABELS: [&str; 5] = [
        "org.opencontainers.image.base.name",
        "org.opencontainers.image.revision",
        Self::SOURCE,
        "org.opencontainers.image.vendor",
        "org.opencontainers.image.version",
    ];

    /// Maximum size of a text, in bytes; longer ones are cut.
    pub const MAX_TEXT: usize = 256;

    /// Returns whether the image runs as root by itself.
    pub fn is_root(&self) -> bool {
        let user = self.user.split(':').next().unwrap_or_default();
        user == "root" || user.bytes().all(|digit| digit == b'0')
    }

    /// Returns the memory of its texts, in bytes.
    pub fn weight(&self) -> usize {
        let labels: usize = self.labels.iter().map(|(key, value)| key.len() + value.len() + 64).sum();
        self.platform.len() + self.user.len() + labels
    }
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

words! {
    /// A container runtime. The wire and the API know a container by its runtime, the runtime's namespace and the ID.
    #[derive(Default)]
    pub enum Runtime {
        /// containerd; its namespaces keep `k8s.io` (Kubernetes), `moby` (Docker) and `default` (`ctr`) apart.
        #[default]
        Containerd = "containerd",
        /// CRI-O, without namespaces. No agent reports it yet.
        CriO = "cri-o",
        /// Docker with its own storage, without namespaces. No agent reports it yet.
        Docker = "docker",
        /// Podman, without namespaces. No agent reports it yet.
        Podman = "podman",
        /// A runtime that a newer agent reports and this version does not know.
        Unknown = "unknown",
    }
}

impl Runtime {
    /// Returns the runtime that the kubelet names before a container's ID and a node's runtime version: `containerd` in
    /// `containerd://4f9c`.
    pub fn from_scheme(scheme: &str) -> Self {
        Self::from_word(scheme).unwrap_or(Self::Unknown)
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

words! {
    /// Form in which a runtime stores a container's files. It determines how they can be read.
    pub enum Storage {
        /// One directory per layer (overlayfs): results belong to the layer and are shared.
        LayerDirectories = "layer-directories",
        /// One directory with the merged content of all layers (native, btrfs): results belong to the container alone.
        MergedTree = "merged-tree",
        /// Only the container's mounted root shows its files (devmapper, blockfile, EROFS, ZFS).
        MountedRoot = "mounted-root",
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
    /// Disk space of the layers below the writable one, bytes, as the runtime measured it when it unpacked them; 0 where it is not known.
    pub size: u64,
    /// Reason why the container is not read, where it is known already.
    pub refused: Option<Coverage>,
}

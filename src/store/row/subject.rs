//! Subjects: the owners of package sets.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A subject of findings. New images, re-created containers and pods do not change it.
///
/// Names are shared: thousands of subjects have the same node, namespace and container name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum SubjectKey {
    /// A container of a workload, by name, on whatever node.
    WorkloadContainer {
        /// The workload.
        workload: WorkloadKey,
        /// Name of the container.
        #[serde(with = "text")]
        container: Arc<str>,
    },
    /// A container that belongs to no known workload.
    Container {
        /// Its node.
        #[serde(with = "text")]
        node: Arc<str>,
        /// Namespace of its pod; without a pod the runtime's namespace.
        #[serde(with = "text")]
        namespace: Arc<str>,
        /// Name of the container.
        #[serde(with = "text")]
        container: Arc<str>,
    },
    /// A node, with packages of its own.
    Node {
        /// Name of the node.
        #[serde(with = "text")]
        node: Arc<str>,
    },
}

/// A workload: the topmost known owner of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkloadKey {
    /// Its namespace.
    #[serde(with = "text")]
    pub namespace: Arc<str>,
    /// API group, such as `apps`; empty for the core group.
    #[serde(with = "text")]
    pub group: Arc<str>,
    /// Kind, such as `Deployment`.
    #[serde(with = "text")]
    pub kind: Arc<str>,
    /// Name.
    #[serde(with = "text")]
    pub name: Arc<str>,
}

impl SubjectKey {
    /// Returns the node that the subject is bound to; `None` for a workload, which is bound to none.
    pub const fn node(&self) -> Option<&Arc<str>> {
        match self {
            Self::WorkloadContainer { .. } => None,
            Self::Container { node, .. } | Self::Node { node } => Some(node),
        }
    }

    /// Returns the Kubernetes namespace of a workload's container.
    pub const fn workload(&self) -> Option<&WorkloadKey> {
        match self {
            Self::WorkloadContainer { workload, .. } => Some(workload),
            Self::Container { .. } | Self::Node { .. } => None,
        }
    }
}

/// Shared text as a plain string.
mod text {
    use super::{Arc, Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
        String::deserialize(deserializer).map(Into::into)
    }
}

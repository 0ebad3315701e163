//! Messages between the process that holds the runtime's socket and the process that reads storage.

use std::path::PathBuf;

use outcrop_proto::{Container, ContainerKey};
use serde::{Deserialize, Serialize};

use crate::usage::Usage;

/// A storage driver that the runtime has loaded (containerd: a snapshotter).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StorageDriver {
    /// Name of the driver: `overlayfs`.
    pub name: String,
    /// Directory of its storage on the host; remote ("proxy") drivers may not report one.
    pub root: Option<PathBuf>,
}

/// The information that is missing because of a [`Gap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Lacks {
    /// Whether there are further namespaces: those of an earlier list were used.
    Namespaces,
    /// The list of the namespace's containers. A container that is not listed may exist.
    Containers,
    /// The states of the namespace's containers. A container that is listed may have ended.
    States,
    /// The details of containers on a storage driver. The gap's namespace is the driver's name.
    Details,
    /// Starts and ends of containers between two lists.
    Events,
}

/// A part of a list that the runtime did not answer. The rest of the list is valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The missing information.
    pub lacks: Lacks,
    /// Namespace of the runtime; empty where the gap concerns all of them.
    pub namespace: String,
    /// The cause, with a hint.
    pub reason: String,
}

/// A list of containers, and what it lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The containers, sorted by key.
    pub containers: Vec<Container>,
    /// Gaps of the list; empty for a complete list.
    pub gaps: Vec<Gap>,
}

/// A container that was started, as the runtime reported it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Start {
    /// Key of the container.
    pub key: ContainerKey,
    /// Name of the image; empty where the runtime did not report it.
    pub image: String,
}

/// The identity of a container's storage. If it differs after a scan, the result of the scan is discarded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    pub(super) key: ContainerKey,
    pub(super) storage_driver: String,
    pub(super) storage_id: String,
    pub(super) chain: Vec<String>,
}

impl From<&Container> for Pin {
    fn from(container: &Container) -> Self {
        Self {
            key: container.key.clone(),
            storage_driver: container.storage_driver.clone(),
            storage_id: container.storage_id.clone(),
            chain: container.chain.clone(),
        }
    }
}

/// A request; the next one may be sent when the response to the last one has ended.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Request {
    /// Answered with any number of [`Reply::Container`] and [`Reply::Gap`], then [`Reply::End`].
    List { namespaces: Vec<String> },
    /// Like `List`, without the details of each container, which [`Request::Describe`] requests.
    Plan,
    /// Answered with [`Reply::Container`], or with [`Reply::End`] where the container is gone.
    Describe(Box<Container>),
    /// Answered with [`Reply::Same`]: whether the container still stands on the same layers.
    Recheck(Pin),
    /// Answered with [`Reply::Same`]: whether the layers below a container still exist, even if the container is gone.
    Stand(Pin),
    /// Answered with [`Reply::Usage`].
    Usage,
    /// Answered with [`Reply::StorageDrivers`].
    StorageDrivers,
    /// Answered with [`Reply::End`]; from then on a [`Reply::Changed`] may come between responses.
    Watch,
}

/// A response, or a part of one.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Reply {
    /// Sent once, without a request: the process is connected to its runtime and has entered this cage.
    Ready { socket: String, version: String, cage: String },
    /// One container of a list. One per message, so that the largest container bounds the memory.
    Container(Box<Container>),
    /// A part of a list that is missing.
    Gap(Gap),
    /// End of a list.
    End,
    /// Whether the compared state is the same.
    Same(bool),
    /// The storage drivers.
    StorageDrivers(Vec<StorageDriver>),
    /// Memory and processor time of the process.
    Usage(Usage),
    /// Sent without a request, between responses: containers started or ended since the last such message. Those that
    /// started are listed, since a container may be gone before the next list.
    Changed(Vec<Start>),
    /// The request failed, with the reason for the user. It ends the response.
    Failed(String),
}

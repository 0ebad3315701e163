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
    /// Answered with any number of [`Reply::Container`], then [`Reply::End`].
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

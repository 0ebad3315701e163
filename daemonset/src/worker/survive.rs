//! Checks which paths a container's mounted root shows, where opaque marks could not be read.

use std::os::fd::{AsFd as _, OwnedFd};

use overlayfs_reader::Layer;
use serde::{Deserialize, Serialize};

/// Whether a container's mounted root shows a path of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Survival {
    /// The root shows the path.
    Present,
    /// The root does not show the path, and nothing that the container wrote can be the cause: the image hides it.
    Absent,
    /// The root does not show the path, but the container itself may have removed it.
    Inconclusive,
}

impl From<overlayfs_reader::Survival> for Survival {
    fn from(survival: overlayfs_reader::Survival) -> Self {
        match survival {
            overlayfs_reader::Survival::Present => Self::Present,
            overlayfs_reader::Survival::Absent => Self::Absent,
            overlayfs_reader::Survival::Inconclusive => Self::Inconclusive,
        }
    }
}

/// Checks `paths`; the handles are the mounted root and, if there is one, the writable layer.
pub(super) fn survive(handles: Vec<OwnedFd>, paths: &[Vec<u8>]) -> Result<Vec<u8>, String> {
    let mut handles = handles.into_iter();
    let root = handles.next().ok_or("the job requires a root directory")?;
    let upper = handles.next().map(Layer::from_fd).transpose().map_err(|error| error.to_string())?;
    let survivals: Result<Vec<Survival>, String> = overlayfs_reader::survives(root.as_fd(), upper.as_ref(), paths)
        .into_iter()
        .map(|survival| survival.map(Survival::from).map_err(|error| error.to_string()))
        .collect();
    postcard::to_stdvec(&survivals?).map_err(|error| error.to_string())
}

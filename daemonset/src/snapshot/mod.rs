//! Locates the directories of a container's layers.
//!
//! [`locate`] converts the mounts of a storage driver into layer roots below the host's mount point. It is a pure function: it opens nothing,
//! so nothing can be fetched, and every unknown form of mounts gives a [`Coverage`] with its reason, never a guess.

mod host_path;
mod native;
mod overlay;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use outcrop_proto::{Container, Coverage, CoverageState, Mount};

/// The directories from which a container's root file system can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Located {
    /// One directory per layer: results belong to the layer and can be shared.
    Stack(Stack),
    /// One directory with the merged content.
    Merged(Merged),
    /// It is not read, for this reason.
    Not(Coverage),
}

/// The layer roots below one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    /// Read-only layers, **newest first**, one for one with [`Container::chain`]. Empty for an image without layers.
    pub layers: Vec<Layer>,
    /// The container's writable layer, if it has one: live, and written by the container's processes.
    pub upper: Option<PathBuf>,
    /// Whether overlayfs stores its marks in `user.overlay.*` instead of `trusted.overlay.*`.
    pub userxattr: bool,
}

/// Root of one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Name of the snapshot, the element of [`Container::chain`] for this layer: usually a chain ID.
    pub snapshot: String,
    /// Directory below the host prefix.
    pub root: PathBuf,
}

/// A container's copy of the merged tree, with the container's own changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// Directory below the host prefix.
    pub root: PathBuf,
    /// The best coverage that reading it can give, since drift cannot be separated from the image. Results are not shared.
    pub best: Coverage,
}

/// Finds a container's layer roots below `host_prefix`, the directory at which the host's root is mounted (`/` on the host itself).
pub fn locate(container: &Container, host_prefix: &Path) -> Located {
    try_locate(container, host_prefix).unwrap_or_else(Located::Not)
}

fn try_locate(container: &Container, host_prefix: &Path) -> Result<Located, Coverage> {
    if container.sandbox {
        return Err(Coverage::new(CoverageState::Excluded, "it is a pod's sandbox and runs only the pause program"));
    }
    if let Some(refused) = &container.refused {
        return Err(refused.clone());
    }
    let snapshotter = container.storage_driver.as_str();
    let mount = match snapshotter {
        "overlayfs" | "native" => the_mount(&container.mounts)?,
        "" => return Err(Coverage::unsupported("its record names no snapshotter: another program keeps its storage")),
        _ => return Err(Coverage::unsupported(unread(snapshotter))),
    };
    if snapshotter == "native" {
        return native::locate(mount, host_prefix).map(Located::Merged);
    }
    overlay::locate(mount, &container.chain, host_prefix).map(Located::Stack)
}

/// Returns the only mount; several mounts, or a mount with a target, are not supported.
fn the_mount(mounts: &[Mount]) -> Result<&Mount, Coverage> {
    match mounts {
        [mount] if mount.target.is_empty() => Ok(mount),
        [mount] => Err(Coverage::unsupported(format!("its mount goes to a place of its own, {:?}", mount.target))),
        [] => Err(Coverage::failed("the snapshotter answered without a mount")),
        _ => {
            Err(Coverage::unsupported(format!("its root is made of {} mounts, where one is understood", mounts.len())))
        }
    }
}

/// Returns the reason why the storage of a driver is not read.
fn unread(snapshotter: &str) -> String {
    let why = match snapshotter {
        "fuse-overlayfs" => "it marks removed files in ways of its own (.wh. files, user.fuseoverlayfs attributes)",
        "btrfs" => "it keeps subvolumes that hold the merged tree and are mounted only for their container",
        "zfs" => "it keeps datasets that are mounted only for their container",
        "devmapper" | "blockfile" => "it keeps block devices, and no filesystem is mounted to read them",
        "erofs" => "it keeps each layer as an EROFS image file",
        _ => "nothing is known of how it keeps layers",
    };
    format!("storage of the snapshotter {snapshotter:?} is not read: {why}")
}

/// Returns the coverage for a mount of an unknown type.
fn unknown_kind(snapshotter: &str, mount: &Mount) -> Coverage {
    match mount.kind.split_once('/') {
        Some((step @ ("format" | "mkfs" | "mkdir"), _)) => Coverage::unsupported(format!(
            "the snapshotter {snapshotter} answered with a mount of type {:?}, and only containerd can take the step {step:?}",
            mount.kind
        )),
        _ => Coverage::unsupported(format!(
            "the snapshotter {snapshotter} answered with a mount of type {:?}, which is not known for it",
            mount.kind
        )),
    }
}

/// Returns whether a bind mount is read-only; `Err` where its options are missing or contradictory.
fn bind_is_read_only(mount: &Mount) -> Result<bool, Coverage> {
    let mut read_only = None;
    for option in &mount.options {
        let says = match option.as_str() {
            "ro" => true,
            "rw" => false,
            "bind" | "rbind" => continue,
            // Owners are mapped; the content is the same.
            mapped if mapped.starts_with("uidmap=") || mapped.starts_with("gidmap=") => continue,
            other => return Err(Coverage::unsupported(format!("its bind mount has the unknown option {other:?}"))),
        };
        if read_only.replace(says).is_some_and(|before| before != says) {
            return Err(Coverage::unsupported("its bind mount says both ro and rw"));
        }
    }
    read_only.ok_or_else(|| Coverage::unsupported("its bind mount says neither ro nor rw"))
}

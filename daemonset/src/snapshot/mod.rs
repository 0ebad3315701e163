//! Where do a container's bytes lie?
//!
//! [`locate`] turns the mounts that a snapshotter answered with into layer roots below the host's mount point. It is a
//! pure function: nothing is opened, so nothing can be fetched, and every shape that it does not know ends in a
//! [`Coverage`] with its reason, never in a guess.

mod host_path;
mod native;
mod overlay;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use outcrop_proto::{Container, Coverage, CoverageState, Mount};

/// Where a container's root filesystem can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Located {
    /// Layer directories, each kept apart: what is read there belongs to the layer and can be shared.
    Stack(Stack),
    /// One directory that holds everything.
    Merged(Merged),
    /// It is not read, and why.
    Not(Coverage),
}

/// The layer roots below one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    /// Read-only layers, **newest first**, one for one with [`Container::chain`]. Empty for an image without layers.
    pub layers: Vec<Layer>,
    /// The container's own writable layer, if it has one: live, and written by whoever runs in it.
    pub upper: Option<PathBuf>,
    /// Whether overlayfs keeps its marks in `user.overlay.*` here and not in `trusted.overlay.*`.
    pub userxattr: bool,
}

/// One layer's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The snapshot's name, the element of [`Container::chain`] that this layer ends: usually a chain ID.
    pub snapshot: String,
    /// Its directory below the host prefix.
    pub root: PathBuf,
}

/// A container's own copy of everything, image and what it wrote itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// Its directory below the host prefix.
    pub root: PathBuf,
    /// The best coverage that reading it can give, since drift cannot be told from the image. Nothing read here is shared.
    pub best: Coverage,
}

/// Finds a container's layer roots below `host_prefix`, the place where the host's root is seen (`/` on the host itself).
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

/// The only mount; several, or one with a place of its own, are a construction that is not understood.
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

/// Why the storage of a snapshotter is not read.
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

/// What a mount of an unknown type is called in a reason.
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

/// Whether a bind mount is read-only; `Err` where its options do not say it in exactly one way.
fn bind_is_read_only(mount: &Mount) -> Result<bool, Coverage> {
    let mut read_only = None;
    for option in &mount.options {
        let says = match option.as_str() {
            "ro" => true,
            "rw" => false,
            "bind" | "rbind" => continue,
            // Owners are shown shifted; the bytes below are the same.
            mapped if mapped.starts_with("uidmap=") || mapped.starts_with("gidmap=") => continue,
            other => return Err(Coverage::unsupported(format!("its bind mount has the unknown option {other:?}"))),
        };
        if read_only.replace(says).is_some_and(|before| before != says) {
            return Err(Coverage::unsupported("its bind mount says both ro and rw"));
        }
    }
    read_only.ok_or_else(|| Coverage::unsupported("its bind mount says neither ro nor rw"))
}

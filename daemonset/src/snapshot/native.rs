//! The `native` snapshotter: a full copy per snapshot.

use std::path::Path;

use outcrop_proto::{Coverage, CoverageState, Mount};

use super::{Merged, bind_is_read_only, host_path, unknown_kind};

/// Returns the container's copy. The copies of its layers are unknown: the mounts of a running container name its own copy only.
pub(super) fn locate(mount: &Mount, prefix: &Path) -> Result<Merged, Coverage> {
    if mount.kind != "bind" {
        return Err(unknown_kind("native", mount));
    }
    bind_is_read_only(mount)?;
    let root = host_path::below(prefix, &mount.source)?;
    let best = Coverage::new(
        CoverageState::Partial,
        "the native snapshotter keeps one merged copy, so files written by the container cannot be distinguished from the image's",
    );
    Ok(Merged { root, best })
}

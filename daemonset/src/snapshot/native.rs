//! The `native` snapshotter: a full copy for each snapshot.

use std::path::Path;

use outcrop_proto::{Coverage, CoverageState, Mount};

use super::{Merged, bind_is_read_only, host_path, unknown_kind};

/// The container's own copy. The copies of its layers stay unknown: the mounts of a running container name only its own.
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

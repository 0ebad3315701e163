//! Paths of the host, through the mount of the host's root.

use std::path::{Path, PathBuf};

use outcrop_proto::Coverage;

/// Linux's PATH_MAX.
const MAX_PATH: usize = 4096;

/// Returns an absolute path of the host below `prefix`.
///
/// Refuses relative paths, `.`, `..` and empty components, which containerd never writes, and bytes with a special meaning in the kernel's
/// option syntax.
pub(super) fn below(prefix: &Path, path: &str) -> Result<PathBuf, Coverage> {
    let refuse = |why: &str| Coverage::failed(format!("the snapshotter returned the path {path:?}, which {why}"));
    let Some(relative) = path.strip_prefix('/') else {
        return Err(refuse("is not absolute"));
    };
    if path.len() > MAX_PATH {
        return Err(Coverage::failed(format!("the snapshotter returned a path of {} bytes", path.len())));
    }
    if relative.split('/').any(|element| matches!(element, "" | "." | "..")) {
        return Err(refuse("has an empty, \".\" or \"..\" element"));
    }
    // containerd joins paths with ':' and ',' without escapes.
    if relative.contains(['\\', ':', ',', '\0']) {
        return Err(refuse("contains a character that overlayfs options cannot contain without an escape"));
    }
    Ok(prefix.join(relative))
}

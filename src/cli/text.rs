//! Untrusted strings as text for a terminal.

pub(super) use outcrop_proto::escape::escape;

/// Returns a path as text with a leading slash; bytes that are not UTF-8 are replaced.
pub(super) fn path(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}

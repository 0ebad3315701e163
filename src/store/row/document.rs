//! Rows of documents that targets keep, and of what documents are written from.

use outcrop_proto::Digest;

/// A document that a target accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentRow {
    /// Its name, unique for the target.
    pub name: String,
    /// Digest of the content.
    pub digest: Digest,
    /// Size of the content, bytes.
    pub size: u64,
    /// The target's own identifier of it, where it has one.
    pub remote: Option<String>,
    /// Whether a snapshot began since the target accepted it. Then it is sent again, or removed when the snapshot ends.
    pub stale: bool,
}

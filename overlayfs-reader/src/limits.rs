//! Limits on the work that a layer can cause.

/// Limits, with defaults that real images never reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of entries in one walk.
    pub entries: u64,
    /// Maximum number of entries in one directory.
    pub directory_entries: u64,
    /// Maximum size of a path, bytes.
    pub path_bytes: usize,
    /// Maximum number of directories above an entry. A walk holds one handle per level.
    pub depth: usize,
    /// Maximum size of all attribute names of one directory, bytes.
    pub xattr_bytes: usize,
    /// Maximum number of symbolic links followed for one path.
    pub hops: usize,
    /// Maximum number of names that a stack looks up in its layers to follow symbolic links, for all paths together.
    pub lookups: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 20_000_000,
            directory_entries: 2_000_000,
            path_bytes: 4095,
            depth: 400,
            xattr_bytes: 64 << 10,
            hops: 40,
            lookups: 500_000,
        }
    }
}

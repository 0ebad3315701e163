//! Bounds on what a layer can make its reader do.

/// Bounds, with defaults that real images never reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries met in one walk.
    pub entries: u64,
    /// Entries of one directory.
    pub directory_entries: u64,
    /// Bytes of a path.
    pub path_bytes: usize,
    /// Directories above an entry. A walk holds one handle a level.
    pub depth: usize,
    /// Bytes of all attribute names of one directory.
    pub xattr_bytes: usize,
    /// Symbolic links followed for one path.
    pub hops: usize,
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
        }
    }
}

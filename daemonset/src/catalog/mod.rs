//! Bytes → facts: one file an ecosystem, and one registry of all.
//!
//! A [`Cataloguer`] says which paths it wants and is a pure function from the bytes of one evidence (or a declared group
//! of files) to a [`Fact`]. It knows nothing of layers, containers or processes, opens nothing, and may be handed the
//! bytes of an attacker: it answers with an error, within bounded time and memory.

mod apk;
mod collect;
mod digests;
mod dpkg;
mod field;
mod golang;
mod inflate;
mod java;
mod lines;
mod npm;
mod os_release;
mod python;
mod rpm;
mod zip;

use std::io;

use outcrop_proto::{Fact, KnownPath};

/// Grows whenever a cataloguer would answer differently for the same bytes; never goes back.
pub const VERSION: u32 = 1;

/// How much of an evidence a text cataloguer reads, bytes. The largest dpkg status files of real images have 5 MB.
pub const MAX_TEXT: u64 = 64 << 20;

/// Every cataloguer. The first that wants a path gets it.
pub const ALL: &[&dyn Cataloguer] = &[
    &os_release::OsRelease,
    &dpkg::Dpkg,
    &apk::Apk,
    &rpm::Rpm,
    &python::Python,
    &npm::Npm,
    &java::Java,
    &golang::Golang,
];

/// Paths that are evidence wherever symbolic links lead them: of package databases and of the distribution's name.
pub const KNOWN: &[KnownPath] = &[
    KnownPath { path: "etc/os-release", database: false },
    KnownPath { path: "usr/lib/os-release", database: false },
    KnownPath { path: "var/lib/dpkg/status", database: true },
    KnownPath { path: "lib/apk/db/installed", database: true },
    KnownPath { path: "usr/lib/apk/db/installed", database: true },
    KnownPath { path: "var/lib/rpm/rpmdb.sqlite", database: true },
    KnownPath { path: "var/lib/rpm/Packages.db", database: true },
    KnownPath { path: "var/lib/rpm/Packages", database: true },
    KnownPath { path: "usr/lib/sysimage/rpm/rpmdb.sqlite", database: true },
    KnownPath { path: "usr/lib/sysimage/rpm/Packages.db", database: true },
];

/// Whether a path is evidence for a cataloguer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// No.
    No,
    /// Yes, if it is a regular file.
    Yes,
    /// Only if it is a regular file with an execute bit, which costs a `stat`.
    IfExecutable,
}

/// Bytes that can be read at any offset: an open file, or memory.
pub trait Source {
    /// Size in bytes, as it was when the source was opened.
    fn size(&self) -> u64;

    /// Reads at `offset` into `buf`, and says how many bytes; fewer than asked only at the end.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// All bytes, refused when there are more than `limit`.
    fn bytes(&self, limit: u64) -> Result<Vec<u8>, CatalogError> {
        let size = self.size();
        if size > limit {
            return Err(CatalogError::TooLarge { size, limit });
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        let read = self.read_at(0, &mut bytes)?;
        bytes.truncate(read);
        Ok(bytes)
    }
}

impl Source for &[u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.len());
        let count = buf.len().min(self.len() - start);
        buf[..count].copy_from_slice(&self[start..start + count]);
        Ok(count)
    }
}

/// One file to read, with the companions that its cataloguer declared.
#[derive(Clone, Copy)]
pub struct Evidence<'a> {
    /// Path from the image's root, without a leading slash.
    pub path: &'a [u8],
    /// Its bytes.
    pub source: &'a dyn Source,
    /// Those of [`Cataloguer::companions`] that exist, in the order declared: `(path, bytes)`.
    pub companions: &'a [(&'a [u8], &'a dyn Source)],
}

impl std::fmt::Debug for Evidence<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evidence").field("path", &self.path.escape_ascii().to_string()).finish_non_exhaustive()
    }
}

/// Reads one ecosystem's evidence.
pub trait Cataloguer: Sync {
    /// Short name, as in messages and in the inventory: `dpkg`, `npm`.
    fn name(&self) -> &'static str;

    /// Whether `path` (from the image's root, no leading slash) is evidence. Called once for every path of a layer: fast.
    fn wants(&self, path: &[u8]) -> Want;

    /// Whether `path` is a package **database**: the container is `partial` when it cannot be read.
    fn is_database(&self, _path: &[u8]) -> bool {
        false
    }

    /// Paths whose bytes belong together with those of `path` (SQLite and its write-ahead log).
    fn companions(&self, _path: &[u8]) -> Vec<Vec<u8>> {
        Vec::new()
    }

    /// What the evidence says.
    ///
    /// # Errors
    /// When the bytes are not what their name promised, or exceed a bound.
    fn read(&self, evidence: &Evidence<'_>) -> Result<Fact, CatalogError>;
}

/// Why an evidence could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// More bytes than this format has in any real image.
    #[error("{size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// Bytes that there are.
        size: u64,
        /// Bytes that would be read.
        limit: u64,
    },
    /// A bound other than the size: entries, depth, inflated bytes.
    #[error("more {what} than the limit of {limit}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much is allowed.
        limit: u64,
    },
    /// The bytes contradict their format.
    #[error("not a valid {format}: {reason}")]
    Malformed {
        /// The format that the path promised.
        format: &'static str,
        /// What is wrong, and where.
        reason: String,
    },
    /// A variant of the format that is recognised but not read.
    #[error("{0} is not read yet")]
    Unsupported(&'static str),
    /// The file could not be read.
    #[error("reading failed: {0}")]
    Io(#[from] io::Error),
}

impl CatalogError {
    /// A [`CatalogError::Malformed`].
    pub fn malformed(format: &'static str, reason: impl Into<String>) -> Self {
        Self::Malformed { format, reason: reason.into() }
    }
}

/// Whether a package database's claim on `path` is worth keeping: only files that could be evidence are ever asked for.
pub fn could_be_evidence(path: &[u8]) -> bool {
    ALL.iter().any(|cataloguer| cataloguer.wants(path) != Want::No)
}

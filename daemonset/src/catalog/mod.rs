//! Catalogers: one file per ecosystem, and the registry of all of them.
//!
//! A [`Cataloger`] selects paths, and is a pure function from the bytes of one piece of evidence (or a declared group of files) to a
//! [`Fact`]. It knows nothing about layers, containers or processes and opens no file. Its input is not trusted: it returns an error within
//! bounded time and memory.

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

/// Version of the set of catalogers: it increases whenever a cataloger returns another fact for the same bytes, and never decreases.
pub const VERSION: u32 = 3;

/// Maximum size of text evidence, bytes. The largest dpkg status files of real images have 5 MB.
pub const MAX_TEXT: u64 = 64 << 20;

/// The registry. The first cataloger that wants a path reads it.
pub const ALL: &[&dyn Cataloger] = &[
    &os_release::OsRelease,
    &dpkg::Dpkg,
    &apk::Apk,
    &rpm::Rpm,
    &python::Python,
    &npm::Npm,
    &java::Java,
    &golang::Golang,
];

/// Paths of package databases and `os-release`, which are evidence wherever symbolic links lead. Directories whose files have any name, such
/// as `var/lib/dpkg/status.d`, cannot be among them.
pub const KNOWN: &[KnownPath] = &[
    KnownPath { path: "etc/os-release", cataloger: "os-release", database: false },
    KnownPath { path: "usr/lib/os-release", cataloger: "os-release", database: false },
    database("dpkg", "var/lib/dpkg/status"),
    database("apk", "lib/apk/db/installed"),
    database("apk", "usr/lib/apk/db/installed"),
    database("rpm", "var/lib/rpm/rpmdb.sqlite"),
    database("rpm", "var/lib/rpm/Packages.db"),
    database("rpm", "var/lib/rpm/Packages"),
    database("rpm", "usr/lib/sysimage/rpm/rpmdb.sqlite"),
    database("rpm", "usr/lib/sysimage/rpm/Packages.db"),
    database("rpm", "usr/lib/sysimage/rpm/Packages"),
    database("rpm", "usr/share/rpm/rpmdb.sqlite"),
    database("rpm", "usr/share/rpm/Packages.db"),
    database("rpm", "usr/share/rpm/Packages"),
    database("rpm", "var/lib/rpmmanifest/container-manifest-2"),
];

const fn database(cataloger: &'static str, path: &'static str) -> KnownPath {
    KnownPath { path, cataloger, database: true }
}

/// Whether a cataloger wants a path.
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

    /// Reads at `offset` into `buf` and returns the number of bytes; fewer than `buf` holds only at the end.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Returns all bytes; an error if there are more than `limit`.
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

/// A piece of evidence, with the companion files that its cataloger declared.
#[derive(Clone, Copy)]
pub struct Evidence<'a> {
    /// Path from the image's root, without a leading slash.
    pub path: &'a [u8],
    /// Its bytes.
    pub source: &'a dyn Source,
    /// The existing files of [`Cataloger::companions`], in the declared order: `(path, bytes)`.
    pub companions: &'a [(&'a [u8], &'a dyn Source)],
}

impl std::fmt::Debug for Evidence<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evidence").field("path", &self.path.escape_ascii().to_string()).finish_non_exhaustive()
    }
}

/// Reads the evidence of one ecosystem.
pub trait Cataloger: Sync {
    /// Returns the short name, for messages and the inventory: `dpkg`, `npm`.
    fn name(&self) -> &'static str;

    /// Returns whether `path` (from the image's root, without a leading slash) is evidence. Called for every path of a layer, so it must
    /// be fast.
    fn wants(&self, path: &[u8]) -> Want;

    /// Returns whether `path` is a package **database**: if it cannot be read, the container is `partial`.
    fn is_database(&self, _path: &[u8]) -> bool {
        false
    }

    /// Returns the paths that must be read together with `path` (SQLite and its write-ahead log).
    fn companions(&self, _path: &[u8]) -> Vec<Vec<u8>> {
        Vec::new()
    }

    /// Reads the evidence into a fact.
    ///
    /// # Errors
    /// When the bytes contradict the format, or exceed a limit.
    fn read(&self, evidence: &Evidence<'_>) -> Result<Fact, CatalogError>;
}

/// Reason why evidence could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The file is larger than the limit of its format.
    #[error("{size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// Size of the file, in bytes.
        size: u64,
        /// Maximum, in bytes.
        limit: u64,
    },
    /// A limit other than the size: entries, depth, inflated bytes.
    #[error("more {what} than the limit of {limit}")]
    Limit {
        /// Name of the limited amount.
        what: &'static str,
        /// Maximum.
        limit: u64,
    },
    /// The bytes contradict their format.
    #[error("not a valid {format}: {reason}")]
    Malformed {
        /// Format that the path implies.
        format: &'static str,
        /// Defect, with its position.
        reason: String,
    },
    /// A variant of the format that is recognized but not supported.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    /// The file could not be read.
    #[error("reading failed: {0}")]
    Io(#[from] io::Error),
}

impl CatalogError {
    /// Creates a [`CatalogError::Malformed`].
    pub fn malformed(format: &'static str, reason: impl Into<String>) -> Self {
        Self::Malformed { format, reason: reason.into() }
    }
}

/// Returns whether a package database's claim on `path` is kept: only claims on possible evidence are used.
pub fn could_be_evidence(path: &[u8]) -> bool {
    ALL.iter().any(|cataloger| cataloger.wants(path) != Want::No)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_paths_are_evidence_of_the_cataloger_that_they_name() {
        for KnownPath { path, cataloger, database } in KNOWN {
            let path = path.as_bytes();
            let first = ALL.iter().find(|cataloger| cataloger.wants(path) != Want::No).expect("a cataloger");
            assert_eq!((first.name(), first.is_database(path)), (*cataloger, *database), "{}", path.escape_ascii());
        }
        for home in ["var/lib/rpm", "usr/lib/sysimage/rpm", "usr/share/rpm"] {
            for name in ["rpmdb.sqlite", "Packages.db", "Packages"] {
                assert!(KNOWN.iter().any(|known| known.path == format!("{home}/{name}")), "{home}/{name}");
            }
        }
    }
}

//! Collects a fact within limits that keep hostile evidence from filling memory.

use std::collections::BTreeSet;
use std::mem::size_of;

use outcrop_proto::merge::UNREADABLE_PACKAGES;
use outcrop_proto::{Claim, Fact, FileDigest, Package};

use super::field::MAX_FIELD;
use super::{CatalogError, could_be_evidence};

/// Maximum size of a declared license, in bytes; longer ones are omitted. RPM's `texlive` declares 2 KB.
const MAX_LICENSE: usize = 8 << 10;

/// Maximum memory for the packages of one piece of evidence, in bytes: about 100,000 packages, more than any distribution has.
const MAX_PACKAGE_BYTES: usize = 32 << 20;

/// Maximum memory for the claims of one piece of evidence, in bytes: about 100,000 claims.
const MAX_CLAIM_BYTES: usize = 16 << 20;

/// Maximum size of all file names that are examined for claims, in bytes, with [`PATH_COST`] for each name. It limits the time for long names
/// and for many names. The 300,000 files of a desktop have 45 MB.
const MAX_PATH_BYTES: usize = 256 << 20;

/// Cost of examining a file name of any length, in bytes.
const PATH_COST: usize = 64;

/// Maximum size of a claimed path: Linux's PATH_MAX.
const MAX_PATH: usize = 4096;

/// Maximum number of warnings of one piece of evidence.
const MAX_WARNINGS: usize = 32;

/// Gathers packages, claims and warnings.
#[derive(Default)]
pub(super) struct Collector {
    fact: Fact,
    warnings: BTreeSet<String>,
    left_out: u64,
    unreadable: u64,
    package_bytes: usize,
    claim_bytes: usize,
    path_bytes: usize,
}

/// Returns a field as text, trimmed, with invalid UTF-8 replaced.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.trim_ascii()).into_owned()
}

impl Collector {
    /// Adds a package, or counts it as [unreadable](Self::unreadable) if a field is too long.
    pub(super) fn package(&mut self, mut package: Package) -> Result<(), CatalogError> {
        package.licenses.retain(|license| license.len() <= MAX_LICENSE);
        let source = package.source.iter().flat_map(|source| [&source.name, &source.version]);
        let optional = [&package.arch, &package.vendor, &package.module, &package.inner].into_iter().flatten();
        let identifying = [&package.name, &package.version].into_iter().chain(source).chain(optional);
        let mut bytes = size_of::<Package>() + package.licenses.iter().map(String::len).sum::<usize>();
        for field in identifying {
            if field.len() > MAX_FIELD {
                let start: String = package.name.chars().take(64).collect();
                self.unreadable(format!("package {start:?} is left out: a field of {} bytes", field.len()));
                return Ok(());
            }
            bytes += field.len();
        }
        self.package_bytes += bytes;
        if self.package_bytes > MAX_PACKAGE_BYTES {
            return Err(CatalogError::Limit { what: "bytes of packages", limit: MAX_PACKAGE_BYTES as u64 });
        }
        self.fact.packages.push(package);
        Ok(())
    }

    /// Records that `package` installed `path`, if `path` could be evidence. `digest` is called only then.
    ///
    /// A claim that exceeds a limit causes a warning: without its claim, a package counts as the application's own.
    pub(super) fn claim(&mut self, path: &[u8], package: &str, digest: impl FnOnce() -> Option<FileDigest>) {
        let path = path.strip_prefix(b"./").unwrap_or(path);
        let path = path.strip_prefix(b"/").unwrap_or(path);
        self.path_bytes = self.path_bytes.saturating_add(path.len() + PATH_COST);
        if self.path_bytes > MAX_PATH_BYTES {
            return self.warn("more file names than the limit");
        }
        if path.len() > MAX_PATH || package.len() > MAX_FIELD || !could_be_evidence(path) {
            return;
        }
        let bytes = size_of::<Claim>() + path.len() + package.len();
        if self.claim_bytes + bytes > MAX_CLAIM_BYTES {
            return self.warn("more claims than the limit");
        }
        self.claim_bytes += bytes;
        self.fact.claims.push(Claim { path: path.to_vec(), package: package.to_owned(), digest: digest() });
    }

    /// Returns whether no further claim fits, so that the caller can stop looking for files.
    pub(super) const fn claims_are_full(&self) -> bool {
        self.path_bytes > MAX_PATH_BYTES
    }

    /// Records a part of the evidence that could not be read. Equal sentences count once.
    pub(super) fn warn(&mut self, warning: impl Into<String>) {
        let warning = warning.into();
        if self.warnings.len() < MAX_WARNINGS || self.warnings.contains(&warning) {
            self.warnings.insert(warning);
        } else {
            self.left_out += 1;
        }
    }

    /// Records a package that the database lists as installed and that could not be read: it makes the container `partial`.
    pub(super) fn unreadable(&mut self, warning: impl Into<String>) {
        self.unreadable += 1;
        self.warn(warning);
    }

    /// Returns the fact of a package database in its canonical order.
    ///
    /// # Errors
    /// When packages were [unreadable](Self::unreadable) and no other was added: the database then says nothing of what is installed.
    pub(super) fn finish_database(mut self, format: &'static str) -> Result<Fact, CatalogError> {
        let (unreadable, listed) = (self.unreadable, self.fact.packages.len() as u64);
        if unreadable > 0 {
            let count = format!("{unreadable} of {} {UNREADABLE_PACKAGES}", listed + unreadable);
            if listed == 0 {
                let first = self.warnings.first().map(|first| format!(": {first}")).unwrap_or_default();
                return Err(CatalogError::malformed(format, count + &first));
            }
            self.fact.warnings.push(count);
        }
        Ok(self.finish())
    }

    /// Returns the fact in its canonical order.
    pub(super) fn finish(mut self) -> Fact {
        self.fact.warnings.extend(self.warnings);
        if self.left_out > 0 {
            self.fact.warnings.push(format!("{} more warnings", self.left_out));
        }
        self.fact.normalize();
        self.fact
    }
}

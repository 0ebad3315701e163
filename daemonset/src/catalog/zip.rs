//! Zip archives, read by ranges: only the directory and the wanted entries are read.
//!
//! [`rawzip`] finds the entries; this module limits their cost by the [`Work`] that all archives of one piece of evidence share. Format: [APPNOTE.TXT](https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT).

use std::cell::Cell;
use std::io;

use rawzip::{CompressionMethod, ErrorKind, MAX_CENTRAL_DIRECTORY_RECORD_SIZE, ReaderAt, ZipLocator};

use super::inflate::{Budget, inflate, read_at_most};
use super::{CatalogError, Source};

/// Maximum number of bytes that are inflated or digested for one piece of evidence, over all its archives. The largest war files of Jenkins
/// and its plugins have 400 MB.
const MAX_BYTES: u64 = 1 << 30;

/// Maximum number of entries that are examined for one piece of evidence, over all its archives. Fat jars have 100,000.
const MAX_ENTRIES: u64 = 2_000_000;

/// Maximum number of selected entries for one piece of evidence: nested archives, and files that describe an archive.
const MAX_WANTED: u64 = 20_000;

/// Maximum distance of the end-of-directory record from the end of the archive: its own 22 bytes and the longest comment.
const MAX_COMMENT: u64 = 22 + 65_535;

/// Maximum size of a path inside an archive, in bytes.
const MAX_NAME: usize = 1024;

/// The remaining budget for one piece of evidence, and the buffer that its archives share.
pub(super) struct Work {
    /// Bytes to inflate or digest.
    pub(super) budget: Budget,
    entries: Cell<u64>,
    wanted: Cell<u64>,
    buffer: Vec<u8>,
}

impl Work {
    pub(super) fn new() -> Self {
        Self {
            budget: Budget::new(MAX_BYTES),
            entries: Cell::new(0),
            wanted: Cell::new(0),
            // Directories are read through this buffer, and a smaller one could not hold every record.
            buffer: vec![0; MAX_CENTRAL_DIRECTORY_RECORD_SIZE],
        }
    }
}

fn count(counter: &Cell<u64>, what: &'static str, limit: u64) -> Result<(), CatalogError> {
    counter.set(counter.get() + 1);
    if counter.get() > limit { Err(CatalogError::Limit { what, limit }) } else { Ok(()) }
}

/// Adapts a [`Source`] to rawzip.
struct At<'s>(&'s dyn Source);

impl ReaderAt for At<'_> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(offset, buf)
    }
}

/// A range of a source, as a source.
pub(super) struct Part<'s> {
    source: &'s dyn Source,
    start: u64,
    size: u64,
}

impl Source for Part<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let count = buf.len().min(left);
        match self.start.checked_add(offset) {
            Some(offset) => self.source.read_at(offset, &mut buf[..count]),
            None => Ok(0),
        }
    }
}

/// An open archive.
pub(super) struct Archive<'s> {
    source: &'s dyn Source,
    inner: rawzip::ZipArchive<At<'s>>,
}

/// A selected entry.
pub(super) struct Entry {
    /// Path in the archive, invalid UTF-8 replaced.
    pub(super) name: String,
    /// Declared size after inflating, in bytes. Nothing beyond it is inflated.
    pub(super) size: u64,
    method: CompressionMethod,
    encrypted: bool,
    place: rawzip::ZipArchiveEntryWayfinder,
}

/// The bytes of an entry.
pub(super) enum Content<'s> {
    /// The entry is stored without compression.
    Stored(Part<'s>),
    /// The entry is deflated.
    Deflated,
}

impl<'s> Archive<'s> {
    /// Opens the archive `source`, or returns `None` if it has no directory.
    pub(super) fn open(source: &'s dyn Source, work: &mut Work) -> Result<Option<Self>, CatalogError> {
        let located = ZipLocator::new().max_search_space(MAX_COMMENT).locate_in_reader(
            At(source),
            &mut work.buffer,
            source.size(),
        );
        match located {
            Ok(inner) => Ok(Some(Self { source, inner })),
            Err((_, error)) if matches!(error.kind(), ErrorKind::MissingEndOfCentralDirectory) => Ok(None),
            Err((_, error)) => Err(from_zip(error)),
        }
    }

    /// Calls `wanted` with the path of every file, without directories, and returns the entries that it selects, with its results.
    ///
    /// If the archive's directory is truncated, the entries before are returned with the error. Entries with a path that is too long are skipped.
    pub(super) fn entries<T>(
        &self,
        work: &mut Work,
        mut wanted: impl FnMut(&[u8]) -> Option<T>,
    ) -> (Vec<(T, Entry)>, Option<CatalogError>) {
        let (mut found, mut too_long) = (Vec::new(), None);
        let mut entries = self.inner.entries(&mut work.buffer);
        let mut collect = || -> Result<(), CatalogError> {
            while let Some(record) = entries.next_entry().map_err(from_zip)? {
                count(&work.entries, "archive entries", MAX_ENTRIES)?;
                let path = record.file_path();
                let path = path.as_ref();
                if path.ends_with(b"/") {
                    continue;
                }
                let Some(kind) = wanted(path) else { continue };
                count(&work.wanted, "nested archives and manifests", MAX_WANTED)?;
                // A replacement character has three bytes, so the name may be longer than the path.
                let name = String::from_utf8_lossy(path.get(..=MAX_NAME).unwrap_or(path));
                if name.len() > MAX_NAME {
                    too_long = Some(CatalogError::Limit { what: "bytes in a path", limit: MAX_NAME as u64 });
                    continue;
                }
                let entry = Entry {
                    name: name.into_owned(),
                    size: record.uncompressed_size_hint(),
                    method: record.compression_method(),
                    encrypted: record.flags().is_encrypted(),
                    place: record.wayfinder(),
                };
                found.push((kind, entry));
            }
            Ok(())
        };
        let error = collect().err();
        (found, error.or(too_long))
    }

    /// Returns the content of `entry`.
    pub(super) fn content(&self, entry: &Entry) -> Result<Content<'s>, CatalogError> {
        if entry.encrypted {
            return Err(CatalogError::Unsupported("an encrypted entry"));
        }
        match entry.method {
            CompressionMethod::DEFLATE => Ok(Content::Deflated),
            CompressionMethod::STORE => {
                let (start, end) = self.inner.get_entry(entry.place).map_err(from_zip)?.compressed_data_range();
                if start > end || end > self.source.size() {
                    return Err(CatalogError::malformed("zip archive", "an entry is beyond the end of the file"));
                }
                Ok(Content::Stored(Part { source: self.source, start, size: end - start }))
            }
            _ => Err(CatalogError::Unsupported("an entry that is neither stored nor deflated")),
        }
    }

    /// Returns the first bytes of `entry`: at most `limit`, and at most its declared size.
    pub(super) fn head(&self, entry: &Entry, limit: usize, work: &Work) -> Result<Vec<u8>, CatalogError> {
        let limit = usize::try_from(entry.size).unwrap_or(usize::MAX).min(limit);
        let content = self.content(entry)?;
        let place = self.inner.get_entry(entry.place).map_err(from_zip)?;
        match content {
            Content::Stored(_) => read_at_most(place.reader(), limit, &work.budget),
            Content::Deflated => inflate(place.reader(), limit, &work.budget),
        }
    }

    /// Returns all bytes of `entry`; their number must equal the declared size.
    pub(super) fn whole(&self, entry: &Entry, work: &Work) -> Result<Vec<u8>, CatalogError> {
        let size = usize::try_from(entry.size).unwrap_or(usize::MAX);
        let bytes = self.head(entry, size, work)?;
        if bytes.len() < size {
            return Err(CatalogError::malformed("zip archive", "an entry is shorter than it declares"));
        }
        Ok(bytes)
    }
}

fn from_zip(error: rawzip::Error) -> CatalogError {
    match error.into_kind() {
        ErrorKind::IO(error) if error.kind() != io::ErrorKind::UnexpectedEof => CatalogError::Io(error),
        kind => CatalogError::malformed("zip archive", kind.to_string()),
    }
}

//! Walks one layer, at little more than the cost of listing its directories.
//!
//! `getdents64` returns kinds with the names; only character devices, which may be whiteouts, and entries of unknown kind cost a `stat`. Each
//! directory is opened from the root: a handle of an inner directory could have been moved out of the layer.

use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, RawDir};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind};
use crate::layer::{Kind, LayerReader, Metadata};
use crate::marks::DirMarks;

/// Size of the buffer for names, bytes.
const BUFFER: usize = 32 << 10;

/// An entry, borrowed during the visit.
#[derive(Debug)]
pub struct WalkEntry<'a> {
    reader: &'a LayerReader,
    dir: BorrowedFd<'a>,
    path: &'a [u8],
    name: &'a [u8],
    kind: Kind,
    opaque: bool,
}

impl WalkEntry<'_> {
    /// Returns the path from the layer's root, without a leading slash.
    pub fn path(&self) -> &[u8] {
        self.path
    }

    /// Returns the kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns whether it is an opaque directory. Always `false` where marks cannot be read.
    pub fn is_opaque(&self) -> bool {
        self.opaque
    }

    /// Returns the metadata. If the directory is moved during the walk, the metadata may belong to another entry; content is only read from
    /// the root.
    ///
    /// # Errors
    /// When the entry is gone.
    pub fn metadata(&self) -> Result<Metadata, Error> {
        rustix::fs::statat(self.dir, self.name, AtFlags::SYMLINK_NOFOLLOW)
            .map(|stat| Metadata::of(&stat))
            .map_err(|errno| Error::system(errno, "looking at", self.path))
    }

    /// Returns the target of a symbolic link.
    ///
    /// # Errors
    /// When the entry is not a symbolic link.
    pub fn read_link(&self) -> Result<Vec<u8>, Error> {
        self.reader.read_link(self.path)
    }
}

/// Result of a walk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WalkEnd {
    /// Directories that could not be read, each with the reason.
    pub errors: Vec<Error>,
}

/// Names of one directory, sorted.
#[derive(Debug)]
pub(crate) struct Listing {
    names: Vec<u8>,
    /// Start and end in `names`, and the kind.
    entries: Vec<(u32, u32, FileType)>,
}

impl Listing {
    /// Lists `dir`. `path` is for messages.
    pub(crate) fn read(
        dir: BorrowedFd<'_>,
        buffer: &mut [MaybeUninit<u8>],
        limit: u64,
        path: &[u8],
    ) -> Result<Self, Error> {
        let mut listing = Self { names: Vec::new(), entries: Vec::new() };
        let mut raw = RawDir::new(dir, buffer);
        while let Some(entry) = raw.next() {
            let entry = entry.map_err(|errno| Error::system(errno, "listing", path))?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let start = listing.names.len();
            listing.names.extend_from_slice(name);
            let (Ok(start), Ok(end)) = (u32::try_from(start), u32::try_from(listing.names.len())) else {
                return Err(Error::new(ErrorKind::Limit("bytes of names", u64::from(u32::MAX)), "listing", path));
            };
            listing.entries.push((start, end, entry.file_type()));
            if listing.entries.len() as u64 > limit {
                return Err(Error::new(ErrorKind::Limit("entries of a directory", limit), "listing", path));
            }
        }
        let Self { names, entries } = &mut listing;
        let name = |(start, end, _): &(u32, u32, FileType)| &names[*start as usize..*end as usize];
        entries.sort_unstable_by(|a, b| name(a).cmp(name(b)));
        Ok(listing)
    }

    pub(crate) fn get(&self, at: usize) -> Option<(&[u8], FileType)> {
        let (start, end, kind) = self.entries.get(at)?;
        Some((&self.names[*start as usize..*end as usize], *kind))
    }
}

/// A directory that is being walked.
struct Frame {
    dir: OwnedFd,
    listing: Listing,
    marks: DirMarks,
    next: usize,
    /// Bytes of the directory's path.
    path: usize,
}

pub(crate) fn walk(
    reader: &LayerReader,
    visit: &mut dyn FnMut(&WalkEntry<'_>) -> ControlFlow<()>,
) -> Result<WalkEnd, Error> {
    let limits = &reader.options.limits;
    let mut end = WalkEnd::default();
    let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
    let mut path: Vec<u8> = Vec::new();
    let mut met = 0_u64;
    let open = |path: &[u8]| {
        let dir = reader.open_dir(path)?;
        let marks = reader.dir_marks(dir.as_fd(), path)?;
        Ok::<_, Error>((dir, marks))
    };
    let list = |buffer: &mut [MaybeUninit<u8>], dir: &OwnedFd, path: &[u8]| {
        Listing::read(dir.as_fd(), buffer, limits.directory_entries, path)
    };
    let (dir, marks) = open(&path)?;
    let listing = list(&mut buffer, &dir, &path)?;
    let mut frames = vec![Frame { dir, listing, marks, next: 0, path: 0 }];
    while let Some(frame) = frames.last_mut() {
        path.truncate(frame.path);
        let Some((name, file_type)) = frame.listing.get(frame.next) else {
            frames.pop();
            continue;
        };
        frame.next += 1;
        met += 1;
        if met > limits.entries {
            return Err(Error::new(ErrorKind::Limit("entries", limits.entries), "walking", &path));
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        if path.len() > limits.path_bytes {
            let limit = ErrorKind::Limit("bytes of a path", limits.path_bytes as u64);
            end.errors.push(Error::new(limit, "walking", &path));
            continue;
        }
        let kind = match kind(reader, frame, name, file_type, &path) {
            Ok(kind) => kind,
            Err(error) => {
                end.errors.push(error);
                continue;
            }
        };
        // A directory is opened before it is visited, because its marks determine whether it is opaque.
        let inner = (kind == Kind::Dir).then(|| open(&path));
        let opaque = matches!(&inner, Some(Ok((_, marks))) if marks.opaque);
        let entry = WalkEntry { reader, dir: frame.dir.as_fd(), path: &path, name, kind, opaque };
        if visit(&entry).is_break() {
            return Ok(end);
        }
        let depth = frames.len();
        let inner = match inner {
            None => continue,
            // A mount in the layer is not a part of it.
            Some(Err(error)) if error.kind() == ErrorKind::System(Errno::XDEV) => continue,
            Some(_) if depth >= limits.depth => {
                Err(Error::new(ErrorKind::Limit("directories above an entry", limits.depth as u64), "walking", &path))
            }
            Some(inner) => inner.and_then(|(dir, marks)| Ok((list(&mut buffer, &dir, &path)?, dir, marks))),
        };
        match inner {
            Ok((listing, dir, marks)) => frames.push(Frame { dir, listing, marks, next: 0, path: path.len() }),
            Err(error) => end.errors.push(error),
        }
    }
    Ok(end)
}

fn kind(reader: &LayerReader, frame: &Frame, name: &[u8], file_type: FileType, path: &[u8]) -> Result<Kind, Error> {
    let kind = match file_type {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice | FileType::Unknown => {
            let stat = rustix::fs::statat(&frame.dir, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|errno| Error::system(errno, "looking at", path))?;
            Kind::of(&stat)
        }
    };
    let whiteout = kind == Kind::File && frame.marks.xwhiteouts && reader.is_xwhiteout(path);
    Ok(if whiteout { Kind::Whiteout } else { kind })
}

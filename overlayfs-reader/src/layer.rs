//! Reads a single layer.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind};
use crate::limits::Limits;
use crate::marks::{self, DirMarks, MarkNamespace, Marks};
use crate::sys;
use crate::walk::{self, WalkEnd, WalkEntry};

/// An open handle to a layer's root directory.
#[derive(Debug)]
pub struct Layer {
    root: OwnedFd,
}

impl Layer {
    /// Opens a layer's root. The last component of `path` must not be a symbolic link.
    ///
    /// # Errors
    /// When the directory does not exist.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, path, flags, Mode::empty())
            .map_err(|errno| Error::system(errno, "opening", path.as_os_str().as_encoded_bytes()))?;
        Ok(Self { root })
    }

    /// Uses an open handle to a layer's root.
    ///
    /// # Errors
    /// When it is not a directory.
    pub fn from_fd(root: OwnedFd) -> Result<Self, Error> {
        let stat = rustix::fs::fstat(&root).map_err(|errno| Error::system(errno, "looking at", b""))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(Error::new(ErrorKind::WrongKind("a directory"), "looking at", b""));
        }
        Ok(Self { root })
    }
}

impl AsFd for Layer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// Kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// The removal of the path from older layers. Never part of a merged view.
    Whiteout,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
}

impl Kind {
    pub(crate) fn of(stat: &Stat) -> Self {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Self::Dir,
            FileType::Symlink => Self::Symlink,
            FileType::CharacterDevice if stat.st_rdev == 0 => Self::Whiteout,
            FileType::CharacterDevice => Self::CharDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::RegularFile | FileType::Unknown => Self::File,
        }
    }
}

/// Metadata of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Kind of the entry.
    pub kind: Kind,
    /// Permission bits, with set-uid, set-gid and sticky (the low twelve bits of `st_mode`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Allocated size on the disk, bytes.
    pub allocated: u64,
    /// Device number, for devices.
    pub rdev: u64,
}

impl Metadata {
    pub(crate) fn of(stat: &Stat) -> Self {
        Self {
            kind: Kind::of(stat),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            allocated: u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512),
            rdev: stat.st_rdev,
        }
    }

    /// Returns whether a part of the file is not allocated on the disk: true for a stub, and for a sparse file.
    pub fn is_sparse(&self) -> bool {
        self.allocated < self.size
    }
}

/// Options for reading layers.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Namespace of overlay's marks.
    pub namespace: MarkNamespace,
    /// Whether the marks can be read; see [`Marks::detect`].
    pub marks: Marks,
    /// Limits.
    pub limits: Limits,
}

impl Options {
    /// Creates options with the marks that this thread can read now, and the default limits.
    pub fn detect(namespace: MarkNamespace) -> Self {
        Self { namespace, marks: Marks::detect(namespace), limits: Limits::default() }
    }
}

/// A file whose content is in another layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stub;

impl std::fmt::Display for Stub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("its bytes lie in another layer (metacopy)")
    }
}

/// Reads a single layer, with its whiteouts and opaque directories.
#[derive(Debug)]
pub struct LayerReader {
    pub(crate) layer: Layer,
    pub(crate) options: Options,
    /// The kernel treats marked regular files as whiteouts in lower layers only.
    writable: bool,
}

impl LayerReader {
    /// Creates a reader of `layer`.
    pub fn new(layer: Layer, options: Options) -> Self {
        Self { layer, options, writable: false }
    }

    pub(crate) fn writable(layer: Layer, options: Options) -> Self {
        Self { layer, options, writable: true }
    }

    /// Returns whether opaque directories are reported as opaque.
    pub fn marks(&self) -> Marks {
        self.options.marks
    }

    /// Visits every entry, a directory before its content, names in order of their bytes. The root itself is not visited; a mark on it
    /// has no meaning in overlayfs.
    ///
    /// A directory that cannot be read costs its subtree, and the result contains the error.
    ///
    /// # Errors
    /// When the root cannot be read, or a limit on the whole walk is reached.
    pub fn walk(&self, visit: &mut dyn FnMut(&WalkEntry<'_>) -> ControlFlow<()>) -> Result<WalkEnd, Error> {
        walk::walk(self, visit)
    }

    /// Returns the metadata of `path`, without following symbolic links.
    ///
    /// # Errors
    /// When the path does not exist, or has a parent that is not a directory.
    pub fn metadata(&self, path: &[u8]) -> Result<Metadata, Error> {
        Ok(Metadata::of(&self.look(path)?.1))
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// When `path` is not a regular file, or its content is elsewhere: a metacopy stub, or a file without allocated bytes, as a stub whose
    /// mark cannot be read.
    pub fn open(&self, path: &[u8]) -> Result<File, Error> {
        let fail = |errno| Error::system(errno, "opening", path);
        let (handle, stat) = self.look(path)?;
        if Kind::of(&stat) != Kind::File {
            return Err(Error::new(ErrorKind::WrongKind("a regular file"), "opening", path));
        }
        let file = sys::reopen(&handle).map_err(fail)?;
        if Metadata::of(&stat).is_sparse() {
            let stub = self.options.marks == Marks::Readable
                && marks::on_file(file.as_fd(), self.options.namespace, "metacopy");
            if stub {
                return Err(Error::new(
                    ErrorKind::Unsupported("a file whose bytes lie in another layer (metacopy)"),
                    "opening",
                    path,
                ));
            }
            if rustix::fs::seek(&file, SeekFrom::Data(0)) == Err(Errno::NXIO) {
                return Err(Error::new(
                    ErrorKind::Unsupported("a file without data, whose bytes may be in another layer (metacopy),"),
                    "opening",
                    path,
                ));
            }
            rustix::fs::seek(&file, SeekFrom::Start(0)).map_err(fail)?;
        }
        Ok(File::from(file))
    }

    /// Returns whether the regular file at `path` is marked as a stub, for callers that open it later, when marks cannot be read.
    /// [`Self::open`] checks this itself.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn stub(&self, path: &[u8]) -> Result<Option<Stub>, Error> {
        if self.options.marks == Marks::Unreadable || !self.metadata(path)?.is_sparse() {
            return Ok(None);
        }
        match self.open(path) {
            Ok(_) => Ok(None),
            Err(error) if matches!(error.kind(), ErrorKind::Unsupported(_)) => Ok(Some(Stub)),
            Err(error) => Err(error),
        }
    }

    /// Returns the target of a symbolic link, as bytes.
    ///
    /// # Errors
    /// When `path` is not a symbolic link.
    pub fn read_link(&self, path: &[u8]) -> Result<Vec<u8>, Error> {
        let handle = sys::open_beneath(self.layer.as_fd(), path, OFlags::PATH)
            .map_err(|errno| Error::system(errno, "looking up", path))?;
        match rustix::fs::readlinkat(&handle, "", Vec::with_capacity(256)) {
            Ok(target) => Ok(target.into_bytes()),
            // The error of the kernel for an empty name and a handle that is not a symbolic link.
            Err(Errno::NOENT | Errno::INVAL) => {
                Err(Error::new(ErrorKind::WrongKind("a symbolic link"), "reading", path))
            }
            Err(errno) => Err(Error::system(errno, "reading", path)),
        }
    }

    /// Returns the handle below which names of a directory are looked up: its own, or the layer's root.
    pub(crate) fn below<'a>(&'a self, directory: Option<&'a OwnedFd>) -> BorrowedFd<'a> {
        directory.map_or_else(|| self.layer.as_fd(), |directory| directory.as_fd())
    }

    pub(crate) fn look(&self, path: &[u8]) -> Result<(OwnedFd, Stat), Error> {
        sys::look(self.layer.as_fd(), path).map_err(|errno| Error::system(errno, "looking up", path))
    }

    pub(crate) fn open_dir(&self, path: &[u8]) -> Result<OwnedFd, Error> {
        sys::open_beneath(self.layer.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|errno| Error::system(errno, "listing", path))
    }

    pub(crate) fn dir_marks(&self, dir: BorrowedFd<'_>, path: &[u8]) -> Result<DirMarks, Error> {
        if self.options.marks == Marks::Unreadable {
            return Ok(DirMarks::default());
        }
        let marks = marks::of_directory(dir, self.options.namespace, self.options.limits.xattr_bytes, path)?;
        Ok(DirMarks { xwhiteouts: marks.xwhiteouts && !self.writable, ..marks })
    }

    /// Returns whether an empty regular file, in a directory that is marked for such files, is marked as a whiteout.
    pub(crate) fn is_xwhiteout(&self, path: &[u8]) -> bool {
        let Ok((handle, stat)) = self.look(path) else { return false };
        stat.st_size == 0
            && Kind::of(&stat) == Kind::File
            && sys::reopen(&handle).is_ok_and(|file| marks::on_file(file.as_fd(), self.options.namespace, "whiteout"))
    }
}

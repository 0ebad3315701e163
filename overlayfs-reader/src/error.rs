//! Errors, each with the path and the operation.

use std::fmt;

use rustix::io::Errno;

/// Kind of an error.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The path does not exist, or a layer hides it.
    NotFound,
    /// The path is not a regular file, or not a directory, where one is required.
    WrongKind(&'static str),
    /// The path leaves the root, is absolute, or is not normalized.
    InvalidPath,
    /// A feature of overlayfs that this crate refuses, since the bytes in the layer are not the bytes that the mount shows.
    Unsupported(&'static str),
    /// A limit was reached: its name and its value.
    Limit(&'static str, u64),
    /// The kernel returned an error.
    System(Errno),
}

/// An error for one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    doing: &'static str,
    path: Vec<u8>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, doing: &'static str, path: &[u8]) -> Self {
        Self { kind, doing, path: path.to_vec() }
    }

    pub(crate) fn system(errno: Errno, doing: &'static str, path: &[u8]) -> Self {
        let kind = match errno {
            Errno::NOENT => ErrorKind::NotFound,
            Errno::NOTDIR => ErrorKind::WrongKind("a directory"),
            Errno::NAMETOOLONG => ErrorKind::Limit("bytes of a path", 4095),
            errno => ErrorKind::System(errno),
        };
        Self::new(kind, doing, path)
    }

    /// Creates the error for a `path` that does not exist.
    pub fn not_found(path: &[u8]) -> Self {
        Self::new(ErrorKind::NotFound, "looking up", path)
    }

    /// Kind of an error.
    pub fn kind(&self) -> ErrorKind {
        self.kind.clone()
    }

    /// Returns the path, relative to the root, as bytes.
    pub fn path(&self) -> &[u8] {
        &self.path
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}: ", self.doing, self.path.escape_ascii().to_string())?;
        match &self.kind {
            ErrorKind::NotFound => f.write_str("not found"),
            ErrorKind::WrongKind(wanted) => write!(f, "not {wanted}"),
            ErrorKind::InvalidPath => f.write_str("not a path beneath the root"),
            ErrorKind::Unsupported(what) => write!(f, "{what} is not supported"),
            ErrorKind::Limit(what, limit) => write!(f, "more {what} than the limit of {limit}"),
            ErrorKind::System(errno) => write!(f, "{}", std::io::Error::from(*errno)),
        }
    }
}

impl std::error::Error for Error {}

//! Marks: the extended attributes of overlayfs.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities};

use crate::error::{Error, ErrorKind};

/// Namespace of overlayfs' marks. The mount's `userxattr` option selects one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MarkNamespace {
    /// `trusted.overlay.*`
    Trusted,
    /// `user.overlay.*`
    User,
}

/// Whether marks can be read.
///
/// Without CAP_SYS_ADMIN in the initial user namespace, `trusted.*` attributes appear to be absent, without an error. A reader without
/// readable marks reports every opaque directory as a plain one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Marks {
    /// Opaque directories are reported as opaque.
    Readable,
    /// Opaque directories appear as plain ones, and stubs as files.
    Unreadable,
}

impl Marks {
    /// Checks the effective capabilities and the user namespace of this thread. Requires `/proc`.
    pub fn detect(namespace: MarkNamespace) -> Self {
        let capable = || capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
        match namespace {
            MarkNamespace::User => Self::Readable,
            MarkNamespace::Trusted if capable() && in_initial_user_namespace() => Self::Readable,
            MarkNamespace::Trusted => Self::Unreadable,
        }
    }
}

/// Returns whether this process is in the initial user namespace, whose inode number is fixed in the kernel (`PROC_USER_INIT_INO`). The map
/// of IDs does not show it, since a child namespace can map all IDs as well.
fn in_initial_user_namespace() -> bool {
    const PROC_USER_INIT_INO: u64 = 0xEFFF_FFFD;
    rustix::fs::stat("/proc/self/ns/user").is_ok_and(|stat| stat.st_ino == PROC_USER_INIT_INO)
}

/// Marks of a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DirMarks {
    /// `opaque` = `y`: the directory hides its content in older layers.
    pub(crate) opaque: bool,
    /// `opaque` = `x`: the directory may contain whiteouts that are marked regular files.
    pub(crate) xwhiteouts: bool,
}

/// Returns the full name of a mark, as in attribute lists.
fn name(namespace: MarkNamespace, mark: &str) -> String {
    match namespace {
        MarkNamespace::Trusted => format!("trusted.overlay.{mark}"),
        MarkNamespace::User => format!("user.overlay.{mark}"),
    }
}

/// Reads the marks of the directory `dir`, with one call if it has no attributes. `path` is for messages.
pub(crate) fn of_directory(
    dir: BorrowedFd<'_>,
    namespace: MarkNamespace,
    limit: usize,
    path: &[u8],
) -> Result<DirMarks, Error> {
    const DOING: &str = "reading attributes of";
    let mut small = [0; 1024];
    let mut large;
    let names: &[u8] = match rustix::fs::flistxattr(dir, &mut small[..]) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(DirMarks::default()),
        Ok(size) => &small[..size],
        Err(Errno::RANGE) => {
            large = vec![0; limit];
            match rustix::fs::flistxattr(dir, &mut large[..]) {
                Ok(size) => &large[..size],
                Err(Errno::RANGE) => {
                    return Err(Error::new(ErrorKind::Limit("bytes of attribute names", limit as u64), DOING, path));
                }
                Err(errno) => return Err(Error::system(errno, DOING, path)),
            }
        }
        Err(errno) => return Err(Error::system(errno, DOING, path)),
    };
    let prefix = name(namespace, "");
    if !names.split(|byte| *byte == 0).any(|name| name.starts_with(prefix.as_bytes())) {
        return Ok(DirMarks::default());
    }
    let has = |mark: &str| names.split(|byte| *byte == 0).any(|found| found == name(namespace, mark).as_bytes());
    if has("redirect") {
        return Err(Error::new(ErrorKind::Unsupported("a redirected directory (redirect_dir)"), DOING, path));
    }
    let mut value = [0; 8];
    let value = match rustix::fs::fgetxattr(dir, name(namespace, "opaque"), &mut value[..]) {
        Ok(size) => &value[..size],
        Err(_) => &[],
    };
    Ok(DirMarks { opaque: value == b"y", xwhiteouts: value == b"x" })
}

/// Returns whether an open file has `mark`.
pub(crate) fn on_file(file: BorrowedFd<'_>, namespace: MarkNamespace, mark: &str) -> bool {
    let mut value: [u8; 0] = [];
    // With an empty buffer, the kernel returns the size of the value.
    rustix::fs::fgetxattr(file, name(namespace, mark), &mut value[..]).is_ok()
}

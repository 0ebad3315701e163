//! Checks whether paths of the layers are visible in a mounted root.
//!
//! Where opaque marks cannot be read, a container's mounted root shows what its image hides, with one exception: a container that removed a
//! directory and created it again looks exactly like an image with an opaque directory.

use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::io::Errno;

use crate::error::Error;
use crate::layer::Layer;
use crate::sys;

/// Whether a mounted root shows a path of the layers below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// The root shows the path.
    Present,
    /// The root does not show the path, and nothing in the writable layer can be the cause: the layers hide it.
    Absent,
    /// The root does not show the path, but the writable layer may be the cause.
    Inconclusive,
}

/// Checks `paths` in the mounted root `merged`; `upper` is its writable layer, if it has one. A missing path is conclusive only if neither the
/// path nor any ancestor of it exists in the writable layer.
pub fn survives(merged: BorrowedFd<'_>, upper: Option<&Layer>, paths: &[Vec<u8>]) -> Vec<Result<Survival, Error>> {
    let fail = |errno, path: &[u8]| Error::system(errno, "looking for", path);
    let one = |path: &[u8]| match sys::look(merged, path) {
        Ok(_) => Ok(Survival::Present),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
            let Some(upper) = upper else { return Ok(Survival::Absent) };
            // If any ancestor exists, the topmost one exists.
            let top = path.split(|byte| *byte == b'/').next().unwrap_or_default();
            match sys::look(upper.as_fd(), top) {
                Ok(_) => Ok(Survival::Inconclusive),
                Err(Errno::NOENT) => Ok(Survival::Absent),
                Err(errno) => Err(fail(errno, path)),
            }
        }
        Err(errno) => Err(fail(errno, path)),
    };
    paths.iter().map(|path| one(path)).collect()
}

//! Does a path survive in a mounted root?
//!
//! Where opaque marks cannot be read, a container's own mounted root tells what its image hides, with one caution: a container
//! that removed a directory and made it anew looks exactly like an image with an opaque one.

use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::io::Errno;

use crate::error::Error;
use crate::layer::Layer;
use crate::sys;

/// What a mounted root says of a path of the layers below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// It is there.
    Present,
    /// It is not there, and nothing in the writable layer can be why: the layers themselves hide it.
    Absent,
    /// It is not there, but the writable layer may be why.
    Inconclusive,
}

/// What the mounted root `merged` says of `paths`; `upper` is its writable layer, if it has one. Absence is conclusive for the
/// layers only where neither the path nor any ancestor of it exists in the writable layer.
pub fn survives(merged: BorrowedFd<'_>, upper: Option<&Layer>, paths: &[Vec<u8>]) -> Vec<Result<Survival, Error>> {
    let fail = |errno, path: &[u8]| Error::system(errno, "looking for", path);
    let one = |path: &[u8]| match sys::look(merged, path) {
        Ok(_) => Ok(Survival::Present),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
            let Some(upper) = upper else { return Ok(Survival::Absent) };
            // If any ancestor is there, so is the topmost.
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

//! The protocol between parent and worker: a job in, frames out.

use std::io::{self, Read, Write};

use overlayfs_reader::MarkNamespace;
use serde::{Deserialize, Serialize};

use super::cage::Cage;
use super::politeness::Manner;

/// Maximum size of a job, bytes: an image configuration and some more.
pub(super) const MAX_JOB: usize = 8 << 20;

/// Maximum size of an answer, bytes: the inventory of a layer with some million files.
pub(super) const MAX_ANSWER: usize = 256 << 20;

/// Maximum size of any other frame, bytes: a group of paths.
const MAX_MESSAGE: usize = 8 << 20;

/// A worker's job. Handles are passed beside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Job {
    /// Read one layer; the only handle is its root.
    Layer {
        /// Namespace of its overlay marks; `None` if they must not be read.
        marks: Option<Namespace>,
        /// Paths that killed earlier workers.
        caution: Caution,
        /// Limits and priority.
        manner: Manner,
    },
    /// Read paths in the merged view; the handles are the layers' roots, newest first.
    Stack {
        /// Namespace of the overlay marks.
        marks: Namespace,
        /// Paths that killed earlier workers.
        caution: Caution,
        /// Priority.
        manner: Manner,
        /// Paths to read.
        paths: Vec<Vec<u8>>,
    },
    /// Check which paths a mounted root shows; the handles are the root and, if there is one, the writable layer.
    Survive {
        /// Paths to check.
        paths: Vec<Vec<u8>>,
    },
    /// Parse an image configuration.
    Config {
        /// Bytes of the configuration.
        bytes: Vec<u8>,
        /// Whether to return the texts of its history.
        texts: bool,
    },
    /// Attempt every forbidden action; the only handle is a directory.
    Selftest {
        /// Files outside that directory, which must not open: `(description, absolute path)`.
        outside: Vec<(String, Vec<u8>)>,
    },
}

/// Precautions against paths that kill a worker.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Caution {
    /// Paths that killed a worker and are skipped.
    pub(super) skip: Vec<Vec<u8>>,
    /// Announce each path alone, since one path of a group has killed a worker.
    pub(super) one_by_one: bool,
    /// Read only package databases and `os-release`, since other paths have killed as many workers as are allowed.
    pub(super) essentials_only: bool,
}

impl Caution {
    /// Returns the number of paths announced together. Each announcement wakes the parent, which costs as much as reading a small file.
    pub(super) fn group(&self) -> usize {
        if self.one_by_one { 1 } else { 64 }
    }
}

/// [`MarkNamespace`], serializable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Namespace {
    Trusted,
    User,
}

impl From<MarkNamespace> for Namespace {
    fn from(namespace: MarkNamespace) -> Self {
        match namespace {
            MarkNamespace::Trusted => Self::Trusted,
            MarkNamespace::User => Self::User,
        }
    }
}

impl From<Namespace> for MarkNamespace {
    fn from(namespace: Namespace) -> Self {
        match namespace {
            Namespace::Trusted => Self::Trusted,
            Namespace::User => Self::User,
        }
    }
}

/// A message of a worker.
#[derive(Debug)]
pub(super) enum Frame {
    /// The worker has entered its cage. The first frame.
    Caged(Started),
    /// The worker is about to parse these paths, in this order.
    Paths(Vec<Vec<u8>>),
    /// Work of reading a layer. Precedes the answer.
    Work(Work),
    /// The answer. The last frame.
    Answer(Vec<u8>),
    /// The job failed, with the reason. The last frame.
    Failed(String),
    /// The input exceeds a limit, which the text names. The last frame.
    TooLarge(String),
}

/// Properties of a started worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Its cage.
    pub cage: Cage,
    /// Whether it can read overlay's marks.
    pub marks: bool,
}

/// Work that a worker did for one layer, as the worker counted it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Paths in the layer.
    pub paths: u64,
    /// Files that a cataloger read.
    pub evidence_files: u64,
    /// Bytes read of these files.
    pub evidence_bytes: u64,
}

impl Frame {
    fn tag(&self) -> u8 {
        match self {
            Self::Caged(_) => 1,
            Self::Paths(_) => 2,
            Self::Answer(_) => 3,
            Self::Failed(_) => 4,
            Self::TooLarge(_) => 5,
            Self::Work(_) => 6,
        }
    }

    /// Writes the frame: tag, length, payload.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let encoded;
        let payload: &[u8] = match self {
            Self::Caged(started) => {
                encoded = postcard::to_stdvec(started).map_err(io::Error::other)?;
                &encoded
            }
            Self::Paths(paths) => {
                encoded = postcard::to_stdvec(paths).map_err(io::Error::other)?;
                &encoded
            }
            Self::Work(work) => {
                encoded = postcard::to_stdvec(work).map_err(io::Error::other)?;
                &encoded
            }
            Self::Answer(bytes) => bytes,
            Self::Failed(message) | Self::TooLarge(message) => message.as_bytes(),
        };
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        // One write for a small frame.
        if payload.len() <= 4096 {
            let mut frame = vec![self.tag()];
            frame.extend_from_slice(&length.to_le_bytes());
            frame.extend_from_slice(payload);
            return out.write_all(&frame);
        }
        out.write_all(&[self.tag()])?;
        out.write_all(&length.to_le_bytes())?;
        out.write_all(payload)
    }

    /// Reads a frame; `None` at the end of the stream. An answer's bytes are written into `answer`, and the returned frame has none.
    pub(super) fn read(input: &mut impl Read, answer: &mut impl Write) -> io::Result<Option<Self>> {
        let mut tag = [0];
        if input.read(&mut tag)? == 0 {
            return Ok(None);
        }
        let mut length = [0; 4];
        input.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_ANSWER {
            return Err(io::Error::other(format!(
                "the response of a worker has {length} bytes, more than the limit of {MAX_ANSWER}"
            )));
        }
        if tag == [3] {
            return match io::copy(&mut input.take(length as u64), answer)? {
                copied if copied == length as u64 => Ok(Some(Self::Answer(Vec::new()))),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
        if length > MAX_MESSAGE {
            return Err(io::Error::other(format!(
                "a message of a worker has {length} bytes, more than the limit of {MAX_MESSAGE}"
            )));
        }
        // The buffer grows with the bytes that arrive, since the length is not trusted.
        let mut payload = Vec::new();
        if input.take(length as u64).read_to_end(&mut payload)? != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Some(match tag {
            [1] => Self::Caged(postcard::from_bytes(&payload).map_err(io::Error::other)?),
            [2] => Self::Paths(postcard::from_bytes(&payload).map_err(io::Error::other)?),
            [4] => Self::Failed(String::from_utf8_lossy(&payload).into_owned()),
            [5] => Self::TooLarge(String::from_utf8_lossy(&payload).into_owned()),
            [6] => Self::Work(postcard::from_bytes(&payload).map_err(io::Error::other)?),
            [tag] => return Err(io::Error::other(format!("unknown message of a worker ({tag})"))),
        }))
    }
}

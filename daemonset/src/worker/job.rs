//! What a worker is asked, and how it answers: frames on a pipe.

use std::io::{self, Read, Write};

use overlayfs_reader::MarkNamespace;
use serde::{Deserialize, Serialize};

use super::cage::Cage;
use super::politeness::Manner;

/// Most bytes of a job: an image configuration, and a little.
pub(super) const MAX_JOB: usize = 8 << 20;

/// Most bytes of one answer: the inventory of a layer of some million files.
pub(super) const MAX_ANSWER: usize = 256 << 20;

/// Most bytes of anything else that it says: the names of some paths.
const MAX_MESSAGE: usize = 8 << 20;

/// What a worker does. Handles travel beside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Job {
    /// Read one layer; its root is the one handle.
    Layer {
        /// Where its overlay marks lie.
        marks: Namespace,
        /// What earlier workers died of.
        caution: Caution,
        /// What is too much, and how politely it is read.
        manner: Manner,
    },
    /// Read paths in the merged view; the layers' roots are the handles, newest first.
    Stack {
        /// Where the overlay marks lie.
        marks: Namespace,
        /// What earlier workers died of.
        caution: Caution,
        /// How politely they are read.
        manner: Manner,
        /// What to read.
        paths: Vec<Vec<u8>>,
    },
    /// Say which paths a mounted root shows; the handles are the root and, if there is one, the writable layer.
    Survive {
        /// What to look for.
        paths: Vec<Vec<u8>>,
    },
    /// Parse an image configuration.
    Config {
        /// Its bytes.
        bytes: Vec<u8>,
        /// Whether the texts of its history are wanted.
        texts: bool,
    },
    /// Try every forbidden act; the one handle is a directory.
    Selftest {
        /// Files outside that directory, which must not open: `(what, absolute path)`.
        outside: Vec<(String, Vec<u8>)>,
    },
}

/// What is known of the paths that kill a worker.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Caution {
    /// Paths that killed one, and are not to be parsed again.
    pub(super) skip: Vec<Vec<u8>>,
    /// Name each path alone: one of several that were named together has killed a worker.
    pub(super) one_by_one: bool,
}

impl Caution {
    /// How many paths are named at once. Each naming wakes the parent, which costs as much as reading a small file.
    pub(super) fn group(&self) -> usize {
        if self.one_by_one { 1 } else { 64 }
    }
}

/// [`MarkNamespace`], as it travels.
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

/// Something that a worker says.
#[derive(Debug)]
pub(super) enum Frame {
    /// It is in its cage now; first of all.
    Caged(Started),
    /// It is about to parse these paths, one after the other.
    Paths(Vec<Vec<u8>>),
    /// The answer; last of all.
    Answer(Vec<u8>),
    /// It could not do the job; last of all.
    Failed(String),
    /// What it should read is beyond a limit, which it names; last of all.
    TooLarge(String),
}

/// How a worker began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// The cage that it is in.
    pub cage: Cage,
    /// Whether it can read overlay's marks.
    pub marks: bool,
}

impl Frame {
    fn tag(&self) -> u8 {
        match self {
            Self::Caged(_) => 1,
            Self::Paths(_) => 2,
            Self::Answer(_) => 3,
            Self::Failed(_) => 4,
            Self::TooLarge(_) => 5,
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

    /// Reads a frame; `None` at the end. An answer's bytes go into `answer` as they come, and the frame returned has none.
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
        // Grows with what really arrives: a length is only a claim.
        let mut payload = Vec::new();
        if input.take(length as u64).read_to_end(&mut payload)? != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Some(match tag {
            [1] => Self::Caged(postcard::from_bytes(&payload).map_err(io::Error::other)?),
            [2] => Self::Paths(postcard::from_bytes(&payload).map_err(io::Error::other)?),
            [4] => Self::Failed(String::from_utf8_lossy(&payload).into_owned()),
            [5] => Self::TooLarge(String::from_utf8_lossy(&payload).into_owned()),
            [tag] => return Err(io::Error::other(format!("unknown message of a worker ({tag})"))),
        }))
    }
}

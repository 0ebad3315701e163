//! What the process that holds containerd's socket and the one that does not say to each other.

use std::path::PathBuf;

use outcrop_proto::Container;
use serde::{Deserialize, Serialize};

use super::describe::Pin;

/// A snapshotter that containerd has loaded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Snapshotter {
    /// Its name: `overlayfs`.
    pub name: String,
    /// Where it keeps its storage on the host; remote ("proxy") snapshotters may not say.
    pub root: Option<PathBuf>,
}

/// A question; the next may come when the last one's answer has ended.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Request {
    /// Answered with any number of [`Reply::Container`], then [`Reply::End`].
    List { namespaces: Vec<String> },
    /// Answered with [`Reply::Same`].
    Recheck(Pin),
    /// Answered with [`Reply::Snapshotters`].
    Snapshotters,
    /// Answered with [`Reply::End`]; from then on a [`Reply::Changed`] may come between answers.
    Watch,
}

/// An answer, or a part of it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Reply {
    /// Said once, unasked: connected, locked down, and it is containerd that answers.
    Ready { socket: String, version: String },
    /// One container of a list. One a message, so that memory is bounded by the largest.
    Container(Box<Container>),
    /// The list's end.
    End,
    /// Whether the container still stands on the same snapshots.
    Same(bool),
    /// The snapshotters.
    Snapshotters(Vec<Snapshotter>),
    /// Said unasked, between answers: containers started or ended since the last time that this was said.
    Changed,
    /// The question failed, in words for the user. It ends the answer.
    Failed(String),
}

//! What the process that holds containerd's socket and the one that does not say to each other.

use std::path::PathBuf;

use outcrop_proto::Container;
use serde::{Deserialize, Serialize};

use super::describe::Pin;
use crate::usage::Usage;

/// A snapshotter that containerd has loaded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Snapshotter {
    /// Its name: `overlayfs`.
    pub name: String,
    /// Where it keeps its storage on the host; remote ("proxy") snapshotters may not say.
    pub root: Option<PathBuf>,
}

/// A container that was started, as containerd told of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Start {
    /// The containerd namespace.
    pub containerd_namespace: String,
    /// The container's ID.
    pub id: String,
    /// The image's name, where that was told.
    pub image: String,
}

/// A question; the next may come when the last one's answer has ended.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Request {
    /// Answered with any number of [`Reply::Container`], then [`Reply::End`].
    List { namespaces: Vec<String> },
    /// The same, but nothing is asked about each: [`Request::Describe`] does that.
    Plan,
    /// Answered with [`Reply::Container`], or [`Reply::End`] where it is gone.
    Describe(Box<Container>),
    /// Answered with [`Reply::Same`].
    Recheck(Pin),
    /// Answered with [`Reply::Same`]: whether the snapshots below it still stand, whatever became of the container.
    Stand(Pin),
    /// Answered with [`Reply::Usage`].
    Usage,
    /// Answered with [`Reply::Snapshotters`].
    Snapshotters,
    /// Answered with [`Reply::End`]; from then on a [`Reply::Changed`] may come between answers.
    Watch,
}

/// An answer, or a part of it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Reply {
    /// Said once, unasked: connected, locked down in this cage, and it is containerd that answers.
    Ready { socket: String, version: String, cage: String },
    /// One container of a list. One a message, so that memory is bounded by the largest.
    Container(Box<Container>),
    /// The list's end.
    End,
    /// Whether the container still stands on the same snapshots.
    Same(bool),
    /// The snapshotters.
    Snapshotters(Vec<Snapshotter>),
    /// What the process uses.
    Usage(Usage),
    /// Said unasked, between answers: containers started or ended since the last time that this was said. Those that
    /// started are named, since one may be gone before anybody asks.
    Changed(Vec<Start>),
    /// The question failed, in words for the user. It ends the answer.
    Failed(String),
}
